"""`agibot`: AgiBot World (Alpha and Beta) as it is published, unpacked or in the tar archives as downloaded.

task_info/task_<task>.json                              the episodes of a task, see agibot_labels.py
observations/<task>/<first>-<last>.tar                  holds <episode>/videos/<camera>.mp4, read without unpacking
observations/<task>[/<first>-<last>]/<episode>/videos/<camera>.mp4, or without videos/: the same unpacked
proprio_stats/<task>/<episode>/proprio_stats.h5         or in proprio_stats/<task>.tar or proprio_stats.tar
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import archive, stage_spans
from stcr_plugin.episodes.agibot_labels import Record, TaskInfo, read_task
from stcr_plugin.episodes.agibot_readings import read_vectors
from stcr_plugin.episodes.archive import Slice
from stcr_plugin.episodes.proprioception import motion_states
from stcr_plugin.episodes.recordings import (
    action_segment,
    check_indices,
    exclusion,
    inside_download,
    named_as,
    named_frames,
)
from stcr_plugin.episodes.stage_spans import StageClaims, StageSpans
from stcr_plugin.episodes.stillness import picture_motion
from stcr_plugin.episodes.video import VideoFacts, frame_times, frames_at, probe
from stcr_plugin.episodes.video_file import Video
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

_VIDEOS, _READINGS = "observations", "proprio_stats"
_SLOWER = 0.02  # share by which a video's own rate may differ from source.fps
_SUFFIXES = (".mp4", ".h5")  # of the archives' members that are listed; depth pictures are not


@settings
class AgibotConfig:
    """AgiBot World on disk.

    Attributes:
        root: Folder that holds task_info/ and observations/.
        tasks: Ids of tasks; null takes every one on disk.
        camera: The video's name without .mp4.
        fps: Frames per second of the videos.
        motion: Where the state "motion" comes from: nothing, the robot's readings (proprio_stats.h5, needs h5py) or
            the pictures themselves (decodes every frame).
        stages: What to say of the annotated actions as stages of their episode. With it an episode is one segment, and
            its task is the text of the AgiBot task; without it each action is a segment, whose task is its text.
        threads: Threads of the decoder, 0 lets it choose.
    """

    root: str
    kind: Literal["agibot"] = "agibot"
    tasks: tuple[int | str, ...] | None = None
    camera: str = "head_color"
    fps: float = 30.0
    motion: Literal["none", "proprioception", "pictures"] = "none"
    stages: StageClaims | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.threads < 0:
            raise ValueError("`fps` must be above 0 and `threads` not negative")
        if not re.fullmatch(r"[\w-]+", self.camera):
            raise ValueError(f"`camera` is a video's name without its ending, got {self.camera!r}")
        if named := named_as(self.camera):
            raise ValueError(f"`camera` {self.camera!r} is {named}, not colour pictures; take one such as head_color")
        if self.tasks == ():
            raise ValueError("`tasks` names at least one task, or is null for all")


@dataclass(frozen=True)
class _Archived:
    """Episode number -> its slice of the archives of one task, and what of them cannot be used."""

    parts: Mapping[str, Slice]
    excluded: tuple[Exclusion, ...]


class AgibotSource:
    """EpisodeSource of AgiBot World. The id of an episode is `<task>-<episode>`, its group the task.

    What is listed but not on disk, or broken, comes as an Exclusion.
    """

    kind = "agibot"

    def __init__(self, config: AgibotConfig) -> None:
        """Raises DataError where there is no task_info, ConfigError for an unknown task and where h5py is missing."""
        self.config = config
        self.root = Path(config.root)
        self._task = lru_cache(4)(self._read_task)
        self._archived = lru_cache(8)(self._read_archives)
        self._folders = lru_cache(8)(self._list_folders)
        if config.motion == "proprioception" and importlib.util.find_spec("h5py") is None:
            raise ConfigError(
                "source.motion",
                "proprioception is stored as HDF5, and h5py is not installed",
                "run: pip install 'stcr-plugin[agibot]', or set it to pictures or none",
            )
        known = self._known_tasks
        wanted = [str(task) for task in config.tasks or ()]
        if unknown := [task for task in wanted if task not in known]:
            problem = f"{self.root / 'task_info'} has no task_{unknown[0]}.json, {nearest(unknown[0], known)}"
            raise ConfigError("source.tasks", problem)
        self._tasks = [task for task in known if task in wanted or config.tasks is None]

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every listed episode, task by task. Raises DataError where not one of their videos is on disk."""
        listed = videos = 0
        for number in self._tasks:
            try:
                task, found = self._task(number), self._archived(_VIDEOS, number)
            except DataError as error:
                yield exclusion(f"task {number}", str(self._task_path(number)), error)
                continue
            yield from task.excluded
            yield from found.excluded
            owners: dict[str, list[str]] = {}
            for record in task.records.values():
                with suppress(DataError):
                    owners.setdefault(str(self._video(record.episode_id)), []).append(record.episode_id)
            for record in task.records.values():
                listed += 1
                try:
                    video = self._video(record.episode_id)
                    videos += 1
                    if others := [name for name in owners.get(str(video), ()) if name != record.episode_id]:
                        raise DataError(str(video), f"the video of episode {others[0]} too", "give each its own video")
                    yield from self._episode(record, video)
                except DataError as error:
                    yield exclusion(f"episode {record.episode_id}", record.where, error)
        if listed and not videos:
            raise DataError(
                self.root / _VIDEOS,
                f"none of the {listed} listed episodes has a {self.config.camera}.mp4 there, unpacked or in a tar"
                + self._refused(_VIDEOS, self._tasks),
                "download the observations of these tasks into this folder, or set source.camera",
            )

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError naming the episode."""
        check_indices(episode, indices)
        video = self._video(episode.episode_id)
        if _even(probe(video), episode.fps):
            times = np.arange(episode.n_frames) / episode.fps
        else:
            times = frame_times(video)
            if len(times) != episode.n_frames:
                raise DataError(
                    f"episode {episode.episode_id}: {video}", f"{len(times)} frames, {episode.n_frames} were listed"
                )
        seconds = [float(times[index]) for index in indices]
        pictures = frames_at(video, seconds, episode.fps, threads=self.config.threads)
        yield from named_frames(pictures, f"episode {episode.episode_id}", indices)

    def states(self, episode: Episode) -> Sequence[State]:
        """One State per frame: "progress", "motion" where `config.motion` names a source of it.

        With `config.stages` also those of `stage_spans.add_stages`.

        Progress is the share of the episode's time that has passed, so it rises within every segment, however
        they overlap. It is None outside of the segments, and from an annotated failure to the end of its recovery.
        Raises DataError for readings that are missing, unreadable or not one per frame.
        """
        known = np.zeros(episode.n_frames, dtype=bool)
        for segment in episode.segments:
            known[segment.start : segment.end] = True
        for start, end in self._record(episode).doubts:
            known[start:end] = False
        progress = [frame / episode.n_frames if known[frame] else None for frame in range(episode.n_frames)]
        motion = self._motion(episode)
        states = [
            {"progress": value} if motion is None else {"progress": value, "motion": motion[frame]}
            for frame, value in enumerate(progress)
        ]
        if self.config.stages is None:
            return states
        return stage_spans.add_stages(states, _stages(self._record(episode), episode.n_frames), episode.n_frames)

    def claims(self, state: State) -> tuple[Claim, ...]:
        """The stage that the frame is in, where stages are configured."""
        return () if self.config.stages is None else stage_spans.claims(state, self.config.stages.say)

    def holds(self, claim: Claim, state: State) -> bool:
        return stage_spans.holds(claim, state)

    # ---- one episode ----

    def _episode(self, record: Record, video: Video) -> Iterator[Episode | Exclusion]:
        """The episode, after those of its segments that cannot be used."""
        facts, fps = probe(video), self.config.fps
        if facts.frames < 2:
            raise DataError(str(video), f"{facts.frames} frame; a pair needs two")
        count, lasts = facts.frames, facts.last_seconds
        if not _even(facts, fps):  # frames are counted, so the clock only has to run at the right rate
            times = frame_times(video)
            count, lasts = len(times), float(times[-1] - times[0])
        end = (count - 1) / fps
        if abs(lasts - end) > max(0.5 / fps, _SLOWER * end):
            raise DataError(
                str(video),
                f"its {count} frames last {lasts:.2f} s, at {fps:g} fps they would last {end:.2f} s",
                "set source.fps to the video's own rate",
            )
        if self.config.stages is not None:
            yield from stage_spans.exclusions(_stages(record, count), f"episode {record.episode_id} ({record.where})")
        actions = record.actions if self.config.stages is None else ()
        segments = [] if actions else [Segment(record.name, 0, count)]
        for action in actions:
            try:
                segments.append(action_segment(action, count))
            except ValueError as error:
                yield Exclusion("segment", f"episode {record.episode_id} ({record.where})", str(error))
        if not segments:
            raise DataError(record.where, "not one of its segments can be used")
        own, found = record.episode_id, tuple(segments)
        yield Episode(self.kind, own, record.name, fps=fps, n_frames=count, segments=found, group=record.task)

    def _motion(self, episode: Episode) -> Sequence[float] | None:
        if self.config.motion == "none":
            return None
        if self.config.motion == "pictures":
            return picture_motion(self.frames(episode, range(episode.n_frames)), episode.fps)
        readings = self._find(_READINGS, episode.episode_id, ["proprio_stats.h5"])
        if readings is None:
            raise DataError(
                self.root / _READINGS,
                f"no proprio_stats.h5 of episode {episode.episode_id}"
                + self._refused(_READINGS, [episode.episode_id.partition("-")[0]]),
                "download it, or set source.motion to pictures or none",
            )
        return [state["motion"] for state in motion_states(read_vectors(readings, episode.n_frames), episode.fps)]

    def _record(self, episode: Episode) -> Record:
        task, _, number = episode.episode_id.partition("-")
        record = self._task(task).records.get(number) if task in self._tasks else None
        if record is None:
            raise DataError(self.root, f"has no episode {episode.episode_id!r}", "restore the data, or build again")
        return record

    # ---- files ----

    @cached_property
    def _known_tasks(self) -> list[str]:
        """Ids of the tasks on disk, numbers in their order."""
        names = [re.fullmatch(r"task_(\w+)\.json", path.name) for path in (self.root / "task_info").glob("*.json")]
        if not any(names):
            raise DataError(
                self.root,
                "not an AgiBot World dataset, task_info/task_<id>.json is missing",
                "give the folder that holds task_info/ and observations/",
            )
        return sorted((name[1] for name in names if name), key=lambda task: (len(task), task))

    def _task_path(self, task: str) -> Path:
        return self.root / "task_info" / f"task_{task}.json"

    def _read_task(self, task: str) -> TaskInfo:
        inside_download(self.root, f"task_info/task_{task}.json")
        return read_task(self._task_path(task), task)

    def _video(self, episode_id: str) -> Video:
        name = f"{self.config.camera}.mp4"
        video = self._find(_VIDEOS, episode_id, [f"videos/{name}", name])
        if video is None:
            folder = self.root / _VIDEOS / episode_id.partition("-")[0]
            raise DataError(folder, f"no {name} of episode {episode_id}, unpacked or in a tar", "download it")
        return video

    def _find(self, folder: str, episode_id: str, names: Sequence[str]) -> Video | None:
        """The unpacked file of an episode, or its slice of an archive, or None."""
        task, _, number = episode_id.partition("-")
        for parent in self._folders(folder, task):
            for name in names:
                relative = f"{parent}/{number}/{name}"
                if (self.root / relative).is_file():
                    return inside_download(self.root, relative)
        return self._archived(folder, task).parts.get(number)

    def _refused(self, folder: str, tasks: Sequence[str]) -> str:
        """The first archive of these tasks that cannot be used, and why, in brackets; "" without one."""
        excluded = (one for task in tasks for one in self._archived(folder, task).excluded)
        return next((f" ({one.where}: {one.reason})" for one in excluded), "")

    def _list_folders(self, folder: str, task: str) -> tuple[str, ...]:
        """Where unpacked episodes of a task may be: its folder, and those named after a range of episodes."""
        ranges = (path for path in (self.root / folder / task).glob("*-*") if path.is_dir())
        return (f"{folder}/{task}", *sorted(f"{folder}/{task}/{path.name}" for path in ranges))

    def _read_archives(self, folder: str, task: str) -> _Archived:
        patterns = (f"{folder}/{task}/*.tar", f"{folder}/{task}.tar", f"{folder}/{folder}.tar", f"{folder}.tar")
        paths = [path for pattern in patterns for path in sorted(self.root.glob(pattern)) if path.is_file()]
        file = {_VIDEOS: f"{self.config.camera}.mp4", _READINGS: "proprio_stats.h5"}[folder]
        parts: dict[str, Slice] = {}
        excluded: list[Exclusion] = []
        for path in paths:
            try:
                index = archive.index(inside_download(self.root, str(path.relative_to(self.root))), _SUFFIXES)
            except DataError as error:
                excluded.append(exclusion("archive", str(path), error))
                continue
            if index.problem:
                excluded.append(Exclusion("archive", str(path), index.problem))
            for name, reason in index.refused:
                if name.endswith(f"/{file}"):
                    excluded.append(Exclusion("archive member", f"{path}!{name}", reason))
            for part in index.members.values():
                number = _episode_of(part, file, task)
                if number in parts:
                    reason = f"a second video of episode {number}; that of {parts[number].path.name} is used"
                    excluded.append(Exclusion("archive member", str(part), reason))
                elif number is not None:
                    parts[number] = part
        return _Archived(parts, tuple(excluded))


def _stages(record: Record, n_frames: int) -> StageSpans:
    """The annotated actions of an episode as its stages."""
    entries = stage_spans.mapped_entries(record.actions, ["action_text"], start="start_frame", end="end_frame")
    return stage_spans.check_stages(entries, n_frames)


def _even(facts: VideoFacts, fps: float) -> bool:
    """Whether a video keeps an even clock of `fps` from 0."""
    return abs(facts.last_seconds - (facts.frames - 1) / fps) <= 0.5 / fps


def _episode_of(part: Slice, file: str, task: str) -> str | None:
    """The episode that a member belongs to, None for other files and those of another task.

    An archive without a folder for the episode is one episode's, and named after it.
    """
    *folders, name = part.name.replace("\\", "/").split("/")
    if name != file:
        return None
    if folders and folders[-1] == "videos":
        folders.pop()
    folders = [folder for folder in folders if folder != "."]
    if not folders:
        return part.path.stem
    other = len(folders) > 1 and folders[-2].isdigit() and folders[-2] != task
    return None if other else folders[-1]
