from itertools import permutations

import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError
from stcr_plugin.figures import GroupSettings
from stcr_plugin.groups import GroupRule, arranged, by_time, draw_groups
from stcr_plugin.pairs import PairRules
from stcr_plugin.types import Group, Pair

THREE = GroupSettings(pictures=3)


def pair(episode, earlier, later, task="lift it", closer="later"):
    return Pair(
        f"{episode}:{earlier}-{later}",
        episode,
        "test",
        task,
        earlier,
        later,
        (later - earlier) / 10,
        closer,
        earlier_image=f"{earlier}.png",
        later_image=f"{later}.png",
    )


def test_frames_are_of_one_segment_and_far_enough_apart():
    pairs = [pair("e", first, first + 30) for first in (0, 3, 11, 12, 25)]
    rules = PairRules(min_seconds=1.0)
    groups = draw_groups(pairs, rules, GroupSettings(pictures=4, per_episode=6), seed=0)
    assert len({group.frames for group in groups}) == len(groups) == 6
    for group in groups:
        gaps = [second - first for first, second in zip(group.frames, group.frames[1:], strict=False)]
        assert min(gaps) >= 10  # frames of 10 a second
        assert group.images == tuple(f"{frame}.png" for frame in group.frames)


def test_same_seed_draws_the_same_groups_whatever_other_episodes_there_are():
    pairs = [pair("e", first, first + 30) for first in range(0, 60, 7)]
    others = [pair("f", first, first + 30) for first in range(0, 60, 5)]
    alone = draw_groups(pairs, PairRules(), THREE, seed=1)
    both = draw_groups(others + pairs, PairRules(), THREE, seed=1)
    assert [group for group in both if group.episode_id == "e"] == alone
    assert draw_groups(pairs, PairRules(), THREE, seed=2) != alone


def test_no_group_mixes_segments_even_where_their_task_reads_the_same():
    pairs = [pair("e", 0, 20), pair("e", 10, 30), pair("e", 50, 70), pair("e", 60, 80), pair("e", 0, 30, "place it")]
    groups = draw_groups(pairs, PairRules(), GroupSettings(per_episode=20), seed=0)
    assert groups
    for group in groups:
        assert max(group.frames) <= 30 or min(group.frames) >= 50
        assert group.task == "lift it"


def test_frames_too_few_or_too_near_make_no_group():
    assert draw_groups([pair("e", 0, 20)], PairRules(), THREE, seed=0) == []
    assert draw_groups([pair("e", 0, 20), pair("e", 1, 21)], PairRules(min_seconds=1.0), THREE, seed=0) == []


def test_true_progress_orders_a_group_and_leaves_ties_and_unknown_frames_out():
    pairs = [pair("e", 0, 20), pair("e", 10, 30), pair("e", 5, 20)]
    progress = [0.0] * 40
    progress[10], progress[20], progress[30], progress[5] = 0.9, 0.5, 0.55, None
    truth = {("e", "lift it"): progress}
    groups = draw_groups(pairs, PairRules(label="progress"), THREE, seed=0, truth=truth)
    assert {group.frames for group in groups} == {(0, 20, 10), (0, 30, 10), (0, 20, 30), (20, 30, 10)}
    apart = draw_groups(pairs, PairRules(label="progress", tie_within=0.1), THREE, seed=0, truth=truth)
    assert {group.frames for group in apart} == {(0, 20, 10), (0, 30, 10)}


def test_two_frames_that_show_the_same_are_in_no_group():
    pairs = [pair("e", 0, 20), pair("e", 10, 30)]
    contents = {"0.png": "a", "10.png": "b", "20.png": "b", "30.png": "c"}
    groups = draw_groups(pairs, PairRules(), GroupSettings(per_episode=9), seed=0, contents=contents)
    assert {group.frames for group in groups} == {(0, 10, 30), (0, 20, 30)}


@pytest.mark.parametrize(
    ("label", "closer", "timed"), [("order", "later", True), ("order", "neither", False), ("progress", "later", False)]
)
def test_time_orders_frames_only_where_it_labels_every_pair(label, closer, timed):
    assert by_time([pair("e", 0, 20), pair("e", 10, 30, closer=closer)], PairRules(label=label)) is timed


def test_rotations_put_each_frame_once_in_each_position():
    group = Group("e:0-1-2-3-4", "e", "lift it", (0, 1, 2, 3, 4), tuple("abcde"))
    asked = GroupSettings(pictures=5)
    turns = arranged(group, asked, 0)
    for place in range(5):
        assert sorted(turn[place] for turn in turns) == [0, 1, 2, 3, 4]
    assert arranged(group, GroupSettings(pictures=5, rotations=2), 0) == turns[:2]
    starts = {arranged(Group(f"{i}", "e", "", (), ()), THREE, 0)[0] for i in range(100)}
    assert starts == set(permutations(range(3)))  # not time order alone


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pictures": 2}, "pictures must be 3 to 8"),
        ({"rotations": 2}, "training shows every rotation"),
        ({"target": "both"}, "target"),
    ],
)
def test_a_rule_that_would_not_be_balanced_is_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        from_mapping(GroupRule, values, "test")
