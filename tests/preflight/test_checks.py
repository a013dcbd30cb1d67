"""What breaks a training is told before it starts, by the name of the check that found it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_stage import Workshop

from stcr_plugin import artefacts
from stcr_plugin.preflight.checks import CHECKS
from stcr_plugin.preflight.verdict import Report
from stcr_plugin.report.preflight_words import line, text

Check = Callable[..., Report]


@dataclass(frozen=True)
class Broken:
    """What a case breaks: `overrides` are made in the folder of a test, of which the check `name` must tell `words`."""

    name: str
    words: str
    overrides: Callable[[Workshop, Path], list[str]]
    level: str = "error"
    asked: tuple[tuple[str, object], ...] = ()


def told(report: Report, level: str) -> dict[str, list[str]]:
    """Check -> its verdicts of this level, as they are printed."""
    found: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.level == level:
            found.setdefault(verdict.check, []).append(line(verdict))
    return found


def own_registry(workshop: Workshop, folder: Path) -> Path:
    return Path(shutil.copytree(workshop.registry, folder / "registry"))


def a_picture(registry: Path, dataset: str = "tiny_dev") -> Path:
    rows = json.loads((registry / "tiny" / f"{dataset}.json").read_text())
    return registry / str(rows[0]["images"][1])


def cut_picture(workshop: Workshop, folder: Path) -> list[str]:
    registry = own_registry(workshop, folder)
    picture = a_picture(registry)
    picture.write_bytes(picture.read_bytes()[:-200])
    return [f"dataset_dir={registry}"]


def missing_picture(workshop: Workshop, folder: Path) -> list[str]:
    registry = own_registry(workshop, folder)
    a_picture(registry).unlink()
    return [f"dataset_dir={registry}"]


def replaced_picture(workshop: Workshop, folder: Path) -> list[str]:
    registry = own_registry(workshop, folder)
    picture = a_picture(registry)
    other = next(path for path in sorted(picture.parent.parent.rglob("*.png")) if path.parent != picture.parent)
    picture.write_bytes(other.read_bytes())
    return [f"dataset_dir={registry}"]


def general_rows(registry: Path, rows: list[dict[str, object]]) -> list[str]:
    """Add another's dataset `general` with these rows to the registry."""
    (registry / "general.json").write_text(json.dumps(rows))
    path = registry / "dataset_info.json"
    info = json.loads(path.read_text())
    info["general"] = {**info["tiny_dev"], "file_name": "general.json"}
    path.write_text(json.dumps(info))
    return [f"dataset_dir={registry}", "dataset=tiny_dev,general"]


def row_without_its_picture(workshop: Workshop, folder: Path) -> list[str]:
    registry = own_registry(workshop, folder)
    row = json.loads((registry / "tiny" / "tiny_dev.json").read_text())[0]
    return general_rows(registry, [row | {"images": row["images"][:1]}])


def row_without_an_answer(workshop: Workshop, folder: Path) -> list[str]:
    registry = own_registry(workshop, folder)
    row = json.loads((registry / "tiny" / "tiny_dev.json").read_text())[0]
    return general_rows(registry, [row, row | {"messages": row["messages"][:1]}])


def tokenised_before_a_change(workshop: Workshop, folder: Path) -> list[str]:
    """A real tokenised cache in the place where `datasets` keeps it, and a picture that changed since."""
    import datasets

    registry = own_registry(workshop, folder)
    found = general_rows(registry, [json.loads((registry / "tiny" / "tiny_dev.json").read_text())[0]])
    loaded = datasets.load_dataset("json", data_files=[str(registry / "general.json")], split="train")
    loaded.map(lambda row: {"input_ids": [1]}, remove_columns=loaded.column_names)
    later = a_picture(registry).stat().st_mtime + 3600
    os.utime(a_picture(registry), (later, later))
    return [*found, "dataset=general", "stcr.evaluate.dataset=tiny"]


def tokenised_path_before_a_change(workshop: Workshop, folder: Path) -> list[str]:
    kept = folder / "tokenised"
    kept.mkdir()
    os.utime(kept, (0, 0))
    return [f"tokenized_path={kept}"]


def deepspeed(stage: int, rule: dict[str, object], **top: object) -> Callable[[Workshop, Path], list[str]]:
    def make(workshop: Workshop, folder: Path) -> list[str]:
        path = folder / "deepspeed.json"
        path.write_text(json.dumps({**top, "zero_optimization": {"stage": stage, **rule}}))
        return [f"deepspeed={path}"]

    return make


def stage(folder: Path, workshop: Workshop, **changes: object) -> Path:
    """The output of a finished stage: the base's own files with a record beside them."""
    run = Path(shutil.copytree(workshop.base, folder / "stage1"))
    record = {
        "name": "stage1",
        "mode": "cot",
        "template": "stcr_qwen2_vl",
        "finished": True,
        "base": str(workshop.base),
        "base_digest": artefacts.model_digest(workshop.base),
        "model_digest": artefacts.model_digest(run),
        "image_max_pixels": 7056,
        "datasets": [],
    }
    (run / "stage.json").write_text(json.dumps(record | changes))
    return run


def from_stage(run: Path) -> list[str]:
    return ["stcr.name=next", "stcr.starts_from=stage", f"model_name_or_path={run}"]


def changed_parent(workshop: Workshop, folder: Path) -> list[str]:
    run = stage(folder, workshop)
    path = run / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{ "temperature": 0.5,', 1))
    return from_stage(run)


def finished_output(workshop: Workshop, folder: Path) -> list[str]:
    return [f"output_dir={stage(folder, workshop)}"]


BROKEN = {
    "unknown key": Broken("recipe", "unknown key 'learnin_rate', did you mean 'learning_rate'?",
                          lambda *_: ["learnin_rate=1"]),
    "no number": Broken("recipe", "fp16 and bf16", lambda *_: ["bf16=true", "fp16=true"]),
    "another trainer": Broken("recipe", "Megatron", lambda *_: ["use_mca=true"]),
    "batch other than DeepSpeed's": Broken("recipe", "train_micro_batch_size_per_gpu=7",
                                           deepspeed(2, {}, train_micro_batch_size_per_gpu=7)),
    "template of another model": Broken("template", "set template to the one of this model: stcr_qwen2_vl",
                                        lambda *_: ["template=stcr_qwen3_vl"]),
    "model that is not here": Broken("model", "hf download org/absent --exclude",
                                     lambda *_: ["model_name_or_path=org/absent"]),
    "unknown dataset": Broken("data", "tiny_nix of", lambda *_: ["dataset=tiny_nix"]),
    "cut picture": Broken("pictures", "tiny_dev, row 1", cut_picture),
    "missing picture": Broken("pictures", "no such file", missing_picture),
    "replaced picture": Broken("cache", "is not the picture that was built", replaced_picture),
    "stale cache": Broken("cache", "set overwrite_cache: true", tokenised_before_a_change),
    "stale tokenized_path": Broken("cache", "tokenised before a picture changed", tokenised_path_before_a_change),
    "row without its picture": Broken("rows", "general, row 1", row_without_its_picture),
    "row without an answer": Broken("rows", "general, row 2", row_without_an_answer, "warning"),
    "cutoff too small": Broken("cutoff", "set cutoff_len: ", lambda *_: ["cutoff_len=64"]),
    "loss on the question": Broken("supervised", "supervised", lambda *_: ["train_on_prompt=true"]),
    "loss on the question, by its key": Broken("settings", "train_on_prompt", lambda *_: ["train_on_prompt=true"]),
    "ZeRO-2 overlap": Broken("settings", "zero_optimization.overlap_comm", deepspeed(2, {"overlap_comm": True})),
    "ZeRO-3 saves nothing": Broken("settings", "stage3_gather_16bit_weights_on_model_save", deepspeed(3, {})),
    "packing": Broken("settings", "see each other", lambda *_: ["packing=true"]),
    "packing cutoff": Broken("settings", "cutoff_len 500 is not a multiple of 8",
                             lambda *_: ["neat_packing=true", "cutoff_len=500"]),
    "code of a model": Broken("settings", "trust_remote_code", lambda *_: ["trust_remote_code=true"]),
    "bf16 without GPU": Broken("settings", "this machine has no GPU", lambda *_: ["bf16=true"], "warning"),
    "random split": Broken("settings", "val_size", lambda *_: ["val_size=0.1"], "warning"),
    "FlashAttention": Broken("settings", "flash_attn is not installed", lambda *_: ["flash_attn=fa2"], "warning"),
    "streaming without workers": Broken("streaming", "dataloader_num_workers",
                                        lambda *_: ["streaming=true", "dataloader_num_workers=0"]),
    "output of a finished stage": Broken("output", "holds the finished stage 'stage1'", finished_output),
    "stage 2 without stage 1": Broken("chain", "does not exist; train it first",
                                      lambda _, folder: from_stage(folder / "stage1")),
    "parent of another template": Broken("chain", "a chain keeps one template",
        lambda workshop, folder: from_stage(stage(folder, workshop, template="stcr_qwen3_vl"))),
    "unfinished parent": Broken("chain", "did not finish",
        lambda workshop, folder: from_stage(stage(folder, workshop, finished=False))),
    "parent changed on disk": Broken("chain", "its files have changed since", changed_parent),
    "base changed on disk": Broken("chain", "the chain's base has changed",
        lambda workshop, folder: from_stage(stage(folder, workshop, base_digest="0" * 64)), "warning"),
    "parent at another image size": Broken("pixels", "9999 in stage 'stage1'",
        lambda workshop, folder: from_stage(stage(folder, workshop, image_max_pixels=9999)), "warning"),
    "split that is not there": Broken("evaluation", "no split 'heldoud'; did you mean 'heldout'",
                                      lambda *_: ["stcr.evaluate.split=heldoud"]),
    "evaluated on the training": Broken("overlap", "4 of 4 evaluated episodes", lambda *_: ["stcr.evaluate.split=dev"]),
    "evaluated on the training of stage 1": Broken("overlap", "of the stages before",
        lambda workshop, folder: [*from_stage(stage(folder, workshop, datasets=["tiny_dev"])),
                                  "dataset=tiny_weak", "stcr.evaluate.split=dev"]),
    "GPU too small": Broken("memory", "there are 0.02", lambda *_: [], asked=(("gpu_memory", 0.02),)),
    "optimizer without a formula": Broken("memory", "no estimate", lambda *_: ["optim=adamw_anyprecision"], "warning"),
    "warm-up longer than the run": Broken("steps", "steps warm up", lambda *_: ["warmup_ratio=0.8"], "warning"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_what_would_break_a_training_is_told_before_it(
    case: Broken, check: Check, shared: Workshop, tmp_path: Path
) -> None:
    report = check(*case.overrides(shared, tmp_path), asked=case.asked)
    assert any(case.words in text for text in told(report, case.level).get(case.name, [])), text(
        report.recipe, report.verdicts
    )
    assert report.passes() == (case.level == "warning" and not report.count("error"))


def test_sound_recipe_passes_every_check(check: Check) -> None:
    report = check()
    assert [line(verdict) for verdict in report.verdicts if verdict.level != "ok"] == []
    assert {name for name, *_ in CHECKS} <= {verdict.check for verdict in report.verdicts}
    assert report.passes(strict=True)


def test_sound_stage_2_passes_every_check(check: object, shared: Workshop, tmp_path: Path) -> None:
    report = check(*from_stage(stage(tmp_path, shared, datasets=["tiny_dev"])), "dataset=tiny_weak")
    assert [line(verdict) for verdict in report.verdicts if verdict.level == "error"] == []
    chain = next(verdict for verdict in report.verdicts if verdict.check == "chain")
    assert chain.figures["parent_digest"] == artefacts.model_digest(tmp_path / "stage1")


@pytest.mark.slow
def test_steps_and_cutoff_are_those_of_the_trainer(check: Check) -> None:
    report = check(
        "dataset=tiny_weak", "max_steps=-1", "num_train_epochs=3", "per_device_train_batch_size=8",
        "gradient_accumulation_steps=2", asked=(("gpus", 2), ("throughput", 10.0)),
    )  # fmt: skip
    figures = {verdict.check: verdict.figures for verdict in report.verdicts if verdict.level == "ok"}
    # 100 rows: 7 batches of 8 on each of 2 ranks, 4 groups of 2 of them, 3 epochs.
    assert figures["steps"]["steps"] == 12
    assert figures["steps"]["samples"] == 12 * 32
    assert figures["time"]["seconds"] == pytest.approx(12 * 32 / 10)
    longest = figures["cutoff"]["longest"]
    assert not check("dataset=tiny_weak", f"cutoff_len={longest}").count("error")
    assert check("dataset=tiny_weak", f"cutoff_len={longest - 1}").count("error") == 1


def test_a_sample_of_the_pictures_and_rows_says_that_it_is_one(check: Check) -> None:
    report = check(asked=(("images", 3), ("samples", 2)))
    found = text(report.recipe, report.verdicts)
    assert "3 of 8 were decoded" in found
    assert "2 tokenised" in found
    assert "of 2 checked" in found
