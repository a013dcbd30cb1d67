"""One episode of a dataset -> its labels, kept as one JSON file, so that a killed run goes on with the next episode."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.result_files import Result
from stcr_plugin.robotics.judged_progress import Judge, Scale, judged
from stcr_plugin.robotics.label_files import Anchor, EpisodeSuccess
from stcr_plugin.robotics.label_settings import LabelSettings
from stcr_plugin.robotics.labelled_data import OpenedData, UnusableError, parts
from stcr_plugin.robotics.reference_frames import scale_of
from stcr_plugin.scoring.progress_curve import Curve, anchor_frames
from stcr_plugin.scoring.progress_figures import Trace
from stcr_plugin.types import Episode, Exclusion, Segment

PIECES = "episodes"


@dataclass(frozen=True)
class LabelContext:
    """What the labelling of an episode works with.

    Attributes:
        root: Folder of the run's unfinished work; pictures are named relative to the folder that holds it.
        scales: Task -> the frames on whose scale its progress is read.
    """

    data: OpenedData
    judge: Judge
    settings: LabelSettings
    root: Path
    scales: Mapping[str, Scale]


@dataclass(frozen=True)
class PartLabels:
    """The curve of one part of an episode, which has its own task.

    Attributes:
        length: Frames of the part.
        frames: Its anchors, by their numbers in the episode.
        truth: Their true progress; empty where the source does not record it.
    """

    task: str
    length: int
    frames: tuple[int, ...]
    curve: Curve
    truth: tuple[float, ...]
    queries: int


@dataclass(frozen=True)
class EpisodeLabels(Result):
    """The labels of one episode.

    Attributes:
        skipped: Why it has none.
    """

    file: ClassVar = "episode.json"
    command: ClassVar = "stcr label"

    episode_id: str
    episode_index: int
    n_frames: int
    parts: tuple[PartLabels, ...] = ()
    skipped: Exclusion | None = None

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers of all anchors."""
        return tuple(frame for part in self.parts for frame in part.frames)

    @property
    def progress(self) -> tuple[float, ...]:
        """Of all anchors. A part counts by its share of the frames, and begins where the one before it ended."""
        whole, done, found = sum(part.length for part in self.parts), 0.0, []
        for part in self.parts:
            share = part.length / whole
            found += [round(done + share * value, 6) for value in part.curve.progress]
            done += share * part.curve.progress[-1]
        return tuple(found)

    @property
    def anchors(self) -> list[Anchor]:
        columns = zip(
            self.frames,
            self.progress,
            (value for part in self.parts for value in part.curve.disagreement),
            (value for part in self.parts for value in part.curve.comparisons),
            strict=True,
        )
        return [Anchor(self.episode_id, self.episode_index, *row) for row in columns]

    @property
    def success(self) -> list[EpisodeSuccess]:
        return [
            EpisodeSuccess(self.episode_id, self.episode_index, part.task, part.curve.success)
            for part in self.parts
            if part.curve.success is not None
        ]

    @property
    def trace(self) -> Trace:
        """For figures; with the truth where the episode has one task."""
        differ = [value for part in self.parts for value in part.curve.disagreement]
        truth = self.parts[0].truth if len(self.parts) == 1 else ()
        return Trace(self.episode_id, self.frames, self.progress, truth, round(sum(differ) / len(differ), 6))


def piece(root: Path, number: int) -> Path:
    """The file of an episode's labels in a run's folder."""
    return root / PIECES / f"{number:06d}.json"


def label_episode(context: LabelContext, number: int, episode: Episode) -> None:
    """Label one episode. Raises what the engine raises, and DataError for a full disk."""
    work = context.root / "work" / f"{number:06d}"
    try:
        found = [
            _label_part(context, episode, part, folder=work / str(place))
            for place, part in enumerate(parts(episode))
        ]  # fmt: skip
        labels = EpisodeLabels(episode.episode_id, number, episode.n_frames, tuple(found))
    except UnusableError as error:
        reason = "; ".join(filter(None, (error.problem, error.fix)))
        skipped = Exclusion(f"episode {episode.episode_id}", error.where, reason)
        labels = EpisodeLabels(episode.episode_id, number, episode.n_frames, skipped=skipped)
    labels.write(piece(context.root, number))
    shutil.rmtree(work, ignore_errors=True)


def strip_of(context: LabelContext, episode: Episode, part: Segment, *, frames: list[int], folder: Path) -> Strip:
    """Some frames of a part as a strip, their pictures written into `folder`. Raises UnusableError."""
    paths = context.data.write_frames(episode, frames, folder)
    return Strip(
        root=context.root.parent,
        episode_id=episode.episode_id,
        task=part.task,
        images=tuple(str(path.relative_to(context.root.parent)) for path in paths),
        frames=tuple(frames),
        seconds=tuple(frame / episode.fps for frame in frames),
        truth=context.data.truth(episode, part.task, frames),
    )


def _label_part(context: LabelContext, episode: Episode, part: Segment, *, folder: Path) -> PartLabels:
    where, length = f"episode {episode.episode_id}", part.end - part.start
    if length < 2:
        raise UnusableError(where, f"{part.task!r} lasts {length} frame; progress needs two", "leave it out")
    scale = scale_of(context.scales, context.settings, part.task)
    frames = [part.start + frame for frame in anchor_frames(length, episode.fps, context.settings.every)]
    strip = strip_of(context, episode, part, frames=frames, folder=folder / "pictures")
    found = judged(context.judge, strip, folder / "asked", scale=scale)
    truth = tuple(value for value in strip.truth if value is not None)
    return PartLabels(part.task, length, tuple(frames), curve=found.curve, truth=truth, queries=found.queries)
