"""Anchors, the sparse graph of comparisons, and progress within an episode and on the scale of references."""

import math

import pytest
from scipy.stats import kendalltau

from stcr_plugin.scoring.bradley_terry import Comparison
from stcr_plugin.scoring.progress_curve import (
    anchor_frames,
    curve,
    interpolated,
    on_scale,
    pairs_of,
    reference_pairs,
    strides,
)
from stcr_plugin.types import Answer


def answers(truth, pairs, judge=None):
    """The answers of a judge (the probability that the second of two values is further) about some pairs."""
    judge = judge or (lambda first, second: 0.5 if first == second else 0.9 if second > first else 0.1)
    found = []
    for one, other in pairs:
        later = judge(truth[one], truth[other])
        both = []
        for order, second in (("forward", later), ("backward", 1 - later)):
            chosen = None if second == 0.5 else "img2" if second > 0.5 else "img1"
            logs = {"logprob_img1": math.log(1 - second), "logprob_img2": math.log(second)}
            both.append(Answer(f"{one}-{other}", "e", order, "img2", chosen, "", **logs))
        found.append(((one, other), tuple(both)))
    return found


def of(truth, references=(), positions=(), judge=None):
    values = [*truth, *references]
    between = [Comparison(*pair, 0.9, 1.0) for pair in reference_pairs(positions)]
    return curve(len(truth), answers(values, pairs_of(len(truth), len(references)), judge), positions, between)


@pytest.mark.parametrize(
    ("frames", "fps", "every", "expected"),
    [
        (1, 10, 0.5, [0]),
        (2, 10, 0.5, [0, 1]),
        (11, 10, 0.5, [0, 5, 10]),
        (12, 10, 0.5, [0, 5, 11]),  # frame 10 is nearer to the last one than half a step
        (14, 10, 0.5, [0, 5, 10, 13]),
        (5, 2, 0.1, [0, 1, 2, 3, 4]),  # every frame, where a step is shorter than one
        (5, 10, 60, [0, 4]),
    ],
)
def test_anchors_are_at_a_fixed_rate_and_always_the_first_and_the_last_frame(frames, fps, every, expected):
    assert anchor_frames(frames, fps, every) == expected


def test_a_very_long_episode_gets_wider_steps():
    found = anchor_frames(100_000, 30, 0.1, most=200)
    assert len(found) <= 200
    assert found[0] == 0
    assert found[-1] == 99_999


def test_the_graph_is_sparse_and_links_every_anchor_with_three_references_and_the_last_with_all():
    pairs = pairs_of(64, 8)
    assert len(pairs) == len(set(pairs))
    assert len([pair for pair in pairs if pair[1] < 64]) < 64 * 6
    linked = [[other - 64 for one, other in pairs if one == anchor and other >= 64] for anchor in range(64)]
    assert {len(of) for of in linked[:-1]} == {3}
    assert linked[-1] == list(range(8))
    assert {other for of in linked[:8] for other in of} == set(range(8))
    assert len(pairs_of(2, 2)) == 1 + 2 * 2
    assert pairs_of(3, 1) == [(0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert reference_pairs((0, 0.5, 1, 0, 1)) == [(0, 1), (1, 2), (0, 2), (3, 4)]
    assert reference_pairs((1.0,)) == []


def test_distances_are_few_and_reach_over_the_episode():
    assert [strides(n) for n in (1, 2, 3)] == [[], [1], [1, 2]]
    assert strides(360) == [1, 4, 14, 31, 55, 85, 122, 166, 216]
    assert all(strides(n)[-1] >= n // 2 for n in range(2, 200))


def test_a_sure_judge_gives_the_true_order_and_a_coin_a_flat_curve():
    truth = [0, 1, 2, 3, 4, 3, 2, 5, 6, 7]
    found = of(truth)
    assert kendalltau(found.progress, truth).statistic > 0.9
    assert max(found.disagreement) == 0
    flat = of(truth, judge=lambda first, second: 0.5)
    assert set(flat.progress) == {0.5}


def test_a_judge_of_position_gives_a_flat_curve_and_disagrees_everywhere():
    pairs = pairs_of(6)
    logs = {"logprob_img1": math.log(0.1), "logprob_img2": math.log(0.9)}
    both = tuple(Answer("p", "e", order, "img2", "img2", "", **logs) for order in ("forward", "backward"))
    found = curve(6, [(pair, both) for pair in pairs])
    assert found.progress == pytest.approx([0.5] * 6)
    assert set(found.disagreement) == {1.0}
    assert sum(found.comparisons) == 2 * len(pairs)


def test_without_reference_a_failed_episode_ends_high_and_with_one_it_does_not():
    done, failed = [i / 10 for i in range(11)], [i / 25 for i in range(11)]
    references, positions = [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0]
    assert of(done).progress[-1] == pytest.approx(of(failed).progress[-1])
    on_done, on_failed = of(done, references, positions), of(failed, references, positions)
    assert on_done.progress[-1] > 0.85
    assert 0.2 < on_failed.progress[-1] < 0.55
    assert on_failed.success == pytest.approx(0.1)
    assert on_done.success == pytest.approx(0.5)


def test_a_goal_picture_alone_lowers_the_end_of_a_failed_episode():
    done, failed = [i / 10 for i in range(11)], [i / 25 for i in range(11)]
    assert of(done, [1.0], [1.0]).progress[-1] > of(failed, [1.0], [1.0]).progress[-1] + 0.05
    assert of(failed, [1.0], [1.0]).progress[0] == 0


def test_a_judge_that_cannot_order_the_references_gives_a_flat_curve():
    positions = [0.0, 0.5, 1.0]
    assert on_scale([-1.0, 0.0, 2.0], [0.0, 0.0, 0.0], positions) == pytest.approx([0.5] * 3)
    assert on_scale([-1.0, 0.0, 2.0], [3.0, 2.0, 1.0], positions) == pytest.approx([0.5] * 3)
    assert on_scale([-1.0, 0.5, 9.0], [0.0, 1.0, 2.0], positions) == pytest.approx([0.0, 0.25, 1.0])


def test_a_judge_that_puts_the_references_in_the_wrong_order_says_nothing_of_success():
    positions = [0.0, 0.5, 1.0]
    between = [Comparison(*pair, 0.1, 1.0) for pair in reference_pairs(positions)]
    found = curve(4, answers([3, 2, 1, 0, 2, 1, 0], pairs_of(4, 3)), positions, between)
    assert set(found.progress) == {0.5}
    assert found.success == 0.5


def test_progress_is_linear_between_anchors():
    assert interpolated([0, 4, 6], [0.0, 1.0, 0.5], range(7)) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5])
