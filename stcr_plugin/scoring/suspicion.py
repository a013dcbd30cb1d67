"""Progress curves of episodes -> what is suspicious about each, and the episodes in the order of suspicion."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError
from stcr_plugin.result_files import Inline, Omitted, Result
from stcr_plugin.scoring.rank_correlation import kendall

OPPOSITE = -0.3
"""An episode whose tau is below this comes first: most of its frames are in the opposite order."""
CHANGE = 0.02
"""A change of progress of less than this is taken for none."""
_LEAST_SPREAD = 0.1  # of a measure: one contradicted pair of a few, or a tiny difference, is not made large
_FEWEST = 3  # anchors that say anything of an order


@dataclass(frozen=True)
class Curve:
    """The frames of one episode, or of one part of it, whose progress was judged, in time order.

    Attributes:
        frames: Their numbers.
        progress: 0..1.
        disagreement: Share 0..1 of a frame's comparisons in which the two orders chose different frames.
        comparisons: How many a frame has.
    """

    frames: tuple[int, ...]
    progress: tuple[float, ...]
    disagreement: tuple[float, ...]
    comparisons: tuple[int, ...]


@dataclass(frozen=True)
class CurveFigures:
    """The measures of one episode, see MEASURES. Of an episode in parts each is that of its most suspicious part."""

    tau: float | None
    fall: float
    falling: float
    plateau: float
    end: float
    end_disagreement: float
    disagreement: float
    success: float | None = None


@dataclass(frozen=True)
class Measure:
    """A figure of an episode.

    Attributes:
        meaning: What it is, in words.
        suspect: Its value -> 0..1, greater is more suspicious.
    """

    meaning: str
    suspect: Callable[[float], float]


def _same(value: float) -> float:
    return value


def _missing(value: float) -> float:
    return 1 - value


MEASURES: Mapping[str, Measure] = {
    "tau": Measure(
        "Kendall's tau-b of progress with time, -1..1; -1 is done in the opposite direction", lambda tau: (1 - tau) / 2
    ),
    "fall": Measure("largest fall of progress, from any frame to a later one, 0..1", _same),
    "falling": Measure(f"share of the steps between judged frames in which progress falls by {CHANGE} or more", _same),
    "plateau": Measure(
        f"longest stretch in which progress stays within {CHANGE}, as a share of the episode's time", _same
    ),
    "end": Measure("progress at the last judged frame, 0..1", _missing),
    "end_disagreement": Measure("share of the last frame's pairs in which the two orders contradict each other", _same),
    "disagreement": Measure("the same of all pairs of the episode: the noise of its labels", _same),
    "success": Measure("probability of success, where `stcr label --success` gave one", _missing),
}
RULE = (
    f"Episodes with tau below {OPPOSITE} come first, the lowest tau at the head: most of their frames are in the "
    "opposite order, which no other measure excuses. The others follow by their worst measure: each is compared with "
    "the median of all episodes, in units of their spread (1.4826 times the median absolute deviation, at least "
    f"{_LEAST_SPREAD}), and the largest excess decides. Episodes with fewer than {_FEWEST} judged frames come last."
)


@dataclass(frozen=True)
class AuditedEpisode(Result):
    """A row of audit.jsonl, the most suspicious episode first.

    Attributes:
        place: From 1.
        anchors: How many of its frames were judged.
        reason: The measure that decides its place; "" with too few judged frames.
        excess: How far that measure is above the median of all episodes, in units of their spread.
        drop: Whether a rule of `--drop` names it.
        parts: How many parts with tasks of their own it has, where they are more than one.
    """

    file: ClassVar = "audit.jsonl"
    command: ClassVar = "stcr audit"

    place: int
    episode_id: str
    episode_index: int
    anchors: int
    reason: str
    excess: float
    drop: bool
    figures: Inline[CurveFigures]
    parts: Omitted[int] = 1


@dataclass(frozen=True)
class Suspect:
    """An episode before it has a place; `curves` are those of its parts."""

    episode_id: str
    episode_index: int
    curves: tuple[Curve, ...]
    success: float | None = None


@dataclass(frozen=True)
class DropRule:
    """A measure on one side of a level."""

    measure: str
    below: bool
    level: float

    def names(self, figures: CurveFigures) -> bool:
        """Whether it holds; never of a measure that is not known."""
        value = getattr(figures, self.measure)
        return value is not None and (value < self.level if self.below else value > self.level)


DROP = DropRule("tau", True, OPPOSITE)
"""The rule of `--drop` where none is given."""


def drop_rule(text: str) -> DropRule:
    """`tau<-0.3` or `fall>0.5` as a rule. Raises ConfigError for another form and an unknown measure."""
    found = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(-?\d*\.?\d+)\s*", text)
    if found is None:
        raise ConfigError(f"--drop {text}", "is not a measure, < or >, and a number", "write one such as 'tau<-0.3'")
    if found[1] not in MEASURES:
        raise ConfigError(f"--drop {text}", f"unknown measure {found[1]!r}", nearest(found[1], list(MEASURES)))
    return DropRule(found[1], found[2] == "<", float(found[3]))


def curve_figures(curves: Sequence[Curve], success: float | None = None) -> CurveFigures:
    """The measures of an episode's parts."""
    parts = [_of_part(curve) for curve in curves]
    worst: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(CurveFigures) if field.name != "success"):
        known = [value for value in (getattr(part, name) for part in parts) if value is not None]
        worst[name] = max(known, key=MEASURES[name].suspect) if known else None
    return CurveFigures(**worst, success=success)


def audited(suspects: Sequence[Suspect], rules: Sequence[DropRule] = (DROP,)) -> list[AuditedEpisode]:
    """The episodes in the order of suspicion, see RULE."""
    figures = [curve_figures(one.curves, one.success) for one in suspects]
    known = [len(one.curves[0].frames) >= _FEWEST or len(one.curves) > 1 for one in suspects]
    excess = _excess([of for of, enough in zip(figures, known, strict=True) if enough])
    rows = []
    for one, of, enough in zip(suspects, figures, known, strict=True):
        own = {name: by(of) for name, by in excess.items()} if enough else {}
        reason = max(own, key=lambda name: own[name]) if own else ""
        if enough and _opposite(of):
            reason = "tau"
        rows.append(
            AuditedEpisode(
                place=0,
                episode_id=one.episode_id,
                episode_index=one.episode_index,
                anchors=sum(len(curve.frames) for curve in one.curves),
                reason=reason,
                excess=round(own.get(reason, 0.0), 4),
                drop=enough and any(rule.names(of) for rule in rules),
                figures=of,
                parts=len(one.curves),
            )
        )
    return [dataclasses.replace(row, place=place) for place, row in enumerate(sorted(rows, key=_order), 1)]


def _opposite(figures: CurveFigures) -> bool:
    return figures.tau is not None and figures.tau < OPPOSITE


def _order(row: AuditedEpisode) -> tuple[int, float, int]:
    if not row.reason:
        return (2, 0.0, row.episode_index)
    if _opposite(row.figures):
        return (0, row.figures.tau or 0.0, row.episode_index)
    return (1, -row.excess, row.episode_index)


def _excess(figures: Sequence[CurveFigures]) -> dict[str, Callable[[CurveFigures], float]]:
    """Measure -> how far an episode's is above the median of `figures`, in units of their spread."""
    import numpy as np

    def of(name: str) -> Callable[[CurveFigures], float]:
        suspect = MEASURES[name].suspect
        values = np.array([suspect(getattr(one, name)) for one in figures if getattr(one, name) is not None])
        median = float(np.median(values)) if len(values) else 0.0
        spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(values - median)))) if len(values) else 1.0

        def excess(one: CurveFigures) -> float:
            value = getattr(one, name)
            return 0.0 if value is None else (suspect(value) - median) / spread

        return excess

    return {name: of(name) for name in MEASURES}


def _of_part(curve: Curve) -> CurveFigures:
    progress, last = curve.progress, len(curve.progress) - 1
    highest, fall = progress[0], 0.0
    for value in progress:
        highest = max(highest, value)
        fall = max(fall, highest - value)
    steps = [later - earlier for earlier, later in pairwise(progress)]
    weight = sum(curve.comparisons)
    noise = sum(share * count for share, count in zip(curve.disagreement, curve.comparisons, strict=True))
    return CurveFigures(
        tau=kendall(progress, curve.frames),
        fall=round(fall, 6),
        falling=round(sum(step <= -CHANGE for step in steps) / max(1, len(steps)), 6),
        plateau=round(_plateau(curve), 6),
        end=round(progress[last], 6),
        end_disagreement=round(curve.disagreement[last], 6),
        disagreement=round(noise / weight, 6) if weight else 0.0,
    )


def _plateau(curve: Curve) -> float:
    """Longest stretch of frames whose progress stays within CHANGE, as a share of all; frames between count as time."""
    frames, progress = curve.frames, curve.progress
    longest, start = 0, 0
    for end in range(len(frames)):
        while max(progress[start : end + 1]) - min(progress[start : end + 1]) > CHANGE:
            start += 1
        longest = max(longest, frames[end] - frames[start])
    whole = frames[-1] - frames[0]
    return longest / whole if whole else 0.0
