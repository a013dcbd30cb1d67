"""A stage that goes on from a LoRA adapter, by each of the three ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop

from stcr_plugin import artefacts
from stcr_plugin.engines.loading import adapter_base, assembled, load
from stcr_plugin.errors import ChainError, ConfigError
from stcr_plugin.frameworks.adapters import CONFIG, Start, chain, settled, start_of
from stcr_plugin.frameworks.recipe import Recipe

LORA = ("finetuning_type=lora", "lora_rank=4", "lora_target=all", "freeze_vision_tower=true", "stcr.evaluate=null")
FAST = (*LORA, "learning_rate=5.0e-2", "max_steps=2")
WAYS = ("continue", "merge", "stack")


@pytest.fixture(scope="module")
def parent(shared_workshop: Workshop) -> Path:
    """A stage of LoRA over the tiny base, with so large steps that it answers otherwise than its base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return shared_workshop.train("cot", "adapters1", *FAST, recipe="stage1_cot")


def stage2(workshop: Workshop, parent: Path, out: str, way: str, *more: str) -> Path:
    options = (*FAST, f"stcr.adapter={way}", *more)
    return workshop.train("weak", out, *options, recipe="stage2_weak", model=parent)


def record_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "stage.json").read_text(encoding="utf-8"))
    return found


def logits(model: Any, processor: Any, workshop: Workshop) -> Any:
    """Of two real samples, [tokens, vocabulary] each, as numbers in float32."""
    import torch
    from PIL import Image

    rows = json.loads((workshop.registry / "tiny" / "tiny_weak.json").read_text(encoding="utf-8"))[:2]
    found, training = [], model.training
    model.eval()
    for row in rows:
        pictures = [Image.open(workshop.registry / image) for image in row["images"]]
        text = row["messages"][0]["content"].replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
        with torch.no_grad():
            inputs = processor(text=[text], images=pictures, return_tensors="pt")
            found.append(model(**inputs, use_cache=False).logits.float()[0])
    model.train(training)
    return torch.cat(found)


def logits_at(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, event: str, found: list[Any]) -> None:
    """Have the logits of the live model put into `found` when a stage comes to `event`."""
    from transformers import AutoProcessor

    from stcr_plugin.frameworks import stage_record

    processor = AutoProcessor.from_pretrained(workshop.base, local_files_only=True)
    original = getattr(stage_record.Record, event)

    def measured(self: Any, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        found.append(logits(model, processor, workshop))
        original(self, args, state, control, model=model, **more)

    monkeypatch.setattr(stage_record.Record, event, measured)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_stage_starts_with_the_answers_of_its_parent_and_is_loaded_as_it_was_trained(
    workshop: Workshop, parent: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The second is wrong for `stack` where the adapter names the model at the bottom, as LLaMA-Factory has it."""
    import torch
    from peft import PeftModel

    model, processor = load(parent)
    merged = logits(model, processor, workshop)
    base = assembled(workshop.base, torch.float32)
    before = logits(base, processor, workshop)
    unmerged = logits(PeftModel.from_pretrained(base, str(parent)), processor, workshop)

    started: list[Any] = []
    ended: list[Any] = []
    logits_at(workshop, monkeypatch, "on_train_begin", started)
    logits_at(workshop, monkeypatch, "on_train_end", ended)
    run = stage2(workshop, parent, f"from_{way}", way)
    assert torch.equal(started[0], unmerged if way == "continue" else merged)
    assert (unmerged - merged).abs().max() < 1e-4 < 1e-2 < (before - merged).abs().max()

    record = record_of(run)
    assert record["parent"] == str(parent)
    assert record["parent_digest"] == record_of(parent)["model_digest"]
    assert record["base"] == str(workshop.base)
    assert record["base_digest"] == artefacts.model_digest(workshop.base)
    assert record["adapter"]["way"] == way
    assert record["adapter"]["adapters"] == [str(parent)]

    model, processor = load(run)
    torch.testing.assert_close(logits(model, processor, workshop), ended[0], atol=1e-4, rtol=1e-4)
    below = {"continue": workshop.base, "stack": parent, "merge": Path(record["adapter"]["merged"] or "")}[way]
    assert adapter_base(run) == below


def merge(parent: Path) -> Path:
    return Path(settled(start_from(parent, "merge")).merged or "")


@pytest.mark.slow(seconds=1)
def test_merged_model_is_kept_and_another_training_has_another(parent: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(parent, tmp_path / "stage1", ignore=shutil.ignore_patterns("merged-*")))
    first = merge(copy)
    assert first.name.endswith(record_of(parent)["model_digest"][:8])
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert merge(copy) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    (copy / "README.md").write_text("another card", encoding="utf-8")
    assert merge(copy) == first
    config = artefacts.read_json(copy / CONFIG)
    artefacts.write_json(copy / CONFIG, config | {"lora_alpha": 1})
    assert merge(copy) != first


@pytest.mark.slow(seconds=1)
def test_merging_writes_whole_or_nothing(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    copy = Path(shutil.copytree(parent, tmp_path / "stage1", ignore=shutil.ignore_patterns("merged-*")))

    def cut(self: Any, folder: Path, **_: Any) -> None:
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", cut)
        with pytest.raises(KeyboardInterrupt):
            merge(copy)
    assert not list(copy.glob("*merged-*"))
    whole = merge(copy)
    assert list(copy.glob("merged-*")) == [whole]
    load(whole)


@pytest.mark.slow(seconds=1)
def test_merged_in_bfloat16_is_as_close_as_its_rounding(workshop: Workshop, parent: Path) -> None:
    import torch

    exact = assembled(parent, torch.float32).state_dict()
    rounded = assembled(parent, torch.bfloat16).state_dict()
    for name, weight in exact.items():
        # The base is rounded to 8 bits, then the sum once more.
        torch.testing.assert_close(rounded[name].float(), weight, rtol=2**-7, atol=2**-8 * float(weight.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stack", "continue"])
def test_chain_of_three_adapters_starts_and_loads_by_all_of_them(
    workshop: Workshop, parent: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    import torch

    second = stage2(workshop, parent, f"second_{way}", "stack")
    model, processor = load(second)
    started: list[Any] = []
    logits_at(workshop, monkeypatch, "on_train_begin", started)
    third = stage2(workshop, second, f"third_{way}", way, "stcr.name=stage3")
    torch.testing.assert_close(started[0], logits(model, processor, workshop), atol=1e-4, rtol=1e-4)
    adapters = (parent, second) if way == "continue" else (parent, second, third)
    assert chain(third) == (str(workshop.base), tuple(map(str, (*adapters[: -1 if way == "stack" else 1], third))))
    assert record_of(third)["base"] == str(workshop.base)


@pytest.mark.slow
def test_whole_model_then_adapter_then_adapter(workshop: Workshop) -> None:
    whole = workshop.train("forward", "whole", "stcr.evaluate=null", "max_steps=2", recipe="stage0_prior")
    first = workshop.train("cot", "over_whole", *FAST, recipe="stage1_cot", model=whole)
    second = stage2(workshop, first, "over_both", "stack")
    assert chain(second) == (str(whole), (str(first), str(second)))
    assert record_of(second)["parent_stage"] == "stage1"
    load(second)


@pytest.mark.slow
def test_full_training_goes_on_from_a_merged_adapter(workshop: Workshop, parent: Path) -> None:
    run = stage2(workshop, parent, "full_after", "merge", "finetuning_type=full")
    assert adapter_base(run) is None
    assert record_of(run)["adapter"]["way"] == "merge"


@pytest.mark.slow
def test_unmodified_framework_does_the_same(workshop: Workshop, parent: Path) -> None:
    ours = stage2(workshop, parent, "door", "stack")
    theirs = workshop.root / "theirs"
    recipe = RECIPES / "stage2_weak.yaml"
    options = workshop.overrides("weak", theirs.name, parent, *FAST, "stcr.adapter=stack")
    done = workshop.fork(["llamafactory-cli", "train", recipe, *options])
    assert done.returncode == 0, done.stderr[-2000:]
    assert record_of(theirs)["model_digest"] == record_of(ours)["model_digest"]
    told = workshop.run(
        ["stcr", "eval", "--model", theirs, "--dataset", "tiny", "--limit", "2", "--registry", workshop.registry]
    )
    assert told.returncode == 0, told.stderr[-2000:]


@pytest.mark.slow
def test_checkpoint_of_a_stack_names_the_adapter_below(workshop: Workshop, parent: Path) -> None:
    run = stage2(workshop, parent, "saved", "stack", "save_strategy=steps", "save_steps=1")
    for folder in (run, run / "checkpoint-1"):
        assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == str(parent)


# ---- refused before anything is loaded ----


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The configuration of an adapter over a base, and no more."""
    for name, base in (("low", tmp_path / "base"), ("high", tmp_path / "low")):
        artefacts.write_json(tmp_path / name / CONFIG, {"base_model_name_or_path": str(base), "r": 8, "lora_alpha": 16})
    for name in ("base", "other"):
        artefacts.write_json(tmp_path / name / "config.json", {"name": name})
    return tmp_path / "low"


def start_from(parent: Path, way: str | None, stage: bool = True, **more: Any) -> Start:
    """The start of a recipe on `parent` with `stcr.adapter: way`."""
    block = {"name": "next", "mode": "cot", "adapter": way, "starts_from": "stage" if stage else "model"}
    keys = {"model_name_or_path": str(parent), "finetuning_type": "lora", **more}
    return start_of(Recipe.of({**keys, "stcr": block}))


def test_an_adapter_without_a_way_is_told_the_three(adapter: Path) -> None:
    with pytest.raises(ConfigError, match=r"stcr\.adapter to one of continue: .*; merge: .*; stack: "):
        start_from(adapter, None)
    with pytest.raises(ConfigError, match=r"stcr\.adapter to one of"):
        start_from(adapter.parent / "base", None, adapter_name_or_path=str(adapter))


def test_another_makers_adapter_is_left_to_the_framework(adapter: Path) -> None:
    start = start_from(adapter.parent / "base", None, False, adapter_name_or_path=str(adapter))
    assert start.keys == {}
    assert start.below is None


@pytest.mark.parametrize(
    ("way", "keys", "below"),
    [("continue", ("low", "high", False), "low"), ("stack", ("low", "high", True), "high")],
)
def test_keys_name_all_adapters_from_the_lowest(adapter: Path, way: str, keys: tuple[Any, ...], below: str) -> None:
    root = adapter.parent
    start = start_from(root / "high", way)
    assert start.keys == {
        "model_name_or_path": str(root / "base"),
        "adapter_name_or_path": f"{root / 'low'},{root / 'high'}",
        "create_new_adapter": keys[2],
    }
    assert start.below == str(root / below)


def test_a_whole_model_needs_no_way(adapter: Path) -> None:
    with pytest.raises(ConfigError, match=r"stcr\.adapter: merge.*remove stcr\.adapter"):
        start_from(adapter.parent / "base", "merge")


@pytest.mark.parametrize(
    ("way", "more", "words"),
    [
        ("continue", {"finetuning_type": "full"}, "finetuning_type: full"),
        ("stack", {"finetuning_type": "full"}, "finetuning_type: full"),
        ("continue", {"lora_rank": 16}, r"lora_rank: 16.*has 8"),
        ("stack", {"create_new_adapter": False}, "create_new_adapter: False contradicts"),
        ("stack", {"quantization_bit": 4}, r"quantization_bit: 4.*merge"),
        ("stack", {"deepspeed": str(RECIPES / "deepspeed" / "zero3.json")}, r"ZeRO-3.*merge"),
        ("stack", {"adapter_name_or_path": "one,two"}, "holds no adapter"),
    ],
)
def test_what_a_way_cannot_do_is_told(adapter: Path, way: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start_from(adapter, way, **more)


def test_continuing_one_adapter_works_where_merging_cannot(adapter: Path) -> None:
    assert start_from(adapter, "continue", quantization_bit=4, lora_rank=8).below == str(adapter.parent / "base")
    with pytest.raises(ConfigError, match="quantization_bit"):
        start_from(adapter.parent / "high", "continue", quantization_bit=4)


def test_another_base_than_the_adapters_is_refused(adapter: Path) -> None:
    named = {"adapter_name_or_path": str(adapter)}
    with pytest.raises(ChainError, match=r"other is not the model that .*low was trained on"):
        start_from(adapter.parent / "other", "stack", **named)
    assert start_from(adapter.parent / "base", "stack", **named).adapters == (str(adapter),)


def test_an_adapter_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    artefacts.write_json(tmp_path / CONFIG, {"base_model_name_or_path": str(tmp_path)})
    with pytest.raises(ChainError, match="is its own base"):
        chain(tmp_path)
