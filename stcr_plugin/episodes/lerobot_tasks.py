"""The texts of tasks and subtasks of a LeRobot dataset, and which of them an episode is about, frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.artefacts import numbered_jsonl
from stcr_plugin.episodes.lerobot_tables import parquet_columns, parquet_rows, parquet_schema
from stcr_plugin.episodes.recordings import check_text
from stcr_plugin.episodes.stored_values import is_empty, shown, single, whole
from stcr_plugin.errors import DataError
from stcr_plugin.types import Segment

_NO_TASK = -1  # stands for a frame that nobody annotated
_SHORTEST_RUN = 3  # frames that the runs of an index have on average, if it marks stretches of time at all


@dataclass(frozen=True)
class Texts:
    """Index -> text of a table of tasks; `problem` says what of the table cannot be used, "" for nothing."""

    texts: Mapping[int, str]
    problem: str = ""


def read_texts(root: Path, name: str) -> Texts:
    """meta/<name>s.parquet or, where there is none, meta/<name>s.jsonl; without either there are no texts."""
    table, lines = root / f"meta/{name}s.parquet", root / f"meta/{name}s.jsonl"
    try:
        if table.is_file():
            rows: list[Any] = _table_rows(table, name)
        else:
            rows = [value for _, value in numbered_jsonl(lines)] if lines.is_file() else []
    except DataError as error:
        return Texts({}, str(error))
    texts: dict[int, str] = {}
    doubtful: set[int] = set()
    problem = ""
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise ValueError(str(row))
            if not isinstance(row, dict):
                raise ValueError(f"a row of meta/{name}s is {shown(row)}")
            index, text = whole(f"{name}_index", row.get(f"{name}_index")), check_text(name, single(row.get(name)))
        except ValueError as error:
            problem = problem or str(error)
            continue
        if texts.setdefault(index, text) != text:
            doubtful.add(index)
            problem = problem or f"{name}_index {index} has two texts there"
    return Texts({index: text for index, text in texts.items() if index not in doubtful}, problem)


def runs(indices: Any) -> list[tuple[int, int, int]]:
    """(index, start, end) of each stretch of frames with one index."""
    edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    return [(int(indices[start]), start, end) for start, end in itertools.pairwise(edges) if start < end]


def task_segments(indices: Any | None, tasks: Any, *, table: Texts, length: int) -> tuple[Segment, ...]:
    """One segment per stretch of frames that have the same task.

    Args:
        indices: `task_index` of each frame, -1 for none; None where the rows have no such column.
        tasks: What the episode's entry in the meta data has under `tasks`. It counts only where the rows say nothing.

    Raises:
        ValueError: where the task is not certain.
    """
    if indices is None or (indices < 0).all():
        return (Segment(_only_text(tasks, table), 0, length),)
    stretches = runs(indices)
    if len(stretches) * _SHORTEST_RUN > length and len(stretches) > 1:
        raise ValueError("its task_index changes every few frames, so no task has a stretch of its own")
    unknown = sorted({index for index, _, _ in stretches if index >= 0} - table.texts.keys())
    if unknown:
        missing = f"task_index {unknown[0]} is not in meta/tasks" + (f" ({table.problem})" if table.problem else "")
        if len(stretches) > 1:
            raise ValueError(missing)
        try:
            return (Segment(_only_text(tasks, Texts({})), 0, length),)
        except ValueError:
            raise ValueError(missing) from None
    first = {text: index for index, text in sorted(table.texts.items(), reverse=True)}  # two indices may share a text
    same = np.array([first.get(table.texts.get(int(index), ""), _NO_TASK) for index in indices])
    return tuple(Segment(table.texts[index], start, end) for index, start, end in runs(same) if index >= 0)


def subtask_segments(indices: Any, texts: Mapping[int, str]) -> tuple[Segment, ...]:
    """The stretches of frames with a subtask; an index without a text, -1 by custom, marks frames without one."""
    return tuple(Segment(texts[index], start, end) for index, start, end in runs(indices) if index in texts)


def _only_text(tasks: Any, table: Texts) -> str:
    """The one text that an entry of the meta data names, as text, in a list, or by its index. Raises ValueError."""
    named: dict[str, str] = {}
    waiting = [tasks]
    while waiting:
        value = single(waiting.pop(0))
        if isinstance(value, list | tuple):
            waiting += [one for one in value if not isinstance(one, list | tuple)]
        elif isinstance(value, str) and not value.strip().isdecimal():
            text = check_text("task", value)
            named.setdefault(text.strip(), text)
        elif not is_empty(value):
            index = whole("tasks", value)
            if index not in table.texts:
                raise ValueError(f"its tasks name task {index}, which is not in meta/tasks")
            named.setdefault(table.texts[index].strip(), table.texts[index])
    named.pop("", None)
    if len(named) != 1:
        raise ValueError(
            "several tasks and no task_index in its rows" if named else "no task is named, in meta or rows"
        )
    return next(iter(named.values()))


def _table_rows(path: Path, name: str) -> list[Any]:
    """Rows of a parquet table, its text under `name` wherever it is: a column, the pandas index, or the only text."""
    import pyarrow as pa

    present = parquet_columns(path)
    kinds = {field.name: field.type for field in parquet_schema(path)}
    text = next((column for column in (name, "__index_level_0__") if column in present), None)
    if text is None:
        others = [
            column for column, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)
        ]
        if len(others) != 1:
            raise DataError(path, f"no column {name!r}; it has {', '.join(present[:12])}")
        text = others[0]
    return [{**row, name: row[text]} for row in parquet_rows(path, [f"{name}_index", text])]
