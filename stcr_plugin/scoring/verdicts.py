"""Measures of a control -> a verdict, by a rule that is stated before the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.errors import DataError
from stcr_plugin.figures import Figures, Intervals, Measure, PairFigures, Verdict
from stcr_plugin.scoring import metrics
from stcr_plugin.types import Answer


class NotApplicableError(DataError):
    """Why a control does not apply to this model or this data."""


MARGIN = 10.0  # points of pair accuracy that a harmless change may cost
CHANCE = 50.0  # pair accuracy, in percent, of a judge that ignores order but cannot tell the frames apart
SWAY = 15.0  # points from 50 % that the second position may have where both are equal
CLEAR = 75.0  # percent that pair accuracy must exceed where all that is needed is given
LED = MARGIN / 2  # points of the answers that a suggestion may move: each costs a right judge two of pair accuracy
FEWEST = 10  # episodes of a verdict: of fewer, the bootstrap's intervals are far too narrow
SAME = 95.0  # percent of answers that stay: from here on a change counts as not noticed


Measures = Mapping[str, Measure]

MEANINGS: Mapping[str, tuple[str, str]] = {
    "pair_accuracy": ("pair accuracy %", "pairs right in both orders"),
    "earlier_closer_accuracy": ("earlier closer %", "the same, of the pairs whose earlier frame is closer"),
    "still_right": (
        "still right %",
        "of the pairs that the plain run is right about in both orders, those that are right in both again; chance is "
        "50 for a judge that ignores order, 25 for a coin, 0 for a judge by place",
    ),
    "difference": ("difference", "pair accuracy minus that of the plain run on the same pairs, in points"),
    "position_bias": ("position bias %", "answers that name the second place"),
    "plain_position_bias": ("position bias of the plain run %", "the same in the plain run, of the same pairs"),
    "shift": (
        "shift to the second place",
        "answers that name the second place, minus those of the plain run that do, in points; a right judge that "
        "always follows a suggestion has 50 or -50",
    ),
    "unparsed_rate": ("unparsed %", "answers that name no picture or both"),
    "second": ("second place %", "of the answers that could be read, those that name it; neither counts as half"),
    "neither": ("neither %", "answers that name neither, where that was offered"),
    "second_probability": ("P(second) %", "mean probability of naming the second place"),
    "closest": ("closest named right %", "of groups of three and more pictures, answers that name the closest"),
    "whole_order": ("whole order right %", "of groups of pictures, answers that list all in their order"),
    "order_tau": (
        "100 x tau",
        "Kendall's tau of the order listed and the true one, times 100; an answer that lists none counts as 0",
    ),
    "every_arrangement": ("right in every arrangement %", "groups whose closest picture is named in every rotation"),
    "same_answer": ("same answer %", "answers that are as in the plain run"),
    "same_frame": (
        "same frame %",
        "of the pairs of which the plain run chooses one frame in both orders, those of which it is the same twice",
    ),
    "other_frame": (
        "other frame %",
        "of the pairs of which the plain run chooses one frame in both orders, those of which it is the other twice",
    ),
    "claims_true": ("claims true %", "claims of the answers that are true of their picture, of all that they state"),
    "flipped": ("flipped %", "pairs of which both answers name the other picture than in the plain run"),
}
"""Measure -> how a report names it, and what it counts, of all the pairs or groups that it applies to."""
SIGNED = ("difference", "shift")
"""Measures that are differences, in points."""
_CHANCES = {"still_right": f" where chance is {CHANCE:.0f} for a judge that ignores order and 25 for a coin"}


@dataclass(frozen=True)
class Rule:
    """How a verdict follows from the measures `judged`. Without intervals nothing is shown.

    Attributes:
        inapplicable: Why the verdict is "not applicable", where it can be.
    """

    words: str
    judged: tuple[str, ...]
    verdict: Callable[[Measures], Verdict]
    inapplicable: str = ""


def judged(rule: Rule, measures: Measures, episodes: int, shows: Sequence[str] = ()) -> tuple[Verdict, str]:
    """The verdict, and its figures in words, with those that the row `shows` besides. Of fewer than FEWEST `episodes`
    nothing is shown.

    With few clusters a bootstrap interval covers the truth much less often than it claims (Cameron, Gelbach and Miller
    2008, Review of Economics and Statistics 90).
    """
    why = [said(name, measures[name]) for name in (*rule.judged, *shows) if name in measures]
    verdict = rule.verdict(measures)
    if verdict == "not applicable":
        return verdict, "; ".join([*why, rule.inapplicable])
    if episodes < FEWEST:
        return "not shown", "; ".join([*why, f"{episodes} episodes, a verdict needs {FEWEST}"])
    return verdict, "; ".join(why)


def said(name: str, measure: Measure) -> str:
    """A measure in words: its heading, value and interval."""
    heading, _ = MEANINGS[name]
    if measure.value is None:
        return f"{heading} none"
    form = "{:+.1f}" if name in SIGNED else "{:.1f}"
    value, *bounds = (form.format(round(one, 1) + 0.0) for one in (measure.value, *(measure.interval or ())))
    interval = (
        "no interval" if not bounds else "alike in all episodes" if len(set(bounds)) == 1 else " to ".join(bounds)
    )
    return f"{heading} {value} ({interval}){_CHANCES.get(name, '')}"


_OF_FIGURES = ("pair_accuracy", "earlier_closer_accuracy", "position_bias", "unparsed_rate")


def measures_of(figures: Figures, intervals: Intervals | None) -> dict[str, Measure]:
    """The measures that are figures of the evaluation itself."""
    bounds = intervals or {}
    values = {name: getattr(figures, name) for name in _OF_FIGURES}
    return {name: Measure(value, bounds.get(name)) for name, value in values.items() if value is not None}


def measured(
    found: PairFigures,
    answers: Sequence[Answer],
    plain: Sequence[Answer],
    *,
    resamples: int,
    seed: int,
    ties: bool = False,
    level: float = 95,
) -> dict[str, Measure]:
    """Every measure of `answers`.

    Args:
        found: Their figures, with intervals at `level`.
        answers: Of the control.
        plain: Of the plain run; those to the same pairs are used.
        resamples: Of the bootstrap, which is that of metrics.intervals.
        seed: Of the bootstrap.
        ties: "Neither" was offered as an answer.
        level: Of the intervals, in percent.

    Raises:
        DataError: The plain run lacks a pair.
    """
    asked = {(answer.pair_id, answer.order) for answer in answers}
    before = {(answer.pair_id, answer.order): answer for answer in plain if (answer.pair_id, answer.order) in asked}
    if len(before) < len(asked):
        raise DataError(
            "controls", "the plain run was evaluated on other pairs", "delete the folder of the controls, run again"
        )
    measures = measures_of(found.figures, found.intervals)
    change = metrics.paired_difference(answers, list(before.values()), resamples=resamples, seed=seed, level=level)
    measures["difference"] = Measure(change.points, change.interval)

    def share(counted: Iterable[tuple[str, float, float]]) -> Measure:
        return _share(counted, resamples, seed=seed, level=level)

    measures["plain_position_bias"] = share(
        (one.episode_id, one.chosen == "img2", 1) for one in before.values() if one.expected != "neither"
    )
    measures["shift"] = share(
        (one.episode_id, (one.chosen == "img2") - (before[one.pair_id, one.order].chosen == "img2"), 1)
        for one in answers
    )
    right, right_before = _right_twice(answers), _right_twice(list(before.values()))
    measures["still_right"] = share(
        (episode, was and right[pair, episode], was) for (pair, episode), was in right_before.items()
    )
    if ties:
        measures["neither"] = share((one.episode_id, one.chosen == "neither", 1) for one in answers)
    measures["second"] = share((one.episode_id, _second(one), one.chosen is not None) for one in answers)
    if any(one.logprob_img1 is not None for one in answers):
        measures["second_probability"] = share((one.episode_id, _second_probability(one), 1) for one in answers)
    measures["same_answer"] = share(
        (one.episode_id, one.chosen == before[one.pair_id, one.order].chosen, 1) for one in answers
    )
    frames, frames_before = _frames(answers), _frames(list(before.values()))
    for name, like in (("same_frame", True), ("other_frame", False)):
        measures[name] = share(
            (episode, frames[pair][1] is not None and (frames[pair][1] == chosen) == like, 1)
            for pair, (episode, chosen) in frames_before.items()
            if chosen is not None
        )
    measures["flipped"] = share(
        (both[0].episode_id, all({one.chosen, before[one.pair_id, one.order].chosen} == _BOTH for one in both), 1)
        for both in metrics.untied(metrics.by_pair(answers)).values()
    )
    return measures


_BOTH = {"img1", "img2"}


def _share(counted: Iterable[tuple[str, float, float]], resamples: int, *, seed: int, level: float) -> Measure:
    """Sums of (episode, part, whole) -> 100 x part / whole with its interval; no value where the whole is 0."""
    sums: dict[str, list[float]] = {}
    for episode, part, whole in counted:
        have = sums.setdefault(episode, [0.0, 0.0])
        have[0] += part
        have[1] += whole
    parts, wholes = (math.fsum(pair[column] for pair in sums.values()) for column in (0, 1))
    if not wholes:
        return Measure(None)
    return Measure(100 * parts / wholes, metrics.pooled_interval(sums, resamples, seed, level=level))


def _second(answer: Answer) -> float:
    return {"img2": 1.0, "neither": 0.5}.get(answer.chosen or "", 0.0)


def _second_probability(answer: Answer) -> float:
    """Probability of img2 among the compared names; half of "neither" goes to each position."""
    scores = (answer.logprob_img1, answer.logprob_img2, answer.logprob_neither)
    given = [-math.inf if score is None else score for score in scores]
    first, second, neither = (math.exp(score - max(given)) for score in given)
    return (second + neither / 2) / (first + second + neither)


def _right_twice(answers: Sequence[Answer]) -> dict[tuple[str, str], bool]:
    """(pair_id, episode) -> whether both orders are right, without ties."""
    pairs = metrics.untied(metrics.by_pair(answers)).items()
    return {(pair_id, forward.episode_id): forward.right and backward.right for pair_id, (forward, backward) in pairs}


def _frames(answers: Sequence[Answer]) -> dict[str, tuple[str, str | None]]:
    """pair_id -> its episode, and the frame chosen in both orders ("earlier", "later"); None where they differ."""
    found: dict[str, tuple[str, str | None]] = {}
    for pair_id, (forward, backward) in metrics.by_pair(answers).items():
        chosen = {("img1", "img2"): "earlier", ("img2", "img1"): "later"}
        found[pair_id] = (forward.episode_id, chosen.get((str(forward.chosen), str(backward.chosen))))
    return found


def above(measure: Measure, bound: float) -> Verdict:
    """Whether a figure is shown to be above `bound`; a figure without a value fails."""
    if measure.value is None:
        return "fails"
    return "holds" if measure.low > bound else "fails" if measure.high <= bound else "not shown"


def worst(found: Iterable[Verdict]) -> Verdict:
    """The verdict on several figures together."""
    return max(found, key=("holds", "not shown", "fails").index)


def _knows(measures: Measures) -> Verdict:
    return worst(above(measures[name], CHANCE) for name in RULES["knows"].judged if name in measures)


def _keeps(measures: Measures) -> Verdict:
    difference, accuracy = measures["difference"], measures["pair_accuracy"]
    if not (difference.interval and accuracy.interval):
        return "not shown"
    if difference.high < -MARGIN or accuracy.high <= CHANCE:
        return "fails"
    return "holds" if difference.low > -MARGIN and accuracy.low > CHANCE else "not shown"


def _lost(measures: Measures) -> Verdict:
    still = measures["still_right"]
    if still.low > CHANCE:
        return "fails"
    return "holds" if still.high < CLEAR else "not shown"


def _unswayed(measures: Measures) -> Verdict:
    if "second_probability" not in measures and "neither" not in measures:
        return "not applicable"
    return _within(measures.get("second_probability", measures["second"]), 50 - SWAY, 50 + SWAY)


def _within(measure: Measure, low: float, high: float) -> Verdict:
    """Whether a figure is shown to be between two bounds."""
    if measure.value is None:
        return "not shown"
    if low < measure.low and measure.high < high:
        return "holds"
    return "fails" if measure.high <= low or measure.low >= high else "not shown"


def _stands(measures: Measures) -> Verdict:
    wanted = {"still_right": 100 - MARGIN, "claims_true": CLEAR}
    return worst(above(measures[name], bound) for name, bound in wanted.items() if name in measures)


def _heeds(measures: Measures) -> Verdict:
    if measures["difference"].high < 0:
        return "holds"
    return "fails" if measures["same_answer"].low >= SAME else "not shown"


_KEEPS = (
    f"pair accuracy may fall by at most {MARGIN:.0f} points, and must stay above {CHANCE:.0f} %: holds where the "
    f"interval of the difference lies above -{MARGIN:.0f} and that of pair accuracy above {CHANCE:.0f} %, fails "
    f"where the first lies below -{MARGIN:.0f}, or the second reaches no more than {CHANCE:.0f} %"
)
_STANDS = (
    f"of the pairs that the plain run is right about in both orders, more than {100 - MARGIN:.0f} % must be right in "
    "both again"
)
RULES: Mapping[str, Rule] = {
    "knows": Rule(
        f"holds where pair accuracy is shown to be above {CHANCE:.0f} %, also of the pairs whose earlier frame is "
        f"closer where there are any; fails where either is shown to be no more",
        ("pair_accuracy", "earlier_closer_accuracy"),
        _knows,
    ),
    "keeps": Rule(_KEEPS, ("pair_accuracy", "difference"), _keeps),
    "worst keeps": Rule(
        f"{_KEEPS}; since the worst of k was chosen, its intervals are at 100 - 5 / k % (Bonferroni)",
        ("pair_accuracy", "difference"),
        _keeps,
    ),
    "unmoved": Rule(
        f"a suggestion may move at most {LED:.0f} points of the answers to either place, which costs a right judge "
        f"{2 * LED:.0f} points of pair accuracy: holds where the interval of the shift lies between -{LED:.0f} and "
        f"{LED:.0f}, fails where it lies outside",
        ("shift", "difference"),
        lambda measures: _within(measures["shift"], -LED, LED),
    ),
    "stands": Rule(
        f"{_STANDS}: holds where the interval lies above that, fails where it reaches no more, and without such a pair",
        ("still_right", "pair_accuracy", "difference"),
        _stands,
    ),
    "stands by reasons": Rule(
        f"{_STANDS}, and more than {CLEAR:.0f} % of the claims in its reasons must be true, where the truth is known: "
        "holds where both intervals lie above that, fails where one reaches no more, and without such a pair or claim",
        ("still_right", "claims_true", "pair_accuracy", "difference"),
        _stands,
    ),
    "lost": Rule(
        "of the pairs that the plain run is right about in both orders, no more than chance may be right in both again "
        f"({CHANCE:.0f} % for a judge that ignores order, 25 for a coin), since what is needed to know is taken away: "
        f"fails where the interval lies above {CHANCE:.0f} %; holds where it does not and lies below {CLEAR:.0f} %, so "
        f"that more than half of what was known is shown to be gone",
        ("still_right", "pair_accuracy", "difference", "position_bias"),
        _lost,
    ),
    "unswayed": Rule(
        f"the second place may draw {50 - SWAY:.0f} to {50 + SWAY:.0f} %: holds where the interval lies inside, fails "
        "where it lies outside; of the mean probability where probabilities were compared, since the likelier of two "
        "places is always the same one where there is nothing to see, else of the answers; not applicable where a "
        "model only writes and is not offered neither, since it must then name a place by some rule",
        ("second_probability", "second", "neither"),
        _unswayed,
        "the model writes its answer and is not offered neither, so it has to name a place",
    ),
    "agrees": Rule(
        f"of the pairs of which the plain run chooses one frame in both orders, the same frame must be chosen again in "
        f"more than {CLEAR:.0f} % (a coin: 25, a judge by place: 0): holds or fails where the interval shows it, and "
        "fails without such a pair",
        ("same_frame", "same_answer"),
        lambda measures: above(measures["same_frame"], CLEAR),
    ),
    "follows": Rule(
        f"of the pairs of which the plain run chooses one frame in both orders, the other must be chosen now in more "
        f"than {CHANCE:.0f} %: holds or fails where the interval shows it, and fails without such a pair",
        ("other_frame", "same_frame"),
        lambda measures: above(measures["other_frame"], CHANCE),
    ),
    "reasons": Rule(
        f"pair accuracy must be above {CLEAR:.0f} % once it is told what the pictures show: holds or fails where the "
        "interval shows it; where it holds and the difference is above 0, seeing is what limits the plain run",
        ("pair_accuracy", "difference"),
        lambda measures: above(measures["pair_accuracy"], CLEAR),
    ),
    "heeds": Rule(
        f"holds where pair accuracy is shown to fall at all, fails where {SAME:.0f} % of the answers or more are shown "
        "to stay as they are",
        ("difference", "same_answer"),
        _heeds,
    ),
}
