"""Episodes of `tabletop` whose pictures serve several tasks: what is moved where, the tasks, and their progress.

A recording shows objects that are put on pads and taken off them. Each of its tasks names one object and one pad, and
has its own text and progress, so that the same two frames have another answer under another text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from stcr_plugin.episodes.tabletop_motions import (
    GRASP,
    HOVER,
    LAYOUT_COLUMNS,
    LAYOUT_ROWS,
    Cell,
    Course,
    Leg,
    Motion,
    Setup,
    Start,
    Thing,
    Vector,
    course_of,
    finish,
    place,
    played,
    pushes,
    ways,
)

PADS = "pq"  # spots with a pad; s and t are free spots of the table
WORK = 120.0  # cm of work that count as the whole of a task, about that of a demonstration
HELD = 3.0  # cm from the hand to an object within which a closed gripper holds it
LIFT = 10.0  # cm that an object is lifted and lowered
BRISK = 0.6  # pace of a recording with two objects, so that both are moved within the seconds of a pair


@dataclass(frozen=True)
class Verb:
    """A kind of task. `off`: the object leaves the pad. `lifts`: it is lifted, not pushed."""

    text: str
    off: bool
    lifts: bool


VERBS: Mapping[str, Verb] = {
    "put": Verb("put the {thing} on the {pad} pad", off=False, lifts=True),
    "take": Verb("take the {thing} off the {pad} pad", off=True, lifts=True),
    "push": Verb("push the {thing} to the {pad} pad", off=False, lifts=False),
    "push_off": Verb("push the {thing} off the {pad} pad", off=True, lifts=False),
}


@dataclass(frozen=True)
class Recording:
    """What is done in a recording, and which tasks it serves.

    Attributes:
        begin: The spot of each object at the start, a letter each.
        moves: (object, spot): what is moved, in this order.
        goals: (object, pad) of the tasks.
        verbs: One of these is drawn; each of its verbs is a task with each of `goals`.
        pushes: Objects are pushed, by a closed gripper.
    """

    begin: str
    moves: tuple[tuple[int, str], ...]
    goals: tuple[tuple[int, str], ...]
    verbs: tuple[tuple[str, ...], ...] = (("put",), ("take",))
    pushes: bool = False

    def ways(self) -> list[tuple[str, str]]:
        """The spots that objects go from and to, in the direction that leads to a pad."""
        at, found = dict(enumerate(self.begin)), []
        for item, spot in self.moves:
            way = (at[item], spot)
            found.append(way[::-1] if way[0] in PADS and spot not in PADS else way)
            at[item] = spot
        return found


_ONE = ((0, "p"),)
_PUSHES = tuple(Recording(*of, goals=_ONE, pushes=True) for of in (("s", ((0, "p"),)), ("p", ((0, "s"),))))
# As many recordings onto the pad as off it: neither a text nor the pictures alone say which frame is closer.
TASKS = (
    *(Recording(*of, goals=_ONE, verbs=(("put", "take"),)) for of in (("s", ((0, "p"),)), ("p", ((0, "s"),)))),
    *(replace(one, verbs=(("push", "take"),)) for one in _PUSHES),
)
PUSH_OFF = tuple(replace(one, verbs=(("push_off",),)) for one in _PUSHES)
# Under one verb, what one name says is done is undone for the other name.
NAMING = (
    Recording("ps", ((0, "t"), (1, "p")), goals=((0, "p"), (1, "p"))),  # the object decides
    Recording("ps", ((0, "q"), (1, "p")), goals=((0, "p"), (1, "p"), (0, "q"))),
    Recording("qs", ((0, "p"),), goals=((0, "p"), (0, "q"))),  # the pad decides
    Recording("sq", ((0, "p"), (1, "t")), goals=((0, "p"), (1, "q"))),
    Recording("sq", ((1, "t"), (0, "p")), goals=((0, "p"), (1, "q"))),
)


@dataclass(frozen=True)
class Task:
    """A verb with the object and the pad that its text names, by their numbers."""

    verb: str
    thing: int
    pad: int

    def text(self, things: Sequence[Thing], pads: Sequence[Thing]) -> str:
        thing = things[self.thing]
        return VERBS[self.verb].text.format(thing=f"{thing.colour} {thing.shape}", pad=pads[self.pad].colour)


def tasks_of(recording: Recording, rng: np.random.Generator) -> tuple[Task, ...]:
    verbs = recording.verbs[int(rng.integers(len(recording.verbs)))]
    return tuple(Task(verb, thing, PADS.index(pad)) for verb in verbs for thing, pad in recording.goals)


@dataclass(frozen=True)
class TaskStates:
    """What the frames [T] of a recording are under one task.

    Attributes:
        progress: 1 less the share of WORK that is left.
        phases: What is to be done next, one of `tabletop.PHASES`.
        goal: [T, 3] cm, the nearest place where the object is as the task wants it.
    """

    progress: Vector
    phases: tuple[str, ...]
    goal: Vector


def is_held(motion: Motion, track: Vector) -> npt.NDArray[np.bool_]:
    """[T], whether the closed gripper is at the object that moves along `track` [T, 3]."""
    held: npt.NDArray[np.bool_] = (motion.opening < 0.5) & (np.linalg.norm(motion.hand - track, axis=1) < HELD)
    return held


def states_under(task: Task, motion: Motion, *, thing: Thing, pad: Thing, near: float) -> TaskStates:
    """The task's states, as each frame alone shows them.

    The work left is the hand's way, with GRASP for opening or closing the gripper: to reach the object, lift it, carry
    it where it is to be, lower it and leave it. Off a pad is anywhere beside it. Only the `near` centimetres next to
    the object count as reaching and leaving, so that a hand that is busy elsewhere changes nothing.
    """
    verb, track = VERBS[task.verb], (motion.carried, *motion.beside)[task.thing]
    clear, centre = pad.radius + thing.radius, np.array([pad.x, pad.y, thing.radius])
    apart = np.hypot(*(track - centre)[:, :2].T)
    reach = np.minimum(np.linalg.norm(motion.hand - track, axis=1), near)
    carry = np.maximum(0.0, clear - apart) if verb.off else apart
    left = reach + carry + near
    leave = near - reach
    touches = reach < thing.radius + 4.0  # a pushing hand is beside its object
    raised = np.ones(len(track), dtype=bool)
    if verb.lifts:
        height = track[:, 2] - thing.radius
        touches = is_held(motion, track)
        raised = height > LIFT / 2
        lift = np.where(touches, np.maximum(0.0, LIFT - height), LIFT)
        left += GRASP * motion.opening + lift + LIFT + GRASP
        leave += height + GRASP * (1 - motion.opening)
    there = carry < (1e-9 if verb.off else 1.0)
    phases = np.select(
        [there, touches & raised, touches, reach < HELD], ["place", "move", "lift", "grasp"], default="approach"
    )
    goal = np.tile(centre, (len(track), 1))
    if verb.off:
        # From the centre itself every way out is as long.
        away = np.where((apart > 1e-9)[:, None], (track - centre)[:, :2], [1.0, 0.0])
        beside = centre[:2] + away / np.linalg.norm(away, axis=1, keepdims=True) * clear
        goal[:, :2] = np.where(there[:, None], track[:, :2], beside)
    return TaskStates(1 - np.where(there, leave, left) / WORK, tuple(phases.tolist()), goal)


@cache
def _layouts(recording: Recording, heldout: bool) -> tuple[Mapping[str, Cell], ...]:
    """All cells that the spots may have: the ways are those of training, or held out."""
    spots = sorted({*recording.begin, *(spot for _, spot in recording.moves), *(pad for _, pad in recording.goals)})
    if len(recording.begin) > 1:
        spots = sorted({*spots, *PADS})
    cells = [(column, row) for column in range(LAYOUT_COLUMNS) for row in range(LAYOUT_ROWS)]
    allowed = ways(heldout)
    found = [dict(zip(spots, chosen, strict=True)) for chosen in itertools.permutations(cells, len(spots))]
    return tuple(at for at in found if all((at[a], at[b]) in allowed for a, b in recording.ways()))


def spots_of(
    recording: Recording, rng: np.random.Generator, *, radius: float, pads: float, heldout: bool
) -> dict[str, tuple[float, float]]:
    """Where each spot is, such that what stands on one touches nothing that stands on another."""
    layouts = _layouts(recording, heldout)
    while True:
        at = {spot: place(cell, rng) for spot, cell in layouts[int(rng.integers(len(layouts)))].items()}
        sizes = {spot: pads if spot in PADS else radius for spot in at}
        if all(math.dist(at[a], at[b]) > sizes[a] + sizes[b] + 1 for a, b in itertools.combinations(at, 2)):
            return at


@dataclass(frozen=True)
class Tour:
    """What a recording's motion is planned from; lengths in cm, [2] each spot."""

    recording: Recording
    at: Mapping[str, tuple[float, float]]
    things: tuple[Thing, ...]
    fails: bool
    setup: Setup


def motion_of(tour: Tour) -> Motion:
    """The recording's moves, one after the other; where it fails, one of them goes wrong."""
    rng, recording, setup = tour.setup.rng, tour.recording, tour.setup
    (course, start), legs = course_of(setup), list[Leg]()
    if recording.pushes:
        return _pushed(tour)
    if len(tour.things) > 1:
        course = replace(course, pace=course.pace * BRISK)
    places = [np.array([*tour.at[spot], course.rest]) for spot in recording.begin]
    wrong = int(rng.integers(len(recording.moves))) if tour.fails else -1
    hand, opening = start.hand, start.opening
    for number, (item, spot) in enumerate(recording.moves):
        if any(math.dist(there[:2], tour.at[spot]) < 1 for there in places):
            break  # the one that was to make room is still there
        hover = float(course.rest + rng.uniform(0.6, 1.0) * HOVER)
        goes = replace(course, target=np.array([*tour.at[spot], course.rest]), hover=hover)
        here = Start(hand, opening, places[item])
        taken = finish(goes, here)[:-2]
        if number == wrong:
            taken, places[item] = _gone_wrong(tour, goes, here, taken=taken)
        else:
            places[item] = goes.target
        above = np.array([*places[item][:2], goes.hover])
        legs += [replace(leg, item=item) for leg in (*taken, Leg("retreat", 0.5, above, opening=1.0))]
        hand, opening = above, 1.0
    away = hand + np.array([rng.uniform(-14, 14), 0.0, rng.uniform(4, 12)])
    legs += [Leg("retreat", 0.8, away, opening=1.0), Leg("retreat", course.idle, away, opening=1.0)]
    begun = replace(start, thing=np.array([*tour.at[recording.begin[0]], course.rest]))
    beside = [np.array([*tour.at[spot], course.rest]) for spot in recording.begin[1:]]
    return played(setup, course, begun, legs=legs, work=1.0, beside=beside)


def _gone_wrong(tour: Tour, course: Course, start: Start, *, taken: Sequence[Leg]) -> tuple[list[Leg], Vector]:
    """The legs of a move that drops its object or brings it back, then in half of the cases does it, and its end.

    Dropped, it lies beside every pad. With two objects it is brought back, since it may fall on the other one.
    """
    rng, tried = tour.setup.rng, {leg.phase: number for number, leg in enumerate(taken)}
    carry, grip = list(taken[: tried["lift"] + 1]), np.array([0.0, 0.0, 2.0])
    whole = math.dist(start.thing[:2], course.target[:2])
    beside = tour.setup.goal.radius + tour.things[0].radius + 1
    drops = len(tour.things) == 1 and bool(rng.integers(2)) and whole > 2 * beside
    share = float(rng.uniform(beside / whole, 1 - beside / whole)) if drops else float(rng.uniform(0.4, 0.9))
    spot = start.thing + (course.target - start.thing) * share
    over = np.array([*spot[:2], course.hover])
    carry.append(replace(taken[tried["move"]], to=over, seconds=0.8 + share * (taken[tried["move"]].seconds - 0.8)))
    if drops:
        carry.append(Leg("drop", 0.4, over, opening=1.0, thing="falls"))
        end = np.array([*spot[:2], course.rest])
    else:
        end, back = start.thing, np.array([*start.thing[:2], course.hover])
        carry += [
            Leg("return", 0.6 + share * 0.8, back, opening=0.0, thing="comes"),
            Leg("return", 0.8, end + grip, opening=0.0, thing="comes"),
            Leg("return", 0.4, end + grip, opening=1.0),
        ]
    if rng.integers(2):
        carry += finish(course, Start(carry[-1].to, 1.0, end))[:-2]
        end = course.target
    return carry, end


def _pushed(tour: Tour) -> Motion:
    """The object pushed; where it fails, only a part of the way, and in half of the cases the rest after a while."""
    rng, setup = tour.setup.rng, tour.setup
    course, start = course_of(setup)
    start = replace(start, opening=0.0)
    stop = start.thing + (course.target - start.thing) * float(rng.uniform(0.3, 0.7))
    legs, offset = pushes(replace(course, target=stop) if tour.fails else course, start)
    if tour.fails and rng.integers(2):
        legs += pushes(course, Start(legs[-1].to, 0.0, stop))[0]
    legs.append(replace(legs[-1], seconds=course.idle))
    return played(setup, course, start, legs=legs, work=1.0, offset=offset)
