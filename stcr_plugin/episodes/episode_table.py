"""Tables on disk, CSV, JSONL or Parquet, as numbered rows, and their cells as text and numbers."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import file_bytes, refuse_lfs_pointer
from stcr_plugin.episodes.recordings import check_text
from stcr_plugin.episodes.stored_values import finite, shown
from stcr_plugin.errors import DataError

LONGEST_CELL = 1 << 30  # of a CSV or TSV, in characters; Python's own limit is 131,072, less than a picture has


@dataclass
class Table:
    """The contents of a table. Rows are numbered from 1 as an editor shows them: the header of a CSV is row 1.

    Attributes:
        columns: Names of the columns.
        rows: Number and values by column of each row.
        bad: Number of each row that cannot be read, and why.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Raises DataError for a file that cannot be read as what its suffix says, and one without a usable row."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(path, "not a table", f"give a file that ends in {', '.join(READERS)}")
    try:
        data = file_bytes(path)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from None
    refuse_lfs_pointer(path, data)
    table = reader(path, data)
    if not table.rows:
        first = "".join(f"; row {row}: {why}" for row, why in table.bad[:1])
        raise DataError(path, f"no row can be used{first}")
    return table


def numbered(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows of a configuration as a table; their numbers start at 1."""
    return Table(list(dict.fromkeys(name for row in rows for name in row)), list(enumerate(rows, 1)))


def _read_csv(path: Path, data: bytes) -> Table:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data.partition(b"\n")[0]:
        raise DataError(path, "its header is not UTF-8 text, but UTF-16 or no text at all", "save it as CSV UTF-8")
    # Bytes that are not UTF-8 come as lone surrogates, so that they spoil their own row and no other.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    table, number = Table(), 0
    while True:
        number += 1
        try:
            values = next(reader)
        except StopIteration:
            return table
        except csv.Error as error:
            if "unexpected end" in str(error):
                problem = "a quotation mark is opened and never closed, so the rows after it are lost"
                raise DataError(f"{path}, row {number}", problem, "close it") from None
            table.bad.append((number, f"not readable as CSV: {error}"))
            continue
        if not table.columns:
            table.columns = [name.strip() for name in values]
            while table.columns and not table.columns[-1]:  # spreadsheets add empty columns
                table.columns.pop()
            if len(table.columns) == 1 and (mark := re.search(r"[;\t|]", table.columns[0])):
                problem = f"its columns are separated by {mark[0]!r}, not by commas"
                raise DataError(path, problem, "save it with commas, and numbers with a decimal point")
            if twice := [name for name in table.columns if table.columns.count(name) > 1]:
                raise DataError(path, f"two columns are named {twice[0]!r}", "rename one")
        elif not any(value.strip() for value in values):
            continue
        elif len(values) >= len(table.columns) and not any(values[len(table.columns) :]):
            table.rows.append((number, dict(zip(table.columns, values, strict=False))))
        else:
            reason = f"{len(values)} values for {len(table.columns)} columns; a text that holds a comma needs quotes"
            table.bad.append((number, reason))


def _read_jsonl(path: Path, data: bytes) -> Table:
    table = Table()
    columns: dict[str, None] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            table.bad.append((number, "not UTF-8; save the table as UTF-8"))
        except (ValueError, RecursionError) as error:
            table.bad.append((number, f"not readable as JSON: {error}"))
        else:
            if isinstance(values, dict):
                columns |= dict.fromkeys(values)
                table.rows.append((number, values))
            else:
                table.bad.append((number, "not a JSON object, {...}"))
    table.columns = list(columns)
    return table


def _read_parquet(path: Path, data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        rows = table.to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read as parquet ({error})") from None
    columns = [name for name in table.column_names if not name.startswith("__index_level_")]  # pandas' own
    return Table(columns, list(enumerate(rows, 1)))


READERS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def as_text(name: str, value: Any) -> str:
    """The cell of column `name` without spaces around it. Raises ValueError for one that is not UTF-8 text."""
    if isinstance(value, float) and value.is_integer():  # what pandas makes of whole numbers beside an empty cell
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return check_text(name, value).strip()


def as_number(name: str, value: Any) -> float:
    """Raises ValueError for a cell that is not a finite number."""
    number = finite(value)
    if math.isnan(number):
        raise ValueError(f"its {name} {shown(value)} is not a number")
    return number


def as_rate(name: str, value: Any) -> float:
    """Raises ValueError for a cell that is not a number above 0."""
    rate = as_number(name, value)
    if rate <= 0:
        raise ValueError(f"its {name} {value!r} is not above 0")
    return rate


def as_frame(name: str, value: Any) -> int:
    """Raises ValueError for a cell that is not a whole number from 0."""
    number = as_number(name, value)
    if number < 0 or not number.is_integer():
        raise ValueError(f"its {name} {value!r} is not a frame, a whole number from 0")
    return int(number)
