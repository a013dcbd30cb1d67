"""The rows of an episode in the data files of a LeRobot dataset, and whether they agree with the meta data."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.episodes.lerobot_records import Record
from stcr_plugin.episodes.lerobot_tables import (
    column_numbers,
    column_wholes,
    parquet_columns,
    parquet_schema,
    read_parquet,
)
from stcr_plugin.episodes.proprioception import Vectors
from stcr_plugin.episodes.recordings import check_finite
from stcr_plugin.errors import DataError

_EPISODE = "episode_index"
_COLUMNS = ("frame_index", "index", "timestamp", "task_index", "subtask_index")
_LANGUAGE = "language_persistent"
_CLOCKS = (1.0, 1e3, 1e6, 1e9)  # of time stamps in seconds, milliseconds, microseconds and nanoseconds
RATE_TOLERANCE = 0.02  # share by which a rate may differ from the one that info.json states
_ROUNDING = 0.002  # seconds to which containers may round


class DataFile:
    """The columns of one data file that say what its rows are; it may hold several episodes."""

    def __init__(self, path: Path, language: bool = False) -> None:
        """`language` reads the annotations too. Raises DataError for a file that cannot be read."""
        self.path = path
        present = parquet_columns(path)
        wanted = (*_COLUMNS, _LANGUAGE) if language else _COLUMNS
        self._table = read_parquet(path, [_EPISODE, *(name for name in wanted if name in present)])
        try:
            numbers = column_numbers(self._table[_EPISODE], _EPISODE)
        except ValueError as error:
            raise DataError(path, str(error)) from None
        self._order = np.argsort(numbers, kind="stable")
        self._episodes = numbers[self._order]

    def rows(self, record: Record) -> Rows:
        """The rows of one episode, checked. Raises DataError where they contradict the meta data or themselves."""
        first, stop = np.searchsorted(self._episodes, [record.index, record.index + 1])
        if stop - first != record.length:
            raise DataError(self.path, f"{stop - first} rows, but the meta data say {record.length} frames")
        if record.length < 2:
            raise DataError(record.where, f"{record.length} frame; a pair needs two")
        rows = Rows(self._table.take(self._order[first:stop]))
        try:
            rows.check(record)
        except ValueError as error:
            raise DataError(self.path, str(error)) from None
        return rows


class Rows:
    """The rows of one episode, in the order of its data file."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def check(self, record: Record) -> None:
        """Raises ValueError unless its rows are its frames 0, 1, 2 ... and those that the meta data name."""
        frames, index = self._wholes("frame_index"), self._wholes("index")
        if frames is not None and (frames != np.arange(record.length)).any():
            raise ValueError("its frame_index does not count up from 0; rows are mixed up, missing or doubled")
        if index is None or record.first_row is None:
            return
        if (index != record.first_row + np.arange(record.length)).any():
            raise ValueError(
                f"its rows have the index {index[0]} to {index[-1]}, the meta data say {record.first_row} to "
                f"{record.first_row + record.length - 1} (dataset_from_index)"
            )

    @cached_property
    def task_indices(self) -> Any | None:
        """`task_index` of each row, -1 for none; None where there is no such column. Raises ValueError."""
        return self._wholes("task_index", empty=-1)

    @cached_property
    def subtask_indices(self) -> Any | None:
        """`subtask_index` likewise."""
        return self._wholes("subtask_index", empty=-1)

    @cached_property
    def timestamps(self) -> Vectors | None:
        """`timestamp` of each row; None where there is no such column, or it is empty in some. Raises ValueError."""
        if "timestamp" not in self._table.column_names:
            return None
        stamps = column_numbers(self._table["timestamp"], "timestamp")
        return stamps if np.isfinite(stamps).all() else None

    @cached_property
    def persistent(self) -> Any:
        """`language_persistent`, the same in all rows of an episode; None where it was not read. Raises ValueError."""
        if _LANGUAGE not in self._table.column_names:
            return None
        column = self._table[_LANGUAGE]
        try:
            first, last = column[0].as_py(), column[len(column) - 1].as_py()
        except ValueError:
            raise ValueError(f"its {_LANGUAGE} holds text that is not UTF-8") from None
        if repr(first) != repr(last):  # a missing number is not equal to itself
            raise ValueError(f"its {_LANGUAGE} is not the same in its first and last row")
        return first

    def check_stamps(self, fps: float) -> None:
        """Raises ValueError for time stamps that do not ascend, or not at the rate of info.json.

        They need not be the video's clock: where they start, and whether they count seconds, makes no difference.
        """
        import pyarrow as pa

        if "timestamp" not in self._table.column_names:
            return
        column = self._table["timestamp"]
        stamps = column_numbers(column, "timestamp")
        if np.isnan(stamps).all():
            return
        if not np.isfinite(stamps).all():
            raise ValueError("its timestamp is empty in some rows")
        kind = column.type.to_pandas_dtype() if pa.types.is_floating(column.type) else np.float64
        exact = float(np.spacing(np.abs(stamps).max().astype(kind)))  # the least step that such numbers can tell
        steps, lasts = np.diff(stamps), float(stamps[-1] - stamps[0])
        step, expected = lasts / len(steps), len(steps) / fps
        if (steps < 0).any() or ((steps == 0).any() and exact < max(step, 1 / fps) / 4):
            raise ValueError("its time stamps do not ascend, the rows are mixed up; download it again")
        if not any(same_length(lasts / unit, expected, 2 * exact / unit) for unit in _CLOCKS):
            problem = f"its time stamps run at {1 / step:.4g} a second, info.json says {fps:g} fps"
            raise ValueError(f"{problem}; correct fps, or the time stamps")

    def _wholes(self, name: str, empty: int | None = None) -> Any | None:
        return column_wholes(self._table[name], name, empty) if name in self._table.column_names else None


def same_length(lasts: float, expected: float, rounding: float = _ROUNDING) -> bool:
    """Whether a recording lasts as many seconds as its frames at the stated rate do."""
    return abs(lasts - expected) <= RATE_TOLERANCE * expected + max(rounding, _ROUNDING)


def read_column(record: Record, name: str) -> Any:
    """A column of one episode's rows, in the order of the file. Raises DataError."""
    import pyarrow as pa

    kind = parquet_schema(record.data).field(_EPISODE).type if _EPISODE in parquet_columns(record.data) else pa.null()
    if pa.types.is_integer(kind):  # parts of the file without the episode are not read
        table = read_parquet(record.data, [name], [(_EPISODE, "=", record.index)])
    else:
        table = read_parquet(record.data, [name, _EPISODE])
        try:
            table = table.filter(pa.array(column_numbers(table[_EPISODE], _EPISODE) == record.index))
        except ValueError as error:
            raise DataError(record.rows, str(error)) from None
    if table.num_rows != record.length:
        raise DataError(record.rows, f"{table.num_rows} rows, {record.where} says {record.length}")
    return table[name]


def read_vectors(record: Record, name: str) -> Vectors:
    """A column of equally long lists as [rows, values]. Raises DataError."""
    column = read_column(record, name)
    try:
        vectors = np.array(column.to_pylist(), dtype=np.float64).reshape(len(column), -1)
    except (ValueError, TypeError, OverflowError):
        raise DataError(record.rows, f"{name} holds other values than numbers, or vectors differ in length") from None
    return check_finite(vectors, record.rows)
