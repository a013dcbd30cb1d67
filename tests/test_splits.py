import dataclasses

import pytest
from fake_source import FakeSource, episode

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError
from stcr_plugin.pairs import PairRules, take_given
from stcr_plugin.registry import build as build_module
from stcr_plugin.registry.build import DataConfig
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.splits import SplitRule, assign_splits, held_out_twice
from stcr_plugin.types import GivenPair, Segment


def many(count, group=""):
    return [episode(f"{group or 'e'}{number:03d}", group=group) for number in range(count)]


def test_no_episode_is_in_two_splits_and_counts_are_met():
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


def test_a_split_may_take_several_groups_evenly():
    rules = {"train": SplitRule(episodes=20, group=("put", "take")), "all": SplitRule(episodes=5)}
    splits = assign_splits(many(20, "put") + many(20, "take") + many(20, "other"), rules)
    assert [sum(one.group == group for one in splits["train"]) for group in ("put", "take", "other")] == [10, 10, 0]
    with pytest.raises(ConfigError, match=r"splits.train.group: no episode has group 'tako', did you mean 'take'"):
        assign_splits(many(5, "take"), {"train": SplitRule(episodes=2, group=("take", "tako"))})


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
        ({"a": SplitRule(episodes=("seen001",)), "b": SplitRule(episodes=("seen001",))}, "is already in a"),
    ],
)
def test_impossible_splits_are_refused(rules, words):
    with pytest.raises(ConfigError, match=words):
        assign_splits(many(5, "seen"), rules)


def tasks_and_objects():
    table = [("open", "door"), ("open", "drawer"), ("push", "door"), ("push", "cup"), ("lift", "cup")]
    return [
        dataclasses.replace(episode(f"e{number}", task=task), object=thing)
        for number, (task, thing) in enumerate(table * 2)
    ]


def test_held_out_tasks_are_in_no_other_split():
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


def test_episode_of_two_owners_is_in_neither():
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
    assert held_out_twice(SEVERAL, rules) == []


def test_whole_task_holds_out_the_texts_of_all_its_segments():
    """As in AgiBot World, where a task has a name and its segments have their own texts."""
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


def test_episode_with_segments_of_two_splits_is_in_neither_and_is_reported():
    rules = {"a": SplitRule(tasks=("open",)), "b": SplitRule(tasks=("close",)), "rest": SplitRule(fraction=1.0)}
    splits = assign_splits(SEVERAL, rules)
    assert {split: [item.episode_id for item in found] for split, found in splits.items()} == {
        "a": ["e0", "e1"],
        "b": ["e3"],
        "rest": ["e4", "e5", "e6"],
    }
    assert [(item.what, item.where) for item in held_out_twice(SEVERAL, rules)] == [("episode", "e2")]


def test_listed_episode_that_another_split_holds_out_is_refused():
    rules = {"train": SplitRule(episodes=("e0", "e3")), "unseen": SplitRule(tasks=("open",))}
    with pytest.raises(ConfigError, match=r"splits.train.episodes: .* episode 'e0' is held out by unseen"):
        assign_splits(SEVERAL, rules)


def test_episode_that_two_splits_hold_out_is_counted_in_the_manifest(monkeypatch, tmp_path):
    monkeypatch.setattr(build_module, "open_source", lambda *_: FakeSource(SEVERAL))
    config = {
        "name": "toy",
        "source": {"kind": "tabletop"},
        "splits": {"a": {"tasks": ["open"]}, "b": {"tasks": ["close"]}},
        "on_bad_data": "error",
    }
    build_module.build(from_mapping(DataConfig, config, "test"), tmp_path)
    assert read_manifest(tmp_path, "toy").counts.excluded == {"its tasks or its object are held out by two splits": 1}
    assert {pair.task for pair in read_pairs(tmp_path, "toy", "a")} == {"open"}


def test_published_pairs_follow_the_segments_that_a_split_owns():
    given = [GivenPair(0, 3, "open"), GivenPair(1, 2, "pick")]
    (one, *_) = assign_splits(SEVERAL, {"unseen": SplitRule(tasks=("open",))})["unseen"]
    assert [pair.task for pair in take_given(one, None, given, rules=PairRules(), split="unseen").pairs] == ["open"]


def test_unknown_task_and_too_many_are_reported():
    with pytest.raises(ConfigError, match=r"splits.a.tasks: no episode has 'pusch', did you mean 'push'"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(tasks=("pusch",))})
    with pytest.raises(ConfigError, match=r"splits.a.objects: asks for 4 and 3 are free"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(objects=4)})
    with pytest.raises(ConfigError, match=r"splits.b.tasks: 'push' already belongs to a"):
        assign_splits(tasks_and_objects(), {"a": SplitRule(tasks=("push",)), "b": SplitRule(tasks=("push",))})
