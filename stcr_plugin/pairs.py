"""Episode -> Pair: which episodes stand in which split, and which two frames of an episode make a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, settings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion, Pair, Segment, State

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

# Candidates looked at where phases are asked for: all of them in a short episode, this many at random in a
# long one, so that an hour of video without `max_seconds` does not list its billions of pairs.
_POOL = 100_000


@settings
class SplitRule:
    """Which episodes a split takes: their ids, a count, or a share of those in `group` (all where None).

    Counts and shares are spread evenly over the recording order, since scenes drift while recording.
    """

    episodes: int | tuple[str, ...] | None = None
    fraction: float | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if (self.episodes is None) == (self.fraction is None):
            raise ValueError("give either `episodes` (a count, or a list of ids) or `fraction`")
        if self.episodes in (0, ()) or (isinstance(self.episodes, int) and self.episodes < 0):
            raise ValueError("`episodes` must be a count of at least 1, or a list of ids")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"`fraction` must be above 0 and at most 1, got {self.fraction}")


@settings
class PairRules:
    """How far apart the two frames of a pair stand, and how many pairs an episode gives.

    within_phase: wanted share of pairs whose two frames share a phase; where an episode has too few of one
    sort, the other sort fills up (the manifest counts both). trim_idle: frames at a segment's head and tail
    between which less than this moves (State "motion", 0..1) are left out, all but the one next to the
    movement. drop_last_frames: native frames cut from the end of every segment before that.
    """

    per_episode: int = 16
    min_seconds: float | None = None
    max_seconds: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    within_phase: float | None = None
    trim_idle: float | None = None
    drop_last_frames: int = 0

    def __post_init__(self) -> None:
        if self.per_episode < 1:
            raise ValueError(f"`per_episode` must be at least 1, got {self.per_episode}")
        if self.drop_last_frames < 0:
            raise ValueError(f"`drop_last_frames` must not be negative, got {self.drop_last_frames}")
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
    """What one episode gave: its pairs in time order, and the segments that were set aside."""

    pairs: tuple[Pair, ...]
    excluded: tuple[Exclusion, ...]


def assign_splits(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> dict[str, list[Episode]]:
    """Split name -> its episodes in recording order; no episode stands in two.

    Lists of ids are served before counts and fractions, those in the order of the configuration. Fractions are
    of the whole group, rounded so that fractions that add up to 1 leave no episode over.
    Raises ConfigError for an unknown id or group, an id in two splits, and a rule that asks for too many.
    """
    by_id = {episode.episode_id: episode for episode in episodes}
    groups = sorted({episode.group for episode in episodes})
    taken: dict[str, str] = {}
    for name, rule in rules.items():
        if rule.group is not None and rule.group not in groups:
            raise ConfigError(
                f"splits.{name}.group: no episode is of group {rule.group!r}, {nearest(rule.group, groups)}"
            )
        for episode_id in rule.episodes if isinstance(rule.episodes, tuple) else ():
            if episode_id not in by_id:
                raise ConfigError(
                    f"splits.{name}.episodes: no usable episode {episode_id!r}, {nearest(episode_id, list(by_id))}"
                )
            if episode_id in taken:
                raise ConfigError(
                    f"splits.{name}.episodes: episode {episode_id!r} already stands in {taken[episode_id]}"
                )
            taken[episode_id] = name
    shares: dict[str | None, float] = {}
    for name, rule in rules.items():
        if isinstance(rule.episodes, tuple):
            continue
        group = [episode for episode in episodes if rule.group in (None, episode.group)]
        left = [episode for episode in group if episode.episode_id not in taken]
        if rule.fraction is not None:
            before = shares.get(rule.group, 0.0)
            shares[rule.group] = before + rule.fraction
            count = math.floor(shares[rule.group] * len(group) + 0.5) - math.floor(before * len(group) + 0.5)
        else:
            count = rule.episodes or 0
        if not 0 < count <= len(left):
            which = f"of group {rule.group!r} " if rule.group is not None else ""
            raise ConfigError(
                f"splits.{name}: asks for {count} episodes {which}and {len(left)} are free "
                f"({len(group)} in all); change what the splits ask for, or record more"
            )
        taken |= {left[position].episode_id: name for position in _spread(len(left), count)}
    return {name: [episode for episode in episodes if taken.get(episode.episode_id) == name] for name in rules}


def draw_pairs(episode: Episode, states: Sequence[State] | None, rules: PairRules, split: str, seed: int) -> Drawn:
    """Up to `rules.per_episode` pairs of `episode`, uniformly among all that the rules allow, none twice.

    The draw depends on `seed` and the episode's id alone, so other episodes may come and go. Segments that
    are too short for any pair are set aside.
    Raises ConfigError where the rules need a state that the source does not record, DataError where there is
    not one state a frame.
    """
    import numpy as np

    if states is not None and len(states) != episode.n_frames:
        raise DataError(f"episode {episode.episode_id}: {len(states)} states for {episode.n_frames} frames")
    excluded: list[Exclusion] = []
    segment_of: list[int] = []  # one entry for every (segment, distance): where its candidates start, how many
    distances: list[Integers] = []
    starts: list[Integers] = []
    counts: list[Integers] = []
    shortest, longest = rules.distances(episode.fps)
    for number, segment in enumerate(episode.segments):
        start, end = _usable(episode, segment, states, rules)
        here = np.arange(shortest, min(longest, end - start - 1) + 1, dtype=np.int64)
        if here.size == 0:
            where = f"episode {episode.episode_id}, frames {segment.start}-{segment.end}"
            excluded.append(Exclusion("segment", where, "too short for any pair that the rules allow"))
        segment_of += [number] * here.size
        distances.append(here)
        starts.append(np.full(here.size, start))
        counts.append(end - start - here)
    if not segment_of:
        return Drawn((), tuple(excluded))

    rng = np.random.default_rng(int(artefacts.digest([seed, episode.episode_id])[:16], 16))
    ends = np.cumsum(np.concatenate(counts))
    total = int(ends[-1])
    # Overlapping segments may offer the same two frames, so a few more are drawn than are needed.
    spare = rules.per_episode * len(episode.segments)
    ranks = rng.choice(total, size=min(total, _POOL if rules.within_phase is not None else spare), replace=False)
    rows = np.searchsorted(ends, ranks, side="right")
    earlier = np.concatenate(starts)[rows] + ranks - (ends - np.concatenate(counts))[rows]
    later = earlier + np.concatenate(distances)[rows]

    candidates: dict[tuple[int, int], Segment] = {}
    for row, first, second in zip(rows.tolist(), earlier.tolist(), later.tolist(), strict=True):
        candidates.setdefault((first, second), episode.segments[segment_of[row]])
    chosen = sorted(_choose(list(candidates), states, rules, episode.episode_id))
    pairs = tuple(
        Pair(
            pair_id=f"{episode.episode_id}:{first}-{second}",
            episode_id=episode.episode_id,
            split=split,
            task=candidates[first, second].task,
            earlier=first,
            later=second,
            seconds=(second - first) / episode.fps,
            phase=_phase(states, first, second),
        )
        for first, second in chosen
    )
    return Drawn(pairs, tuple(excluded))


def _choose(
    candidates: list[tuple[int, int]], states: Sequence[State] | None, rules: PairRules, episode_id: str
) -> list[tuple[int, int]]:
    """The first `per_episode` of the shuffled candidates, with the wanted share inside one phase."""
    if rules.within_phase is None:
        return candidates[: rules.per_episode]
    if states is None or any("phase" not in state for state in states):
        raise ConfigError(
            f"pairs.within_phase: episode {episode_id} has no state 'phase'; set it to null for this source"
        )
    within = [pair for pair in candidates if states[pair[0]]["phase"] == states[pair[1]]["phase"]]
    across = [pair for pair in candidates if states[pair[0]]["phase"] != states[pair[1]]["phase"]]
    wanted = math.floor(rules.per_episode * rules.within_phase + 0.5)
    n_within = min(len(within), max(wanted, rules.per_episode - len(across)))
    return within[:n_within] + across[: rules.per_episode - n_within]


def _usable(episode: Episode, segment: Segment, states: Sequence[State] | None, rules: PairRules) -> tuple[int, int]:
    """The segment's frames [start, end) without the dropped tail and the idle ends."""
    start, end = segment.start, max(segment.start, segment.end - rules.drop_last_frames)
    if rules.trim_idle is None:
        return start, end
    if states is None or any("motion" not in state for state in states):
        raise ConfigError(
            f"pairs.trim_idle: episode {episode.episode_id} has no state 'motion'; set it to null for this source"
        )
    # "motion" is between a frame and the next, so a frame shows nothing new if that of the one before is small.
    while start < end - 1 and states[start]["motion"] < rules.trim_idle:
        start += 1
    while start < end - 1 and states[end - 2]["motion"] < rules.trim_idle:
        end -= 1
    return start, end


def _phase(states: Sequence[State] | None, earlier: int, later: int) -> str:
    if states is None or "phase" not in states[earlier] or "phase" not in states[later]:
        return ""
    first, second = states[earlier]["phase"], states[later]["phase"]
    return str(first) if first == second else f"{first}>{second}"


def _spread(length: int, count: int) -> list[int]:
    """`count` positions spread evenly over range(length): the middle one of `count` equal parts."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
