"""Pairs of an episode -> Group: which of their frames make a group of three and more, and in what arrangements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.figures import GroupSettings
from stcr_plugin.pairs import PairRules
from stcr_plugin.types import Group, Pair

_TRIES = 40  # random draws of a group's frames before a segment is taken to hold no further group


@settings
class GroupRule(GroupSettings):
    """The groups of a training set: as they are evaluated, in every rotation.

    Attributes:
        target: weak: the answer alone. cot: a description of each picture from the source's claims, then the answer.
    """

    target: Literal["weak", "cot"] = "weak"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotations is not None:
            raise ValueError("`rotations` must be left out: training shows every rotation, else positions are unequal")


def by_time(pairs: Sequence[Pair], rules: PairRules) -> bool:
    """Whether frames are ordered by time alone. Pairs know of two frames which is closer, which orders no three."""
    return rules.label == "order" and all(pair.closer == "later" for pair in pairs)


def draw_groups(
    pairs: Sequence[Pair],
    rules: PairRules,
    asked: GroupSettings,
    *,
    seed: int,
    truth: Mapping[tuple[str, str], Sequence[float | None]] | None = None,
    contents: Mapping[str, str] | None = None,
) -> list[Group]:
    """Up to `per_episode` groups of each episode, drawn by `seed` and the episode's id alone, none twice.

    Any two frames of a group are at least as far apart as `rules` ask of a pair (`min_seconds`, `min_frames`); there is
    no longest distance.

    Args:
        pairs: They give the frames, their segments and their pictures.
        rules: Of the pairs.
        asked: How many pictures, how many groups.
        seed: Of the draw.
        truth: (episode id, task) -> progress of each frame; a frame of unknown progress is in no group, nor do two that
            `rules` call a tie. None: the later of two frames is the closer one.
        contents: Picture -> digest of its contents; two frames with the same one are in no group.
    """
    episodes: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        episodes[pair.episode_id].append(pair)
    groups = []
    for episode_id, own in episodes.items():
        random = artefacts.rng(seed, episode_id, asked.pictures)
        apart = rules.distances(own[0].distance / own[0].seconds)[0]
        segments = [part for part in segments_of(own) if len(part[1]) >= asked.pictures]
        found: dict[tuple[int, ...], Group] = {}
        for number in range(_TRIES * asked.per_episode if segments else 0):
            task, images = segments[number % len(segments)]
            order = [list(images)[at] for at in random.permutation(len(images))]
            frames = _chosen(
                {frame: (contents or {}).get(images[frame]) for frame in order},
                asked.pictures,
                apart,
                closeness=None if truth is None else truth[episode_id, task],
                tie=rules.tie_within,
            )
            if frames:
                group_id = f"{episode_id}:{'-'.join(str(frame) for frame in frames)}"
                group = Group(group_id, episode_id, task, frames, tuple(images[frame] for frame in frames))
                found.setdefault(frames, group)
            if len(found) == asked.per_episode:
                break
        groups += list(found.values())
    return groups


def arranged(group: Group, asked: GroupSettings, seed: int) -> list[tuple[int, ...]]:
    """The arrangements of a group: rotations of a random one, so that none needs to be in time order.

    Each entry is the frame (of `group.frames`) in each place. All rotations put each frame once in each place.
    """
    random = artefacts.rng(seed, group.group_id, "arrangement")
    first = [int(frame) for frame in random.permutation(asked.pictures)]
    return [(*first[turn:], *first[:turn]) for turn in range(asked.rotations or asked.pictures)]


def segments_of(pairs: Sequence[Pair]) -> list[tuple[str, dict[int, str]]]:
    """The segments of one episode's pairs: task text, and frame -> picture.

    Rows name no segment; pairs of one task text whose spans overlap lie in the same one.
    """
    found: list[tuple[str, dict[int, str]]] = []
    for task in dict.fromkeys(pair.task for pair in pairs):
        end = -1
        for pair in sorted((pair for pair in pairs if pair.task == task), key=lambda pair: pair.earlier):
            if pair.earlier > end:
                found.append((task, {}))
            end = max(end, pair.later)
            found[-1][1].update({pair.earlier: pair.earlier_image, pair.later: pair.later_image})
    return found


def _chosen(
    frames: Mapping[int, str | None],
    count: int,
    apart: int,
    *,
    closeness: Sequence[float | None] | None,
    tie: float,
) -> tuple[int, ...] | None:
    """The first `count` of `frames` that fit, the farthest from completion first; None where fewer do.

    frames: Frame -> digest of its picture's contents, None where that is not known.
    """
    values: dict[int, float] = {}
    shown: set[str] = set()
    for frame, content in frames.items():
        value = float(frame) if closeness is None else closeness[frame]
        if value is None or content in shown or any(abs(frame - other) < apart for other in values):
            continue
        if closeness is not None and any(value == other or abs(value - other) < tie for other in values.values()):
            continue
        values[frame] = value
        if content is not None:
            shown.add(content)
        if len(values) == count:
            return tuple(sorted(values, key=values.__getitem__))
    return None
