import dataclasses
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source, tabletop
from stcr_plugin.episodes.tabletop import (
    HELDOUT_COLOURS,
    HELDOUT_SHAPES,
    PHASES,
    ROUNDING,
    SEEN_COLOURS,
    SHAPES,
    TabletopConfig,
    TabletopSource,
)
from stcr_plugin.episodes.tabletop_motions import DEPTH, GRASP, LAYOUT_COLUMNS, LAYOUT_ROWS, WIDTH
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Claim

SMALL = TabletopConfig(seen=30, heldout=15, size=56)
COLOURS = {"seen": set(SEEN_COLOURS), "heldout": set(HELDOUT_COLOURS)}
VARIANTS = ("regress", "shapes", "push", "take_off")
EVERY = TabletopConfig(seen=12, heldout=8, regress=60, shapes=20, push=20, take_off=20, size=56)


@pytest.fixture(scope="module")
def source():
    return TabletopSource(SMALL, seed=0)


@pytest.fixture(scope="module")
def recorded(source):
    """(episode, its states) of the whole source."""
    return [(episode, source.states(episode)) for episode in source.episodes()]


@pytest.fixture(scope="module")
def every():
    return TabletopSource(EVERY, seed=0)


@pytest.fixture(scope="module")
def groups(every):
    """Group -> (episode, its states) of it."""
    found = {}
    for episode in every.episodes():
        found.setdefault(episode.group, []).append((episode, every.states(episode)))
    return found


def runs(states, key="phase"):
    return [value for value, _ in itertools.groupby(state[key] for state in states)]


def cell(place):
    """Column and row of the layout grid of a place in cm."""
    return int(place[0] // (WIDTH / LAYOUT_COLUMNS)), int(place[1] // (DEPTH / LAYOUT_ROWS))


CHILD = """
import hashlib
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
source, total = TabletopSource(TabletopConfig(seen=2, heldout=1, size=28), seed=3), hashlib.sha256()
for episode in source.episodes():
    total.update(repr((episode, list(source.states(episode)))).encode())
    for picture in source.frames(episode, [0, 9, episode.n_frames - 1]):
        total.update(picture.tobytes())
print(total.hexdigest())
"""


def test_same_seed_same_bytes_in_every_process():
    """Set order differs between processes with other hash seeds, which one process cannot show."""
    digests = [
        subprocess.run(
            [sys.executable, "-c", CHILD],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != ""


def test_pictures_do_not_depend_on_what_was_asked_before(source):
    episode = next(source.episodes())
    alone = next(iter(TabletopSource(SMALL, seed=0).frames(episode, [7])))
    assert (list(source.frames(episode, [0, 3, 7]))[-1] == alone).all()


def test_other_seed_other_episodes(source):
    other = TabletopSource(SMALL, seed=1)
    first, second = next(source.episodes()), next(other.episodes())
    assert first.episode_id == second.episode_id
    (picture,), (another,) = source.frames(first, [0]), other.frames(second, [0])
    assert (picture != another).mean() > 0.5
    assert source.states(first) != other.states(second)


def test_episodes_of_one_source_differ(source):
    pictures = {next(iter(source.frames(episode, [0]))).tobytes() for episode in source.episodes()}
    assert len(pictures) == SMALL.seen + SMALL.heldout


def test_episodes_are_listed_with_their_group_and_one_segment(source):
    episodes = list(source.episodes())
    assert [episode.group for episode in episodes] == ["seen"] * SMALL.seen + ["heldout"] * SMALL.heldout
    assert len({episode.episode_id for episode in episodes}) == len(episodes)
    for episode in episodes:
        (segment,) = episode.segments
        assert (segment.task, segment.start, segment.end) == (episode.task, 0, episode.n_frames)
        assert episode.fps == SMALL.fps


def test_every_claim_of_every_frame_holds(source, recorded):
    checked = 0
    for _, states in recorded:
        for state in states:
            for claim in source.claims(state):
                assert source.holds(claim, state), (claim, state)
                checked += 1
    assert checked == 5 * sum(len(states) for _, states in recorded)


def test_claims_of_anything_else_do_not_hold(source, recorded):
    for _, states in recorded:
        for state in states:
            truth = {claim.name: claim.value for claim in source.claims(state)}
            false = [Claim("phase", phase) for phase in PHASES if phase != truth["phase"]]
            false.append(Claim("gripper", "open" if truth["gripper"] == "closed" else "closed"))
            for name in ("reach", "goal", "height"):
                false += [Claim(name, truth[name] + ROUNDING), Claim(name, truth[name] - ROUNDING)]
                false.append(Claim(name, str(truth[name])))
            false += [Claim("colour", "red"), Claim("gripper", "ajar")]
            assert not [claim for claim in false if source.holds(claim, state)], state


def test_claims_tell_the_frames_of_a_demonstration_apart(source, recorded):
    """A description that read the same everywhere could not carry a judgment."""
    for _, states in recorded:
        stated = {source.claims(state) for state in states}
        assert len(stated) > len(states) / 4


def test_phases_come_in_order_each_once(recorded):
    assert all(runs(states) == list(PHASES) for _, states in recorded)


def test_there_is_one_state_a_frame(recorded):
    assert all(len(states) == episode.n_frames for episode, states in recorded)


def test_heldout_looks_never_occur_among_seen_ones():
    source = TabletopSource(TabletopConfig(seen=250, heldout=150, size=28), seed=5)
    colours, layouts = {"seen": set(), "heldout": set()}, {"seen": set(), "heldout": set()}
    for episode in source.episodes():
        _, _, thing, shape, _, _, goal, pad = episode.task.split()
        assert shape in SHAPES
        assert pad == "pad"
        assert thing != goal
        scene = source._scene(episode.group, episode.episode_id)
        colours[episode.group] |= {thing, goal, *(other.colour for other in scene.distractors)}
        state = source.states(episode)[0]
        way = cell(state["object"]), cell(state["goal"])
        if scene.camera.mirror < 0:  # as the picture shows it
            way = tuple((LAYOUT_COLUMNS - 1 - column, row) for column, row in way)
        layouts[episode.group].add(way)
    assert colours == COLOURS
    assert not layouts["seen"] & layouts["heldout"]
    cells = set(itertools.product(range(LAYOUT_COLUMNS), range(LAYOUT_ROWS)))
    ways = {(a, b) for a in cells for b in cells if a[0] != b[0]}
    assert layouts["seen"] | layouts["heldout"] == ways
    # New is how two places are combined: a place, or a direction, would show by itself how far a task is, or be harder.
    assert {thing for thing, _ in layouts["seen"]} == {goal for _, goal in layouts["seen"]} == cells
    for group in layouts.values():
        assert np.mean([goal[1] for _, goal in group]) == 1 / 2
        assert np.mean([thing[0] < goal[0] for thing, goal in group]) == 1 / 2


def test_distractors_stand_apart_and_are_never_mistaken_for_the_object():
    fewest, most = 2, 4
    source = TabletopSource(TabletopConfig(seen=60, heldout=0, distractors=(fewest, most)), seed=2)
    counts = set()
    for episode in source.episodes():
        scene = source._scene(episode.group, episode.episode_id)
        counts.add(len(scene.distractors))
        assert scene.thing.colour not in {other.colour for other in scene.distractors}
        things = [scene.thing, scene.goal, *scene.distractors]
        for one, other in itertools.combinations(things, 2):
            if other in scene.distractors:
                assert math.dist((one.x, one.y), (other.x, other.y)) > one.radius + other.radius
    assert max(counts) <= most  # one that would touch another is left out, so there may be fewer
    assert len(counts) > 1
    none = TabletopSource(TabletopConfig(seen=5, heldout=0, distractors=(0, 0)))
    assert not any(none._scene("seen", episode.episode_id).distractors for episode in none.episodes())


def test_object_stays_put_until_it_is_lifted_and_ends_on_the_goal(recorded):
    for _, states in recorded:
        first, last = states[0], states[-1]
        assert all(state["object"] == first["object"] for state in states if state["phase"] in ("approach", "grasp"))
        for before, after in itertools.pairwise(states):
            if before["object"] != after["object"]:
                assert after["gripper"] < 0.5, "the object moves and nothing holds it"
        assert math.dist(last["object"][:2], last["goal"][:2]) < 1e-9
        assert last["object"][2] == pytest.approx(last["rest_height"])
        assert last["gripper"] > 0.5
        assert math.dist(first["object"][:2], first["goal"][:2]) > 5
        assert max(state["object"][2] for state in states) > last["rest_height"] + ROUNDING
        assert min(state["object"][2] for state in states) >= last["rest_height"] - 1e-9


def test_motion_is_a_share_of_the_fastest_and_says_where_pictures_change(source, recorded):
    for _, states in recorded:
        motion = [state["motion"] for state in states]
        assert min(motion) >= 0
        assert max(motion) == 1
        assert motion[-1] == 0
    episode, states = recorded[0]
    pictures = list(source.frames(episode, range(episode.n_frames)))
    for t, (before, after) in enumerate(itertools.pairwise(pictures)):
        assert (before != after).any() == (states[t]["motion"] > 0), t


def test_demonstration_ends_idle_and_works_before():
    source = TabletopSource(TabletopConfig(seen=20, heldout=0, idle_seconds=3.0), seed=0)
    tails = []
    for episode in source.episodes():
        motion = [state["motion"] for state in source.states(episode)]
        tail = next(n for n in itertools.count() if motion[-1 - n] > 0)
        tails.append(tail)
        assert min(motion[:-tail]) > 0
    assert min(tails) >= 2
    assert max(tails) > 2 * SMALL.fps


def test_variants_are_made_only_where_asked_for_and_change_no_other_episode(source, every, groups):
    assert {episode.group for episode in source.episodes()} == {"seen", "heldout"}
    assert {group: len(episodes) for group, episodes in groups.items()} == {
        group: getattr(EVERY, group) for group in ("seen", "heldout", *VARIANTS)
    }
    (first, states), *_ = groups["seen"]
    assert (first, states) == (next(source.episodes()), source.states(first))
    assert (next(iter(source.frames(first, [9]))) == next(iter(every.frames(first, [9])))).all()


@pytest.mark.parametrize("group", ["seen", "heldout", "shapes", "push", "take_off"])
def test_progress_grows_from_nothing_to_one_wherever_a_demonstration_moves(groups, group):
    for _, states in groups[group]:
        progress = [state["progress"] for state in states]
        assert 0 < progress[0] < 0.1
        assert progress[-1] == 1
        for before, after in itertools.pairwise(states):
            assert (after["progress"] > before["progress"]) == (before["motion"] > 1e-9)
            assert after["progress"] >= before["progress"]


def test_progress_follows_from_what_a_frame_shows(groups):
    """Computed again from single frames: hand, object, goal and gripper; up to where the hand leaves the object."""
    for group in ("seen", "heldout", "shapes", "take_off", "regress"):
        for _, states in groups[group]:
            hover = max(state["hand"][2] for state in states if state["phase"] == "lift")
            kept = [(way_left(state, hover), state["progress"]) for state in states if not is_done(state)]
            ways, progress = np.array(kept).T
            slope, start = np.polyfit(progress, ways, 1)
            assert slope < -50, "an episode's work, in cm"
            # The hand bends away from the straight way by up to 6.3 cm.
            assert np.abs(start + slope * progress - ways).max() < 7, group


def is_done(state):
    return state["gripper"] > 0 and math.dist(state["object"], state["goal"]) < 1e-6


def way_left(state, hover):
    """How far, in cm, the hand still has to go until the object stands on its goal; GRASP a closing or opening."""
    (x, y, z), (gx, gy, _) = state["object"], state["goal"]
    grip = math.dist(state["hand"], (x, y, z + 2)) + GRASP * state["gripper"]
    apart = math.dist((x, y), (gx, gy))
    lowered = z - state["rest_height"] if apart < 1e-6 else hover - state["rest_height"] - 2
    return grip + (max(hover - z - 2, 0) if apart > 1e-6 else 0) + apart + lowered + GRASP


def test_regressions_undo_what_was_done_and_some_are_mended(groups):
    recovered, kinds = 0, set()
    for _, states in groups["regress"]:
        progress = np.array([state["progress"] for state in states])
        best_before = np.maximum.accumulate(progress)
        assert (best_before - progress).max() > 0.03
        done = math.dist(states[-1]["object"][:2], states[-1]["goal"][:2]) < 1e-6
        assert done == (progress[-1] == 1), "done says that the object stands on the pad"
        assert done or math.dist(states[-1]["object"][:2], states[-1]["goal"][:2]) > 5
        assert states[-1]["object"][2] == pytest.approx(states[-1]["rest_height"])
        assert states[-1]["gripper"] == 1
        recovered += done
        order = runs(states)
        kinds.add("drop" if "drop" in order else order[order.index("return") - 1])
    assert kinds == {"drop", "lift", "move", "place"}  # in each of which it can be lost
    assert 0.3 < recovered / len(groups["regress"]) < 0.7


def test_an_object_in_the_air_is_held_or_falls(groups):
    fallen = 0
    for _, states in groups["regress"] + groups["take_off"]:
        for before, after in itertools.pairwise(states):
            if before["object"] != after["object"]:
                assert after["gripper"] < 0.5 or after["phase"] == "drop"
                fallen += after["phase"] == "drop"
            if after["phase"] != "drop" and after["gripper"] > 0.5:
                assert after["object"][2] == pytest.approx(after["rest_height"])
    assert fallen > 10


def test_other_shapes_replace_the_object_alone(every, groups):
    shapes = {episode.task.split()[3] for episode, _ in groups["shapes"]}
    assert shapes == set(HELDOUT_SHAPES)
    assert not shapes & set(SHAPES)
    for episode, _ in groups["shapes"]:
        thing, pad, *others = every.things(episode, 0)
        assert (thing.shape, pad.shape) == (episode.task.split()[3], "pad")
        assert all(other.shape in SHAPES for other in others)


def test_pushed_object_stays_on_the_table_and_is_never_grasped(groups):
    for episode, states in groups["push"]:
        assert episode.task.split()[0] == "push"
        assert runs(states) == ["approach", "push", "retreat"]
        assert {state["gripper"] for state in states} == {0}
        assert all(state["object"][2] == pytest.approx(state["rest_height"]) for state in states)
        for state in states:
            if state["phase"] == "push":
                apart = math.dist(state["hand"][:2], state["object"][:2])
                assert apart == pytest.approx(state["rest_height"] + 3)  # the hand is behind it, not above
        assert math.dist(states[-1]["object"][:2], states[-1]["goal"][:2]) < 1e-6


def test_taking_off_starts_on_the_pad_and_ends_beside_it(every, groups):
    for episode, states in groups["take_off"]:
        assert episode.task.startswith("take the ")
        assert " off the " in episode.task
        scene = every._scene(episode.group, episode.episode_id)
        pad = (scene.goal.x, scene.goal.y)
        assert math.dist(states[0]["object"][:2], pad) < 1e-6
        assert math.dist(states[-1]["object"][:2], pad) > scene.goal.radius
        assert runs(states) == list(PHASES)


def test_moved_objects_run_into_nothing(every, groups):
    for group in ("regress", "push", "take_off"):
        for episode, states in groups[group]:
            scene = every._scene(episode.group, episode.episode_id)
            for other, state in itertools.product(scene.distractors, states):
                low = state["object"][2] - state["rest_height"] < 2 * other.radius
                apart = math.dist(state["object"][:2], (other.x, other.y))
                assert not low or apart > other.radius + scene.thing.radius


def test_every_claim_of_every_variant_holds(every, groups):
    for group in VARIANTS:
        for _, states in groups[group]:
            assert all(every.holds(claim, state) for state in states for claim in every.claims(state))


def test_motion_of_variants_says_where_pictures_change(every, groups):
    for group in VARIANTS:
        episode, states = groups[group][0]
        pictures = list(every.frames(episode, range(episode.n_frames)))
        for t, (before, after) in enumerate(itertools.pairwise(pictures)):
            assert (before != after).any() == (states[t]["motion"] > 0), (group, t)


def test_things_are_seen_where_nothing_covers_them(every, groups):
    """Against the picture: a thing that is painted over shows fewer pixels; the hand covers what it holds a little."""
    before, after = [], []
    for episode, _ in groups["seen"]:
        for index, shares in ((0, before), (episode.n_frames - 1, after)):
            thing, pad, *others = every.things(episode, index)
            assert episode.task == f"put the {thing.colour} {thing.shape} on the {pad.colour} pad"
            assert all(0 <= one.share <= 1 and one.pixels >= 0 for one in (thing, pad, *others))
            shares.append(pad.share)
    assert np.median(before) > 0.95
    assert max(after) < 0.9  # the object stands on it


def test_a_thing_out_of_the_picture_or_behind_another_is_not_seen():
    source = TabletopSource(TabletopConfig(seen=1, heldout=0), seed=0)
    scene = source._scene("seen", "seen-00000")
    thing, goal = scene.thing, scene.goal
    outside = dataclasses.replace(scene, distractors=(dataclasses.replace(thing, x=200.0),))
    assert tabletop._things(outside, 0, 84)[2].share == 0
    behind = dataclasses.replace(thing, x=thing.x, y=thing.y + 1, radius=thing.radius / 2)
    assert tabletop._things(dataclasses.replace(scene, distractors=(behind,)), 0, 84)[2].share < 0.5
    alone = dataclasses.replace(thing, x=goal.x, y=goal.y - 12, radius=3.0)
    assert tabletop._things(dataclasses.replace(scene, distractors=(alone,)), 0, 84)[2].share > 0.5


@pytest.mark.parametrize("size", [28, 85, 112])
def test_pictures_have_the_size_asked_for(size):
    source = TabletopSource(TabletopConfig(seen=1, heldout=0, size=size))
    episode = next(source.episodes())
    pictures = list(source.frames(episode, [0, 20, episode.n_frames - 1]))
    assert all(picture.shape == (size, size, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert list(source.frames(episode, [])) == []


@pytest.mark.parametrize(("role", "place"), [("object", 2), ("goal", 6)])
def test_things_show_where_the_state_says_in_the_colour_of_the_task(role, place):
    source = TabletopSource(TabletopConfig(seen=60, heldout=0, distractors=(0, 0)), seed=0)
    seen = 0
    for episode in source.episodes():
        words = episode.task.split()
        if words[place] != "red":
            continue
        (picture,) = source.frames(episode, [0])
        red = (picture[..., 0] > 140) & (picture[..., 1] < 90) & (picture[..., 2] < 90)
        down, right = np.argwhere(red).mean(axis=0) / picture.shape[0]
        assert math.dist((right, down), source.states(episode)[0][f"{role}_at"]) < 0.12
        seen += 1
    assert seen > 2


def test_kind_chooses_the_source():
    source = open_source(from_mapping(TabletopConfig, {"kind": "tabletop", "seen": 1, "heldout": 0}, "t"), seed=4)
    assert isinstance(source, TabletopSource)
    assert source.seed == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sizes": 84}, "unknown key 'sizes', did you mean 'size'"),
        ({"size": 20}, "size at least 28"),
        ({"seen": -1}, "must not be negative"),
        ({"take_off": -1}, "take_off, .* must not be negative"),
        ({"fps": 0}, "fps above 0"),
        ({"size": "big"}, "size: "),
        ({"distractors": [3, 1]}, r"distractors reads \[fewest, most\]"),
        ({"distractors": [1, 9]}, "from 0 to 6"),
        ({"distractors": [1]}, "distractors.1"),
        ({"kind": "table"}, "kind: "),
    ],
)
def test_bad_configuration_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(TabletopConfig, values, "test")
