"""Stage 3, DPO on ranking rows: against the right reference, on both answers, with all that a stage does."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop, build_ranked, history, losses, stage_row

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.reference import reference_of
from stcr_plugin.frameworks.refusals import refuse_other_rows, refuse_trl, refuse_what_cannot_work
from stcr_plugin.frameworks.trl.grpo import importable as trl_importable
from stcr_plugin.registry.manifest import dataset_rows

IGNORE = -100
SETS = "ranked_order,ranked_frame"
QUICK = (
    *(f"dataset={SETS}", "max_steps=2", "stcr.evaluate=null", "per_device_train_batch_size=2"),
    *("learning_rate=1.0e-3", "warmup_ratio=0"),  # the first step warms up otherwise, by nothing
)
LORA = ("finetuning_type=lora", "lora_rank=4", "lora_target=all", "freeze_vision_tower=true", "lora_dropout=0.2")
FAST = (*LORA, "stcr.evaluate=null", "learning_rate=5.0e-2", "max_steps=2")


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    """TRL may be imported here before LLaMA-Factory."""
    trl_importable()


@pytest.fixture(scope="module")
def stocked(shared_workshop: Workshop) -> Workshop:
    """The shared workshop with a build of preferences beside its own."""
    build_ranked(shared_workshop.registry)
    return shared_workshop


@pytest.fixture(scope="module")
def parent(stocked: Workshop) -> Path:
    """A LoRA stage over the tiny base, with so large steps that it answers otherwise than its base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return stocked.train("cot", "ranked_parent", *FAST, recipe="stage1_cot")


def stage3(workshop: Workshop, out: str, model: Path, *more: str) -> Path:
    return workshop.train("cot", out, *QUICK, *more, recipe="stage3_prefer", model=model)


@contextmanager
def batches_seen() -> Iterator[list[dict[str, Any]]]:
    """The batches that DPO computes log-probabilities of, each model's in turn."""
    from llamafactory.train.dpo.trainer import CustomDPOTrainer

    seen: list[dict[str, Any]] = []
    forward = CustomDPOTrainer.concatenated_forward

    def watched(self: Any, model: Any, batch: dict[str, Any], *more: Any, **options: Any) -> Any:
        seen.append(dict(batch))
        return forward(self, model, batch, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CustomDPOTrainer, "concatenated_forward", watched)
        yield seen


def assert_starts_at_its_reference(run: Path) -> None:
    assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses(run)[1] != losses(run)[0]
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert history(run, key)[0][1] == pytest.approx(0, abs=1e-4)


# ---- the reference ----


FULL = (
    "stcr.starts_from=model",
    "stcr.evaluate={dataset: tiny, split: dev, pairs: 2, max_new_tokens: 4}",
    *("save_strategy=steps", "save_steps=1"),
)


@pytest.fixture(scope="module")
def full(stocked: Workshop) -> tuple[Path, list[dict[str, Any]]]:
    """A stage of full training, measured, with its first checkpoint kept; and the batches that it saw."""
    with pytest.MonkeyPatch.context() as patch, batches_seen() as seen:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return stage3(stocked, "ranked_full", stocked.base, *FULL), seen


@pytest.mark.slow(seconds=5)
def test_full_training_starts_at_its_reference_and_its_record_names_it(
    stocked: Workshop, full: tuple[Path, list[dict[str, Any]]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = full
    assert_starts_at_its_reference(run)
    record = stage_row(run)
    digest = artefacts.model_digest(stocked.base)
    assert record["reference"] == {"model": str(stocked.base), "digest": digest, "how": "a second model"}
    assert (record["finished"], record["datasets"]) == (True, SETS.split(","))
    assert [row["when"] for row in record["figures"]] == ["before", "after"]
    events = EventAccumulator(str(run))
    events.Reload()
    names = {"train/loss", "train/rewards/accuracies", "train/stcr_pair_accuracy", "train/stcr_chain_step"}
    assert names <= set(events.Tags()["scalars"])


@pytest.mark.slow(seconds=1)
def test_both_answers_have_the_same_changed_pictures_and_logits_of_their_tail(
    full: tuple[Path, list[dict[str, Any]]],
) -> None:
    import torch

    _, seen = full
    assert len(seen) == 4  # two steps, each with the trained model and the reference
    for batch in seen:
        preferred, rejected = batch["pixel_values"].chunk(2)
        assert torch.equal(preferred, rejected)
        assert batch["labels"].shape[1] == batch["logits_to_keep"] < batch["input_ids"].shape[1]
    assert torch.equal(seen[0]["pixel_values"], seen[1]["pixel_values"])
    assert not torch.equal(seen[0]["pixel_values"], seen[2]["pixel_values"])


@pytest.mark.slow(seconds=5)
def test_losses_are_those_of_all_logits(
    workshop: Workshop, stocked: Workshop, full: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stcr_plugin.logits.keep_tail", lambda trainer: None)
    whole = stage3(stocked, "ranked_whole", stocked.base, "stcr.starts_from=model")
    one, two = zip(losses(whole), losses(full[0]), strict=True)  # of the first step, and after it changed the weights
    assert one[0] == pytest.approx(one[1], rel=1e-6)
    assert two[0] == pytest.approx(two[1], rel=1e-5)


@pytest.mark.slow(seconds=5)
def test_a_killed_stage_continues_to_the_same_weights_against_the_same_reference(
    workshop: Workshop, stocked: Workshop, full: tuple[Path, list[dict[str, Any]]]
) -> None:
    run, again = full[0], stocked.root / "ranked_again"
    shutil.copytree(run, again)
    record = stage_row(run)
    artefacts.write_json(again / "stage.json", {**record, "finished": False})
    stage3(stocked, again.name, stocked.base, *FULL)
    assert stage_row(again)["model_digest"] == record["model_digest"]
    assert losses(again) == losses(run)


@pytest.mark.slow(seconds=5)
@pytest.mark.parametrize("way", ["stack", "merge", "continue"])
def test_an_adapter_starts_at_its_reference(workshop: Workshop, stocked: Workshop, parent: Path, way: str) -> None:
    """Dropout is off, and a continued adapter compares with the stage that the recipe names."""
    named = [f"ref_model={parent}"] if way == "continue" else []
    run = stage3(stocked, f"ranked_{way}", parent, *LORA, f"stcr.adapter={way}", *named)
    assert_starts_at_its_reference(run)
    record = stage_row(run)
    how = "a second model" if named else "its adapter switched off"
    digest = artefacts.model_digest(parent)
    assert record["reference"] == {"model": str(parent), "digest": digest, "how": how}
    assert (record["parent_stage"], record["parent_digest"], record["adapter"]["way"]) == ("stage1", digest, way)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_two_ranks_start_at_the_reference(stocked: Workshop, kind: str) -> None:
    deepspeed = [f"deepspeed={RECIPES / 'deepspeed' / 'zero2.json'}"] if kind == "zero2" else []
    more = (*QUICK, "stcr.starts_from=model", "report_to=none", "per_device_train_batch_size=1", *deepspeed)
    overrides = stocked.overrides("cot", f"ranked_{kind}", stocked.base, *more)
    command = ["stcr", "train", RECIPES / "stage3_prefer.yaml", *overrides]
    done = stocked.fork(command, timeout=600, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_starts_at_its_reference(stocked.root / f"ranked_{kind}")


def recipe(parent: Path | str = "m", way: str | None = None, **keys: Any) -> Recipe:
    block = {"name": "stage3", "mode": "cot", "adapter": way, "starts_from": "stage" if way else "model"}
    base = {"stage": "dpo", "do_train": True, "model_name_or_path": str(parent), "output_dir": "out"}
    more = {"template": "stcr_qwen2_vl", "dataset": "d", "finetuning_type": "lora" if way else "full"}
    return Recipe.of({**base, **more, **keys, "stcr": block})


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter over a base, as far as files tell."""
    import numpy as np
    from safetensors.numpy import save_file

    artefacts.write_json(tmp_path / "base" / "config.json", {})
    artefacts.write_json(
        tmp_path / "low" / artefacts.ADAPTER_CONFIG, {"base_model_name_or_path": str(tmp_path / "base"), "r": 8}
    )
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "low" / "adapter_model.safetensors")
    return tmp_path / "low"


def test_a_continued_adapter_without_a_named_reference_is_refused(adapter: Path) -> None:
    from stcr_plugin.frameworks.adapters import start_of

    continued = recipe(adapter, "continue")
    with pytest.raises(ConfigError, match=r"stcr\.adapter: continues the adapter of .*stack or merge, or name the ref"):
        reference_of(continued, start_of(continued))
    theirs = recipe(adapter.parent / "base", adapter_name_or_path=str(adapter), finetuning_type="lora")
    with pytest.raises(ConfigError, match=r"adapter_name_or_path: continues the adapter of"):
        reference_of(theirs, start_of(theirs))
    free = recipe(adapter, "continue", pref_loss="orpo")
    assert reference_of(free, start_of(free)) is None
    named = recipe(adapter, "continue", ref_model=str(adapter))
    found = reference_of(named, start_of(named))
    assert found is not None
    assert found.keys == {"ref_model": str(adapter.parent / "base"), "ref_model_adapters": str(adapter)}
    stacked = recipe(adapter, "stack")
    shared = reference_of(stacked, start_of(stacked))
    assert shared is not None
    assert (shared.model, shared.copied) == (str(adapter), False)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"pref_loss": "hinge"}, "pref_loss: hinge, for which LLaMA-Factory computes the sigmoid loss"),
        ({"pref_loss": "ipo"}, "pref_loss: ipo"),
        ({"pref_loss": "kto_pair"}, "pref_loss: kto_pair"),
        ({"stage": "kto"}, "stage: kto: LLaMA-Factory leaves the pictures' positions out"),
        ({"stage": "grpo"}, "stage: grpo: LLaMA-Factory has no trainer for it.*train with --backend trl"),
        ({"stage": "rm"}, "stage: 'rm', but STCR's stages are supervised, or train on ranking rows"),
    ],
)
def test_what_would_train_on_something_else_is_refused_in_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        refuse_what_cannot_work(recipe(**keys))
    assert "\n" not in str(refusal.value)


def test_the_authors_mask_and_trl_are_refused() -> None:
    masked = Recipe.of({**recipe().keys, "stcr": {"name": "stage3", "mode": "cot", "mask": "authors"}})
    with pytest.raises(ConfigError, match=r"stcr\.mask: authors is the mask of supervised samples"):
        refuse_what_cannot_work(masked)
    with pytest.raises(ConfigError, match="TRL's DPOTrainer keeps one row of a sample's patches"):
        refuse_trl(recipe())
    refuse_trl(recipe(stage="sft"))
    for loss in (None, "sigmoid", "orpo", "simpo"):
        refuse_what_cannot_work(recipe(pref_loss=loss))


def test_rows_of_another_stage_are_refused(stocked: Workshop) -> None:
    where = {"dataset_dir": str(stocked.registry)}
    with pytest.raises(ConfigError, match="tiny_cot has one answer to each question, which stage: dpo cannot"):
        refuse_other_rows(recipe(dataset="ranked_order,tiny_cot", **where))
    with pytest.raises(ConfigError, match=r"ranked_order has two answers .* set stage: dpo"):
        refuse_other_rows(recipe(stage="sft", dataset="ranked_order", **where))
    refuse_other_rows(recipe(dataset=SETS, **where))


# ---- tokens, and the preflight ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ranked_order", "ranked_frame", "ranked_verdict"])
def test_exactly_both_answers_and_their_end_of_turn_are_supervised(stocked: Workshop, name: str) -> None:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    from stcr_plugin.frameworks.llamafactory import experiment
    from stcr_plugin.frameworks.recipe import read_recipe

    overrides = stocked.overrides("cot", "ranked_read", stocked.base, f"dataset={name}", "report_to=none")
    args = read_recipe(RECIPES / "stage3_prefer.yaml", overrides)
    del args["stcr"]
    args["overwrite_output_dir"] = True
    model_args, data_args, training_args, _, _ = get_train_args(args)
    module = load_tokenizer(model_args)
    tokenizer = module["tokenizer"]
    made = get_template_and_fix_tokenizer(tokenizer, data_args)
    experiment.through(lambda *_: None)(dict(args), [])
    rows = get_dataset(made, model_args, data_args, training_args, stage="rm", **module)["train_dataset"]
    built = list(dataset_rows(stocked.registry, name))
    assert len(rows) == len(built) >= 24
    for row, source in zip(rows, built, strict=True):
        prompts = []
        for answer in ("chosen", "rejected"):
            labels, ids = row[f"{answer}_labels"], row[f"{answer}_input_ids"]
            supervised = [label for label in labels if label != IGNORE]
            assert tokenizer.decode(supervised) == f"{source[answer]['content']}<|im_end|>"
            assert ids[-len(supervised) :] == supervised
            prompts.append(ids[: -len(supervised)])
        assert prompts[0] == prompts[1]
        text = tokenizer.decode(prompts[0])
        assert "img1: <|vision_start|>" in text
        assert "img2: <|vision_start|>" in text
        assert [Path(path).parts[-2:] for path in row["images"]] == [Path(path).parts[-2:] for path in source["images"]]


@pytest.mark.slow
def test_preflight_counts_both_answers_and_names_the_reference(stocked: Workshop) -> None:
    from stcr_plugin.preflight.checks import preflight
    from stcr_plugin.preflight.plan import Asked
    from stcr_plugin.preflight.verdict import Report, Verdict

    def check(*more: str) -> Report:
        where = ("dataset=ranked_order", "stcr.starts_from=model", "stcr.evaluate.dataset=tiny", *more)
        values = stocked.overrides("cot", "ranked_checked", stocked.base, *where)
        return preflight(str(RECIPES / "stage3_prefer.yaml"), values, Asked())

    def of(report: Report, check: str) -> Verdict:
        return next(one for one in report.verdicts if one.check == check)

    full, lora = check(), check(*LORA)
    for report in (full, lora):
        assert not [one for one in report.verdicts if one.level == "error"], report.verdicts
    assert "24; 48 answers, two of each row, tokenised" in of(full, "rows").problem
    assert "exactly both answers and their end of turn" in of(full, "supervised").problem
    assert (of(full, "steps").figures["samples"], of(full, "steps").figures["batch"]) == (16, 4)
    assert of(full, "reference").problem.endswith(f"{stocked.base}: a second model")
    assert of(lora, "reference").problem.endswith(": its adapter switched off")
    parameters = of(full, "model").figures["parameters"]
    assert of(full, "memory").figures["reference_gib"] == pytest.approx(4 * parameters / 2**30)
    assert of(lora, "memory").figures["reference_gib"] == 0
    alone = check("pref_loss=orpo")
    assert "compares with no other model" in of(alone, "reference").problem
    assert of(alone, "memory").figures["loss_gib"] == pytest.approx(of(full, "memory").figures["loss_gib"] / 2)
    ratio = of(full, "time").figures["operations_per_sample"] / of(alone, "time").figures["operations_per_sample"]
    assert ratio == pytest.approx(4 / 3, rel=0.02)  # forward and twice that backward, and the reference forward
    refused = check("dataset=tiny_cot")
    assert any("has one answer to each question" in one.problem for one in refused.verdicts if one.level == "error")
