"""`tabletop`: a procedural pick-and-place simulator that renders every frame and knows its true state.

A gripper approaches an object among distractors, grasps it, lifts it, moves it over a goal pad and places it.
Lengths are centimetres on a table 48 wide (x, left to right) and 24 deep (y, towards the back), z is height.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
ROUNDING = 3  # distances are said in multiples of this many centimetres
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
HELDOUT_COLOURS = {
    "orange": (240, 130, 30),
    "cyan": (60, 195, 215),
    "lime": (165, 220, 60),
    "maroon": (120, 25, 55),
}
SHAPES = ("cube", "ball", "can", "pyramid")
LAYOUT_COLUMNS, LAYOUT_ROWS = 3, 2


@settings
class TabletopConfig:
    """`seen` episodes have the training colours and layouts, `heldout` ones only others.

    A layout is the table cell of the object with the cell of the goal; every fourth layout is held out.
    """

    kind: Literal["tabletop"] = "tabletop"
    seen: int = 400
    heldout: int = 60
    size: int = 84
    fps: float = 10.0
    distractors: tuple[int, int] = (1, 2)
    idle_seconds: float = 1.0

    def __post_init__(self) -> None:
        if min(self.seen, self.heldout) < 0 or self.size < 28 or self.fps <= 0:
            raise ValueError("seen and heldout must not be negative, size at least 28 pixels, fps above 0")
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
    """Scale in pixels a centimetre; tilt is the share of depth that shows as height; roll in radians."""

    scale: float
    mirror: float
    tilt: float
    roll: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class _Scene:
    thing: _Thing
    goal: _Thing
    distractors: tuple[_Thing, ...]
    camera: _Camera
    wall: tuple[int, int, int]
    table: tuple[int, int, int]
    arm: tuple[int, int, int]
    shoulder: tuple[float, float]
    texture_seed: int
    phases: tuple[str, ...]
    hand: Vector  # [T, 3] cm
    opening: Vector  # [T] 0 closed .. 1 open
    carried: Vector  # [T, 3] cm, where the object is


class TabletopSource:
    """EpisodeSource of simulated demonstrations; the same seed gives the same pictures and states."""

    kind = "tabletop"

    def __init__(self, config: TabletopConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def episodes(self) -> Iterator[Episode | Exclusion]:
        for group, count in (("seen", self.config.seen), ("heldout", self.config.heldout)):
            for index in range(count):
                episode_id = f"{group}-{index:05d}"
                scene = self._scene(group, episode_id)
                goal, thing = scene.goal, scene.thing
                task = f"put the {thing.colour} {thing.shape} on the {goal.colour} pad"
                length = len(scene.phases)
                segment = Segment(task=task, start=0, end=length)
                yield Episode(self.kind, episode_id, task, self.config.fps, length, (segment,), group)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        scene = self._scene(episode.group, episode.episode_id)
        backdrop = _backdrop(scene, self.config.size)
        for index in indices:
            yield _render(scene, backdrop, index, self.config.size)

    def states(self, episode: Episode) -> Sequence[State]:
        """Keys: phase, motion (0..1), gripper (0 closed..1 open), hand, object, goal ((x, y, z) in cm), rest_height.

        Also hand_at, object_at, goal_at: where each stands in the picture, (right, down) as shares of its side.
        """
        scene = self._scene(episode.group, episode.episode_id)
        motion = _motion(scene)
        goal = (scene.goal.x, scene.goal.y, scene.thing.radius)
        at = {
            "hand_at": _project(scene, scene.hand, 0.5),
            "object_at": _project(scene, scene.carried, 0.5),
            "goal_at": _project(scene, np.array([goal] * len(scene.phases)), 0.5),
        }
        return [
            {
                "phase": scene.phases[t],
                "motion": float(motion[t]),
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
    colours = list(SEEN_COLOURS if group == "seen" else HELDOUT_COLOURS)
    thing_cell, goal_cell = _layout(group, rng)
    thing_colour, goal_colour = rng.choice(colours, 2, replace=False)
    radius = float(rng.uniform(3.2, 4.4))
    thing = _Thing(str(rng.choice(SHAPES)), *_coloured(thing_colour, rng), radius, *_place(thing_cell, rng))
    goal = _Thing("pad", *_coloured(goal_colour, rng), float(rng.uniform(5.0, 6.5)), *_place(goal_cell, rng))
    others = [name for name in colours if name != thing.colour]
    distractors: list[_Thing] = []
    for _ in range(int(rng.integers(config.distractors[0], config.distractors[1] + 1))):
        x, y = float(rng.uniform(4, WIDTH - 4)), float(rng.uniform(2, DEPTH - 2))
        taken = [thing, goal, *distractors]
        other = _Thing(str(rng.choice(SHAPES)), *_coloured(rng.choice(others), rng), float(rng.uniform(2.4, 3.6)), x, y)
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
    phases, hand, opening, carried = _motion_plan(config, thing, goal, rng)
    return _Scene(
        thing, goal, tuple(distractors), camera, wall, table, arm,
        (float(rng.uniform(0, WIDTH)), float(rng.uniform(50, 65))), int(rng.integers(2**31)),
        phases, hand, opening, carried,
    )  # fmt: skip


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
    layouts = [(a, b) for a in cells for b in cells if abs(a[0] - b[0]) >= 1]
    chosen = [layout for k, layout in enumerate(layouts) if (k % 4 == 3) == (group == "heldout")]
    return chosen[int(rng.integers(len(chosen)))]


def _place(cell: tuple[int, int], rng: np.random.Generator) -> tuple[float, float]:
    """A spot inside a layout cell, away from its edges so that neighbouring cells do not touch."""
    across, back = WIDTH / LAYOUT_COLUMNS, DEPTH / LAYOUT_ROWS
    return (
        float((cell[0] + rng.uniform(0.3, 0.7)) * across),
        float((cell[1] + rng.uniform(0.25, 0.75)) * back),
    )


def _motion_plan(
    config: TabletopConfig, thing: _Thing, goal: _Thing, rng: np.random.Generator
) -> tuple[tuple[str, ...], Vector, Vector, Vector]:
    """Phase [T], hand [T, 3], opening [T] and object [T, 3] of one demonstration at the config's fps."""
    grip = np.array([thing.x, thing.y, thing.radius + 2.0])
    above = np.array([thing.x, thing.y, thing.radius + rng.uniform(0.6, 1.0) * HOVER])
    over = np.array([goal.x, goal.y, above[2]])
    down = np.array([goal.x, goal.y, thing.radius + 2.0])
    start = np.array([rng.uniform(4, WIDTH - 4), rng.uniform(0, DEPTH), rng.uniform(15, 26)])
    away = np.array([goal.x + rng.uniform(-14, 14), goal.y, rng.uniform(14, 25)])
    pace = float(rng.uniform(0.75, 1.35))  # slower above 1
    # phase, seconds, waypoint of the hand, opening at the end, whether the object comes along
    plan = [
        ("approach", 1.0 + math.dist(start, grip) / 40, grip, 1.0, False),
        ("grasp", 0.5, grip, 0.0, False),
        ("lift", 0.8, above, 0.0, True),
        ("move", 0.8 + math.dist(above, over) / 30, over, 0.0, True),
        ("place", 0.8, down, 0.0, True),
        ("place", 0.4, down, 1.0, False),
        ("place", 0.8, away, 1.0, False),
        ("place", float(rng.uniform(0, config.idle_seconds)) / pace, away, 1.0, False),
    ]
    phases: list[str] = []
    hand, opening, carried = [], [], []
    at, width, held_at = start, 1.0, np.array([thing.x, thing.y, thing.radius])
    bend = rng.uniform(-5, 5, 3) * np.array([1.0, 0.5, 0.6])
    for phase, seconds, waypoint, end_width, comes_along in plan:
        steps = max(2, round(seconds * pace * config.fps))
        for step in range(1, steps + 1):
            share = _ease(step / steps)
            curve = bend * math.sin(math.pi * share) if phase in ("approach", "move") else 0.0
            spot = at + (waypoint - at) * share + curve
            spot[2] = max(spot[2], thing.radius + 1.0)
            phases.append(phase)
            hand.append(spot)
            opening.append(width + (end_width - width) * share)
            carried.append(spot - np.array([0.0, 0.0, 2.0]) if comes_along else held_at)
        at, width = waypoint, end_width
        held_at = carried[-1]
    return tuple(phases), np.array(hand), np.array(opening), np.array(carried)


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


_TURN = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.zeros(14), np.sin(_TURN)], axis=1)
_DISC = np.stack([np.cos(_TURN), np.sin(_TURN), np.zeros(14)], axis=1)
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
    "pad": [(_DISC, 1.0), (_DISC * 0.6, 1.2)],
}


def _shaded(colour: tuple[int, int, int], brightness: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, int(channel * brightness)) for channel in colour)
    return red, green, blue


def _draw_thing(draw: Any, scene: _Scene, thing: _Thing, centre: Vector, size: int) -> None:
    for offsets, brightness in _FACES[thing.shape]:
        draw.polygon(_project(scene, centre + offsets * thing.radius, size), fill=_shaded(thing.rgb, brightness))


def _backdrop(scene: _Scene, size: int) -> Any:
    """What never changes in an episode: wall, table with its grain, the goal pad."""
    from PIL import Image, ImageDraw

    side = 2 * size
    picture = Image.new("RGB", (side, side), scene.wall)
    draw = ImageDraw.Draw(picture)
    corners = np.array([[-30, -14, 0], [90, -14, 0], [90, DEPTH + 6, 0], [-30, DEPTH + 6, 0]], dtype=float)
    draw.polygon(_project(scene, corners, size), fill=scene.table)
    grain = np.random.default_rng(scene.texture_seed).normal(0, 5, (side // 4, side // 4, 1))
    noise = np.kron(grain, np.ones((4, 4, 1)))
    speckled = np.clip(np.asarray(picture, dtype=np.float64)[: noise.shape[0], : noise.shape[1]] + noise, 0, 255)
    picture.paste(Image.fromarray(speckled.astype(np.uint8)), (0, 0))
    _draw_thing(ImageDraw.Draw(picture), scene, scene.goal, np.array([scene.goal.x, scene.goal.y, 0.0]), size)
    return picture


def _render(scene: _Scene, backdrop: Any, t: int, size: int) -> Picture:
    from PIL import ImageDraw

    picture = backdrop.copy()
    draw = ImageDraw.Draw(picture)
    carried, hand = scene.carried[t], scene.hand[t]
    spots = [(thing, np.array([thing.x, thing.y, thing.radius])) for thing in scene.distractors]
    for thing, centre in sorted([*spots, (scene.thing, carried)], key=lambda item: -item[1][1]):
        shadow = np.array([centre[0], centre[1], 0.0]) + _DISC * thing.radius * 0.9
        draw.polygon(_project(scene, shadow, size), fill=_shaded(scene.table, 0.72))
        _draw_thing(draw, scene, thing, centre, size)
    _draw_arm(draw, scene, hand, float(scene.opening[t]), size)
    return np.asarray(picture.reduce(2), dtype=np.uint8)


def _draw_arm(draw: Any, scene: _Scene, hand: Vector, opening: float, size: int) -> None:
    reach = scene.thing.radius + 0.4 + 3.0 * opening  # half the distance between the fingers
    x, y, z = hand.tolist()
    shoulder = (*scene.shoulder[:1], y, scene.shoulder[1])
    wrist, anchor = _project(scene, np.array([[x, y, z + 6.0], shoulder]), size)
    width = max(2, round(2 * size * scene.camera.scale * 3.2))
    draw.line([anchor, wrist], fill=scene.arm, width=width)
    palm = [[x - reach - 0.8, y, z + 3.2], [x + reach + 0.8, y, z + 3.2], [x + 2, y, z + 6.5], [x - 2, y, z + 6.5]]
    draw.polygon(_project(scene, np.array(palm), size), fill=_shaded(scene.arm, 0.7))
    for side in (-1.0, 1.0):
        inner, outer = x + side * reach, x + side * (reach + 1.8)
        finger = [[inner, y, z + 4], [outer, y, z + 4], [outer, y, z - 2.5], [inner, y, z - 2.5]]
        draw.polygon(_project(scene, np.array(finger), size), fill=_shaded(scene.arm, 0.45))
