import math
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit
from scipy.stats import kendalltau, spearmanr

from stcr_plugin.errors import ConfigError
from stcr_plugin.scoring.bradley_terry import (
    RIDGE,
    Comparison,
    bradley_terry,
    enough,
    hops,
    outcome,
    rank,
    rank_groups,
)
from stcr_plugin.types import Answer


def drawn(n, count, seed):
    """Comparisons of random pairs with any outcomes and weights."""
    random = np.random.default_rng(seed)
    pairs = [tuple(int(place) for place in sorted(random.choice(n, 2, replace=False))) for _ in range(count)]
    return [Comparison(*pair, float(random.random()), float(random.random())) for pair in pairs]


def judge(truth, seed):
    """Both orders of a pair are drawn apart, with the probability that the Bradley-Terry model gives."""
    random = np.random.default_rng(seed)

    def compare(number, pairs):
        chances = [1 / (1 + math.exp(truth[first] - truth[second])) for first, second in pairs]
        return [
            Comparison(*pair, float(random.binomial(2, p)) / 2, 1.0) for pair, p in zip(pairs, chances, strict=True)
        ]

    return compare


def sure(truth):
    return lambda number, pairs: [Comparison(i, j, float(truth[j] > truth[i]), 1.0) for i, j in pairs]


def answer(order, chosen=None, odds=None, neither=None):
    """With the log-odds of img2 over img1, or a vote."""
    compared = {} if odds is None else {"logprob_img1": -2.0, "logprob_img2": -2.0 + odds, "logprob_neither": neither}
    return Answer("p", "e", order, "img2" if order == "forward" else "img1", chosen, "", **compared)


# ---- the model ----


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_a_penalised_logistic_regression(seed):
    n, made = 9, drawn(9, 40, seed)
    sides = np.array([[(place == one.second) - (place == one.first) for place in range(n)] for one in made], float)
    y, w = (np.array([getattr(one, name) for one in made]) for name in ("outcome", "weight"))

    def loss(values):
        odds = sides @ values
        return -(w * (y * log_expit(odds) + (1 - y) * log_expit(-odds))).sum() + RIDGE / 2 * values @ values

    reference = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-10, "maxiter": 1000}).x
    scores = bradley_terry(n, made)
    np.testing.assert_allclose(scores.values, reference, atol=1e-6)
    assert abs(scores.values.sum()) < 1e-8


def test_scores_without_a_ridge_are_the_fixed_point_of_hunters_mm():
    n = 5
    wins = np.random.default_rng(0).integers(1, 9, (n, n)).astype(float)  # everyone beats everyone: a maximum exists
    np.fill_diagonal(wins, 0)
    strength = np.ones(n)
    for _ in range(5000):  # Hunter 2004, equation 3
        met = wins + wins.T
        strength = wins.sum(axis=1) / (met / (strength[:, None] + strength[None, :])).sum(axis=1)
        strength /= strength.sum()
    made = [
        Comparison(i, j, wins[j, i] / (wins[i, j] + wins[j, i]), wins[i, j] + wins[j, i])
        for i in range(n)
        for j in range(i + 1, n)
    ]
    expected = np.log(strength) - np.log(strength).mean()
    np.testing.assert_allclose(bradley_terry(n, made, ridge=1e-9).values, expected, atol=1e-6)


def test_errors_of_progress_are_the_spread_that_the_covariance_gives():
    made = [Comparison(one.first, one.second, one.outcome, 40.0) for one in drawn(6, 60, 1)]  # so sure as to be linear
    scores = bradley_terry(6, made)
    draws = np.random.default_rng(0).multivariate_normal(scores.values, scores.covariance, 20000)
    beats = 1 / (1 + np.exp(draws[:, None, :] - draws[:, :, None]))
    shares = (beats.sum(axis=2) - 0.5) / 5
    np.testing.assert_allclose(shares.mean(axis=0), scores.progress, atol=0.005)
    np.testing.assert_allclose(shares.std(axis=0), scores.progress_errors, rtol=0.05)


def test_nothing_told_apart_is_half_way_everywhere():
    scores = bradley_terry(4, [Comparison(i, j, 0.5, 1.0) for i, j in hops(4)])
    assert scores.values.tolist() == [0, 0, 0, 0]
    assert scores.progress.tolist() == [0.5] * 4


def test_comparisons_without_a_readable_answer_change_nothing():
    made = drawn(5, 12, 3)
    np.testing.assert_array_equal(
        bradley_terry(5, [*made, Comparison(0, 4, 1.0, 0.0)]).values, bradley_terry(5, made).values
    )


# ---- answers ----


@pytest.mark.parametrize("bias", [0.0, 3.0, -20.0])
def test_what_a_place_adds_to_the_log_odds_cancels_out(bias):
    both = [answer("forward", odds=1.5 + bias), answer("backward", odds=-1.5 + bias)]
    assert outcome(both) == pytest.approx((1 / (1 + math.exp(-1.5)), 1.0), abs=1e-12)


def test_votes_for_one_place_cancel_out_and_for_one_frame_add_up():
    assert outcome([answer("forward", "img2"), answer("backward", "img2")]) == (0.5, 1.0)
    assert outcome([answer("forward", "img2"), answer("backward", "img1")]) == (1.0, 1.0)
    assert outcome([answer("forward", "img1"), answer("backward", "img2")]) == (0.0, 1.0)
    assert outcome([answer("forward", "img2"), answer("backward", "neither")]) == (0.75, 1.0)


def test_an_unparsed_answer_weighs_nothing():
    assert outcome([answer("forward", "img2"), answer("backward")]) == (1.0, 0.5)
    assert outcome([answer("forward"), answer("backward")]) == (0.5, 0.0)


def test_neither_goes_to_both_frames_in_halves():
    found, _ = outcome([answer("forward", odds=math.log(3), neither=-2.0)])  # 1 : 3 : 1, so 1.5 : 3.5
    assert found == pytest.approx(0.7)
    assert outcome([answer("forward", odds=0.0, neither=50.0)])[0] == pytest.approx(0.5)


# ---- which pairs ----


@pytest.mark.parametrize("n", [2, 3, 8, 16, 33])
def test_comparisons_are_n_log_n_and_no_pair_comes_twice(n):
    rounds = []
    compare = sure(range(n))
    _, made = rank(n, None, 0, lambda number, pairs: rounds.append(number) or compare(number, pairs))
    assert len({(one.first, one.second) for one in made}) == len(made) == enough(n)
    assert enough(n) <= max(1, n * math.log2(n) + 1)
    assert all(one.first < one.second for one in made)
    assert {place for one in made for place in (one.first, one.second)} == set(range(n))
    assert rounds == list(range(len(rounds)))


@pytest.mark.parametrize("n", [2, 5, 16, 24])
def test_right_judge_gives_the_right_order_whatever_the_order_given(n):
    truth = np.random.default_rng(n).permutation(n)
    scores, _ = rank(n, None, 1, sure(truth))
    np.testing.assert_array_equal(np.argsort(scores.values), np.argsort(truth))
    np.testing.assert_allclose(scores.progress, truth / (n - 1), atol=0.12)


def test_order_by_a_noisy_judge_is_nearly_that_of_all_comparisons():
    """A judge who takes neighbours for each other in every third query."""
    n, few, every, covered = 16, [], [], []
    for seed in range(20):
        truth = 0.6 * np.random.default_rng(seed).permutation(n)
        scores, made = rank(n, None, seed, judge(truth, seed))
        all_pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
        few.append(kendalltau(scores.values, truth).statistic)
        every.append(kendalltau(bradley_terry(n, judge(truth, 99 + seed)(0, all_pairs)).values, truth).statistic)
        chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
        share = (chance.sum(axis=1) - 0.5) / (n - 1)
        covered.append(np.mean(np.abs(scores.progress - share) < 1.96 * scores.progress_errors))
    assert len(made) == 64 < len(all_pairs) == 120
    assert np.mean(few) > 0.88
    assert np.mean(few) > np.mean(every) - 0.04
    assert np.mean(covered) > 0.93


def test_unsure_pairs_are_asked_before_plain_ones():
    """Frames in two far groups: once that is seen, the comparisons are spent inside the groups."""
    truth = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 8.0, 8.1, 8.2, 8.3, 8.4])
    _, made = rank(10, 25, 0, judge(truth, 0))
    later = made[10:]
    inside = [one for one in later if (one.first < 5) == (one.second < 5)]
    assert len(inside) > 0.7 * len(later)  # of all pairs 20 in 45 are inside


@pytest.mark.parametrize(("n", "budget"), [(1, None), (0, None), (5, 3), (5, 0)])
def test_too_few_frames_or_comparisons_are_refused(n, budget):
    with pytest.raises(ConfigError, match="cannot link"):
        rank(n, budget, 0, sure(range(n)))


def test_budget_may_be_a_mere_chain_or_more_than_there_are_pairs():
    assert len(rank(6, 5, 0, sure(range(6)))[1]) == 5
    assert len(rank(6, 500, 0, sure(range(6)))[1]) == 15


@pytest.mark.parametrize(("chance", "least"), [(0.51, 0.99), (0.6, 0.99), (0.9, 1), (1.0, 1)])
def test_hops_order_frames_by_time_for_who_always_says_later(chance, least):
    for n in range(3, 40):
        values = bradley_terry(n, [Comparison(i, j, chance, 1.0) for i, j in hops(n)]).values
        assert spearmanr(values, range(n)).statistic >= least - 1e-12, n
    assert len(hops(16)) == 15 + 14 + 12 + 8


def in_groups(n, size, budget=None, seed=0):
    """The scores by a judge that is sure of 0 < 1 < 2 ..., the comparisons, and each round's groups."""
    rounds = []

    def compare(number, groups):
        assert number == len(rounds)
        rounds.append(groups)
        return [Comparison(i, j, 1.0, 1.0) for group in groups for i, j in combinations(group, 2)]

    return (*rank_groups(n, size, budget, seed=seed, compare=compare), rounds)


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize("n", [7, 12, 25])
def test_groups_link_all_frames_and_compare_as_many_pairs_as_pairs_would(n, size):
    scores, made, rounds = in_groups(n, size)
    assert np.argsort(scores.values).tolist() == list(range(n))
    compared = {(one.first, one.second) for one in made}
    assert compared >= set(zip(range(n - 1), range(1, n), strict=True))
    assert len(compared) >= enough(n)
    linked = {rounds[0][0][0]}
    for _ in rounds[0]:
        linked |= {frame for group in rounds[0] if linked & {*group} for frame in group}
    assert linked == set(range(n))
    for groups in rounds:
        assert all(len(set(group)) == size and list(group) == sorted(group) for group in groups)
    for groups in rounds[1:]:
        frames = [frame for group in groups for frame in group]
        assert len(set(frames)) == len(frames)
    listed = [group for groups in rounds for group in groups]
    assert len(set(listed)) == len(listed)
    assert len(listed) <= 2 * enough(n) / (size - 1)


def test_a_budget_of_all_pairs_compares_them_all_in_groups_and_depends_on_the_seed():
    _, made, _ = in_groups(9, 4, budget=1000)
    assert {(one.first, one.second) for one in made} == set(combinations(range(9), 2))
    assert in_groups(9, 4, seed=1)[2] != in_groups(9, 4, seed=2)[2]
    with pytest.raises(ConfigError, match="groups of 4 need 4 frames, there are 3"):
        in_groups(3, 4)
