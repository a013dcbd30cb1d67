"""`agibot`: AgiBot World (Alpha and Beta) as it is published, unpacked or in the tar archives as downloaded.

    task_info/task_<task>.json                              the episodes of a task, annotated
    observations/<task>/<first>-<last>.tar                  holds <episode>/videos/<camera>.mp4, read in place
    observations/<task>[/<first>-<last>]/<episode>/videos/<camera>.mp4, or without videos/: the same unpacked
    proprio_stats/<task>/<episode>/proprio_stats.h5         or in proprio_stats/<task>.tar or proprio_stats.tar

Format: the dataset cards, https://huggingface.co/datasets/agibot-world/AgiBotWorld-Alpha and -Beta. An entry of
task_info is `{episode_id, task_name, label_info}` (`lable_info` in some files); `label_info.action_config` lists
`{start_frame, end_frame, action_text}`, half-open, in frames of the 30 Hz video.

`label_info.key_frame` lists `{start, end, comment}`, in the same frames; a comment says that something failed or that
the robot recovered ("Failure recovery"). The publishers have taken the field out of the present files
(https://github.com/OpenDriveLab/AgiBot-World/issues/76), so it is read where a copy has it. See `_in_doubt`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stcr_plugin.artefacts import inside, read_json
from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import archive
from stcr_plugin.episodes.archive import Slice
from stcr_plugin.episodes.proprioception import Vectors, motion_states
from stcr_plugin.episodes.stillness import picture_motion
from stcr_plugin.episodes.video import Video, frames_at, probe
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

_VIDEOS, _READINGS = "observations", "proprio_stats"
_SUFFIXES = (".mp4", ".h5")  # of the archives' members that are listed; depth pictures are not
_FAILURE = re.compile(r"fail|error|mistake|失败|错误", re.I)
_RECOVERY = re.compile(r"recover|恢复", re.I)
_GRIPPER = 100.0  # mm of opening that count as much as 1 rad of a joint
_WIDEST = 64  # values a frame; the widest published vector has 14


@settings
class AgibotConfig:
    """root: the folder that holds task_info/ and observations/. tasks: their ids; null takes every one on disk.

    camera: the video's name without .mp4. motion: what the state "motion" is taken from: nothing, the robot's
    readings (proprio_stats.h5, needs h5py) or the pictures themselves (decodes every frame). threads: of the
    decoder, 0 = its choice.
    """

    root: str
    kind: Literal["agibot"] = "agibot"
    tasks: tuple[int | str, ...] | None = None
    camera: str = "head_color"
    fps: float = 30.0
    motion: Literal["none", "proprioception", "pictures"] = "none"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.threads < 0:
            raise ValueError("`fps` must be above 0 and `threads` not negative")
        if not re.fullmatch(r"[\w-]+", self.camera):
            raise ValueError(f"`camera` is a video's name without its ending, got {self.camera!r}")
        if self.tasks == ():
            raise ValueError("`tasks` names at least one task, or is null for all")


@dataclass(frozen=True)
class _Record:
    """What task_info says of one episode. doubts: frames [start, end) of which the truth does not say how far the
    task has come, end None for the episode's end. where: file and entry, from 1."""

    task: str
    number: str
    name: str
    actions: tuple[Any, ...]
    doubts: tuple[tuple[int, int | None], ...]
    where: str

    @property
    def episode_id(self) -> str:
        return f"{self.task}-{self.number}"


@dataclass(frozen=True)
class _Task:
    records: Mapping[str, _Record]
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True)
class _Archived:
    """Episode number -> where it stands in the archives of one task."""

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
                "source.motion: proprioception is stored as HDF5, and h5py is not installed; "
                "run: pip install 'stcr-plugin[agibot]', or set it to pictures or none"
            )
        known = self._known_tasks
        wanted = [str(task) for task in config.tasks or ()]
        if unknown := [task for task in wanted if task not in known]:
            raise ConfigError(
                f"source.tasks: {self.root / 'task_info'} has no task_{unknown[0]}.json, {nearest(unknown[0], known)}"
            )
        self._tasks = [task for task in known if task in wanted or config.tasks is None]

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every listed episode, task by task. Raises DataError where not one of their videos is on disk."""
        listed = videos = 0
        for number in self._tasks:
            try:
                task, found = self._task(number), self._archived(_VIDEOS, number)
            except DataError as error:
                yield _exclusion(f"task {number}", str(self._task_path(number)), error)
                continue
            yield from task.excluded
            yield from found.excluded
            for record in task.records.values():
                listed += 1
                try:
                    video = self._video(record.episode_id)
                    videos += 1
                    yield from self._episode(record, video)
                except DataError as error:
                    yield _exclusion(f"episode {record.episode_id}", record.where, error)
        if listed and not videos:
            raise DataError(
                f"{self.root / _VIDEOS}: none of the {listed} listed episodes has a {self.config.camera}.mp4 there, "
                "unpacked or in a tar; download the observations of these tasks into this folder, or set source.camera"
            )

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError naming the episode."""
        if any(not 0 <= index < episode.n_frames for index in indices) or list(indices) != sorted(set(indices)):
            raise DataError(
                f"episode {episode.episode_id}: frames {list(indices)} do not ascend from 0 to {episode.n_frames - 1}"
            )
        times = [index / episode.fps for index in indices]
        pictures = frames_at(self._video(episode.episode_id), times, episode.fps, self.config.threads)
        for index in indices:
            try:
                yield next(pictures)
            except DataError as error:
                raise DataError(f"episode {episode.episode_id}, frame {index}: {error}") from None

    def states(self, episode: Episode) -> Sequence[State]:
        """One State a frame: "progress", and "motion" where `config.motion` names a source of it.

        Progress is the share of the episode's time that has passed, so it rises within every segment, however
        they overlap. It is None outside of the segments, and from an annotated failure to the end of its recovery.
        Raises DataError for readings that are missing, unreadable or not one a frame.
        """
        told = np.zeros(episode.n_frames, dtype=bool)
        for segment in episode.segments:
            told[segment.start : segment.end] = True
        for start, end in self._record(episode).doubts:
            told[start:end] = False
        progress = [frame / episode.n_frames if told[frame] else None for frame in range(episode.n_frames)]
        motion = self._motion(episode)
        return [
            {"progress": value} if motion is None else {"progress": value, "motion": motion[frame]}
            for frame, value in enumerate(progress)
        ]

    def claims(self, state: State) -> tuple[Claim, ...]:
        """Empty: this source has no wording of what its readings say, so its pairs can only become weak samples."""
        return ()

    def holds(self, claim: Claim, state: State) -> bool:
        return False

    # ---- one episode ----

    def _episode(self, record: _Record, video: Video) -> Iterator[Episode | Exclusion]:
        """The episode, behind the segments of it that were set aside."""
        facts, fps = probe(video), self.config.fps
        if facts.frames < 2:
            raise DataError(f"{video}: {facts.frames} frame; a pair needs two")
        end = (facts.frames - 1) / fps
        if abs(facts.last_seconds - end) > 0.5 / fps:
            raise DataError(
                f"{video}: the last of its {facts.frames} frames is at {facts.last_seconds:.2f} s, at {fps:g} fps it "
                f"would be at {end:.2f} s; set source.fps to the video's own rate"
            )
        segments = [] if record.actions else [Segment(record.name, 0, facts.frames)]
        for action in record.actions:
            try:
                segments.append(_segment(action, facts.frames))
            except DataError as error:
                yield Exclusion("segment", f"episode {record.episode_id} ({record.where})", str(error))
        if not segments:
            raise DataError("not one of its segments can be used")
        yield Episode(self.kind, record.episode_id, record.name, fps, facts.frames, tuple(segments), group=record.task)

    def _motion(self, episode: Episode) -> Sequence[float] | None:
        if self.config.motion == "none":
            return None
        if self.config.motion == "pictures":
            return picture_motion(self.frames(episode, range(episode.n_frames)), episode.fps)
        readings = self._find(_READINGS, episode.episode_id, ["proprio_stats.h5"])
        if readings is None:
            raise DataError(
                f"{self.root / _READINGS}: no proprio_stats.h5 of episode {episode.episode_id}; "
                "download it, or set source.motion to pictures or none"
            )
        return [state["motion"] for state in motion_states(_vectors(readings, episode.n_frames), episode.fps)]

    def _record(self, episode: Episode) -> _Record:
        task, _, number = episode.episode_id.partition("-")
        record = self._task(task).records.get(number) if task in self._tasks else None
        if record is None:
            raise DataError(f"{self.root}: has no episode {episode.episode_id!r}; was the dataset replaced?")
        return record

    # ---- where things stand ----

    def _video(self, episode_id: str) -> Video:
        name = f"{self.config.camera}.mp4"
        video = self._find(_VIDEOS, episode_id, [f"videos/{name}", name])
        if video is None:
            folder = self.root / _VIDEOS / episode_id.partition("-")[0]
            raise DataError(f"no {name} of episode {episode_id} under {folder}, unpacked or in a tar; download it")
        return video

    def _find(self, folder: str, episode_id: str, names: Sequence[str]) -> Video | None:
        """The unpacked file of an episode, or its slice of an archive, or None."""
        task, _, number = episode_id.partition("-")
        for parent in self._folders(folder, task):
            for name in names:
                relative = f"{parent}/{number}/{name}"
                if (self.root / relative).is_file():
                    return self._inside(relative)
        return self._archived(folder, task).parts.get(number)

    def _list_folders(self, folder: str, task: str) -> tuple[str, ...]:
        """Where unpacked episodes of a task may stand: its folder, and those named after a range of episodes."""
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
                index = archive.index(self._inside(str(path.relative_to(self.root))), _SUFFIXES)
            except DataError as error:
                excluded.append(_exclusion("archive", str(path), error))
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

    def _inside(self, relative: str) -> Path:
        try:
            return inside(self.root, relative)
        except DataError as error:
            # The cache of huggingface_hub keeps links into a folder beside it.
            raise DataError(
                f"{error}. The files of a snapshot in the Hugging Face cache are links that leave it; download real "
                "ones, with `hf download REPO --repo-type dataset --local-dir FOLDER`, and set root to FOLDER"
            ) from None

    # ---- task_info ----

    @cached_property
    def _known_tasks(self) -> list[str]:
        """Ids of the tasks on disk, numbers in their order."""
        names = [re.fullmatch(r"task_(\w+)\.json", path.name) for path in (self.root / "task_info").glob("*.json")]
        if not any(names):
            raise DataError(
                f"{self.root}: no AgiBot World dataset, task_info/task_<id>.json is missing; give the folder that "
                "holds task_info/ and observations/"
            )
        return sorted((name[1] for name in names if name), key=lambda task: (len(task), task))

    def _task_path(self, task: str) -> Path:
        return self.root / "task_info" / f"task_{task}.json"

    def _read_task(self, task: str) -> _Task:
        path = self._task_path(task)
        try:
            entries = read_json(self._inside(f"task_info/{path.name}"))
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
            raise DataError(f"{path}: not readable as JSON ({error})") from None
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected a list of episodes, found {type(entries).__name__}")
        records: dict[str, _Record] = {}
        excluded: list[Exclusion] = []
        for position, entry in enumerate(entries, 1):
            where = f"{path}, entry {position}"
            try:
                record = _read_record(entry, task, where)
                if record.number in records:
                    raise DataError(f"episode {record.number} is listed twice; {records[record.number].where} is used")
                records[record.number] = record
            except DataError as error:
                excluded.append(_exclusion("episode", where, error))
        return _Task(records, tuple(excluded))


def _read_record(entry: Any, task: str, where: str) -> _Record:
    if not isinstance(entry, Mapping) or entry.get("episode_id") is None:
        raise DataError("the entry has no episode_id")
    number = str(entry["episode_id"])
    if not re.fullmatch(r"\w[\w-]*", number):
        raise DataError(f"the episode_id {number[:40]!r} is no number")
    labels = entry.get("label_info", entry.get("lable_info")) or {}
    if not isinstance(labels, Mapping):
        raise DataError(f"episode {number}: label_info is no mapping")
    actions, marks = labels.get("action_config") or [], labels.get("key_frame") or []
    if not isinstance(actions, list) or not isinstance(marks, list):
        raise DataError(f"episode {number}: action_config and key_frame must be lists")
    try:
        return _Record(task, number, _text(entry.get("task_name") or ""), tuple(actions), _in_doubt(marks), where)
    except DataError as error:
        raise DataError(f"episode {number}: {error}") from None


def _in_doubt(marks: Sequence[Any]) -> tuple[tuple[int, int | None], ...]:
    """Frames [start, end) from a failure to the end of its recovery, of label_info.key_frame.

    A mark whose comment speaks of recovery ("Failure recovery") covers itself, its last frame included; one that
    speaks of a failure alone lasts to the end of the next mark of recovery, and to the episode's end where there is
    none. Other marks say nothing of progress. Raises DataError for a mark without a start and an end: where the
    failure is would be unknown.
    """
    read = []
    for mark in marks:
        try:
            start, end, comment = int(mark["start"]), int(mark["end"]), str(mark.get("comment") or "")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(f"a key_frame has no usable {error}, so where it fails is unknown") from None
        if not 0 <= start <= end:
            raise DataError(f"a key_frame runs from {start} to {end}, so where it fails is unknown")
        read.append((start, end, comment))
    doubts: list[tuple[int, int | None]] = []
    failed: int | None = None
    for start, end, comment in sorted(read):
        if _RECOVERY.search(comment):
            doubts.append((start if failed is None else failed, end + 1))
            failed = None
        elif failed is None and _FAILURE.search(comment):
            failed = start
    return tuple(doubts) if failed is None else (*doubts, (failed, None))


def _segment(action: Any, n_frames: int) -> Segment:
    try:
        text, start, end = _text(action["action_text"]), int(action["start_frame"]), int(action["end_frame"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a segment has no usable {error}") from None
    if not 0 <= start < end <= n_frames:
        raise DataError(f"the segment is frames [{start}, {end}) of an episode of {n_frames}")
    return Segment(text, start, end)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{str(value)[:40]!r} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"the text {value[:40]!r} is not UTF-8") from None
    return value


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


def _vectors(readings: Video, n_frames: int) -> Vectors:
    """What moves of the robot, [n_frames, D]: joints and waist (rad, m), grippers (100 mm) or fingers (rad / sqrt 6).

    Raises DataError for a file that is damaged, has other than one row a frame, or refers to other files.
    """
    h5py = importlib.import_module("h5py")
    try:
        with ExitStack() as stack:
            file = archive.opened(readings) if isinstance(readings, Slice) else readings.open("rb")
            data = stack.enter_context(h5py.File(stack.enter_context(file), "r"))
            joints, waist, effector = (
                _readings(h5py, data, f"state/{part}/position", n_frames) for part in ("joint", "waist", "effector")
            )
    except DataError as error:
        raise DataError(f"{readings}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{readings}: cannot be read as HDF5 ({error}); download it again") from None
    if not joints.shape[1]:
        raise DataError(f"{readings}: has no state/joint/position")
    effector /= _GRIPPER if effector.shape[1] == 2 else np.sqrt(6)
    vectors = np.concatenate([joints, waist, effector], axis=1)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"{readings}, frame {bad[0]}: a reading is not a finite number")
    return vectors


def _readings(h5py: Any, data: Any, name: str, n_frames: int) -> Vectors:
    """A data set [n_frames, D] of the open file, or [n_frames, 0] where it is absent or empty."""
    for part in name.split("/"):
        link = data.get(part, getlink=True) if isinstance(data, h5py.Group) else None
        if link is None:
            return np.empty((n_frames, 0))
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{name} is a link; files that refer to others are not read")
        data = data[part]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(f"{name} holds no data of its own; files that refer to others are not read")
    if data.shape and data.shape[0] == 0:
        return np.empty((n_frames, 0))
    if len(data.shape) != 2 or data.shape[0] != n_frames or data.shape[1] > _WIDEST:
        raise DataError(f"{name} has the shape {data.shape} for a video of {n_frames} frames")
    return np.asarray(data[()], dtype=np.float64)


def _exclusion(what: str, where: str, error: DataError) -> Exclusion:
    """What an error says, without the place where it begins with that."""
    return Exclusion(what, where, str(error).removeprefix(f"{where}: "))
