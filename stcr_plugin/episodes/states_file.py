"""The states of an episode's frames in a file of their own: the rows of a table, or the lists of a JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import read_json
from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes.episode_table import Table, as_number, as_text, read_table
from stcr_plugin.episodes.stored_values import is_empty, shown
from stcr_plugin.errors import DataError

_LISTS = ".json"
_FIX = "set `source.progress.column` to the one that holds the progress"
_KEYS_NAMED, _KEY_LENGTH = 50, 60  # of a JSON file, in an error


@settings
class ProgressColumn:
    """Where the files of states have the true progress of each frame.

    Attributes:
        column: The column of a table, or the key of a list in a JSON file.
        scale: The value of a completed task, such as 100 for percent: values are divided by it, and one that is not
            between 0 and it is refused. null takes any finite numbers, as they are.
    """

    column: str = "progress"
    scale: float | None = None

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise ValueError("`column` must not be empty")
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"`scale` must be above 0, got {self.scale}")


def read_states(path: Path, n_frames: int, progress: ProgressColumn | None = None) -> list[dict[str, Any]]:
    """One state per frame. Empty cells are None; a CSV's numbers are read as numbers, but a phase stays text.

    A table has one row per frame. A JSON file has one list per state, `{key: [...], ...}`, of which the progress,
    `phase` and `motion` are read and other keys are not, or it is the list of the progress alone.

    Args:
        path: The file.
        n_frames: Of the episode.
        progress: Where the progress is, which the file then must have; None: in `progress`, if anywhere.

    Raises:
        DataError: For a value that cannot be used, for more or fewer than one per frame, and for a missing column.
    """
    lists = path.suffix.lower() == _LISTS
    table = _read_lists(path, progress) if lists else read_table(path)
    row_name = "value" if lists else "row"
    if table.bad:
        raise DataError(f"{path}, row {table.bad[0][0]}", table.bad[0][1])
    if progress is not None and progress.column not in table.columns:
        raise DataError(path, f"no column {progress.column!r}, {nearest(progress.column, table.columns)}", _FIX)
    if len(table.rows) != n_frames:
        raise DataError(path, f"{len(table.rows)} {row_name}s of states for {n_frames} frames", "give one per frame")
    states = []
    for row, values in table.rows:
        try:
            states.append(_state(table.columns, values, progress or ProgressColumn()))
        except ValueError as error:
            raise DataError(f"{path}, {row_name} {row}", str(error)) from None
    return states


def _read_lists(path: Path, progress: ProgressColumn | None) -> Table:
    """The lists of a JSON file as columns, those that are read; rows count from 1."""
    column = (progress or ProgressColumn()).column
    found = read_json(path)
    values = {column: found} if isinstance(found, list) else found
    if not isinstance(values, dict):
        raise DataError(path, f"holds {shown(found)}, not lists of one value per frame")
    used = [name for name in dict.fromkeys((column, "phase", "motion")) if name in values]
    if not used or (progress is not None and column not in values):
        keys = [key[:_KEY_LENGTH] for key, value in values.items() if isinstance(value, list)][:_KEYS_NAMED]
        raise DataError(path, f"no key {column!r}, {nearest(column, keys) if keys else 'it holds no list'}", _FIX)
    for name in used:
        if not isinstance(values[name], list):
            raise DataError(path, f"{name!r} holds {shown(values[name])}, not a list of one value per frame")
        if len(values[name]) != len(values[used[0]]):
            sizes = f"{len(values[used[0]])} values of {used[0]!r} and {len(values[name])} of {name!r}"
            raise DataError(path, sizes, "give one per frame")
    rows = [dict(zip(used, row, strict=True)) for row in zip(*(values[name] for name in used), strict=True)]
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no NaN, though Python writes it
                problem = f"its {name} {value!r} is not a finite number"
                raise DataError(f"{path}, value {number}", problem, "write null where it is not known")
    return Table(used, list(enumerate(rows, 1)))


def _state(columns: list[str], values: Mapping[str, Any], progress: ProgressColumn) -> dict[str, Any]:
    """The state in a row. Raises ValueError for a value that cannot be used."""
    state = {name: _as_state(name, values.get(name)) for name in columns if name != progress.column}
    if progress.column in columns:
        state["progress"] = _as_progress(values.get(progress.column), progress)
    return state


def _as_progress(value: Any, progress: ProgressColumn) -> float | None:
    if is_empty(value):
        return None
    number, scale = as_number(progress.column, value), progress.scale
    if scale is None:
        return number
    if not 0 <= number <= scale:
        raise ValueError(
            f"its {progress.column} {shown(value)} is not between 0 and the scale {scale:g}; set "
            "`source.progress.scale` to the value of a completed task, or to null"
        )
    return number / scale


def _as_state(name: str, value: Any) -> Any:
    if name == "phase":
        return "" if is_empty(value) else as_text(name, value)
    if name == "motion":
        motion = as_number(name, value)
        if not 0 <= motion <= 1:
            raise ValueError(f"motion {motion} is outside 0..1 of the episode's fastest")
        return motion
    if is_empty(value):
        return None
    if isinstance(value, str):
        try:
            return as_number(name, value)
        except ValueError:
            return as_text(name, value)
    return value
