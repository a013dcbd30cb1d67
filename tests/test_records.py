"""The stage record: what a stage may start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stcr_plugin.errors import ChainError, DataError
from stcr_plugin.records import parent_record, read_record

TEMPLATE = "stcr_qwen2_vl"


def record(run: Path, **values: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "stage.json").write_text(
        json.dumps({"name": "stage1", "template": TEMPLATE, "finished": True, **values}), encoding="utf-8"
    )
    return run


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None


def test_a_broken_record_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text('{"name": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"stage\.json: not readable as JSON"):
        read_record(tmp_path)


def test_a_finished_stage_of_the_same_template_may_be_started_from(tmp_path: Path) -> None:
    run = record(tmp_path / "stage1", base="runs/base")
    assert parent_record(str(run), TEMPLATE, "stage2")["base"] == "runs/base"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda run: None, "does not exist"),
        (lambda run: run.mkdir(), "holds no stage.json, so it is no stage's output"),
        (lambda run: record(run, finished=False), "the stage 'stage1' was started but did not finish"),
        (
            lambda run: record(run, template="stcr_qwen3_vl"),
            "stage 'stage1' was trained with template 'stcr_qwen3_vl', this one asks for 'stcr_qwen2_vl'",
        ),
    ],
    ids=["missing", "no stage", "unfinished", "other template"],
)
def test_what_cannot_be_started_from_is_named_with_its_mend(tmp_path: Path, make: Any, says: str) -> None:
    run = tmp_path / "stage1"
    make(run)
    with pytest.raises(ChainError) as caught:
        parent_record(str(run), TEMPLATE, "stage2")
    message = str(caught.value)
    assert message.startswith(f"{run}: ")
    assert says in message
    assert any(mend in message for mend in ("train it first", "run its command again", "set template: stcr_qwen3_vl"))
