"""The episodes that the files under meta/ of a LeRobot dataset list: meta/episodes.jsonl, or meta/episodes/ of v3.

An entry that cannot be used, or that contradicts another, is left out and counted; the rest is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import numbered_jsonl
from stcr_plugin.episodes.lerobot_meta import Meta
from stcr_plugin.episodes.lerobot_stretches import Stretch, check_span, overlapping
from stcr_plugin.episodes.lerobot_tables import parquet_columns, parquet_rows
from stcr_plugin.episodes.recordings import exclusion
from stcr_plugin.episodes.stored_values import is_empty, number, shown, single, whole
from stcr_plugin.errors import DataError
from stcr_plugin.types import Exclusion

_STAGES = tuple(
    f"{kind}_subtask_{part}" for kind in ("sparse", "dense") for part in ("names", "start_frames", "end_frames")
)
_PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")  # of an episode in the videos of v3
_TWICE = "listed twice with different facts; keep the right entry"


@dataclass(frozen=True)
class Record:
    """What the meta data say of one episode. It may share its files with others.

    Attributes:
        index: `episode_index`.
        tasks: What its entry has under `tasks`, as it is.
        stretch: Its part of a video; None where each row holds its picture.
        data: The file with its rows.
        first_row: `dataset_from_index`, None where it is not said.
        actions: Entries of `action_config`.
        stages: Its columns of stages (`sparse_subtask_names` ...), as they are.
        where: File and row that list it.
    """

    index: int
    length: int
    tasks: Any = field(compare=False)
    stretch: Stretch | None
    data: Path
    first_row: int | None
    actions: tuple[Any, ...]
    stages: Mapping[str, Any]
    where: str = field(compare=False)

    @property
    def episode_id(self) -> str:
        return f"{self.index:06d}"

    @property
    def rows(self) -> str:
        """Where its rows are, for errors."""
        return f"{self.data}, episode {self.index}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is made of."""
        return (self.data,) if self.stretch is None else (self.stretch.video, self.data)

    @property
    def on_disk(self) -> bool:
        """Whether the file with its pictures is there."""
        return self.files[0].is_file()


@dataclass(frozen=True)
class Listing:
    """Episode id -> its record, in recorded order, and the entries that cannot be used."""

    records: Mapping[str, Record]
    excluded: tuple[Exclusion, ...]


class _Entries:
    """The entries of the meta data as they come in."""

    def __init__(self) -> None:
        self.found: dict[int, Record] = {}
        self.excluded: list[Exclusion] = []
        self.refused: DataError | None = None  # the first, for a dataset of which nothing can be used
        self._contradicted: set[int] = set()

    def refuse(self, what: str, where: str, error: DataError) -> None:
        self.refused = self.refused or error
        self.excluded.append(exclusion(what, where, error))

    def add(self, record: Record) -> None:
        """Take a record, unless its episode was listed before with the same facts; with others, take neither."""
        what, first = f"episode {record.index}", self.found.get(record.index)
        if record.index in self._contradicted:
            self.excluded.append(Exclusion(what, record.where, _TWICE))
        elif first is None:
            self.found[record.index] = record
        elif first == record and (first.tasks == record.tasks or not first.tasks or not record.tasks):
            self.found[record.index] = replace(first, tasks=first.tasks or record.tasks)
            self.excluded.append(Exclusion(what, record.where, "listed twice with the same facts; it is taken once"))
        else:
            del self.found[record.index]
            self._contradicted.add(record.index)
            self.excluded += [Exclusion(what, one.where, _TWICE) for one in (first, record)]


def list_records(meta: Meta) -> Listing:
    """Raises DataError where not one entry can be used."""
    entries = _Entries()
    rows, record_of_row = (_rows_v3, _record_v3) if meta.shares_files else (_rows_v2, _record_v2)
    for where, row in rows(meta, entries):
        what = "an entry of the episodes"
        try:
            if not isinstance(row, Mapping):
                raise ValueError(f"expected a mapping, found {shown(row)}")
            index = whole("episode_index", row.get("episode_index"))
            what = f"episode {index}"
            entries.add(record_of_row(meta, row, where))
        except ValueError as error:
            entries.refuse(what, where, DataError(where, str(error)))
        except DataError as error:
            entries.refuse(what, where, error)
    for index, reason in contradictions(meta, entries.found.values()).items():
        del entries.found[index]
        entries.excluded.append(reason)
    if not entries.found:
        if entries.refused:
            raise entries.refused
        if not entries.excluded:
            raise DataError(meta.root / "meta", "lists no episode", "download the whole meta folder")
        first = entries.excluded[0]
        raise DataError(first.where, f"not one episode can be used; {first.what}: {first.reason}")
    return Listing({record.episode_id: record for record in entries.found.values()}, tuple(entries.excluded))


def contradictions(meta: Meta, records: Iterable[Record]) -> dict[int, Exclusion]:
    """Episodes that claim frames of a video, or rows, that another one claims too.

    Nothing in the files says which of two is right, so neither is used. Gaps between episodes are no contradiction.
    Rows that have an `index` show themselves whether a claim on them is right.
    """
    of = {record.index: record for record in records}
    videos = {index: record.stretch for index, record in of.items() if record.stretch is not None}
    found: dict[int, Exclusion] = {}
    for index, other in sorted(overlapping(videos, 0.5 / meta.fps).items()):
        mine = videos[index]
        reason = f"claims {mine.span} of its video, and episode {other} {videos[other].span} of the same"
        fix = f"correct {'video_path' if mine.whole else 'from_timestamp, file_index or fps'} in the meta data"
        found[index] = Exclusion(f"episode {index}", str(mine.video), f"{reason}; {fix}")
    if "index" not in meta.features:
        rows = {
            index: Stretch(meta.root, record.first_row, record.first_row + record.length)
            for index, record in of.items()
            if record.first_row is not None
        }
        for index, other in sorted(overlapping(rows, 0.5).items()):
            reason = f"claims rows of the dataset that episode {other} claims too; correct dataset_from_index"
            found.setdefault(index, Exclusion(f"episode {index}", of[index].where, reason))
    return found


def _rows_v2(meta: Meta, entries: _Entries) -> Iterator[tuple[str, Any]]:
    path = meta.root / "meta/episodes.jsonl"
    for row, value in numbered_jsonl(path):
        if isinstance(value, DataError):
            entries.refuse("an entry of the episodes", f"{path}, row {row}", value)
        else:
            yield f"{path}, row {row}", value


def _record_v2(meta: Meta, row: Mapping[str, Any], where: str) -> Record:
    index, length = whole("episode_index", row.get("episode_index")), whole("length", row.get("length"))
    chunk = index // meta.chunk_size
    values = {"episode_chunk": chunk, "chunk_index": chunk, "episode_index": index, "video_key": meta.camera}
    video = Stretch(meta.file("video_path", values), 0.0, math.inf) if meta.in_videos else None
    return Record(
        index,
        length,
        row.get("tasks"),
        stretch=video,
        data=meta.file("data_path", values),
        first_row=None,
        actions=_actions(row),
        stages={name: row[name] for name in _STAGES if row.get(name) is not None},
        where=where,
    )


def _rows_v3(meta: Meta, entries: _Entries) -> Iterator[tuple[str, Any]]:
    folder = meta.root / "meta/episodes"
    columns = ["episode_index", "length", "tasks", "action_config", "dataset_from_index", "dataset_to_index"]
    columns += _STAGES
    columns += ["data/chunk_index", "data/file_index"]
    columns += [f"videos/{meta.camera}/{name}" for name in _PLACE] if meta.in_videos else []
    files = sorted(
        (path for path in folder.rglob("*.parquet") if not path.name.startswith(".")),
        key=lambda path: ([int(part[:18]) for part in re.findall(r"\d+", str(path.relative_to(folder)))], str(path)),
    )
    if not files:
        raise DataError(folder, "no chunk-*/file-*.parquet", "download the whole meta folder")
    for path in files:
        try:
            present = parquet_columns(path)
            if "episode_index" not in present:
                raise DataError(path, f"no column 'episode_index'; it has {', '.join(present[:12])}")
            for row, values in enumerate(parquet_rows(path, columns), 1):
                yield f"{path}, row {row}", values
        except DataError as error:
            entries.refuse("a file of the episodes", str(path), error)


def _record_v3(meta: Meta, row: Mapping[str, Any], where: str) -> Record:
    index, length = whole("episode_index", row["episode_index"]), whole("length", row["length"])
    begin, end_row = row["dataset_from_index"], row["dataset_to_index"]
    first_row = None if is_empty(single(begin)) else whole("dataset_from_index", begin)
    if first_row is not None and not is_empty(single(end_row)):
        rows = whole("dataset_to_index", end_row) - first_row
        if rows != length:
            raise ValueError(f"its dataset_from_index and dataset_to_index span {rows} rows, its length is {length}")
    video = None
    if meta.in_videos:
        place = f"videos/{meta.camera}/"
        if all(is_empty(single(row[place + name])) for name in _PLACE):
            raise ValueError(f"it has no video of camera {meta.camera!r}")
        start, until = number(place + _PLACE[2], row[place + _PLACE[2]]), row[place + _PLACE[3]]
        end = start + length / meta.fps if is_empty(single(until)) else number(place + _PLACE[3], until)
        check_span(start, end, length=length, fps=meta.fps)
        video = Stretch(meta.file("video_path", _numbers(meta, row, place=place, index=index)), start, end)
    return Record(
        index,
        length,
        row["tasks"],
        stretch=video,
        data=meta.file("data_path", _numbers(meta, row, place="data/", index=index)),
        first_row=first_row,
        actions=_actions(row),
        stages={name: row[name] for name in _STAGES if row.get(name) is not None},
        where=where,
    )


def _numbers(meta: Meta, row: Mapping[str, Any], *, place: str, index: int) -> dict[str, Any]:
    """What a path template of v3 is filled in with."""
    chunk, file = (whole(place + name, row[place + name]) for name in ("chunk_index", "file_index"))
    return {
        "chunk_index": chunk,
        "episode_chunk": chunk,
        "file_index": file,
        "episode_index": index,
        "video_key": meta.camera,
    }


def _actions(row: Mapping[str, Any]) -> tuple[Any, ...]:
    actions = row.get("action_config")
    if is_empty(actions):
        return ()
    if not isinstance(actions, list):
        raise ValueError(f"its action_config is {shown(actions)}, not a list")
    return tuple(actions)
