import numpy as np
import pytest
from scipy.stats import kendalltau

from stcr_plugin.scoring.rank_correlation import correlation, kendall, rank_shares


def test_both_are_one_in_order_minus_one_in_the_opposite_order_and_none_of_values_alike():
    for measure in (correlation, kendall):
        assert measure([1, 2, 5], range(3)) == 1
        assert measure([5, 2, 1], range(3)) == -1
        assert measure([1.0, 1.0 + 1e-12, 1.0], range(3)) is None
        assert measure([], []) is None


def test_kendall_is_tau_b_of_scipy():
    values, others = np.random.default_rng(0).integers(0, 5, (2, 12))
    assert kendall(values, others) == pytest.approx(kendalltau(values, others).statistic, abs=1e-6)


def test_rank_shares_count_those_that_are_lower_and_half_of_those_alike():
    assert rank_shares([3, 1, 2]) == [1, 0, 0.5]
    assert rank_shares([1, 1, 1]) == [0.5, 0.5, 0.5]
