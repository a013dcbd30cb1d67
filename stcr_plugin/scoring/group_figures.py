"""Answers about groups of three and more pictures -> figures, and the verdict that the controls draw from them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.errors import DataError
from stcr_plugin.figures import FEWEST, Bounds, GroupFigures, GroupPart, GroupSettings, Intervals, Measure
from stcr_plugin.results import ControlRow, MultiImage
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.verdicts import Rule, above, judged, worst
from stcr_plugin.types import Lost

ASKS = {"closest": "which is closest to completion", "order": "all in order, the closest first"}
ROWS: Mapping[tuple[int, str], str] = {
    (pictures, ask): f"{word} pictures{named}"
    for pictures, word in enumerate(("three", "four", "five", "six", "seven", "eight"), FEWEST)
    for ask, named in (("closest", ""), ("order", " in order"))
}
"""(pictures, what is asked) -> what the controls call the row of such groups."""


@dataclass(frozen=True)
class GroupAnswer:
    """A model's answer to one arrangement of a group.

    Attributes:
        shown: Which of the group's frames is in each position, n - 1 being the closest to completion.
        chosen: The position, from 0, that was named as closest; None where none or several were.
        ranking: All positions, the closest first; None where they were not asked for, or not listed once each.
        lost: Why `chosen` is None, where that is known.
    """

    group_id: str
    episode_id: str
    shown: tuple[int, ...]
    chosen: int | None
    ranking: tuple[int, ...] | None
    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    lost: Lost = ""

    @property
    def right(self) -> bool:
        return self.chosen is not None and self.shown[self.chosen] == len(self.shown) - 1


_RATIOS = {
    "accuracy": ("right", "queries"),
    "all_rotations": ("all_right", "groups"),
    "exact": ("exact", "queries"),
    "kendall_tau": ("tau", "queries"),
}
"""Figure -> the sums that it is the ratio of."""


def figures(answers: Sequence[GroupAnswer], asked: GroupSettings) -> GroupFigures:
    """The figures of `answers` to what `asked` says. Raises DataError for none."""
    from scipy.stats import chisquare

    if not answers:
        raise DataError("groups", "no answers to compute figures from", "evaluate on at least one group")
    sums = _sums(answers)
    total = {name: sum(one[name] for one in sums.values()) for name in next(iter(sums.values()))}
    rates = {name: total[part] / total[whole] for name, (part, whole) in _RATIOS.items()}
    places = tuple(sum(answer.chosen == place for answer in answers) for place in range(asked.pictures))
    test = chisquare(places) if any(places) else None
    orders = asked.ask == "order"
    return GroupFigures(
        accuracy=100 * rates["accuracy"],
        all_rotations=100 * rates["all_rotations"],
        places=places,
        place_chi2=float(test.statistic) if test else None,
        place_p=float(test.pvalue) if test else None,
        unparsed_rate=100 * sum(answer.chosen is None for answer in answers) / len(answers),
        exact=100 * rates["exact"] if orders else None,
        kendall_tau=rates["kendall_tau"] if orders else None,
        n_groups=int(total["groups"]),
        n_episodes=len(sums),
        n_queries=len(answers),
        cut_rate=100 * sum(answer.lost == "cut" for answer in answers) / len(answers),
        refused_rate=100 * sum(answer.lost == "refused" for answer in answers) / len(answers),
    )


def intervals(
    answers: Sequence[GroupAnswer], asked: GroupSettings, *, resamples: int = 2000, seed: int = 0
) -> Intervals | None:
    """95 % intervals by the bootstrap over episodes of metrics.pooled_interval; None for a single episode."""
    sums = _sums(answers)
    found = {}
    for name in ("accuracy", "all_rotations", *(("exact", "kendall_tau") if asked.ask == "order" else ())):
        part, whole = _RATIOS[name]
        counts = {episode: (one[part], one[whole]) for episode, one in sums.items()}
        if bounds := metrics.pooled_interval(counts, resamples, seed):
            scale = 100 if name == "kendall_tau" else 1
            found[name] = (bounds[0] / scale, bounds[1] / scale)
    return found or None


def kendall_tau(ranking: Sequence[int], shown: Sequence[int]) -> float:
    """tau-b (Kendall 1945) between a listed order and the true one: -1 reversed, 0 unrelated, 1 the same.

    Neither has ties, so that tau-b is tau-a: pairs in the right order minus pairs in the wrong one, over all pairs.
    scipy.stats.kendalltau rounds through square roots, so that it is not exactly 1 for a right order.

    Args:
        ranking: Positions, the closest first.
        shown: The frame in each position.
    """
    listed = [shown[place] for place in ranking]
    signs = [1 if first > second else -1 for at, first in enumerate(listed) for second in listed[at + 1 :]]
    return sum(signs) / len(signs)


def chance(asked: GroupSettings) -> dict[str, float]:
    """What a coin gets; with all rotations, a judge by position has the same accuracy."""
    turns = asked.rotations or asked.pictures
    found = {"accuracy": 100 / asked.pictures, "all_rotations": 100 / asked.pictures**turns}
    return found | ({"exact": 100 / math.factorial(asked.pictures), "kendall_tau": 0.0} if asked.ask == "order" else {})


def _sums(answers: Sequence[GroupAnswer]) -> dict[str, dict[str, float]]:
    """episode_id -> sums over its groups, sorted so that a seed means one draw."""
    groups: dict[tuple[str, str], list[GroupAnswer]] = defaultdict(list)
    for answer in answers:
        groups[answer.episode_id, answer.group_id].append(answer)
    sums: dict[str, dict[str, float]] = {}
    for (episode, _), own in sorted(groups.items()):
        have = sums.setdefault(episode, dict.fromkeys(("queries", "groups", "right", "all_right", "exact", "tau"), 0.0))
        taus = [kendall_tau(one.ranking, one.shown) for one in own if one.ranking is not None]
        have["queries"] += len(own)
        have["groups"] += 1
        have["right"] += sum(one.right for one in own)
        have["all_right"] += all(one.right for one in own)
        have["exact"] += sum(tau == 1 for tau in taus)
        have["tau"] += sum(taus)
    return sums


# ---- the row of the controls ----

_MEASURES = {
    "closest": "accuracy",
    "every_arrangement": "all_rotations",
    "whole_order": "exact",
    "order_tau": "kendall_tau",
    "unparsed_rate": "unparsed_rate",
}
"""Measure of the controls -> figure."""


def control_row(found: MultiImage, folder: str = "") -> ControlRow:
    """The row of the controls: whether the rule learned for two pictures is more than a rule of positions."""
    bounds = found.intervals or {}
    measures = {}
    for name, key in _MEASURES.items():
        value, scale = getattr(found.figures, key), 100 if name == "order_tau" else 1
        if value is not None:
            measures[name] = Measure(scale * value, _scaled(bounds.get(key), scale))
    verdict, why = judged(_rule(found.asked), measures, found.figures.n_episodes)
    return ControlRow(
        *_texts(found.asked),
        verdict=verdict,
        why=why,
        measures=measures,
        figures=GroupPart(found.figures, found.intervals, found.chance),
        folder=folder,
    )


def inapplicable_row(asked: GroupSettings, reason: Exception) -> ControlRow:
    """The row of the controls where no group can be evaluated."""
    return ControlRow(*_texts(asked), verdict="not applicable", why=str(reason))


def _scaled(bounds: Bounds | None, scale: int) -> Bounds | None:
    return (scale * bounds[0], scale * bounds[1]) if bounds else None


def _texts(asked: GroupSettings) -> tuple[str, str, str, str, str]:
    """The name of the row, what is asked, what looking would do, the fix and the rule."""
    count = asked.pictures
    looks = {
        "closest": "names the picture that is closest to completion, whatever its position",
        "order": "lists the pictures by their state, whatever their positions",
    }
    ordered = ", that ask for the order" if asked.ask == "order" else ""
    return (
        ROWS[count, asked.ask],
        f"{count} pictures of one task in every rotation: {ASKS[asked.ask]}",
        looks[asked.ask],
        f"training samples of {count} pictures, in all arrangements{ordered}",
        _rule(asked).words,
    )


def _rule(asked: GroupSettings) -> Rule:
    level = chance(asked)["accuracy"]
    words = f"holds where the interval of accuracy lies above chance, {level:.1f} %"
    # A judge by position has exactly the level of chance, which rounding must not lift above itself.
    if asked.ask == "closest":
        return Rule(
            f"{words}, and fails where none of it does",
            ("closest", "every_arrangement"),
            lambda measures: above(measures["closest"], level + 1e-9),
        )
    return Rule(
        f"{words}, and that of tau above 0; fails where none of either does",
        ("closest", "order_tau", "whole_order"),
        lambda measures: worst((above(measures["closest"], level + 1e-9), above(measures["order_tau"], 1e-9))),
    )
