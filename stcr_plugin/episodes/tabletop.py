"""`tabletop`: a procedural pick-and-place simulator that renders every frame and knows its true state.

A gripper approaches an object among distractors, grasps it, lifts it, moves it over a goal pad and places it. Other
groups of episodes show what such a demonstration never does; they are for evaluation.
Lengths are centimetres on a table 48 wide (x, left to right) and 24 deep (y, towards the back), z is height.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stcr_plugin.config import settings
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.episodes.tabletop_motions import (
    DEPTH,
    WIDTH,
    Motion,
    Setup,
    Thing,
    Vector,
    chosen_way,
    demonstration,
    place,
    push,
    regress,
)
from stcr_plugin.episodes.tabletop_tasks import (
    NAMING,
    PADS,
    PUSH_OFF,
    TASKS,
    Recording,
    Task,
    Tour,
    is_held,
    motion_of,
    spots_of,
    states_under,
    tasks_of,
)
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

ALIKE = 80.0  # colours of two objects, or of two pads, are at least as far apart (Euclidean, RGB 0..255)
ROUNDING = 3  # claims round distances to multiples of this many centimetres
PHASES = ("approach", "grasp", "lift", "move", "place")

SEEN_COLOURS = {
    "red": (205, 45, 45),
    "green": (50, 160, 65),
    "blue": (45, 85, 205),
    "yellow": (230, 200, 45),
    "purple": (135, 60, 170),
    "brown": (125, 80, 45),
    "pink": (240, 145, 185),
    "black": (40, 40, 45),
    "white": (235, 235, 235),
    "teal": (20, 125, 120),
    "navy": (25, 35, 110),
    "gold": (200, 150, 40),
    "magenta": (210, 50, 150),
    "olive": (110, 120, 40),
}
HELDOUT_COLOURS = {"orange": (240, 130, 30), "cyan": (60, 195, 215), "lime": (165, 220, 60), "maroon": (120, 25, 55)}
SHAPES = ("cube", "ball", "can", "pyramid")
HELDOUT_SHAPES = ("cone", "cross", "ring")


@settings
class TabletopConfig:
    """How many episodes each group has, and how they look.

    `seen` episodes have the training colours and layouts, `heldout` ones only others. A layout is the table cell of
    the object with the cell of the goal; HELDOUT_LAYOUTS are held out. The other groups have the training colours and
    layouts, save those named *_heldout. An episode of `tasks`, `naming` or `push_off` has several tasks with a text and
    a progress each; their pairs are made by `pairs.tasks: opposed`.

    Attributes:
        seen: Episodes like those of training.
        heldout: Episodes with other colours and layouts.
        regress: The task is undone for a while (carried back, put down again, dropped, taken off the pad) and then
            done after all, or left undone.
        shapes: Objects of HELDOUT_SHAPES.
        push: The object is pushed along the table to the pad and never grasped.
        take_off: The object begins on the pad and is taken off it, the reverse of the other tasks.
        tasks: One object that is put on the pad, taken off it, pushed onto it or pushed off it; the tasks are put on or
            push to, and take off.
        naming: Two objects and two pads, of which a task names one each. All tasks of an episode are put on, or take
            off: what is done under one name is undone under the other.
        tasks_heldout: As `tasks`, with the colours and layouts of `heldout`.
        naming_heldout: As `naming`, with the colours and layouts of `heldout`.
        push_off: As the pushes of `tasks`; the task is to push the object off the pad, which no other group has.
        failing: Share of the episodes of these five groups in which the object is dropped, brought back or pushed
            only part of the way; half of them do the task after all.
        size: Width and height of a picture in pixels.
        fps: Frames per second.
        distractors: The fewest and the most that are tried; one that would touch another thing is left out, so that
            of (1, 2) a third of the scenes keep none.
        idle_seconds: At most this long nothing moves at an episode's end.
    """

    kind: Literal["tabletop"] = "tabletop"
    seen: int = 400
    heldout: int = 60
    regress: int = 0
    shapes: int = 0
    push: int = 0
    take_off: int = 0
    tasks: int = 0
    naming: int = 0
    tasks_heldout: int = 0
    naming_heldout: int = 0
    push_off: int = 0
    failing: float = 0.0
    size: int = 84
    fps: float = 10.0
    distractors: tuple[int, int] = (1, 2)
    idle_seconds: float = 1.0

    def __post_init__(self) -> None:
        if min(getattr(self, group) for group in _GROUPS) < 0 or self.size < 28 or self.fps <= 0:
            raise ValueError(f"{', '.join(_GROUPS)} must not be negative, size at least 28 pixels, fps above 0")
        if not 0 <= self.distractors[0] <= self.distractors[1] <= 6:
            raise ValueError("distractors reads [fewest, most], from 0 to 6")
        if not 0 <= self.failing <= 1:
            raise ValueError(f"failing is a share from 0 to 1, got {self.failing}")


@dataclass(frozen=True)
class _Camera:
    """Scale in pixels per centimetre; tilt is the share of depth that shows as height; roll in radians."""

    scale: float
    mirror: float
    tilt: float
    roll: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Visible:
    """One thing in a picture. `share` of it is visible, 0..1: not covered and not cut off; `pixels` are those."""

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    share: float
    pixels: float


@dataclass(frozen=True)
class Spot:
    """Where a picture shows a thing that a task names, or the hand: (right, down) as shares of its side.

    `shares` are 0..1: of an object whether it stands on a pad and whether it is held; of the hand how far its gripper
    is open and whether it holds something; of a pad none.
    """

    role: Literal["object", "pad", "hand"]
    colour: str
    at: tuple[float, float]
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Scene(Motion):
    thing: Thing
    goal: Thing
    target: tuple[float, float]  # where the object is to be in the end
    distractors: tuple[Thing, ...]
    camera: _Camera
    wall: tuple[int, int, int]
    table: tuple[int, int, int]
    arm: tuple[int, int, int]
    shoulder: tuple[float, float]
    texture_seed: int
    closed: float  # half the distance between the fingers of the closed gripper
    others: tuple[Thing, ...] = ()  # further objects that may move, as `beside`
    pads: tuple[Thing, ...] = ()  # further pads
    tasks: tuple[Task, ...] = ()  # of an episode that serves several


class TabletopSource:
    """EpisodeSource of simulated demonstrations; the same seed gives the same pictures and states."""

    kind = "tabletop"

    def __init__(self, config: TabletopConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def episodes(self) -> Iterator[Episode | Exclusion]:
        for group, rules in _GROUPS.items():
            for index in range(getattr(self.config, group)):
                episode_id = f"{group}-{index:05d}"
                scene = self._scene(group, episode_id)
                task = rules.task.format(thing=_named(scene.thing), pad=scene.goal.colour)
                length = len(scene.phases)
                texts = [one.text(_objects(scene), _pads(scene)) for one in scene.tasks] or [task]
                fps, whole = self.config.fps, tuple(Segment(text, 0, length) for text in texts)
                yield Episode(self.kind, episode_id, texts[0], fps=fps, n_frames=length, segments=whole, group=group)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        scene = self._scene(episode.group, episode.episode_id)
        backdrop = _backdrop(scene, self.config.size)
        for index in indices:
            yield np.asarray(_painted(scene, backdrop, index).reduce(2), dtype=np.uint8)

    def states(self, episode: Episode) -> Sequence[State]:
        """Keys: phase, motion (0..1), gripper (0 closed..1 open), hand, object, goal ((x, y, z) in cm), rest_height.

        goal is where the object is to end: on the pad; of a task that takes it off the pad, where the demonstration
        puts it. Also hand_at, object_at, goal_at: where each is in the picture, (right, down) as shares of its
        side. Also progress: the share of the work that is done, 1 where the hand has left the finished task; see
        `with_work`. It is below 0 where more is to do than at the start.

        Where an episode serves several tasks, tasks has what is different under each text, see `types.under`; the
        state itself is that of the first task. Phase, goal and progress are then as `tabletop_tasks.TaskStates` has
        them, and goal_at is the pad.
        """
        scene = self._scene(episode.group, episode.episode_id)
        motion, at = _motion(scene), _project(scene, scene.hand, 0.5)
        shared: list[State] = [
            {
                "phase": scene.phases[t],
                "motion": float(motion[t]),
                "gripper": float(scene.opening[t]),
                "hand": tuple(float(v) for v in scene.hand[t]),
                "hand_at": at[t],
            }
            for t in range(len(scene.phases))
        ]
        if not scene.tasks:
            goal = np.array([(*scene.target, scene.thing.radius)] * len(shared))
            of_task = _of_task(scene, scene.thing, scene.carried, goal=goal, pad=scene.target, progress=scene.progress)
            return [{**both, **one} for both, one in zip(shared, of_task, strict=True)]
        near = _GROUPS[episode.group].near
        texts = {task.text(_objects(scene), _pads(scene)): _of_named(scene, task, near) for task in scene.tasks}
        first = next(iter(texts.values()))
        return [
            {**both, **first[t], "tasks": {text: one[t] for text, one in texts.items()}}
            for t, both in enumerate(shared)
        ]

    def claims(self, state: State) -> tuple[Claim, ...]:
        return (
            Claim("phase", str(state["phase"])),
            Claim("gripper", "open" if state["gripper"] > 0.5 else "closed"),
            Claim("reach", _rounded(math.dist(state["hand"], state["object"]))),
            Claim("goal", _rounded(math.dist(state["object"][:2], state["goal"][:2]))),
            Claim("height", _rounded(state["object"][2] - state["rest_height"])),
        )

    def holds(self, claim: Claim, state: State) -> bool:
        check = _HOLDS.get(claim.name)
        return check is not None and check(claim.value, state)

    def things(self, episode: Episode, index: int) -> tuple[Visible, ...]:
        """The things in the picture of frame `index`: the objects, the pads, then the distractors."""
        return _things(self._scene(episode.group, episode.episode_id), index, self.config.size)

    def spots(self, episode: Episode, indices: Sequence[int]) -> list[tuple[Spot, ...]]:
        """The objects, the pads and the hand in each of these frames."""
        scene = self._scene(episode.group, episode.episode_id)
        tracks, pads = _tracks(scene), _pads(scene)
        hand_at = _project(scene, scene.hand, 0.5)
        objects_at = [_project(scene, track, 0.5) for track in tracks]
        pads_at = _project(scene, np.array([(pad.x, pad.y, 0.0) for pad in pads]), 0.5)
        held = [is_held(scene, track) for track in tracks]
        shown = []
        for t in indices:
            spots = [
                Spot(
                    "object",
                    thing.colour,
                    at[t],
                    (any(_stands_on(pad, thing, track[t]) for pad in pads), bool(holds[t])),
                )
                for thing, track, at, holds in zip(_objects(scene), tracks, objects_at, held, strict=True)
            ]
            spots += [Spot("pad", pad.colour, at) for pad, at in zip(pads, pads_at, strict=True)]
            shown.append(
                (*spots, Spot("hand", "", hand_at[t], (float(scene.opening[t]), any(bool(holds[t]) for holds in held))))
            )
        return shown

    def _scene(self, group: str, episode_id: str) -> _Scene:
        text = f"{self.seed}/{group}/{episode_id}"
        return _scene(self.config, group, int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def _near(value: str | int, truth: float) -> bool:
    return isinstance(value, int) and abs(value - truth) <= ROUNDING / 2 + 1e-6


def _stands_on(pad: Thing, thing: Thing, at: Vector) -> bool:
    """Whether `thing`, whose centre is `at` [3], is on the middle of `pad`, within 1.5 cm of it."""
    return math.dist(at[:2], (pad.x, pad.y)) < 1.5 and bool(at[2] - thing.radius < 1.0)


def _gap(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


_HOLDS: dict[str, Callable[[str | int, State], bool]] = {
    "phase": lambda value, s: bool(value == s["phase"]),
    "gripper": lambda value, s: value == ("closed" if s["gripper"] <= 0.5 else "open"),
    "reach": lambda value, s: _near(value, _gap(s["hand"], s["object"])),
    "goal": lambda value, s: _near(value, _gap(s["object"][:2], s["goal"][:2])),
    "height": lambda value, s: _near(value, s["object"][2] - s["rest_height"]),
}


def _rounded(centimetres: float) -> int:
    return round(centimetres / ROUNDING) * ROUNDING


@lru_cache(1024)  # every step of a build asks for the same ones
def _scene(config: TabletopConfig, group: str, seed: int) -> _Scene:
    rules, rng = _GROUPS[group], np.random.default_rng(seed)
    if rules.recordings:
        return _shared_scene(config, rules, rng)
    colours = _colours(rules)
    thing_cell, goal_cell = chosen_way(rng, heldout=rules.heldout)
    thing_colour, goal_colour = rng.choice(colours, 2, replace=False)
    radius = float(rng.uniform(3.2, 4.4))
    shape = str(rng.choice(rules.shapes))
    # Each draw in its turn: the order decides every later one.
    thing = _thing(shape, _coloured(thing_colour, rng), radius, at=place(thing_cell, rng))
    goal = _thing("pad", _coloured(goal_colour, rng), float(rng.uniform(5.0, 6.5)), at=place(goal_cell, rng))
    distractors = _distractors(config, (thing, goal), colours, rng=rng)
    look = _look(rng)
    target = (thing.x, thing.y) if rules.off_the_pad else (goal.x, goal.y)
    begins = replace(thing, x=goal.x, y=goal.y) if rules.off_the_pad else thing
    setup = Setup(config.fps, config.idle_seconds, thing=begins, goal=goal, target=target, rng=rng)
    moved = rules.plan(setup)
    standing = [other for other in distractors if not rules.clear or _clear(other, thing.radius, moved.carried)]
    return _Scene(
        **vars(moved), **look, thing=thing, goal=goal, target=target, distractors=tuple(standing), **_frame(rng),
        closed=rules.closed or thing.radius + 0.4,
    )  # fmt: skip


def _shared_scene(config: TabletopConfig, rules: _Group, rng: np.random.Generator) -> _Scene:
    """A scene whose recording serves several tasks, with as many pads as objects."""
    fails = bool(rng.random() < config.failing)
    recording = rules.recordings[int(rng.integers(len(rules.recordings)))]
    number, colours = len(recording.begin), _colours(rules)
    radius, wide = (rng.uniform(3.2, 4.4), rng.uniform(5.0, 6.5)) if number == 1 else (
        rng.uniform(3.0, 3.6), rng.uniform(4.6, 5.4)
    )  # fmt: skip
    at = spots_of(recording, rng, radius=float(radius), pads=float(wide), heldout=rules.heldout)
    named = _distinct(colours, number, rng)
    things = tuple(
        _thing(str(rng.choice(rules.shapes)), _coloured(named[item], rng), float(radius), at=at[spot])
        for item, spot in enumerate(recording.begin)
    )
    pads = tuple(
        _thing("pad", _coloured(colour, rng), float(wide), at=at[spot])
        for colour, spot in zip(named[number:], PADS, strict=False)
    )
    distractors = _distractors(config, (*things, *pads), colours, rng=rng) if number == 1 else []
    look = _look(rng)
    item, spot = recording.moves[0]
    setup = Setup(config.fps, config.idle_seconds, thing=things[item], goal=pads[0], target=at[spot], rng=rng)
    moved = motion_of(Tour(recording, at, things=things, fails=fails, setup=setup))
    return _Scene(
        **vars(moved), **look, thing=things[0], others=things[1:], goal=pads[0], pads=pads[1:], target=at[spot],
        distractors=tuple(other for other in distractors if _clear(other, float(radius), moved.carried)),
        **_frame(rng), closed=0.6 if recording.pushes else float(radius) + 0.4, tasks=tasks_of(recording, rng),
    )  # fmt: skip


def _colours(rules: _Group) -> list[str]:
    return list(HELDOUT_COLOURS if rules.heldout else SEEN_COLOURS)


def _distinct(colours: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """Different colours of `number` objects and as many pads; those of one role are not alike."""
    known = SEEN_COLOURS | HELDOUT_COLOURS
    while True:
        drawn = [str(name) for name in rng.choice(list(colours), 2 * number, replace=False)]
        roles = drawn[:number], drawn[number:]
        if all(math.dist(known[a], known[b]) >= ALIKE for role in roles for a in role for b in role if a != b):
            return drawn


def _distractors(
    config: TabletopConfig, things: Sequence[Thing], colours: Sequence[str], *, rng: np.random.Generator
) -> list[Thing]:
    """Things that stand apart from `things`, none in the colour of the first one."""
    others = [name for name in colours if name != things[0].colour]
    distractors: list[Thing] = []
    for _ in range(int(rng.integers(config.distractors[0], config.distractors[1] + 1))):
        x, y = float(rng.uniform(4, WIDTH - 4)), float(rng.uniform(2, DEPTH - 2))
        taken = [*things, *distractors]
        shape = str(rng.choice(SHAPES))
        other = _thing(shape, _coloured(rng.choice(others), rng), float(rng.uniform(2.4, 3.6)), at=(x, y))
        if all(math.dist((x, y), (t.x, t.y)) > t.radius + other.radius + 2 for t in taken):
            distractors.append(other)
    return distractors


def _look(rng: np.random.Generator) -> dict[str, Any]:
    """Colours of wall, table and arm, and the camera."""
    shade = rng.integers(-12, 13, 3)
    wall = _colour(np.array([205, 210, 215]) + shade)
    table = _colour(np.array([176, 150, 120]) + rng.integers(-16, 17) + rng.integers(-8, 9, 3))
    arm = _colour(np.full(3, rng.integers(95, 150)) + rng.integers(-8, 9, 3))
    camera = _Camera(
        scale=float(rng.uniform(0.94, 1.08)) / WIDTH * 0.92,
        mirror=float(rng.choice([-1.0, 1.0])),
        tilt=float(rng.uniform(0.5, 0.7)),
        roll=float(rng.uniform(-0.05, 0.05)),
        shift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.04, 0.04))),
    )
    return {"wall": wall, "table": table, "arm": arm, "camera": camera}


def _frame(rng: np.random.Generator) -> dict[str, Any]:
    """Where the arm comes from, and the grain of the table."""
    return {
        "shoulder": (float(rng.uniform(0, WIDTH)), float(rng.uniform(50, 65))),
        "texture_seed": int(rng.integers(2**31)),
    }


def _objects(scene: _Scene) -> tuple[Thing, ...]:
    return scene.thing, *scene.others


def _tracks(scene: _Scene) -> tuple[Vector, ...]:
    return scene.carried, *scene.beside


def _pads(scene: _Scene) -> tuple[Thing, ...]:
    return scene.goal, *scene.pads


def _of_task(
    scene: _Scene, thing: Thing, track: Vector, *, goal: Vector, pad: tuple[float, float], progress: Vector
) -> list[dict[str, Any]]:
    """What the states [T] of one task have: its object, its goal [T, 3], how much is done, and where its pad is."""
    object_at = _project(scene, track, 0.5)
    goal_at = _project(scene, np.array([(*pad, thing.radius)] * len(track)), 0.5)
    return [
        {
            "progress": float(progress[t]),
            "object": tuple(float(v) for v in track[t]),
            "goal": tuple(float(v) for v in goal[t]),
            "rest_height": thing.radius,
            "object_at": object_at[t],
            "goal_at": goal_at[t],
        }
        for t in range(len(track))
    ]


def _of_named(scene: _Scene, task: Task, near: float) -> list[dict[str, Any]]:
    """As `_of_task`, of a task that names its object and pad, with the phase that each frame is in under it."""
    thing, pad, track = _objects(scene)[task.thing], _pads(scene)[task.pad], _tracks(scene)[task.thing]
    found = states_under(task, scene, thing=thing, pad=pad, near=near)
    listed = _of_task(scene, thing, track, goal=found.goal, pad=(pad.x, pad.y), progress=found.progress)
    return [{**one, "phase": phase} for one, phase in zip(listed, found.phases, strict=True)]


def _named(thing: Thing) -> str:
    """A thing as a task text names it, "red can" or "blue pad"."""
    return f"{thing.colour} {thing.shape}"


def _thing(shape: str, coloured: tuple[str, tuple[int, int, int]], radius: float, *, at: tuple[float, float]) -> Thing:
    return Thing(shape=shape, colour=coloured[0], rgb=coloured[1], radius=radius, x=at[0], y=at[1])


def _clear(other: Thing, radius: float, carried: Vector) -> bool:
    """Whether an object of `radius` that moves along `carried` [T, 3] never runs into `other`."""
    low = carried[carried[:, 2] - radius < 2 * other.radius]
    return bool((np.hypot(low[:, 0] - other.x, low[:, 1] - other.y) > radius + other.radius + 1).all())


def _colour(channels: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in channels)
    return red, green, blue


def _coloured(name: Any, rng: np.random.Generator) -> tuple[str, tuple[int, int, int]]:
    """A colour's name and one of its shades, since no two red things are the same red."""
    rgb = np.clip(np.array((SEEN_COLOURS | HELDOUT_COLOURS)[str(name)]) + rng.integers(-22, 23, 3), 0, 255)
    red, green, blue = rgb.tolist()
    return str(name), (red, green, blue)


@dataclass(frozen=True)
class _Group:
    """A population of episodes.

    Attributes:
        clear: Distractors that the object would run into are left out.
        closed: Half the distance between closed fingers that hold nothing.
        heldout: Colours and layouts are those never trained on.
        recordings: Of which each episode shows one, and whose tasks it serves; `task` and `plan` do not count then.
        near: cm next to an object that count as reaching it, see `tabletop_tasks.progress`.
    """

    task: str = "put the {thing} on the {pad} pad"
    plan: Callable[[Setup], Motion] = demonstration
    shapes: tuple[str, ...] = SHAPES
    off_the_pad: bool = False
    clear: bool = False
    closed: float | None = None
    heldout: bool = False
    recordings: tuple[Recording, ...] = ()
    near: float = 30.0


_GROUPS: Mapping[str, _Group] = {
    "seen": _Group(),
    "heldout": _Group(heldout=True),
    "regress": _Group(plan=regress, clear=True),
    "shapes": _Group(shapes=HELDOUT_SHAPES),
    "push": _Group("push the {thing} to the {pad} pad", push, clear=True, closed=0.6),
    "take_off": _Group("take the {thing} off the {pad} pad", off_the_pad=True, clear=True),
    "tasks": _Group(recordings=TASKS),
    "naming": _Group(recordings=NAMING, near=12.0),
    "tasks_heldout": _Group(recordings=TASKS, heldout=True),
    "naming_heldout": _Group(recordings=NAMING, near=12.0, heldout=True),
    "push_off": _Group(recordings=PUSH_OFF),
}

TABLETOP_INVERSES = InverseTasks({_GROUPS["seen"].task: _GROUPS["take_off"].task})


def _motion(scene: _Scene) -> Vector:
    """[T], how much moves between a frame and the next, 0..1 of the episode's fastest; the last frame's is 0."""
    moved = np.linalg.norm(np.diff(scene.hand, axis=0), axis=1) + 4.0 * np.abs(np.diff(scene.opening))
    return np.append(moved / moved.max(), 0.0)


# ---- rendering: painter's algorithm with PIL at twice the size, then a box filter down ----


def _project(scene: _Scene, points: Vector, size: float) -> list[tuple[float, float]]:
    """Points [n, 3] in cm to pixels of a `size` picture drawn at twice its size."""
    camera, side = scene.camera, 2.0 * size
    x = camera.mirror * (points[:, 0] - WIDTH / 2) * (1 - 0.006 * points[:, 1])
    z = points[:, 2] + camera.tilt * points[:, 1]
    cos, sin = math.cos(camera.roll), math.sin(camera.roll)
    u = (cos * x - sin * z) * camera.scale + 0.5 + camera.shift[0]
    v = 0.88 - (sin * x + cos * z) * camera.scale + camera.shift[1]
    return [(a * side, b * side) for a, b in zip(u.tolist(), v.tolist(), strict=True)]


def _turned(corner: tuple[float, float], quarters: int) -> tuple[float, float]:
    """A point (x, z) after `quarters` quarter turns to the left."""
    x, z = corner
    for _ in range(quarters):
        x, z = -z, x
    return x, z


_TURN = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.zeros(14), np.sin(_TURN)], axis=1)
_DISC = np.stack([np.cos(_TURN), np.sin(_TURN), np.zeros(14)], axis=1)
_LOOP = np.concatenate([_CIRCLE, _CIRCLE[:1]])  # closed, so that the table shows through a ring's hole
_TRIANGLE = [[-0.95, 0, -0.9], [0.95, 0, -0.9], [0, 0, 1.3]]
_STRIPE = [[-0.45, 0, -1.0], [-0.15, 0, -1.0], [0, 0, 1.3]]
_ARM, _TIP = 0.35, 1.0
_QUARTER = [(_ARM, _ARM), (_ARM, _TIP), (-_ARM, _TIP), (-_ARM, _ARM)]
_PLUS = [[x, 0, z] for turn in range(4) for x, z in [_turned(corner, turn) for corner in _QUARTER]]
# Faces of each shape as unit offsets (x, y, z) from its centre, with the brightness of the face.
_FACES: dict[str, list[tuple[Vector, float]]] = {
    "cube": [
        (np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], dtype=float), 1.2),
        (np.array([[-1, -1, -1], [1, -1, -1], [1, -1, 1], [-1, -1, 1]], dtype=float), 0.9),
    ],
    "ball": [(_CIRCLE, 1.0), (_CIRCLE * 0.4 + np.array([-0.3, 0, 0.35]), 1.3)],
    "can": [
        (np.array([[-0.8, 0, -1], [0.8, 0, -1], [0.8, 0, 1], [-0.8, 0, 1]], dtype=float), 0.85),
        (_DISC * 0.8 + np.array([0, 0, 1.0]), 1.2),
    ],
    "pyramid": [
        (np.array([[-1, -1, -1], [1, -1, -1], [0, 0, 1.2]], dtype=float), 1.0),
        (np.array([[1, -1, -1], [1, 1, -1], [0, 0, 1.2]], dtype=float), 0.75),
    ],
    "cone": [(_DISC * 0.95 + np.array([0, 0, -0.9]), 0.8), (np.array(_TRIANGLE), 1.0), (np.array(_STRIPE), 1.25)],
    "cross": [(np.array(_PLUS), 1.0)],
    "ring": [(np.concatenate([_LOOP, _LOOP[::-1] * 0.5]), 1.0)],
    "pad": [(_DISC, 1.0), (_DISC * 0.6, 1.2)],
}


def _shaded(colour: tuple[int, int, int], brightness: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(channel * brightness)) for channel in colour)
    return red, green, blue


class _Brush:
    """Draws the parts of a scene on a picture of twice its size."""

    def __init__(self, scene: _Scene, picture: Any) -> None:
        from PIL import ImageDraw

        self.scene, self.size, self.draw = scene, picture.width // 2, ImageDraw.Draw(picture)

    def polygon(self, corners: Any, colour: tuple[int, int, int], brightness: float = 1.0) -> None:
        """One face of corners [n, 3] in cm."""
        spots = _project(self.scene, np.array(corners), self.size)
        self.draw.polygon(spots, fill=_shaded(colour, brightness))

    def thing(self, thing: Thing, centre: Vector) -> None:
        for offsets, brightness in _FACES[thing.shape]:
            self.polygon(centre + offsets * thing.radius, thing.rgb, brightness)

    def arm(self, hand: Vector, opening: float) -> None:
        scene = self.scene
        reach = scene.closed + 3.0 * opening  # half the distance between the fingers
        x, y, z = hand.tolist()
        shoulder = (*scene.shoulder[:1], y, scene.shoulder[1])
        wrist, anchor = _project(scene, np.array([[x, y, z + 6.0], shoulder]), self.size)
        width = max(2, round(2 * self.size * scene.camera.scale * 3.2))
        self.draw.line([anchor, wrist], fill=scene.arm, width=width)
        palm = [[x - reach - 0.8, y, z + 3.2], [x + reach + 0.8, y, z + 3.2], [x + 2, y, z + 6.5], [x - 2, y, z + 6.5]]
        self.polygon(palm, scene.arm, 0.7)
        for side in (-1.0, 1.0):
            inner, outer = x + side * reach, x + side * (reach + 1.8)
            finger = [[inner, y, z + 4], [outer, y, z + 4], [outer, y, z - 2.5], [inner, y, z - 2.5]]
            self.polygon(finger, scene.arm, 0.45)


def _backdrop(scene: _Scene, size: int) -> Any:
    """What never changes in an episode: wall, table with its grain, the pads."""
    from PIL import Image

    side = 2 * size
    picture = Image.new("RGB", (side, side), scene.wall)
    brush = _Brush(scene, picture)
    brush.polygon([[-30.0, -14, 0], [90, -14, 0], [90, DEPTH + 6, 0], [-30, DEPTH + 6, 0]], scene.table)
    grain = np.random.default_rng(scene.texture_seed).normal(0, 5, (side // 4, side // 4, 1))
    noise = np.kron(grain, np.ones((4, 4, 1)))
    speckled = np.clip(np.asarray(picture, dtype=np.float64)[: noise.shape[0], : noise.shape[1]] + noise, 0, 255)
    picture.paste(Image.fromarray(speckled.astype(np.uint8)), (0, 0))
    for pad in _pads(scene):
        brush.thing(pad, np.array([pad.x, pad.y, 0.0]))
    return picture


def _painted(scene: _Scene, backdrop: Any, t: int) -> Any:
    """The picture at twice its size."""
    picture = backdrop.copy()
    brush = _Brush(scene, picture)
    spots = [(thing, np.array([thing.x, thing.y, thing.radius])) for thing in scene.distractors]
    moving = [(thing, track[t]) for thing, track in zip(_objects(scene), _tracks(scene), strict=True)]
    for thing, centre in sorted([*spots, *moving], key=lambda item: -item[1][1]):
        shadow = np.array([centre[0], centre[1], 0.0]) + _DISC * thing.radius * 0.9
        brush.polygon(shadow, scene.table, 0.72)
        brush.thing(thing, centre)
    brush.arm(scene.hand[t], float(scene.opening[t]))
    return picture


def _things(scene: _Scene, t: int, size: int) -> tuple[Visible, ...]:
    """What is seen of each thing: the pixels that change where it is painted in another colour."""
    backdrop = _backdrop(scene, size)
    picture = np.asarray(_painted(scene, backdrop, t))
    found = []
    for thing, spot, changed in _repaintings(scene, t):
        behind = _backdrop(changed, size) if thing.shape == "pad" else backdrop
        repainted = np.asarray(_painted(changed, behind, t))
        pixels = int((picture != repainted).any(axis=-1).sum())
        area = _area(scene, thing, spot, size=size)  # a rounded edge may make it a pixel smaller than what is seen
        found.append(Visible(thing.colour, thing.shape, thing.rgb, share=min(1.0, pixels / area), pixels=pixels / 4))
    return tuple(found)


def _repaintings(scene: _Scene, t: int) -> Iterator[tuple[Thing, Vector, _Scene]]:
    """Each thing in frame `t`, its place [3], and the scene with the thing in another colour."""

    def other(thing: Thing) -> Thing:
        red, green, blue = thing.rgb
        return replace(thing, rgb=(255 - red, 255 - green, 255 - blue))

    def among(field: str) -> Iterator[tuple[int, Thing, _Scene]]:
        listed = getattr(scene, field)
        for number, thing in enumerate(listed):
            changed: dict[str, Any] = {field: (*listed[:number], other(thing), *listed[number + 1 :])}
            yield number, thing, replace(scene, **changed)

    yield scene.thing, scene.carried[t], replace(scene, thing=other(scene.thing))
    for number, thing, changed in among("others"):
        yield thing, scene.beside[number][t], changed
    yield scene.goal, np.array([scene.goal.x, scene.goal.y, 0.0]), replace(scene, goal=other(scene.goal))
    for _, pad, changed in among("pads"):
        yield pad, np.array([pad.x, pad.y, 0.0]), changed
    for _, thing, changed in among("distractors"):
        yield thing, np.array([thing.x, thing.y, thing.radius]), changed


def _area(scene: _Scene, thing: Thing, centre: Vector, *, size: int) -> int:
    """How many pixels of the doubled picture the thing covers on its own, those beyond the picture's edge included."""
    from PIL import Image, ImageDraw

    side = 2 * size
    canvas = Image.new("1", (side, side))
    draw = ImageDraw.Draw(canvas)
    ((x, y),) = _project(scene, centre[None], size)
    for offsets, _ in _FACES[thing.shape]:
        corners = _project(scene, centre + offsets * thing.radius, size)
        draw.polygon([(u - x + size, v - y + size) for u, v in corners], fill=1)
    return int(np.asarray(canvas).sum())
