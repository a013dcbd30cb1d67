"""Rows of a study against its reference, seed by seed -> which rows a rule that is stated beforehand recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.figures import Bounds, Measure
from stcr_plugin.results import ControlRow
from stcr_plugin.scoring.seeds import RowKey, SeedResult, difference

PAIR_ACCURACY, CLAIMS_TRUE, KEPT = "pair_accuracy", "claims_true", "still_right"
AGAINST_WRONG = ("suggested_wrong", "proposed_wrong")
"""Controls in which a wrong answer is suggested or proposed, in both orders."""


@dataclass(frozen=True)
class SeedLead:
    """How much higher a figure of a row is than that of the reference under one seed, in points.

    Attributes:
        interval: Over episodes; None where there is nothing to compute it from.
    """

    seed: int
    points: float
    interval: Bounds | None


@dataclass(frozen=True)
class Recommendation:
    """What the rule says of one row and figure.

    Attributes:
        control: Whose figure it is; "" for one of the evaluation itself.
        above: Seeds whose interval lies above 0; below: below 0.
        recommended: Whether it is above in as many seeds as the study asks for.
    """

    of: RowKey
    control: str
    figure: str
    leads: tuple[SeedLead, ...]
    above: int
    below: int
    recommended: bool


Controls = Mapping[str, Sequence[ControlRow]]
"""Row -> its controls, of one seed."""


def recommendations(
    results: Sequence[SeedResult],
    controls: Mapping[int, Controls],
    rows: Sequence[str],
    *,
    reference: str,
    needed: int,
) -> list[Recommendation]:
    """The rule for pair accuracy, true claims and answers kept against a wrong one, of `rows` on every split.

    Args:
        results: Of all rows and seeds.
        controls: Seed -> the controls of its rows.
        rows: The rows that are compared with the reference.
        reference: The row that they are compared with.
        needed: In how many seeds an interval must lie above 0.
    """
    found = []
    by_row: dict[RowKey, dict[int, SeedResult]] = {}
    for one in sorted(results, key=lambda one: one.seed):
        by_row.setdefault(one.row, {})[one.seed] = one
    for key, mine in by_row.items():
        if key.name not in rows or key.name == reference:
            continue
        theirs = by_row[RowKey(reference, key.dataset, key.split)]
        found.append(_ruled(key, PAIR_ACCURACY, [_paired(mine[seed], theirs[seed]) for seed in mine], needed=needed))
        claims = [_apart(seed, _claims(mine[seed]), _claims(theirs[seed])) for seed in mine]
        found.append(_ruled(key, CLAIMS_TRUE, claims, needed=needed))
    for name in rows if rows and by_row else ():
        dataset = next(iter(by_row)).dataset
        for control in AGAINST_WRONG if name != reference else ():
            kept = [
                _apart(seed, _kept(of_seed.get(name, ()), control), _kept(of_seed.get(reference, ()), control))
                for seed, of_seed in sorted(controls.items())
            ]
            found.append(_ruled(RowKey(name, dataset, ""), KEPT, kept, needed=needed, control=control))
    return [one for one in found if one.leads]


def _ruled(
    of: RowKey, figure: str, leads: Sequence[SeedLead | None], *, needed: int, control: str = ""
) -> Recommendation:
    there = tuple(one for one in leads if one)
    above = sum(one.interval is not None and one.interval[0] > 0 for one in there)
    below = sum(one.interval is not None and one.interval[1] < 0 for one in there)
    return Recommendation(of, control, figure, there, above, below, above >= needed)


def _paired(mine: SeedResult, theirs: SeedResult) -> SeedLead:
    found = difference([mine], [theirs])
    return SeedLead(mine.seed, found.points.mean, found.episodes_interval)


def _apart(seed: int, mine: Measure | None, theirs: Measure | None) -> SeedLead | None:
    """The difference of two shares that are not compared episode by episode.

    Its interval is made of theirs (MOVER, Zou and Donner 2008, Statistics in Medicine 27), as if their episodes were
    not the same: it is rather too wide.
    """
    if mine is None or theirs is None or mine.value is None or theirs.value is None:
        return None
    points = mine.value - theirs.value
    if not (mine.interval and theirs.interval):
        return SeedLead(seed, points, None)
    down = ((mine.value - mine.interval[0]) ** 2 + (theirs.interval[1] - theirs.value) ** 2) ** 0.5
    up = ((mine.interval[1] - mine.value) ** 2 + (theirs.value - theirs.interval[0]) ** 2) ** 0.5
    return SeedLead(seed, points, (points - down, points + up))


def _claims(result: SeedResult) -> Measure | None:
    return result.claims.found.claims_true if result.claims and result.claims.found else None


def _kept(controls: Sequence[ControlRow], name: str) -> Measure | None:
    return next((one.measures.get(KEPT) for one in controls if one.name == name), None)
