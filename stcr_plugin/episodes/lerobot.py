"""`lerobot`: episodes of a LeRobot dataset on disk, format v2.x (one file per episode) or v3.x (many in one)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import proprioception as body
from stcr_plugin.episodes import stage_spans
from stcr_plugin.episodes.lerobot_clock import picture_times
from stcr_plugin.episodes.lerobot_images import check_pictures, stored_pictures
from stcr_plugin.episodes.lerobot_meta import Meta
from stcr_plugin.episodes.lerobot_records import Listing, Record, list_records
from stcr_plugin.episodes.lerobot_rows import DataFile, Rows, read_vectors
from stcr_plugin.episodes.lerobot_stages import LeRobotStages, read_stages
from stcr_plugin.episodes.lerobot_tasks import Texts, read_texts, subtask_segments, task_segments
from stcr_plugin.episodes.proprioception import Proprioception
from stcr_plugin.episodes.recordings import action_segment, check_indices, exclusion, named_frames, record_of
from stcr_plugin.episodes.stage_spans import StageSpans
from stcr_plugin.episodes.video import VideoFacts, frame_times, frames_at, probe
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.episodes.video import Times
    from stcr_plugin.types import Picture


@settings
class LeRobotConfig:
    """A LeRobot dataset.

    Attributes:
        root: Folder that holds meta/, data/ and videos/.
        camera: Key of a video or image feature; None takes the first that shows colour, videos before images.
        state: Feature with the robot's own readings, where the dataset has it.
        tasks: Recorded task text -> the text to use instead, where a recording shows something else than its text says.
        episode_tasks: Episode id -> the text of that episode, where it shows another task than the rest.
        proprioception: Which values of `state` are which part of the robot, and what to say of them.
        stages: Annotated stages that frames are described by. An episode's segments are then those of its task, so
            that the two frames of a pair may be in different stages.
        threads: Threads of the decoder, 0 lets it choose; more make long scans faster and take more memory.
    """

    root: str
    kind: Literal["lerobot"] = "lerobot"
    camera: str | None = None
    state: str = "observation.state"
    tasks: dict[str, str] = field(default_factory=dict)
    episode_tasks: dict[str, str] = field(default_factory=dict)
    proprioception: Proprioception | None = None
    stages: LeRobotStages | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError("`threads` must not be negative")
        for name, texts in {"tasks": self.tasks, "episode_tasks": self.episode_tasks}.items():
            if not all(text.strip() for text in texts.values()):
                raise ValueError(f"`{name}` gives an empty text; write what the recording shows")


class LeRobotSource:
    """EpisodeSource of a LeRobot dataset. Episodes that are listed but not on disk come as an Exclusion."""

    kind = "lerobot"

    def __init__(self, config: LeRobotConfig) -> None:
        """Raises DataError where meta/info.json cannot be used, ConfigError for an unknown camera or part."""
        self.config = config
        self.meta = Meta(Path(config.root), config.camera)
        self.fps = self.meta.fps
        self._dims = self._resolve_parts()
        # Version 3 keeps many episodes in one file, and episodes follow the files: remember the last one of each.
        self._probe, self._frame_times, self._data_file = (
            lru_cache(1)(probe),
            lru_cache(1)(frame_times),
            lru_cache(1)(partial(DataFile, language=config.stages is not None and config.stages.read == "language")),
        )
        self._check_names()

    @property
    def camera(self) -> str:
        """Name of the feature whose pictures are used."""
        return self.meta.camera

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every listed episode, in recorded order. Raises DataError where not one of their videos is on disk."""
        records = self._listing.records.values()
        if not any(record.on_disk for record in records):
            kind = "video" if self.meta.in_videos else "file of rows"
            raise DataError(
                self.meta.root,
                f"none of the {len(records)} listed episodes has a {kind} for {self.camera!r}",
                f"download the {kind}s into this folder (the first belongs at {next(iter(records)).files[0]})",
            )
        yield from self._listing.excluded
        staged, reason = False, ""
        for record in records:
            try:
                episode = self._episode(record)
                stages = self._stages(record)
                staged |= bool(stages.spans)
                reason = reason or "".join(stages.problems[:1])
                yield from stage_spans.exclusions(stages, f"episode {record.index}, {record.where}")
                yield episode
            except DataError as error:
                yield exclusion(f"episode {record.index}", record.where, error, files=record.files)
        if self.config.stages is not None and not staged:
            problem = f"not one episode has a usable stage where `read: {self.config.stages.read}` looks"
            problem += f"; {reason}" if reason else ""
            raise DataError(self.meta.root, problem, "set source.stages.read to another place, or remove source.stages")

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError naming the episode."""
        record = self._record(episode)
        check_indices(episode, indices)
        if record.stretch is None:
            pictures = stored_pictures(record, indices, root=self.meta.root, name=self.camera)
        else:
            try:
                times = self._times(record)
            except DataError as error:
                raise DataError(f"episode {record.index}: {error.where}", error.problem, error.fix) from None
            seconds = [float(times[index]) for index in indices]
            pictures = frames_at(record.stretch.video, seconds, self.fps, threads=self.config.threads)
        yield from named_frames(pictures, f"episode {record.index}", indices)

    def states(self, episode: Episode) -> Sequence[State] | None:
        """States as `proprioception.part_states` describes them, or "motion" alone where no parts are configured.

        With `config.stages` those of `stage_spans.add_stages` too. None where there is neither: the dataset has no
        vector of that name. Raises DataError for a value that is not a number.
        """
        record = self._record(episode)
        states = self._readings(record)
        if self.config.stages is None:
            return states
        return stage_spans.add_stages(states, self._stages(record), record.length)

    def _readings(self, record: Record) -> Sequence[State] | None:
        name, fps = self.config.state, self.fps
        if not str(self.meta.features.get(name, {}).get("dtype")).startswith("float"):
            return None
        vectors = read_vectors(record, name)
        if vectors.shape[1] != self.meta.width(name):
            problem = f"{name} has {vectors.shape[1]} values, {self.meta.path} says {self.meta.width(name)}"
            raise DataError(record.rows, problem, "take all files from the same dataset")
        if self.config.proprioception is None:
            return body.motion_states(vectors, fps)
        return body.part_states(vectors, fps, self.config.proprioception, dims=self._dims, episode=record.episode_id)

    def claims(self, state: State) -> tuple[Claim, ...]:
        """The stage, then the parts of the robot, as far as they are configured."""
        parts, stages = self.config.proprioception, self.config.stages
        stage = () if stages is None else stage_spans.claims(state, stages.say)
        return stage if parts is None else stage + body.claims(state, parts)

    def holds(self, claim: Claim, state: State) -> bool:
        parts = self.config.proprioception
        return stage_spans.holds(claim, state) or (parts is not None and body.holds(claim, state, parts))

    def _episode(self, record: Record) -> Episode:
        """The episode that a record and its files agree on. Raises DataError where they do not."""
        facts = None if record.stretch is None else self._probe(record.stretch.video)
        rows = self._data_file(record.data).rows(record)
        if facts is None:
            check_pictures(record, self.camera)
        else:
            self._picture_times(record, facts)
        try:
            rows.check_stamps(self.fps)
        except ValueError as error:
            raise DataError(record.data, str(error)) from None
        try:
            task, segments = self._segments(record, rows)
        except ValueError as error:
            raise DataError(record.where, str(error)) from None
        return Episode(self.kind, record.episode_id, task, fps=self.fps, n_frames=record.length, segments=segments)

    def _segments(self, record: Record, rows: Rows) -> tuple[str, tuple[Segment, ...]]:
        """The task of the whole episode, "" where it has several, and its segments. Raises ValueError."""
        found: tuple[Segment, ...] = ()
        if self.config.stages is None:
            found = tuple(action_segment(action, record.length) for action in record.actions)
            if not found and self._subtasks.texts and (indices := rows.subtask_indices) is not None:
                found = subtask_segments(indices, self._subtasks.texts)
        try:
            tasks = task_segments(rows.task_indices, record.tasks, table=self._tasks, length=record.length)
        except ValueError:
            if not found:  # what is asked of a segment is its own text
                raise
            tasks = ()
        renamed, own = self.config.tasks, self.config.episode_tasks.get(record.episode_id)
        tasks = tuple(replace(segment, task=own or renamed.get(segment.task, segment.task)) for segment in tasks)
        texts = {segment.task for segment in tasks}
        return texts.pop() if len(texts) == 1 else "", found or tasks

    def _stages(self, record: Record) -> StageSpans:
        """Its annotated stages, none where they are not configured. Raises DataError."""
        if self.config.stages is None:
            return StageSpans()
        rows = self._data_file(record.data).rows(record)
        return read_stages(record, rows, self.config.stages.read, subtasks=self._subtasks, fps=self.fps)

    def _picture_times(self, record: Record, facts: VideoFacts) -> Times:
        assert record.stretch is not None
        return picture_times(record.stretch, record.length, self.fps, facts=facts, read_times=self._frame_times)

    def _times(self, record: Record) -> Times:
        """Presentation time of each row's picture; those of an even clock where the video was changed since."""
        assert record.stretch is not None
        if record.stretch.whole:
            times = self._frame_times(record.stretch.video)
            return times if len(times) == record.length else np.arange(record.length) / self.fps
        return self._picture_times(record, self._probe(record.stretch.video))

    @cached_property
    def _listing(self) -> Listing:
        return list_records(self.meta)

    @cached_property
    def _tasks(self) -> Texts:
        return read_texts(self.meta.root, "task")

    @cached_property
    def _subtasks(self) -> Texts:
        return read_texts(self.meta.root, "subtask") if "subtask_index" in self.meta.features else Texts({})

    def _record(self, episode: Episode) -> Record:
        return record_of(self._listing.records, episode, self.meta.root)

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
            listed = [record.tasks for record in self._listing.records.values()]
            flat = [text for one in listed for text in (one if isinstance(one, list) else [one])]
            recorded = {*self._tasks.texts.values(), *(text for text in flat if isinstance(text, str))}
            _all_known("source.tasks", self.config.tasks, sorted(recorded))
        _all_known("source.episode_tasks", self.config.episode_tasks, list(self._listing.records))
        parts = self.config.proprioception
        for part, hand in parts.hands.items() if parts else ():
            if hand.hidden:
                _all_known(f"source.proprioception.hands.{part}.hidden", hand.hidden, list(self._listing.records))


def _all_known(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(where, f"{name!r} is not in the dataset, {nearest(name, known)}")
