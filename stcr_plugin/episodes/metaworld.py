"""`metaworld`: the 50 Meta-World tasks (MuJoCo) with their scripted experts, and on request with failures.

https://github.com/Farama-Foundation/Metaworld, version 3.1.1. The goal's marker is not drawn. Nothing of the
simulator is imported before episodes are listed. States are in centimetres.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stcr_plugin.artefacts import code_digest, digest
from stcr_plugin.config import nearest, settings
from stcr_plugin.episodes import rollout as simulation
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.episodes.recordings import check_indices
from stcr_plugin.episodes.rollout import CAMERAS, CONTROL_HZ, LONGEST, Facts, Painter, Rollout, Scene
from stcr_plugin.episodes.rollout_files import StoredRollout, read_rollout, write_rollout
from stcr_plugin.errors import DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Omission, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

Group = Literal["expert", "failed", "regressing"]

DRAWS = 12  # seeds tried for one episode before it is given up
SETTLE = 16  # steps that an episode goes on after success
NEAR, CLOSE = 1.5, 0.5  # cm to the object at which a closing gripper grasps it, and at which a hand is in contact
MOVED = 0.5  # cm that the object must move, once touched or held, to be under way
GLIDE = 5.0  # cm/s towards the goal at which an object that was released is still under way
BRIDGED = 0.1  # seconds without contact that do not interrupt it
SCALE = 10.0  # cm of way left at which half of a phase is done
LOSS, GROUND = 0.1, 1.0  # what a regressing episode loses at least: progress, and cm unless it drops the object
LAG = 8  # steps that the hand takes to come to rest
ROUNDING = 2  # claims round distances to multiples of this many centimetres
OPEN, CLOSED = 0.95, 0.35  # openings from which the gripper is open, and up to which closed
SLACK = 0.02  # how far an opening may be outside the range of its word
RANK = {"reach": 0, "grasp": 1, "contact": 1, "transport": 2, "done": 3}


@dataclass(frozen=True)
class Task:
    """What the plugin knows of a task.

    Attributes:
        object: What is handled, "" where only the hand goes somewhere.
        grip: The expert takes the object between its fingers.
        seen: A picture shows where the goal is, without its marker.
        stays: What was done stays done when the hand is led back, so that nothing can regress.
        carried: As in rollout.Scene, like `tool`.
    """

    text: str
    object: str
    grip: bool = False
    seen: bool = True
    stays: bool = False
    carried: str = ""
    tool: bool = False


TASKS: dict[str, Task] = {
    "assembly-v3": Task("put the ring of the wrench over the peg", "wrench", grip=True, carried="RoundNut"),
    "basketball-v3": Task("drop the ball through the hoop", "ball", grip=True),
    "bin-picking-v3": Task("move the block from one bin into the other", "block", grip=True),
    "box-close-v3": Task("put the lid on the box", "lid", grip=True),
    "button-press-topdown-v3": Task("press the button down from above", "button"),
    "button-press-topdown-wall-v3": Task("reach over the wall and press the button down from above", "button"),
    "button-press-v3": Task("push the button in", "button"),
    "button-press-wall-v3": Task("reach over the wall and push the button in", "button"),
    "coffee-button-v3": Task("push the button of the coffee machine", "button", stays=True),
    "coffee-pull-v3": Task("pull the mug away from the coffee machine", "mug", grip=True, seen=False),
    "coffee-push-v3": Task("push the mug under the coffee machine", "mug", grip=True),
    "dial-turn-v3": Task("turn the dial", "dial", stays=True),
    "disassemble-v3": Task("lift the wrench off the peg", "wrench", grip=True),
    "door-close-v3": Task("close the door", "door", stays=True),
    "door-lock-v3": Task("turn the lock of the door down to lock it", "lock"),
    "door-open-v3": Task("open the door", "door"),
    "door-unlock-v3": Task("turn the lock of the door sideways to unlock it", "lock", stays=True),
    "drawer-close-v3": Task("close the drawer", "drawer", stays=True),
    "drawer-open-v3": Task("open the drawer", "drawer"),
    "faucet-close-v3": Task("turn the faucet off", "faucet", stays=True),
    "faucet-open-v3": Task("turn the faucet on", "faucet", stays=True),
    "hammer-v3": Task("drive the nail in with the hammer", "hammer", grip=True, tool=True),
    "hand-insert-v3": Task("put the block into the hole in the table", "block", grip=True),
    "handle-press-side-v3": Task("press the handle at the side down", "handle", stays=True),
    "handle-press-v3": Task("press the handle down", "handle", stays=True),
    "handle-pull-side-v3": Task("pull the handle at the side up", "handle", stays=True),
    "handle-pull-v3": Task("pull the handle up", "handle"),
    "lever-pull-v3": Task("pull the lever up", "lever"),
    "peg-insert-side-v3": Task("push the peg into the hole from the side", "peg", grip=True, carried="pegHead"),
    "peg-unplug-side-v3": Task("pull the plug out sideways", "plug", grip=True),
    "pick-out-of-hole-v3": Task("lift the puck out of the hole", "puck", grip=True, seen=False),
    "pick-place-v3": Task("pick up the puck and bring it to its goal", "puck", grip=True, seen=False),
    "pick-place-wall-v3": Task("lift the puck over the wall to its goal", "puck", grip=True, seen=False),
    "plate-slide-back-side-v3": Task("slide the plate sideways out of the goal", "plate", seen=False),
    "plate-slide-back-v3": Task("slide the plate back out of the goal", "plate", seen=False),
    "plate-slide-side-v3": Task("slide the plate sideways into the goal", "plate", stays=True),
    "plate-slide-v3": Task("slide the plate into the goal", "plate"),
    "push-back-v3": Task("pull the block back to its goal", "block", grip=True, seen=False),
    "push-v3": Task("push the puck to its goal", "puck", grip=True, seen=False),
    "push-wall-v3": Task("push the puck around the wall to its goal", "puck", grip=True, seen=False),
    "reach-v3": Task("move the hand to its goal", "", seen=False),
    "reach-wall-v3": Task("move the hand over the wall to its goal", "", seen=False),
    "shelf-place-v3": Task("put the block on the shelf", "block", grip=True),
    "soccer-v3": Task("kick the ball into the goal", "ball", stays=True),
    "stick-pull-v3": Task("pull the jug with a stick", "stick", grip=True, seen=False, carried="stick_end", tool=True),
    "stick-push-v3": Task("push the jug with a stick", "stick", grip=True, seen=False, carried="stick_end", tool=True),
    "sweep-into-v3": Task("sweep the block into the hole in the table", "block", grip=True),
    "sweep-v3": Task("sweep the block off to the side", "block", grip=True, seen=False),
    "window-close-v3": Task("slide the window shut", "window", stays=True),
    "window-open-v3": Task("slide the window open", "window", stays=True),
}
_INVERSES = {
    "assembly-v3": "disassemble-v3",
    "coffee-push-v3": "coffee-pull-v3",
    "door-lock-v3": "door-unlock-v3",
    "door-open-v3": "door-close-v3",
    "drawer-open-v3": "drawer-close-v3",
    "faucet-open-v3": "faucet-close-v3",
    "handle-press-side-v3": "handle-pull-side-v3",
    "handle-press-v3": "handle-pull-v3",
    "peg-insert-side-v3": "peg-unplug-side-v3",
    "plate-slide-side-v3": "plate-slide-back-side-v3",
    "plate-slide-v3": "plate-slide-back-v3",
    "window-open-v3": "window-close-v3",
}
METAWORLD_INVERSES = InverseTasks(
    {TASKS[one].text: TASKS[other].text for one, other in _INVERSES.items()}, phases=("transport", "done")
)
"""Tasks that undo each other. Not those whose goal no picture shows (push-v3 and push-back-v3)."""


@settings
class MetaworldConfig:
    """Which tasks are recorded, and how.

    Attributes:
        tasks: Names of tasks, null for all 50.
        episodes: Successful episodes per task.
        failed: Episodes per task in which the expert stops, misses or lets go, and success is never reached.
        regressing: Episodes per task in which the expert is well under way, then drops the object or leads the hand
            back; half of them recover and succeed. None where nothing undoes what was done (Task.stays).
        camera: One of rollout.CAMERAS.
        max_steps: Control steps per episode, at most.
        stride: Control steps (1/80 s) per frame.
        noise: Standard deviation of what is added to the expert's shift of the hand, in its full speeds.
    """

    kind: Literal["metaworld"] = "metaworld"
    tasks: tuple[str, ...] | None = None
    episodes: int = 20
    failed: int = 0
    regressing: int = 0
    width: int = 224
    height: int = 224
    camera: str = "corner2"
    max_steps: int = LONGEST
    stride: int = 4
    noise: float = 0.1

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks or () if name not in TASKS]
        if unknown:
            raise ValueError(f"tasks: there is no task {unknown[0]!r}, {nearest(unknown[0], list(TASKS))}")
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("tasks: name at least one, none twice; null takes all 50")
        if self.camera not in CAMERAS:
            raise ValueError(f"camera: there is no {self.camera!r}, {nearest(self.camera, list(CAMERAS))}")
        if min(self.episodes, self.failed, self.regressing) < 0 or self.noise < 0:
            raise ValueError("episodes, failed, regressing and noise must not be negative")
        if min(self.width, self.height) < 28 or self.stride < 1 or not 50 <= self.max_steps <= LONGEST:
            raise ValueError(f"width and height from 28 pixels, stride from 1, max_steps from 50 to {LONGEST}")


@dataclass(frozen=True)
class _Recording:
    """A finished rollout.

    Attributes:
        env: The simulator to draw it with; None where the rollout was read from a file.
        actions: [steps, 4], what led from each frame to the next.
    """

    env: object
    frames: tuple[Facts, ...]
    states: tuple[State, ...]
    actions: simulation.Vector
    seed: int = 0


class MetaworldSource:
    """EpisodeSource of simulated demonstrations; the same seed gives the same states and pictures in any process.

    Args:
        keep: Folder of the rollouts that are done (`rollout_files`), in one for each code, seed and settings.
    """

    kind = "metaworld"

    def __init__(self, config: MetaworldConfig, seed: int = 0, keep: Path | None = None) -> None:
        self.config = config
        self._keep = keep
        self.seed = seed
        self.fps = CONTROL_HZ / config.stride
        # Listing, states and frames use the same few rollouts; each holds its simulator (some megabytes).
        self._roll = lru_cache(4)(self._roll_out)
        self._started = lru_cache(1)(lambda name, seed: _start(config, name, seed).env)
        self._painter: tuple[str, Painter] | None = None

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every episode, from physics alone. A draw that is not of its kind is an Omission, and drawn again.

        Raises ConfigError where the extra `sim` is not installed.
        """
        from stcr_plugin.progress_bar import progress

        simulation.simulator()
        counts: dict[Group, int] = {
            "expert": self.config.episodes,
            "failed": self.config.failed,
            "regressing": self.config.regressing,
        }
        wanted = [
            (name, group, number)
            for name in self.config.tasks or TASKS
            for group, count in counts.items()
            for number in range(count)
        ]
        for name, group, number in progress(wanted, "metaworld: simulating", "episodes"):
            episode_id = f"{name}_{group}-{number:04d}"
            if group == "regressing" and TASKS[name].stays:
                yield Omission("episode", episode_id, "leading the hand back does not undo this task")
                continue
            recording, failures = self._roll(name, group, number)
            for draw, reason in enumerate(failures):
                yield Omission(f"draw {draw} of an episode", episode_id, reason)
            if recording is None:
                yield Exclusion("episode", episode_id, f"none of {DRAWS} draws was {group}")
                continue
            task, length = TASKS[name], len(recording.frames)
            whole, fps, thing = (Segment(task.text, 0, length),), self.fps, task.object
            yield Episode(
                self.kind, episode_id, task.text, fps=fps, n_frames=length, segments=whole, group=group, object=thing
            )

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3]. Raises DataError for other indices."""
        recording = self._recording(episode)
        check_indices(episode, indices)
        name = episode.episode_id.partition("_")[0]
        env = recording.env or self._started(name, recording.seed)
        painter = self._paint(name, env)
        for index in indices:
            yield painter.draw(env, recording.frames[index])

    def states(self, episode: Episode) -> Sequence[State]:
        """Keys: phase, progress, motion (0..1), gripper (0 closed..1 open), touched, held, success, goal_seen; hand,
        object (None where there is none), goal ((x, y, z) in cm); gap, tool_gap, goal_gap (cm).

        gap: gripper to object. goal_gap: what must get to the goal, to it. tool_gap: tool to what it moves, None
        without a tool. progress: the phase's rank (0 reach, 1 grasp or contact, 2 transport, 3 done) plus
        SCALE / (SCALE + way left in cm): hand to object, while it does not move it, and on to the goal.
        """
        return self._recording(episode).states

    def controls(self, episode: Episode) -> tuple[simulation.Vector, simulation.Vector]:
        """What a policy learns from: observations [n_frames, 39], actions [(n_frames - 1) * stride, 4] in -1..1.

        Meta-World's own, without its goal being hidden: hand (3), opening, object (3) and rotation (4), a second object
        likewise, the same a step ago, goal (3); metres. Three shifts of the hand and the closing of the gripper.
        """
        recording = self._recording(episode)
        return np.array([facts.observation for facts in recording.frames]), recording.actions

    def claims(self, state: State) -> tuple[Claim, ...]:
        opening = state["gripper"]
        found = [
            Claim("phase", str(state["phase"])),
            Claim("gripper", "open" if opening >= OPEN else "closed" if opening <= CLOSED else "partly open"),
        ]
        if state["object"] is not None:
            found.append(Claim("contact", "held" if state["held"] else "touched" if state["touched"] else "free"))
            found.append(Claim("reach", _rounded(state["gap"])))
        if state["tool_gap"] is not None:
            found.append(Claim("tool", _rounded(state["tool_gap"])))
        if state["goal_seen"]:  # what no picture shows is not described
            found.append(Claim("goal", _rounded(state["goal_gap"])))
        return tuple(found)

    def holds(self, claim: Claim, state: State) -> bool:
        check = _HOLDS.get(claim.name)
        return check is not None and check(claim.value, state)

    def _recording(self, episode: Episode) -> _Recording:
        name, _, rest = episode.episode_id.partition("_")
        group, _, number = rest.partition("-")
        if name not in TASKS or group not in _PLANS or not number.isdecimal():
            raise DataError(f"episode {episode.episode_id}", "not one of this source", "list its episodes again")
        recording, _ = self._roll(name, group, int(number))
        if recording is None or len(recording.frames) != episode.n_frames:
            raise DataError(f"episode {episode.episode_id}", "was listed with other settings", "build again")
        return recording

    def _roll_out(self, name: str, group: str, number: int) -> tuple[_Recording | None, tuple[str, ...]]:
        """An episode's first draw that is of its kind, and why those before it were not; as kept, where it is."""
        path = self._kept / f"{name}_{group}-{number:04d}.npz" if self._kept else None
        if path and (kept := read_rollout(path)):
            states = _states(kept.frames, TASKS[name], self.fps) if kept.frames else ()
            recording = _Recording(None, kept.frames, states, kept.actions, kept.seed)
            return recording if kept.frames else None, kept.failures
        made, failures = self._simulated(name, group, number)
        if path:
            frames, actions, seed = (made.frames, made.actions, made.seed) if made else ((), np.empty((0, 4)), 0)
            write_rollout(path, StoredRollout(seed, frames, actions, failures))
        return made, failures

    @cached_property
    def _kept(self) -> Path | None:
        if self._keep is None:
            return None
        versions = [version(name) for name in ("metaworld", "mujoco")]
        made_by = [
            dataclasses.asdict(self.config),
            self.seed,
            code_digest("episodes/metaworld.py", "episodes/rollout.py"),
            versions,
        ]
        return self._keep / digest(made_by)[:8]

    def _simulated(self, name: str, group: str, number: int) -> tuple[_Recording | None, tuple[str, ...]]:
        failures: list[str] = []
        with simulation.quiet():
            for draw in range(DRAWS):
                seed = int(digest([self.seed, name, group, number, draw])[:8], 16)
                try:
                    return dataclasses.replace(_PLANS[group](self.config, name, seed), seed=seed), tuple(failures)
                except _OtherKindError as reason:
                    failures.append(str(reason))
        return None, tuple(failures)

    def _paint(self, name: str, env: object) -> Painter:
        # Only one: each holds its task's meshes and textures, and episodes come task by task.
        if self._painter is None or self._painter[0] != name:
            if self._painter is not None:
                self._painter[1].close()
            size = (self.config.width, self.config.height)
            self._painter = name, Painter(env, size, self.config.camera)
        return self._painter[1]


class _OtherKindError(Exception):
    """A draw turned out not as planned."""


def _start(config: MetaworldConfig, name: str, seed: int) -> Rollout:
    scene = Scene(name, TASKS[name].carried, TASKS[name].tool)
    return simulation.start(scene, seed, noise=config.noise, stride=config.stride, limit=config.max_steps)


def _expert(config: MetaworldConfig, name: str, seed: int) -> _Recording:
    rollout = _start(config, name, seed)
    simulation.follow_expert(rollout, settle=SETTLE)
    return _succeeded(rollout, TASKS[name], "the expert did not succeed")


def _failed(config: MetaworldConfig, name: str, seed: int) -> _Recording:
    """The same start as an expert that succeeds, which then stops, misses or lets go."""
    task, rng = TASKS[name], np.random.default_rng([seed, 1])
    begins, _, ends = _expert_times(config, name, seed)
    rollout = _start(config, name, seed)
    manner = str(rng.choice(["stops", "misses", "lets go"] if task.grip else ["stops", "misses"]))
    if manner == "misses":
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.06, 0.12)
        shift = np.zeros(39)
        first = 4 if task.object else 36  # the object in the observation, or the goal
        shift[first : first + 2] = distance * math.cos(angle), distance * math.sin(angle)
        simulation.follow_expert(rollout, until=ends + 2 * SETTLE, shift=shift)
    elif manner == "stops":
        simulation.follow_expert(rollout, until=round(ends * rng.uniform(0.2, 0.95)))
        simulation.stand_still(rollout, 2 * SETTLE, rollout.effort)
    else:
        simulation.follow_expert(rollout, until=begins + round((ends - begins) * rng.uniform(0.1, 0.8)))
        simulation.let_go(rollout, rise=SETTLE)
        simulation.stand_still(rollout, SETTLE, -1.0)
    if any(rollout.succeeded):
        raise _OtherKindError(f"success although the expert {manner}")
    return _recorded(rollout, task)


def _regressing(config: MetaworldConfig, name: str, seed: int) -> _Recording:
    """The same start as an expert that succeeds, which then undoes what it did, and half the time does it again."""
    task, rng = TASKS[name], np.random.default_rng([seed, 1])
    begins, gains, ends = _expert_times(config, name, seed)
    rollout = _start(config, name, seed)
    turns = rng.uniform(gains, max(ends - LAG, gains))
    simulation.follow_expert(rollout, until=round(turns))
    turn = len(rollout.frames)
    if task.grip and rng.random() < 0.5:
        simulation.let_go(rollout, rise=SETTLE)
    else:
        simulation.go_back(rollout, begins if task.grip else begins // 2, rollout.effort)
    undone = len(rollout.frames)
    recovers = rng.random() < 0.5
    if any(rollout.succeeded):
        raise _OtherKindError("success before anything was lost")
    if recovers:
        simulation.follow_expert(rollout, settle=SETTLE)
        recording = _succeeded(rollout, task, "the expert did not recover")
    else:
        simulation.stand_still(rollout, SETTLE, rollout.effort)
        if any(rollout.succeeded):
            raise _OtherKindError("success although all was undone")
        recording = _recorded(rollout, task)
    _check_loss(recording.states[:turn], recording.states[turn:undone])
    return recording


def _left(state: State) -> float:
    """Centimetres from what is carried to the goal, by way of what a tool moves."""
    return float(state["goal_gap"] + (state["tool_gap"] or 0.0))


def _check_loss(before: Sequence[State], after: Sequence[State]) -> None:
    """Raise where undoing neither let go of the object nor moved it back, or the hand where there is no object."""
    fell = max(state["progress"] for state in before) - min((state["progress"] for state in after), default=math.inf)
    moved_back = max(map(_left, after), default=0.0) - min(map(_left, before)) >= GROUND
    loose = [state for state in after if before[-1]["held"] and not state["held"]]
    # A block let go above the right bin falls into it; nothing is lost.
    dropped = bool(loose) and _left(after[-1]) >= _left(loose[0]) - GROUND
    if fell < LOSS or not (moved_back or dropped):
        raise _OtherKindError("too little was lost")


_PLANS: dict[str, Callable[[MetaworldConfig, str, int], _Recording]] = {
    "expert": _expert,
    "failed": _failed,
    "regressing": _regressing,
}


def _expert_times(config: MetaworldConfig, name: str, seed: int) -> tuple[int, int, int]:
    """The steps at which the undisturbed expert first moves the object, has gained ground, and first succeeds."""
    task, rollout = TASKS[name], _start(config, name, seed)
    simulation.follow_expert(rollout, settle=SETTLE)
    ends = rollout.first_success()
    if ends is None:
        raise _OtherKindError("the undisturbed expert did not succeed")
    states = _states(rollout.frames, task, CONTROL_HZ / config.stride)
    under_way = "transport" if task.object else "reach"
    on_the_way = [t for t, state in enumerate(states) if state["phase"] == under_way]
    begins = on_the_way[0] if on_the_way else ends // config.stride
    gains = (t for t in on_the_way if _left(states[begins]) - _left(states[t]) >= 2 * GROUND)
    return begins * config.stride, min(next(gains, begins) * config.stride, ends - 1), ends


def _succeeded(rollout: Rollout, task: Task, problem: str) -> _Recording:
    """The rollout up to its last frame with success."""
    while rollout.frames and not rollout.frames[-1].success:
        rollout.frames.pop()
    if not rollout.frames:
        raise _OtherKindError(problem)
    return _recorded(rollout, task)


def _recorded(rollout: Rollout, task: Task) -> _Recording:
    states = _states(rollout.frames, task, CONTROL_HZ / rollout.stride)
    actions = np.array(rollout.actions[: (len(rollout.frames) - 1) * rollout.stride]).reshape(-1, 4)
    return _Recording(rollout.env, tuple(rollout.frames), states, actions)


# ---- the state of a frame: phase, way left, progress ----


def _phases(frames: Sequence[Facts], task: Task, fps: float) -> list[str]:
    """[T]. The object is under way (transport) from when it moves while touched (held, where it is to be), until
    contact is lost for longer than BRIDGED, or as long as it then glides towards the goal by itself."""
    if not task.object:
        return ["done" if facts.success else "reach" for facts in frames]
    engaged = _bridged([facts.held if task.grip else facts.touched for facts in frames], round(BRIDGED * fps))
    phases: list[str] = []
    rests = frames[0].object  # where the object was when the hand last took hold of it
    for t, facts in enumerate(frames):
        before = frames[t - 1] if t else facts
        glides = (_onward(before) - _onward(facts)) * fps >= GLIDE
        under_way = bool(phases) and phases[-1] == "transport"
        if engaged[t] and not (t and engaged[t - 1]):
            rests = before.object
        if facts.success:
            phases.append("done")
        elif (engaged[t] and (under_way or _cm(facts.object, rests) >= MOVED)) or (under_way and glides):
            phases.append("transport")
        else:
            phases.append(_before_transport(facts, task))
    return phases


def _before_transport(facts: Facts, task: Task) -> str:
    if task.grip:
        return "grasp" if 100 * facts.gap <= NEAR and facts.opening < OPEN else "reach"
    return "contact" if 100 * facts.gap <= CLOSE else "reach"


def _bridged(flags: Sequence[bool], longest: int) -> list[bool]:
    """`flags` with gaps of up to `longest` between two true ones filled."""
    filled, last = list(flags), -1
    for t, flag in enumerate(flags):
        if flag:
            if last >= 0 and t - last - 1 <= longest:
                filled[last:t] = [True] * (t - last)
            last = t
    return filled


def _cm(a: simulation.Vector, b: simulation.Vector) -> float:
    return 100 * float(np.linalg.norm(a - b))


def _onward(facts: Facts) -> float:
    """Centimetres from what is carried to the goal, by way of what a tool moves."""
    return _cm(facts.carried, facts.meets) + 100 * facts.rest


def _states(frames: Sequence[Facts], task: Task, fps: float) -> tuple[State, ...]:
    phases = _phases(frames, task, fps)
    motion = _motion(frames)
    states: list[State] = []
    for t, facts in enumerate(frames):
        left = _onward(facts) if task.object else _cm(facts.hand, facts.goal)
        way = left + (100 * facts.gap if task.object and RANK[phases[t]] < RANK["transport"] else 0.0)
        states.append(
            {
                "phase": phases[t],
                "progress": RANK[phases[t]] + SCALE / (SCALE + way),
                "motion": motion[t],
                "gripper": facts.opening,
                "touched": facts.touched,
                "held": facts.held,
                "success": facts.success,
                "goal_seen": task.seen,
                "hand": _point(facts.hand),
                "object": _point(facts.object) if task.object else None,
                "goal": _point(facts.goal),
                "gap": 100 * facts.gap,
                "tool_gap": _cm(facts.carried, facts.meets) if task.tool else None,
                "goal_gap": 100 * facts.rest if task.tool else left,
            }
        )
    return tuple(states)


def _motion(frames: Sequence[Facts]) -> list[float]:
    """[T], how much moves between a frame and the next, 0..1 of the episode's fastest; the last frame's is 0.

    Hand and object count by the way they go, the gripper as if it opened by 10 cm.
    """
    hand, thing = (np.array([getattr(facts, name) for facts in frames]) for name in ("hand", "object"))
    opening = np.array([facts.opening for facts in frames])
    moved = sum(np.linalg.norm(np.diff(points, axis=0), axis=1) for points in (hand, thing))
    moved = moved + 0.1 * np.abs(np.diff(opening))
    return [float(value) for value in moved / max(float(moved.max(initial=0.0)), 1e-9)] + [0.0]


def _point(metres: simulation.Vector) -> tuple[float, float, float]:
    x, y, z = (100 * float(value) for value in metres)
    return x, y, z


# ---- claims ----


def _rounded(centimetres: float) -> int:
    return round(centimetres / ROUNDING) * ROUNDING


def _near(value: str | int, truth: float | None) -> bool:
    return isinstance(value, int) and truth is not None and abs(value - truth) <= ROUNDING / 2 + 1e-6


_OPENINGS = {
    "closed": (-1.0, CLOSED + SLACK),
    "partly open": (CLOSED - SLACK, OPEN + SLACK),
    "open": (OPEN - SLACK, 2.0),
}
_CONTACTS = {"held": (True,), "touched": (False, True), "free": (False, False)}  # held, and where not: touched

_HOLDS: dict[str, Callable[[str | int, State], bool]] = {
    "phase": lambda value, s: bool(value == s["phase"]),
    "gripper": lambda value, s: value in _OPENINGS and _between(_OPENINGS[str(value)], s["gripper"]),
    "contact": lambda value, s: (
        s["object"] is not None
        and value in _CONTACTS
        and (s["held"], s["touched"])[: len(_CONTACTS[str(value)])] == _CONTACTS[str(value)]
    ),
    "reach": lambda value, s: s["object"] is not None and _near(value, s["gap"]),
    "tool": lambda value, s: _near(value, s["tool_gap"]),
    "goal": lambda value, s: _near(value, s["goal_gap"]),
}


def _between(bounds: tuple[float, float], value: float) -> bool:
    return bounds[0] <= value <= bounds[1]
