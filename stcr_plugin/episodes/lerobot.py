"""`lerobot`: episodes of a LeRobot dataset on disk, format v2.x (one file per episode) or v3.x (many in one)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import proprioception as body
from stcr_plugin.episodes.lerobot_meta import Meta, Record, read_columns, read_vectors, rows_by_episode
from stcr_plugin.episodes.proprioception import Proprioception
from stcr_plugin.episodes.recordings import action_segment, check_indices, exclusion, named_frames, record_of
from stcr_plugin.episodes.video import VideoFacts, frames_at, probe
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture


@settings
class LeRobotConfig:
    """A LeRobot dataset.

    Attributes:
        root: Folder that holds meta/, data/ and videos/.
        camera: Key of a video feature; None takes the first.
        state: Feature with the robot's own readings, where the dataset has it.
        tasks: Recorded task text -> the text to use instead, where a recording shows something else than its text says.
        proprioception: Which values of `state` are which part of the robot, and what to say of them.
        threads: Threads of the decoder, 0 lets it choose; more make long scans faster and take more memory.
    """

    root: str
    kind: Literal["lerobot"] = "lerobot"
    camera: str | None = None
    state: str = "observation.state"
    tasks: dict[str, str] = field(default_factory=dict)
    proprioception: Proprioception | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError("`threads` must not be negative")
        if not all(text.strip() for text in self.tasks.values()):
            raise ValueError("`tasks` gives an empty text; write what the recording shows")


class LeRobotSource:
    """EpisodeSource of a LeRobot dataset. Episodes that are listed but not on disk come as an Exclusion."""

    kind = "lerobot"

    def __init__(self, config: LeRobotConfig) -> None:
        """Raises DataError where meta/info.json cannot be used, ConfigError for an unknown camera or part."""
        self.config = config
        self.meta = Meta(Path(config.root), config.camera)
        self.fps = self.meta.fps
        self._dims = self._resolve_parts()
        self._check_names()

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every listed episode, in recorded order. Raises DataError where not one of their videos is on disk."""
        records = self.meta.records.values()
        if not any(record.video.is_file() for record in records):
            raise DataError(
                self.meta.root,
                f"none of the {len(records)} listed episodes has a video for {self.meta.camera!r}",
                f"download the video files into this folder (the first belongs at {next(iter(records)).video})",
            )
        # Version 3 keeps many episodes in one file, and episodes follow the files: remember the last one of each.
        videos, rows = lru_cache(1)(probe), lru_cache(1)(rows_by_episode)
        for record in records:
            try:
                yield self._episode(record, videos, rows)
            except DataError as error:
                yield exclusion(f"episode {record.index}", record.where, error, files=(record.video, record.data))

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError naming the episode."""
        record = self._record(episode)
        check_indices(episode, indices)
        times = record.start + self._timestamps(record)
        seconds = [float(times[index]) for index in indices]
        pictures = frames_at(record.video, seconds, self.fps, threads=self.config.threads)
        yield from named_frames(pictures, f"episode {record.index}", indices)

    def states(self, episode: Episode) -> Sequence[State] | None:
        """States as `proprioception.part_states` describes them, or "motion" alone where no parts are configured.

        None where the dataset has no vector of that name. Raises DataError for a value that is not a number.
        """
        name, fps = self.config.state, self.fps
        if not str(self.meta.features.get(name, {}).get("dtype")).startswith("float"):
            return None
        record = self._record(episode)
        vectors = read_vectors(record, name)
        if vectors.shape[1] != self.meta.width(name):
            problem = f"{name} has {vectors.shape[1]} values, {self.meta.path} says {self.meta.width(name)}"
            raise DataError(record.rows, problem, "take all files from the same dataset")
        if self.config.proprioception is None:
            return body.motion_states(vectors, fps)
        return body.part_states(vectors, fps, self.config.proprioception, dims=self._dims, episode=record.episode_id)

    def claims(self, state: State) -> tuple[Claim, ...]:
        """Empty where no parts are configured."""
        parts = self.config.proprioception
        return () if parts is None else body.claims(state, parts)

    def holds(self, claim: Claim, state: State) -> bool:
        parts = self.config.proprioception
        return parts is not None and body.holds(claim, state, parts)

    def _episode(
        self, record: Record, videos: Callable[[Path], VideoFacts], rows: Callable[[Path], Counter[int]]
    ) -> Episode:
        facts = videos(record.video)
        count, fps = rows(record.data)[record.index], self.fps
        if count != record.length:
            raise DataError(record.data, f"{count} rows, but the meta data say {record.length} frames")
        if count < 2:
            raise DataError(record.where, f"{count} frame; a pair needs two")
        if not self.meta.shares_files and facts.frames != count:
            raise DataError(record.video, f"{facts.frames} frames for {count} rows of {record.data}")
        end = record.start + (count - 1) / fps
        if facts.last_seconds < end - 0.5 / fps:
            raise DataError(
                record.video, f"its last frame is at {facts.last_seconds:.2f} s, the episode's at {end:.2f} s"
            )
        tasks = record.tasks or self._tasks_of_rows(record)
        task = "; ".join(self.config.tasks.get(text, text) for text in tasks)
        segments = self._segments(record, task)
        return Episode(self.kind, record.episode_id, task, fps=fps, n_frames=count, segments=segments)

    def _segments(self, record: Record, task: str) -> tuple[Segment, ...]:
        if record.actions:
            try:
                return tuple(action_segment(action, record.length) for action in record.actions)
            except ValueError as error:
                raise DataError(record.where, str(error)) from None
        if texts := self.meta.subtasks:
            read = read_columns(record, ["subtask_index"])["subtask_index"].to_numpy().astype(np.float64)
            subtasks = np.where(np.isfinite(read), read, -1).astype(np.int64)
            edges = [0, *(np.flatnonzero(np.diff(subtasks)) + 1).tolist(), len(subtasks)]
            runs = [(int(subtasks[start]), start, end) for start, end in itertools.pairwise(edges)]
            # An index without a text, -1 by custom, null and NaN too, marks frames that nobody annotated.
            found = tuple(Segment(texts[sub], start, end) for sub, start, end in runs if sub in texts)
            if found:
                return found
        return (Segment(task, 0, record.length),)

    def _tasks_of_rows(self, record: Record) -> list[str]:
        indices = set(read_columns(record, ["task_index"])["task_index"].to_pylist())
        if unknown := sorted(indices - self.meta.tasks.keys()):
            raise DataError(record.rows, f"task_index {unknown[0]} is not in meta/tasks")
        return [self.meta.tasks[index] for index in sorted(indices)]

    def _timestamps(self, record: Record) -> Any:
        """Seconds since the episode's start, [rows]."""
        if "timestamp" not in self.meta.features:
            return np.arange(record.length) / self.fps
        times = read_columns(record, ["timestamp"])["timestamp"].to_numpy().astype(np.float64)
        if not (np.diff(times) > 0).all():
            raise DataError(record.rows, "its time stamps do not ascend, the rows are mixed up", "download it again")
        return times

    def _record(self, episode: Episode) -> Record:
        return record_of(self.meta.records, episode, self.meta.root)

    def _resolve_parts(self) -> dict[str, list[int]]:
        parts, name = self.config.proprioception, self.config.state
        if parts is None:
            return {}
        if name not in self.meta.features:
            known = nearest(name, list(self.meta.features))
            raise ConfigError(self.meta.path, f"no feature {name!r} for the proprioception, {known}")
        return body.resolve(parts, self.meta.names(name), self.meta.width(name), where=str(self.meta.path))

    def _check_names(self) -> None:
        """Task texts and episodes of the configuration are those of the dataset: a misspelt one would do nothing."""
        if self.config.tasks:
            recorded = {*self.meta.tasks.values(), *(text for one in self.meta.records.values() for text in one.tasks)}
            _all_known("source.tasks", self.config.tasks, sorted(recorded))
        parts = self.config.proprioception
        for part, hand in parts.hands.items() if parts else ():
            _all_known(f"source.proprioception.hands.{part}.hidden", hand.hidden, list(self.meta.records))


def _all_known(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(where, f"{name!r} is not in the dataset, {nearest(name, known)}")
