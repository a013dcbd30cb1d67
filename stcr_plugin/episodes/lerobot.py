"""`lerobot`: episodes of a LeRobot dataset on disk, format v2.x (one file an episode) or v3.x (many in one).

Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3 and, for v2.1, the `meta/` files themselves. Paths,
fps and features are taken from meta/info.json. Read with pyarrow and PyAV, without the lerobot package.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stcr_plugin.artefacts import inside, read_json, read_jsonl
from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import proprioception as body
from stcr_plugin.episodes.proprioception import Proprioception
from stcr_plugin.episodes.video import VideoFacts, frames_at, probe
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture


@settings
class LeRobotConfig:
    """root: the folder that holds meta/, data/ and videos/. camera: a video feature's key; None takes the first.

    state: the feature with the robot's own readings, where the dataset has it. threads: of the decoder, 0 = its
    choice; more makes long scans faster and takes more memory.
    """

    root: str
    kind: Literal["lerobot"] = "lerobot"
    camera: str | None = None
    state: str = "observation.state"
    proprioception: Proprioception | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError("`threads` must not be negative")


@dataclass(frozen=True)
class _Record:
    """What the meta data say of one episode; `start` (s) is where it begins in `video`, `where` its file and row."""

    index: int
    length: int
    tasks: tuple[str, ...]
    video: Path
    data: Path
    start: float
    actions: Sequence[Any]
    where: str

    @property
    def episode_id(self) -> str:
        return f"{self.index:06d}"


class LeRobotSource:
    """EpisodeSource of a LeRobot dataset. Episodes that are listed but not on disk come as an Exclusion."""

    kind = "lerobot"

    def __init__(self, config: LeRobotConfig) -> None:
        """Reads meta/info.json. Raises DataError where it cannot be used, ConfigError for an unknown camera or part."""
        self.config = config
        self.root = Path(config.root)
        self._info_path = self.root / "meta/info.json"
        if not self._info_path.is_file():
            raise DataError(
                f"{self.root}: no LeRobot dataset, meta/info.json is missing; give the folder that holds meta/"
            )
        self._info: dict[str, Any] = read_json(self._info_path)
        try:
            self.fps = float(self._info["fps"])
            self._features: dict[str, dict[str, Any]] = dict(self._info["features"])
            self._version = str(self._info["codebase_version"])
            self._chunk_size = int(self._info.get("chunks_size", 1000))
            self._templates = {key: str(self._info[key]) for key in ("data_path", "video_path")}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self._info_path}: no usable {error}; the file is not LeRobot's or is damaged") from None
        if self.fps <= 0 or self._version[:2] not in _READERS:
            raise DataError(
                f"{self._info_path}: codebase_version {self._version!r} at {self.fps} fps; versions 2 and 3 with fps "
                "above 0 can be read; convert the dataset with LeRobot's own script"
            )
        self._camera = self._choose_camera()
        self._dims = self._resolve_parts()

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every listed episode, in recorded order. Raises DataError where not one of their videos is on disk."""
        if not any(record.video.is_file() for record in self._records.values()):
            first = next(iter(self._records.values())).video
            raise DataError(
                f"{self.root}: none of the {len(self._records)} listed episodes has a video for {self._camera!r}; "
                f"download the video files into this folder (the first belongs at {first})"
            )
        # Version 3 keeps many episodes in one file, and episodes stand in file order: remember the last one of each.
        videos, rows = lru_cache(1)(probe), lru_cache(1)(_rows_by_episode)
        for record in self._records.values():
            try:
                yield self._episode(record, videos, rows)
            except DataError as error:
                text = str(error)
                files = [str(path) for path in (record.video, record.data) if text.startswith(f"{path}: ")]
                where = files[0] if files else record.where
                yield Exclusion(f"episode {record.index}", where, text.removeprefix(f"{where}: "))

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError naming the episode."""
        record = self._record(episode)
        if any(not 0 <= index < episode.n_frames for index in indices) or list(indices) != sorted(set(indices)):
            raise DataError(
                f"episode {record.index}: frames {list(indices)} do not ascend from 0 to {episode.n_frames - 1}"
            )
        times = record.start + self._timestamps(record)
        pictures = frames_at(record.video, [float(times[index]) for index in indices], self.fps, self.config.threads)
        for index in indices:
            try:
                yield next(pictures)
            except DataError as error:
                raise DataError(f"episode {record.index}, frame {index}: {error}") from None

    def states(self, episode: Episode) -> Sequence[State] | None:
        """States as `proprioception.part_states` describes them, or "motion" alone where no parts are configured.

        None where the dataset has no vector of that name. Raises DataError for a value that is no number.
        """
        feature = self._features.get(self.config.state)
        if feature is None or not str(feature.get("dtype")).startswith("float"):
            return None
        record = self._record(episode)
        vectors = _vectors(_columns(record, [self.config.state])[self.config.state], record)
        if vectors.shape[1] != _width(feature):
            raise DataError(
                f"{record.data}, episode {record.index}: {self.config.state} has {vectors.shape[1]} values, "
                f"{self._info_path} says {_width(feature)}; the files are of different datasets"
            )
        if self.config.proprioception is None:
            return body.motion_states(vectors, self.fps)
        return body.part_states(vectors, self.fps, self.config.proprioception, self._dims)

    def claims(self, state: State) -> tuple[Claim, ...]:
        """Empty where no parts are configured."""
        parts = self.config.proprioception
        return () if parts is None else body.claims(state, parts)

    def holds(self, claim: Claim, state: State) -> bool:
        parts = self.config.proprioception
        return parts is not None and body.holds(claim, state, parts)

    def _episode(
        self, record: _Record, videos: Callable[[Path], VideoFacts], rows: Callable[[Path], Counter[int]]
    ) -> Episode:
        facts = videos(record.video)
        count = rows(record.data)[record.index]
        if count != record.length:
            raise DataError(f"{record.data}: {count} rows, but the meta data say {record.length} frames")
        if count < 2:
            raise DataError(f"{count} frame; a pair needs two")
        if not self._shares_files and facts.frames != count:
            raise DataError(f"{record.video}: {facts.frames} frames for {count} rows of {record.data}")
        end = record.start + (count - 1) / self.fps
        if facts.last_seconds < end - 0.5 / self.fps:
            raise DataError(
                f"{record.video}: its last frame is at {facts.last_seconds:.2f} s, the episode's at {end:.2f} s"
            )
        task = "; ".join(record.tasks) or self._task_of_rows(record)
        segments = self._segments(record, task)
        return Episode(self.kind, record.episode_id, task, self.fps, count, segments)

    def _segments(self, record: _Record, task: str) -> tuple[Segment, ...]:
        if record.actions:
            return tuple(_action_segment(action, record) for action in record.actions)
        if self._subtasks:
            read = _columns(record, ["subtask_index"])["subtask_index"].to_numpy().astype(np.float64)
            subtasks = np.where(np.isfinite(read), read, -1).astype(np.int64)
            edges = [0, *(np.flatnonzero(np.diff(subtasks)) + 1).tolist(), len(subtasks)]
            runs = [(int(subtasks[start]), start, end) for start, end in itertools.pairwise(edges)]
            # An index without a text, -1 by custom, null and NaN too, marks frames that nobody annotated.
            found = tuple(Segment(self._subtasks[sub], start, end) for sub, start, end in runs if sub in self._subtasks)
            if found:
                return found
        return (Segment(task, 0, record.length),)

    def _task_of_rows(self, record: _Record) -> str:
        indices = set(_columns(record, ["task_index"])["task_index"].to_pylist())
        unknown = sorted(indices - self._tasks.keys())
        if unknown:
            raise DataError(f"{record.data}, episode {record.index}: task_index {unknown[0]} is not in meta/tasks")
        return "; ".join(self._tasks[index] for index in sorted(indices))

    def _timestamps(self, record: _Record) -> Any:
        """Seconds since the episode's start, [rows]."""
        if "timestamp" not in self._features:
            return np.arange(record.length) / self.fps
        times = _columns(record, ["timestamp"])["timestamp"].to_numpy().astype(np.float64)
        if not (np.diff(times) > 0).all():
            raise DataError(
                f"{record.data}, episode {record.index}: its time stamps do not ascend; the rows are mixed up"
            )
        return times

    def _record(self, episode: Episode) -> _Record:
        record = self._records.get(episode.episode_id)
        if record is None:
            raise DataError(f"{self.root}: has no episode {episode.episode_id!r}; was the dataset replaced?")
        return record

    @cached_property
    def _records(self) -> dict[str, _Record]:
        records: dict[str, _Record] = {}
        for record in _READERS[self._version[:2]](self):
            if record.length < 0 or record.episode_id in records:
                raise DataError(f"{record.where}: episode {record.index} is listed twice or has a negative length")
            records[record.episode_id] = record
        if not records:
            raise DataError(f"{self.root / 'meta'}: lists no episode")
        return records

    @cached_property
    def _tasks(self) -> dict[int, str]:
        lines, table = self.root / "meta/tasks.jsonl", self.root / "meta/tasks.parquet"
        if table.is_file():
            return _texts(table, "task")
        return {int(row["task_index"]): str(row["task"]) for row in read_jsonl(lines)} if lines.is_file() else {}

    @cached_property
    def _subtasks(self) -> dict[int, str]:
        table = self.root / "meta/subtasks.parquet"
        return _texts(table, "subtask") if table.is_file() and "subtask_index" in self._features else {}

    @property
    def _shares_files(self) -> bool:
        return self._version.startswith("v3")

    def _choose_camera(self) -> str:
        cameras = [key for key, feature in self._features.items() if feature.get("dtype") == "video"]
        if not cameras:
            raise DataError(f"{self._info_path}: no feature of dtype video; datasets of single images cannot be read")
        if self.config.camera is None:
            return cameras[0]
        if self.config.camera not in cameras:
            raise ConfigError(
                f"{self._info_path}: no camera {self.config.camera!r}, {nearest(self.config.camera, cameras)}"
            )
        return self.config.camera

    def _resolve_parts(self) -> dict[str, list[int]]:
        parts = self.config.proprioception
        if parts is None:
            return {}
        feature = self._features.get(self.config.state)
        if feature is None:
            known = nearest(self.config.state, list(self._features))
            raise ConfigError(f"{self._info_path}: no feature {self.config.state!r} for the proprioception, {known}")
        return body.resolve(parts, _names(feature.get("names")), _width(feature), f"{self._info_path}")

    def _path(self, template: str, values: Mapping[str, Any]) -> Path:
        """A path template of info.json filled in, kept under the root."""
        text = self._templates[template]
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            if fields - values.keys():
                raise ValueError(f"asks for {sorted(fields - values.keys())}; known are {sorted(values)}")
            relative = text.format(**values)
        except ValueError as error:
            raise DataError(
                f"{self._info_path}: the template {template} = {text!r} cannot be filled in: {error}"
            ) from None
        try:
            return inside(self.root, relative)
        except DataError as error:
            if ".." in Path(relative).parts or Path(relative).is_absolute():
                raise
            # The cache of huggingface_hub keeps links into a folder beside it.
            raise DataError(
                f"{error}. The files of a snapshot in the Hugging Face cache are links that leave it; download real "
                "ones, with `hf download REPO --repo-type dataset --local-dir FOLDER`, and set root to FOLDER"
            ) from None


def _records_v2(source: LeRobotSource) -> Iterator[_Record]:
    path = source.root / "meta/episodes.jsonl"
    for number, row in enumerate(read_jsonl(path), 1):
        where = f"{path}, row {number}"
        try:
            index, length, tasks = int(row["episode_index"]), int(row["length"]), tuple(row.get("tasks") or ())
            actions = tuple(row.get("action_config") or ())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: no usable {error}; a row has episode_index, length and tasks") from None
        values = {
            "episode_chunk": index // source._chunk_size,
            "episode_index": index,
            "video_key": source._camera,
        }
        video, data = source._path("video_path", values), source._path("data_path", values)
        yield _Record(index, length, tasks, video, data, 0.0, actions, where)


def _records_v3(source: LeRobotSource) -> Iterator[_Record]:
    folder = source.root / "meta/episodes"
    video = f"videos/{source._camera}/"
    needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    needed += [video + name for name in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataError(f"{folder}: no chunk-*/file-*.parquet; download the whole meta folder")
    for path in files:
        present = _schema(path)
        if lacking := [name for name in needed if name not in present]:
            raise DataError(f"{path}: no column {lacking[0]!r}; it has {', '.join(sorted(present)[:12])} ...")
        optional = [name for name in ("tasks", "action_config") if name in present]
        for number, row in enumerate(_read(path, [*needed, *optional]).to_pylist(), 1):
            where = f"{path}, row {number}"
            if any(row[name] is None for name in needed):
                raise DataError(f"{where}: an empty value in {', '.join(name for name in needed if row[name] is None)}")
            places = [
                {"chunk_index": row[f"{place}chunk_index"], "file_index": row[f"{place}file_index"]}
                for place in (video, "data/")
            ]
            yield _Record(
                index=int(row["episode_index"]),
                length=int(row["length"]),
                tasks=tuple(row.get("tasks") or ()),
                video=source._path("video_path", {**places[0], "video_key": source._camera}),
                data=source._path("data_path", places[1]),
                start=float(row[f"{video}from_timestamp"]),
                actions=tuple(row.get("action_config") or ()),
                where=where,
            )


_READERS: dict[str, Callable[[LeRobotSource], Iterator[_Record]]] = {"v2": _records_v2, "v3": _records_v3}


def _action_segment(action: Any, record: _Record) -> Segment:
    try:
        text, start, end = str(action["action_text"]), int(action["start_frame"]), int(action["end_frame"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"an action_config segment has no usable {error}") from None
    if not 0 <= start < end <= record.length:
        raise DataError(f"the segment {text!r} is frames [{start}, {end}) of an episode of {record.length}")
    return Segment(text, start, end)


def _columns(record: _Record, names: Sequence[str]) -> Any:
    """The rows of one episode as a pyarrow table with the columns `names`, in order of time."""
    table = _read(record.data, list(names), [("episode_index", "=", record.index)])
    if table.num_rows != record.length:
        raise DataError(
            f"{record.data}, episode {record.index}: {table.num_rows} rows, {record.where} says {record.length}"
        )
    return table


def _vectors(column: Any, record: _Record) -> body.Vectors:
    """A column of equally long lists as [rows, values]."""
    try:
        vectors = np.array(column.to_pylist(), dtype=np.float64).reshape(len(column), -1)
    except ValueError:
        raise DataError(f"{record.data}, episode {record.index}: the state vectors differ in length") from None
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"{record.data}, episode {record.index}, frame {bad[0]}: a state value is not a finite number")
    return vectors


def _rows_by_episode(path: Path) -> Counter[int]:
    return Counter(_read(path, ["episode_index"])["episode_index"].to_pylist())


def _texts(path: Path, name: str) -> dict[int, str]:
    """index -> text of meta/tasks.parquet or subtasks.parquet, where the text is a column or the pandas index."""
    index = f"{name}_index"
    text = next((column for column in (name, "__index_level_0__") if column in _schema(path)), None)
    if text is None:
        raise DataError(f"{path}: no column {name!r}; it has {', '.join(_schema(path))}")
    return {int(row[index]): str(row[text]) for row in _read(path, [index, text]).to_pylist()}


def _schema(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); download it again") from None


def _read(path: Path, columns: list[str], filters: list[tuple[str, str, int]] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such parquet file; download it")
    lacking = set(columns) - set(_schema(path))
    if lacking:
        raise DataError(f"{path}: no column {', '.join(sorted(lacking))}; it is not of this dataset or damaged")
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); download it again") from None


def _width(feature: Mapping[str, Any]) -> int:
    return int(np.prod(feature.get("shape") or [1]))


def _names(names: Any) -> list[str]:
    """The names of a vector's values, whether info.json has them flat, nested, or as a mapping."""
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):  # name -> index
            return sorted(names, key=lambda name: int(names[name]))
        return [name for group in names.values() for name in _names(group)]
    if isinstance(names, list):
        return [name for entry in names for name in _names(entry)]
    return [] if names is None else [str(names)]
