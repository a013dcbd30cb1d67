"""How many queries `stcr label` makes of a long episode, against asking all pairs, and what that costs in agreement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kendalltau

from stcr_plugin.scoring.bradley_terry import Comparison, bradley_terry
from stcr_plugin.scoring.progress_curve import pairs_of

ANCHORS, FEW = 360, 48  # three minutes at two a second
EPISODES = 3
OF_A_FRAME, OF_A_PAIR, SLOPE = 0.02, 0.5, 20.0


def outcomes(truth: np.ndarray, pairs: list[tuple[int, int]], seed: int) -> list[Comparison]:
    """A judge with two errors: of each frame, the same in all its comparisons, and of each comparison."""
    seen = truth + OF_A_FRAME * np.random.default_rng(seed).standard_normal(len(truth))
    found = []
    for first, second in pairs:
        error = OF_A_PAIR * np.random.default_rng([seed, first, second]).standard_normal()
        odds = SLOPE * (seen[second] - seen[first]) + error
        found.append(Comparison(first, second, float(1 / (1 + np.exp(-odds))), 1.0))
    return found


def episode(n: int, seed: int) -> np.ndarray:
    """True progress that rises unevenly, and falls for a tenth of the time."""
    steps = np.random.default_rng([1, seed]).random(n)
    start = int(n * (0.4 + 0.1 * seed))
    steps[start : start + n // 10] *= -2
    return np.cumsum(steps) / np.abs(np.cumsum(steps)).max()


@pytest.mark.bench
def test_label_vs_all_pairs(report: Callable[..., None], full: bool) -> None:
    """value: queries of one episode by the sparse graph; baseline: of all pairs. Kendall's tau of both is printed."""
    n = ANCHORS if full else FEW
    sparse, every = pairs_of(n), [(i, j) for i in range(n) for j in range(i + 1, n)]
    taus = []
    for seed in range(EPISODES if full else 1):
        truth = episode(n, seed)
        scores = [bradley_terry(n, outcomes(truth, pairs, seed)).values for pairs in (sparse, every)]
        taus.append([float(kendalltau(values, truth).statistic) for values in scores])
    few, all_pairs = np.mean(taus, axis=0)
    report("label_vs_all_pairs", 2 * len(sparse), "queries", 2 * len(every))
    print(f"Kendall's tau with the truth, {n} frames: {few:.4f} against {all_pairs:.4f} of all pairs")
    if full:
        assert len(every) >= 20 * len(sparse)
        assert few >= all_pairs - 0.02
