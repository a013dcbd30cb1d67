"""The files that `stcr label` writes, as frozen values with a reader and a writer each.

stcr_progress.parquet has LeRobot's form: a row per frame with `index` (number of the frame in the whole dataset),
`episode_index`, `frame_index` (int64) and `progress_sparse` (float32, 0..1, NaN where it is not known, which the reader
gives weight 1), and `reward_model_path` in the metadata of its schema (lerobot/rewards/sarm/rabc.py of LeRobot 0.6).
stcr_progress_anchors.parquet has a row per frame that was compared. stcr_success.jsonl has a row per episode, and of an
episode with several tasks one for each. stcr_label.json says how they were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.result_files import Result
from stcr_plugin.scoring.progress_figures import ProgressControl, ProgressFigures
from stcr_plugin.types import Exclusion

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

PROGRESS, ANCHORS = "stcr_progress.parquet", "stcr_progress_anchors.parquet"
SUCCESS, LABEL = "stcr_success.jsonl", "stcr_label.json"
FILES = (PROGRESS, ANCHORS, SUCCESS, LABEL)
_PROGRESS = {"index": "int64", "episode_index": "int64", "frame_index": "int64", "progress_sparse": "float32"}
_ANCHORS = {
    "episode_id": "string",
    "episode_index": "int64",
    "frame_index": "int64",
    "progress": "float32",
    "disagreement": "float32",
    "comparisons": "int32",
}
_ROWS = 65536  # of a row group: what is held in memory


@dataclass(frozen=True)
class EpisodeProgress:
    """The progress of every frame of one episode.

    Attributes:
        index: Numbers of the frames in the whole dataset [frames].
        frame_index: Their numbers in the episode [frames].
        progress: 0..1 [frames], NaN where it is not known.
    """

    episode_index: int
    index: Ints
    frame_index: Ints
    progress: Floats


@dataclass(frozen=True)
class Anchor:
    """A frame that was compared with others.

    Attributes:
        progress: 0..1.
        disagreement: Share 0..1 of its comparisons in which the two orders choose different frames.
        comparisons: How many there are, each in both orders.
    """

    episode_id: str
    episode_index: int
    frame_index: int
    progress: float
    disagreement: float
    comparisons: int


@dataclass(frozen=True)
class EpisodeSuccess(Result):
    """A row of stcr_success.jsonl.

    Attributes:
        task: What was to be done.
        probability: That the last frame is at least as far as the end of the reference, 0..1, the mean over both
            orders and all references; 1/2 for a frame that cannot be distinguished from it.
    """

    file: ClassVar = SUCCESS
    command: ClassVar = "stcr label --success"

    episode_id: str
    episode_index: int
    task: str
    probability: float


@dataclass(frozen=True)
class LabelRecord(Result):
    """How the labels beside it were made.

    Attributes:
        dataset: The folder or data configuration that was given.
        relative: Nothing links the episodes, so that a failed one also ends high.
        settings: Those of `stcr label`.
        ask: How the model was asked.
        engine: Identity of the model or server.
        counts: How many episodes, frames, anchors and queries, and how many queries all pairs of anchors would take.
        figures: Of the curves, against the true progress where the source records it.
        controls: On a few episodes, with the values of a clock and of a constant beside each.
        skipped: What was skipped, and why; the progress of its frames is NaN.
        digest: Of all that decides the labels, so that the same run is not made again.
    """

    file: ClassVar = LABEL
    command: ClassVar = "stcr label"

    dataset: str
    relative: bool
    seed: int
    settings: Mapping[str, Any]
    ask: Mapping[str, Any]
    engine: Mapping[str, Any]
    counts: Mapping[str, int]
    figures: ProgressFigures | None = None
    controls: tuple[ProgressControl, ...] = ()
    skipped: tuple[Exclusion, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


def write_progress(path: Path, episodes: Iterable[EpisodeProgress], reward_model_path: str) -> int:
    """Write stcr_progress.parquet, whole or not at all, one episode in memory at a time; returns its number of rows."""

    def columns(one: EpisodeProgress) -> dict[str, Any]:
        numbers = [one.episode_index] * len(one.index)
        return dict(zip(_PROGRESS, (one.index, numbers, one.frame_index, one.progress), strict=True))

    return _write(path, map(columns, episodes), _PROGRESS, metadata={"reward_model_path": reward_model_path})


def write_anchors(path: Path, episodes: Iterable[Iterable[Anchor]]) -> int:
    """Write stcr_progress_anchors.parquet from the anchors of each episode; returns its number of rows."""

    def columns(anchors: Iterable[Anchor]) -> dict[str, Any]:
        rows = [asdict(anchor) for anchor in anchors]
        return {name: [row[name] for row in rows] for name in _ANCHORS}

    return _write(path, map(columns, episodes), _ANCHORS)


def read_progress(path: Path) -> Iterator[EpisodeProgress]:
    """The episodes of a progress file, in its order. Raises DataError for one that cannot be read."""
    import numpy as np

    def rows() -> Iterator[dict[str, Any]]:
        yield from _read(path, list(_PROGRESS))

    for number, of in groupby(rows(), key=lambda row: int(row["episode_index"])):
        index, frames, values = zip(
            *((row["index"], row["frame_index"], row["progress_sparse"]) for row in of), strict=True
        )
        known = np.array([np.nan if value is None else value for value in values], np.float32)
        yield EpisodeProgress(number, np.array(index, np.int64), np.array(frames, np.int64), known)


def read_anchors(path: Path) -> Iterator[Anchor]:
    """The anchors of a file, in its order: by episode, then by frame. Raises DataError for one that cannot be read."""
    names = [one.name for one in fields(Anchor)]
    for row in _read(path, names):
        yield Anchor(**row)


def read_success(path: Path) -> list[EpisodeSuccess]:
    """The rows of stcr_success.jsonl. Raises DataError naming the row that is not one."""
    return list(EpisodeSuccess.read_rows(path))


def write_success(path: Path, rows: Iterable[EpisodeSuccess]) -> None:
    """Write stcr_success.jsonl, whole or not at all."""
    artefacts.write_jsonl(path, (row.row() for row in rows))


def _read(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of these columns, a part at a time. Raises DataError, for a column that is missing too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(path, "no such file", "run `stcr label` first")
    try:
        with pq.ParquetFile(path) as file:
            if lacking := [name for name in columns if name not in file.schema_arrow.names]:
                raise DataError(path, f"no column {', '.join(lacking)}", "write it again with `stcr label`")
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(path, f"cannot be read as Parquet ({error})", "write it again with `stcr label`") from None


def _write(
    path: Path,
    parts: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write parts (column -> values) as one Parquet file; the same parts give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()], metadata=metadata)
    with artefacts.whole_file(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        held: list[Any] = []
        total = waiting = 0
        for values in parts:
            table = pa.table([pa.array(values[name], schema.field(name).type) for name in columns], schema=schema)
            held.append(table)
            total, waiting = total + table.num_rows, waiting + table.num_rows
            if waiting >= _ROWS:
                writer.write_table(pa.concat_tables(held))
                held, waiting = [], 0
        writer.write_table(pa.concat_tables([*held, schema.empty_table()]))
    return total
