"""The interval of a share that was counted on a sample."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from stcr_plugin.scoring.wilson import wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (183, 200), (1, 5000)])
def test_interval_is_wilsons(hits, n):
    assert wilson(hits, n) == pytest.approx([100 * x for x in proportion_confint(hits, n, 0.05, "wilson")])


def test_interval_holds_the_share_of_the_whole_file_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    file = np.arange(2000) < 1800
    inside = 0
    for _ in range(1000):
        low, high = wilson(int(rng.choice(file, 100, replace=False).sum()), 100)
        inside += low <= 90 <= high
    assert 930 <= inside <= 985
