import json
import random
import statistics

import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.result_files import decode, encode
from stcr_plugin.scoring.metrics import RATES, figures, paired_difference, per_episode
from stcr_plugin.scoring.seeds import RowKey, SeedResult, difference, over_seeds
from stcr_plugin.types import ORDERS, Answer

# Extra hours of sleep of ten patients by two drugs: Student 1908, The probable error of a mean, section IX.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def plain(name, values, split="heldout", digest="same", **more):
    """Results whose figures are all `values`, one per seed, on two episodes with one pair each."""
    episodes = [{"episode_id": f"e{i}", "n_pairs": 1, "pair_accuracy": 0.0} for i in range(2)]
    where = {"name": name, "dataset": "toy", "split": split, "data_digest": digest, "n_pairs": 2, "n_episodes": 2}
    return [
        decode(SeedResult, {**where, "seed": seed, **dict.fromkeys(RATES, value), "per_episode": episodes, **more})
        for seed, value in enumerate(values)
    ]


def judged(share, seed, episodes=30, pairs=4):
    draw = random.Random(seed)
    answers = []
    for number in range(episodes * pairs):
        right = draw.random() < share
        for order, expected in zip(ORDERS, ("img2", "img1"), strict=True):
            chosen = expected if right else {"img1": "img2", "img2": "img1"}[expected]
            answers.append(Answer(f"p{number}", f"e{number // pairs}", order, expected, chosen, ""))
    return answers


def real(name, seed, answers, data="same"):
    where = {"name": name, "dataset": "toy", "split": "heldout", "seed": seed, "data_digest": data}
    parts = [encode(one) for one in per_episode(answers)]
    return decode(SeedResult, {**encode(figures(answers)), **where, "per_episode": parts})


def test_spread_equals_scipys_and_statsmodels():
    (found,) = over_seeds(plain("stage2", FIRST))
    assert found.of == RowKey("stage2", "toy", "heldout")
    assert found.seeds == tuple(range(10))
    spread = found.figures["pair_accuracy"]
    assert spread.values == tuple(FIRST)
    assert spread.mean == pytest.approx(statistics.mean(FIRST), abs=1e-9)
    assert spread.deviation == pytest.approx(stats.tstd(FIRST), abs=1e-9)
    assert spread.interval == pytest.approx(DescrStatsW(FIRST).tconfint_mean(), abs=1e-9)
    assert over_seeds(plain("stage2", FIRST), level=90)[0].figures["gap_points"].interval == pytest.approx(
        DescrStatsW(FIRST).tconfint_mean(0.1), abs=1e-9
    )


def test_paired_t_gives_students_example():
    """Mean 1.58, t 4.0621 on 9 degrees of freedom, p 0.002833, 95 % interval 0.7001 to 2.4599 (R's sleep data)."""
    found = difference(plain("second", SECOND), plain("first", FIRST))
    assert found.points.mean == pytest.approx(1.58)
    assert found.p_t == pytest.approx(0.002833, abs=5e-7)
    assert found.points.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert found.p_t == pytest.approx(stats.ttest_rel(SECOND, FIRST).pvalue, abs=1e-9)
    assert (found.of.name, found.minus.name, found.figure) == ("second", "first", "pair_accuracy")
    assert found.p_flips.p == pytest.approx(2 / 2**9)  # nine patients differ, all of them to the same side


def test_five_seeds_that_all_agree_give_a_sixteenth():
    found = difference(plain("a", [90, 91, 92, 93, 97]), plain("b", [80, 82, 85, 81, 83]))
    assert (found.p_flips.p, found.p_flips.method, found.p_flips.permutations) == (1 / 16, "exact", 32)


def test_one_seed_says_nothing_of_others():
    (found,) = over_seeds(plain("a", [90.0]))
    assert (found.figures["pair_accuracy"].deviation, found.figures["pair_accuracy"].interval) == (None, None)
    lead = difference(plain("a", [90.0]), plain("b", [80.0]))
    assert (lead.points.mean, lead.p_t, lead.p_flips.p) == (10, None, 1)


def test_differences_that_are_all_equal_have_no_t_test():
    found = difference(plain("a", [90.1, 70.1, 80.1]), plain("b", [80, 60, 70]))
    assert found.p_t is None
    assert found.points.mean == pytest.approx(10.1)


def test_chains_and_splits_are_kept_apart_and_seeds_sorted():
    shuffled = [*plain("a", [1, 2])[::-1], *plain("b", [3, 4]), *plain("a", [5, 6], split="seen")]
    found = over_seeds(shuffled)
    assert [(one.of.name, one.of.split, one.figures["pair_accuracy"].values) for one in found] == [
        ("a", "heldout", (1, 2)),
        ("b", "heldout", (3, 4)),
        ("a", "seen", (5, 6)),
    ]


def test_figure_that_only_some_data_have_is_there_where_all_seeds_have_it():
    assert "tie_accuracy" in over_seeds(plain("a", [1, 2], tie_accuracy=50.0))[0].figures
    assert "tie_accuracy" not in over_seeds(plain("a", [1, 2], tie_accuracy=None))[0].figures


def test_one_seed_compared_has_the_interval_of_paired_difference():
    one, other = judged(0.9, 1), judged(0.7, 2)
    found = difference([real("a", 0, one)], [real("b", 0, other)], resamples=500, seed=3)
    same = paired_difference(one, other, resamples=500, seed=3)
    assert found.points.mean == pytest.approx(same.points)
    # Episodes of several data are sorted by data first, and here there is one.
    assert found.episodes_interval == pytest.approx(same.interval)


def test_episodes_of_every_seed_are_drawn_together():
    """Five runs with the same answers show no more about other episodes than one; on other episodes each, they do."""
    one, other = judged(0.9, 1), judged(0.7, 2)

    def width(seeds, data):
        found = difference(
            [real("a", seed, one, data(seed)) for seed in range(seeds)],
            [real("b", seed, other, data(seed)) for seed in range(seeds)],
        )
        return found.episodes_interval[1] - found.episodes_interval[0]

    assert width(5, lambda seed: "same") == pytest.approx(width(1, lambda seed: "same"))
    assert width(5, str) == pytest.approx(width(1, str) / 5**0.5, rel=0.15)


def test_pooled_episodes_add_up_to_the_figure():
    """Both runs draw whole episodes, so 2 episodes give the three values that their sums give."""
    draw = random.Random(5)
    answers = [
        Answer(f"p{i}", f"e{i // 3}", order, expected, draw.choice(["img1", "img2"]), "")
        for i in range(6)
        for order, expected in zip(ORDERS, ("img2", "img1"), strict=True)
    ]
    right = [Answer(one.pair_id, one.episode_id, one.order, one.expected, one.expected, "") for one in answers]
    found = difference([real("a", 0, answers)], [real("b", 0, right)])
    leads = sorted(
        figures([one for one in answers if one.episode_id == episode]).pair_accuracy
        - figures([one for one in right if one.episode_id == episode]).pair_accuracy
        for episode in ("e0", "e1")
    )
    assert found.episodes_interval == pytest.approx(leads)


def test_mistakes_are_named():
    mine, theirs = plain("a", [90, 91]), plain("b", [80, 81])
    with pytest.raises(DataError, match=r"two results of seed 0.*give each its training seed"):
        over_seeds([mine[0], mine[0]])
    with pytest.raises(DataError, match=r"a: has the seeds \[0, 1\], b has \[0\]"):
        difference(mine, theirs[:1])
    with pytest.raises(DataError, match="seed 1: a and b were evaluated on different pairs"):
        difference(mine, [theirs[0], plain("b", [80, 81], digest="other")[1]])
    with pytest.raises(DataError, match="give the results of at least one seed"):
        difference([], [])
    with pytest.raises(ConfigError, match="level: must be above 0 and below 100"):
        over_seeds(mine, level=100)


def test_rows_go_into_json():
    mine, theirs = plain("a", [90, 91]), plain("b", [80, 82])
    found = json.loads(json.dumps([encode(one) for one in (*over_seeds(mine), difference(mine, theirs))]))
    assert found[0]["figures"]["pair_accuracy"]["values"] == [90, 91]
    assert found[1]["p_flips"] == {"p": 0.5, "method": "exact", "permutations": 4, "clusters": 2}
