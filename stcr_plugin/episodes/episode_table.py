"""A table on disk, CSV, JSONL or Parquet, as rows that know their number, and its cells as text and numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.errors import DataError


@dataclass
class Table:
    """Columns, rows as (number, values by column), and rows that cannot be read as (number, why).

    Numbers count from 1 as a spreadsheet or an editor shows them: the header of a CSV is row 1.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Raises DataError for a file that cannot be read as what its suffix says, and one without a usable row."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a table ends in {', '.join(READERS)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    table = reader(path, data)
    if not table.rows:
        raise DataError(f"{path}: no row can be used" + "".join(f"; row {row}: {why}" for row, why in table.bad[:1]))
    return table


def _read_csv(path: Path, data: bytes) -> Table:
    # Bytes that are not UTF-8 come as lone surrogates, so that they spoil the row they stand in and no other.
    text = data.decode("utf-8-sig", errors="surrogateescape")
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
                raise DataError(
                    f"{path}, row {number}: a quotation mark is opened and never closed, so the rows after it are lost"
                ) from None
            table.bad.append((number, f"not readable as CSV: {error}"))
            continue
        if not table.columns:
            table.columns = [name.strip() for name in values]
            while table.columns and not table.columns[-1]:  # spreadsheets add empty columns
                table.columns.pop()
            if twice := [name for name in table.columns if table.columns.count(name) > 1]:
                raise DataError(f"{path}: two columns are named {twice[0]!r}")
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
        raise DataError(f"{path}: cannot be read as parquet ({error})") from None
    columns = [name for name in table.column_names if not name.startswith("__index_level_")]  # pandas' own
    return Table(columns, list(enumerate(rows, 1)))


READERS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def blank(value: Any) -> bool:
    """Whether a cell is empty; pandas writes a missing number as NaN."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def as_text(name: str, value: Any) -> str:
    """The cell of column `name` without spaces around it. Raises ValueError for what is no text and not UTF-8."""
    if isinstance(value, float) and value.is_integer():  # what pandas makes of whole numbers beside an empty cell
        value = int(value)
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"its {name} {text!r} is no text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"its {name} {text!r} is not UTF-8; save the table as UTF-8") from None
    return text


def as_number(name: str, value: Any) -> float:
    """Raises ValueError for what is no finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its {name} {value!r} is no number")
    return number


def as_rate(name: str, value: Any) -> float:
    """Raises ValueError for what is no number above 0."""
    rate = as_number(name, value)
    if rate <= 0:
        raise ValueError(f"its {name} {value!r} is not above 0")
    return rate


def as_frame(name: str, value: Any) -> int:
    """Raises ValueError for what is no whole number from 0."""
    number = as_number(name, value)
    if number < 0 or not number.is_integer():
        raise ValueError(f"its {name} {value!r} is no frame, a whole number from 0")
    return int(number)
