"""Groups and proposals in training: loss masks in both backends, a preflight, and a stage that mixes groups in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import DATA, RECIPES, Workshop, losses, stage_row

from stcr_plugin.config import from_mapping
from stcr_plugin.figures import GroupSettings
from stcr_plugin.registry.manifest import dataset_rows

IGNORE = -100
GROUPED = {
    "name": "grouped",
    "shard_episodes": 4,
    "datasets": {
        "weak": {"split": "train", "kind": "weak"},
        "closest": {"split": "train", "kind": "group", "groups": {"per_episode": 2}},
        "order": {
            "split": "train",
            "kind": "group",
            "languages": ["en", "zh"],
            "groups": {"pictures": 4, "ask": "order", "per_episode": 1, "target": "cot"},
        },
        "reflect": {"split": "train", "kind": "reflect", "languages": ["en", "zh"]},
        "sharded": {"split": "train", "kind": "group", "format": "parquet", "groups": {"per_episode": 2}},
    },
}
LONG = "cutoff_len=2048"


@pytest.fixture(scope="module")
def stocked(shared_workshop: Workshop) -> Workshop:
    """The shared workshop with a build of groups beside its own."""
    from stcr_plugin.registry.build import DataConfig, build

    build(from_mapping(DataConfig, {**copy.deepcopy(DATA), **GROUPED}, "grouped"), shared_workshop.registry)
    return shared_workshop


def overrides(workshop: Workshop, out: str, dataset: str, *more: str) -> list[str]:
    return [*workshop.overrides("weak", out, workshop.base), f"dataset={dataset}", LONG, *more]


def tokenised(workshop: Workshop, dataset: str) -> tuple[list[dict[str, Any]], Any]:
    """The training set as LLaMA-Factory's own loader makes it, and its tokenizer."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    from stcr_plugin.frameworks.llamafactory import experiment
    from stcr_plugin.frameworks.recipe import read_recipe

    args = read_recipe(RECIPES / "weak_only.yaml", overrides(workshop, "read", dataset, "report_to=none"))
    del args["stcr"]
    args["overwrite_output_dir"] = True
    model_args, data_args, training_args, _, _ = get_train_args(args)
    module = load_tokenizer(model_args)
    made = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    experiment.through(lambda *_: None)(dict(args), [])
    found = get_dataset(made, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    return list(found), module["tokenizer"]


def shown(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Episode and file of each picture of a row, in the order shown."""
    return [Path(path).parts[-2:] for path in row["images"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped_closest", "grouped_order", "grouped_sharded", "grouped_reflect"])
def test_every_row_is_supervised_on_its_answer_alone_in_both_backends(stocked: Workshop, name: str) -> None:
    from transformers import AutoProcessor

    from stcr_plugin.frameworks.trl import TemporalCollator, dataset

    rows, tokenizer = tokenised(stocked, name)
    rows.sort(key=shown)  # LLaMA-Factory reads the files of a folder in any order
    built = sorted(dataset_rows(stocked.registry, name), key=shown)
    collator = TemporalCollator(
        AutoProcessor.from_pretrained(stocked.base), image_max_pixels=7056, media_dir=stocked.registry
    )
    others = sorted(dataset(stocked.registry, name), key=shown)
    assert len(rows) == len(built) == len(others) > 30
    for row, source, other in zip(rows, built, others, strict=True):
        answer = source["messages"][1]["content"]
        assert tokenizer.decode([label for label in row["labels"] if label != IGNORE]) == f"{answer}<|im_end|>"
        assert row["labels"][-1] != IGNORE
        text = tokenizer.decode(row["input_ids"])
        assert all(f"img{number}: <|vision_start|>" in text for number in range(1, len(source["images"]) + 1))
        encoded = collator.encoded(other)
        assert encoded["input_ids"] == row["input_ids"]
        assert encoded["labels"] == row["labels"]
        assert shown(row) == shown(other) == shown(source)


@pytest.mark.slow
def test_preflight_counts_the_pictures_and_tokens_of_groups(stocked: Workshop) -> None:
    from stcr_plugin.preflight.checks import preflight
    from stcr_plugin.preflight.plan import Asked

    values = overrides(stocked, "checked", "grouped_weak,grouped_order", "stcr.evaluate.dataset=grouped")
    report = preflight(str(RECIPES / "weak_only.yaml"), values, Asked())
    assert not [one for one in report.verdicts if one.level == "error"], report.verdicts
    short = preflight(str(RECIPES / "weak_only.yaml"), [*values, "cutoff_len=64"], Asked())
    assert any("cutoff_len" in f"{one.where} {one.problem} {one.fix}" for one in short.verdicts if one.level == "error")


@pytest.mark.slow
def test_a_stage_that_mixes_pairs_and_groups_trains_measures_and_is_evaluated_on_groups(stocked: Workshop) -> None:
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.multi_image import evaluate_groups
    from stcr_plugin.evaluation.request import EvalRequest

    mixed = "grouped_weak,grouped_closest,grouped_order"
    values = overrides(stocked, "mixed_groups", mixed, "stcr.evaluate.dataset=grouped", "report_to=none")
    done = stocked.fork(["llamafactory-cli", "train", RECIPES / "weak_only.yaml", *values])
    assert done.returncode == 0, done.stderr[-3000:]
    run = stocked.root / "mixed_groups"
    assert len(losses(run)) == 4
    record = stage_row(run)
    assert record["finished"]
    assert record["datasets"] == mixed.split(",")
    assert [row["when"] for row in record["figures"]] == ["before", "after"]

    request = EvalRequest(
        model=run, dataset="grouped", registry=stocked.registry, settings=AskSettings(max_new_tokens=8), limit=2
    )
    for ask in ("closest", "order"):
        found = evaluate_groups(request, run / ask, GroupSettings(ask=ask))
        assert found.figures.n_groups == 2
    overlap = evaluate(request, run / "eval").overlap
    assert overlap is not None
    assert not overlap.unknown
    assert overlap.found is not None
    assert overlap.found.episodes.shared == 0
