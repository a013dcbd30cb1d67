"""`progress_bench`: Progress-Bench of ProgressLM (arXiv 2601.15224), pictures with the share of the task that is done.

Format, after the loaders in https://github.com/Raymond-Qiancx/ProgressLM: JSONL of {id, task_goal, visual_demo or
text_demo, total_steps, stage_to_estimate, closest_idx, delta, progress_score}. Pictures are at <root>/<id>/<name>;
`visual_demo` lists total_steps + 1 of them, from 0 % to 100 % in even steps, `text_demo` total_steps texts.
`progress_score` is "8%", or "n/a" where the question cannot be answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stcr_plugin.config import settings
from stcr_plugin.episodes.benchmark_rows import (
    OmittedError,
    Row,
    check_folder,
    field_of,
    file_of,
    list_of,
    order_key,
    parse_rows,
    percent_of,
    read_rows,
    text_of,
    whole_of,
)
from stcr_plugin.episodes.picture_files import decoded
from stcr_plugin.episodes.recordings import Unclaimed, check_indices, readable_id, record_of
from stcr_plugin.episodes.spatiallogic_rows import UnusableError
from stcr_plugin.episodes.stored_values import is_empty
from stcr_plugin.types import Episode, Exclusion, Omission, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

NOT_ANSWERABLE = "its progress_score is n/a: it asks whether the question can be answered, which no pair does"


@settings
class ProgressBenchConfig:
    """A file of Progress-Bench.

    Attributes:
        file: A .jsonl, with visual or with text demonstrations.
        root: Folder of the pictures, in which each row's `id` is a folder.
        fps: Pictures per second that are assumed; only distances in seconds depend on it.
    """

    file: str
    root: str
    kind: Literal["progress_bench"] = "progress_bench"
    fps: float = 1.0

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")


@dataclass(frozen=True)
class _Estimate:
    """A row: the picture whose progress is to be estimated, and those of its demonstration, with their progress."""

    number: int
    recording: str
    task: str
    picture: Path
    progress: float
    demo: dict[Path, float]


@dataclass
class _Trajectory:
    """The pictures of one id and task: their progress, with the rows that give it, and that of the demonstration."""

    recording: str
    task: str
    estimates: dict[Path, tuple[float, int]] = field(default_factory=dict)
    demo: dict[Path, float] = field(default_factory=dict)

    @cached_property
    def progress(self) -> dict[Path, float]:
        """Picture -> progress, in the order of the numbers in their names; an estimate goes before a demonstration."""
        known = self.demo | {path: value for path, (value, _) in self.estimates.items()}
        return {path: known[path] for path in sorted(known, key=order_key)}


class ProgressBenchSource(Unclaimed):
    """EpisodeSource of one file. The rows of one `id` and `task_goal` are an episode, whose frames are their pictures.

    The pictures of a visual demonstration are frames too, so that one row alone gives pairs. A frame's state has its
    progress. Rows that cannot be used come as an Exclusion, those with "n/a" as an Omission.
    """

    kind = "progress_bench"

    def __init__(self, config: ProgressBenchConfig) -> None:
        """Reads nothing yet but whether the folder is there. Raises DataError."""
        self.config = config
        self.file, self.root = Path(config.file), check_folder(config.root)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that are skipped, then the episodes in the order of their first rows. Raises DataError."""
        excluded, trajectories = self._contents
        yield from excluded
        for episode_id, one in trajectories.items():
            count = len(one.progress)
            if count < 2:
                reason = "one picture alone, which nothing in the file can be compared with"
                yield Omission("episode", f"{self.file}, id {one.recording}", reason)
                continue
            segments = (Segment(one.task, 0, count),)
            yield Episode(self.kind, episode_id, one.task, fps=self.config.fps, n_frames=count, segments=segments)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3], sizes as they are stored."""
        check_indices(episode, indices)
        files = list(self._of(episode).progress)
        for index in indices:
            yield decoded(files[index])

    def states(self, episode: Episode) -> Sequence[State]:
        """The progress of each frame, 0..1."""
        return [{"progress": value} for value in self._of(episode).progress.values()]

    def _of(self, episode: Episode) -> _Trajectory:
        return record_of(self._contents[1], episode, self.file)

    @cached_property
    def _contents(self) -> tuple[list[Exclusion], dict[str, _Trajectory]]:
        """What is skipped, and episode id -> its pictures."""
        used, excluded = parse_rows(self.file, read_rows(self.file), self._estimate)
        found: dict[str, _Trajectory] = {}
        for row in used:
            name = readable_id(f"{row.recording}: {row.task}")
            one = found.setdefault(name, _Trajectory(row.recording, row.task))
            known, before = one.estimates.setdefault(row.picture, (row.progress, row.number))
            if known != row.progress:
                where = f"{self.file}, row {row.number}, as row {before}"
                excluded.append(Exclusion("row", where, "its progress_score is another one for the same picture"))
                continue
            for path, value in row.demo.items():
                one.demo.setdefault(path, value)
        return excluded, found

    def _estimate(self, number: int, row: Row) -> _Estimate:
        """Raises UnusableError."""
        recording, task = text_of(row, "id"), text_of(row, "task_goal")
        demo = "visual_demo" if not is_empty(row.get("visual_demo")) else "text_demo"
        shown = list_of(row, demo)
        steps, images = whole_of(row, "total_steps", least=1), demo == "visual_demo"
        if len(shown) != steps + images:
            raise UnusableError(f"its {demo} and its total_steps disagree", f"{len(shown)} entries, {steps} steps")
        if _not_answerable(row, "progress_score"):
            raise OmittedError(NOT_ANSWERABLE)
        progress = percent_of(row["progress_score"], "progress_score", least=0)
        if not _not_answerable(row, "closest_idx"):
            whole_of(row, "closest_idx", least=1, most=len(shown))
        if not is_empty(row.get("delta")) and not _not_answerable(row, "delta"):
            percent_of(row["delta"], "delta", least=-100)
        picture = file_of(self.root, field_of(row, "stage_to_estimate"), "stage_to_estimate", folder=recording)
        demonstration = {
            file_of(self.root, name, demo, folder=recording): place / steps
            for place, name in enumerate(shown if images else ())
        }
        return _Estimate(number, recording, task, picture=picture, progress=progress, demo=demonstration)


def _not_answerable(row: Row, name: str) -> bool:
    value = field_of(row, name)
    return isinstance(value, str) and value.strip().lower() in ("n/a", "na")
