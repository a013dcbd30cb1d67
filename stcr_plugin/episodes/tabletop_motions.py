"""Where things are on the table of a `tabletop` episode, how hand and objects move, and how much work is left.

Lengths are centimetres on a table 48 wide (x, left to right) and 24 deep (y, towards the back), z is height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Cell = tuple[int, int]
"""Column and row of the table's layout."""

WIDTH, DEPTH = 48.0, 24.0
HOVER = 14.0  # height of the hand's travel above what it goes to
GRASP = 4.0  # opening or closing the gripper counts as this many centimetres of the hand's way
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


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    rgb: tuple[int, int, int]
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Leg:
    """A straight or bent way of the hand to a waypoint `to`. The object stays, comes along, or falls on the table.

    left: how many centimetres of work are left at its end, see `with_work`. item: which object; the others stay.
    """

    phase: str
    seconds: float
    to: Vector
    opening: float
    thing: Literal["stays", "comes", "falls"] = "stays"
    left: float = 0.0
    item: int = 0


@dataclass(frozen=True)
class Motion:
    """Everything that moves in an episode of T frames, and its progress."""

    phases: tuple[str, ...]
    hand: Vector  # [T, 3] cm
    opening: Vector  # [T] 0 closed .. 1 open
    carried: Vector  # [T, 3] cm, where the object is
    beside: tuple[Vector, ...]  # [T, 3] cm each, where further objects are
    progress: Vector  # [T], see TabletopSource.states


def ways(heldout: bool) -> list[tuple[Cell, Cell]]:
    """Cells of the table that an object may go from and to: those of training, or those that are held out."""
    cells = [(column, row) for column in range(LAYOUT_COLUMNS) for row in range(LAYOUT_ROWS)]
    every = [(a, b) for a in cells for b in cells if a[0] != b[0]]
    return [way for way in every if (way in HELDOUT_LAYOUTS) == heldout]


def chosen_way(rng: np.random.Generator, *, heldout: bool) -> tuple[Cell, Cell]:
    """The cell where an object is first, and that of its pad."""
    chosen = ways(heldout)
    return chosen[int(rng.integers(len(chosen)))]


def place(cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    """A spot inside a layout cell, away from its edges so that neighbouring cells do not touch."""
    across, back = WIDTH / LAYOUT_COLUMNS, DEPTH / LAYOUT_ROWS
    return (float((cell[0] + rng.uniform(0.3, 0.7)) * across), float((cell[1] + rng.uniform(0.25, 0.75)) * back))


@dataclass(frozen=True)
class Setup:
    """What a demonstration is planned from; `thing` is where it begins, `target` where it is to be."""

    fps: float
    idle_seconds: float
    thing: Thing
    goal: Thing
    target: tuple[float, float]
    rng: np.random.Generator


@dataclass(frozen=True)
class Course:
    """What a way of doing the task depends on: heights, the places to go to, and the pace (slower above 1)."""

    rest: float  # height of the object's centre on the table, cm
    hover: float  # height of the hand's travel
    target: Vector
    away: Vector  # where the hand goes when all is done
    pace: float
    idle: float  # seconds


@dataclass(frozen=True)
class Start:
    """Where a way begins: hand and object [3] cm, opening, and whether the gripper holds the object."""

    hand: Vector
    opening: float
    thing: Vector
    held: bool = False


def finish(course: Course, start: Start) -> list[Leg]:
    """The legs that put the object on its target from `start`: from nearer the goal, fewer of them."""
    thing, target = start.thing, course.target
    grip = np.array([thing[0], thing[1], thing[2] + 2.0])
    above = np.array([thing[0], thing[1], course.hover])
    over = np.array([target[0], target[1], course.hover])
    down = np.array([target[0], target[1], course.rest + 2.0])
    reach = [
        Leg("approach", 1.0 + math.dist(start.hand, grip) / 40, grip, opening=1.0),
        Leg("grasp", 0.5, grip, opening=0.0),
    ]
    lift = [Leg("lift", 0.8, above, opening=0.0, thing="comes")]
    move = [Leg("move", 0.8 + math.dist(above, over) / 30, over, opening=0.0, thing="comes")]
    above_target = start.held and math.dist(thing[:2], target[:2]) < 1e-9
    return [
        *([] if start.held else reach),
        *([] if above_target or (start.held and start.hand[2] >= course.hover) else lift),
        *([] if above_target else move),
        Leg("place", 0.8, down, opening=0.0, thing="comes"),
        Leg("place", 0.4, down, opening=1.0),
        Leg("place", 0.8, course.away, opening=1.0),
        Leg("place", course.idle, course.away, opening=1.0),
    ]


def with_work(legs: Sequence[Leg], start: Start) -> list[Leg]:
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


def work_of(legs: Sequence[Leg], start: Start) -> float:
    """How many centimetres are left at the start of `legs`, which are a `with_work`."""
    return legs[0].left + math.dist(legs[0].to, start.hand) + GRASP * abs(legs[0].opening - start.opening)


def demonstration(setup: Setup) -> Motion:
    course, start = course_of(setup)
    return played(setup, course, start, legs=with_work(finish(course, start), start))


def course_of(setup: Setup) -> tuple[Course, Start]:
    thing, (x, y), rng = setup.thing, setup.target, setup.rng
    hover = float(thing.radius + rng.uniform(0.6, 1.0) * HOVER)
    hand = np.array([rng.uniform(4, WIDTH - 4), rng.uniform(0, DEPTH), rng.uniform(15, 26)])
    away = np.array([x + rng.uniform(-14, 14), y, rng.uniform(14, 25)])
    pace = float(rng.uniform(0.75, 1.35))
    idle = float(rng.uniform(0, setup.idle_seconds)) / pace
    course = Course(
        rest=thing.radius, hover=hover, target=np.array([x, y, thing.radius]), away=away, pace=pace, idle=idle
    )
    return course, Start(hand, 1.0, np.array([thing.x, thing.y, thing.radius]))


def regress(setup: Setup) -> Motion:
    """Progress is lost again; then, in half of the episodes, the task is done after all."""
    course, start = course_of(setup)
    goal, rng = setup.goal, setup.rng
    intended = with_work(finish(course, start), start)
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

    def carried(share: float) -> Leg:
        leg = intended[tried["move"]]
        way = math.dist(spot(share, 0), spot(1, 0))
        return replace(
            leg, seconds=0.8 + share * (leg.seconds - 0.8), to=spot(share, course.hover), left=leg.left + way
        )

    def lost(leg: Leg, held: bool, at: Vector) -> Leg:
        """`leg`, at whose end the object is `at`, with what is left to do from there."""
        then = Start(leg.to, leg.opening, at, held=held)
        return replace(leg, left=work_of(with_work(finish(course, then), then), then))

    def taken(phase: str, share: float, height: float) -> Leg:
        to = spot(share, height)
        return lost(Leg(phase, 1.4, to, opening=0.0, thing="comes"), True, to - np.array([0.0, 0.0, 2.0]))

    def released(share: float) -> list[Leg]:
        here = spot(share, course.rest)
        return [taken("return", share, low), lost(Leg("return", 0.4, spot(share, low), opening=1.0), False, here)]

    drop = Leg("drop", 0.4, spot(dropped, course.hover), opening=1.0, thing="falls")
    fallen = lost(drop, False, spot(dropped, course.rest))
    # Legs up to the loss and of it, and where the object is then.
    legs, share = {
        0: ([*carry, carried(there), taken("return", back, course.hover), *released(back)], back),
        1: ([*carry, *released(0.0)], 0.0),
        2: ([*carry, carried(dropped), fallen], dropped),
        3: (
            [
                *done,
                lost(Leg("return", 0.5, spot(1, low), opening=0.0), True, spot(1, course.rest)),
                taken("return", 1, course.hover),
                taken("return", back, course.hover),
                *released(back),
            ],
            back,
        ),
    }[kind]
    here, last = spot(share, course.rest), legs[-1]
    if finishes:
        then = Start(last.to, last.opening, here)
        legs += with_work(finish(course, then), then)
    else:
        legs += [lost(Leg("retreat", 0.9, spot(share, 20) + np.array([6.0, 0.0, 0.0]), opening=1.0), False, here)]
        legs += [replace(legs[-1], seconds=course.idle)]
    return played(setup, course, start, legs=legs, work=work_of(intended, start))


def push(setup: Setup) -> Motion:
    """The closed gripper goes down beside the object, pushes it to the target and leaves it there."""
    course, start = course_of(setup)
    start = replace(start, opening=0.0)
    legs, offset = pushes(course, start)
    legs.append(replace(legs[-1], seconds=course.idle))
    return played(setup, course, start, legs=with_work(legs, start), offset=offset)


def pushes(course: Course, start: Start) -> tuple[list[Leg], Vector]:
    """The legs that push the object to its target, and the way [3] from hand to object meanwhile."""
    way = course.target - start.thing
    apart = way / np.linalg.norm(way) * (course.rest + 3.0)  # from the hand to the object
    low = np.array([0.0, 0.0, 1.0])
    behind, end = start.thing - apart + low, course.target - apart + low
    hover = behind + np.array([0.0, 0.0, 0.6 * HOVER])
    away = end - apart + np.array([0.0, 0.0, course.away[2] - end[2]])
    return [
        Leg("approach", 0.8 + math.dist(start.hand, hover) / 40, hover, opening=0.0),
        Leg("approach", 0.7, behind, opening=0.0),
        Leg("push", 1.2 + math.dist(behind, end) / 16, end, opening=0.0, thing="comes"),
        Leg("retreat", 0.9, away, opening=0.0),
    ], apart - low


def played(
    setup: Setup,
    course: Course,
    start: Start,
    *,
    legs: Sequence[Leg],
    work: float | None = None,
    offset: Vector | None = None,
    beside: Sequence[Vector] = (),
) -> Motion:
    """`legs` frame by frame at the config's fps.

    `work` is left at the start, `offset` is from hand to object, and `beside` [3] is where further objects begin.
    """
    work = work_of(legs, start) if work is None else work
    offset = np.array([0.0, 0.0, -2.0]) if offset is None else offset
    phases: list[str] = []
    hand, opening, left = [], [], []
    places: list[list[Vector]] = []  # frame -> where each object is
    at, width, rests, still = start.hand, start.opening, [start.thing, *beside], work
    bend = setup.rng.uniform(-5, 5, 3) * np.array([1.0, 0.5, 0.6])
    for leg in legs:
        steps = max(2, round(leg.seconds * course.pace * setup.fps))
        for step in range(1, steps + 1):
            share = _ease(step / steps)
            curve = bend * math.sin(math.pi * share) if leg.phase in ("approach", "move") else 0.0
            spot = at + (leg.to - at) * share + curve
            spot[2] = max(spot[2], course.rest + 1.0)
            phases.append(leg.phase)
            hand.append(spot)
            opening.append(width + (leg.opening - width) * share)
            held_at = rests[leg.item]
            fallen = np.array([0.0, 0.0, (course.rest - held_at[2]) * share**2])
            moved = {"stays": held_at, "comes": spot + offset, "falls": held_at + fallen}[leg.thing]
            places.append([*rests[: leg.item], moved, *rests[leg.item + 1 :]])
            left.append(still + (leg.left - still) * share)
        at, width, still = leg.to, leg.opening, leg.left
        rests = places[-1]
    carried, *others = (np.array([each[item] for each in places]) for item in range(len(rests)))
    return Motion(
        tuple(phases),
        np.array(hand),
        np.array(opening),
        carried=carried,
        beside=tuple(others),
        progress=1 - np.array(left) / work,
    )


def _ease(share: float) -> float:
    """Slow at both ends, with a floor on the speed so that no two frames of a motion look the same."""
    return 0.35 * share + 0.65 * share * share * (3 - 2 * share)
