import dataclasses
import math
from collections import Counter

import pytest
from fake_source import episode

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import PairRules, draw_pairs, take_given
from stcr_plugin.types import GivenPair, Query, Segment, under


def draw(one, rules, states=None, seed=0):
    return draw_pairs(one, states, rules, split="train", seed=seed)


def phased(*lengths):
    return [{"phase": name} for name, length in zip("abcdef", lengths, strict=False) for _ in range(length)]


def test_swapped_pair_flips_label():
    pair = draw(episode("e"), PairRules()).pairs[0]
    assert Query(pair, "forward").answer == "img2"
    assert Query(pair, "backward").answer == "img1"


def test_distances_stay_inside_seconds_and_frames():
    rules = PairRules(per_episode=500, min_seconds=0.3, max_seconds=0.8, min_frames=2, max_frames=7)
    pairs = draw(episode("e", 40), rules).pairs
    assert {pair.distance for pair in pairs} == {3, 4, 5, 6, 7}
    assert all(pair.seconds == pytest.approx(pair.distance / 10) for pair in pairs)


def test_requesting_many_gives_every_allowed_pair_once():
    pairs = draw(episode("e", 9), PairRules(per_episode=1000)).pairs
    assert [(p.earlier, p.later) for p in pairs] == [(a, b) for a in range(9) for b in range(a + 1, 9)]


def test_draw_is_uniform_over_allowed_pairs():
    counts = {}
    for number in range(400):
        for pair in draw(episode(f"e{number}", 5), PairRules(per_episode=3)).pairs:
            counts[pair.earlier, pair.later] = counts.get((pair.earlier, pair.later), 0) + 1
    assert len(counts) == 10
    # 1200 draws over 10 pairs: 120 expected, binomial standard deviation about 9 (without replacement).
    assert all(70 < count < 170 for count in counts.values())


def test_draw_depends_on_seed_and_episode_alone():
    rules = PairRules(per_episode=8)
    first = draw(episode("e", 60), rules).pairs
    assert draw(episode("e", 60), rules).pairs == first
    assert draw(episode("e", 60), rules, seed=1).pairs != first
    other = [(p.earlier, p.later) for p in draw(episode("f", 60), rules).pairs]
    assert other != [(p.earlier, p.later) for p in first]


def test_pairs_never_leave_their_segment():
    segments = (Segment("pick", 2, 10), Segment("place", 10, 19))
    pairs = draw(episode("e", 30, segments=segments), PairRules(per_episode=500)).pairs
    assert {pair.task for pair in pairs} == {"pick", "place"}
    for pair in pairs:
        start, end = (2, 10) if pair.task == "pick" else (10, 19)
        assert start <= pair.earlier < pair.later < end


def test_overlapping_segments_do_not_repeat_a_pair():
    segments = (Segment("pick", 0, 10), Segment("place", 5, 15))
    pairs = draw(episode("e", 15, segments=segments), PairRules(per_episode=500)).pairs
    assert len({pair.pair_id for pair in pairs}) == len(pairs) == 45 + 45 - 10


def test_short_segments_are_excluded_by_name():
    segments = (Segment("pick", 0, 4), Segment("place", 4, 20))
    drawn = draw(episode("e", 20, segments=segments), PairRules(min_frames=4))
    assert [(item.what, item.where) for item in drawn.excluded] == [("segment", "episode e, frames 0-4")]
    assert {pair.task for pair in drawn.pairs} == {"place"}


def test_episode_of_one_frame_gives_an_exclusion_and_no_pair():
    drawn = draw(episode("e", 1), PairRules())
    assert drawn.pairs == ()
    assert len(drawn.excluded) == 1


def test_dropped_frames_are_not_used():
    pairs = draw(episode("e", 12), PairRules(per_episode=500, drop_last_frames=7)).pairs
    assert max(pair.later for pair in pairs) == 4


def test_idle_ends_are_trimmed_to_the_frame_beside_the_movement():
    motion = [0.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.01, 0.0, 0.0]
    states = [{"motion": value} for value in motion]
    pairs = draw(episode("e", 9), PairRules(per_episode=500, trim_idle=0.02), states).pairs
    used = {index for pair in pairs for index in (pair.earlier, pair.later)}
    assert used == {3, 4, 5, 6}


@pytest.mark.parametrize(
    ("motion", "reason"),
    [
        ([0.0] * 9, "nothing moves: less than pairs.trim_idle from its first frame to its last"),
        ([0.0] * 8 + [1.0], "nothing moves: less than pairs.trim_idle from its first frame to its last"),
        ([0.0] * 4 + [1.0] + [0.0] * 4, "too short for any pair that the rules allow"),
    ],
)
def test_an_idle_episode_is_excluded_with_its_reason(motion, reason):
    drawn = draw(episode("e", 9), PairRules(trim_idle=0.02, min_frames=4), [{"motion": one} for one in motion])
    assert drawn.pairs == ()
    assert [one.reason for one in drawn.excluded] == [reason]


def test_share_within_a_phase_is_met_exactly():
    pairs = draw(episode("e", 40), PairRules(per_episode=20, within_phase=0.25), phased(10, 10, 20)).pairs
    assert sum(">" not in pair.phase for pair in pairs) == 5
    assert len(pairs) == 20
    assert {pair.phase for pair in pairs} <= {"a", "b", "c", "a>b", "a>c", "b>c"}


def test_too_few_within_a_phase_are_filled_up_from_across():
    pairs = draw(episode("e", 6), PairRules(per_episode=10, within_phase=1.0), phased(2, 2, 2)).pairs
    assert sum(">" not in pair.phase for pair in pairs) == 3
    assert len(pairs) == 10


@pytest.mark.parametrize(("rule", "state"), [("within_phase", "phase"), ("trim_idle", "motion")])
def test_rule_without_its_state_says_so(rule, state):
    with pytest.raises(ConfigError, match=f"{rule}.*{state}.*null"):
        draw(episode("e"), PairRules(**{rule: 0.5}))


def test_wrong_number_of_states_is_refused():
    with pytest.raises(DataError, match="episode e: 3 states for 20 frames"):
        draw(episode("e"), PairRules(), [{}] * 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_second": 1}, "did you mean 'min_seconds'"),
        ({"min_frames": 5, "max_frames": 4}, "min_frames. 5 is above"),
        ({"within_phase": 1.5}, "between 0 and 1"),
        ({"per_episode": 0}, "at least 1"),
        ({"max_seconds": math.inf}, "max_seconds: Input should be a finite number"),
        ({"min_seconds": math.inf}, "min_seconds: Input should be a finite number"),
        ({"max_seconds": math.nan}, "max_seconds: Input should be a finite number"),
        ({"tie_within": math.nan, "label": "progress"}, "tie_within: Input should be a finite number"),
    ],
)
def test_bad_rules_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(PairRules, values, "data.yaml")


# ---- strides, tails, labels from truth ----


def test_stride_takes_every_so_many_th_frame_inside_the_segment():
    rules = PairRules(per_episode=1000, stride=10, min_frames=50, max_frames=140)
    long = episode("e", 300, segments=[Segment("pour", 15, 287)], fps=30.0)
    pairs = draw_pairs(long, None, rules, split="train", seed=0).pairs
    frames = {frame for pair in pairs for frame in (pair.earlier, pair.later)}
    assert frames == set(range(20, 280, 10))
    assert {pair.distance for pair in pairs} == set(range(50, 150, 10))
    assert len(pairs) == sum(26 - distance for distance in range(5, 15))


@pytest.mark.parametrize(
    ("task", "length", "last"),
    [("Place the cup", 200, 120), ("Retrieve the cup", 200, 190), ("Place the cup", 170, 160)],
)
def test_tail_is_dropped_as_the_authors_do(task, length, last):
    rules = PairRules(per_episode=1000, stride=10, drop_last_frames=70, drop_from_frames=180, keep_tail=("retrieve",))
    pairs = draw_pairs(episode("e", length, task=task), None, rules, split="train", seed=0).pairs
    assert max(pair.later for pair in pairs) == last


def test_label_follows_progress_and_not_time():
    states = [{"progress": value} for value in (0, 1, 2, 1, 0, None)]
    rules = PairRules(per_episode=100, label="progress")
    drawn = draw_pairs(episode("e", 6), states, rules, split="train", seed=0)
    assert {(pair.earlier, pair.later): pair.closer for pair in drawn.pairs} == {
        (0, 1): "later",
        (0, 2): "later",
        (0, 3): "later",
        (1, 2): "later",
        (1, 4): "earlier",
        (2, 3): "earlier",
        (2, 4): "earlier",
        (3, 4): "earlier",
    }
    assert (drawn.tied, drawn.unlabelled) == (2, 5)


def test_ties_are_taught_where_asked_and_reach_as_far_as_the_rule_says():
    states = [{"progress": value / 10} for value in (0, 1, 5)]
    rules = PairRules(per_episode=100, label="progress", ties="teach", tie_within=0.2)
    drawn = draw_pairs(episode("e", 3), states, rules, split="train", seed=0)
    assert [pair.closer for pair in drawn.pairs] == ["neither", "later", "later"]
    assert Query(drawn.pairs[0], "forward").answer == Query(drawn.pairs[0], "backward").answer == "neither"


def by_direction(progress, rules):
    states = [{"progress": value} for value in progress]
    drawn = draw_pairs(episode("e", len(states)), states, rules, split="test", seed=0, balanced=True)
    return Counter(pair.closer for pair in drawn.pairs)


def test_balanced_episode_gives_as_many_of_each_direction_and_fills_up_where_it_cannot():
    hill, rules = [0, 1, 2, 3, 4, 5, 6, 5, 4, 3], PairRules(per_episode=16, label="progress")
    assert by_direction(hill, rules) == {"earlier": 8, "later": 8}
    assert by_direction([0, 1, 2, 3, 4, 5, 6, 5], rules) == {"earlier": 1, "later": 15}
    assert by_direction(range(10), rules) == {"later": 16}
    assert by_direction(range(10, 0, -1), rules) == {"earlier": 16}


def test_ties_keep_their_share_of_a_balanced_episode():
    steps = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    found = by_direction(steps, PairRules(per_episode=40, label="progress", ties="teach"))
    assert found["earlier"] == found["later"]
    assert found["neither"] + 2 * found["later"] in (39, 40)
    assert found["neither"] / 40 == pytest.approx(55 / 105, abs=0.2)


def test_label_by_progress_needs_the_state():
    with pytest.raises(ConfigError, match="has no state 'progress'; set it to order"):
        draw_pairs(episode("e", 6), None, PairRules(label="progress"), split="train", seed=0)
    with pytest.raises(ConfigError, match="needs `label: progress`"):
        from_mapping(PairRules, {"tie_within": 0.1}, "test")


def test_published_ties_are_taught_or_dropped_and_counted():
    given = [GivenPair(0, 3, "stack"), GivenPair(1, 2, "stack", closer="neither")]
    dropped = take_given(episode("e", task="stack"), None, given, rules=PairRules(), split="train")
    assert ([pair.closer for pair in dropped.pairs], dropped.tied) == (["later"], 1)
    taught = take_given(episode("e", task="stack"), None, given, rules=PairRules(ties="teach"), split="train")
    assert ([pair.closer for pair in taught.pairs], taught.tied) == (["later", "neither"], 0)


def test_published_pair_that_leaves_its_episode_is_refused():
    with pytest.raises(DataError, match="the given pair 3-20 is not in its 20 frames"):
        take_given(episode("e", 20, task="stack"), None, [GivenPair(3, 20, "stack")], rules=PairRules(), split="train")


def two_tasks(*progress):
    """An episode whose pictures serve two tasks, and its states; progress: of each task, frame by frame."""
    texts, length = ("put", "take"), len(progress[0])
    one = episode("e", length, segments=tuple(Segment(text, 0, length) for text in texts))
    states = [
        {"progress": values[0], "tasks": {text: {"progress": value} for text, value in zip(texts, values, strict=True)}}
        for values in zip(*progress, strict=True)
    ]
    return one, states


OPPOSED = PairRules(per_episode=4, label="progress", tie_within=0.2, tasks="opposed")


def test_frames_of_two_tasks_are_shown_once_under_each_answer():
    one, states = two_tasks([0.0, 0.1, 0.5, 1.0], [1.0, 0.9, 0.4, 0.0])
    drawn = draw(one, OPPOSED, states)
    twins = {}
    for pair in drawn.pairs:
        twins.setdefault((pair.earlier, pair.later), {})[pair.task] = pair.closer
    assert len(drawn.pairs) == 4
    assert list(twins.values()) == [{"put": "later", "take": "earlier"}] * 2
    assert len({pair.pair_id for pair in drawn.pairs}) == 4
    assert drawn.tied == 1  # the first two frames
    every = draw(one, dataclasses.replace(OPPOSED, per_episode=100), states).pairs
    assert len(every) == 2 * 5


def test_frames_that_no_two_tasks_judge_otherwise_are_left_out():
    one, states = two_tasks([0.0, 0.5, 1.0], [0.0, 0.5, 0.5])
    drawn = draw(one, OPPOSED, states)
    assert drawn.pairs == ()
    assert drawn.tied == 3


def test_an_episode_of_one_task_gives_the_same_pairs_with_opposed_tasks():
    states = [{"progress": number / 10} for number in range(10)]
    plain = draw(episode("e", 10), dataclasses.replace(OPPOSED, tasks="one"), states)
    assert draw(episode("e", 10), OPPOSED, states) == plain
    assert len(plain.pairs) == 4


def test_one_task_of_each_answer_is_drawn_where_there_are_more():
    texts = {"a": 1.0, "b": 1.0, "c": -1.0, "d": 0.0}
    one = episode("e", 2, segments=tuple(Segment(text, 0, 2) for text in texts))
    states = [
        {"progress": 0.0, "tasks": {text: {"progress": end * at} for text, end in texts.items()}} for at in (0, 1)
    ]
    seen = set()
    for seed in range(20):
        later, earlier = sorted(draw(one, OPPOSED, states, seed=seed).pairs, key=lambda pair: pair.closer, reverse=True)
        assert (later.closer, earlier.closer) == ("later", "earlier")
        seen.add((later.task, earlier.task))
    assert seen == {("a", "c"), ("b", "c")}


def test_state_under_a_task_has_its_values_over_the_others():
    state = {"hand": 1, "progress": 0.2, "tasks": {"take": {"progress": 0.7}}}
    assert under(state, "take")["progress"] == 0.7
    assert under(state, "take")["hand"] == 1
    assert under(state, "put") is state
