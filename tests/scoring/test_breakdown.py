import random
from collections import Counter

import pytest

from stcr_plugin.figures import LeftOut
from stcr_plugin.scoring.breakdown import breakdowns
from stcr_plugin.scoring.metrics import figures, intervals
from stcr_plugin.types import ORDERS, Answer, Pair, Query

OTHER = {"img1": "img2", "img2": "img1"}
PHASES = ("reach", "reach>lift", "lift", "lift>place", "reach>place")


def pair(number, episode=0, seconds=2.0, task="stack cups", phase="", closer="later"):
    return Pair(f"p{number}", f"e{episode}", "test", task, 0, 5, seconds, closer, phase=phase)


def asked(pairs, judge=lambda query: query.answer):
    queries = [Query(one, order) for one in pairs for order in ORDERS]
    return [Answer(q.pair.pair_id, q.pair.episode_id, q.order, q.answer, judge(q), "") for q in queries]


def varied(n=200):
    """Pairs of 20 episodes with two tasks, all phases, and distances of 0.5 to 6 s at 10 frames a second."""
    draw = random.Random(1)
    return [pair(i, i // 10, draw.randrange(5, 61) / 10, f"task {i // 10 % 2}", draw.choice(PHASES)) for i in range(n)]


def half_right(query):
    knows = random.Random(query.pair.pair_id).random() < 0.5
    return query.answer if knows else OTHER[query.answer]


@pytest.mark.parametrize(
    ("frames", "fps", "steps"),
    [
        (49, 30, "<5"),
        (50, 30, "5..11"),
        (110, 30, "5..11"),
        (119, 30, "5..11"),
        (120, 30, ">=12"),
        (5, 3, "5..11"),  # one frame in ten, cut out already
        (11, 3, "5..11"),
        (12, 3, ">=12"),
        (20, 10, "5..11"),
        (60, 10, ">=12"),
        (120, 29.97, ">=12"),
    ],
)
def test_windows_are_those_of_the_benchmark_at_any_rate(frames, fps, steps):
    shown = [pair(0, seconds=frames / fps)]
    (window,) = breakdowns(shown, asked(shown), resamples=10).by_distance.windows
    assert window.steps == steps
    low, high = window.seconds
    assert low - 1e-9 <= frames / fps < (high or 1e9)


def test_every_pair_stands_in_one_row_of_each_breakdown_with_its_figures():
    shown = varied()
    answers = asked(shown, half_right)
    found = breakdowns(shown, answers, resamples=50)
    for rows in (
        found.by_task.tasks,
        found.by_distance.windows,
        found.by_distance.quarters,
        found.by_phase.values(),
        found.phase_cells,
    ):
        assert sum(row.figures.n_pairs for row in rows) == len(shown)
    lift = {one.pair_id for one in shown if one.phase == "lift>place"}
    (row,) = (row for row in found.phase_cells if (row.earlier, row.later) == ("lift", "place"))
    own = figures([answer for answer in answers if answer.pair_id in lift])
    assert (row.figures.n_pairs, row.figures.pair_accuracy) == (len(lift), own.pair_accuracy)
    assert (row.figures.forward_accuracy, row.figures.backward_accuracy) == (
        own.forward_accuracy,
        own.backward_accuracy,
    )
    within = sum(">" not in one.phase for one in shown)
    assert found.by_phase["within"].figures.n_pairs == within
    assert [row.figures.n_pairs for row in found.phase_cells] == sorted(
        Counter(one.phase for one in shown).values(), reverse=True
    )


def test_row_that_holds_all_pairs_has_the_intervals_of_the_whole():
    shown = [pair(i, i // 5) for i in range(60)]
    answers = asked(shown, half_right)
    whole = intervals(answers, 200, seed=4)
    found = breakdowns(shown, answers, resamples=200, seed=4)
    assert found.by_task.tasks[0].intervals == whole
    assert found.by_distance.windows[0].intervals == whole


def test_row_of_one_episode_has_no_interval():
    shown = [*(pair(i, i // 5) for i in range(30)), pair(30, 6, task="fold towel"), pair(31, 6, task="fold towel")]
    found = breakdowns(shown, asked(shown, half_right), resamples=50).by_task
    assert [(row.task, row.figures.n_pairs, row.intervals is None) for row in found.tasks] == [
        ("stack cups", 30, False),
        ("fold towel", 2, True),
    ]


def test_quarters_are_of_equal_size_and_do_not_part_a_distance():
    shown = [pair(i, i, seconds) for i, seconds in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])]
    quarters = breakdowns(shown, asked(shown), resamples=10).by_distance.quarters
    assert [(row.seconds, row.figures.n_pairs) for row in quarters] == [
        ((0.1, 0.2), 2),
        ((0.3, 0.4), 2),
        ((0.5, 0.6), 2),
        ((0.7, 0.8), 2),
    ]
    shown = [pair(i, i, seconds) for i, seconds in enumerate([1, 1, 1, 1, 1, 2, 3, 3])]
    quarters = breakdowns(shown, asked(shown), resamples=10).by_distance.quarters
    assert [(row.seconds, row.figures.n_pairs) for row in quarters] == [((1, 1), 5), ((2, 2), 1), ((3, 3), 2)]


def test_many_tasks_of_one_episode_are_left_out_and_counted():
    few = [pair(i, i, task=f"task {i}") for i in range(50)]
    found = breakdowns(few, asked(few), resamples=10).by_task
    assert len(found.tasks) == 50
    assert found.left_out == LeftOut(0, 0)
    many = [*few, *(pair(100 + i, 100 + i, task="stack cups") for i in range(3))]
    many += [pair(200, 0, task="task 0")]  # two pairs, but one episode
    found = breakdowns(many, asked(many), resamples=10).by_task
    assert [(row.task, row.figures.n_pairs) for row in found.tasks] == [("stack cups", 3)]
    assert found.left_out == LeftOut(50, 51)


def test_ties_alone_have_no_row_and_are_counted():
    shown = [pair(0, 0), pair(1, 1), pair(2, 2, 5.0, "fold towel", closer="neither")]
    found = breakdowns(shown, asked(shown), resamples=10)
    assert [row.task for row in found.by_task.tasks] == ["stack cups"]
    assert found.by_task.left_out == LeftOut(1, 1)
    assert [row.steps for row in found.by_distance.windows] == ["5..11"]


def test_unknown_phases_have_no_rows():
    shown = [pair(i, i) for i in range(4)]
    found = breakdowns(shown, asked(shown), resamples=10)
    assert (found.by_phase, found.phase_cells) == ({}, ())
