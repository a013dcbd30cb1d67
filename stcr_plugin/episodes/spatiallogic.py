"""`spatiallogic`: the pairs that STCR's authors published, as their JSON (CoT and weak) or their evaluation CSV.

Format, after the loaders in https://github.com/Yangxiaoda1/SpatialLogic: JSON is a list of {"messages": [{"content":
[two images, a text]}], "target": {"spatial details": ..., "closer to completion": "img1"}}; CSV has the columns
video_path1, video_path2 (pictures, in spite of the name), task_name, spatial_details, target. Older spellings are read
too: `spatial_details`, `state_difference` and `analysis` for the details, `closer_to_completion`, a bare 1 or -1 as the
target, backslashes in paths, and `_` for the final `.` of a folder.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stcr_plugin.artefacts import digest, inside
from stcr_plugin.config import settings
from stcr_plugin.episodes.picture_files import MODES, SUFFIXES
from stcr_plugin.errors import DataError
from stcr_plugin.types import ORDERS, Claim, Closer, Episode, Exclusion, GivenPair, Order, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

NEEDED = ("video_path1", "video_path2", "target")
CLOSER_KEYS = ("closer to completion", "closer_to_completion")
DETAILS_KEYS = ("spatial details", "spatial_details", "state_difference", "analysis")
# Position of the image that a label names. The authors' first script wrote 1 for the first and -1 for the second.
LABELS = {"img1": 0, "1": 0, "img2": 1, "2": 1, "-1": 1}
TASK_PATTERN = r"(?i)(?:(?:任务名称|完成任务|task name)\s*[::]\s*|完成“)(.+?)\s*(?:\n|”任务|[,,]\s*请|$)"

_MARK = re.compile(r"(?<![A-Za-z0-9])img([12])\s*[::]", re.I)
_JUDGMENT = re.compile(r"closer[ _]to[ _]completion", re.I)
_BLANK = re.compile(r"[ \t\r\n]*")
_Bad = tuple[int, str, str, str]  # row, where in it, what, reason


@settings
class SpatialLogicConfig:
    """file: a .json or .csv of theirs. root: the folder of the pictures. strip: what to cut from the front of its
    paths, a folder or several, such as the absolute one of the authors' machine.

    fps: frames a second of the picture folders, which the files do not say; 3.0 is one in ten of AgiBot World's 30.
    task_pattern: a regular expression whose one group finds the task in a row's question; the default knows the
    published wordings. task: the task where that finds none. descriptions: false reads labels alone, for files whose
    texts cannot be split into one of img1 and one of img2.
    """

    file: str
    root: str
    kind: Literal["spatiallogic"] = "spatiallogic"
    strip: str | tuple[str, ...] = ()
    fps: float = 3.0
    task_pattern: str = TASK_PATTERN
    task: str = ""
    descriptions: bool = True

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")
        if Path(self.file).suffix.lower() not in _READERS:
            raise ValueError(f"`file` must end in {' or '.join(_READERS)}, got {self.file!r}")
        try:
            groups = re.compile(self.task_pattern).groups
        except re.error as error:
            raise ValueError(f"`task_pattern` is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"`task_pattern` must have one group, the task; it has {groups}")


class _UnusableError(Exception):
    """Why a row cannot be used. The reason is the same text for all such rows, so that they can be counted."""

    def __init__(self, reason: str, detail: object = "") -> None:
        self.reason = reason
        self.detail = f", {detail}" if detail != "" else ""


@dataclass(frozen=True)
class _Published:
    """A row as it is written: paths of img1 and img2, every label that it gives, and the raw details."""

    images: tuple[str, str]
    labels: tuple[Any, ...]
    details: Any
    question: str = ""
    task: str = ""


@dataclass(frozen=True)
class _Row:
    """A row that can be used: which two pictures of `folder` are img1 and img2, which of them (0 or 1) is closer."""

    number: int
    folder: str
    images: tuple[str, str]
    closer: int
    task: str
    details: tuple[str, str]


@dataclass
class _Folder:
    """A folder's pictures in natural order, and the pairs of them that were published."""

    path: str
    names: tuple[str, ...]
    pairs: list[GivenPair] = field(default_factory=list)


class SpatialLogicSource:
    """PairSource of one published file. Rows that cannot be used come as an Exclusion that names the row.

    The folder of a pair is its episode, so a frame's index is its place among the folder's pictures. Rows are counted
    from 1; a CSV's first row is its header.
    """

    kind = "spatiallogic"

    def __init__(self, config: SpatialLogicConfig) -> None:
        """Opens nothing yet. Raises DataError where the file or the folder is missing."""
        self.config = config
        self.file, self.root = Path(config.file), Path(config.root)
        if not self.file.is_file():
            raise DataError(f"{self.file}: no such file; download it, or set source.file")
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set source.root to the one that the pictures lie under")
        self._base = self.root.resolve()
        prefixes = (config.strip,) if isinstance(config.strip, str) else config.strip
        self._prefixes = [_slashes(prefix).rstrip("/") + "/" for prefix in prefixes if prefix]
        # Rows of one folder mostly stand together, or the folders are few: look at each of them once.
        self._find_folder = lru_cache(None)(self._look_for_folder)
        self._names = lru_cache(None)(self._list_names)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First what was set aside, in the order of the file, then a folder each, in natural order.

        Every distinct task of a folder is a segment over all of it. Raises DataError for a file that is cut off, and
        where not one row can be used.
        """
        excluded, folders = self._contents
        if not folders:
            first = f"; {excluded[0].where}: {excluded[0].reason}" if excluded else ""
            raise DataError(
                f"{self.file}: not one row can be used{first}; see whether source.root is the folder that its paths "
                "start from, and source.strip what to cut from them"
            )
        yield from excluded
        for episode_id, folder in folders.items():
            tasks = list(dict.fromkeys(pair.task for pair in folder.pairs))
            count = len(folder.names)
            segments = tuple(Segment(task, 0, count) for task in tasks)
            group = PurePosixPath(folder.path).parts[0] if "/" in folder.path else ""
            yield Episode(self.kind, episode_id, "; ".join(tasks), self.config.fps, count, segments, group)

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """The folder's pairs in published order, a row and its swap made one."""
        return tuple(self._folder(episode).pairs)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The folder's pictures at ascending `indices`, each uint8 [height, width, 3], as stored (no EXIF turn).

        Raises DataError naming the picture that cannot be decoded whole, or the folder where it has changed.
        """
        folder = self._folder(episode)
        if len(folder.names) != episode.n_frames:
            raise DataError(
                f"{self._base / folder.path}: {len(folder.names)} pictures, {episode.n_frames} were listed for episode "
                f"{episode.episode_id}; the folder has changed, build again"
            )
        if any(not 0 <= index < episode.n_frames for index in indices) or list(indices) != sorted(set(indices)):
            raise DataError(
                f"episode {episode.episode_id}: frames {list(indices)} do not ascend from 0 to {episode.n_frames - 1}"
            )
        for index in indices:
            yield _decoded(self._base / folder.path / folder.names[index])

    def picture_path(self, episode: Episode, index: int) -> str:
        """The path of one picture relative to root, with forward slashes and the folder's name as it is on disk."""
        folder = self._folder(episode)
        return str(PurePosixPath(folder.path, folder.names[index]))

    def states(self, episode: Episode) -> None:
        """None: the files say nothing of single frames that a machine could check."""

    def claims(self, state: State) -> tuple[Claim, ...]:
        return ()

    def holds(self, claim: Claim, state: State) -> bool:
        return False

    def _folder(self, episode: Episode) -> _Folder:
        folder = self._contents[1].get(episode.episode_id)
        if folder is None:
            raise DataError(f"{self.file}: has no episode {episode.episode_id!r}; was the file replaced? Build again")
        return folder

    # ---- the file ----

    @cached_property
    def _contents(self) -> tuple[list[Exclusion], dict[str, _Folder]]:
        """What was set aside, and episode id -> folder in natural order. Read once, at first need."""
        from stcr_plugin.progress_bar import progress

        bad: list[_Bad] = []
        rows: dict[str, list[_Row]] = {}
        read, parse = _READERS[self.file.suffix.lower()]
        for number, values in progress(read(self.file), f"{self.file.name}: reading", "rows"):
            try:
                row = self._row(number, parse(values))
                rows.setdefault(row.folder, []).append(row)
            except _UnusableError as error:
                bad.append((number, error.detail, "row", error.reason))
        folders = {}
        for path in sorted(rows, key=_natural):
            folder = _Folder(path, self._names(path))
            bad += _pair_up(rows[path], folder)
            if folder.pairs:
                folders[_episode_id(path)] = folder
        excluded = [
            Exclusion(what, f"{self.file}, row {number}{detail}", reason)
            for number, detail, what, reason in sorted(bad)
        ]
        return excluded, folders

    def _row(self, number: int, published: _Published) -> _Row:
        """Raises _UnusableError."""
        plain = [self._plain(image) for image in published.images]
        (folder, one), (other, two) = (self._locate(path) for path in plain)
        if folder != other:
            raise _UnusableError("its pictures are of two folders", f"{folder!r} and {other!r}")
        if one == two:
            raise _UnusableError("img1 and img2 are the same picture")
        closer = {_closer(label, plain, self._plain) for label in published.labels}
        if len(closer) != 1:
            raise _UnusableError("it has two labels that disagree" if closer else "it has no label")
        found = re.search(self.config.task_pattern, published.question)
        task = (published.task or (found[1] if found else "") or self.config.task).strip()
        if not task:
            raise _UnusableError("no task text was found in it; set source.task_pattern or source.task")
        details = _split_details(published.details) if self.config.descriptions else ("", "")
        return _Row(number, folder, (one, two), closer.pop(), task, details)

    # ---- paths ----

    def _plain(self, path: str) -> str:
        """A published path with forward slashes and without the configured prefix."""
        path = _slashes(path.strip())
        prefix = next((prefix for prefix in self._prefixes if path.startswith(prefix)), "")
        return path[len(prefix) :]

    def _locate(self, path: str) -> tuple[str, str]:
        """The folder (relative to root, links followed) and the file name of a picture. Raises _UnusableError."""
        head, slash, name = path.rpartition("/")
        try:
            folder = self._find_folder(head + slash)
            if name in self._names(folder):
                return folder, name
            inside(self.root, f"{folder}/{name}")  # a link that leaves root is told as that
        except DataError:
            raise _UnusableError("a path that leaves source.root", path) from None
        except (OSError, ValueError, RuntimeError):  # RuntimeError: links that lead to each other
            raise _UnusableError("a path that no system can follow", repr(path)) from None
        raise _UnusableError("no such picture under source.root", path)

    def _look_for_folder(self, folder: str) -> str:
        """Follow `folder` part by part, each in the other spelling of its end where the written one is not there."""
        here = self._base
        for part in PurePosixPath(folder).parts:
            spellings = (part, *_other_spelling(part))
            here /= next((spelling for spelling in spellings if os.path.isdir(here / spelling)), part)
        return inside(self.root, str(here)).relative_to(self._base).as_posix()

    def _list_names(self, folder: str) -> tuple[str, ...]:
        """A folder's pictures in natural order, without links that leave root; none where there is no such folder."""
        path = self._base / folder
        if not path.is_dir():
            return ()
        with os.scandir(path) as entries:
            names = [
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES
                and not entry.name.startswith(".")
                and entry.is_file()
                and (not entry.is_symlink() or Path(entry).resolve().is_relative_to(self._base))
            ]
        return tuple(sorted(names, key=_natural))


# ---- reading ----


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Row by row, so that a file cut in half is told by the row in which it ends."""
    text = _text(path)
    decode = json.JSONDecoder().raw_decode

    def after_blanks(position: int) -> int:
        match = _BLANK.match(text, position)
        return match.end() if match else position

    def damaged(position: int) -> DataError:
        line = text.count("\n", 0, position) + 1
        end = "the file ends there, it is cut off" if after_blanks(position) >= len(text) else "the file is damaged"
        return DataError(f"{path}, row {number}, line {line}: not readable as JSON, {end}; download it again")

    number, at = 1, after_blanks(0)
    if text[at : at + 1] != "[":
        raise DataError(f"{path}: expected a list of rows, [...], as the authors publish it")
    at = after_blanks(at + 1)
    while text[at : at + 1] != "]":
        try:
            row, at = decode(text, at)
        except json.JSONDecodeError as error:
            # A string without its end is told by its start, though it is the file's end that is missing.
            raise damaged(len(text) if error.msg.startswith("Unterminated") else error.pos) from None
        except RecursionError:
            raise DataError(f"{path}, row {number}: nested too deeply to be one of theirs") from None
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
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    number, columns = 0, None
    try:
        for number, values in enumerate(reader, 1):
            if columns is None:
                columns = [name.strip() for name in values]
                if missing := [name for name in NEEDED if name not in columns]:
                    raise DataError(f"{path}: has no column {', '.join(missing)}; it has {', '.join(columns)}")
            elif values:
                fits = len(values) == len(columns)
                yield number, dict(zip(columns, values, strict=True)) if fits else None
    except csv.Error as error:
        raise DataError(f"{path}, row {number + 1}: not readable as CSV ({error}); download it again") from None
    if columns is None:
        raise DataError(f"{path}: an empty file; download it again")


def _text(path: Path) -> str:
    """The whole text. Bytes that are not UTF-8 become lone surrogates, which spoil the row that they stand in."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None


def _from_json(row: Any) -> _Published:
    try:
        parts = [part for part in row["messages"][0]["content"] if isinstance(part, Mapping)]
        target = row["target"]
    except (TypeError, KeyError, IndexError):
        raise _UnusableError('it is not {"messages": [{"content": [...]}], "target": ...}') from None
    images = [part for part in parts if part.get("type") == "image"]
    if len(images) != 2:
        raise _UnusableError(f"it shows {len(images)} images; a pair has two")
    if [image.get("image_id") for image in images] not in (["img1", "img2"], [None, None]):
        raise _UnusableError("its images are not img1 and then img2")
    one, two = (_words(image.get("image"), "the path of an image") for image in images)
    question = "\n".join(_words(part.get("text"), "the question") for part in parts if part.get("type") == "text")
    if not isinstance(target, Mapping):
        return _Published((one, two), (target,), None, question)
    labels = tuple(target[key] for key in CLOSER_KEYS if key in target)
    details = next((target[key] for key in DETAILS_KEYS if target.get(key)), None)
    return _Published((one, two), labels, details, question)


def _from_csv(row: dict[str, str] | None) -> _Published:
    if row is None:
        raise _UnusableError("it has not one value a column; a text that holds a comma needs quotes")
    one, two, label = (_words(row[name], name) for name in NEEDED)
    return _Published(
        (one, two), (label,), row.get("spatial_details"), task=_words(row.get("task_name", ""), "task_name")
    )


_READERS: dict[str, tuple[Callable[[Path], Iterator[tuple[int, Any]]], Callable[[Any], _Published]]] = {
    ".json": (_json_rows, _from_json),
    ".csv": (_csv_rows, _from_csv),
}


def _words(value: Any, what: str) -> str:
    """`value` if it is a text that can be written again. Raises _UnusableError."""
    if not isinstance(value, str):
        raise _UnusableError(f"{what} is no text", repr(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _UnusableError(f"{what} is not UTF-8", repr(value)) from None
    return value


def _closer(label: Any, images: Sequence[str], plain: Callable[[str], str]) -> int:
    """0 or 1, the image that a label names by its name, number or path. Raises _UnusableError for none and for both."""
    word = str(label).strip().lower()
    if word in LABELS:
        return LABELS[word]
    if isinstance(label, str) and images.count(path := plain(label)) == 1:
        return images.index(path)
    raise _UnusableError("its label names neither img1 nor img2 alone", repr(label))


def _split_details(details: Any) -> tuple[str, str]:
    """The descriptions of img1 and of img2; both "" where there are none. Raises _UnusableError."""
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
        raise _UnusableError(
            "its description cannot be split into one of img1 and one of img2; source.descriptions: false reads the "
            "labels alone"
        )
    if _JUDGMENT.search(one) or _JUDGMENT.search(two):
        raise _UnusableError("its description holds a judgment of its own")
    return one, two


# ---- pairs ----


def _pair_up(rows: Sequence[_Row], folder: _Folder) -> list[_Bad]:
    """Make the pairs of `folder` from its rows, and say what had to be set aside."""
    place = {name: index for index, name in enumerate(folder.names)}
    same: dict[tuple[int, int], list[_Row]] = {}
    for row in rows:
        earlier, later = sorted(place[name] for name in row.images)
        same.setdefault((earlier, later), []).append(row)
    bad: list[_Bad] = []
    for (earlier, later), alike in same.items():
        closer = {row.images[row.closer] for row in alike}
        if len(closer) > 1:
            among = ", among rows " + " and ".join(str(row.number) for row in alike)
            bad += [(row.number, among, "row", "rows of the same pair contradict each other") for row in alike]
            continue
        chosen: dict[Order, _Row] = {}
        described: _Row | None = None
        for row in alike:
            order: Order = "forward" if place[row.images[0]] == earlier else "backward"
            first = next(iter(chosen.values()), row)
            if order in chosen:
                bad.append((row.number, "", "row", f"the same pair in the same order as row {chosen[order].number}"))
            elif row.task != first.task:
                bad.append((row.number, "", "row", f"the same pair as row {first.number}, for another task"))
            else:
                chosen[order] = row
                if described and any(row.details) and _in_time(row, place) != _in_time(described, place):
                    reason = f"not that of row {described.number}, the swapped pair, which stands for both"
                    bad.append((row.number, "", "description", reason))
                described = described or (row if any(row.details) else None)
        judged: Closer = "earlier" if place[closer.pop()] == earlier else "later"
        orders = tuple(order for order in ORDERS if order in chosen)
        details = _in_time(described, place) if described else ("", "")
        folder.pairs.append(GivenPair(earlier, later, alike[0].task, judged, orders, details))
    return bad


def _in_time(row: _Row, place: Mapping[str, int]) -> tuple[str, str]:
    """The descriptions of the earlier and of the later picture."""
    one, two = row.details
    return (one, two) if place[row.images[0]] < place[row.images[1]] else (two, one)


# ---- names ----


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _other_spelling(part: str) -> tuple[str, ...]:
    """`bag_` for `bag.` and the other way round, since not every file system keeps a final full stop."""
    if part.endswith("_"):
        return (part[:-1] + ".",)
    return (part[:-1] + "_",) if part.endswith(".") and part not in (".", "..") else ()


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sorts 2.jpg before 10.jpg; names of the same numbers by their spelling."""
    return [(text, int(number or -1)) for text, number in re.findall(r"([^0-9]*)([0-9]*)", name)], name


def _episode_id(folder: str) -> str:
    """Readable and safe as a file name; the digest keeps apart what the replacing makes alike."""
    readable = re.sub(r"[^\w.+=@-]+", "_", folder.replace("/", "-"))[:60].lstrip(".")
    return f"{readable or 'pictures'}-{digest(folder)[:8]}"


def _decoded(file: Path) -> Picture:
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode not in MODES:
                raise DataError(f"{file}: its pixels are of mode {image.mode!r}, not 8-bit colours")
            return np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # what Pillow's decoders raise at damaged data is of no one kind
        raise DataError(f"{file}: cannot be decoded ({error}); it is truncated or damaged, get it again") from None
