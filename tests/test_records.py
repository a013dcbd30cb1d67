"""The stage record: its file, what a stage may start from, and the walk over a chain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stcr_plugin import records
from stcr_plugin.errors import ChainError, DataError
from stcr_plugin.records import Ended, Measurement, StageRecord, TrainedBuild, chain, parent_record

TEMPLATE = "stcr_qwen2_vl"


def record(run: Path, **values: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    row = {"name": run.name, "template": TEMPLATE, "finished": True, **values}
    (run / "stage.json").write_text(json.dumps(row), encoding="utf-8")
    return run


# ---- the file ----


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert records.read(tmp_path) is None
    assert records.read(tmp_path / "nowhere") is None
    assert not records.is_finished(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": ', r"stage\.json: not readable as JSON"),
        ("[]", r"stage\.json: is list, not an object"),
        ('{"mode": "guess"}', r"stage\.json: mode: Input should be 'cot' or 'direct'"),
        ('{"datasets": 5}', r"stage\.json: datasets: "),
        ('{"settings": {"evaluate": 5}}', r"stage\.json: settings\.evaluate: 5 is not what the callback writes"),
        ('{"parent": "runs\\u0000"}', r"stage\.json: parent: 'runs.x00' is not a path"),
        ('{"figures": [{"when": "after", "step": "last"}]}', r"stage\.json: figures\.0\.step: "),
    ],
)
def test_a_record_that_cannot_be_read_names_file_and_field(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "stage.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        records.read(tmp_path)


def test_what_is_written_is_read_and_unknown_keys_stay(tmp_path: Path) -> None:
    figures = {"gap_points": 12.5, "n_pairs": 4, "tie_accuracy": None}
    row = {
        "name": "stage1",
        "parent_stage": None,
        "datasets": ["tiny_cot"],
        "data": [{"build": "tiny", "config_digest": "abc"}],
        "figures": [{"when": "after", "step": 6, "seconds": 1.5, **figures}],
        "ended": {"how": "finished"},
        "later_key": {"kept": True},
    }
    (tmp_path / "stage.json").write_text(json.dumps(row), encoding="utf-8")
    found = records.read(tmp_path)
    assert found is not None
    assert found.figures == (Measurement("after", 6, 1.5, figures=figures),)
    assert found.data == (TrainedBuild("tiny", "abc"),)
    assert found.ended == Ended("finished")
    records.write(tmp_path, replace(found, finished=True))
    again = json.loads((tmp_path / "stage.json").read_text(encoding="utf-8"))
    assert {key: again[key] for key in row} == row
    assert again["finished"]
    assert "steps" not in again  # not known yet
    assert records.read(tmp_path) == replace(found, finished=True)


def test_a_record_of_an_older_revision_is_read(tmp_path: Path) -> None:
    run = record(tmp_path / "old", data={"build": "tiny", "config_digest": "abc"}, settings={"evaluate": None})
    found = records.read(run)
    assert found is not None
    assert found.data == (TrainedBuild("tiny", "abc"),)
    assert (found.max_new_tokens, found.registry, found.steps) == (None, Path("data_registry"), None)


# ---- the parent ----


def test_a_finished_stage_of_the_same_template_may_be_started_from(tmp_path: Path) -> None:
    run = record(tmp_path / "stage1", base="runs/base")
    assert parent_record(str(run), TEMPLATE, "stage2").base == "runs/base"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda run: None, "does not exist"),
        (lambda run: run.mkdir(), "holds no stage.json, so no stage made it"),
        (lambda run: record(run, finished=False), "the stage 'stage1' was started but did not finish"),
        (
            lambda run: record(run, template="stcr_qwen3_vl"),
            "stage 'stage1' was trained with template 'stcr_qwen3_vl', this one asks for 'stcr_qwen2_vl'",
        ),
    ],
    ids=["missing", "no stage", "unfinished", "other template"],
)
def test_what_cannot_be_started_from_is_named_with_its_fix(tmp_path: Path, make: Any, says: str) -> None:
    run = tmp_path / "stage1"
    make(run)
    with pytest.raises(ChainError) as caught:
        parent_record(str(run), TEMPLATE, "stage2")
    assert caught.value.where == str(run)
    assert says in caught.value.problem
    fixes = ("train it first", "run its command again", "set template: stcr_qwen3_vl")
    assert any(fix in caught.value.fix for fix in fixes)


# ---- the chain ----


def stages(tmp_path: Path) -> list[Path]:
    """base (no stage) <- prior <- stage1 <- stage2."""
    base = tmp_path / "base"
    base.mkdir()
    prior = record(tmp_path / "prior", parent=str(base), parent_stage=None, model_digest="p")
    first = record(tmp_path / "stage1", parent=str(prior), parent_stage="prior", parent_digest="p", model_digest="1")
    second = record(tmp_path / "stage2", parent=str(first), parent_stage="stage1", parent_digest="1")
    return [second, first, prior, base]


def test_a_chain_is_walked_from_the_last_stage_to_the_base(tmp_path: Path) -> None:
    folders = stages(tmp_path)
    links = list(chain(folders[0]))
    assert [link.folder for link in links] == folders
    assert [link.record.name if link.record else None for link in links] == ["stage2", "stage1", "prior", None]
    assert [link.child.name if link.child else None for link in links] == [None, "stage2", "stage1", "prior"]
    assert [link.unknown for link in links] == [None] * 4


@pytest.mark.parametrize(
    ("change", "unknown"),
    [
        (lambda run: (run / "stage.json").unlink(), "missing"),
        (lambda run: (run / "stage.json").write_text("{"), "unreadable"),
        (lambda run: record(run, model_digest="other"), "retrained"),
    ],
    ids=["missing", "unreadable", "retrained"],
)
def test_the_walk_ends_where_a_record_is_unknown_and_says_why(tmp_path: Path, change: Any, unknown: str) -> None:
    second, first, *_ = stages(tmp_path)
    change(first)
    last = list(chain(second))[-1]
    assert (last.folder, last.record, last.unknown) == (first, None, unknown)
    assert (last.error is not None) == (unknown == "unreadable")
    assert (last.retrained is not None) == (unknown == "retrained")


def test_a_folder_without_a_record_is_unknown_and_a_circle_ends(tmp_path: Path) -> None:
    assert [link.unknown for link in chain(tmp_path)] == ["missing"]
    run = record(tmp_path / "stage1", parent=str(tmp_path / "stage1"))
    assert [link.folder for link in chain(run)] == [run]
    assert StageRecord().row["ended"] is None
