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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stcr_plugin.config import settings
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

Vector = npt.NDArray[np.float64]

WIDTH, DEPTH = 48.0, 24.0
HOVER = 14.0  # height of the hand's travel above what it goes to
GRASP = 4.0  # opening or closing the gripper counts as this many centimetres of the hand's way
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
LAYOUT_COLUMNS, LAYOUT_ROWS = 3, 2
# Ways from the object's cell to the goal's, (column, row), that are held out: each with its mirror image, as a camera
# may mirror the scene; as many goals in the back row, which is harder to see, as in front, as among the other ways.
HELDOUT_LAYOUTS = frozenset(
    {
        ((1, 0), (0, 1)), ((1, 0), (2, 1)),
        ((0, 0), (1, 0)), ((2, 0), (1, 0)),
        ((0, 1), (1, 1)), ((2, 1), (1, 1)),
        ((0, 1), (2, 0)), ((2, 1), (0, 0)),
    }
)  # fmt: skip


@settings
class TabletopConfig:
    """How many episodes each group has, and how they look.

    `seen` episodes have the training colours and layouts, `heldout` ones only others. A layout is the table cell of
    the object with the cell of the goal; HELDOUT_LAYOUTS are held out. The other groups have the training colours and
    layouts, and are for evaluation.

    Attributes:
        seen: Episodes like those of training.
        heldout: Episodes with other colours and layouts.
        regress: The task is undone for a while (carried back, put down again, dropped, taken off the pad) and then
            done after all, or left undone.
        shapes: Objects of HELDOUT_SHAPES.
        push: The object is pushed along the table to the pad and never grasped.
        take_off: The object begins on the pad and is taken off it, the reverse of the other tasks.
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
    size: int = 84
    fps: float = 10.0
    distractors: tuple[int, int] = (1, 2)
    idle_seconds: float = 1.0

    def __post_init__(self) -> None:
        if min(getattr(self, group) for group in _GROUPS) < 0 or self.size < 28 or self.fps <= 0:
            raise ValueError(f"{', '.join(_GROUPS)} must not be negative, size at least 28 pixels, fps above 0")
        if not 0 <= self.distractors[0] <= self.distractors[1] <= 6:
            raise ValueError("distractors reads [fewest, most], from 0 to 6")


@dataclass(frozen=True)
class _Thing:
    shape: str
    colour: str
    rgb: tuple[int, int, int]
    radius: float
    x: float
    y: float


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
class _Leg:
    """A straight or bent way of the hand to a waypoint `to`. The object stays, comes along, or falls on the table.

    left: how many centimetres of work are left at its end, see `_way`.
    """

    phase: str
    seconds: float
    to: Vector
    opening: float
    thing: Literal["stays", "comes", "falls"] = "stays"
    left: float = 0.0


@dataclass(frozen=True)
class _Motion:
    """Everything that moves in an episode of T frames, and its progress."""

    phases: tuple[str, ...]
    hand: Vector  # [T, 3] cm
    opening: Vector  # [T] 0 closed .. 1 open
    carried: Vector  # [T, 3] cm, where the object is
    progress: Vector  # [T], see TabletopSource.states


@dataclass(frozen=True)
class _Scene(_Motion):
    thing: _Thing
    goal: _Thing
    target: tuple[float, float]  # where the object is to be in the end
    distractors: tuple[_Thing, ...]
    camera: _Camera
    wall: tuple[int, int, int]
    table: tuple[int, int, int]
    arm: tuple[int, int, int]
    shoulder: tuple[float, float]
    texture_seed: int
    closed: float  # half the distance between the fingers of the closed gripper


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
                task = rules.task.format(thing=f"{scene.thing.colour} {scene.thing.shape}", pad=scene.goal.colour)
                length = len(scene.phases)
                fps, whole = self.config.fps, (Segment(task, 0, length),)
                yield Episode(self.kind, episode_id, task, fps=fps, n_frames=length, segments=whole, group=group)

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
        `_way`. It is below 0 where more is to do than at the start.
        """
        scene = self._scene(episode.group, episode.episode_id)
        motion = _motion(scene)
        goal = (*scene.target, scene.thing.radius)
        at = {
            "hand_at": _project(scene, scene.hand, 0.5),
            "object_at": _project(scene, scene.carried, 0.5),
            "goal_at": _project(scene, np.array([goal] * len(scene.phases)), 0.5),
        }
        return [
            {
                "phase": scene.phases[t],
                "motion": float(motion[t]),
                "progress": float(scene.progress[t]),
                "gripper": float(scene.opening[t]),
                "hand": tuple(float(v) for v in scene.hand[t]),
                "object": tuple(float(v) for v in scene.carried[t]),
                "goal": goal,
                "rest_height": scene.thing.radius,
                **{name: spots[t] for name, spots in at.items()},
            }
            for t in range(len(scene.phases))
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
        """The things in the picture of frame `index`: the object, the pad, then the distractors."""
        return _things(self._scene(episode.group, episode.episode_id), index, self.config.size)

    def _scene(self, group: str, episode_id: str) -> _Scene:
        text = f"{self.seed}/{group}/{episode_id}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        return _scene(self.config, group, np.random.default_rng(seed))


def _near(value: str | int, truth: float) -> bool:
    return isinstance(value, int) and abs(value - truth) <= ROUNDING / 2 + 1e-6


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


def _scene(config: TabletopConfig, group: str, rng: np.random.Generator) -> _Scene:
    rules = _GROUPS[group]
    colours = list(HELDOUT_COLOURS if group == "heldout" else SEEN_COLOURS)
    thing_cell, goal_cell = _layout(group, rng)
    thing_colour, goal_colour = rng.choice(colours, 2, replace=False)
    radius = float(rng.uniform(3.2, 4.4))
    shape = str(rng.choice(rules.shapes))
    # Each draw in its turn: the order decides every later one.
    thing = _thing(shape, _coloured(thing_colour, rng), radius, at=_place(thing_cell, rng))
    goal = _thing("pad", _coloured(goal_colour, rng), float(rng.uniform(5.0, 6.5)), at=_place(goal_cell, rng))
    others = [name for name in colours if name != thing.colour]
    distractors: list[_Thing] = []
    for _ in range(int(rng.integers(config.distractors[0], config.distractors[1] + 1))):
        x, y = float(rng.uniform(4, WIDTH - 4)), float(rng.uniform(2, DEPTH - 2))
        taken = [thing, goal, *distractors]
        shape = str(rng.choice(SHAPES))
        other = _thing(shape, _coloured(rng.choice(others), rng), float(rng.uniform(2.4, 3.6)), at=(x, y))
        if all(math.dist((x, y), (t.x, t.y)) > t.radius + other.radius + 2 for t in taken):
            distractors.append(other)
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
    target = (thing.x, thing.y) if rules.off_the_pad else (goal.x, goal.y)
    begins = replace(thing, x=goal.x, y=goal.y) if rules.off_the_pad else thing
    moved = rules.plan(_Setup(config=config, thing=begins, goal=goal, target=target, rng=rng))
    standing = [other for other in distractors if not rules.clear or _clear(other, thing.radius, moved.carried)]
    return _Scene(
        **vars(moved), thing=thing, goal=goal, target=target, distractors=tuple(standing), camera=camera, wall=wall,
        table=table, arm=arm, shoulder=(float(rng.uniform(0, WIDTH)), float(rng.uniform(50, 65))),
        texture_seed=int(rng.integers(2**31)), closed=rules.closed or thing.radius + 0.4,
    )  # fmt: skip


def _thing(shape: str, coloured: tuple[str, tuple[int, int, int]], radius: float, *, at: tuple[float, float]) -> _Thing:
    return _Thing(shape=shape, colour=coloured[0], rgb=coloured[1], radius=radius, x=at[0], y=at[1])


def _clear(other: _Thing, radius: float, carried: Vector) -> bool:
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


def _layout(group: str, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    cells = [(column, row) for column in range(LAYOUT_COLUMNS) for row in range(LAYOUT_ROWS)]
    ways = [(a, b) for a in cells for b in cells if a[0] != b[0]]
    chosen = [way for way in ways if (way in HELDOUT_LAYOUTS) == (group == "heldout")]
    return chosen[int(rng.integers(len(chosen)))]


def _place(cell: tuple[int, int], rng: np.random.Generator) -> tuple[float, float]:
    """A spot inside a layout cell, away from its edges so that neighbouring cells do not touch."""
    across, back = WIDTH / LAYOUT_COLUMNS, DEPTH / LAYOUT_ROWS
    return (float((cell[0] + rng.uniform(0.3, 0.7)) * across), float((cell[1] + rng.uniform(0.25, 0.75)) * back))


@dataclass(frozen=True)
class _Setup:
    """What a demonstration is planned from; `thing` is where it begins, `target` where it is to be."""

    config: TabletopConfig
    thing: _Thing
    goal: _Thing
    target: tuple[float, float]
    rng: np.random.Generator


@dataclass(frozen=True)
class _Course:
    """What a way of doing the task depends on: heights, the places to go to, and the pace (slower above 1)."""

    rest: float  # height of the object's centre on the table, cm
    hover: float  # height of the hand's travel
    target: Vector
    away: Vector  # where the hand goes when all is done
    pace: float
    idle: float  # seconds


@dataclass(frozen=True)
class _Start:
    """Where a way begins: hand and object [3] cm, opening, and whether the gripper holds the object."""

    hand: Vector
    opening: float
    thing: Vector
    held: bool = False


def _finish(course: _Course, start: _Start) -> list[_Leg]:
    """The legs that put the object on its target from `start`: from nearer the goal, fewer of them."""
    thing, target = start.thing, course.target
    grip = np.array([thing[0], thing[1], thing[2] + 2.0])
    above = np.array([thing[0], thing[1], course.hover])
    over = np.array([target[0], target[1], course.hover])
    down = np.array([target[0], target[1], course.rest + 2.0])
    reach = [
        _Leg("approach", 1.0 + math.dist(start.hand, grip) / 40, grip, opening=1.0),
        _Leg("grasp", 0.5, grip, opening=0.0),
    ]
    lift = [_Leg("lift", 0.8, above, opening=0.0, thing="comes")]
    move = [_Leg("move", 0.8 + math.dist(above, over) / 30, over, opening=0.0, thing="comes")]
    above_target = start.held and math.dist(thing[:2], target[:2]) < 1e-9
    return [
        *([] if start.held else reach),
        *([] if above_target or (start.held and start.hand[2] >= course.hover) else lift),
        *([] if above_target else move),
        _Leg("place", 0.8, down, opening=0.0, thing="comes"),
        _Leg("place", 0.4, down, opening=1.0),
        _Leg("place", 0.8, course.away, opening=1.0),
        _Leg("place", course.idle, course.away, opening=1.0),
    ]


def _way(legs: Sequence[_Leg], start: _Start) -> list[_Leg]:
    """`legs` with the work `left` at the end of each; that of the last is none.

    The work is what the hand has yet to do if all goes well: the length of its way, straight from waypoint to
    waypoint, and GRASP centimetres for each opening and closing. Since reaching, grasping, lifting, carrying, placing
    and leaving all add to it, a frame of a later phase has less left, and within a phase the distance decides.
    """
    left, listed = 0.0, []
    befores = [(start.hand, start.opening), *((leg.to, leg.opening) for leg in legs)]
    for leg, (at, width) in zip(legs[::-1], befores[-2::-1], strict=True):
        listed.append(replace(leg, left=left))
        left += math.dist(leg.to, at) + GRASP * abs(leg.opening - width)
    return listed[::-1]


def _work(legs: Sequence[_Leg], start: _Start) -> float:
    """How many centimetres are left at the start of `legs`, which are a `_way`."""
    return legs[0].left + math.dist(legs[0].to, start.hand) + GRASP * abs(legs[0].opening - start.opening)


def _demonstration(setup: _Setup) -> _Motion:
    course, start = _course(setup)
    return _moved(setup, course, start, legs=_way(_finish(course, start), start))


def _course(setup: _Setup) -> tuple[_Course, _Start]:
    thing, (x, y), rng = setup.thing, setup.target, setup.rng
    hover = float(thing.radius + rng.uniform(0.6, 1.0) * HOVER)
    hand = np.array([rng.uniform(4, WIDTH - 4), rng.uniform(0, DEPTH), rng.uniform(15, 26)])
    away = np.array([x + rng.uniform(-14, 14), y, rng.uniform(14, 25)])
    pace = float(rng.uniform(0.75, 1.35))
    idle = float(rng.uniform(0, setup.config.idle_seconds)) / pace
    course = _Course(
        rest=thing.radius, hover=hover, target=np.array([x, y, thing.radius]), away=away, pace=pace, idle=idle
    )
    return course, _Start(hand, 1.0, np.array([thing.x, thing.y, thing.radius]))


def _regress(setup: _Setup) -> _Motion:
    """Progress is lost again; then, in half of the episodes, the task is done after all."""
    course, start = _course(setup)
    goal, rng = setup.goal, setup.rng
    intended = _way(_finish(course, start), start)
    tried = {name: number for number, name in enumerate(leg.phase for leg in intended)}  # phase -> its last leg
    carry, done, low = intended[: tried["lift"] + 1], intended[: tried["place"] - 1], course.rest + 2.0
    apart = math.dist(start.thing, course.target)
    # Where the object is released it is not on the pad, so that a picture shows that the task is not done.
    beside = 1 - (goal.radius + 1) / apart
    there, back = float(rng.uniform(0.65, 1.0)), min(float(rng.uniform(0.0, 0.3)), beside)
    dropped = min(float(rng.uniform(0.25, 0.7)), beside)
    kind, finishes = int(rng.integers(4)), bool(rng.integers(2))

    def spot(share: float, height: float) -> Vector:
        """[3], at this share of the straight way from the object's first place to its target."""
        x, y = (start.thing + (course.target - start.thing) * share)[:2]
        return np.array([x, y, height])

    def carried(share: float) -> _Leg:
        leg = intended[tried["move"]]
        way = math.dist(spot(share, 0), spot(1, 0))
        return replace(
            leg, seconds=0.8 + share * (leg.seconds - 0.8), to=spot(share, course.hover), left=leg.left + way
        )

    def lost(leg: _Leg, held: bool, at: Vector) -> _Leg:
        """`leg`, at whose end the object is `at`, with what is left to do from there."""
        then = _Start(leg.to, leg.opening, at, held=held)
        return replace(leg, left=_work(_way(_finish(course, then), then), then))

    def taken(phase: str, share: float, height: float) -> _Leg:
        to = spot(share, height)
        return lost(_Leg(phase, 1.4, to, opening=0.0, thing="comes"), True, to - np.array([0.0, 0.0, 2.0]))

    def released(share: float) -> list[_Leg]:
        here = spot(share, course.rest)
        return [taken("return", share, low), lost(_Leg("return", 0.4, spot(share, low), opening=1.0), False, here)]

    drop = _Leg("drop", 0.4, spot(dropped, course.hover), opening=1.0, thing="falls")
    fallen = lost(drop, False, spot(dropped, course.rest))
    # Legs up to the loss and of it, and where the object is then.
    legs, share = {
        0: ([*carry, carried(there), taken("return", back, course.hover), *released(back)], back),
        1: ([*carry, *released(0.0)], 0.0),
        2: ([*carry, carried(dropped), fallen], dropped),
        3: (
            [
                *done,
                lost(_Leg("return", 0.5, spot(1, low), opening=0.0), True, spot(1, course.rest)),
                taken("return", 1, course.hover),
                taken("return", back, course.hover),
                *released(back),
            ],
            back,
        ),
    }[kind]
    here, last = spot(share, course.rest), legs[-1]
    if finishes:
        then = _Start(last.to, last.opening, here)
        legs += _way(_finish(course, then), then)
    else:
        legs += [lost(_Leg("retreat", 0.9, spot(share, 20) + np.array([6.0, 0.0, 0.0]), opening=1.0), False, here)]
        legs += [replace(legs[-1], seconds=course.idle)]
    return _moved(setup, course, start, legs=legs, work=_work(intended, start))


def _push(setup: _Setup) -> _Motion:
    """The closed gripper goes down beside the object, pushes it to the target and leaves it there."""
    course, start = _course(setup)
    start = replace(start, opening=0.0)
    way = course.target - start.thing
    apart = way / np.linalg.norm(way) * (setup.thing.radius + 3.0)  # from the hand to the object
    low = np.array([0.0, 0.0, 1.0])
    behind, end = start.thing - apart + low, course.target - apart + low
    hover = behind + np.array([0.0, 0.0, 0.6 * HOVER])
    away = end - apart + np.array([0.0, 0.0, course.away[2] - end[2]])
    legs = [
        _Leg("approach", 0.8 + math.dist(start.hand, hover) / 40, hover, opening=0.0),
        _Leg("approach", 0.7, behind, opening=0.0),
        _Leg("push", 1.2 + math.dist(behind, end) / 16, end, opening=0.0, thing="comes"),
        _Leg("retreat", 0.9, away, opening=0.0),
        _Leg("retreat", course.idle, away, opening=0.0),
    ]
    return _moved(setup, course, start, legs=_way(legs, start), offset=apart - low)


def _moved(
    setup: _Setup,
    course: _Course,
    start: _Start,
    *,
    legs: Sequence[_Leg],
    work: float | None = None,
    offset: Vector | None = None,
) -> _Motion:
    """`legs` frame by frame at the config's fps. `work` is left at the start, and `offset` is from hand to object."""
    work = _work(legs, start) if work is None else work
    offset = np.array([0.0, 0.0, -2.0]) if offset is None else offset
    phases: list[str] = []
    hand, opening, carried, left = [], [], [], []
    at, width, held_at, still = start.hand, start.opening, start.thing, work
    bend = setup.rng.uniform(-5, 5, 3) * np.array([1.0, 0.5, 0.6])
    for leg in legs:
        steps = max(2, round(leg.seconds * course.pace * setup.config.fps))
        for step in range(1, steps + 1):
            share = _ease(step / steps)
            curve = bend * math.sin(math.pi * share) if leg.phase in ("approach", "move") else 0.0
            spot = at + (leg.to - at) * share + curve
            spot[2] = max(spot[2], course.rest + 1.0)
            phases.append(leg.phase)
            hand.append(spot)
            opening.append(width + (leg.opening - width) * share)
            fallen = np.array([0.0, 0.0, (course.rest - held_at[2]) * share**2])
            carried.append({"stays": held_at, "comes": spot + offset, "falls": held_at + fallen}[leg.thing])
            left.append(still + (leg.left - still) * share)
        at, width, still = leg.to, leg.opening, leg.left
        held_at = carried[-1]
    progress = 1 - np.array(left) / work
    carried_at = np.array(carried)
    return _Motion(tuple(phases), np.array(hand), np.array(opening), carried=carried_at, progress=progress)


@dataclass(frozen=True)
class _Group:
    """A population of episodes. `clear`: distractors that the object would run into are left out."""

    task: str = "put the {thing} on the {pad} pad"
    plan: Callable[[_Setup], _Motion] = _demonstration
    shapes: tuple[str, ...] = SHAPES
    off_the_pad: bool = False
    clear: bool = False
    closed: float | None = None  # half the distance between closed fingers that hold nothing


_GROUPS: Mapping[str, _Group] = {
    "seen": _Group(),
    "heldout": _Group(),
    "regress": _Group(plan=_regress, clear=True),
    "shapes": _Group(shapes=HELDOUT_SHAPES),
    "push": _Group("push the {thing} to the {pad} pad", _push, clear=True, closed=0.6),
    "take_off": _Group("take the {thing} off the {pad} pad", off_the_pad=True, clear=True),
}


def _ease(share: float) -> float:
    """Slow at both ends, with a floor on the speed so that no two frames of a motion look the same."""
    return 0.35 * share + 0.65 * share * share * (3 - 2 * share)


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

    def thing(self, thing: _Thing, centre: Vector) -> None:
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
    """What never changes in an episode: wall, table with its grain, the goal pad."""
    from PIL import Image

    side = 2 * size
    picture = Image.new("RGB", (side, side), scene.wall)
    brush = _Brush(scene, picture)
    brush.polygon([[-30.0, -14, 0], [90, -14, 0], [90, DEPTH + 6, 0], [-30, DEPTH + 6, 0]], scene.table)
    grain = np.random.default_rng(scene.texture_seed).normal(0, 5, (side // 4, side // 4, 1))
    noise = np.kron(grain, np.ones((4, 4, 1)))
    speckled = np.clip(np.asarray(picture, dtype=np.float64)[: noise.shape[0], : noise.shape[1]] + noise, 0, 255)
    picture.paste(Image.fromarray(speckled.astype(np.uint8)), (0, 0))
    brush.thing(scene.goal, np.array([scene.goal.x, scene.goal.y, 0.0]))
    return picture


def _painted(scene: _Scene, backdrop: Any, t: int) -> Any:
    """The picture at twice its size."""
    picture = backdrop.copy()
    brush = _Brush(scene, picture)
    carried, hand = scene.carried[t], scene.hand[t]
    spots = [(thing, np.array([thing.x, thing.y, thing.radius])) for thing in scene.distractors]
    for thing, centre in sorted([*spots, (scene.thing, carried)], key=lambda item: -item[1][1]):
        shadow = np.array([centre[0], centre[1], 0.0]) + _DISC * thing.radius * 0.9
        brush.polygon(shadow, scene.table, 0.72)
        brush.thing(thing, centre)
    brush.arm(hand, float(scene.opening[t]))
    return picture


def _things(scene: _Scene, t: int, size: int) -> tuple[Visible, ...]:
    """What is seen of each thing: the pixels that change where it is painted in another colour."""
    backdrop = _backdrop(scene, size)
    picture = np.asarray(_painted(scene, backdrop, t))
    spots = [scene.carried[t], np.array([scene.goal.x, scene.goal.y, 0.0])]
    spots += [np.array([other.x, other.y, other.radius]) for other in scene.distractors]
    found = []
    for number, (thing, spot) in enumerate(zip((scene.thing, scene.goal, *scene.distractors), spots, strict=True)):
        red, green, blue = thing.rgb
        other = replace(thing, rgb=(255 - red, 255 - green, 255 - blue))
        standing = tuple(other if number == place else one for place, one in enumerate(scene.distractors, 2))
        changed = (
            replace(scene, thing=other)
            if number == 0
            else replace(scene, goal=other)
            if number == 1
            else replace(scene, distractors=standing)
        )
        behind = _backdrop(changed, size) if number == 1 else backdrop
        repainted = np.asarray(_painted(changed, behind, t))
        pixels = int((picture != repainted).any(axis=-1).sum())
        area = _area(scene, thing, spot, size=size)  # a rounded edge may make it a pixel smaller than what is seen
        found.append(Visible(thing.colour, thing.shape, thing.rgb, share=min(1.0, pixels / area), pixels=pixels / 4))
    return tuple(found)


def _area(scene: _Scene, thing: _Thing, centre: Vector, *, size: int) -> int:
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
