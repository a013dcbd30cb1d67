"""Cameras of a LeRobot dataset that are stored as single pictures: one in each row, as bytes or as a path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.episodes.lerobot_records import Record
from stcr_plugin.episodes.lerobot_rows import read_column
from stcr_plugin.episodes.lerobot_tables import parquet_schema
from stcr_plugin.episodes.picture_files import decoded, followed
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture


def check_pictures(record: Record, name: str) -> None:
    """Raises DataError where the rows cannot hold pictures in the column `name`."""
    import pyarrow as pa

    schema = parquet_schema(record.data)
    kind = schema.field(name).type if schema.names.count(name) == 1 else None
    if kind is None or not (pa.types.is_struct(kind) or _is_bytes(kind) or pa.types.is_string(kind)):
        raise DataError(
            record.data,
            f"no pictures in the column {name!r}" + ("" if kind is None else f", which is of type {str(kind)[:40]}"),
            "convert the dataset to videos by LeRobot's script, or take all files from one dataset",
        )


def stored_pictures(record: Record, indices: Sequence[int], *, root: Path, name: str) -> Iterator[Picture]:
    """The pictures of some rows of an episode. Raises DataError for one that is missing or damaged."""
    column = read_column(record, name)
    for index in indices:
        value = column[index].as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(data, bytes) and data:
            yield decoded(data, name=record.rows)
        elif isinstance(path, str) and path:
            yield decoded(followed(root, path))
        else:
            raise DataError(record.rows, f"no picture in {name}", "download it again")


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
