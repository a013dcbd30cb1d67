import dataclasses
import math

import numpy as np
import pytest
from scipy.special import expit

from stcr_plugin.errors import DataError
from stcr_plugin.scoring.calibration import (
    brier_change,
    calibration,
    judgments,
    margins,
    probability_figures,
    temperature_of,
)
from stcr_plugin.types import ORDERS, Answer, Pair, Query


def answer(number, order, odds, episode="e0", closer="later", neither=None):
    """An answer whose log-odds of img2 against img1 are `odds`."""
    query = Query(Pair(f"p{number}", episode, "dev", "stack cups", 0, 5, 0.5, closer=closer), order)
    first, second = (-math.log1p(math.exp(one)) for one in (odds, -odds))
    chosen = "img2" if odds > 0 else "img1" if odds < 0 else None
    scores = {"logprob_img1": first, "logprob_img2": second, "logprob_neither": neither}
    return Answer(query.pair.pair_id, episode, order, query.answer, chosen, "", **scores)


def judge(n, temperature, *, seed, episodes=50, bias=0.0):
    """Pairs that a judge is right about as often as its log-odds say when divided by `temperature`."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(n):
        odds = random.normal(0, 2)
        right = random.random() < expit(abs(odds))
        sign = 1.0 if right else -1.0
        for order in ORDERS:
            toward = sign * abs(odds) * temperature * (1.0 if order == "forward" else -1.0)
            found.append(answer(number, order, toward + bias, f"e{number % episodes}"))
    return found


def test_margins_are_the_log_odds_of_the_right_answer_and_the_mean_of_both_orders():
    found = margins(
        [
            answer(0, "forward", 3.0),
            answer(0, "backward", 1.0),
            answer(1, "forward", 2.0, "e1", "earlier"),
            answer(1, "backward", 4.0, "e1", "earlier"),
        ]
    )
    assert found.one_order == pytest.approx([3, -1, -2, 4])
    assert found.both_orders == pytest.approx([1, 1])
    assert found.episodes == ("e0", "e1")


def test_half_of_neither_counts_for_each_frame_and_ties_are_left_out():
    sure = [answer(0, "forward", 50.0, neither=0.0), answer(0, "backward", -50.0, neither=0.0)]
    assert margins(sure).both_orders == pytest.approx([math.log(3)])  # 3/4 against 1/4 of what is given to all names
    tie = [answer(1, order, 1.0, closer="neither") for order in ORDERS]
    assert len(margins([*sure, *tie]).both_orders) == 1
    assert margins(tie) is None


def test_answers_that_were_not_compared_have_no_probabilities():
    written = [Answer("p0", "e0", order, "img2", "img2", "img2") for order in ORDERS]
    assert margins(written) is None
    assert calibration(written) is None


def test_name_without_any_probability_leaves_the_figures_finite():
    impossible = [answer(0, order, 0.0) for order in ORDERS]
    impossible = [dataclasses.replace(one, logprob_img1=-math.inf, logprob_img2=0.0) for one in impossible]
    assert margins(impossible).both_orders == pytest.approx([0])
    assert calibration(impossible, resamples=10).one_order.brier == pytest.approx(0.5)


def test_figures_worked_by_hand():
    predicted, came_true = np.array([0.6, 0.6, 0.9, 0.9]), np.array([1.0, 0.0, 1.0, 1.0])
    found = probability_figures(predicted, came_true, ["a", "a", "b", "b"], resamples=50)
    assert found.brier == pytest.approx((0.16 + 0.36 + 0.01 + 0.01) / 4)
    assert (found.predicted, found.observed) == (pytest.approx(75), 75)
    assert (len(found.bins), found.calibration_error) == (1, pytest.approx(0))  # too few for two bins
    assert found.error_by_noise == pytest.approx(100 * math.sqrt(2 / math.pi * 0.66) / 4)
    assert (found.n, found.n_episodes) == (4, 2)


def test_bins_are_of_equal_mass_and_coverage_counts_from_the_surest():
    predicted = np.arange(1, 201) / 400 + 0.5
    came_true = np.where(np.arange(200) % 20 < 14, 1.0, 0.0)  # 7 of 10 in each bin of 20
    found = probability_figures(predicted, came_true, [str(one % 20) for one in range(200)], resamples=50)
    assert [one.n for one in found.bins] == [20] * 10
    assert [one.coverage for one in found.bins] == pytest.approx([100, 90, 80, 70, 60, 50, 40, 30, 20, 10])
    assert [one.observed_above for one in found.bins] == pytest.approx([70] * 10)
    means = [predicted[start : start + 20].mean() for start in range(0, 200, 20)]
    assert [one.predicted for one in found.bins] == pytest.approx([100 * mean for mean in means])
    assert found.calibration_error == pytest.approx(np.mean([abs(100 * mean - 70) for mean in means]))
    assert found.bins[-1].least == pytest.approx(100 * predicted[180])


def test_equal_probabilities_are_in_one_bin():
    found = probability_figures(np.full(500, 0.9), np.ones(500), ["a"] * 250 + ["b"] * 250, resamples=50)
    assert [(one.n, one.coverage) for one in found.bins] == [(500, 100)]
    assert found.calibration_error == pytest.approx(10)
    assert found.intervals["brier"] == pytest.approx((0.01, 0.01))


def test_judge_that_favours_neither_picture_is_half_right_and_says_so():
    found = judgments(np.zeros(40), ["a", "b"] * 20, resamples=50)
    assert (found.brier, found.calibration_error, found.predicted, found.observed) == (0.25, 0, 50, 50)


def test_position_bias_spoils_single_answers_and_not_both_orders():
    found = calibration(judge(2000, 1.0, seed=1, bias=4.0), resamples=100)
    assert found.both_orders.calibration_error < 2 * found.both_orders.error_by_noise
    assert found.one_order.calibration_error > 20
    assert found.one_order.brier > found.both_orders.brier + 0.1
    assert found.one_order.n == 2 * found.both_orders.n


def test_calibrated_judge_is_reliable_within_noise_and_its_intervals_hold_it():
    found = calibration(judge(4000, 1.0, seed=2), resamples=200).both_orders
    assert found.calibration_error < 2 * found.error_by_noise
    assert found.calibration_error > found.error_by_noise / 3
    held = [one.interval[0] <= one.predicted <= one.interval[1] for one in found.bins]
    assert sum(held) >= 8
    above = [one.observed_above for one in found.bins]
    assert above[-1] > 95 > above[0]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_temperature_of_a_judge_that_is_wrongly_sure_is_found_within_its_interval(true):
    found = margins(judge(2000, true, seed=3))
    value, (low, high) = temperature_of(found, resamples=200)
    assert low <= true <= high
    assert value == pytest.approx(true, rel=0.15)
    assert high / low < 1.5
    held_out = judge(2000, true, seed=4)
    raw, scaled = calibration(held_out, resamples=50), calibration(held_out, value, resamples=50)
    assert scaled.both_orders.observed == raw.both_orders.observed  # no choice changes
    change = brier_change(margins(held_out), value, resamples=200)
    assert change.value == pytest.approx(scaled.both_orders.brier - raw.both_orders.brier)
    if true == 1.0:
        assert change.low < 0.001
    else:
        assert change.high < 0
        assert scaled.both_orders.calibration_error < raw.both_orders.calibration_error / 2


def test_interval_of_the_temperature_holds_the_true_one_as_often_as_it_says():
    held = 0
    for seed in range(30):
        _, (low, high) = temperature_of(margins(judge(200, 2.0, seed=100 + seed)), resamples=80, seed=seed)
        held += low <= 2.0 <= high
    assert held >= 25  # 28.5 expected; fewer than 25 in one of 65 such tests


def test_temperature_is_the_maximum_of_the_likelihood():
    found = margins(judge(300, 2.0, seed=5))
    value, _ = temperature_of(found, resamples=50)
    likelihood = [np.log(expit(found.both_orders / one)).sum() for one in (0.98 * value, value, 1.02 * value)]
    assert likelihood[1] > max(likelihood[0], likelihood[2])


def test_temperature_is_refused_where_nothing_or_all_is_wrong():
    right = [one for number in range(80) for one in (answer(number, "forward", 2.0, f"e{number % 8}"),
                                                     answer(number, "backward", -2.0, f"e{number % 8}"))]  # fmt: skip
    with pytest.raises(DataError, match="only 0 of 8 episodes have a pair that is judged wrong"):
        temperature_of(margins(right), resamples=50)
    one_wrong = [*right, answer(99, "forward", -2.0, "e0"), answer(99, "backward", 2.0, "e0")]
    with pytest.raises(DataError, match="only 1 of 8 episodes"):
        temperature_of(margins(one_wrong), resamples=200)
    always_second = [answer(number, order, 3.0, f"e{number % 8}") for number in range(80) for order in ORDERS]
    with pytest.raises(DataError, match="not shown to be better than a coin"):
        temperature_of(margins(always_second), resamples=50)


def test_the_same_seed_gives_the_same_figures():
    answers = judge(200, 2.0, seed=6)
    assert calibration(answers, resamples=100, seed=1) == calibration(answers, resamples=100, seed=1)
    assert calibration(answers, resamples=100, seed=1) != calibration(answers, resamples=100, seed=2)
