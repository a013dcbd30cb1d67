"""Parquet and JSON files of a LeRobot dataset as typed columns. Read with pyarrow, without the lerobot package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.artefacts import refuse_lfs_pointer
from stcr_plugin.episodes.proprioception import Vectors
from stcr_plugin.errors import DataError

_AGAIN = "download it again"
_POINTER_BYTES = 64
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def read_parquet(path: Path, columns: Sequence[str], filters: list[tuple[str, str, int]] | None = None) -> Any:
    """A pyarrow table of `columns`. Raises DataError for a file that cannot be read or lacks one of them."""
    import pyarrow.parquet as pq

    present = parquet_columns(path)
    if lacking := [name for name in columns if name not in present]:
        raise DataError(
            path, f"no column {', '.join(lacking)}; it has {', '.join(present[:12])}", "take all files from one dataset"
        )
    if twice := [name for name in columns if present.count(name) > 1]:
        raise DataError(path, f"two columns are named {twice[0]!r}", "keep one")
    return _attempt(
        path, lambda: pq.read_table(path, columns=list(columns), filters=filters, partitioning=None, memory_map=False)
    )


def parquet_columns(path: Path) -> list[str]:
    """Names of a parquet file's columns. Raises DataError for a file that is missing or cannot be read."""
    return list(parquet_schema(path).names)


def parquet_schema(path: Path) -> Any:
    """The pyarrow schema of a parquet file. Raises DataError as `parquet_columns` does."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(path, "no such parquet file", "download it")
    return _attempt(path, lambda: pq.read_schema(path, memory_map=False))


def parquet_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The values of `columns` row by row, None where a column is missing or a value cannot be read."""
    present = set(parquet_columns(path))
    table = read_parquet(path, [name for name in columns if name in present])
    values = {name: _values(table[name]) for name in table.column_names}
    return [{name: values[name][row] if name in values else None for name in columns} for row in range(table.num_rows)]


def column_numbers(column: Any, name: str) -> Vectors:
    """A pyarrow column of numbers [rows], NaN where it is empty; time stamps and durations in seconds.

    Lists of one, numbers written as text and dictionaries are looked through. Raises ValueError for anything else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    try:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            lengths = pc.fill_null(pc.list_value_length(column), 0)
            if len(column) and pc.max(lengths).as_py() > 1:
                raise ValueError(f"its {name} is a list of several values")
            found = np.full(len(column), np.nan)
            found[np.asarray(lengths) == 1] = column_numbers(pc.list_flatten(column), name)
            return found
        if pa.types.is_dictionary(kind):
            return column_numbers(column.dictionary_decode(), name)
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan)
        if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
            return np.multiply(column_numbers(column.cast(pa.int64()), name), _UNITS[kind.unit])
        if pa.types.is_boolean(kind):
            raise ValueError(f"its {name} is of type {kind}, not numbers")
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowException, NotImplementedError):
        raise ValueError(f"its {name} is of type {str(kind)[:40]}, not numbers") from None


def column_wholes(column: Any, name: str, empty: int | None = None) -> Any:
    """A pyarrow column of whole numbers [rows]. Raises ValueError for another value, and for an empty one.

    Args:
        empty: Stands for an empty value instead.
    """
    read = column_numbers(column, name)
    missing = np.isnan(read)
    if missing.any() and empty is None:
        raise ValueError(f"its {name} is empty in some rows")
    read = np.where(missing, 0.0, read)
    if not np.isfinite(read).all() or (np.abs(read) > 2**53).any() or (read != np.round(read)).any():
        raise ValueError(f"its {name} is not a whole number in some rows")
    return np.where(missing, empty or 0, read.astype(np.int64))


def _values(column: Any) -> list[Any]:
    """The values of a column, None for those that cannot be read, such as text that is not UTF-8."""
    import pyarrow as pa

    errors = (ValueError, OverflowError, TypeError, pa.ArrowException)
    try:
        return list(column.to_pylist())
    except errors:
        found: list[Any] = []
        for scalar in column:
            try:
                found.append(scalar.as_py())
            except errors:
                found.append(None)
        return found


def _attempt(path: Path, read: Callable[[], Any]) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
        try:
            with path.open("rb") as file:
                refuse_lfs_pointer(path, file.read(_POINTER_BYTES))
        except OSError:
            pass
        raise DataError(path, f"cannot be read as parquet ({' '.join(str(error).split())[:200]})", _AGAIN) from None
