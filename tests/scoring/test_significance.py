import random

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.scoring.significance import difference_p, gap_p, holm, mcnemar, sign_flips
from stcr_plugin.types import ORDERS, Answer, Pair, Query

OTHER = {"img1": "img2", "img2": "img1"}


def asked(counts, judge):
    """counts: pairs in each episode. Every pair in both orders, answered by judge(query)."""
    pairs = [
        Pair(f"p{episode}-{i}", f"e{episode}", "test", "stack cups", 0, 5, 0.5)
        for episode, count in enumerate(counts)
        for i in range(count)
    ]
    queries = [Query(one, order) for one in pairs for order in ORDERS]
    return [Answer(q.pair.pair_id, q.pair.episode_id, q.order, q.answer, judge(q), "") for q in queries]


def right_in(ids):
    """A judge that is right about the pairs `ids` and wrong in both orders of the others."""
    return lambda query: query.answer if query.pair.pair_id in ids else OTHER[query.answer]


def reference(values):
    return stats.permutation_test(
        (values,), lambda one, axis: one.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    ).pvalue


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_exact_sign_flips_equal_scipys(n):
    draw = np.random.default_rng(n)
    for values in (draw.integers(1, 6, n) * draw.choice([-1, 1], n), draw.normal(0.5, 1, n)):
        found = sign_flips(values.tolist())
        assert found.p == pytest.approx(reference(values), abs=1e-9)
        assert (found.method, found.permutations, found.clusters) == ("exact", 2**n, n)


def test_clusters_without_a_difference_decide_nothing():
    assert sign_flips([3, 0, -1, 2, 0]) == sign_flips([3, -1, 2])
    assert sign_flips([0.0] * 30) == sign_flips([])
    assert sign_flips([]).p == sign_flips([3]).p == 1


def test_sums_that_differ_by_rounding_alone_are_as_far_from_0():
    assert sign_flips([0.1, 0.2, -0.3]).p == 1  # 0.1 + 0.2 - 0.3 is 5e-17
    assert sign_flips([0.1, 0.2, 0.3]).p == 2 / 8


def test_drawn_sign_flips_come_near_the_exact_p_and_are_never_0():
    """40 clusters of +-1, 27 of them +: as far from 0 as 27 or more heads, or tails, of 40 coins."""
    found = sign_flips([1] * 27 + [-1] * 13, permutations=9999, seed=3)
    exact = stats.binomtest(27, 40).pvalue
    assert found.method == "monte carlo"
    assert found.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 9999) ** 0.5)
    assert sign_flips([1] * 60, permutations=999).p == 1 / 1000
    assert found == sign_flips([1] * 27 + [-1] * 13, permutations=9999, seed=3)
    assert found.p != sign_flips([1] * 27 + [-1] * 13, permutations=9999, seed=4).p
    with pytest.raises(ConfigError, match="permutations 0"):
        sign_flips([1], permutations=0)


def test_gap_by_hand():
    """Forward less backward is 2, 1 and 0 pairs in three episodes: of 4 flips, two are as far from 0 as 3."""
    forward_only = {"p0-0", "p0-1", "p1-0"}
    found = gap_p(asked([2, 2, 2], lambda q: "img2" if q.pair.pair_id in forward_only else q.answer))
    assert (found.p, found.permutations, found.clusters) == (2 / 4, 4, 2)


def test_gap_of_a_judge_by_position_is_significant_and_of_a_right_one_is_not():
    counts = [7] * 60
    assert gap_p(asked(counts, lambda query: "img2")).p == 1 / 10_000
    assert gap_p(asked(counts, lambda query: "img1")).p == 1 / 10_000
    assert gap_p(asked(counts, lambda query: query.answer)).p == 1


def test_pairs_of_one_episode_are_no_more_evidence_than_one():
    """200 pairs, all of them right forward alone, but of 4 episodes: 2 of 16 flips."""
    assert gap_p(asked([50] * 4, lambda query: "img2")).p == 2 / 16


def test_false_alarms_are_as_rare_as_the_level_where_episodes_hang_together():
    """Each episode always says img2, or always img1, as a coin fell: no gap, though its pairs agree with each other."""
    coin = random.Random(1)
    alarms = 0
    for _ in range(300):
        side = [coin.choice(["img1", "img2"]) for _ in range(10)]
        alarms += gap_p(asked([5] * 10, lambda q, side=side: side[int(q.pair.episode_id[1:])])).p <= 0.05
    assert alarms <= 0.05 * 300 + 3 * (0.05 * 0.95 * 300) ** 0.5


def test_ties_do_not_count():
    answers = asked([3] * 8, lambda query: "img2")
    ties = [Answer("t", "e99", order, "neither", "img2", "") for order in ORDERS]
    assert gap_p(answers + ties) == gap_p(answers)
    assert difference_p(answers + ties, answers + ties) == difference_p(answers, answers)


def test_difference_of_two_models_by_hand():
    """Pairs that only the one, and only the other, got right: 2 and 0 in e0, 1 and 0 in e1, 0 and 1 in e2."""
    one = asked([2, 2, 2], right_in({"p0-0", "p0-1", "p1-0", "p1-1"}))
    other = asked([2, 2, 2], right_in({"p1-1", "p2-0"}))
    found = difference_p(one, other)
    assert found.p == reference(np.array([2, 1, -1])) == 6 / 8
    assert difference_p(other, one) == found
    assert difference_p(one, one).p == 1
    with pytest.raises(DataError, match="different pairs"):
        difference_p(one, other[2:])


def judged(both, first, second, neither):
    """Two models' answers to pairs of an episode each: right for both, only the first, only the second, neither."""
    counts = [1] * (both + first + second + neither)
    ids = [f"p{i}-0" for i in range(len(counts))]
    return (
        asked(counts, right_in(set(ids[: both + first]))),
        asked(counts, right_in({*ids[:both], *ids[both + first : both + first + second]})),
    )


def test_mcnemar_gives_the_published_example():
    """Fagerland, Lydersen & Laake 2013, table 1 (of Bentur et al. 2009): 1 and 7 discordant pairs."""
    found = mcnemar(*judged(1, 1, 7, 12))
    assert (found.only_first, found.only_second) == (1, 7)
    assert found.p_exact == pytest.approx(18 / 256, abs=1e-9)
    assert found.p_mid == pytest.approx(10 / 256, abs=1e-9)
    assert (round(found.p_exact, 3), round(found.p_mid, 3)) == (0.070, 0.039)


@pytest.mark.parametrize("table", [(5, 3, 9, 2), (0, 4, 4, 1), (30, 25, 8, 7), (2, 0, 6, 0), (1, 1, 0, 0)])
def test_mcnemar_equals_statsmodels(table):
    both, first, second, neither = table
    found = mcnemar(*judged(*table))
    assert found.p_exact == pytest.approx(
        statsmodels_mcnemar([[both, first], [second, neither]], exact=True).pvalue, abs=1e-9
    )
    point = stats.binom.pmf(first, first + second, 0.5)
    assert found.p_mid == pytest.approx(
        1 - point / 2 if first == second else 2 * stats.binom.cdf(min(first, second), first + second, 0.5) - point,
        abs=1e-9,
    )


def test_mcnemar_of_models_that_agree_everywhere():
    assert (mcnemar(*judged(3, 0, 0, 3)).p_exact, mcnemar(*judged(3, 0, 0, 3)).p_mid) == (1, 1)


def test_holm_equals_statsmodels():
    draw = random.Random(2)
    for count in (1, 2, 7, 20):
        ps = {f"test{i}": draw.random() ** 3 for i in range(count)}
        found = holm(ps)
        assert list(found) == list(ps)
        assert list(found.values()) == pytest.approx(multipletests(list(ps.values()), method="holm")[1], abs=1e-9)
    with pytest.raises(DataError, match="test b"):
        holm({"a": 0.1, "b": float("nan")})
