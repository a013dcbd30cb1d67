"""The rows of a published benchmark, JSON, JSONL or Parquet, and their fields as texts, numbers and files.

A row that lacks a field, or has it in another form, becomes an Exclusion that names the file, the row and the field.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from stcr_plugin.artefacts import read_json
from stcr_plugin.config import nearest
from stcr_plugin.episodes.episode_table import Table, read_table
from stcr_plugin.episodes.picture_files import followed
from stcr_plugin.episodes.recordings import check_text
from stcr_plugin.episodes.spatiallogic_rows import UnusableError
from stcr_plugin.episodes.stored_values import is_empty, shown, single, whole
from stcr_plugin.errors import DataError, NoPathError
from stcr_plugin.types import Exclusion, Omission

Row = Mapping[str, Any]
T = TypeVar("T")
_PERCENT = re.compile(r"([+-]?\d{1,6}(?:\.\d{1,6})?)\s*%")
_MOST = 10**6


class OmittedError(UnusableError):
    """Why a row is not used that its publishers made so, which nobody can fix."""


def read_rows(file: Path) -> Table:
    """The rows of `file`, by its suffix; those of a list in a .json count from 1.

    Raises DataError for a file that cannot be read, and one without a row.
    """
    if not file.is_file():
        raise DataError(file, "no such file", "download it, or set source.file")
    if file.suffix.lower() != ".json":
        return read_table(file)
    found = read_json(file)
    if not isinstance(found, list) or not found:
        raise DataError(file, f"holds {shown(found)}, not a list of rows", "set source.file to the published one")
    table = Table()
    for number, row in enumerate(found, 1):
        if isinstance(row, dict):
            table.rows.append((number, row))
        else:
            table.bad.append((number, "not a JSON object, {...}"))
    return table


def parse_rows(file: Path, table: Table, parse: Callable[[int, Row], T]) -> tuple[list[T], list[Exclusion]]:
    """What `parse` makes of each row that can be used and of its number, and the others, in the order of the file.

    Raises DataError where not one row is in the published form.
    """
    excluded = {number: Exclusion("row", f"{file}, row {number}", reason) for number, reason in table.bad}
    used: list[T] = []
    for number, row in table.rows:
        try:
            used.append(parse(number, row))
        except UnusableError as error:
            kind = Omission if isinstance(error, OmittedError) else Exclusion
            excluded[number] = kind("row", f"{file}, row {number}{error.detail}", error.reason)
    found = [excluded[number] for number in sorted(excluded)]
    if not used:
        first = f"; {found[0].where}: {found[0].reason}" if found else ""
        raise DataError(file, f"not one row can be used{first}", "check source.file and source.root")
    return used, found


def field_of(row: Row, name: str) -> Any:
    """The value of a field that the row must have. Raises UnusableError."""
    if name not in row:
        raise UnusableError(f"it has no field {name!r}", nearest(name, list(row)))
    if is_empty(row[name]):
        raise UnusableError(f"its {name} is empty")
    return row[name]


def text_of(row: Row, name: str) -> str:
    """Raises UnusableError."""
    value = field_of(row, name)
    try:
        return " ".join(check_text(name, value).split())
    except ValueError:
        raise UnusableError(f"its {name} is not text", shown(value)) from None


def whole_of(row: Row, name: str, least: int, most: int = _MOST) -> int:
    """A whole number, also one written as text. Raises UnusableError."""
    value = field_of(row, name)
    try:
        number = whole(name, value, least=least)
    except ValueError:
        number = most + 1
    if number > most:
        raise UnusableError(f"its {name} is not a whole number from {least} to {most}", shown(value))
    return number


def percent_of(value: Any, name: str, least: float) -> float:
    """A text such as "8%" as a share; from `least` to 100 %. Raises UnusableError."""
    found = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found:
        raise UnusableError(f'its {name} is not a percentage such as "8%"', shown(value))
    number = float(found[1])
    if not least <= number <= 100:
        raise UnusableError(f"its {name} is not from {least:g} % to 100 %", shown(value))
    return number / 100


def list_of(row: Row, name: str) -> list[Any]:
    """Raises UnusableError for what is not a list of at least one."""
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise UnusableError(f"its {name} is not a list with entries" if name in row else f"it has no field {name!r}")
    return value


def file_of(root: Path, value: Any, name: str, folder: str = "") -> Path:
    """The file under `root` that a field names, a text or a list of one. Raises UnusableError."""
    value = single(value)
    if is_empty(value) or not isinstance(value, str):
        raise UnusableError(f"its {name} is not a path", shown(value))
    try:
        path = followed(root, os.path.join(folder, value))
    except NoPathError:
        raise UnusableError(f"its {name} is a path that no system can follow", repr(value[:80])) from None
    except DataError:
        raise UnusableError(f"its {name} is a path that leaves source.root", value) from None
    if not path.is_file():
        raise UnusableError(f"its {name} is not a file under source.root", value)
    return path


def check_folder(root: str) -> Path:
    """Raises DataError where `source.root` is not a folder."""
    if not Path(root).is_dir():
        raise DataError(root, "no such folder", "set source.root to the one that the file's paths start from")
    return Path(root)


def order_key(path: Path) -> tuple[int, str]:
    """Sorts the pictures of a recording by the last number in their names, frame_2 before frame_10."""
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1][:18]) if numbers else -1, str(path))
