"""How many queries `stcr label` makes of an episode, against asking all pairs, and what that costs in agreement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kendalltau

from stcr_plugin.scoring.bradley_terry import Comparison, bradley_terry
from stcr_plugin.scoring.progress_curve import on_scale, pairs_of, reference_pairs

ANCHORS, FEW = 360, 48  # three minutes at two a second
EPISODES = 3
SHORT, REFERENCES, MANY_EPISODES = (5, 12, 25), 8, 60
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


@pytest.mark.bench
def test_few_reference_frames_against_every_one(report: Callable[..., None], full: bool) -> None:
    """value: queries of short episodes beside a reference; baseline: with every frame beside every reference frame.
    Printed of both: Kendall's tau with the truth, and the mean distance of progress from the true one. Every second
    episode stops before half of the task is done.
    """
    positions = np.linspace(0, 1, REFERENCES)
    between = reference_pairs([float(position) for position in positions])
    for n in SHORT if full else SHORT[:1]:
        few = pairs_of(n, REFERENCES)
        every = [*pairs_of(n), *((one, n + other) for one in range(n) for other in range(REFERENCES))]
        rows = []
        for seed in range(MANY_EPISODES if full else 2):
            steps = np.random.default_rng([2, n, seed]).random(n)
            truth = (np.cumsum(steps) - steps[0]) / (np.cumsum(steps) - steps[0]).max() * (0.45 if seed % 2 else 1.0)
            both = np.concatenate([truth, positions])
            linked = outcomes(both, [(n + one, n + other) for one, other in between], seed)
            for pairs in (few, every):
                values = bradley_terry(n + REFERENCES, [*outcomes(both, pairs, seed), *linked]).values
                found = on_scale([*values[:n]], [*values[n:]], [*positions])
                rows.append((float(kendalltau(found, truth).statistic), float(np.abs(found - truth).mean())))
        (tau, off), (tau_all, off_all) = np.mean(rows[::2], axis=0), np.mean(rows[1::2], axis=0)
        report(f"label_references_{n}", 2 * len(few), "queries", 2 * len(every))
        print(f"Kendall's tau {tau:.3f} against {tau_all:.3f}; off the truth by {off:.3f} against {off_all:.3f}")
        if full:
            assert tau >= tau_all - 0.02
            assert off <= off_all + 0.03
