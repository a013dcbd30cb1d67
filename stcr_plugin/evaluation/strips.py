"""Any source of frames -> Strip: an episode of a build, a video file, or pictures that are named one by one."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.engines.cache import picture_digests
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.registry.ground_truth import true_progress
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.types import Group, Pair

FRAMES = 16  # of an episode or a video, by default


@dataclass(frozen=True)
class Strip:
    """Pictures of one task that are to be ranked, in time order where their time is known.

    images: their paths relative to `root`. frames: their numbers in the episode or video, else 0, 1, 2, ... seconds:
    when they were taken; empty where that is not known, and then the order is that in which they were given. truth:
    their true progress, greater is closer to completion, None for a frame that nothing says it of; empty where nothing
    says it of any. ties: "neither" is offered as an answer.
    """

    root: Path
    episode_id: str
    task: str
    images: tuple[str, ...]
    frames: tuple[int, ...]
    seconds: tuple[float, ...] = ()
    truth: tuple[float | None, ...] = ()
    ties: bool = False
    dataset: str = ""
    split: str = ""
    video: str = ""

    def pairs(self) -> list[Pair]:
        """All pairs of its frames."""
        places = range(len(self.images))
        return [self.pair(first, second) for first in places for second in places[first + 1 :]]

    def pair(self, first: int, second: int) -> Pair:
        """The frames at two places of the strip, first < second; the later one is closer unless the truth denies it."""
        told = (self.truth[first], self.truth[second]) if self.truth else (None, None)
        regress = told[0] is not None and told[1] is not None and told[0] > told[1]
        return Pair(
            pair_id=f"{self.episode_id}:{self.task}:{self.frames[first]}-{self.frames[second]}",
            episode_id=self.episode_id,
            split="",
            task=self.task,
            earlier=self.frames[first],
            later=self.frames[second],
            seconds=self.seconds[second] - self.seconds[first] if self.seconds else 0.0,
            closer="earlier" if regress else "later",
            earlier_image=self.images[first],
            later_image=self.images[second],
        )

    def group(self, places: Sequence[int]) -> Group:
        """The frames at some places of the strip as a group, in order of their truth where it is known of all."""
        told = [self.truth[place] if self.truth else None for place in places]
        known = {place: value for place, value in zip(places, told, strict=True) if value is not None}
        ordered = sorted(places, key=lambda place: (known[place] if len(known) == len(places) else 0.0, place))
        frames = tuple(self.frames[place] for place in ordered)
        return Group(
            group_id=f"{self.episode_id}:{self.task}:{'-'.join(map(str, frames))}",
            episode_id=self.episode_id,
            task=self.task,
            frames=frames,
            images=tuple(self.images[place] for place in ordered),
        )

    def sums(self) -> dict[str, str]:
        """Picture -> SHA-256 of its contents. Raises DataError for one that cannot be read."""
        return picture_digests(self.root, dict.fromkeys(self.images, f"episode {self.episode_id}"))

    def digest(self, sums: Mapping[str, str]) -> str:
        """SHA-256 of its texts and of the `sums` of its pictures."""
        return artefacts.digest([self.episode_id, self.task, self.frames, self.seconds, self.ties, sums])


def of_episode(
    registry: Path, dataset: str, split: str, *, episode_id: str, frames: int = FRAMES, task: str | None = None
) -> Strip:
    """`frames` of the pictures that a split has of one episode, evenly among them, with the truth where it is known.

    An episode of several tasks has a strip for each, of which `task` names one.

    Raises:
        ConfigError: The episode or the task is unknown, or no task is named where there are several.
    """
    found = _of_split(registry, dataset, split)
    episodes = list(dict.fromkeys(episode for episode, _ in found))
    if episode_id not in episodes:
        raise ConfigError(
            f"{dataset}, {split}", f"no pairs of an episode {episode_id!r}", nearest(episode_id, episodes)
        )
    tasks = [text for episode, text in found if episode == episode_id]
    if task is None and len(tasks) > 1:
        raise ConfigError(f"episode {episode_id}", f"has {len(tasks)} tasks", f"name one with --task: {tasks}")
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise ConfigError(f"{dataset}: episode {episode_id}", f"has no task {task!r}", nearest(task, tasks))
    truth = _truth(registry, dataset, episode_id, task=task)
    return _strip(registry, dataset, split, pairs=found[episode_id, task], frames=frames, truth=truth)


def of_split(
    registry: Path, dataset: str, split: str, *, frames: int = FRAMES, episodes: int | None = None, seed: int = 0
) -> list[Strip]:
    """A strip of every task of `episodes` episodes of a split (all without a number), drawn by `seed`, without truth.

    Those with fewer than three pictures are left out: two say nothing of order. Raises ConfigError where none is left.
    """
    if episodes is not None and episodes < 1:
        raise ConfigError(f"episodes {episodes}", "must be at least 1")
    found = {key: pairs for key, pairs in _of_split(registry, dataset, split).items() if len(_pictures(pairs)) > 2}
    drawn = sorted({episode for episode, _ in found}, key=lambda episode: artefacts.digest([seed, episode]))[:episodes]
    if frames < 3 or not drawn:
        raise ConfigError(
            f"{dataset}, {split}: {frames} frames of each of {len(drawn)} episodes",
            "at least one episode with three pictures is needed",
            "build more pairs per episode, or use more frames",
        )
    kept = set(drawn)
    return [
        _strip(registry, dataset, split, pairs=pairs, frames=frames, truth={})
        for (episode, _), pairs in found.items()
        if episode in kept
    ]


def of_pictures(paths: Sequence[Path], task: str) -> Strip:
    """Pictures in the order given, whose order in time is not known."""
    files = [path.resolve() for path in paths]
    for path in files:
        if not path.is_file():
            raise DataError(path, "no such picture file")
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise DataError(twice, "given twice", "give each picture once")
    if not files:
        raise ConfigError("pictures", "none given", "name some files")
    root = Path(os.path.commonpath([path.parent for path in files]))
    images = tuple(str(path.relative_to(root)) for path in files)
    return Strip(root, "pictures", _usable(task), images, tuple(range(len(files))))


def of_video(path: Path, task: str, out: Path, *, frames: int = FRAMES) -> Strip:
    """`frames` pictures of a video file, evenly spaced from its first to its last, written into the folder `out`."""
    import numpy as np

    from stcr_plugin.episodes.video import frame_times, frames_numbered
    from stcr_plugin.registry.data_config import FrameRules
    from stcr_plugin.registry.picture_store import encode

    task, times = _usable(task), frame_times(path)
    numbers = [int(number) for number in np.linspace(0, len(times) - 1, min(frames, len(times))).round()]
    seconds = [float(times[number]) for number in numbers]
    names = [f"frame_{number:06d}.png" for number in numbers]
    for name, picture in zip(names, frames_numbered(path, numbers), strict=True):
        artefacts.write_bytes(out / name, encode(picture, FrameRules(format="png")))
    return Strip(
        out, path.stem, task, images=tuple(names), frames=tuple(numbers), seconds=tuple(seconds),
        video=path.name,
    )  # fmt: skip


def _of_split(registry: Path, dataset: str, split: str) -> dict[tuple[str, str], list[Pair]]:
    """(episode_id, task) -> its pairs."""
    from stcr_plugin.registry.manifest import read_pairs

    found: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in read_pairs(registry, dataset, split):
        found[pair.episode_id, pair.task].append(pair)
    return found


def _pictures(pairs: Sequence[Pair]) -> dict[int, str]:
    """Frame -> picture, of all that the pairs show, in time order."""
    shown = {pair.earlier: pair.earlier_image for pair in pairs} | {pair.later: pair.later_image for pair in pairs}
    return {frame: shown[frame] for frame in sorted(shown)}


def _strip(
    registry: Path, dataset: str, split: str, pairs: Sequence[Pair], frames: int, truth: Mapping[int, float | None]
) -> Strip:
    import numpy as np

    from stcr_plugin.registry.manifest import read_manifest, teaches_ties

    pictures = _pictures(pairs)
    if frames < 2:
        raise ConfigError(f"{frames} frames", "at least two are needed to rank them")
    places = np.linspace(0, len(pictures) - 1, min(frames, len(pictures))).round().astype(int)
    chosen = [list(pictures)[place] for place in places]
    step = pairs[0].seconds / pairs[0].distance  # s a frame
    return Strip(
        registry,
        pairs[0].episode_id,
        pairs[0].task,
        tuple(pictures[frame] for frame in chosen),
        tuple(chosen),
        tuple(frame * step for frame in chosen),
        tuple(truth.get(frame) for frame in chosen) if truth else (),
        teaches_ties(read_manifest(registry, dataset)),
        dataset=dataset,
        split=split,
    )


def _truth(registry: Path, dataset: str, episode_id: str, *, task: str) -> dict[int, float | None]:
    """Frame -> true progress as the build's source records it; {} where it records none or is not here any more."""
    try:
        return dict(enumerate(true_progress(registry, dataset, [(episode_id, task)])[episode_id, task] or ()))
    except StcrError as error:
        logging.getLogger(__name__).warning(
            "%s, episode %s: its true progress is not known here: %s", dataset, episode_id, error
        )
        return {}


def _usable(task: str) -> str:
    if reason := why_unusable(task):
        raise ConfigError("--task", reason, "name what is being done in a few words")
    return task
