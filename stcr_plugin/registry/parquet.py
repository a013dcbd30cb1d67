"""Rows in Parquet files: pairs, the index of pictures, and training samples. The same rows give the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError

# Column -> Arrow type; "list" is a list of texts, "messages" the turns of a conversation.
PAIRS = {
    "pair_id": "string",
    "episode_id": "string",
    "split": "string",
    "task": "string",
    "earlier": "int64",
    "later": "int64",
    "seconds": "double",
    "closer": "string",
    "orders": "list",
    "phase": "string",
    "earlier_image": "string",
    "later_image": "string",
}
FRAMES = {
    "image": "string",
    "episode_id": "string",
    "frame": "int64",
    "bytes": "int64",
    "sha256": "string",
    "fingerprint": "string",
}
SAMPLES = {
    "messages": "messages",
    "images": "list",
    "pair_id": "string",
    "episode_id": "string",
    "order": "string",
    "answer": "string",
    "kind": "string",
    "language": "string",
}


def write(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Write `rows` as one Parquet file, whole or not at all. Raises DataError for a full disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(tuple(columns.items()))
    arrays = [pa.array([row[name] for row in rows], schema.field(name).type) for name in columns]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
    artefacts.write_bytes(path, buffer.getvalue())


def read(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, or only these columns of them, a part at a time.

    Raises DataError where it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192, columns=columns):
                yield from batch.to_pylist()
    except FileNotFoundError:
        raise DataError(path, "no such file", "build again") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name that no file can have
        if os.path.isfile(path):
            with open(path, "rb") as start:
                artefacts.refuse_lfs_pointer(path, start.read(artefacts.LFS_START))
        raise DataError(path, f"cannot be read as Parquet ({error})", "delete it and build again") from None


def join(path: Path, parts: Sequence[Path], columns: Mapping[str, str]) -> None:
    """The rows of `parts`, in that order, as one Parquet file, without holding more than a part in memory."""
    import pyarrow.parquet as pq

    with (
        artefacts.whole_file(path) as part,
        pq.ParquetWriter(part, _schema(tuple(columns.items())), compression="zstd") as writer,
    ):
        for source in parts:
            writer.write_table(pq.read_table(source, partitioning=None))


@cache
def _schema(columns: tuple[tuple[str, str], ...]) -> Any:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "list": pa.list_(pa.string()),
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns])
