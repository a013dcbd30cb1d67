import hashlib
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from simulator_probe import PROBE, obstacle

from stcr_plugin.artefacts import digest
from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source, rollout
from stcr_plugin.episodes.metaworld import (
    CLOSED,
    DRAWS,
    NEAR,
    OPEN,
    RANK,
    ROUNDING,
    TASKS,
    MetaworldConfig,
    MetaworldSource,
    Task,
    _phases,
    _states,
)
from stcr_plugin.episodes.rollout import CAMERAS, Facts, Painter, Scene
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.manifest import read_manifest
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.types import Claim, Episode, Exclusion, Omission

pytestmark = pytest.mark.slow(seconds=1)

SMALL = MetaworldConfig(
    tasks=("drawer-open-v3", "bin-picking-v3", "reach-v3"), episodes=1, failed=1, regressing=1, width=64, height=48
)
SCENE = Scene("push-v3")


@pytest.fixture(scope="module")
def sim():
    if obstacle():
        pytest.skip(f"Meta-World cannot be drawn here: {obstacle()}")


@pytest.mark.slow
def test_training_libraries_may_be_imported_after_drawing(sim):
    probe = PROBE.replace("painter.close()", "import torchvision\npainter.close()")
    assert subprocess.run([sys.executable, "-c", probe], timeout=120).returncode == 0


@pytest.fixture(scope="module")
def source(sim):
    return MetaworldSource(SMALL, seed=0)


@pytest.fixture(scope="module")
def recorded(source):
    """(task name, group) -> (episode, its states)."""
    listed = [item for item in source.episodes() if isinstance(item, Episode)]
    return {(item.episode_id.partition("_")[0], item.group): (item, source.states(item)) for item in listed}


def facts(**changes):
    """A frame: the open hand 30 cm above the object, 20 cm away from the goal."""
    at = {"hand": (0, 0, 0.3), "object": (0, 0, 0), "goal": (0.2, 0, 0)} | changes
    points = {name: np.array(at.pop(name), dtype=float) for name in ("hand", "object", "goal")}
    values = {"gap": 0.3, "opening": 1.0, "touched": False, "held": False, "success": False} | at
    values["observation"] = np.zeros(39)
    return Facts(np.zeros(1), carried=points["object"], meets=points["goal"], rest=0.0, **points, **values)


def held(x, z=0.0, **changes):
    return facts(hand=(x, 0, z), object=(x, 0, z), gap=0.0, opening=0.5, touched=True, held=True, **changes)


GRIPPED, PUSHED, HAND = Task("move it", "block", grip=True), Task("push it", "button"), Task("go there", "")


# ---- without the simulator ----


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tasks": ["pick-plase-v3"]}, "did you mean 'pick-place-v3'"),
        ({"tasks": ["push-v3", "push-v3"]}, "none twice"),
        ({"tasks": []}, "at least one"),
        ({"camera": "corner5"}, "did you mean 'corner"),
        ({"failed": -1}, "must not be negative"),
        ({"noise": -0.1}, "must not be negative"),
        ({"max_steps": 501}, "max_steps"),
        ({"stride": 0}, "stride"),
        ({"width": 8}, "28 pixels"),
        ({"regresing": 1}, "did you mean 'regressing'"),
    ],
)
def test_wrong_setting_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(MetaworldConfig, values, "test")


def test_missing_extra_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.delitem(sys.modules, "metaworld.env_dict", raising=False)
    with pytest.raises(ConfigError, match=r"stcr-plugin\[sim\]"):
        next(MetaworldSource(SMALL).episodes())


def test_opening_a_source_imports_no_simulator():
    code = (
        "import sys; from stcr_plugin.episodes import open_source; from stcr_plugin.episodes.metaworld import *;"
        "open_source(MetaworldConfig()); print(sorted({'mujoco', 'metaworld', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_phases_of_a_grasped_object():
    frames = [
        facts(),
        facts(gap=NEAR / 200),  # an open hand beside the object grasps nothing yet
        facts(gap=NEAR / 200, opening=0.7),
        held(0.0),
        held(0.1),
        held(0.2, success=True),
    ]
    assert _phases(frames, GRIPPED, fps=20) == ["reach", "reach", "grasp", "grasp", "transport", "done"]


def test_phases_of_a_pushed_object_go_by_contact():
    pushed = [facts(), facts(gap=0.0, touched=True), facts(gap=0.0, touched=True, object=(0.03, 0, 0))]
    assert _phases(pushed, PUSHED, fps=20) == ["reach", "contact", "transport"]
    assert _phases(pushed, GRIPPED, fps=20) == ["reach", "reach", "reach"]


def test_phases_of_a_bare_hand():
    assert _phases([facts(), facts(success=True)], HAND, fps=20) == ["reach", "done"]


def test_short_loss_of_contact_does_not_interrupt_transport():
    loose = facts(hand=(0.1, 0, 0), object=(0.1, 0, 0), gap=0.001, opening=0.5)
    frames = [held(0.0), held(0.05), loose, held(0.1), loose, loose, loose, loose]
    assert _phases(frames, GRIPPED, fps=20)[1:5] == ["transport", "transport", "transport", "grasp"]


def test_kicked_ball_is_under_way_while_it_rolls_to_the_goal():
    rolling = [facts(object=(x, 0, 0)) for x in (0.05, 0.1, 0.15, 0.15)]
    frames = [facts(gap=0.0, touched=True), facts(gap=0.0, touched=True, object=(0.02, 0, 0)), *rolling]
    assert _phases(frames, PUSHED, fps=20) == ["contact", *["transport"] * 4, "reach"]


def test_progress_falls_when_the_object_is_dropped_or_led_back():
    frames = [facts(), held(0.0), held(0.1), held(0.15), held(0.05), facts(object=(0.05, 0, 0), gap=0.2)]
    phases = [state["phase"] for state in _states(frames, GRIPPED, fps=20)]
    start, grasp, carried, further, led_back, dropped = (s["progress"] for s in _states(frames, GRIPPED, fps=20))
    assert phases == ["reach", "grasp", "transport", "transport", "transport", "reach"]
    assert start < grasp < carried < further > led_back > grasp > dropped > start


def test_pushing_the_object_away_lowers_progress():
    here, away = _states([facts(), facts(object=(-0.1, 0, 0))], PUSHED, fps=20)
    assert away["progress"] < here["progress"]


def test_motion_is_a_share_of_the_fastest():
    frames = [facts(), facts(hand=(0, 0, 0.2)), facts(hand=(0, 0, 0.15)), facts(hand=(0, 0, 0.15))]
    assert [state["motion"] for state in _states(frames, GRIPPED, fps=20)] == pytest.approx([1, 0.5, 0, 0])


# ---- with it ----


def test_table_holds_exactly_meta_worlds_tasks_and_cameras(sim):
    rollout.simulator()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert set(TASKS) == set(ALL_V3_ENVIRONMENTS)
    assert all(task.text and task.text == task.text.strip().rstrip(".") for task in TASKS.values())
    model = rollout.start(SCENE, 0, noise=0.0, stride=4, limit=500).env.model
    assert set(CAMERAS) <= {model.camera(number).name for number in range(model.ncam)}


def test_every_kind_is_listed_and_is_what_it_says(recorded):
    assert set(recorded) == set(itertools.product(SMALL.tasks, ("expert", "failed", "regressing")))
    for (name, group), (episode, states) in recorded.items():
        assert (episode.task, episode.object, episode.fps) == (TASKS[name].text, TASKS[name].object, 20)
        assert len(states) == episode.n_frames == episode.segments[0].end
        success = [state["success"] for state in states]
        assert {"expert": success[-1], "failed": not any(success), "regressing": True}[group]
        assert group != "expert" or sum(a and not b for a, b in itertools.pairwise(success)) == 0


def test_expert_goes_through_the_phases_in_order(recorded):
    for name, at_the_object in (("bin-picking-v3", "grasp"), ("drawer-open-v3", "contact")):
        phases = [phase for phase, _ in itertools.groupby(s["phase"] for s in recorded[name, "expert"][1])]
        assert phases == ["reach", at_the_object, "transport", "done"]


def test_regressing_episode_loses_ground_that_it_had(recorded):
    """By the simulator's distances and contacts, not by progress."""
    for (name, group), (_, states) in recorded.items():
        if group == "regressing":
            away = [state["goal_gap"] for state in states]
            moved_back = max(later - earlier for earlier, later in itertools.combinations(away, 2))
            let_go = any(a["held"] and not b["held"] for a, b in itertools.pairwise(states))
            assert moved_back >= 1.0 or let_go, name
            progress = [state["progress"] for state in states]
            assert max(earlier - later for earlier, later in itertools.combinations(progress, 2)) > 0.1, name


def test_controls_are_what_led_from_each_frame_to_the_next(source, recorded):
    """A new simulator that is given the same actions gets to the same frames."""
    episode, states = recorded["drawer-open-v3", "expert"]
    observations, actions = source.controls(episode)
    assert observations.shape == (episode.n_frames, 39)
    assert actions.shape == ((episode.n_frames - 1) * SMALL.stride, 4)
    assert np.abs(actions).max() <= 1
    assert np.array([state["object"] for state in states]) == pytest.approx(100 * observations[:, 4:7])
    draws = [int(one.where == episode.episode_id) for one in source.episodes() if isinstance(one, Omission)]
    seed = int(digest([0, "drawer-open-v3", "expert", 0, sum(draws)])[:8], 16)
    again = rollout.start(Scene("drawer-open-v3"), seed, noise=0.0, stride=SMALL.stride, limit=500)
    for action in actions:
        again.step(action)
    assert np.array([one.observation for one in again.frames]) == pytest.approx(observations)


def test_expert_that_never_succeeds_is_excluded_and_counted(sim):
    source = MetaworldSource(MetaworldConfig(tasks=("drawer-open-v3",), episodes=1, max_steps=50))
    listed = list(source.episodes())
    assert [type(item) for item in listed] == [Omission] * DRAWS + [Exclusion]
    assert "did not succeed" in listed[0].reason
    assert listed[-1].where == "drawer-open-v3_expert-0000"


def test_task_that_nothing_undoes_has_no_regressing_episodes(sim):
    source = MetaworldSource(MetaworldConfig(tasks=("window-open-v3",), episodes=0, regressing=2))
    assert [type(item) for item in source.episodes()] == [Omission, Omission]


def test_what_the_simulator_draws_again_or_never_has_stops_no_build(sim, tmp_path):
    """In 90 steps some experts are too slow, so that they are drawn again; window-open has no regress."""
    config = {
        "name": "mw",
        "source": {"kind": "metaworld", "tasks": ["window-open-v3"], "max_steps": 90, "episodes": 2, "regressing": 1},
        "splits": {"train": {"episodes": 2, "group": "expert"}},
        "frames": {"format": "none"},
        "on_bad_data": "error",
    }
    build(from_mapping(DataConfig, config, "test"), tmp_path)
    assert read_manifest(tmp_path, "mw").counts.excluded.keys() == {
        "the expert did not succeed",
        "leading the hand back does not undo this task",
    }


def test_restored_picture_is_the_one_of_the_rollout(sim):
    run = rollout.start(Scene("drawer-open-v3"), 3, noise=0.1, stride=4, limit=500)
    painter = Painter(run.env, (64, 48), "corner2")
    present = [painter.draw_present(run.env)]
    with rollout.quiet():
        while run.steps < 80:
            run.step(run.expert_action())
            if run.steps % 4 == 0:
                present.append(painter.draw_present(run.env))
    restored = [painter.draw(run.env, frame) for frame in reversed(run.frames)][::-1]
    painter.close()
    assert len(present) == len(restored) == 21
    assert all((a == b).all() for a, b in zip(present, restored, strict=True))
    assert (present[0] != present[-1]).any()


def test_goal_marker_is_not_drawn(sim):
    run = rollout.start(SCENE, 0, noise=0.0, stride=4, limit=500)
    painter = Painter(run.env, (128, 128), "corner2")
    frame = run.frames[0]
    here = painter.draw(run.env, frame)
    run.env.model.site("goal").pos = run.env._target_pos = np.array([-0.1, 0.6, 0.02])
    there = painter.draw(run.env, frame)
    painter._option.sitegroup[:] = 1  # as the simulator would by itself: the two goals can be distinguished
    marked = painter.draw(run.env, frame)
    painter.close()
    assert (here == there).all()
    assert (here != marked).any()


def test_picture_is_the_right_way_up(sim):
    """The floor is light and below, the wall behind the table darker and above."""
    run = rollout.start(SCENE, 0, noise=0.0, stride=4, limit=500)
    painter = Painter(run.env, (64, 64), "corner2")
    picture = painter.draw(run.env, run.frames[0]).astype(float)
    painter.close()
    top, bottom = picture[:6].reshape(-1, 3), picture[-6:].reshape(-1, 3)
    assert top.std(axis=0).max() < 2 < bottom.std(axis=0).max()  # plain sky, textured floor and pedestal


CHILD = """
import hashlib, json, sys
from stcr_plugin.episodes.metaworld import MetaworldConfig, MetaworldSource
from stcr_plugin.types import Episode, Segment
values, listed = json.load(sys.stdin)
source = MetaworldSource(MetaworldConfig(**values), seed=0)
for name, task, frames, group, noun in listed:
    episode = Episode("metaworld", name, task, 20, frames, (Segment(task, 0, frames),), group, noun)
    one = hashlib.sha256(repr(source.states(episode)).encode())
    one.update(b"".join(picture.tobytes() for picture in source.frames(episode, [0, 5, frames - 1])))
    print(one.hexdigest())
"""


@pytest.mark.slow
def test_another_process_makes_the_same_states_and_pictures_in_any_order(source, recorded):
    """As a build does: one process lists, others are handed episodes and open the source again."""
    values = {"tasks": SMALL.tasks, "width": SMALL.width, "height": SMALL.height}
    episodes = [episode for episode, _ in recorded.values() if episode.group != "failed"][::-1]
    listed = [(e.episode_id, e.task, e.n_frames, e.group, e.object) for e in episodes]
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([values, listed]),
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = []
    for episode in episodes:
        one = hashlib.sha256(repr(source.states(episode)).encode())
        for picture in source.frames(episode, [0, 5, episode.n_frames - 1]):
            assert (picture.shape, picture.dtype) == ((48, 64, 3), np.uint8)
            one.update(picture.tobytes())
        ours.append(one.hexdigest())
    assert child.stdout.split() == ours
    assert child.stderr == ""  # nothing goes wrong when the process ends with a picture's context open


def test_other_seed_other_episode(recorded, sim):
    other = MetaworldSource(MetaworldConfig(tasks=("reach-v3",), episodes=1), seed=1)
    (episode,) = other.episodes()
    assert other.states(episode)[0] != recorded["reach-v3", "expert"][1][0]


def test_wrong_frames_and_foreign_episodes_are_refused(source, recorded):
    episode, _ = recorded["drawer-open-v3", "expert"]
    for indices in ([5, 4], [0, episode.n_frames], [-1]):
        with pytest.raises(DataError, match="do not ascend"):
            next(iter(source.frames(episode, indices)))
    foreign = Episode("metaworld", "fold-v3_expert-0000", "fold", 20, 3, ())
    with pytest.raises(DataError, match="fold-v3_expert-0000"):
        source.states(foreign)
    other = MetaworldSource(MetaworldConfig(stride=8), seed=0)
    with pytest.raises(DataError, match="other settings"):
        other.states(episode)


def test_claims_are_true_and_read_back_in_every_language(source, recorded):
    texts = load_phrases("metaworld")
    assert set(texts) == {"en", "zh"}
    seen = set()
    for _, states in recorded.values():
        for state in states:
            claims = source.claims(state)
            assert all(source.holds(claim, state) for claim in claims)
            assert all(phrases.read(phrases.say(claims)) == claims for phrases in texts.values())
            seen |= {(claim.name, claim.value) for claim in claims if isinstance(claim.value, str)}
    assert {("phase", phase) for phase in RANK} <= seen
    assert {("gripper", "open"), ("gripper", "partly open"), ("contact", "held"), ("contact", "free")} <= seen


def test_every_word_of_a_claim_is_translated():
    words = {*RANK, "open", "partly open", "closed", "held", "touched", "free"}
    assert set(load_phrases("metaworld")["zh"].words) == words


@pytest.mark.parametrize("name", ["bin-picking-v3", "drawer-open-v3"])
def test_false_claims_do_not_hold(source, recorded, name):
    for state in recorded[name, "expert"][1]:
        wrong = {
            "phase": "reach" if state["phase"] != "reach" else "transport",
            "gripper": "open" if state["gripper"] < (OPEN + CLOSED) / 2 else "closed",
            "contact": "free" if state["touched"] or state["held"] else "held",
        }
        for claim in source.claims(state):
            value = wrong[claim.name] if isinstance(claim.value, str) else claim.value + 2 * ROUNDING
            assert not source.holds(Claim(claim.name, value), state)
    assert not source.holds(Claim("colour", "red"), state)
    assert not source.holds(Claim("tool", 2), state)


def test_a_goal_that_no_picture_shows_is_not_described():
    source = MetaworldSource(SMALL)

    def named(task):
        return {claim.name for state in _states([facts()], TASKS[task], fps=20) for claim in source.claims(state)}

    assert named("push-v3") == {"phase", "gripper", "contact", "reach"}
    assert named("bin-picking-v3") == {"phase", "gripper", "contact", "reach", "goal"}
    assert named("hammer-v3") == {"phase", "gripper", "contact", "reach", "tool", "goal"}
    assert named("reach-v3") == {"phase", "gripper"}


def test_regressing_episodes_give_pairs_whose_earlier_frame_is_closer(sim, tmp_path):
    config = {
        "name": "mw",
        "source": {"kind": "metaworld", "tasks": ["drawer-open-v3"], "episodes": 1, "regressing": 2, "width": 64},
        "splits": {"train": {"episodes": 2, "group": "regressing"}},
        "pairs": {"per_episode": 40, "min_frames": 2, "label": "progress", "tie_within": 0.05},
        "datasets": {"cot": {"split": "train", "kind": "cot"}},
    }
    build(from_mapping(DataConfig, config, "test"), tmp_path)
    assert isinstance(open_source(from_mapping(MetaworldConfig, config["source"], "test")), MetaworldSource)
    rows = json.loads((tmp_path / "mw/mw_cot.json").read_text(encoding="utf-8"))
    assert {row["answer"] for row in rows if row["order"] == "forward"} == {"img1", "img2"}
    assert "spatial details: img1: " in rows[0]["messages"][1]["content"]


def test_machine_that_cannot_draw_stops_the_build_instead_of_setting_episodes_aside(monkeypatch):
    model = SimpleNamespace(vis=SimpleNamespace(global_=SimpleNamespace(), quality=SimpleNamespace()))

    def no_screen(width, height):
        raise RuntimeError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(rollout, "simulator", lambda: SimpleNamespace(GLContext=no_screen))
    with pytest.raises(ConfigError, match=r"without a screen \(an OpenGL platform .*\); run apt-get install"):
        Painter(SimpleNamespace(model=model), (32, 32), "corner2")
