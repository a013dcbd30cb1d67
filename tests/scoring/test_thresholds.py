import numpy as np
import pytest

from stcr_plugin.scoring.thresholds import LabelledEpisode, area, fewest, success_figures, task_threshold
from stcr_plugin.scoring.wilson import wilson


def episodes(successes, failures):
    return [LabelledEpisode(one, True) for one in successes] + [LabelledEpisode(one, False) for one in failures]


def drawn(n, apart, seed):
    """As many successes as failures, whose scores are `apart` standard deviations apart."""
    random = np.random.default_rng(seed)
    scores = [1 / (1 + np.exp(-random.normal(mean, 1, n))) for mean in (apart / 2, -apart / 2)]
    return episodes(*scores)


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.9, 0.95])
def test_fewest_is_where_no_mistake_at_all_is_just_enough(precision):
    n = fewest(precision)
    assert wilson(n, n)[0] >= 100 * precision
    assert wilson(n - 1, n - 1)[0] < 100 * precision
    assert 100 - wilson(0, n)[1] >= 100 * precision  # and of as many failures, a share below the rest is let through


def test_lowest_threshold_whose_lower_bound_is_enough_is_given():
    fitted = episodes([0.9] * 30 + [0.6] * 10, [0.6] + [0.3] * 30)
    found = task_threshold("lift", fitted, heldout=fitted, precision=0.8)
    assert (found.threshold, found.why) == (0.6, "")
    assert found.precision.value == pytest.approx(100 * 40 / 41)
    assert found.precision.interval == pytest.approx(wilson(40, 41))
    assert (found.n_successes, found.n_failures) == (40, 31)
    assert found.heldout.recall.value == 100
    assert found.heldout.n_predicted == 41
    stricter = task_threshold("lift", fitted, heldout=fitted, precision=0.88)
    assert stricter.threshold == 0.9  # 30 of 30 has a lower bound of 88.6 %, 40 of 41 one of 87.4 %


def test_too_few_episodes_give_no_threshold_however_well_they_are_distinguished():
    need = fewest(0.8)
    enough = episodes([0.9] * need, [0.1] * need)
    assert task_threshold("lift", enough, heldout=enough, precision=0.8).threshold == 0.9
    for few in (episodes([0.9] * (need - 1), [0.1] * 50), episodes([0.9] * 50, [0.1] * (need - 1))):
        found = task_threshold("lift", few, heldout=enough, precision=0.8)
        assert (found.threshold, found.precision, found.heldout) == (None, None, None)
        assert f"{need} of each are needed to show a precision of 80 %" in found.why


@pytest.mark.parametrize(("heldout", "lacking"), [(([0.9], []), "failure"), (([], [0.1]), "success")])
def test_threshold_that_nothing_held_out_tests_is_not_given(heldout, lacking):
    found = task_threshold("lift", episodes([0.9] * 40, [0.1] * 40), heldout=episodes(*heldout), precision=0.8)
    assert found.why == f"no held-out {lacking} to test it on"


def test_scores_that_say_nothing_give_no_threshold():
    blind = episodes([0.5] * 40, [0.5] * 40)
    found = task_threshold("lift", blind, heldout=blind, precision=0.8)
    assert found.threshold is None
    assert "the best lower bound is 39 %" in found.why


def test_given_threshold_has_the_precision_that_was_demanded():
    """It is chosen among many on one sample, so this is not plain from the interval."""
    given = below = 0
    random = np.random.default_rng(0)
    for seed in range(200):
        found = task_threshold("lift", drawn(50, 1.5, seed), heldout=drawn(5, 1.5, seed), precision=0.8)
        if found.threshold is not None:
            given += 1
            many = [1 / (1 + np.exp(-random.normal(mean, 1, 4000))) >= found.threshold for mean in (0.75, -0.75)]
            below += many[0].mean() < 0.8 * (many[0].mean() + many[1].mean())
    assert given > 40
    assert below <= 0.05 * given


def test_precision_and_recall_are_counted_with_wilsons_intervals():
    found = success_figures(episodes([0.9, 0.8, 0.4], [0.85, 0.1]), 0.5)
    assert found.precision.value == pytest.approx(200 / 3)
    assert found.recall.value == pytest.approx(200 / 3)
    assert found.precision.interval == pytest.approx(wilson(2, 3))
    none = success_figures(episodes([0.4], [0.1]), 0.5)
    assert (none.precision.value, none.recall.value, none.n_predicted) == (None, 0, 0)


def test_area_counts_pairs_and_equal_ones_by_half():
    assert area([0.9, 0.5], [0.5, 0.1]).value == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert area([0.2, 0.3], [0.2, 0.3]).value == 0.5
    assert area([], [0.1]).value is None


def test_area_has_newcombes_interval_which_is_not_empty_at_one():
    perfect = area([0.9] * 10, [0.1] * 10)
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert 0.7 < perfect.low < 0.9
    mirrored = area([0.1] * 10, [0.9] * 10)
    assert (mirrored.value, mirrored.high) == (0.0, pytest.approx(1 - perfect.low))
    narrower = area([0.9] * 100, [0.1] * 100)
    assert narrower.low > perfect.low


def test_interval_of_the_area_holds_the_true_one_as_often_as_it_says():
    from scipy.stats import norm

    true, random, held = norm.cdf(1.2 / 2**0.5), np.random.default_rng(1), 0
    for _ in range(300):
        found = area(random.normal(1.2, 1, 30), random.normal(0, 1, 20))
        held += found.low <= true <= found.high
    assert held >= 0.92 * 300  # 285 expected, with a standard deviation of 4
