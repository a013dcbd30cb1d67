"""Probabilities of success and labels -> the threshold of a task, and how well it does on held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stcr_plugin.calibration_results import SuccessFigures, TaskThreshold
from stcr_plugin.figures import Measure
from stcr_plugin.scoring.wilson import wilson

_Z2 = 3.841458820694124  # square of the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class LabelledEpisode:
    """One episode: how probable its success is, and whether it is one."""

    probability: float
    success: bool


def fewest(precision: float) -> int:
    """How many successes, and how many failures, a threshold of this precision (0..1) takes at least.

    With n of n right, Wilson's lower bound is n / (n + z^2): with fewer episodes not even a threshold without a mistake
    is shown to have the precision. The same number of failures, none of which is predicted a success, shows that
    fewer than 1 - precision of failures are.
    """
    return math.ceil(round(_Z2 * precision / (1 - precision), 9))


def task_threshold(
    task: str, fitted: Sequence[LabelledEpisode], heldout: Sequence[LabelledEpisode], precision: float
) -> TaskThreshold:
    """The lowest threshold of a task whose precision on `fitted` has a lower bound (Wilson's, 95 %) of `precision`.

    A failure that counts as a success is the costly mistake where episodes are filtered or rewarded, and the lowest
    such threshold keeps the most successes. The lower bound, not the share, since a threshold that is chosen for its
    share on a few episodes looks better than it is. Like any precision it is that of data with as many failures.

    None is given from fewer than `fewest` successes or failures, nor without a held-out success and failure to show
    what it is worth.
    """
    wins, losses = _counts(fitted)
    need, held = fewest(precision), _counts(heldout)
    threshold: float | None = None
    share, why = Measure(None), ""
    if min(wins, losses) < need:
        why = (
            f"{wins} successes and {losses} failures to fit on, and {need} of each are needed to show a precision of "
            f"{100 * precision:g} %"
        )
    elif not all(held):
        why = f"no held-out {'failure' if held[0] else 'success'} to test it on"
    else:
        threshold, share = _lowest(fitted, precision)
        if threshold is None:
            why = (
                f"no threshold is shown to have a precision of {100 * precision:g} %: the best lower bound is "
                f"{share.low:.0f} %"
            )
    return TaskThreshold(
        task,
        threshold,
        why,
        n_successes=wins,
        n_failures=losses,
        precision=share if threshold is not None else None,
        heldout=success_figures(heldout, threshold) if threshold is not None else None,
    )


def success_figures(episodes: Sequence[LabelledEpisode], threshold: float) -> SuccessFigures:
    """Precision and recall with Wilson's intervals, and the area under the curve with Newcombe's."""
    predicted = [one for one in episodes if one.probability >= threshold]
    hits, (wins, losses) = sum(one.success for one in predicted), _counts(episodes)
    return SuccessFigures(
        precision=_share(hits, len(predicted)),
        recall=_share(hits, wins),
        auc=area([one.probability for one in episodes if one.success],
                 [one.probability for one in episodes if not one.success]),
        n_predicted=len(predicted),
        n_successes=wins,
        n_failures=losses,
    )  # fmt: skip


def area(successes: Sequence[float], failures: Sequence[float]) -> Measure:
    """The share of the pairs of a success and a failure whose success is greater, equal ones by half, 0..1.

    The interval is that of Newcombe 2006 (Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2, Stat Med 25, method 5): all areas a that are z standard errors or less from the one found, with
    the variance of Hanley & McNeil at a. Unlike DeLong's and a bootstrap's it has a width where the area is 1.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import rankdata

    m, n = len(successes), len(failures)
    if not m or not n:
        return Measure(None)
    ranks = rankdata(np.round(np.array([*successes, *failures], dtype=np.float64), 12))
    found = float(ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    more = (m + n) / 2 - 1

    def too_far(at: float) -> float:
        variance = at * (1 - at) * (1 + more * (1 - at) / (2 - at) + more * at / (1 + at)) / (m * n)
        return (at - found) ** 2 - _Z2 * variance

    # Of the found area itself, between the bounds, it is negative; at 0 and 1 it is not.
    low = 0.0 if found == 0 else float(brentq(too_far, 0, found if found < 1 else 1 - 1e-12))
    high = 1.0 if found == 1 else float(brentq(too_far, found if found > 0 else 1e-12, 1))
    return Measure(found, (low, high))


def _lowest(fitted: Sequence[LabelledEpisode], precision: float) -> tuple[float | None, Measure]:
    """The threshold and its precision; None, and the precision with the best lower bound, where none is sure enough."""
    best = (-1.0, 0, 1)
    found: tuple[float, Measure] | None = None
    ordered = sorted(fitted, key=lambda one: -one.probability)
    hits = 0
    for count, one in enumerate(ordered, 1):
        hits += one.success
        if count < len(ordered) and ordered[count].probability == one.probability:
            continue  # equal ones are on one side of any threshold
        low = _lower(hits, count)
        best = max(best, (low, hits, count))
        if low >= precision - 1e-9:
            found = one.probability, _share(hits, count)
    return found or (None, _share(*best[1:]))


def _lower(hits: int, n: int) -> float:
    """The lower end of `wilson`, 0..1, which takes a hundred times longer."""
    share = hits / n
    half = math.sqrt(_Z2 * (share * (1 - share) / n + _Z2 / (4 * n * n)))
    return (share + _Z2 / (2 * n) - half) / (1 + _Z2 / n)


def _share(hits: int, n: int) -> Measure:
    return Measure(100 * hits / n, wilson(hits, n)) if n else Measure(None)


def _counts(episodes: Sequence[LabelledEpisode]) -> tuple[int, int]:
    wins = sum(one.success for one in episodes)
    return wins, len(episodes) - wins
