"""`frames`: a table of your own data that names episodes and the folders of their pictures, or their videos.

The table is CSV, JSONL or Parquet, by its suffix, or rows in the configuration; the columns it may have are `COLUMNS`.
A row is an episode, or one segment of it where several rows name the same episode: they all name the same path, which
no other episode has.
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

from stcr_plugin.artefacts import read_json
from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import stage_spans, video
from stcr_plugin.episodes.episode_table import READERS, Table, as_frame, as_rate, as_text, numbered, read_table
from stcr_plugin.episodes.picture_files import SUFFIXES, decoded, followed, list_pictures
from stcr_plugin.episodes.recordings import check_indices, reason_of, record_of
from stcr_plugin.episodes.stage_spans import StageClaims, StageSpans
from stcr_plugin.episodes.states_file import ProgressColumn, read_states
from stcr_plugin.episodes.stillness import picture_motion
from stcr_plugin.episodes.stored_values import is_empty
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
    "fps": "frames per second; where empty, the configuration's `fps`, then what the video file says",
    "group": "the population that the episode belongs to, for split rules",
    "object": "what is handled, for split rules",
    "states": "a CSV, JSONL or Parquet file, one row per frame, or a JSON file, {name: a list of one value per frame}, "
    "relative to root: `progress` (its name and scale: the setting `progress`), `phase`, `motion`, any",
    "stages": "with the setting `stages`: a JSON list of {annotation, start_frame_id, end_frame_id}, relative to root",
}
NEEDED = ("episode", "task", "path")
OF_EPISODE = ("path", "fps", "group", "object", "states", "stages")  # what all the rows of one episode must agree on


@settings
class FramesConfig:
    """A table of episodes.

    Attributes:
        root: Folder that all paths are relative to.
        table: The list of episodes, a file relative to root too, or its rows: [{episode: ..., path: ...}, ...].
        fps: Frames per second of rows that give none; pictures need one, a video says its own.
        columns: Our name -> the table's, as in {episode: traj_id}.
        other_columns: What to do with columns of other names. A misspelt one would be lost silently, so they are
            refused unless `ignore`.
        progress: The name and scale of the true progress in the files of the column `states`, which every episode must
            then have; without it they may have a column `progress`.
        motion: `pictures` measures how much moves (for pairs.trim_idle) by decoding every episode once, see
            stillness.py.
        stages: What to say of the stages that the files in the column `stages` annotate, as Robo-Dopamine's
            annotated_keyframes.json does; without it there is no such column.
        threads: Threads of the video decoder, 0 lets it choose.
    """

    root: str
    table: str | tuple[dict[str, Any], ...]
    kind: Literal["frames"] = "frames"
    fps: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    other_columns: Literal["error", "ignore"] = "error"
    progress: ProgressColumn | None = None
    motion: Literal["none", "pictures"] = "none"
    stages: StageClaims | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")
        if self.threads < 0:
            raise ValueError("`threads` must not be negative")
        for name in self.columns:
            if name not in COLUMNS:
                raise ValueError(f"columns: there is no column {name!r}, {nearest(name, list(COLUMNS))}")
            if name == "stages" and self.stages is None:
                raise ValueError("columns: `stages` is read only with the setting `stages: {}`")
        if isinstance(self.table, str) and Path(self.table).suffix.lower() not in READERS:
            raise ValueError(f"`table` must end in {', '.join(READERS)}, got {self.table!r}")
        if not self.table:
            raise ValueError("`table` has no row")


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
            raise DataError(self.root, "no such folder", "set root to the one that the table's paths start from")
        self.table, listed = self._listed()
        self._excluded: list[Exclusion] = []
        self._records = self._read_records(listed)
        self._owners: dict[Path, str] = {}
        # An episode's pictures and states are used one after the other, so the last one is remembered.
        self._pictures = lru_cache(1)(list_pictures)
        self._motion = lru_cache(1)(self._measure_motion)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that cannot be used, then the episodes in the order of their first rows.

        Every picture's header is read (not its pixels), and a video's index. Raises DataError where not one path
        of the table is on disk.
        """
        yield from self._excluded
        records = list(self._records.values())
        if records and not any(os.path.exists(self.root / record.facts["path"]) for record in records):
            first = self.root / records[0].facts["path"]
            problem = f"none of its {len(records)} paths is on disk, the first would be {first}"
            raise DataError(self.table, problem, "set root to the folder that they are relative to")
        for record in records:
            try:
                yield from self._episode(record)
            except DataError as error:
                where = f"{self.table}, row {record.parts[0].row}, {error.where}"
                yield Exclusion(f"episode {record.episode_id}", where, reason_of(error))

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]; frames are counted, not timed.

        So index i is the folder's i-th picture in natural order (frame_2 before frame_10) or the i-th picture that a
        video shows, whatever its time stamps and whatever `fps` says. `fps` only turns distances into seconds: one
        given by the table or the configuration is believed (a file's own may be that of its playback), and a video
        of variable rate, whose seconds would be wrong, is refused unless one is given. A mark of how the
        camera was held is applied, a photo's (EXIF) and a video's. Raises DataError naming the file.
        """
        check_indices(episode, indices)
        record = self._record(episode)
        path = self._path(record.facts["path"])
        if path.is_dir():
            files, size = self._pictures(self.root, path)
            _unchanged(path, len(files), episode)
            for index in indices:
                yield decoded(files[index], size)
            return
        times = video.frame_times(path)
        _unchanged(path, len(times), episode)
        if self._given_fps(record) is None:
            video.check_even(path, times)
        yield from video.frames_numbered(path, indices, threads=self.config.threads)

    def states(self, episode: Episode) -> Sequence[State] | None:
        """What the episode's `states` file says, with "motion" by `picture_motion` where that is configured and the
        file has none, and with `config.stages` what `stage_spans.add_stages` adds. None where there is nothing of it.
        Raises DataError for a file without one value per frame.
        """
        record = self._record(episode)
        states: list[dict[str, Any]] | None = None
        if "states" in record.facts:
            file = self._path(record.facts["states"])
            states = read_states(file, episode.n_frames, self.config.progress)
        if self.config.motion == "pictures" and not (states and "motion" in states[0]):
            states = [{}] * episode.n_frames if states is None else states
            motions = self._motion(episode)
            states = [{**state, "motion": motion} for state, motion in zip(states, motions, strict=True)]
        if self.config.stages is None:
            return states
        return stage_spans.add_stages(states, self._stages(record, episode.n_frames), episode.n_frames)

    def claims(self, state: State) -> tuple[Claim, ...]:
        """The stage that the frame is in, where stages are configured."""
        return () if self.config.stages is None else stage_spans.claims(state, self.config.stages.say)

    def holds(self, claim: Claim, state: State) -> bool:
        return stage_spans.holds(claim, state)

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
                problem = "pictures do not say how fast they were taken"
                raise DataError(path, problem, "set `fps` in the configuration, or give the table a column fps")
        elif path.is_file():
            if path.suffix.lower() in SUFFIXES:
                problem = "a single picture; `path` names the folder of an episode's pictures, or a video"
                raise DataError(path, problem)
            count, fps = video.count_and_rate(path, given)
        else:
            raise DataError(path, "no such folder or file")
        if count < 2:
            raise DataError(path, f"{count} picture; a pair needs two")
        if "states" in record.facts and not (states := self._path(record.facts["states"])).is_file():
            raise DataError(states, "no such file of states")
        if self.config.progress is not None and "states" not in record.facts:
            raise DataError(path, "its row names no file of states, which `progress` is read from")
        owner = self._owners.setdefault(path, record.episode_id)
        if owner != record.episode_id:  # it could be on both sides of a split
            problem = "the path already belongs to that episode"
            raise DataError(f"{path}, of episode {owner}", problem, "give all of its rows the same episode")
        if self.config.stages is not None:
            where = f"{self.table}, row {record.parts[0].row}, {record.facts.get('stages', '')}"
            yield from stage_spans.exclusions(self._stages(record, count), where)
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
            group, thing, found = record.facts.get("group", ""), record.facts.get("object", ""), tuple(segments)
            yield Episode(
                self.kind, record.episode_id, task, fps=fps, n_frames=count, segments=found, group=group, object=thing
            )

    def _stages(self, record: _Record, n_frames: int) -> StageSpans:
        """The stages of an episode, by the keys of https://github.com/FlagOpen/Robo-Dopamine: a span ends before its
        `end_frame_id`, where the next one starts. None where its row names no file. Raises DataError.
        """
        if "stages" not in record.facts:
            return StageSpans()
        path = self._path(record.facts["stages"])
        items = read_json(path)
        if not isinstance(items, list):
            fix = "write [{annotation, start_frame_id, end_frame_id}, ...]"
            raise DataError(path, f"expected a list of stages, found {type(items).__name__}", fix)
        keys = ["anotation", "annotation"]  # as it is published, and as it is meant
        entries = stage_spans.mapped_entries(items, keys, start="start_frame_id", end="end_frame_id")
        return stage_spans.check_stages(entries, n_frames)

    def _path(self, relative: str) -> Path:
        return followed(self.root, relative)

    def _given_fps(self, record: _Record) -> float | None:
        fps: float | None = record.facts.get("fps", self.config.fps)
        return fps

    def _record(self, episode: Episode) -> _Record:
        return record_of(self._records, episode, self.table)

    # ---- the table ----

    def _listed(self) -> tuple[Path, Table]:
        """The table's name in errors, and the table."""
        table = self.config.table
        if isinstance(table, str):
            return self.root / table, read_table(self.root / table)
        return Path("source.table"), numbered(table)

    def _read_records(self, listed: Table) -> dict[str, _Record]:
        """Episode id -> its record, in the order of the table; rows that cannot be used go to `_excluded`."""
        ours = self._name_columns(listed.columns)
        for row, reason in listed.bad:
            self._exclude(row, reason)
        records: dict[str, _Record] = {}
        for row, values in listed.rows:
            cells = {name: values[column] for name, column in ours.items() if not is_empty(values.get(column))}
            try:
                self._add(records, row, cells)
            except ValueError as error:
                self._exclude(row, str(error))
        return records

    def _add(self, records: dict[str, _Record], row: int, cells: Mapping[str, Any]) -> None:
        """Add one row. Raises ValueError for one that cannot be used."""
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
        record.parts.append(_Part(row, read["task"], start, end=end))
        records[episode_id] = record

    def _name_columns(self, present: Sequence[str]) -> dict[str, str]:
        """Our name -> the table's column. Raises DataError for a missing column and for an unknown one."""
        known = [name for name in COLUMNS if name != "stages" or self.config.stages is not None]
        ours = {name: self.config.columns.get(name, name) for name in known}
        for name, column in ours.items():
            if column not in present and (name in NEEDED or name in self.config.columns):
                fix = f"rename the column that is meant, or set `columns: {{{name}: its name}}`"
                raise DataError(self.table, f"no column {column!r}, {nearest(column, list(present))}", fix)
        unknown = [column for column in present if column not in ours.values()]
        if unknown and self.config.other_columns == "error":
            fix = "rename it, or set `other_columns: ignore`"
            if unknown[0] == "stages":
                fix = f"set `stages: {{}}` to read annotated stages, or {fix}"
            raise DataError(
                self.table, f"unknown column {unknown[0]!r}, {nearest(unknown[0], list(ours.values()))}", fix
            )
        return {name: column for name, column in ours.items() if column in present}

    def _exclude(self, row: int, reason: str) -> None:
        self._excluded.append(Exclusion("row", f"{self.table}, row {row}", reason))


def _unchanged(path: Path, count: int, episode: Episode) -> None:
    if count != episode.n_frames:
        problem = f"{count} frames can be read, {episode.n_frames} were listed for episode {episode.episode_id}"
        raise DataError(path, problem, "restore the file, or build again")
