"""Comparisons of an episode's frames, with each other and with reference frames -> its progress curve.

Which frames are compared (anchors), which pairs of them, and how scores become progress 0..1. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stcr_plugin.scoring.bradley_terry import Comparison, bradley_terry, hops, outcome
from stcr_plugin.types import Answer

MOST = 1000
"""Anchors of an episode at most, since the scores of n frames take memory of n * n: longer ones get wider steps."""

LONGEST = 0.6
"""Distance of the frames that are compared at most, as a share of the episode."""


@dataclass(frozen=True)
class Curve:
    """The progress of the anchors of one episode.

    Attributes:
        progress: 0..1 [anchors].
        disagreement: Share 0..1 of an anchor's comparisons in which the two orders choose different frames [anchors].
        comparisons: How many an anchor has, each in both orders [anchors].
        success: Probability 0..1 that the last anchor is at least as far as the end of the reference; None without,
            and 1/2 where the judge puts the reference frames in no order or the wrong one.
    """

    progress: tuple[float, ...]
    disagreement: tuple[float, ...]
    comparisons: tuple[int, ...]
    success: float | None = None


def anchor_frames(n_frames: int, fps: float, every: float, most: int = MOST) -> list[int]:
    """Numbers of the frames to compare: one every `every` seconds, and always the first and the last one.

    With more than `most` the steps are wider. The last step is shorter or longer than the others by at most a half.
    """
    if n_frames < 2:
        return list(range(n_frames))
    step = max(every * fps, 1.0, (n_frames - 1) / (most - 1))
    found = [round(place * step) for place in range(int((n_frames - 1) / step) + 1)]
    while len(found) > 1 and n_frames - 1 - found[-1] < step / 2:
        del found[-1]
    return [*found, n_frames - 1]


def pairs_of(anchors: int, references: int = 0) -> list[tuple[int, int]]:
    """Which of `anchors` frames, followed by `references` ones, are compared: indices (lower, higher).

    Anchors as far apart as `strides` says, about n log2 n pairs. Each anchor is compared with three reference frames,
    a third of them apart and the next three for the next anchor, and the last anchor with all: its place decides about
    success.
    The anchors are linked with each other, so that more comparisons with references say little (tests/speed measures
    it). The pairs of the references are those of `reference_pairs`, compared once for all episodes.
    """
    step = max(1, references // 3)
    linked = [
        (one, anchors + other)
        for one in range(anchors)
        for other in range(references)
        if one == anchors - 1 or (other - one) % references in (0, step, 2 * step)
    ]
    near = [(one, one + stride) for stride in strides(anchors) for one in range(anchors - stride)]
    return [*near, *linked]


def strides(n: int) -> list[int]:
    """How far apart the frames are that are compared, of n: about log2 n distances, from 1 to LONGEST of all.

    Their square roots are evenly spaced, which is denser in the middle than 1, 2, 4, ...: neighbours differ by less
    than a judge's errors, and the two ends of an episode by more than is needed. At the same number of comparisons
    Kendall's tau with the truth is higher by 0.01 (tests/speed).
    """
    steps = max(1, round(math.log2(max(1, n))))
    found = {1} | {1 + round(LONGEST * (n - 1) * (step / steps) ** 2) for step in range(1, steps + 1)}
    return sorted(stride for stride in found if stride < n)


def reference_pairs(positions: Sequence[float]) -> list[tuple[int, int]]:
    """Which reference frames are compared with each other: within each demonstration those 1, 2, 4, ... apart."""
    starts = [place for place in range(len(positions)) if place == 0 or positions[place] <= positions[place - 1]]
    ends = [*starts[1:], len(positions)][: len(starts)]
    return [
        (start + first, start + second)
        for start, end in zip(starts, ends, strict=True)
        for first, second in hops(end - start)
    ]


def curve(
    anchors: int,
    answers: Sequence[tuple[tuple[int, int], tuple[Answer, Answer]]],
    positions: Sequence[float] = (),
    between: Sequence[Comparison] = (),
) -> Curve:
    """The curve that the answers about the pairs of `pairs_of` give.

    All comparisons are fitted together by Bradley-Terry. Without references, progress is the mean probability of being
    judged closer than another frame of the episode (bradley_terry.Scores): relative to the episode, so that a failed
    one also ends high, and flat where a judge cannot distinguish the frames. With references it is read on their scale,
    see `on_scale`; with a goal picture alone, 0 is the frame of the episode that is least far.

    Args:
        anchors: How many frames of the episode.
        answers: Pair -> its answers, forward and backward.
        positions: Of the reference frames, 0 (start) to 1 (end); those of a goal picture alone are (1,).
        between: Comparisons of the reference frames, as indices among them.
    """
    made = [Comparison(*pair, *outcome(both)) for pair, both in answers]
    made += [Comparison(anchors + one.first, anchors + one.second, one.outcome, one.weight) for one in between]
    scores = bradley_terry(anchors + len(positions), made)
    values = [float(value) for value in scores.values]
    success = _success(anchors, answers, positions)
    if not positions:
        progress = [float(value) for value in scores.progress]
    elif min(positions) == max(positions):  # a goal alone: the frame that is least far is 0
        progress = on_scale(values[:anchors], [min(values[:anchors]), *values[anchors:]], [0.0, *positions])
    else:
        progress = on_scale(values[:anchors], values[anchors:], positions)
        if success is not None and len(set(on_scale(values[anchors:], values[anchors:], positions))) == 1:
            success = 0.5
    compared, differ = [0] * anchors, [0] * anchors
    for pair, both in answers:
        for place in pair:
            if place < anchors:
                compared[place] += 1
                differ[place] += _orders_differ(both)
    return Curve(
        tuple(round(value, 6) for value in progress),
        tuple(round(part / max(1, whole), 6) for part, whole in zip(differ, compared, strict=True)),
        tuple(compared),
        success,
    )


def on_scale(values: Sequence[float], scale: Sequence[float], positions: Sequence[float]) -> list[float]:
    """Positions at which scores lie on a scale of reference frames, whose scores and positions are known.

    The references' positions are made to rise with their scores by isotonic regression (pooled adjacent violators:
    Barlow et al. 1972, Statistical Inference under Order Restrictions), linear between them and flat outside. So a
    judge that puts the references in no order or the wrong one gives a flat curve, not a wrong one.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    order = sorted(range(len(scale)), key=lambda place: (round(scale[place], 9), place))
    x = np.array([round(scale[place], 9) for place in order])
    known, first = np.unique(x, return_inverse=True)
    weights = np.bincount(first).astype(np.float64)
    means = np.bincount(first, weights=[positions[place] for place in order]) / weights
    fitted = isotonic_regression(means, weights=weights).x
    return [float(value) for value in np.interp(values, known, fitted)]


def interpolated(frames: Sequence[int], progress: Sequence[float], wanted: Sequence[int]) -> list[float]:
    """Progress at the frames `wanted`, linear between anchors."""
    import numpy as np

    return [float(value) for value in np.interp(wanted, frames, progress)]


def _orders_differ(both: tuple[Answer, Answer]) -> bool:
    """Whether both orders name a picture, and not the same one: then both name the first, or both the second."""
    names = {answer.chosen for answer in both}
    return len(names) == 1 and names <= {"img1", "img2"}


def _success(
    anchors: int, answers: Sequence[tuple[tuple[int, int], tuple[Answer, Answer]]], positions: Sequence[float]
) -> float | None:
    ends = {anchors + place for place, position in enumerate(positions) if position == 1}
    found = [outcome(both) for (one, other), both in answers if one == anchors - 1 and other in ends]
    weight = sum(share for _, share in found)
    return round(1 - sum(later * share for later, share in found) / weight, 6) if weight else None
