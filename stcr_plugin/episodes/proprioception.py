"""Claims about a frame from a robot's own readings: which arm moves, how open a hand is, how far it has come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field

import numpy as np
import numpy.typing as npt

from stcr_plugin.config import nearest, settings
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Claim, State

Vectors = npt.NDArray[np.float64]
Dims = tuple[int | str, ...]

FAMILIES = ("moving", "hand", "motion_done")
ROUNDING = 10  # claims give motion_done in steps of this many percent
UNSEEN = "not clearly in view"
SLACK = 0.02  # how far an opening may be outside the range of its word, in openings
SMOOTHING = 1 / 15  # seconds on either side of a step over which its speed is taken


@settings
class Hand:
    """A hand or gripper.

    Attributes:
        dims: Names or indices of its values in the state vector.
        open: What they read when fully open, one number for all of them or one each.
        closed: What they read when fully closed, likewise.
        hidden: Episode -> ranges [first, last + 1) of its frames in which the picture does not show the hand. There it
            is said to be out of clear view, whatever its readings.
    """

    dims: Dims
    open: float | tuple[float, ...] = 1.0
    closed: float | tuple[float, ...] = 0.0
    hidden: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.dims:
            raise ValueError("a hand needs at least one dimension under `dims`")
        for name, value in (("open", self.open), ("closed", self.closed)):
            if isinstance(value, tuple) and len(value) != len(self.dims):
                raise ValueError(f"`{name}` has {len(value)} numbers for {len(self.dims)} dims; give one, or one each")
        if np.any(np.equal(self.open, self.closed)):
            raise ValueError("`open` and `closed` must differ, otherwise the hand has no opening")
        for episode, ranges in self.hidden.items():
            if not all(0 <= start < end for start, end in ranges):
                raise ValueError(f"`hidden` of episode {episode}: each range is [first frame, last frame + 1]")


@settings
class Proprioception:
    """Which values of the state vector are which part of the robot, and what to say of them.

    Attributes:
        arms: Part -> names or indices of its joints (rad).
        hands: Part -> hand.
        say: Claims in the order to say them: `moving`, `hand` (every hand) or `hand:<part>`, `motion_done`; empty for
            all.
        moving_from: Speed from which an arm moves (joint units per second, the norm over its joints).
        open_from: Opening from which a hand is open, 0 fully closed to 1 fully open; below it is half closed.
        closed_to: Opening up to which it is closed.
    """

    arms: dict[str, Dims]
    hands: dict[str, Hand]
    say: tuple[str, ...] = ()
    moving_from: float = 0.1
    open_from: float = 0.6
    closed_to: float = 0.4

    def __post_init__(self) -> None:
        parts = [*self.arms, *self.hands]
        wrong = [part for part in parts if not re.fullmatch(r"[\w-]+", part) or part in ("none", "and")]
        if wrong or not parts:
            raise ValueError(f"name at least one part, each by one word other than none and and; wrong: {wrong}")
        if not all(self.arms.values()):
            raise ValueError("an arm needs at least one dimension")
        if self.moving_from <= 0 or not 0 <= self.closed_to < self.open_from <= 1:
            raise ValueError("moving_from must be above 0, and 0 <= closed_to < open_from <= 1")
        unknown = [name for name in self.say if name not in self.sayable]
        if unknown:
            raise ValueError(f"say: {unknown[0]!r} is not a claim of these parts, {nearest(unknown[0], self.sayable)}")

    @property
    def sayable(self) -> list[str]:
        """Every entry that `say` may have for these parts."""
        hands = ["hand", *(f"hand:{part}" for part in self.hands)] if self.hands else []
        return [*hands, *(("moving", "motion_done") if self.arms else ())]

    def names(self) -> tuple[str, ...]:
        """The claims to say, in order, with one claim per hand for `hand`."""
        wanted = self.say or tuple(family for family in FAMILIES if family in self.sayable)
        listed = [[f"hand:{part}" for part in self.hands] if name == "hand" else [name] for name in wanted]
        return tuple(dict.fromkeys(name for names in listed for name in names))


def resolve(parts: Proprioception, names: Sequence[str], width: int, *, where: str) -> dict[str, list[int]]:
    """Each part (`arm:left`, `hand:right`) -> indices of its values in a state vector.

    Args:
        parts: The configured parts.
        names: Names of the vector's values, empty where the data set has none.
        width: Number of its values.
        where: The file that describes it, for errors.

    Raises:
        ConfigError: For a name that is not among `names`, and for an index outside the vector.
    """

    def index(part: str, dim: int | str) -> int:
        if isinstance(dim, int):
            if not 0 <= dim < width:
                raise ConfigError(f"{where}, {part}", f"index {dim} is outside the state vector of {width} values")
            return dim
        if dim not in names:
            known = nearest(dim, list(names) or ["-"])
            raise ConfigError(f"{where}, {part}", f"the state vector has no value named {dim!r}, {known}")
        return list(names).index(dim)

    dims = {f"arm:{part}": dims for part, dims in parts.arms.items()}
    dims |= {f"hand:{part}": hand.dims for part, hand in parts.hands.items()}
    return {part: [index(part, dim) for dim in wanted] for part, wanted in dims.items()}


def motion_states(vectors: Vectors, fps: float) -> list[State]:
    """States of an episode whose vectors [T, D] are not assigned to parts: "motion" alone."""
    return [{"motion": motion} for motion in _motion(_speed(vectors, fps))]


def part_states(
    vectors: Vectors, fps: float, parts: Proprioception, *, dims: dict[str, list[int]], episode: str = ""
) -> list[State]:
    """One State per frame of the vectors [T, D] of `episode`; `dims` from `resolve`.

    Keys: motion (0..1 of the episode's fastest; over all parts, a hand counted in openings), `speed:<arm>` (joint
    units per second), `openness:<hand>` (0 closed .. 1 open), `hidden:<hand>` (1 where the episode's pictures do not
    show a hand, only in an episode where that is said), and motion_done (0..1, the share of its joint path
    that the arm with the longest path has covered; 0 throughout where no arm moves).
    """
    columns: dict[str, Vectors] = {}
    moving: list[Vectors] = []
    paths: list[Vectors] = []
    for part in parts.arms:
        joints = vectors[:, dims[f"arm:{part}"]]
        speed = _speed(joints, fps)
        columns[f"speed:{part}"] = speed
        paths.append(np.concatenate([[0.0], np.cumsum(speed[:-1])]))
        moving.append(joints)
    for part, hand in parts.hands.items():
        openness = (vectors[:, dims[f"hand:{part}"]] - np.asarray(hand.closed)) / np.subtract(hand.open, hand.closed)
        columns[f"openness:{part}"] = np.clip(openness, 0, 1).mean(axis=1)
        moving.append(openness / np.sqrt(openness.shape[1]))
        if ranges := hand.hidden.get(episode):
            frames = np.arange(len(vectors))
            inside = [(start <= frames) & (frames < end) for start, end in ranges]
            columns[f"hidden:{part}"] = np.any(inside, axis=0).astype(np.float64)
    if paths:
        longest = max(paths, key=lambda path: float(path[-1]))
        columns["motion_done"] = longest / max(float(longest[-1]), 1e-9)
    columns["motion"] = np.array(_motion(_speed(np.concatenate(moving, axis=1), fps)))
    return [{name: float(column[frame]) for name, column in columns.items()} for frame in range(len(vectors))]


def claims(state: State, parts: Proprioception) -> tuple[Claim, ...]:
    """The claims of `parts.say` for a State made by `part_states`."""
    found: list[Claim] = []
    for name in parts.names():
        if name == "moving":
            arms = [part for part in parts.arms if state[f"speed:{part}"] >= parts.moving_from]
            found.append(Claim(name, " and ".join(arms) or "none"))
        elif name == "motion_done":
            found.append(Claim(name, ROUNDING * round(100 * state["motion_done"] / ROUNDING)))
        else:
            part = name.removeprefix("hand:")
            openness = state[f"openness:{part}"]
            half = "closed" if openness <= parts.closed_to else "half closed"
            seen = "open" if openness >= parts.open_from else half
            found.append(Claim(name, UNSEEN if state.get(f"hidden:{part}") else seen))
    return tuple(found)


def holds(claim: Claim, state: State, parts: Proprioception) -> bool:
    """Whether `claim` is true of the numbers in `state`: openings within SLACK, speeds within a tenth, percent within
    half a step. False for a claim about something that the state does not record.
    """
    family, _, part = claim.name.partition(":")
    if family == "motion_done" and "motion_done" in state:
        return isinstance(claim.value, int) and abs(claim.value / 100 - state["motion_done"]) <= ROUNDING / 200 + 1e-6
    if family == "hand" and state.get(f"hidden:{part}"):
        return claim.value == UNSEEN
    if family == "hand" and f"openness:{part}" in state:
        low, high = parts.closed_to, parts.open_from
        ranges = {"closed": (0.0, low + SLACK), "half closed": (low - SLACK, high + SLACK), "open": (high - SLACK, 1.0)}
        least, most = ranges.get(str(claim.value), (1.0, 0.0))
        return bool(least <= state[f"openness:{part}"] <= most)
    if family == "moving" and not part:
        speeds = {key.removeprefix("speed:"): value for key, value in state.items() if key.startswith("speed:")}
        named = set() if claim.value == "none" else set(str(claim.value).split(" and "))
        fast = {arm for arm, speed in speeds.items() if speed >= 0.9 * parts.moving_from}
        still = {arm for arm, speed in speeds.items() if speed <= 1.1 * parts.moving_from}
        return bool(speeds) and named <= fast and set(speeds) - named <= still
    return False


def _speed(values: Vectors, fps: float) -> Vectors:
    """Speed [T] between each frame and the next, in units of `values` [T, D] per second; 0 for the last frame.

    Taken over a few frames on either side, ends cut, so that jitter cancels instead of adding up.
    """
    count = len(values)
    reach = round(SMOOTHING * fps)
    before = np.maximum(np.arange(count) - reach, 0)
    after = np.minimum(np.arange(count) + 1 + reach, count - 1)
    speed: Vectors = np.linalg.norm(values[after] - values[before], axis=1) * fps / np.maximum(after - before, 1)
    speed[-1] = 0.0
    return speed


def _motion(speed: Vectors) -> list[float]:
    return [float(value) for value in speed / max(float(speed.max()), 1e-9)]
