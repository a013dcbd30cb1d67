"""Episodes that succeed, or a goal picture -> the frames on whose scale the progress of all episodes is read."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.robotics.judged_progress import Judge, Scale, compared
from stcr_plugin.robotics.label_settings import LabelSettings
from stcr_plugin.robotics.labelled_data import OpenedData, UnusableError, parts, wanted
from stcr_plugin.scoring.bradley_terry import Comparison
from stcr_plugin.types import Episode

FOLDER = "references"


def scales(
    data: OpenedData, episodes: Sequence[tuple[int, Episode]], settings: LabelSettings, *, judge: Judge, root: Path
) -> dict[str, Scale]:
    """Task -> its scale; {} where progress is relative. The pictures are written into the folder FOLDER of `root`, the
    folder of a run's work, and named relative to the folder that holds it.

    A reference's positions are its time: 0 at its first frame, 1 at its last. Of an episode with several tasks each
    part is a reference for its own.

    Raises:
        ConfigError: No such episode, or a goal picture for several tasks.
        DataError: A picture cannot be read.
    """
    if settings.goal is not None:
        return _of_goal(Path(settings.goal), _tasks(episodes), root)
    found: dict[str, list[Scale]] = defaultdict(list)
    for _, episode in wanted(episodes, settings.reference, "--reference"):
        for number, part in enumerate(parts(episode)):
            frames = _spread(part.start, part.end, settings.reference_frames)
            folder = root / FOLDER / episode.episode_id / str(number)
            images = [str(path.relative_to(root.parent)) for path in data.write_frames(episode, frames, folder)]
            positions = [place / (len(frames) - 1) for place in range(len(frames))]
            truth = data.truth(episode, part.task, frames)
            found[part.task].append(Scale(tuple(images), tuple(positions), truth))
    joined = {task: _joined(of) for task, of in found.items()}
    return {
        task: dataclasses.replace(scale, between=_between(judge, root, task, scale=scale))
        for task, scale in joined.items()
    }


def _of_goal(picture: Path, tasks: Sequence[str], root: Path) -> dict[str, Scale]:
    from stcr_plugin.registry.picture_store import decode

    if len(tasks) != 1:
        problem = f"is of one task, and the dataset has {len(tasks)}"
        raise ConfigError("--goal", problem, "name a demonstration of each with --reference")
    if not picture.is_file():
        raise DataError(picture, "no such picture file", "give a picture of the finished task")
    data = artefacts.file_bytes(picture)
    decode(data, str(picture))
    name = f"{root.name}/{FOLDER}/goal{picture.suffix.lower()}"
    artefacts.write_bytes(root.parent / name, data)
    return {tasks[0]: Scale((name,), (1.0,))}


def _tasks(episodes: Sequence[tuple[int, Episode]]) -> list[str]:
    found: dict[str, None] = {}
    for _, episode in episodes:
        texts = [episode.task] if episode.task else [segment.task for segment in episode.segments]
        found |= dict.fromkeys(texts)
    return list(found)


def _spread(start: int, end: int, count: int) -> list[int]:
    """Up to `count` frames of [start, end), evenly spaced, with its first and its last one. Raises DataError."""
    if end - start < 2:
        raise DataError("--reference", f"a part of {end - start} frame(s) is not a demonstration", "name another one")
    count = min(count, end - start)
    return [start + round(place * (end - 1 - start) / (count - 1)) for place in range(count)]


def _joined(of: Sequence[Scale]) -> Scale:
    """One scale of the demonstrations of one task; their truth where all have it."""
    return Scale(
        tuple(image for one in of for image in one.images),
        tuple(position for one in of for position in one.positions),
        tuple(value for one in of for value in one.truth) if all(one.truth for one in of) else (),
    )


def _between(judge: Judge, root: Path, task: str, *, scale: Scale) -> tuple[Comparison, ...]:
    n = len(scale.images)
    strip = Strip(root.parent, "reference", task, scale.images, tuple(range(n)), truth=scale.truth)
    return compared(judge, strip, scale.positions, out=root / FOLDER / "asked" / artefacts.digest(task)[:12])


def scale_of(scales: Mapping[str, Scale], settings: LabelSettings, task: str) -> Scale:
    """The scale of a task. Raises UnusableError where there are references, but none of it."""
    if settings.relative:
        return Scale()
    if task not in scales:
        raise UnusableError(f"task {task!r}", "has no reference", "name a demonstration of it with --reference")
    return scales[task]
