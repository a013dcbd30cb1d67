"""The rows of a file that STCR's authors published: JSON (CoT and weak) or their evaluation CSV.

Format, after the loaders in https://github.com/Yangxiaoda1/SpatialLogic: JSON is a list of {"messages": [{"content":
[two images, a text]}], "target": {"spatial details": ..., "closer to completion": "img1"}}; CSV has the columns
video_path1, video_path2 (pictures, despite the name), task_name, spatial_details, target. Older spellings are read
too: `spatial_details`, `state_difference` and `analysis` for the details, `closer_to_completion`, a bare 1 or -1 as the
target.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import file_bytes, refuse_lfs_pointer
from stcr_plugin.episodes.episode_table import LONGEST_CELL
from stcr_plugin.errors import DataError

NEEDED = ("video_path1", "video_path2", "target")
CLOSER_KEYS = ("closer to completion", "closer_to_completion")
DETAILS_KEYS = ("spatial details", "spatial_details", "state_difference", "analysis")
# Position of the image that a label names. The authors' first script wrote 1 for the first and -1 for the second.
LABELS = {"img1": 0, "1": 0, "img2": 1, "2": 1, "-1": 1}

_MARK = re.compile(r"(?<![A-Za-z0-9])img([12])\s*[::]", re.I)
_JUDGMENT = re.compile(r"closer[ _]to[ _]completion", re.I)
_BLANK = re.compile(r"[ \t\r\n]*")


class UnusableError(Exception):
    """Why a row cannot be used.

    Attributes:
        reason: The same text for all such rows, so that they can be counted.
        detail: What differs between them.
    """

    def __init__(self, reason: str, detail: object = "") -> None:
        self.reason = reason
        self.detail = f", {detail}" if detail != "" else ""


@dataclass(frozen=True)
class Published:
    """A row as it is written: paths of img1 and img2, every label that it gives, and the raw details."""

    images: tuple[str, str]
    labels: tuple[Any, ...]
    details: Any
    question: str = ""
    task: str = ""


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Row by row, so that the error of a file cut in half names the row in which it ends."""
    text = _text(path)
    decode = json.JSONDecoder().raw_decode

    def after_blanks(position: int) -> int:
        match = _BLANK.match(text, position)
        return match.end() if match else position

    def damaged(position: int) -> DataError:
        line = text.count("\n", 0, position) + 1
        end = "the file ends there, it is cut off" if after_blanks(position) >= len(text) else "the file is damaged"
        return DataError(f"{path}, row {number}, line {line}", f"not readable as JSON, {end}", "download it again")

    number, at = 1, after_blanks(0)
    if text[at : at + 1] != "[":
        raise DataError(path, "expected a list of rows, [...], as the authors publish it")
    at = after_blanks(at + 1)
    while text[at : at + 1] != "]":
        try:
            row, at = decode(text, at)
        except json.JSONDecodeError as error:
            # The error of a string without end names its start, though it is the file's end that is missing.
            raise damaged(len(text) if error.msg.startswith("Unterminated") else error.pos) from None
        except RecursionError:
            raise DataError(f"{path}, row {number}", "nested too deeply to be one of the authors'") from None
        yield number, row
        at = after_blanks(at)
        if text[at : at + 1] == ",":
            number, at = number + 1, after_blanks(at + 1)
        elif text[at : at + 1] != "]":
            raise damaged(at)
    if after_blanks(at + 1) < len(text):
        raise damaged(at + 1)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows by column name; None for one with more or fewer values than there are columns."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    number, columns = 0, None
    try:
        for number, values in enumerate(reader, 1):
            if columns is None:
                columns = [name.strip() for name in values]
                if missing := [name for name in NEEDED if name not in columns]:
                    raise DataError(path, f"has no column {', '.join(missing)}; it has {', '.join(columns)}")
            elif values:
                fits = len(values) == len(columns)
                yield number, dict(zip(columns, values, strict=True)) if fits else None
    except csv.Error as error:
        problem = f"not readable as CSV ({error})"
        raise DataError(f"{path}, row {number + 1}", problem, "download it again") from None
    if columns is None:
        raise DataError(path, "an empty file", "download it again")


def _text(path: Path) -> str:
    """The whole text. Bytes that are not UTF-8 become lone surrogates, which spoil their own row only."""
    try:
        data = file_bytes(path)
    except OSError as error:
        raise DataError(path, f"not readable ({error.strerror})") from None
    refuse_lfs_pointer(path, data)
    return data.decode("utf-8-sig", errors="surrogateescape")


def _from_json(row: Any) -> Published:
    if isinstance(row, Mapping) and "conversations" in row:
        raise UnusableError(
            "it is a conversation of `from` and `value`, not a row of the authors; train on it as it is, by "
            "dataset_info.json"
        )
    try:
        parts = [part for part in row["messages"][0]["content"] if isinstance(part, Mapping)]
        target = row["target"]
    except (TypeError, KeyError, IndexError):
        raise UnusableError('it is not {"messages": [{"content": [...]}], "target": ...}') from None
    images = [_as_theirs(part) for part in parts if part.get("type") in ("image", "image_url")]
    if len(images) != 2:
        raise UnusableError(f"it shows {len(images)} images; a pair has two")
    if [image.get("image_id") for image in images] not in (["img1", "img2"], [None, None]):
        raise UnusableError("its images are not img1 and then img2")
    one, two = (_words(image.get("image"), "the path of an image") for image in images)
    question = "\n".join(_words(part.get("text"), "the question") for part in parts if part.get("type") == "text")
    if not isinstance(target, Mapping):
        return Published((one, two), (target,), None, question=question)
    labels = tuple(target[key] for key in CLOSER_KEYS if key in target)
    details = next((target[key] for key in DETAILS_KEYS if target.get(key)), None)
    return Published((one, two), labels, details, question=question)


def _as_theirs(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """An image of a message in the authors' form, also where it is in that of OpenAI's API."""
    if part.get("type") == "image":
        return part
    address = part.get("image_url")
    url = address.get("url") if isinstance(address, Mapping) else address
    if isinstance(url, str) and re.match(r"(?:https?|data):", url):
        raise UnusableError("its image is an address, not the path of a file; save the pictures and name their paths")
    return {"image": url.removeprefix("file://") if isinstance(url, str) else url}


def _from_csv(row: dict[str, str] | None) -> Published:
    if row is None:
        raise UnusableError("it has not one value per column; a text that holds a comma needs quotes")
    one, two, label = (_words(row[name], name) for name in NEEDED)
    return Published(
        (one, two), (label,), row.get("spatial_details"), task=_words(row.get("task_name", ""), "task_name")
    )


# Suffix of a file -> how its rows are read, and how one is parsed.
READERS: dict[str, tuple[Callable[[Path], Iterator[tuple[int, Any]]], Callable[[Any], Published]]] = {
    ".json": (_json_rows, _from_json),
    ".csv": (_csv_rows, _from_csv),
}


def _words(value: Any, what: str) -> str:
    """`value` if it is a text that can be written again. Raises UnusableError."""
    if not isinstance(value, str):
        raise UnusableError(f"{what} is not text", repr(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableError(f"{what} is not UTF-8", repr(value)) from None
    return value


def closer_image(label: Any, images: Sequence[str], plain: Callable[[str], str]) -> int:
    """0 or 1, the image that a label names by its name, number or path. Raises UnusableError for none and for both."""
    word = str(label).strip().lower()
    if word in LABELS:
        return LABELS[word]
    if isinstance(label, str) and images.count(path := plain(label)) == 1:
        return images.index(path)
    raise UnusableError("its label names neither img1 nor img2 alone", repr(label))


def split_details(details: Any) -> tuple[str, str]:
    """The descriptions of img1 and of img2; both "" where there are none. Raises UnusableError."""
    if details is None or (isinstance(details, str) and not details.strip()):
        return "", ""
    if isinstance(details, Mapping):
        pieces = [details.get("img1"), details.get("img2")]
    else:
        before, *marked = _MARK.split(_words(details, "its description"))
        whole = not before.strip() and marked[::2] == ["1", "2"]
        pieces = marked[1::2] if whole else []
    one, two = (_words(piece, "a description").strip() for piece in pieces) if len(pieces) == 2 else ("", "")
    if not one or not two:
        raise UnusableError(
            "its description cannot be split into one of img1 and one of img2; source.descriptions: false reads the "
            "labels alone"
        )
    if _JUDGMENT.search(one) or _JUDGMENT.search(two):
        raise UnusableError("its description holds a judgment")
    return one, two
