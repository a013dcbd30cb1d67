"""Episode -> Pair: which episodes stand in which split, and which two frames of an episode make a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, settings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Closer, Episode, Exclusion, GivenPair, Omission, Pair, Segment, State

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

# Candidates looked at where phases are asked for: all of them in a short episode, this many at random in a
# long one, so that an hour of video without `max_seconds` does not list its billions of pairs.
_POOL = 100_000

_Held = dict[tuple[str, str], set[str]]
"""("task", a segment's text) or ("object", its name) -> the splits that hold it out."""


@settings
class SplitRule:
    """Which episodes a split takes: their ids, a count, or a share of those in `group` (all where None).

    tasks, objects: a list of names, or how many of them: every episode with one of these belongs to this split or to
    none, so that what is evaluated was never trained on. A task is the text of a segment, which is what pairs are asked
    with; the task of a whole episode stands for the texts of all its segments, and a number is one of whole tasks. Of
    an episode that has other tasks too, the held-out segments alone are used. With them, `episodes` and `fraction` may
    stay out (all).
    Counts and shares are spread evenly over the recording order, since scenes drift while recording.
    """

    episodes: int | tuple[str, ...] | None = None
    fraction: float | None = None
    group: str | None = None
    tasks: int | tuple[str, ...] | None = None
    objects: int | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        chosen = self.tasks is not None or self.objects is not None
        if self.episodes is not None and self.fraction is not None:
            raise ValueError("give either `episodes` (a count, or a list of ids) or `fraction`, not both")
        if self.episodes is None and self.fraction is None and not chosen:
            raise ValueError(
                "give either `episodes` (a count, or a list of ids) or `fraction`, or `tasks` or `objects`"
            )
        if chosen and isinstance(self.episodes, tuple):
            raise ValueError("a list of `episodes` goes without `tasks` and `objects`")
        for name in ("episodes", "tasks", "objects"):
            value = getattr(self, name)
            if value in (0, ()) or (isinstance(value, int) and value < 0):
                raise ValueError(f"`{name}` must be a count of at least 1, or a list of names")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"`fraction` must be above 0 and at most 1, got {self.fraction}")


@settings
class PairRules:
    """How far apart the two frames of a pair stand, and how many pairs an episode gives.

    within_phase: wanted share of pairs whose two frames share a phase; where an episode has too few of one
    sort, the other sort fills up (the manifest counts both). trim_idle: frames at a segment's head and tail
    between which less than this moves (State "motion", 0..1) are left out, all but the one next to the
    movement. drop_last_frames: native frames cut from the end of every segment before that, but not of one that
    is shorter than drop_from_frames or whose task holds one of the words in keep_tail.
    stride: only every so many-th frame counts, and a segment covers those from ceil(start/stride) to
    floor(end/stride), as the STCR authors take one in ten.
    label: which frame is closer to completion: the later one (order), or the one whose state "progress" is greater.
    By progress, pairs less than tie_within apart in it, or exactly alike, are ties: dropped, or taught as a third
    answer, "neither"; pairs with a frame whose progress is not known are dropped. The manifest counts both.
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

    def __post_init__(self) -> None:
        if self.per_episode < 1:
            raise ValueError(f"`per_episode` must be at least 1, got {self.per_episode}")
        for name in ("min_seconds", "max_seconds", "tie_within"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"`{name}` must be a finite number, got {getattr(self, name)}; leave it out for none")
        for name in ("drop_last_frames", "drop_from_frames", "tie_within"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.stride < 1:
            raise ValueError(f"`stride` must be at least 1, got {self.stride}")
        if self.label == "order" and self.tie_within:
            raise ValueError("`tie_within` needs `label: progress`: by order there is no tie")
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
    """What one episode gave: its pairs in time order, and the segments that were set aside.

    By label progress: `tied` and `unlabelled` count those among the candidates looked at that were dropped.
    """

    pairs: tuple[Pair, ...]
    excluded: tuple[Exclusion, ...]
    tied: int = 0
    unlabelled: int = 0


def assign_splits(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> dict[str, list[Episode]]:
    """Split name -> its episodes in recording order; no episode stands in two.

    Lists of ids are served before counts and fractions, those in the order of the configuration. Fractions are
    of the whole group, rounded so that fractions that add up to 1 leave no episode over.
    Raises ConfigError for an unknown id or group, an id in two splits, an id that another split holds out, and a rule
    that asks for too many.
    """
    by_id = {episode.episode_id: episode for episode in episodes}
    groups = sorted({episode.group for episode in episodes})
    held = _held_out(episodes, rules)
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
            if holders := _holders(by_id[episode_id], held):
                raise ConfigError(
                    f"splits.{name}.episodes: a task or the object of episode {episode_id!r} is held out by "
                    f"{min(holders)}; take it from one of the two"
                )
            taken[episode_id] = name
    shares: dict[str, float] = {}
    for name, rule in rules.items():
        if isinstance(rule.episodes, tuple):
            continue
        own = rule.tasks is not None or rule.objects is not None
        group = [
            episode
            for episode in episodes
            if rule.group in (None, episode.group) and _holders(episode, held) == ({name} if own else set())
        ]
        left = [episode for episode in group if episode.episode_id not in taken]
        if rule.fraction is not None:
            pool = name if own else f"group {rule.group}"
            before = shares.get(pool, 0.0)
            shares[pool] = before + rule.fraction
            count = math.floor(shares[pool] * len(group) + 0.5) - math.floor(before * len(group) + 0.5)
        else:
            count = len(left) if rule.episodes is None else rule.episodes
        if not 0 < count <= len(left):
            which = f"of group {rule.group!r} " if rule.group is not None else ""
            raise ConfigError(
                f"splits.{name}: asks for {count} episodes {which}and {len(left)} are free "
                f"({len(group)} in all); change what the splits ask for, or record more"
            )
        taken |= {left[position].episode_id: name for position in _spread(len(left), count)}
    split_of: dict[str, list[Episode]] = {name: [] for name in rules}
    for episode in episodes:
        if episode.episode_id in taken:
            split = taken[episode.episode_id]
            split_of[split].append(_held_part(episode, split, held))
    return split_of


def stand_between(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> list[Omission]:
    """The episodes that `assign_splits` gives to no split, since two of them hold out a task or the object of it."""
    held = _held_out(episodes, rules)
    return [
        Omission("episode", episode.episode_id, "its tasks or its object are held out by two splits")
        for episode in episodes
        if len(_holders(episode, held)) > 1
    ]


def _held_out(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> _Held:
    """What is held out, and by which splits. Raises ConfigError for unknown names and for a name in two splits."""
    whole: dict[str, set[str]] = {"task": set(), "object": set()}
    stands_for: dict[tuple[str, str], set[str]] = {}
    for episode in episodes:
        texts = {segment.task for segment in episode.segments}
        whole["task"].add(episode.task)
        whole["object"].add(episode.object)
        stands_for.setdefault(("task", episode.task), set()).update(texts)
        for key, text in (*(("task", text) for text in texts), ("object", episode.object)):
            stands_for.setdefault((key, text), set()).add(text)
    named: dict[tuple[str, str], str] = {}
    held: _Held = {}
    for name, rule in rules.items():
        for key in ("task", "object"):
            wanted = getattr(rule, f"{key}s")
            if isinstance(wanted, int):
                free = [
                    value
                    for value in sorted(whole[key] - {""})
                    if not any((key, text) in held for text in stands_for[key, value])
                ]
                if wanted > len(free):
                    raise ConfigError(f"splits.{name}.{key}s: asks for {wanted} and {len(free)} are free: {free[:9]}")
                wanted = [free[position] for position in _spread(len(free), wanted)]
            for value in wanted or ():
                if (key, value) not in stands_for or not value:
                    known = [text for of, text in stands_for if of == key and text]
                    raise ConfigError(f"splits.{name}.{key}s: no episode has {value!r}, {nearest(value, known)}")
                if named.setdefault((key, value), name) != name:
                    raise ConfigError(f"splits.{name}.{key}s: {value!r} already belongs to {named[key, value]}")
                for text in stands_for[key, value]:
                    held.setdefault((key, text), set()).add(name)
    return held


def _holders(episode: Episode, held: _Held) -> set[str]:
    """The splits that hold out one of the episode's tasks, or its object."""
    keys = [("object", episode.object), *(("task", segment.task) for segment in episode.segments)]
    return {name for key in keys for name in held.get(key, ())}


def _held_part(episode: Episode, split: str, held: _Held) -> Episode:
    """The episode with the segments that its split holds out alone, if it is there for their sake."""
    segments = tuple(segment for segment in episode.segments if split in held.get(("task", segment.task), ()))
    if not segments or split in held.get(("object", episode.object), ()):
        return episode
    return replace(episode, segments=segments)


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
    if rules.label == "progress" and (states is None or any("progress" not in state for state in states)):
        raise ConfigError(
            f"pairs.label: episode {episode.episode_id} has no state 'progress'; set it to order for this source"
        )
    excluded: list[Exclusion] = []
    segment_of: list[int] = []  # one entry for every (segment, distance): where its candidates start, how many
    distances: list[Integers] = []
    starts: list[Integers] = []
    counts: list[Integers] = []
    shortest, longest = rules.distances(episode.fps)
    shortest, longest = math.ceil(shortest / rules.stride), longest / rules.stride
    for number, segment in enumerate(episode.segments):
        start, end = _usable(episode, segment, states, rules)
        here = np.arange(shortest, math.floor(min(longest, end - start - 1)) + 1, dtype=np.int64)
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
    looks = rules.within_phase is not None or rules.label == "progress"
    ranks = rng.choice(total, size=min(total, _POOL if looks else spare), replace=False)
    rows = np.searchsorted(ends, ranks, side="right")
    earlier = np.concatenate(starts)[rows] + ranks - (ends - np.concatenate(counts))[rows]
    later = earlier + np.concatenate(distances)[rows]

    candidates: dict[tuple[int, int], Segment] = {}
    for row, first, second in zip(rows.tolist(), earlier.tolist(), later.tolist(), strict=True):
        candidates.setdefault((first * rules.stride, second * rules.stride), episode.segments[segment_of[row]])
    closer: dict[tuple[int, int], Closer] = {}
    tied = unlabelled = 0
    for frames in candidates if rules.label == "progress" and states is not None else ():
        label = _by_progress(states[frames[0]]["progress"], states[frames[1]]["progress"], rules)  # type: ignore[index]
        unlabelled += label is None
        tied += label == "neither" and rules.ties == "drop"
        if label is not None and (label != "neither" or rules.ties == "teach"):
            closer[frames] = label
    usable = list(candidates) if rules.label == "order" else list(closer)
    pairs = tuple(
        _pair(
            episode,
            states,
            GivenPair(first, second, candidates[first, second].task, closer.get((first, second), "later")),
            split,
        )
        for first, second in sorted(_choose(usable, states, rules, episode.episode_id))
    )
    return Drawn(pairs, tuple(excluded), tied, unlabelled)


def take_given(
    episode: Episode, states: Sequence[State] | None, given: Sequence[GivenPair], rules: PairRules, split: str
) -> Drawn:
    """The pairs that a source brings with it for the segments of `episode`, but for ties where `rules` drop those.

    No other rule applies. Raises DataError for a pair that leaves its episode.
    """
    own = {segment.task for segment in episode.segments}
    given = [pair for pair in given if pair.task in own]
    for pair in given:
        if not 0 <= pair.earlier < pair.later < episode.n_frames or not pair.orders:
            raise DataError(
                f"episode {episode.episode_id}: the given pair {pair.earlier}-{pair.later} is none of its "
                f"{episode.n_frames} frames; mend the file that lists it"
            )
    pairs = tuple(
        _pair(episode, states, pair, split) for pair in given if pair.closer != "neither" or rules.ties == "teach"
    )
    return Drawn(pairs, (), tied=len(given) - len(pairs))


def _pair(episode: Episode, states: Sequence[State] | None, frames: GivenPair, split: str) -> Pair:
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


def _by_progress(earlier: float | None, later: float | None, rules: PairRules) -> Closer | None:
    """Which frame is closer to completion by its state, or None where the truth does not say."""
    if earlier is None or later is None:
        return None
    if later == earlier or abs(later - earlier) < rules.tie_within:
        return "neither"
    return "later" if later > earlier else "earlier"


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
    """The segment's frames [start, end), in strides, without the dropped tail and the idle ends."""
    start, end = segment.start, segment.end
    strides = end // rules.stride - -(-start // rules.stride)
    keeps_tail = any(word.lower() in segment.task.lower() for word in rules.keep_tail)
    if strides * rules.stride >= rules.drop_from_frames and not keeps_tail:
        end = max(start, end - rules.drop_last_frames)
    start, end = _moving(episode, start, end, states, rules)
    return -(-start // rules.stride), max(end // rules.stride, -(-start // rules.stride))


def _moving(
    episode: Episode, start: int, end: int, states: Sequence[State] | None, rules: PairRules
) -> tuple[int, int]:
    """[start, end) without its idle ends."""
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
