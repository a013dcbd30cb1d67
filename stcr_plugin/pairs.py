"""Episode -> Pair: which two frames of an episode make a pair, and which of them is closer to completion."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Closer, Episode, Exclusion, GivenPair, Pair, Segment, State, under

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

# Candidates looked at where phases or progress matter: all of them in a short episode, this many at random in a
# long one, so that an hour of video without `max_seconds` does not list its billions of pairs.
_POOL = 100_000
_CLOSER: dict[float, Closer] = {1.0: "later", -1.0: "earlier", 0.0: "neither"}
_Asked = dict[tuple[int, int], list[tuple[int, Closer]]]
"""Two frames -> the segments whose tasks are asked about them, with the frame that is closer."""
_SHORT = "too short for any pair that the rules allow"
_STILL = "nothing moves: less than pairs.trim_idle from its first frame to its last"


@settings
class Refine:
    """Decisions about pairs whose labels a trained model contradicts.

    Attributes:
        file: A file that `stcr data refine` wrote for a build of the same source, seed and pair rules.
    """

    file: str


@settings
class PairRules:
    """How far apart the two frames of a pair are, and how many pairs an episode gives.

    Attributes:
        per_episode: At most this many pairs per episode.
        min_seconds: Smallest distance in time.
        max_seconds: Largest distance in time.
        min_frames: Smallest distance in native frames.
        max_frames: Largest distance in native frames.
        within_phase: Wanted share of pairs whose two frames share a phase; where an episode has too few of one
            kind, the other kind fills up (the manifest counts both).
        trim_idle: Frames at a segment's start and end between which less than this moves (State "motion", 0..1) are
            left out, all but the one next to the movement.
        drop_last_frames: Native frames cut from the end of every segment before that.
        drop_from_frames: Shorter segments keep their last frames.
        keep_tail: Words; a segment whose task has one of them keeps its last frames.
        stride: Use every n-th frame only; a segment covers those from ceil(start/stride) to floor(end/stride), as the
            STCR authors take one in ten.
        label: Which frame is closer to completion: the later one (order), or the one whose state "progress" is
            greater. By progress, pairs with a frame whose progress is unknown are dropped (the manifest counts them).
        tie_within: By progress, pairs less than this apart in it, or equal, are ties.
        ties: Drop ties (the manifest counts them), or teach them as a third answer, "neither".
        refine: Leave out contradicted pairs, or teach them as ties, as a file decides; the manifest counts them.
        tasks: Of two frames that several segments hold, one pair with the task of one of them (one); or two pairs, with
            a task by which the later frame is closer and one by which the earlier is (opposed), so that nothing but the
            task's text decides. Frames without two such tasks count as ties. Needs `label: progress`.
    """

    per_episode: int = 16
    min_seconds: float | None = None
    max_seconds: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    within_phase: float | None = None
    trim_idle: float | None = None
    drop_last_frames: int = 0
    drop_from_frames: int = 0
    keep_tail: tuple[str, ...] = ()
    stride: int = 1
    label: Literal["order", "progress"] = "order"
    tie_within: float = 0.0
    ties: Literal["drop", "teach"] = "drop"
    refine: Refine | None = None
    tasks: Literal["one", "opposed"] = "one"

    def __post_init__(self) -> None:
        if self.per_episode < 1:
            raise ValueError(f"`per_episode` must be at least 1, got {self.per_episode}")
        for name in ("drop_last_frames", "drop_from_frames", "tie_within"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.stride < 1:
            raise ValueError(f"`stride` must be at least 1, got {self.stride}")
        if self.label == "order" and self.tie_within:
            raise ValueError("`tie_within` needs `label: progress`: labels by order have no ties")
        if self.tasks == "opposed" and (self.label == "order" or self.ties == "teach"):
            raise ValueError("`tasks: opposed` needs `label: progress` and `ties: drop`")
        for name in ("within_phase", "trim_idle"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {share}")
        for unit in ("seconds", "frames"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if (low is not None and low < 0) or (high is not None and high <= 0):
                raise ValueError(f"`min_{unit}` must not be negative and `max_{unit}` must be positive")
            if low is not None and high is not None and low > high:
                raise ValueError(f"`min_{unit}` {low} is above `max_{unit}` {high}")

    def distances(self, fps: float) -> tuple[int, float]:
        """Smallest and largest allowed distance in native frames; the largest may be infinite."""
        # The small constant keeps 0.3 s at 10 fps at 3 frames where floating point says 3.0000000000000004.
        low = max(1, self.min_frames or 1, math.ceil((self.min_seconds or 0) * fps - 1e-9))
        high = [math.inf if self.max_frames is None else self.max_frames]
        if self.max_seconds is not None:
            high.append(math.floor(self.max_seconds * fps + 1e-9))
        return low, min(high)


@dataclass(frozen=True)
class Drawn:
    """The pairs of one episode.

    Attributes:
        pairs: In order of time.
        excluded: Segments that cannot be used.
        tied: By label progress, how many of the candidates were dropped as ties.
        unlabelled: How many were dropped since the progress of a frame is unknown.
    """

    pairs: tuple[Pair, ...]
    excluded: tuple[Exclusion, ...]
    tied: int = 0
    unlabelled: int = 0


def draw_pairs(
    episode: Episode,
    states: Sequence[State] | None,
    rules: PairRules,
    *,
    split: str,
    seed: int,
    balanced: bool = False,
) -> Drawn:
    """Draw up to `rules.per_episode` pairs of `episode`, uniformly among all that the rules allow, none twice.

    The draw depends on `seed` and the episode's id alone, so other episodes may come and go. Segments that
    are too short for any pair are excluded.

    Args:
        episode: The episode.
        states: Its states, one per frame, or None.
        rules: What is allowed.
        split: Written into the pairs.
        seed: Of the build.
        balanced: By label progress, take as many pairs whose earlier frame is closer as pairs whose later frame is;
            where there are too few of one kind, the other fills up.

    Raises:
        ConfigError: Where the rules need a state that the source does not record.
        DataError: Where there is not one state per frame.
    """
    if states is not None and len(states) != episode.n_frames:
        raise DataError(f"episode {episode.episode_id}", f"{len(states)} states for {episode.n_frames} frames")
    if rules.label == "progress":
        _need("progress", states, episode, setting="pairs.label", fix="set it to order for this source")
    excluded, candidates = _candidates(episode, states, rules, seed=seed)
    if not candidates:
        return Drawn((), tuple(excluded))
    asked: _Asked = {frames: [(number, "later")] for frames, number in candidates.items()}
    tied = unlabelled = 0
    if rules.label == "progress" and states is not None:
        asked, tied, unlabelled = _by_progress(episode, states, candidates, rules=rules, seed=seed)
    twice = rules.tasks == "opposed" and any(len(labels) > 1 for labels in asked.values())
    if balanced and not twice:  # opposed tasks are balanced by themselves
        closer = {frames: label for frames, ((_, label),) in asked.items()}
        chosen = _in_balance(list(asked), closer, rules)
    else:
        chosen = _choose(list(asked), states, rules, episode=episode, count=max(1, rules.per_episode // (1 + twice)))
    pairs = []
    for frames in sorted(chosen):
        for number, label in asked[frames]:
            given = GivenPair(*frames, episode.segments[number].task, closer=label)
            pair = _pair(episode, states, given, split=split)
            pairs.append(replace(pair, pair_id=f"{pair.pair_id}:{number}") if len(asked[frames]) > 1 else pair)
    return Drawn(tuple(pairs), tuple(excluded), tied=tied, unlabelled=unlabelled)


def _by_progress(
    episode: Episode, states: Sequence[State], candidates: dict[tuple[int, int], int], *, rules: PairRules, seed: int
) -> tuple[_Asked, int, int]:
    """What is asked of the candidates (frames -> a segment of theirs), and how many are ties and without a label."""
    import numpy as np

    rng = artefacts.rng(seed, episode.episode_id, "tasks")
    progress = np.array(
        [[under(state, segment.task)["progress"] for state in states] for segment in episode.segments], dtype=np.float64
    )
    earlier, later = np.array(list(candidates)).T
    own = np.array(list(candidates.values()))
    signs = []  # of each task, for all candidates: 1 where the later frame is closer, -1 the earlier, 0 neither, NaN
    for number in range(len(episode.segments)) if rules.tasks == "opposed" else [own]:
        gain = progress[number, later] - progress[number, earlier]
        sign = np.where(np.abs(gain) < rules.tie_within, 0.0, np.sign(gain))
        if rules.tasks == "opposed":
            segment = episode.segments[number]
            sign[(earlier < segment.start) | (later >= segment.end)] = np.nan
        signs.append(sign)
    asked: _Asked = {}
    tied = unlabelled = 0
    for frames, labels in zip(candidates, np.stack(signs, axis=1).tolist(), strict=True):
        numbers = range(len(labels)) if rules.tasks == "opposed" else (candidates[frames],)
        known = [(number, _CLOSER[one]) for number, one in zip(numbers, labels, strict=True) if not math.isnan(one)]
        kept = _opposed(known, rng) if len(known) > 1 else known
        if rules.ties == "drop":
            kept = [one for one in kept if one[1] != "neither"]
        if kept:
            asked[frames] = kept
        tied += bool(known and not kept)
        unlabelled += not known
    return asked, tied, unlabelled


def _opposed(labels: Sequence[tuple[int, Closer]], rng: np.random.Generator) -> list[tuple[int, Closer]]:
    """One label that says later and one that says earlier; none of either where one of them is missing."""
    sides = [[one for one in labels if one[1] == label] for label in ("later", "earlier")]
    if not all(sides):
        return []
    return [side[int(rng.integers(len(side)))] for side in sides]


def _candidates(
    episode: Episode, states: Sequence[State] | None, rules: PairRules, *, seed: int
) -> tuple[list[Exclusion], dict[tuple[int, int], int]]:
    """Segments too short for any pair; and pairs of frames that the rules allow, in random order, with a segment."""
    import numpy as np

    excluded: list[Exclusion] = []
    segment_of: list[int] = []  # one entry for every (segment, distance): where its candidates start, how many
    distances: list[Integers] = []
    starts: list[Integers] = []
    counts: list[Integers] = []
    shortest, longest = rules.distances(episode.fps)
    shortest, longest = math.ceil(shortest / rules.stride), longest / rules.stride
    for number, segment in enumerate(episode.segments):
        start, end = _usable(episode, segment, states, rules=rules)
        here = np.arange(shortest, math.floor(min(longest, end - start - 1)) + 1, dtype=np.int64)
        if here.size == 0:
            where = f"episode {episode.episode_id}, frames {segment.start}-{segment.end}"
            still = _is_still(segment, states, rules)
            excluded.append(Exclusion("segment", where, _STILL if still else _SHORT))
        segment_of += [number] * here.size
        distances.append(here)
        starts.append(np.full(here.size, start))
        counts.append(end - start - here)
    if not segment_of:
        return excluded, {}
    rng = artefacts.rng(seed, episode.episode_id)
    ends = np.cumsum(np.concatenate(counts))
    total = int(ends[-1])
    # Overlapping segments may offer the same two frames, so a few more are drawn than are needed.
    spare = rules.per_episode * len(episode.segments)
    looks = rules.within_phase is not None or rules.label == "progress"
    ranks = rng.choice(total, size=min(total, _POOL if looks else spare), replace=False)
    rows = np.searchsorted(ends, ranks, side="right")
    earlier = np.concatenate(starts)[rows] + ranks - (ends - np.concatenate(counts))[rows]
    later = earlier + np.concatenate(distances)[rows]
    candidates: dict[tuple[int, int], int] = {}
    for row, first, second in zip(rows.tolist(), earlier.tolist(), later.tolist(), strict=True):
        candidates.setdefault((first * rules.stride, second * rules.stride), segment_of[row])
    return excluded, candidates


def take_given(
    episode: Episode, states: Sequence[State] | None, given: Sequence[GivenPair], *, rules: PairRules, split: str
) -> Drawn:
    """The pairs that a source brings with it for the segments of `episode`, without ties where `rules` drop those.

    No other rule applies.

    Raises:
        DataError: For a pair that leaves its episode.
    """
    own = {segment.task for segment in episode.segments}
    given = [pair for pair in given if pair.task in own]
    for pair in given:
        if not 0 <= pair.earlier < pair.later < episode.n_frames or not pair.orders:
            problem = f"the given pair {pair.earlier}-{pair.later} is not in its {episode.n_frames} frames"
            raise DataError(f"episode {episode.episode_id}", problem, "fix the file that lists it")
    kept = [pair for pair in given if pair.closer != "neither" or rules.ties == "teach"]
    pairs = tuple(_pair(episode, states, pair, split=split) for pair in kept)
    return Drawn(pairs, (), tied=len(given) - len(pairs))


def _pair(episode: Episode, states: Sequence[State] | None, frames: GivenPair, *, split: str) -> Pair:
    return Pair(
        pair_id=f"{episode.episode_id}:{frames.earlier}-{frames.later}",
        episode_id=episode.episode_id,
        split=split,
        task=frames.task,
        earlier=frames.earlier,
        later=frames.later,
        seconds=(frames.later - frames.earlier) / episode.fps,
        closer=frames.closer,
        orders=frames.orders,
        phase=_phase(states, frames.earlier, frames.later),
    )


def _choose(
    candidates: list[tuple[int, int]],
    states: Sequence[State] | None,
    rules: PairRules,
    *,
    episode: Episode,
    count: int,
) -> list[tuple[int, int]]:
    """The first `count` of the shuffled candidates, with the wanted share inside one phase."""
    if rules.within_phase is None:
        return candidates[:count]
    states = _need("phase", states, episode, setting="pairs.within_phase")
    within = [pair for pair in candidates if states[pair[0]]["phase"] == states[pair[1]]["phase"]]
    across = [pair for pair in candidates if states[pair[0]]["phase"] != states[pair[1]]["phase"]]
    wanted = math.floor(count * rules.within_phase + 0.5)
    n_within = min(len(within), max(wanted, count - len(across)))
    return within[:n_within] + across[: count - n_within]


def _in_balance(
    candidates: Sequence[tuple[int, int]], closer: Mapping[tuple[int, int], Closer], rules: PairRules
) -> list[tuple[int, int]]:
    """The first `per_episode` of the shuffled candidates: ties with their share, the rest half of each direction."""
    ties = [pair for pair in candidates[: rules.per_episode] if closer[pair] == "neither"]
    earlier, later = ([pair for pair in candidates if closer[pair] == kind] for kind in ("earlier", "later"))
    room = rules.per_episode - len(ties)
    n_earlier = min(len(earlier), max(room // 2, room - len(later)))
    return [*ties, *earlier[:n_earlier], *later[: room - n_earlier]]


def _usable(episode: Episode, segment: Segment, states: Sequence[State] | None, *, rules: PairRules) -> tuple[int, int]:
    """The segment's frames [start, end), in strides, without the dropped tail and the idle ends."""
    start, end = segment.start, segment.end
    strides = end // rules.stride - -(-start // rules.stride)
    keeps_tail = any(word.lower() in segment.task.lower() for word in rules.keep_tail)
    if strides * rules.stride >= rules.drop_from_frames and not keeps_tail:
        end = max(start, end - rules.drop_last_frames)
    if rules.trim_idle is not None:
        moving = _need("motion", states, episode, setting="pairs.trim_idle")
        # "motion" is between a frame and the next: a frame shows nothing new if that of the one before it is small.
        while start < end - 1 and moving[start]["motion"] < rules.trim_idle:
            start += 1
        while start < end - 1 and moving[end - 2]["motion"] < rules.trim_idle:
            end -= 1
    return -(-start // rules.stride), max(end // rules.stride, -(-start // rules.stride))


def _is_still(segment: Segment, states: Sequence[State] | None, rules: PairRules) -> bool:
    """Whether nothing moves in a segment, so that no frame is left of it without its idle ends."""
    if rules.trim_idle is None or states is None or segment.end - segment.start < 2:
        return False
    return all(states[frame]["motion"] < rules.trim_idle for frame in range(segment.start, segment.end - 1))


def _need(
    name: str,
    states: Sequence[State] | None,
    episode: Episode,
    *,
    setting: str,
    fix: str = "set it to null for this source",
) -> Sequence[State]:
    """`states`, which all have `name`. Raises ConfigError naming the setting that needs it."""
    if states is None or any(name not in state for state in states):
        raise ConfigError(setting, f"episode {episode.episode_id} has no state {name!r}", fix)
    return states


def _phase(states: Sequence[State] | None, earlier: int, later: int) -> str:
    if states is None or "phase" not in states[earlier] or "phase" not in states[later]:
        return ""
    first, second = states[earlier]["phase"], states[later]["phase"]
    return str(first) if first == second else f"{first}>{second}"


class OfEpisode(Protocol):
    """Anything that belongs to one episode."""

    @property
    def episode_id(self) -> str: ...


class Named(OfEpisode, Protocol):
    """Anything with the id of a pair."""

    @property
    def pair_id(self) -> str: ...


T = TypeVar("T", bound=OfEpisode)
N = TypeVar("N", bound=Named)


def spread(pairs: Sequence[N], limit: int | None, seed: int = 0) -> list[N]:
    """`limit` of `pairs` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    drawn = sorted(pairs, key=lambda pair: artefacts.digest([seed, pair.pair_id]))
    chosen = {pair.pair_id for pair in evenly(drawn, limit, seed)}
    return [pair for pair in pairs if pair.pair_id in chosen]


def evenly(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of `items`: the first of each episode before any second, and so on; all without a limit."""
    if limit is None:
        return list(items)
    if limit < 1:
        raise ConfigError(f"limit {limit}", "must be at least 1")
    taken: dict[str, int] = defaultdict(int)
    ranked = []
    for number, item in enumerate(items):
        ranked.append((taken[item.episode_id], artefacts.digest([seed, item.episode_id]), number))
        taken[item.episode_id] += 1
    return [items[number] for _, _, number in sorted(ranked)[:limit]]
