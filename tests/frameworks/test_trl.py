"""The TRL backend: LLaMA-Factory's tokens, labels, losses and weights, from the same recipe and data."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_qwen3_vl import write_qwen3_vl
from tiny_stage import DATA, RECIPES, Workshop, losses, stage_row

from stcr_plugin.artefacts import model_digest
from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.frameworks import launch
from stcr_plugin.frameworks import trl as door
from stcr_plugin.frameworks.mask import AuthorsMaskCollator
from stcr_plugin.frameworks.recipe import Recipe, read_recipe
from stcr_plugin.frameworks.stage_run import run_stage
from stcr_plugin.frameworks.trl import TemporalCollator, dataset
from stcr_plugin.frameworks.trl import sft as backend
from stcr_plugin.frameworks.trl.keys import sorted_keys, trainer_config
from stcr_plugin.frameworks.trl.sft import through_trl
from stcr_plugin.records import is_finished
from stcr_plugin.registry.data_config import DataConfig

IGNORE = -100
# Builds whose samples are in Chinese, and in several Parquet shards with their pictures in tar files.
OTHERS = {
    "name": "other",
    "frames": {"format": "png", "store": "tar"},
    "shard_episodes": 4,
    "datasets": {
        "zh": {"split": "train", "kind": "cot", "languages": ["zh"]},
        "weak_zh": {"split": "train", "kind": "weak", "languages": ["zh"], "format": "parquet"},
    },
}
GENERAL = [
    ([("user", "<image>What is this?"), ("assistant", "A kettle.")], ["everyday/kettle.png"]),
    ([("user", "Say a colour."), ("assistant", "\nBlue."), ("user", "Another?"), ("assistant", "Red.")], []),
    (
        [("user", "Here:\n<image>\nWhich is red?"), ("assistant", "It."), ("user", "<image>Now?"), ("assistant", "")],
        ["everyday/kettle.png", "everyday/wide.png"],
    ),
    ([("system", "Be brief."), ("user", "Which? <image><image>"), ("assistant", "img1")], ["everyday/wide.png"] * 2),
]
ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "turns", "images": "shown"},
    "tags": {
        "role_tag": "who",
        "content_tag": "what",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
FAMILIES = {"stcr_qwen2_vl": "base", "stcr_qwen3_vl": "qwen3"}


@pytest.fixture(scope="module")
def stocked(shared_workshop: Workshop) -> Workshop:
    """The shared workshop with a tiny Qwen3-VL, another build, and general data whose columns and tags differ."""
    from stcr_plugin.registry.build import build

    registry = shared_workshop.registry
    write_qwen3_vl(shared_workshop.root / "qwen3", shared_workshop.base)
    build(from_mapping(DataConfig, {**copy.deepcopy(DATA), **OTHERS}, "other"), registry)
    (registry / "everyday").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, size in {"kettle": (70, 90), "wide": (300, 40)}.items():
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(registry / "everyday" / f"{name}.png")
    rows = [
        {"turns": [{"who": role, "what": text} for role, text in turns], "shown": images} for turns, images in GENERAL
    ]
    (registry / "everyday.json").write_text(json.dumps(rows * 4), encoding="utf-8")
    path = registry / "dataset_info.json"
    info = json.loads(path.read_text(encoding="utf-8")) | {"everyday": {"file_name": "everyday.json", **ENTRY}}
    path.write_text(json.dumps(info), encoding="utf-8")
    return shared_workshop


def args_of(workshop: Workshop, dataset: str, out: str, *more: str, recipe: str = "weak_only") -> dict[str, Any]:
    """A tiny stage's recipe as both backends get it, without its `stcr:` block and our callbacks."""
    where = (f"dataset={dataset}", f"model_name_or_path={workshop.base}", "overwrite_output_dir=true", "report_to=none")
    args = read_recipe(RECIPES / f"{recipe}.yaml", [*workshop.overrides("weak", out, workshop.base), *where, *more])
    del args["stcr"]
    return args


def llamafactorys(workshop: Workshop, dataset: str, template: str, rows: int = 1000) -> tuple[Any, Any]:
    """The first rows as LLaMA-Factory's own loader makes them, and its collator."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from transformers import AutoModelForImageTextToText

    from stcr_plugin.frameworks.llamafactory import experiment

    model = workshop.root / FAMILIES[template]
    more = (f"model_name_or_path={model}", f"template={template}", "overwrite_cache=true", f"max_samples={rows}")
    args = args_of(workshop, dataset, "read", *more)
    model_args, data_args, training_args, _, _ = get_train_args(args)
    module = load_tokenizer(model_args)
    made = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    experiment.through(lambda *_: None)(dict(args), [])
    found = get_dataset(made, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    collator = SFTDataCollatorWith4DAttentionMask(
        template=made, model=AutoModelForImageTextToText.from_pretrained(model), pad_to_multiple_of=8, **module
    )
    return found, collator


def ours(workshop: Workshop, template: str, **more: Any) -> TemporalCollator:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(workshop.root / FAMILIES[template])
    return TemporalCollator(processor, image_max_pixels=7056, media_dir=workshop.registry, **more)


# ---- tokens ----


@pytest.mark.parametrize("template", FAMILIES)
@pytest.mark.parametrize("name", ["tiny_cot", "tiny_weak", "other_zh", "everyday"])
@pytest.mark.slow
def test_every_row_has_the_tokens_and_the_supervised_positions_of_llamafactory(
    stocked: Workshop, template: str, name: str
) -> None:
    theirs, _ = llamafactorys(stocked, name, template, rows=16)
    rows = list(dataset(stocked.registry, name))[:16]
    found = [ours(stocked, template).encoded(row) for row in rows]
    assert len(found) == len(theirs) == 16
    for row, one, other in zip(rows, found, theirs, strict=True):
        assert one["input_ids"] == other["input_ids"]
        assert one["labels"] == other["labels"]
        assert [Path(path).name for path in row["images"]] == [Path(path).name for path in other["images"] or ()]


@pytest.mark.slow
@pytest.mark.parametrize("template", FAMILIES)
def test_parquet_shards_give_llamafactorys_rows(stocked: Workshop, template: str) -> None:
    theirs, _ = llamafactorys(stocked, "other_weak_zh", template)
    rows = list(dataset(stocked.registry, "other_weak_zh"))
    made = [ours(stocked, template).encoded(row) for row in rows]
    # LLaMA-Factory takes the shards of a folder in whatever order the disk has them.
    found = sorted((one["images"], one["input_ids"], one["labels"]) for one in made)
    assert found == sorted(zip(theirs["images"], theirs["input_ids"], theirs["labels"], strict=True))
    assert len(found) == 100


@pytest.mark.parametrize("template", FAMILIES)
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [1, 5]], ids=["every kind", "text alone"])
def test_a_batch_is_that_of_llamafactorys_collator(stocked: Workshop, template: str, chosen: list[int]) -> None:
    theirs, collate = llamafactorys(stocked, "everyday", template, rows=8)
    rows = dataset(stocked.registry, "everyday")
    expected = collate([dict(theirs[row]) for row in chosen])
    found = ours(stocked, template)([rows[row] for row in chosen])
    assert found.keys() - {"mm_token_type_ids"} == expected.keys() - {"position_ids", "rope_deltas"}
    for key in found.keys() - {"mm_token_type_ids"}:
        assert torch.equal(found[key], expected[key]), key
    assert (found["labels"] != IGNORE).any()
    assert not ((found["labels"] != IGNORE) & (found["attention_mask"] == 0)).any()


def test_the_authors_mask_gives_the_labels_that_it_gives_with_llamafactory(stocked: Workshop) -> None:
    theirs, collate = llamafactorys(stocked, "tiny_weak", "stcr_qwen2_vl", rows=3)
    rows = dataset(stocked.registry, "tiny_weak")
    expected = AuthorsMaskCollator(collate)([dict(theirs[row]) for row in range(3)])["labels"]
    collator = ours(stocked, "stcr_qwen2_vl")
    found = AuthorsMaskCollator(collator)([collator.encoded(rows[row]) for row in range(3)])["labels"]
    assert torch.equal(found, expected)
    assert (found != IGNORE).sum() > (collator([rows[row] for row in range(3)])["labels"] != IGNORE).sum()


def test_a_picture_that_was_replaced_by_one_of_another_size_is_named(stocked: Workshop) -> None:
    collator = ours(stocked, "stcr_qwen2_vl")
    row = collator.encoded(dataset(stocked.registry, "everyday")[0])
    with pytest.raises(DataError, match=r"has another size than when .* set overwrite_cache: true"):
        collator([{**row, "images": [Image.new("RGB", (30, 30))]}])


# ---- what is refused ----


def test_a_sample_over_the_cutoff_stops_before_training_and_names_what_it_needs(stocked: Workshop) -> None:
    collator = ours(stocked, "stcr_qwen2_vl")
    length = max(map(len, collator.tokenised(dataset(stocked.registry, "tiny_weak")[:])["input_ids"]))
    says = rf"a sample: takes {length} tokens but cutoff_len is {length - 1}.*set cutoff_len to {length}"
    with pytest.raises(DataError, match=says):
        through_trl(args_of(stocked, "tiny_weak", "over_cutoff", f"cutoff_len={length - 1}"), [])
    assert not (stocked.root / "over_cutoff").exists()
    rows = list(dataset(stocked.registry, "tiny_weak"))
    collator.cutoff_len = length - 1
    with pytest.raises(DataError, match="which would cut its pictures or its answer"):
        collator(rows)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("lora_rnk", 4, "lora_rnk: the TRL backend does not know it; did you mean 'lora_rank'? Else remove it"),
        ("max_step", 4, "did you mean 'max_steps'?"),
        ("use_galore", True, "use_galore: the TRL backend does not know it; "),
        ("streaming", True, "streaming: True is not supported by the TRL backend; its rows are read from the disk"),
        ("packing", True, "TRL packs no samples with pictures"),
        ("quantization_bit", 4, "quantization_bit: 4 is not supported by the TRL backend; remove it, or train with"),
        ("trust_remote_code", True, "code in a model's folder is never run"),
        ("finetuning_type", "freeze", "the recipe: finetuning_type: Input should be 'full' or 'lora'"),
        ("interleave_probs", "0.5,0.5", "interleave_probs is a share for each dataset"),
        ("eval_strategy", "sometimes", "the recipe: sometimes is not a valid IntervalStrategy"),
        ("deepspeed", "recipes/deepspeed/zero2.json", "set FORCE_TORCHRUN=1 in the environment"),
        ("template", "stcr_qwen3_vl", "chat template opens a conversation with '<|im_start|>system"),
    ],
)
def test_a_key_that_it_cannot_follow_is_refused_by_name(
    stocked: Workshop, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, says: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError) as caught:
        through_trl({**args_of(stocked, "tiny_weak", "refused"), key: value}, [])
    assert says in str(caught.value)
    assert not (stocked.root / "refused").exists()


def test_what_the_recipe_is_silent_about_is_as_in_llamafactory(workshop: Workshop) -> None:
    from llamafactory.hparams import get_train_args

    silent = {"model_name_or_path": str(workshop.base), "dataset": "tiny_weak", "output_dir": "x", "do_train": True}
    args = {**silent, "stage": "sft", "template": "stcr_qwen2_vl", "dataset_dir": str(workshop.registry)}
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(args))
    keys = sorted_keys(args)
    theirs = {**vars(model_args), **vars(data_args), **vars(finetuning_args)}
    mine = {**vars(keys.model), **vars(keys.data)}
    for key in mine.keys() - {"dataset", "dataset_dir", "media_dir", "use_reentrant_gc", "lora_alpha", "lora_target"}:
        assert mine[key] == theirs[key], key
    config = trainer_config(keys)
    differ = {
        name
        for name, value in vars(training_args).items()
        if not name.startswith(("_", "generation", "ray", "fp8", "profile", "trackio"))
        and name in vars(config)
        and str(getattr(config, name)) != str(value)
    }
    assert differ <= {"accelerator_config", "deepspeed_plugin", "distributed_state"}


@pytest.mark.parametrize(
    ("turns", "images", "says"),
    [
        (
            [("assistant", "Hello.")],
            [],
            "bad, row 0: its turns are ['assistant']; alternate user and assistant",
        ),
        ([("user", "Hello.")], [], "and end with the latter"),
        ([("user", "<image>Who?"), ("assistant", "I.")], ["../secret.png"], "row 0: ../secret.png: leaves its folder"),
        ([("user", "Who?"), ("assistant", "I.")], ["everyday/kettle.png"], "has 1 pictures and 0 `<image>`"),
        ([("user", "<image>?"), ("assistant", "I.")], ["everyday/gone.png"], "gone.png: cannot be read"),
        ([("user", "<image>?"), ("assistant", "I.")], ["everyday.json"], "everyday.json: cannot be read as a picture"),
    ],
)
def test_a_broken_row_is_named(stocked: Workshop, turns: list[tuple[str, str]], images: list[str], says: str) -> None:
    rows = [{"turns": [{"who": role, "what": text} for role, text in turns], "shown": images}]
    (stocked.registry / "bad.json").write_text(json.dumps(rows), encoding="utf-8")
    path = stocked.registry / "dataset_info.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(before) | {"bad": {"file_name": "bad.json", **ENTRY}}), encoding="utf-8")
    try:
        with pytest.raises(DataError) as caught:
            ours(stocked, "stcr_qwen2_vl").tokenised(dataset(stocked.registry, "bad", cache=False)[:])
    finally:
        path.write_text(before, encoding="utf-8")
    assert says in str(caught.value)


def test_an_unknown_dataset_names_the_nearest(stocked: Workshop) -> None:
    with pytest.raises(ConfigError, match="has no dataset 'tiny_weka'; did you mean 'tiny_weak'"):
        dataset(stocked.registry, "tiny_weka")


def test_ranks_of_torchrun_train_with_trl_too(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    monkeypatch.setattr(launch, "_run", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(backend, "run_stage", lambda *_, **__: pytest.fail("torchrun was to start it"))
    recipe = str(RECIPES / "stage1_cot.yaml")
    assert main(["train", recipe, "--backend", "trl", "max_steps=1"]) == 0
    assert commands[0][-6:] == ["stcr_plugin.cli", "train", "--backend", "trl", recipe, "max_steps=1"]


# ---- losses ----


def both(workshop: Workshop, dataset: str, out: str, *more: str) -> dict[str, Path]:
    """The same stage through either backend, callbacks and augmentation of the `stcr:` block included."""
    from llamafactory.train import tuner

    from stcr_plugin.frameworks.llamafactory import experiment

    run_exp = getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)
    runs = {"trl": through_trl, "llamafactory": experiment.through(run_exp)}
    for name, trained in runs.items():
        overrides = workshop.overrides("weak", f"{out}-{name}", workshop.base, f"dataset={dataset}", *more)
        args = read_recipe(RECIPES / "weak_only.yaml", [*overrides, "report_to=none", "stcr.evaluate.dataset=tiny"])
        run_stage(Recipe.of(args), None, trained, backend=name)
    return {name: workshop.root / f"{out}-{name}" for name in runs}


LORA = ("finetuning_type=lora", "stcr.evaluate=null")


@pytest.fixture(scope="module")
def adapter(stocked: Workshop) -> Path:
    """A stage of LoRA through TRL, to go on from. (It is LLaMA-Factory's: "lora" in SAME.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        overrides = stocked.overrides("weak", "first", stocked.base, *LORA, "report_to=none")
        run_stage(Recipe.of(read_recipe(RECIPES / "weak_only.yaml", overrides)), None, through_trl, backend="trl")
    return stocked.root / "first"


def weights(run: Path) -> bytes:
    (path,) = run.glob("*.safetensors")
    return path.read_bytes()


SAME = {
    "with augmentation": ("tiny_weak",),
    "text alone, one picture, several turns, mixed": (
        "tiny_cot,everyday",
        "mix_strategy=interleave_over",
        "interleave_probs='0.5,0.5'",
        "cutoff_len=1024",
        "val_size=4",
        "stcr.evaluate=null",
    ),
    "accumulated": ("everyday", "gradient_accumulation_steps=2", "cutoff_len=1024", "stcr.evaluate=null"),
    "frozen tower and projector": (
        "tiny_weak",
        "freeze_vision_tower=true",
        "freeze_multi_modal_projector=true",
        "disable_gradient_checkpointing=false",
        "stcr.evaluate=null",
    ),
    "lora": ("tiny_weak", "finetuning_type=lora", "lora_dropout=0.1", "stcr.evaluate=null"),
    "lora on the tower, recomputed": (
        "tiny_weak",
        "finetuning_type=lora",
        "lora_target='qkv,q_proj'",
        "disable_gradient_checkpointing=false",
        "use_reentrant_gc=true",
        "stcr.evaluate=null",
    ),
    "authors' mask": ("tiny_weak", "stcr.mask=authors", "stcr.evaluate=null"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if k < 1 else pytest.param(name, marks=pytest.mark.slow) for k, name in enumerate(SAME)]
)
def test_losses_and_weights_are_those_of_llamafactory_to_the_last_bit(stocked: Workshop, name: str) -> None:
    runs = both(stocked, SAME[name][0], re.sub(r"\W+", "-", name), *SAME[name][1:])
    assert len(losses(runs["trl"])) == 4
    assert losses(runs["trl"]) == losses(runs["llamafactory"])
    assert weights(runs["trl"]) == weights(runs["llamafactory"])
    one, other = (stage_row(runs[backend]) for backend in ("trl", "llamafactory"))
    assert (one["backend"], other["backend"]) == ("trl", "llamafactory")
    assert [row["pair_accuracy"] for row in one["figures"]] == [row["pair_accuracy"] for row in other["figures"]]


@pytest.mark.slow
def test_a_qwen3_vl_has_the_losses_of_llamafactory_to_the_last_bit(stocked: Workshop) -> None:
    model = f"model_name_or_path={stocked.root / 'qwen3'}"
    runs = both(stocked, "tiny_cot", "qwen3", model, "template=stcr_qwen3_vl")
    assert len(losses(runs["trl"])) == 4
    assert losses(runs["trl"]) == losses(runs["llamafactory"])
    assert weights(runs["trl"]) == weights(runs["llamafactory"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["continue", "merge", "stack"])
def test_a_chain_of_adapters_goes_on_as_with_llamafactory(stocked: Workshop, adapter: Path, way: str) -> None:
    more = (*LORA, f"model_name_or_path={adapter}", f"stcr.adapter={way}")
    runs = both(stocked, "tiny_weak", f"then-{way}", *more)
    assert losses(runs["trl"]) == losses(runs["llamafactory"])
    assert weights(runs["trl"]) == weights(runs["llamafactory"])


@pytest.mark.slow
@pytest.mark.skipif(
    "STCR_NEWER_TRL" not in os.environ,
    reason="LLaMA-Factory caps trl: set STCR_NEWER_TRL to a folder of `pip install --no-deps --target FOLDER trl`",
)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_newer_trl_has_the_same_losses(workshop: Workshop, tuning: str) -> None:
    found = {}
    for out, path in {"older": "", "newer": os.environ["STCR_NEWER_TRL"]}.items():
        more = (f"finetuning_type={tuning}", "gradient_accumulation_steps=2", "preprocessing_num_workers=null")
        overrides = workshop.overrides("cot", f"{out}-{tuning}", workshop.base, *more)
        command = ["stcr", "train", RECIPES / "weak_only.yaml", "--backend", "trl", *overrides]
        done = workshop.run(command, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr[-3000:]
        found[out] = losses(workshop.root / f"{out}-{tuning}")
    assert len(found["newer"]) == 4
    assert found["newer"] == pytest.approx(found["older"], rel=1e-6)


# ---- a chain, through the command ----


@pytest.mark.slow
def test_two_stages_chain_by_their_records_through_the_command(workshop: Workshop) -> None:
    def stage(recipe: str, data: str, out: str, model: Path, *more: str) -> dict[str, Any]:
        overrides = workshop.overrides(data, out, model, "max_steps=2", *more)
        assert main(["train", str(RECIPES / f"{recipe}.yaml"), "--backend", "trl", *overrides]) == 0
        return stage_row(workshop.root / out)

    one = stage("stage1_cot", "cot", "trl-chain1", workshop.base)
    two = stage("stage2_weak", "weak", "trl-chain2", workshop.root / "trl-chain1", "stcr.evaluate.every_steps=1")
    assert (one["backend"], one["finished"], two["finished"]) == ("trl", True, True)
    assert (one["parent_stage"], two["parent_stage"]) == (None, "stage1")
    assert two["parent_digest"] == one["model_digest"] == model_digest(workshop.root / "trl-chain1")
    assert [row["when"] for row in two["figures"]] == ["before", "step 1", "after"]
    assert [data["build"] for data in two["data"]] == ["tiny"]
    history = json.loads((workshop.root / "trl-chain2" / "trainer_state.json").read_text(encoding="utf-8"))
    trained = [row for row in history["log_history"] if "loss" in row]
    assert len(trained) == 2
    assert all("mean_token_accuracy" in row for row in trained)  # ours did not empty TRL's averages
    assert not any("mean_token_accuracy" in row for row in history["log_history"] if "stcr_gap_points" in row)


@pytest.mark.slow
def test_a_sample_whose_picture_is_gone_is_replaced_where_the_recipe_says_so(stocked: Workshop) -> None:
    rows = json.loads((stocked.registry / "everyday.json").read_text(encoding="utf-8"))[:1] * 3
    rows += [{**rows[0], "shown": ["everyday/gone.png"]}] * 3
    (stocked.registry / "holed.json").write_text(json.dumps(rows), encoding="utf-8")
    path = stocked.registry / "dataset_info.json"
    info = json.loads(path.read_text(encoding="utf-8")) | {"holed": {"file_name": "holed.json", **ENTRY}}
    path.write_text(json.dumps(info), encoding="utf-8")

    def stage(out: str, *more: str) -> Path:
        tiny = ("dataset=holed", "stcr.evaluate=null", "max_steps=2", "report_to=none", *more)
        run_stage(
            Recipe.of(read_recipe(RECIPES / "weak_only.yaml", stocked.overrides("weak", out, stocked.base, *tiny))),
            None,
            through_trl,
            backend="trl",
        )
        return stocked.root / out

    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        stage("holed-error")
    run = stage("holed-replaced", "stcr.bad_pictures=replace", "stcr.bad_pictures_at_most=0.9")
    record = stage_row(run)
    assert record["finished"]
    assert {Path(row["picture"].split(":")[0]).name for row in record["bad_pictures"]} == {"gone.png"}
    assert len(losses(run)) == 2


class PowerCutError(Exception):
    pass


@pytest.mark.slow
def test_a_killed_stage_goes_on_from_its_checkpoint_to_the_same_weights(workshop: Workshop) -> None:
    from transformers import TrainerCallback

    class Cut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise PowerCutError

    def stage(out: str, *callbacks: Any) -> Path:
        more = ("save_strategy=steps", "save_steps=2", "stcr.evaluate=null", "report_to=none")
        args = read_recipe(RECIPES / "weak_only.yaml", workshop.overrides("weak", out, workshop.base, *more))
        run_stage(Recipe.of(args), list(callbacks), through_trl, backend="trl")
        return workshop.root / out

    whole = stage("trl-whole")
    with pytest.raises(PowerCutError):
        stage("trl-killed", Cut())
    assert not is_finished(workshop.root / "trl-killed")
    resumed = stage("trl-killed")
    assert losses(resumed) == losses(whole)
    assert model_digest(resumed) == model_digest(whole)


# ---- the door for scripts ----


@pytest.mark.slow
def test_the_script_in_the_packages_text_trains_and_measures(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "\n".join(line[4:] for line in (door.__doc__ or "").splitlines() if line.startswith("    "))
    changes = {
        '"runs/tabletop/stage1"': repr(str(workshop.base)),
        '"data_registry"': repr(str(workshop.registry)),
        '"stcr"': '"tiny"',
        '"stcr_weak"': '"tiny_weak"',
        '"runs/own"': repr(str(workshop.root / "own")),
        "max_steps=400": "max_steps=1, report_to='none', per_device_train_batch_size=2",
        ":80]": ":2]",
    }
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    exec(script, {})
    assert capsys.readouterr().out.count("'pair_accuracy'") == 2
