"""Controls of progress: changed videos of a few episodes, and what a judge of pictures must say of each.

The rules, stated before any figure was seen. A curve has values 0..1; each control is a mean over the sampled episodes.

still: all frames are one repeated frame. Highest minus lowest value of the curve at most 0.1. (VOC of such a video is
    often near 1 for models that read time from the order of their frames.)
dropped: of the second half only every fourth frame is kept, another length of the same video. Mean absolute difference
    at the frames that both have, at most 0.1. Progress relative to the episode depends on which frames are in it, so
    that even a right judge fails this without a reference.
reversed, shuffled: the frames in reverse and in a random order. The same, at all frames.
cut: the first half of the episode alone, so that it ends before the task is done: a failed episode that needs no label.
    Its end is lower than that of the whole one by at least 0.1. Without a reference no judge can pass; sampled episodes
    that fail or regress themselves lower the mean, so sample several.

Beside each stand the values of two judges that look at nothing: the clock, whose curve rises evenly with the time
shown, and a constant, whose curve is 1/2 everywhere. A control that the clock or the constant passes says nothing
against that one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin.artefacts import rng
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.robotics.judged_progress import Judge, Scale, judged
from stcr_plugin.scoring.progress_figures import ProgressControl

FRAMES = 16
"""Frames of an episode in the controls, evenly spaced."""
_DROP = 4


@dataclass(frozen=True)
class _Control:
    """How a video is changed, and what is read off its curve.

    Attributes:
        places: Places of the strip that the changed one shows, in its order.
        measure: Of (curve of the whole strip, places, curve of the changed one).
    """

    places: Callable[[int, int], list[int]]
    measure: Callable[[Sequence[float], Sequence[int], Sequence[float]], float]
    at_least: bool = False


def _range(whole: Sequence[float], places: Sequence[int], changed: Sequence[float]) -> float:
    return max(changed) - min(changed)


def _change(whole: Sequence[float], places: Sequence[int], changed: Sequence[float]) -> float:
    return sum(abs(whole[place] - value) for place, value in zip(places, changed, strict=True)) / len(places)


def _lower_end(whole: Sequence[float], places: Sequence[int], changed: Sequence[float]) -> float:
    return whole[-1] - changed[-1]


def _still(n: int, _: int) -> list[int]:
    return [n // 2] * n


def _dropped(n: int, _: int) -> list[int]:
    return [*range(n // 2), *sorted(range(n - 1, n // 2 - 1, -_DROP))]


def _reversed(n: int, _: int) -> list[int]:
    return list(range(n))[::-1]


def _shuffled(n: int, seed: int) -> list[int]:
    return [int(place) for place in rng("shuffled", seed, n).permutation(n)]


def _first_half(n: int, _: int) -> list[int]:
    return list(range(n // 2))


CONTROLS: Mapping[str, _Control] = {
    "still": _Control(_still, _range),
    "dropped": _Control(_dropped, _change),
    "reversed": _Control(_reversed, _change),
    "shuffled": _Control(_shuffled, _change),
    "cut": _Control(_first_half, _lower_end, at_least=True),
}


def progress_controls(
    judge: Judge, strips: Sequence[Strip], out: Path, scales: Sequence[Scale] | None = None
) -> tuple[ProgressControl, ...]:
    """The controls over `strips` of at least four frames each, in time order; none of no strip.

    Args:
        judge: Whom to ask.
        strips: Of FRAMES frames, of one episode each.
        out: Folder of the responses.
        scales: The scale of each strip, where progress is read on one.
    """
    values: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CONTROLS}
    used = [pair for pair in zip(strips, scales or [Scale()] * len(strips), strict=True) if len(pair[0].images) >= 4]
    for number, (strip, scale) in enumerate(used):
        n, folder = len(strip.images), out / f"{number:03d}"
        whole = judged(judge, strip, folder / "whole", scale=scale).curve.progress
        for name, control in CONTROLS.items():
            places = control.places(n, judge.seed)
            shown = judged(judge, _showing(strip, places, name), folder / name, scale=scale).curve.progress
            curves = (whole, shown), (_clock(n), _clock(len(places))), ((0.5,) * n, (0.5,) * len(places))
            measured = [control.measure(of_whole, places, of_shown) for of_whole, of_shown in curves]
            values[name].append((measured[0], measured[1], measured[2]))
    found = []
    for name, rows in values.items():
        if rows:
            value, clock, constant = (round(sum(column) / len(rows), 6) for column in zip(*rows, strict=True))
            found.append(ProgressControl(name, value, clock, constant=constant,
                                         at_least=CONTROLS[name].at_least, n_episodes=len(rows)))  # fmt: skip
    return tuple(found)


def _clock(n: int) -> tuple[float, ...]:
    return tuple(place / (n - 1) for place in range(n))


def _showing(strip: Strip, places: Sequence[int], name: str) -> Strip:
    """The pictures at `places`, shown as if they were recorded in that order."""
    return dataclasses.replace(
        strip,
        episode_id=f"{strip.episode_id}/{name}",
        images=tuple(strip.images[place] for place in places),
        frames=tuple(range(len(places))),
        seconds=(),
        truth=tuple(strip.truth[place] for place in places) if strip.truth else (),
    )
