"""`rated_clips`: clips with one rating each, as RoboRewardBench and RBM-EVAL have them: their last frames are compared.

Format: `metadata.jsonl` or .parquet beside the clips, {file_name, task, and a rating}. The rating is `reward`, 1 to 5
(RoboRewardBench, arXiv 2601.00675, huggingface.co/datasets/teetone/RoboReward), `partial_success`, 0 to 1, or
`quality_label`, failure, suboptimal or successful (RBM, arXiv 2603.02115, huggingface.co/datasets/robometer).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.episodes import video
from stcr_plugin.episodes.benchmark_rows import (
    Row,
    check_folder,
    field_of,
    file_of,
    parse_rows,
    read_rows,
    text_of,
    whole_of,
)
from stcr_plugin.episodes.recordings import Unclaimed, check_indices, readable_id, reason_of, record_of
from stcr_plugin.episodes.spatiallogic_rows import UnusableError
from stcr_plugin.episodes.stored_values import finite, shown
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, Exclusion, GivenPair, Omission, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

_QUALITY = {"failure": 0.0, "suboptimal": 0.5, "success": 1.0, "successful": 1.0}
_POOL = 100_000  # pairs of clips that are drawn from at most, so that thousands of clips of one task fit


@settings
class RatedClipsConfig:
    """A file of rated clips.

    Attributes:
        file: metadata.jsonl or .parquet.
        root: Folder that its paths are relative to; "" is the file's own.
        rating: The field with the rating; "" takes the one that the file has.
        per_task: At most this many pairs of clips of one task, drawn at random.
        threads: Threads of the video decoder, 0 lets it choose.
    """

    file: str
    root: str = ""
    kind: Literal["rated_clips"] = "rated_clips"
    rating: Literal["", "reward", "partial_success", "quality_label"] = ""
    per_task: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        if self.per_task < 1:
            raise ValueError(f"`per_task` must be at least 1, got {self.per_task}")


@dataclass(frozen=True)
class _Clip:
    """A row: its video, how long that is (frames, seconds), and its rating, 0..1."""

    number: int
    task: str
    path: Path
    frames: int
    seconds: float
    rating: float


class RatedClipsSource(Unclaimed):
    """PairSource of one file. A task is an episode, and the last frames of its clips are the frames of that.

    They are in the order of their clips' lengths, so "later" is the frame that was recorded later in its own clip, and
    a clock is a judge that prefers the longer clip. Pairs are two clips of one task with different ratings; those with
    the same are ties. Rows that cannot be used come as an Exclusion, tasks without two ratings as an Omission.
    """

    kind = "rated_clips"

    def __init__(self, config: RatedClipsConfig) -> None:
        """Reads nothing yet but whether the folder is there. Raises DataError."""
        self.config = config
        self.file = Path(config.file)
        self.root = check_folder(config.root or str(self.file.parent))

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that are skipped, then the tasks in the order of their first rows.

        Every video's index is read. Raises DataError for a file with none or several of the fields of ratings.
        """
        excluded, tasks = self._contents
        yield from excluded
        for episode_id, clips in tasks.items():
            task, count = clips[0].task, len(clips)
            if len({clip.rating for clip in clips}) < 2:
                reason = "the task has no two clips of different ratings, so nothing is compared"
                yield Omission("episode", f"{self.file}, row {clips[0].number}", reason)
                continue
            yield Episode(self.kind, episode_id, task, fps=1.0, n_frames=count, segments=(Segment(task, 0, count),))

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """Pairs of clips, `per_task` at most of different ratings, and the ties among those that were drawn from."""
        clips = self._of(episode)
        found, left = [], self.config.per_task
        for first, second in self._drawn(episode.episode_id, len(clips)):
            gain = clips[second].rating - clips[first].rating
            if gain and not left:
                continue
            left -= bool(gain)
            closer: Literal["later", "earlier", "neither"] = "later" if gain > 0 else "earlier" if gain else "neither"
            found.append(GivenPair(first, second, episode.task, closer=closer))
        return sorted(found, key=lambda pair: (pair.earlier, pair.later))

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The last frames of the clips at ascending `indices`, each uint8 [height, width, 3]."""
        check_indices(episode, indices)
        clips = self._of(episode)
        for index in indices:
            clip = clips[index]
            yield from video.frames_numbered(clip.path, [clip.frames - 1], threads=self.config.threads)

    def states(self, episode: Episode) -> Sequence[State]:
        """The rating of each clip as the progress of its last frame, 0..1."""
        return [{"progress": clip.rating} for clip in self._of(episode)]

    def _of(self, episode: Episode) -> list[_Clip]:
        return record_of(self._contents[1], episode, self.file)

    def _drawn(self, episode_id: str, count: int) -> Iterator[tuple[int, int]]:
        """Pairs of positions in random order, none twice."""
        pairs = count * (count - 1) // 2
        rng = artefacts.rng("rated clips", episode_id)
        if pairs <= _POOL:
            every = list(itertools.combinations(range(count), 2))
            yield from (every[place] for place in rng.permutation(pairs).tolist())
            return
        drawn = rng.integers(count, size=(_POOL, 2)).tolist()
        yield from dict.fromkeys((min(pair), max(pair)) for pair in drawn if pair[0] != pair[1])

    @cached_property
    def _contents(self) -> tuple[list[Exclusion], dict[str, list[_Clip]]]:
        """What is skipped, and episode id -> its clips, the shortest first."""
        table = read_rows(self.file)
        rating = self.config.rating or self._rating_of(table.columns)
        used, excluded = parse_rows(self.file, table, lambda number, row: self._clip(number, row, rating))
        tasks: dict[str, dict[Path, list[_Clip]]] = defaultdict(lambda: defaultdict(list))
        for clip in used:
            tasks[readable_id(clip.task)][clip.path].append(clip)
        found: dict[str, list[_Clip]] = {}
        for episode_id, paths in tasks.items():
            for same in paths.values():
                if len({clip.rating for clip in same}) > 1:
                    for clip in same:
                        where = f"{self.file}, row {clip.number}"
                        excluded.append(
                            Exclusion("row", where, f"its {rating} contradicts another row of the same clip")
                        )
                else:
                    found.setdefault(episode_id, []).append(same[0])
            found.get(episode_id, []).sort(key=lambda clip: (clip.seconds, clip.frames, str(clip.path)))
        return excluded, found

    def _rating_of(self, columns: Sequence[str]) -> str:
        there = [name for name in _RATINGS if name in columns]
        if len(there) == 1:
            return there[0]
        problem = f"has {' and '.join(there)}" if there else f"has no field {', '.join(_RATINGS)}"
        raise DataError(self.file, problem, "set source.rating to the field with the rating")

    def _clip(self, number: int, row: Row, rating: str) -> _Clip:
        """Raises UnusableError."""
        task, path = text_of(row, "task"), file_of(self.root, field_of(row, "file_name"), "file_name")
        value = _RATINGS[rating](row, rating)
        try:
            times = video.frame_times(path)
        except DataError as error:
            raise UnusableError(f"its file_name is a video that cannot be read: {reason_of(error)}", path) from None
        return _Clip(number, task, path, frames=len(times), seconds=float(times[-1]), rating=value)


def _reward(row: Row, name: str) -> float:
    return (whole_of(row, name, least=1, most=5) - 1) / 4


def _share(row: Row, name: str) -> float:
    value = finite(field_of(row, name))
    if not 0 <= value <= 1:
        raise UnusableError(f"its {name} is not a number from 0 to 1", shown(row[name]))
    return value


def _quality(row: Row, name: str) -> float:
    value = text_of(row, name).lower()
    if value not in _QUALITY:
        raise UnusableError(f"its {name} is not failure, suboptimal or successful", shown(row[name]))
    return _QUALITY[value]


_RATINGS: Mapping[str, Callable[[Row, str], float]] = {
    "reward": _reward,
    "partial_success": _share,
    "quality_label": _quality,
}
