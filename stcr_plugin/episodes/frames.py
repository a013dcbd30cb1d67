"""`frames`: anyone's data, a table that names episodes and a folder of their pictures or videos.

The table is CSV, JSONL or Parquet, by its suffix; the columns it may have are `COLUMNS`. A row is an episode, or one
segment of it where several rows name the same episode: they all name the same path, which no other episode has.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import video
from stcr_plugin.episodes.episode_table import READERS, as_frame, as_number, as_rate, as_text, blank, read_table
from stcr_plugin.episodes.picture_files import SUFFIXES, decoded, followed, list_pictures
from stcr_plugin.episodes.stillness import picture_motion
from stcr_plugin.errors import DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

COLUMNS = {
    "episode": "the episode's id: letters, digits and _.+=@-",
    "task": "what is being done, in words; of the segment where an episode has several rows",
    "path": "a folder of pictures or a video file, relative to root",
    "start": "first frame of the segment, counted from 0 along that path; 0 where empty",
    "end": "the frame after its last; the path's last where empty",
    "fps": "frames a second; where empty, the configuration's `fps`, then what the video file says",
    "group": "the population that the episode belongs to, for split rules",
    "object": "what is handled, for split rules",
    "states": "a CSV, JSONL or Parquet file with a row a frame, relative to root: `progress`, `phase`, `motion`, any",
}
NEEDED = ("episode", "task", "path")
OF_EPISODE = ("path", "fps", "group", "object", "states")  # what all the rows of one episode must agree on
UNEVEN = 0.25  # seconds by which a frame may miss an even clock before its video counts as one of variable rate


@settings
class FramesConfig:
    """root: the folder that all paths are relative to. table: the list of episodes, looked for under root too.

    fps: of rows that give none; pictures need one, a video says its own. columns: our name -> the table's, as in
    {episode: traj_id}. other_columns: what to do with columns of other names; a misspelt one would be lost silently,
    so they are refused unless `ignore`. motion: `pictures` measures how much moves (for pairs.trim_idle) by decoding
    every episode once, see stillness.py. threads: of the video decoder, 0 = its choice.
    """

    root: str
    table: str
    kind: Literal["frames"] = "frames"
    fps: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    other_columns: Literal["error", "ignore"] = "error"
    motion: Literal["none", "pictures"] = "none"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")
        if self.threads < 0:
            raise ValueError("`threads` must not be negative")
        for name in self.columns:
            if name not in COLUMNS:
                raise ValueError(f"columns: there is no column {name!r}, {nearest(name, list(COLUMNS))}")
        if Path(self.table).suffix.lower() not in READERS:
            raise ValueError(f"`table` must end in {', '.join(READERS)}, got {self.table!r}")


_CELLS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(COLUMNS, as_text),
    "start": as_frame,
    "end": as_frame,
    "fps": as_rate,
}


@dataclass(frozen=True)
class _Part:
    """A segment as its row gives it; `end` None is the end of the path."""

    row: int
    task: str
    start: int
    end: int | None


@dataclass
class _Record:
    """An episode as the table gives it: what its rows agree on (by column), and its segments."""

    episode_id: str
    facts: dict[str, Any]
    parts: list[_Part]


class FramesSource:
    """EpisodeSource of a table. Rows that cannot be used come as an Exclusion that names the row."""

    kind = "frames"

    def __init__(self, config: FramesConfig) -> None:
        """Reads the table, and no picture. Raises DataError where it or its columns cannot be used."""
        self.config = config
        self.root = Path(config.root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set root to the one that the table's paths start from")
        self.table = self.root / config.table
        self._excluded: list[Exclusion] = []
        self._records = self._read_records()
        self._owners: dict[Path, str] = {}
        # An episode's pictures, states and times are asked for one after the other, so the last one is remembered.
        self._pictures = lru_cache(1)(list_pictures)
        self._times = lru_cache(1)(_times)
        self._motion = lru_cache(1)(self._measure_motion)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First what the table itself lacks, then its episodes in the order of their first rows.

        Every picture's header is read (not its pixels), and a video's index. Raises DataError where not one path
        of the table is on disk.
        """
        yield from self._excluded
        records = list(self._records.values())
        if records and not any(os.path.exists(self.root / record.facts["path"]) for record in records):
            raise DataError(
                f"{self.table}: none of its {len(records)} paths is on disk, the first would be "
                f"{self.root / records[0].facts['path']}; set root to the folder that they are relative to"
            )
        for record in records:
            try:
                yield from self._episode(record)
            except DataError as error:
                # Errors begin with the file they are about; reasons are counted, so it belongs to the place.
                file, _, reason = str(error).partition(": ")
                where = f"{self.table}, row {record.parts[0].row}, {file}"
                yield Exclusion(f"episode {record.episode_id}", where, reason)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]; frames are counted, not timed.

        So index i is the folder's i-th picture in natural order (frame_2 before frame_10) or the i-th picture that a
        video shows, whatever its time stamps and whatever `fps` says. `fps` only turns distances into seconds: one
        given by the table or the configuration is believed (a file's own may be that of its playback), and a video
        of variable rate, whose seconds would be wrong, is refused unless one is given. A photo's mark of how it was
        held (EXIF) is applied, a video's is not. Raises DataError naming the file.
        """
        if any(not 0 <= index < episode.n_frames for index in indices) or list(indices) != sorted(set(indices)):
            raise DataError(
                f"episode {episode.episode_id}: frames {list(indices)} do not ascend from 0 to {episode.n_frames - 1}"
            )
        record = self._record(episode)
        path = self._path(record.facts["path"])
        if path.is_dir():
            files, size = self._pictures(self.root, path)
            _unchanged(path, len(files), episode)
            for index in indices:
                yield decoded(files[index], size)
            return
        times = self._times(path)
        _unchanged(path, len(times), episode)
        if self._given_fps(record) is None:
            _check_even(path, times)
        # With half of the smallest step as tolerance, a time names its own frame and no other.
        step = float(np.diff(times).min())
        yield from video.frames_at(path, [float(times[index]) for index in indices], 1 / step, self.config.threads)

    def states(self, episode: Episode) -> Sequence[State] | None:
        """The rows of the episode's `states` file, with "motion" by `picture_motion` where that is configured and the
        file has none. None where there is neither. Raises DataError for a file that has not one row a frame.
        """
        record = self._record(episode)
        states: list[dict[str, Any]] | None = None
        if "states" in record.facts:
            states = _read_states(self._path(record.facts["states"]), episode.n_frames)
        if self.config.motion == "pictures" and not (states and "motion" in states[0]):
            states = [{}] * episode.n_frames if states is None else states
            motions = self._motion(episode)
            return [{**state, "motion": motion} for state, motion in zip(states, motions, strict=True)]
        return states

    def claims(self, state: State) -> tuple[Claim, ...]:
        """Empty: what the states of other people's data mean is not known."""
        return ()

    def holds(self, claim: Claim, state: State) -> bool:
        return False

    def path_of(self, episode: Episode) -> str:
        """The folder or video that the episode was read from, as the table gives it: relative to root."""
        return str(self._record(episode).facts["path"])

    def _measure_motion(self, episode: Episode) -> list[float]:
        return picture_motion(self.frames(episode, range(episode.n_frames)), episode.fps)

    def _episode(self, record: _Record) -> Iterator[Episode | Exclusion]:
        path, given = self._path(record.facts["path"]), self._given_fps(record)
        if path.is_dir():
            count, fps = len(self._pictures(self.root, path)[0]), given
            if fps is None:
                raise DataError(
                    f"{path}: pictures do not say how fast they were taken; set `fps` in the configuration or give "
                    "the table a column fps"
                )
        elif path.is_file():
            count, fps = _probe(path, given)
        else:
            raise DataError(f"{path}: no such folder or file")
        if count < 2:
            raise DataError(f"{path}: {count} picture; a pair needs two")
        if "states" in record.facts and not self._path(record.facts["states"]).is_file():
            raise DataError(f"{self._path(record.facts['states'])}: no such file of states")
        owner = self._owners.setdefault(path, record.episode_id)
        if owner != record.episode_id:  # it could stand on both sides of a split
            raise DataError(
                f"{path}, of episode {owner}: the path already belongs to that episode; give all of its rows the same "
                "episode"
            )
        segments = []
        for part in record.parts:
            end = count if part.end is None else part.end
            if part.start < end <= count:
                segments.append(Segment(part.task, part.start, end))
            else:
                reason = f"frames [{part.start}, {end}) of a path that has {count}"
                yield Exclusion("segment", f"{self.table}, row {part.row}, {path}", reason)
        if segments:
            task = "; ".join(dict.fromkeys(segment.task for segment in segments))
            group, thing = record.facts.get("group", ""), record.facts.get("object", "")
            yield Episode(self.kind, record.episode_id, task, fps, count, tuple(segments), group, thing)

    def _path(self, relative: str) -> Path:
        return followed(self.root, relative)

    def _given_fps(self, record: _Record) -> float | None:
        fps: float | None = record.facts.get("fps", self.config.fps)
        return fps

    def _record(self, episode: Episode) -> _Record:
        record = self._records.get(episode.episode_id)
        if record is None:
            raise DataError(f"{self.table}: has no episode {episode.episode_id!r}; was the table replaced?")
        return record

    # ---- the table ----

    def _read_records(self) -> dict[str, _Record]:
        """Episode id -> its record, in the order of the table; rows that cannot be used go to `_excluded`."""
        listed = read_table(self.table)
        ours = self._name_columns(listed.columns)
        for row, reason in listed.bad:
            self._set_aside(row, reason)
        records: dict[str, _Record] = {}
        for row, values in listed.rows:
            cells = {name: values[column] for name, column in ours.items() if not blank(values.get(column))}
            try:
                self._add(records, row, cells)
            except ValueError as error:
                self._set_aside(row, str(error))
        return records

    def _add(self, records: dict[str, _Record], row: int, cells: Mapping[str, Any]) -> None:
        """Enter one row. Raises ValueError for one that cannot be used."""
        if lacking := [name for name in NEEDED if name not in cells]:
            raise ValueError(f"its {lacking[0]} is empty")
        read = {name: _CELLS[name](name, value) for name, value in cells.items()}
        episode_id = read["episode"]
        if not re.fullmatch(r"[\w+=@-][\w.+=@-]*", episode_id):
            raise ValueError(
                f"the episode's id {episode_id!r} becomes a file name: use letters, digits and _.+=@- only"
            )
        start, end = read.get("start", 0), read.get("end")
        if end is not None and end <= start:
            raise ValueError(f"a segment from frame {start} to {end} has no frame")
        facts = {name: read[name] for name in OF_EPISODE if name in read}
        record = records.get(episode_id) or _Record(episode_id, {}, [])
        for name, value in facts.items():
            if record.facts.get(name, value) != value:
                raise ValueError(
                    f"{name} {value!r}, but row {record.parts[0].row} gives episode {episode_id} {record.facts[name]!r}"
                )
        record.facts |= facts
        record.parts.append(_Part(row, read["task"], start, end))
        records[episode_id] = record

    def _name_columns(self, present: Sequence[str]) -> dict[str, str]:
        """Our name -> the table's column. Raises DataError for a needed one that is missing and an unknown one."""
        ours = {name: self.config.columns.get(name, name) for name in COLUMNS}
        for name, column in ours.items():
            if column not in present and (name in NEEDED or name in self.config.columns):
                raise DataError(
                    f"{self.table}: no column {column!r}; rename the one that is meant, or say "
                    f"`columns: {{{name}: its name}}`; {nearest(column, list(present))}"
                )
        unknown = [column for column in present if column not in ours.values()]
        if unknown and self.config.other_columns == "error":
            raise DataError(
                f"{self.table}: unknown column {unknown[0]!r}; rename it, or set `other_columns: ignore`; "
                f"{nearest(unknown[0], list(ours.values()))}"
            )
        return {name: column for name, column in ours.items() if column in present}

    def _set_aside(self, row: int, reason: str) -> None:
        self._excluded.append(Exclusion("row", f"{self.table}, row {row}", reason))


def _read_states(path: Path, n_frames: int) -> list[dict[str, Any]]:
    """One mapping a frame. Empty cells are None; a CSV's numbers are read as numbers, but a phase stays a word."""
    table = read_table(path)
    if table.bad:
        raise DataError(f"{path}, row {table.bad[0][0]}: {table.bad[0][1]}")
    if len(table.rows) != n_frames:
        raise DataError(f"{path}: {len(table.rows)} rows of states for {n_frames} frames; give one a frame")
    states = []
    for row, values in table.rows:
        try:
            states.append({name: _state(name, values.get(name)) for name in table.columns})
        except ValueError as error:
            raise DataError(f"{path}, row {row}: {error}") from None
    return states


def _state(name: str, value: Any) -> Any:
    if name == "phase":
        return "" if blank(value) else as_text(name, value)
    if name == "motion":
        motion = as_number(name, value)
        if not 0 <= motion <= 1:
            raise ValueError(f"motion {motion} is outside 0..1 of the episode's fastest")
        return motion
    if blank(value):
        return None
    if name == "progress":
        return as_number(name, value)
    if isinstance(value, str):
        try:
            return as_number(name, value)
        except ValueError:
            return as_text(name, value)
    return value


# ---- videos ----


def _probe(path: Path, given: float | None) -> tuple[int, float]:
    """Number of frames and fps (the given one, else the file's own) by a video's index. Raises DataError."""
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path}: a single picture; `path` names the folder of an episode's pictures, or a video")
    facts = video.probe(path)
    with video._opened(path) as (_, stream):
        first = float((stream.start_time or 0) * stream.time_base)
        stated = float(stream.average_rate or 0)
    count, lasts = facts.frames, facts.last_seconds - first
    # An index also counts frames that were trimmed away and are never shown; then every packet must be looked at.
    if abs(lasts * stated - (count - 1)) > 0.5:
        count = len(_times(path))
    if given is not None:
        return count, given
    if count < 2 or lasts <= 0:
        raise DataError(f"{path}: {count} frame(s) in {max(lasts, 0):.2f} s; a pair needs two")
    fps = (count - 1) / lasts
    # Some containers round times to milliseconds: where the stated rate agrees, it is the exact one.
    return count, stated if abs(stated - fps) < 0.01 * fps else fps


def _times(path: Path) -> Any:
    """When each frame of a video is shown, in seconds, ascending [frames]. Reads the packets, decodes none."""
    with video._opened(path) as (_, stream):
        stamps = [packet.pts for packet in video._packets(stream.container, stream, path) if not packet.is_discard]
        times = np.sort(np.array(stamps, dtype=np.int64)) * float(stream.time_base)
    if not (np.diff(times) > 0).all():
        raise DataError(f"{path}: two of its frames are of the same time; write the video anew")
    return times


def _check_even(path: Path, times: Any) -> None:
    clock = np.linspace(times[0], times[-1], len(times))
    off = float(np.abs(times - clock).max())
    if off > UNEVEN:
        raise DataError(
            f"{path}: of variable frame rate, a frame is {off:.2f} s off the even clock; convert it to a constant "
            "rate, or give `fps` if its frames are evenly spaced in truth"
        )


def _unchanged(path: Path, count: int, episode: Episode) -> None:
    if count != episode.n_frames:
        raise DataError(
            f"{path}: {count} frames can be read, {episode.n_frames} were listed for episode {episode.episode_id}; "
            "the file is damaged or was replaced"
        )
