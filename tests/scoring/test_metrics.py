import dataclasses
import random

import numpy as np
import pytest

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.result_files import encode
from stcr_plugin.scoring.metrics import (
    RATES,
    figures,
    group_intervals,
    in_published_order,
    intervals,
    paired_difference,
    per_episode,
    under_both_texts,
)
from stcr_plugin.types import ORDERS, Answer, Pair, Query

OTHER = {"img1": "img2", "img2": "img1"}


def pair(number, episode=0, closer="later"):
    return Pair(f"p{number}", f"e{episode}", "test", "stack cups", 0, 5, 0.5, closer=closer)


def asked(pairs, judge):
    """Every pair in both orders, answered by judge(query)."""
    queries = [Query(one, order) for one in pairs for order in ORDERS]
    return [Answer(q.pair.pair_id, q.pair.episode_id, q.order, q.answer, judge(q), "") for q in queries]


def pairs(n=400, per_episode=8):
    return [pair(i, i // per_episode) for i in range(n)]


def test_oracle_that_is_always_right():
    found = figures(asked(pairs(), lambda query: query.answer))
    assert (found.forward_accuracy, found.backward_accuracy, found.gap_points) == (100, 100, 0)
    assert (found.pair_accuracy, found.order_consistency, found.position_bias) == (100, 100, 50)
    assert (found.n_pairs, found.n_episodes, found.n_queries, found.unparsed_rate) == (400, 50, 800, 0)


def test_oracle_that_always_says_img2():
    found = figures(asked(pairs(), lambda query: "img2"))
    assert (found.forward_accuracy, found.backward_accuracy, found.gap_points) == (100, 0, 100)
    assert (found.pair_accuracy, found.order_consistency, found.position_bias) == (0, 0, 100)


def test_always_img1_has_a_negative_gap():
    found = figures(asked(pairs(), lambda query: "img1"))
    assert (found.gap_points, found.pair_accuracy, found.position_bias) == (-100, 0, 0)


def test_coin_gets_a_quarter_of_the_pairs():
    coin = random.Random(1)
    found = figures(asked(pairs(8000), lambda query: coin.choice(["img1", "img2"])))
    assert found.pair_accuracy == pytest.approx(25, abs=2)
    assert found.order_consistency == pytest.approx(50, abs=2)
    assert found.gap_points == pytest.approx(0, abs=3)


def test_judge_that_ignores_order_but_is_blind_gets_half_of_the_pairs():
    coin = random.Random(2)
    frame = {one.pair_id: coin.random() < 0.5 for one in pairs(8000)}
    found = figures(
        asked(pairs(8000), lambda query: query.answer if frame[query.pair.pair_id] else OTHER[query.answer])
    )
    assert found.pair_accuracy == pytest.approx(50, abs=2)
    assert (found.order_consistency, found.gap_points, found.position_bias) == (100, 0, 50)


def test_swapped_pair_flips_label_and_figures():
    """Where the earlier frame is closer, "always img2" is right backward and wrong forward."""
    found = figures(asked([pair(i, closer="earlier") for i in range(4)], lambda query: "img2"))
    assert (found.forward_accuracy, found.backward_accuracy, found.gap_points) == (0, 100, -100)


def test_hand_worked_example():
    said = {  # pair: (forward, backward); expected img2, img1
        "p0": ("img2", "img1"),  # both right, consistent
        "p1": ("img2", "img2"),  # forward right only
        "p2": ("img1", "img2"),  # both wrong, consistent
        "p3": (None, "img1"),  # unparsed forward, backward right
    }
    found = figures(asked([pair(i) for i in range(4)], lambda q: said[q.pair.pair_id][q.order == "backward"]))
    assert encode(found) == {
        "forward_accuracy": 50.0,
        "backward_accuracy": 50.0,
        "gap_points": 0.0,
        "pair_accuracy": 25.0,
        "order_consistency": 50.0,
        "position_bias": 50.0,  # img2 in 4 of 8
        "unparsed_rate": 12.5,
        "n_pairs": 4,
        "n_episodes": 1,
        "n_queries": 8,
        "n_ties": 0,
        "tie_accuracy": None,
        "neither_rate": 0.0,
        "n_closer_earlier": 0,
        "earlier_closer_accuracy": None,
    }


def test_unparsed_counts_as_wrong_and_not_as_img2():
    found = figures(asked(pairs(4), lambda query: None))
    assert (found.forward_accuracy, found.order_consistency, found.position_bias) == (0, 0, 0)
    assert found.unparsed_rate == 100


def test_pair_that_misses_an_order_is_named():
    answers = asked(pairs(3), lambda query: "img1")
    with pytest.raises(DataError, match=r"p1.*no backward answer"):
        figures([one for one in answers if (one.pair_id, one.order) != ("p1", "backward")])


def test_pair_answered_twice_is_named():
    answers = asked(pairs(3), lambda query: "img1")
    with pytest.raises(DataError, match=r"p2.*twice in forward"):
        figures([*answers, answers[4]])


def test_no_answers_is_an_error():
    with pytest.raises(DataError, match="no answers"):
        figures([])


def test_rows_an_episode_add_up_to_the_whole():
    coin = random.Random(3)
    answers = asked(pairs(60, 6), lambda query: coin.choice(["img1", "img2", None]))
    rows = per_episode(answers)
    assert [row.episode_id for row in rows] == sorted(f"e{i}" for i in range(10))
    for name in RATES:
        assert sum(getattr(row.figures, name) for row in rows) / 10 == pytest.approx(getattr(figures(answers), name))


def test_intervals_hold_the_figure_and_ignore_the_order_of_answers():
    coin = random.Random(4)
    answers = asked(pairs(), lambda query: query.answer if coin.random() < 0.8 else OTHER[query.answer])
    found = intervals(answers)
    for name in RATES:
        low, high = found[name]
        assert low <= getattr(figures(answers), name) <= high
    coin.shuffle(answers)
    assert intervals(answers) == found
    assert intervals(answers, seed=1) != found


def test_intervals_treat_an_episode_as_one_draw():
    """All pairs of an episode agree, so 20 episodes know as much as 20 pairs, not as 400: sqrt(p(1-p)/20)."""
    alike = asked(pairs(400, 20), lambda q: q.answer if int(q.pair.episode_id[1:]) % 2 else OTHER[q.answer])
    low, high = intervals(alike)["pair_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * 100 * (0.25 / 20) ** 0.5, rel=0.15)


def test_interval_of_a_constant_figure_is_a_point():
    assert intervals(asked(pairs(), lambda query: "img2"))["gap_points"] == (100, 100)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    coin = random.Random(5)
    held = 0
    for _ in range(100):
        answers = asked(pairs(80, 2), lambda query: query.answer if coin.random() < 0.7 else OTHER[query.answer])
        low, high = intervals(answers, resamples=300)["forward_accuracy"]
        held += low <= 70 <= high
    assert 87 <= held <= 100


def test_single_episode_has_no_intervals():
    assert intervals(asked(pairs(8, 8), lambda query: "img2")) is None


def test_bad_level_is_refused():
    with pytest.raises(ConfigError, match="level"):
        intervals(asked(pairs(4, 1), lambda query: "img2"), level=100)


def knower(share, seed):
    """A judge that knows `share` of the pairs and is wrong in both orders of the others."""

    def judge(query):
        knows = random.Random(f"{seed}/{query.pair.pair_id}").random() < share
        return query.answer if knows else OTHER[query.answer]

    return judge


def test_difference_of_two_judges_by_hand():
    """4 pairs of 2 episodes: one is right on p0, p1, p2, the other on p2 and p3."""
    shown = pairs(4, per_episode=2)
    one = asked(shown, lambda q: q.answer if q.pair.pair_id != "p3" else OTHER[q.answer])
    other = asked(shown, lambda q: q.answer if q.pair.pair_id in ("p2", "p3") else OTHER[q.answer])
    found = paired_difference(one, other)
    assert found.points == pytest.approx(25)  # 75 % against 50 %
    # Of two episodes, one draw holds both as they are (+25), twice e0 (+100) or twice e1 (-50).
    assert found.interval == pytest.approx((-50, 100))
    assert paired_difference(other, one).points == pytest.approx(-25)


def test_difference_is_that_of_the_figures():
    one, other = asked(pairs(), knower(0.8, 1)), asked(pairs(), knower(0.6, 2))
    found = paired_difference(one, other)
    assert found.points == pytest.approx(figures(one).pair_accuracy - figures(other).pair_accuracy)
    assert found.interval[0] < found.points < found.interval[1]
    assert found == paired_difference(one[::-1], other[::-1]), "the order of answers must not matter"


def test_judge_does_not_differ_from_itself():
    answers = asked(pairs(), knower(0.7, 1))
    assert paired_difference(answers, answers) == paired_difference(answers, answers[::-1])
    assert paired_difference(answers, answers).interval == (0, 0)


def test_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    shown = pairs(240, per_episode=4)
    hits = 0
    for seed in range(100):
        found = paired_difference(
            asked(shown, knower(0.8, f"a{seed}")), asked(shown, knower(0.6, f"b{seed}")), resamples=200
        )
        hits += found.interval[0] <= 20 <= found.interval[1]
    assert 88 <= hits <= 99


def test_difference_of_other_pairs_or_of_one_episode_is_not_judged():
    answers = asked(pairs(8), knower(0.7, 1))
    with pytest.raises(DataError, match="different pairs"):
        paired_difference(answers, answers[2:])
    assert paired_difference(answers, answers).interval is None


def test_ties_have_figures_of_their_own():
    said = {  # pair: (forward, backward)
        "p0": ("img2", "img1"),  # later closer: right in both orders
        "p1": ("neither", "img1"),  # later closer: "neither" is wrong, breaks consistency, and is parsed
        "p2": ("neither", "neither"),  # tie: right
        "p3": ("neither", "img2"),  # tie: right in one order alone
        "p4": (None, "neither"),  # tie: unparsed forward
    }
    shown = [pair(i, closer="later" if i < 2 else "neither") for i in range(5)]
    found = figures(asked(shown, lambda q: said[q.pair.pair_id][q.order == "backward"]))
    assert (found.forward_accuracy, found.backward_accuracy, found.gap_points) == (50, 100, -50)
    assert (found.pair_accuracy, found.order_consistency, found.position_bias) == (50, 50, 25)
    assert (found.n_pairs, found.n_ties, found.n_queries) == (2, 3, 10)
    assert found.tie_accuracy == pytest.approx(100 / 3)
    assert found.neither_rate == 25  # 1 of the 4 queries about p0 and p1
    assert found.unparsed_rate == 10  # 1 of all 10


def test_ties_change_no_figure_of_the_other_pairs():
    plain = asked(pairs(40), knower(0.7, 1))
    tied = asked([pair(f"t{i}", i, "neither") for i in range(5)], lambda query: "neither")
    with_ties, without = figures(plain + tied), figures(plain)
    for name in (*RATES, "n_pairs", "n_episodes"):
        assert getattr(with_ties, name) == getattr(without, name)
    assert (with_ties.n_ties, with_ties.tie_accuracy, with_ties.n_queries) == (5, 100, 90)
    found = intervals(plain + tied)
    assert {name: found[name] for name in RATES} == intervals(plain)
    assert (found["tie_accuracy"], found["neither_rate"]) == ((100, 100), (0, 0))
    assert paired_difference(plain + tied, plain + tied) == paired_difference(plain, plain)


def test_earlier_closer_pairs_tell_a_judge_of_progress_from_a_judge_of_order():
    """Every fourth pair goes back; both judges are never swayed by the order in which pictures are shown."""
    shown = [pair(i, i // 4, "earlier" if i % 4 == 0 else "later") for i in range(40)]
    by_progress = figures(asked(shown, lambda query: query.answer))
    by_time = figures(asked(shown, lambda query: "img2" if query.order == "forward" else "img1"))
    assert (by_progress.n_closer_earlier, by_time.n_closer_earlier) == (10, 10)
    assert (by_progress.earlier_closer_accuracy, by_time.earlier_closer_accuracy) == (100, 0)
    assert (by_time.forward_accuracy, by_time.backward_accuracy, by_time.pair_accuracy) == (75, 75, 75)
    assert (by_progress.later_closer_accuracy, by_time.later_closer_accuracy) == (100, 100)
    assert (by_progress.clock_accuracy, by_time.clock_accuracy) == (75, 75)
    always_img2 = asked(shown, lambda query: "img2")
    assert figures(always_img2).earlier_closer_accuracy == 0
    assert (figures(always_img2).gap_points, figures(always_img2).position_bias) == (50, 100)  # 75 % against 25 %
    assert intervals(always_img2)["earlier_closer_accuracy"] == (0, 0)


def test_clock_is_right_where_the_later_frame_is_closer_and_both_directions_make_up_the_whole():
    """Episodes differ in how often the later frame is closer, so the clock has an interval."""
    shown = [pair(i, i // 8, "earlier" if i % 8 < i // 8 else "later") for i in range(40)]
    coin = random.Random(2)
    answers = asked(shown, lambda query: query.answer if coin.random() < 0.8 else "img1")
    found, bounds = figures(answers), intervals(answers)
    both = found.earlier_closer_accuracy * 10 + found.later_closer_accuracy * 30
    assert found.pair_accuracy == pytest.approx(both / 40)
    assert (found.n_closer_earlier, found.clock_accuracy) == (10, 75)
    assert bounds["clock_accuracy"][0] < 75 < bounds["clock_accuracy"][1]
    assert bounds["later_closer_accuracy"][0] < found.later_closer_accuracy < bounds["later_closer_accuracy"][1]
    backwards = figures(asked([pair(i, closer="earlier") for i in range(4)], lambda query: query.answer))
    assert (backwards.clock_accuracy, backwards.later_closer_accuracy) == (0, None)
    assert figures(asked(pairs(4), lambda query: query.answer)).clock_accuracy is None


def test_frames_under_two_texts_count_only_where_both_are_right_in_both_orders():
    """A judge of the text and the frames has 100, and a judge of one of them has 0."""
    later = [dataclasses.replace(pair(i, i // 4), earlier=i, later=20 + i) for i in range(8)]
    earlier = [dataclasses.replace(one, pair_id=f"{one.pair_id}:1", task="undo", closer="earlier") for one in later]
    alone = [pair(50, 0)]
    shown = [*later, *earlier, *alone]
    right = asked(shown, lambda query: query.answer)
    assert under_both_texts(shown, right) == (100, (100, 100), 8)
    clock = asked(shown, lambda query: "img2" if query.order == "forward" else "img1")
    assert under_both_texts(shown, clock)[0] == 0
    assert under_both_texts(shown, asked(shown, lambda query: "img2"))[0] == 0
    half = asked(shown, lambda query: query.answer if query.pair.pair_id != "p3:1" else "img2")
    assert under_both_texts(shown, half)[0] == 87.5
    assert under_both_texts([*later, *alone], asked([*later, *alone], lambda query: query.answer)) is None


def test_published_order_has_the_figure_of_a_benchmark_that_shows_each_pair_once():
    """Three of four pairs were published forward, so "always img2" is right in three of four, and in no pair."""
    shown = [pair(i, i // 4) for i in range(40)] + [pair(99, 0, "neither")]
    orders = {one.pair_id: ("backward",) if number % 4 == 0 else ("forward",) for number, one in enumerate(shown)}
    answers = asked(shown, lambda query: "img2")
    assert in_published_order(answers, orders) == (75, (75, 75))
    assert figures(answers).pair_accuracy == 0
    both = dict.fromkeys(orders, ORDERS)
    assert in_published_order(answers, both) is None
    assert in_published_order(answers, both | {"p1": ("forward",)})[0] == pytest.approx(100 * 40 / 79)
    assert in_published_order(answers[:8], orders)[1] is None  # one episode alone


def test_interval_of_a_rare_figure_leaves_out_draws_without_it():
    """Ties, half of them right in each, stand in 2 of 4 episodes, which 1 of 16 draws misses."""
    coin = random.Random(6)
    answers = asked(
        [pair(i, i // 4, "neither" if i in (0, 1, 4, 5) else "later") for i in range(16)],
        lambda query: "neither" if query.pair.pair_id in ("p0", "p4") else coin.choice(["img1", "img2"]),
    )
    assert figures(answers).tie_accuracy == 50
    assert intervals(answers)["tie_accuracy"] == (50, 50)
    missed = [seed for seed in range(60) if "tie_accuracy" not in intervals(answers, resamples=1, seed=seed)]
    assert 0 < len(missed) < 60, "a single draw holds an episode with ties or not"


def test_figure_of_a_single_episode_has_no_interval():
    answers = asked([pair(i, i // 4, "neither" if i < 2 else "later") for i in range(16)], lambda query: "img2")
    assert figures(answers).n_ties == 2
    assert set(intervals(answers)) == {*RATES, "neither_rate"}


def test_groups_are_resampled_by_the_draws_of_the_whole():
    """Against a bootstrap that draws episodes one by one and counts answers, of pairs in some episodes alone."""
    coin = random.Random(7)
    answers = asked(pairs(90, 6), lambda query: query.answer if coin.random() < 0.7 else OTHER[query.answer])
    episodes = sorted({one.episode_id for one in answers})
    part = [one for one in answers if int(one.episode_id[1:]) % 3]
    found = group_intervals({"all": answers, "part": part}, episodes, resamples=150, seed=2)
    assert found["all"] == intervals(answers, resamples=150, seed=2)
    drawn = np.random.default_rng(2).multinomial(len(episodes), [1 / len(episodes)] * len(episodes), size=150)
    for name, group in (("all", answers), ("part", part)):
        accuracies = []
        for counts in drawn:
            again = [
                one
                for episode, n in zip(episodes, counts, strict=True)
                for one in group * int(n)
                if one.episode_id == episode and one.order == "forward"
            ]
            accuracies.append(100 * sum(one.right for one in again) / len(again))
        assert found[name]["forward_accuracy"] == pytest.approx(np.percentile(accuracies, [2.5, 97.5]), abs=1e-9)


def test_difference_is_resampled_by_the_draws_of_the_whole():
    """An episode of ties alone counts as an episode: without it, other episodes would be drawn."""
    plain = asked(pairs(40), knower(0.7, 1))
    tied = asked([pair("t", 99, "neither")], lambda query: "neither")
    wrong = [dataclasses.replace(one, chosen=OTHER[one.expected]) for one in plain]
    found = paired_difference(plain + tied, wrong + tied, resamples=300, seed=1)
    assert found.interval == intervals(plain + tied, resamples=300, seed=1)["pair_accuracy"]


def test_no_interval_of_ties_where_there_are_none():
    answers = asked(pairs(16), lambda query: "neither")
    assert set(intervals(answers)) == set(RATES)
    assert (figures(answers).tie_accuracy, figures(answers).neither_rate) == (None, 100)


def test_ties_alone_have_no_accuracy():
    ties = asked([pair(i, i, "neither") for i in range(3)], lambda query: "neither")
    with pytest.raises(DataError, match="all 3 pairs are ties"):
        figures(ties)
    with pytest.raises(DataError, match="all 3 pairs are ties"):
        paired_difference(ties, ties)
    rest = asked([pair("last", 9)], lambda query: "img1")
    assert [row.episode_id for row in per_episode(ties + rest)] == ["e9"]
    assert (figures(ties + rest).n_episodes, figures(ties + rest).n_ties) == (4, 3)
    assert intervals(ties + rest)["tie_accuracy"] == (100, 100)
