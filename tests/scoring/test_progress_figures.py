"""Figures of progress curves: agreement with the truth, and failures against successes, with a clock's beside."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from stcr_plugin.scoring.progress_figures import Trace, auc, progress_figures, succeeded

FRAMES = tuple(range(0, 50, 5))
RISES = tuple(place / 9 for place in range(10))
FALLS = (*RISES[:5], *RISES[:5][::-1])


def traces(with_truth=True):
    """Two successes and two failures, by a judge that is right."""
    return [Trace(f"e{number}", FRAMES, curve, curve if with_truth else ())
            for number, curve in enumerate((RISES, RISES, FALLS, FALLS))]  # fmt: skip


def test_a_right_judge_has_1_and_the_clock_less_where_progress_falls():
    found = progress_figures(traces())
    assert found.against == "true progress"
    assert found.tau == pytest.approx(1)
    assert found.tau_clock < 0.6
    assert (found.auc, found.n_success, found.n_failure) == (1, 2, 2)
    assert found.ends == pytest.approx(1)
    assert found.ends_interval == (1, 1)
    assert found.voc < 1


def test_without_truth_the_clock_has_1_by_definition_and_there_is_no_auc():
    found = progress_figures(traces(with_truth=False))
    assert found.against == "time"
    assert found.tau_clock == 1
    assert found.auc is None
    assert found.ends is None


def test_a_flat_curve_counts_as_0_and_is_counted():
    found = progress_figures([Trace("e", FRAMES, (0.5,) * 10, RISES), Trace("f", FRAMES, RISES, RISES)])
    assert found.tau == pytest.approx(0.5)
    assert found.flat == 1
    assert progress_figures([]) is None


def test_success_is_to_end_nearly_as_far_as_the_furthest():
    assert succeeded(traces()) == [True, True, False, False]


def test_auc_is_the_statistic_of_mann_and_whitney():
    generator = np.random.default_rng(0)
    values, positive = generator.integers(0, 5, 40).astype(float), generator.random(40) > 0.4
    expected = mannwhitneyu(values[positive], values[~positive]).statistic / (positive.sum() * (~positive).sum())
    assert auc(values, positive) == pytest.approx(expected)
