import dataclasses
import math

import pytest
from fake_source import FakeSource, episode

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import PairRules, SplitRule, assign_splits, draw_pairs, stand_between, take_given
from stcr_plugin.registry import build as build_module
from stcr_plugin.registry.build import DataConfig
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.types import GivenPair, Query, Segment


def draw(one, rules, states=None, seed=0):
    return draw_pairs(one, states, rules, "train", seed)


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


def test_asking_for_many_gives_every_allowed_pair_once():
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


def test_short_segments_are_set_aside_by_name():
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


def test_an_idle_episode_is_set_aside():
    drawn = draw(episode("e", 9), PairRules(trim_idle=0.02), [{"motion": 0.0}] * 9)
    assert drawn.pairs == ()
    assert len(drawn.excluded) == 1


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
        ({"max_seconds": math.inf}, "`max_seconds` must be a finite number, got inf; leave it out for none"),
        ({"min_seconds": math.inf}, "`min_seconds` must be a finite number"),
        ({"max_seconds": math.nan}, "`max_seconds` must be a finite number"),
        ({"tie_within": math.nan, "label": "progress"}, "`tie_within` must be a finite number"),
    ],
)
def test_bad_rules_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(PairRules, values, "data.yaml")


def many(count, group=""):
    return [episode(f"{group or 'e'}{number:03d}", group=group) for number in range(count)]


def test_no_episode_stands_in_two_splits_and_counts_are_met():
    rules = {
        "train": SplitRule(episodes=30, group="seen"),
        "seen": SplitRule(episodes=10, group="seen"),
        "heldout": SplitRule(episodes=5, group="heldout"),
    }
    splits = assign_splits(many(40, "seen") + many(8, "heldout"), rules)
    ids = [one.episode_id for listed in splits.values() for one in listed]
    assert len(ids) == len(set(ids))
    assert {name: len(listed) for name, listed in splits.items()} == {"train": 30, "seen": 10, "heldout": 5}
    assert {one.group for one in splits["heldout"]} == {"heldout"}


def test_counts_are_spread_over_the_recording_order():
    splits = assign_splits(many(100), {"test": SplitRule(episodes=10), "train": SplitRule(episodes=90)})
    numbers = [int(one.episode_id[1:]) for one in splits["test"]]
    assert [number // 10 for number in numbers] == list(range(10))


@pytest.mark.parametrize("total", range(3, 12))
def test_fractions_that_add_up_to_one_use_every_episode(total):
    splits = assign_splits(many(total), {"train": SplitRule(fraction=0.75), "test": SplitRule(fraction=0.25)})
    assert sum(len(listed) for listed in splits.values()) == total


def test_listed_ids_are_served_before_counts():
    rules = {"train": SplitRule(episodes=3), "test": SplitRule(episodes=("e001",))}
    splits = assign_splits(many(4), rules)
    assert [one.episode_id for one in splits["test"]] == ["e001"]
    assert [one.episode_id for one in splits["train"]] == ["e000", "e002", "e003"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"train": SplitRule(episodes=9)}, "asks for 9 episodes and 5 are free"),
        ({"train": SplitRule(episodes=1, group="sen")}, "did you mean 'seen'"),
        ({"train": SplitRule(episodes=("seen01",))}, "no usable episode 'seen01', did you mean"),
        ({"a": SplitRule(episodes=("seen001",)), "b": SplitRule(episodes=("seen001",))}, "already stands in a"),
    ],
)
def test_impossible_splits_are_refused(rules, words):
    with pytest.raises(ConfigError, match=words):
        assign_splits(many(5, "seen"), rules)


# ---- strides, tails, labels from truth, splits by task and object ----


def test_stride_takes_every_so_many_th_frame_inside_the_segment():
    rules = PairRules(per_episode=1000, stride=10, min_frames=50, max_frames=140)
    long = episode("e", 300, segments=[Segment("pour", 15, 287)], fps=30.0)
    pairs = draw_pairs(long, None, rules, "train", 0).pairs
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
    pairs = draw_pairs(episode("e", length, task=task), None, rules, "train", 0).pairs
    assert max(pair.later for pair in pairs) == last


def test_label_follows_progress_and_not_time():
    states = [{"progress": value} for value in (0, 1, 2, 1, 0, None)]
    rules = PairRules(per_episode=100, label="progress")
    drawn = draw_pairs(episode("e", 6), states, rules, "train", 0)
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
    drawn = draw_pairs(episode("e", 3), states, rules, "train", 0)
    assert [pair.closer for pair in drawn.pairs] == ["neither", "later", "later"]
    assert Query(drawn.pairs[0], "forward").answer == Query(drawn.pairs[0], "backward").answer == "neither"


def test_label_by_progress_needs_the_state():
    with pytest.raises(ConfigError, match="has no state 'progress'; set it to order"):
        draw_pairs(episode("e", 6), None, PairRules(label="progress"), "train", 0)
    with pytest.raises(ConfigError, match="needs `label: progress`"):
        from_mapping(PairRules, {"tie_within": 0.1}, "test")


def tasks_and_objects():
    table = [("open", "door"), ("open", "drawer"), ("push", "door"), ("push", "cup"), ("lift", "cup")]
    return [
        dataclasses.replace(episode(f"e{number}", task=task), object=thing)
        for number, (task, thing) in enumerate(table * 2)
    ]


def test_held_out_tasks_stand_in_no_other_split():
    rules = {"train": SplitRule(fraction=1.0), "unseen": SplitRule(tasks=("push",))}
    splits = assign_splits(tasks_and_objects(), rules)
    assert {item.task for item in splits["unseen"]} == {"push"}
    assert {item.task for item in splits["train"]} == {"open", "lift"}
    assert len(splits["train"]) + len(splits["unseen"]) == 10


def test_held_out_objects_by_number_and_limited():
    rules = {"train": SplitRule(fraction=1.0), "unseen": SplitRule(objects=1, episodes=2)}
    splits = assign_splits(tasks_and_objects(), rules)
    (thing,) = {item.object for item in splits["unseen"]}
    assert len(splits["unseen"]) == 2
    assert thing not in {item.object for item in splits["train"]}


def test_episode_of_two_owners_stands_in_neither():
    rules = {"a": SplitRule(tasks=("push",)), "b": SplitRule(objects=("cup",)), "rest": SplitRule(fraction=1.0)}
    splits = assign_splits(tasks_and_objects(), rules)
    assert {(item.task, item.object) for item in splits["a"]} == {("push", "door")}
    assert {(item.task, item.object) for item in splits["b"]} == {("lift", "cup")}
    assert {(item.task, item.object) for item in splits["rest"]} == {("open", "door"), ("open", "drawer")}


def of_segments(*texts):
    """One episode for each entry of `texts`, a list of segment texts, as a table of segments gives it."""
    return [
        episode(
            f"e{number}",
            10 * len(own),
            "; ".join(own),
            segments=[Segment(text, 10 * at, 10 * at + 10) for at, text in enumerate(own)],
        )
        for number, own in enumerate(texts)
    ]


def texts_in(episodes):
    return {segment.task for item in episodes for segment in item.segments}


SEVERAL = of_segments(["open", "pick"], ["open"], ["close", "open"], ["close"], ["wipe"], ["wipe", "pour"], ["pour"])


@pytest.mark.parametrize("tasks", [1, 2, ("open",), ("open; pick",), ("close", "pour")])
def test_no_segment_of_a_held_out_task_is_trained_on(tasks):
    splits = assign_splits(SEVERAL, {"unseen": SplitRule(tasks=tasks), "train": SplitRule(fraction=1.0)})
    assert splits["unseen"]
    assert splits["train"]
    assert not texts_in(splits["unseen"]) & texts_in(splits["train"])


def test_held_out_segment_leaves_the_others_of_its_episode_unused():
    rules = {"unseen": SplitRule(tasks=("open",)), "train": SplitRule(fraction=1.0)}
    splits = assign_splits(SEVERAL, rules)
    assert [(item.episode_id, texts_in([item])) for item in splits["unseen"]] == [
        ("e0", {"open"}),
        ("e1", {"open"}),
        ("e2", {"open"}),
    ]
    assert [item.episode_id for item in splits["train"]] == ["e3", "e4", "e5", "e6"]
    assert stand_between(SEVERAL, rules) == []


def test_whole_task_holds_out_the_texts_of_all_its_segments():
    """As in AgiBot World, where a task has a name and its segments have texts of their own."""
    episodes = [
        dataclasses.replace(item, task=name)
        for item, name in zip(SEVERAL, ["kitchen", "kitchen", "hall", "hall", "bath", "bath", "bath"], strict=True)
    ]
    splits = assign_splits(episodes, {"unseen": SplitRule(tasks=("kitchen",)), "train": SplitRule(fraction=1.0)})
    assert [item.episode_id for item in splits["unseen"]] == ["e0", "e1", "e2"]
    assert texts_in(splits["unseen"]) == {"open", "pick"}
    assert [item.episode_id for item in splits["train"]] == ["e3", "e4", "e5", "e6"]
    one = assign_splits(episodes, {"unseen": SplitRule(tasks=1), "train": SplitRule(fraction=1.0)})
    assert [item.task for item in one["unseen"]].count("hall") == 2, "a count is of whole tasks"


def test_episode_with_segments_of_two_splits_stands_in_neither_and_is_told():
    rules = {"a": SplitRule(tasks=("open",)), "b": SplitRule(tasks=("close",)), "rest": SplitRule(fraction=1.0)}
    splits = assign_splits(SEVERAL, rules)
    assert {split: [item.episode_id for item in found] for split, found in splits.items()} == {
        "a": ["e0", "e1"],
        "b": ["e3"],
        "rest": ["e4", "e5", "e6"],
    }
    assert [(item.what, item.where) for item in stand_between(SEVERAL, rules)] == [("episode", "e2")]


def test_listed_episode_that_another_split_holds_out_is_refused():
    rules = {"train": SplitRule(episodes=("e0", "e3")), "unseen": SplitRule(tasks=("open",))}
    with pytest.raises(ConfigError, match=r"splits.train.episodes: .* episode 'e0' is held out by unseen"):
        assign_splits(SEVERAL, rules)


def test_episode_that_two_splits_hold_out_is_counted_in_the_manifest(monkeypatch, tmp_path):
    monkeypatch.setattr(build_module, "open_source", lambda config, seed=0: FakeSource(SEVERAL))
    config = {
        "name": "toy",
        "source": {"kind": "tabletop"},
        "splits": {"a": {"tasks": ["open"]}, "b": {"tasks": ["close"]}},
        "on_bad_data": "error",
    }
    build_module.build(from_mapping(DataConfig, config, "test"), tmp_path)
    assert read_manifest(tmp_path, "toy")["counts"]["excluded"] == {
        "its tasks or its object are held out by two splits": 1
    }
    assert {pair.task for pair in read_pairs(tmp_path, "toy", "a")} == {"open"}


def test_published_pairs_follow_the_segments_that_a_split_owns():
    given = [GivenPair(0, 3, "open"), GivenPair(1, 2, "pick")]
    (one, *_) = assign_splits(SEVERAL, {"unseen": SplitRule(tasks=("open",))})["unseen"]
    assert [pair.task for pair in take_given(one, None, given, PairRules(), "unseen").pairs] == ["open"]


def test_unknown_task_and_too_many_are_told():
    with pytest.raises(ConfigError, match=r"splits.a.tasks: no episode has 'pusch', did you mean 'push'"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(tasks=("pusch",))})
    with pytest.raises(ConfigError, match=r"splits.a.objects: asks for 4 and 3 are free"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(objects=4)})
    with pytest.raises(ConfigError, match=r"splits.b.tasks: 'push' already belongs to a"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(tasks=("push",)), "b": SplitRule(tasks=("push",))})


def test_published_ties_are_taught_or_dropped_and_counted():
    given = [GivenPair(0, 3, "stack"), GivenPair(1, 2, "stack", closer="neither")]
    dropped = take_given(episode("e", task="stack"), None, given, PairRules(), "train")
    assert ([pair.closer for pair in dropped.pairs], dropped.tied) == (["later"], 1)
    taught = take_given(episode("e", task="stack"), None, given, PairRules(ties="teach"), "train")
    assert ([pair.closer for pair in taught.pairs], taught.tied) == (["later", "neither"], 0)


def test_published_pair_that_leaves_its_episode_is_refused():
    with pytest.raises(DataError, match="the given pair 3-20 is none of its 20 frames"):
        take_given(episode("e", 20, task="stack"), None, [GivenPair(3, 20, "stack")], PairRules(), "train")
