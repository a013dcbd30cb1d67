import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.tabletop import (
    DEPTH,
    HELDOUT_COLOURS,
    LAYOUT_COLUMNS,
    LAYOUT_ROWS,
    PHASES,
    ROUNDING,
    SEEN_COLOURS,
    SHAPES,
    WIDTH,
    TabletopConfig,
    TabletopSource,
)
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Claim

SMALL = TabletopConfig(seen=30, heldout=15, size=56)
COLOURS = {"seen": set(SEEN_COLOURS), "heldout": set(HELDOUT_COLOURS)}


@pytest.fixture(scope="module")
def source():
    return TabletopSource(SMALL, seed=0)


@pytest.fixture(scope="module")
def recorded(source):
    """(episode, its states) of the whole source."""
    return [(episode, source.states(episode)) for episode in source.episodes()]


def runs(states, key="phase"):
    return [value for value, _ in itertools.groupby(state[key] for state in states)]


def cell(place):
    """Column and row of the layout grid that a place in cm lies in."""
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
        said = {source.claims(state) for state in states}
        assert len(said) > len(states) / 4


def test_phases_come_in_order_each_once(recorded):
    assert all(runs(states) == list(PHASES) for _, states in recorded)


def test_there_is_one_state_a_frame(recorded):
    assert all(len(states) == episode.n_frames for episode, states in recorded)


def test_heldout_looks_never_occur_among_seen_ones():
    source = TabletopSource(TabletopConfig(seen=150, heldout=150, size=28), seed=5)
    colours, layouts = {"seen": set(), "heldout": set()}, {"seen": set(), "heldout": set()}
    for episode in source.episodes():
        _, _, thing, shape, _, _, goal, pad = episode.task.split()
        assert shape in SHAPES
        assert pad == "pad"
        assert thing != goal
        scene = source._scene(episode.group, episode.episode_id)
        colours[episode.group] |= {thing, goal, *(other.colour for other in scene.distractors)}
        state = source.states(episode)[0]
        layouts[episode.group].add((cell(state["object"]), cell(state["goal"])))
    assert colours == COLOURS
    assert not layouts["seen"] & layouts["heldout"]
    # Not a few of them: nearly all ways from one column to another occur, in both directions.
    ways = LAYOUT_COLUMNS * (LAYOUT_COLUMNS - 1) * LAYOUT_ROWS**2
    assert len(layouts["seen"]) > 0.9 * 3 / 4 * ways
    assert len(layouts["heldout"]) > 0.9 / 4 * ways
    for group in layouts.values():
        assert {thing[0] < goal[0] for thing, goal in group} == {True, False}


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
        ({"seen": -1}, "seen and heldout must not be negative"),
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
