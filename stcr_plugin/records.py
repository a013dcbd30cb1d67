"""The stage record: `stage.json` in a run's directory, by which stages chain and a chain can be traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import ChainError, DataError

RECORD = "stage.json"


def read_record(run: Path) -> dict[str, Any] | None:
    """The stage record of a run directory, None where it has none."""
    path = run / RECORD
    return dict(artefacts.read_json(path)) if path.is_file() else None


def parent_record(model: str, template: str, recipe: str) -> dict[str, Any]:
    """The record of the finished stage whose output `model` is. Raises ChainError saying how to mend it."""
    run = Path(model)
    record = read_record(run)
    mend = f"or set model_name_or_path of {recipe!r} to a finished stage"
    if record is None:
        what = "holds no stage.json, so it is no stage's output" if run.is_dir() else "does not exist"
        raise ChainError(
            f"{model}: {recipe!r} starts from a stage, but that {what}; train it first, by a recipe whose output_dir "
            f"is {model} (such as recipes/stage1_cot.yaml), {mend}"
        )
    if not record.get("finished"):
        raise ChainError(
            f"{model}: the stage {record.get('name')!r} was started but did not finish; run its command again, which "
            f"goes on where it stopped, {mend}"
        )
    if record.get("template") != template:
        raise ChainError(
            f"{model}: stage {record.get('name')!r} was trained with template {record.get('template')!r}, this one "
            f"asks for {template!r}; a chain keeps one template, so set template: {record.get('template')}"
        )
    return record


def stage_of(model_dir: Path) -> dict[str, Any]:
    """The model's stage.json, {} without one. Raises DataError where its mode is none that can be asked in."""
    path = Path(model_dir) / "stage.json"
    stage = artefacts.read_json(path) if path.exists() else {}
    if not isinstance(stage, dict) or stage.get("mode") not in (None, "cot", "direct"):
        raise DataError(f'{path}: expected an object whose "mode" is "cot" or "direct"; set it, or name the mode')
    return stage
