"""The files under meta/ and data/ of a LeRobot dataset: paths, features, episodes and columns, of format v2.x or v3.x.

Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3 and, for v2.1, the `meta/` files themselves. Read with
pyarrow, without the lerobot package.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.artefacts import read_json, read_jsonl
from stcr_plugin.config import nearest
from stcr_plugin.episodes.proprioception import Vectors
from stcr_plugin.episodes.recordings import check_finite, inside_download
from stcr_plugin.errors import ConfigError, DataError


@dataclass(frozen=True)
class Record:
    """What the meta data say of one episode. It may share its files with others.

    Attributes:
        index: `episode_index`.
        tasks: Its task texts, empty where only the rows of its data name them.
        start: Seconds at which it begins in `video`.
        actions: Entries of `action_config`.
        where: File and row that list it.
    """

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

    @property
    def rows(self) -> str:
        """Where its rows are, for errors."""
        return f"{self.data}, episode {self.index}"


class Meta:
    """meta/info.json, and the tables that it describes.

    Attributes:
        path: Its info.json.
        features: Feature name -> its entry in info.json.
        camera: Name of the video feature that is used.
        shares_files: Whether several episodes are in one file (v3).
    """

    def __init__(self, root: Path, camera: str | None) -> None:
        """Raises DataError where info.json cannot be used, ConfigError for an unknown camera."""
        self.root, self.path = root, root / "meta/info.json"
        if not self.path.is_file():
            raise DataError(
                root, "not a LeRobot dataset, meta/info.json is missing", "give the folder that holds meta/"
            )
        info: dict[str, Any] = read_json(self.path)
        try:
            self.fps = float(info["fps"])
            self.features: dict[str, dict[str, Any]] = dict(info["features"])
            version = str(info["codebase_version"])
            self._chunk_size = int(info.get("chunks_size", 1000))
            self._templates = {key: str(info[key]) for key in ("data_path", "video_path")}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(self.path, f"no usable {error}", "give a LeRobot dataset that is not damaged") from None
        if self.fps <= 0 or version[:2] not in _READERS:
            raise DataError(
                self.path,
                f"codebase_version {version!r} at {self.fps} fps; versions 2 and 3 with fps above 0 can be read",
                "convert the dataset with LeRobot's own script",
            )
        self.shares_files, self._read_records = version.startswith("v3"), _READERS[version[:2]]
        cameras = [key for key, feature in self.features.items() if feature.get("dtype") == "video"]
        if not cameras:
            raise DataError(
                self.path, "no feature of dtype video; datasets of single images cannot be read", "convert it to videos"
            )
        if camera is not None and camera not in cameras:
            raise ConfigError(self.path, f"no camera {camera!r}, {nearest(camera, cameras)}")
        self.camera = camera or cameras[0]

    @cached_property
    def records(self) -> dict[str, Record]:
        """Episode id -> its record, in recorded order. Raises DataError for meta data that cannot be used."""
        records: dict[str, Record] = {}
        for record in self._read_records(self):
            if record.length < 0 or record.episode_id in records:
                raise DataError(record.where, f"episode {record.index} is listed twice or has a negative length")
            records[record.episode_id] = record
        if not records:
            raise DataError(self.root / "meta", "lists no episode", "download the whole meta folder")
        return records

    @cached_property
    def tasks(self) -> dict[int, str]:
        """`task_index` -> text."""
        lines, table = self.root / "meta/tasks.jsonl", self.root / "meta/tasks.parquet"
        if table.is_file():
            return _texts(table, "task")
        return {int(row["task_index"]): str(row["task"]) for row in read_jsonl(lines)} if lines.is_file() else {}

    @cached_property
    def subtasks(self) -> dict[int, str]:
        """`subtask_index` -> text, empty where the dataset has no subtasks."""
        table = self.root / "meta/subtasks.parquet"
        return _texts(table, "subtask") if table.is_file() and "subtask_index" in self.features else {}

    def width(self, feature: str) -> int:
        """How many values a feature has per frame."""
        return int(np.prod(self.features[feature].get("shape") or [1]))

    def names(self, feature: str) -> list[str]:
        """The names of a vector's values, whether info.json has them flat, nested, or as a mapping."""
        return _flat_names(self.features[feature].get("names"))

    def file(self, template: str, values: Mapping[str, Any]) -> Path:
        """A path template of info.json filled in. Raises DataError for one that cannot be, or that leaves the root."""
        text = self._templates[template]
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            if fields - values.keys():
                raise ValueError(f"it needs {sorted(fields - values.keys())}; known are {sorted(values)}")
            relative = text.format(**values)
        except ValueError as error:
            problem = f"the template {template} = {text!r} cannot be filled in: {error}"
            raise DataError(self.path, problem) from None
        return inside_download(self.root, relative)


def _records_v2(meta: Meta) -> Iterator[Record]:
    path = meta.root / "meta/episodes.jsonl"
    for number, row in enumerate(read_jsonl(path), 1):
        where = f"{path}, row {number}"
        try:
            index, length, tasks = int(row["episode_index"]), int(row["length"]), tuple(row.get("tasks") or ())
            actions = tuple(row.get("action_config") or ())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(where, f"no usable {error}; a row has episode_index, length and tasks") from None
        values = {"episode_chunk": index // meta._chunk_size, "episode_index": index, "video_key": meta.camera}
        video, data = meta.file("video_path", values), meta.file("data_path", values)
        yield Record(index, length, tasks, video=video, data=data, start=0.0, actions=actions, where=where)


def _records_v3(meta: Meta) -> Iterator[Record]:
    folder, video = meta.root / "meta/episodes", f"videos/{meta.camera}/"
    needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    needed += [video + name for name in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataError(folder, "no chunk-*/file-*.parquet", "download the whole meta folder")
    for path in files:
        present = _schema(path)
        if lacking := [name for name in needed if name not in present]:
            raise DataError(path, f"no column {lacking[0]!r}; it has {', '.join(sorted(present)[:12])} ...")
        optional = [name for name in ("tasks", "action_config") if name in present]
        for number, row in enumerate(_read(path, [*needed, *optional]).to_pylist(), 1):
            where = f"{path}, row {number}"
            if empty := [name for name in needed if row[name] is None]:
                raise DataError(where, f"an empty value in {', '.join(empty)}")
            in_video, in_data = (
                {name: row[f"{part}{name}"] for name in ("chunk_index", "file_index")} for part in (video, "data/")
            )
            yield Record(
                index=int(row["episode_index"]),
                length=int(row["length"]),
                tasks=tuple(row.get("tasks") or ()),
                video=meta.file("video_path", {**in_video, "video_key": meta.camera}),
                data=meta.file("data_path", in_data),
                start=float(row[f"{video}from_timestamp"]),
                actions=tuple(row.get("action_config") or ()),
                where=where,
            )


_READERS: dict[str, Callable[[Meta], Iterator[Record]]] = {"v2": _records_v2, "v3": _records_v3}


def read_columns(record: Record, names: Sequence[str]) -> Any:
    """The rows of one episode as a pyarrow table with the columns `names`, in order of time."""
    table = _read(record.data, list(names), [("episode_index", "=", record.index)])
    if table.num_rows != record.length:
        raise DataError(record.rows, f"{table.num_rows} rows, {record.where} says {record.length}")
    return table


def read_vectors(record: Record, name: str) -> Vectors:
    """A column of equally long lists as [rows, values]."""
    column = read_columns(record, [name])[name]
    try:
        vectors = np.array(column.to_pylist(), dtype=np.float64).reshape(len(column), -1)
    except ValueError:
        raise DataError(record.rows, "the state vectors differ in length") from None
    return check_finite(vectors, record.rows)


def rows_by_episode(path: Path) -> Counter[int]:
    """Episode index -> how many rows of a data file it has."""
    return Counter(_read(path, ["episode_index"])["episode_index"].to_pylist())


def _texts(path: Path, name: str) -> dict[int, str]:
    """index -> text of meta/tasks.parquet or subtasks.parquet, where the text is a column or the pandas index."""
    index, present = f"{name}_index", _schema(path)
    text = next((column for column in (name, "__index_level_0__") if column in present), None)
    if text is None:
        raise DataError(path, f"no column {name!r}; it has {', '.join(present)}")
    return {int(row[index]): str(row[text]) for row in _read(path, [index, text]).to_pylist()}


def _schema(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read as parquet ({error})", "download it again") from None


def _read(path: Path, columns: list[str], filters: list[tuple[str, str, int]] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(path, "no such parquet file", "download it")
    if lacking := set(columns) - set(_schema(path)):
        raise DataError(path, f"no column {', '.join(sorted(lacking))}; it is not of this dataset or damaged")
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read as parquet ({error})", "download it again") from None


def _flat_names(names: Any) -> list[str]:
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):  # name -> index
            return sorted(names, key=lambda name: int(names[name]))
        return [name for group in names.values() for name in _flat_names(group)]
    if isinstance(names, list):
        return [name for entry in names for name in _flat_names(entry)]
    return [] if names is None else [str(names)]
