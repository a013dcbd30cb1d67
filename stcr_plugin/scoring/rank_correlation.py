"""Values of frames -> how well their order agrees with another order: Spearman's and Kendall's rank correlation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def correlation(values: Iterable[float], others: Iterable[float]) -> float | None:
    """Spearman's rank correlation, equal values having equal ranks; None where all values of one side are alike.

    Values count as equal up to 1e-6: answers that cancel out do so but for rounding.
    """
    from scipy.stats import spearmanr

    return _of(spearmanr, values, others)


def kendall(values: Iterable[float], others: Iterable[float]) -> float | None:
    """Kendall's tau-b, which corrects for equal values (Kendall 1945, Biometrika 33, 239-251); None as `correlation`.

    Of all pairs that neither side has equal: the share in the same order minus that in the opposite one, but for the
    correction. -1 is the opposite order.
    """
    from scipy.stats import kendalltau

    return _of(kendalltau, values, others)


def _of(measure: object, values: Iterable[float], others: Iterable[float]) -> float | None:
    import numpy as np

    sides = [np.round(np.array(list(side), dtype=np.float64), 6) for side in (values, others)]
    if any(side.size == 0 or np.ptp(side) == 0 for side in sides):
        return None
    return round(float(measure(*sides).statistic), 6)  # type: ignore[operator]


def rank_shares(values: Sequence[float]) -> list[float]:
    """Of each value: the share of the others that are lower, those alike by half; the progress of a sure judge."""
    others = max(1, len(values) - 1)
    return [
        round((sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2) / others, 6)
        for one in values
    ]
