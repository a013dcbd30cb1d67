"""Which episodes are in which split: by id, by count, by share, or by the tasks and objects that a split holds out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from stcr_plugin.config import nearest, settings
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Episode, Omission

_Held = dict[tuple[str, str], set[str]]
"""("task", a segment's text) or ("object", its name) -> the splits that hold it out."""


@settings
class SplitRule:
    """Which episodes a split takes: their ids, a count, or a share of those in `group` (all where None).

    Counts and shares are spread evenly over the recording order, since scenes drift while recording.

    Every episode with a held-out task or object belongs to this split or to none, so that what is evaluated was never
    trained on. Of an episode that has other tasks too, only the held-out segments are used. With `tasks` or `objects`,
    `episodes` and `fraction` may be left out (all).

    Attributes:
        episodes: A count, or a list of ids.
        fraction: Share of the group, above 0 and at most 1.
        group: `Episode.group`, one or a list.
        tasks: Held-out tasks, a list of texts or how many. A task is the text of a segment, which is what questions
            contain; the task of a whole episode means the texts of all its segments, and a number counts whole tasks.
        objects: Held-out objects, a list of names or how many.
        balance: direction takes as many pairs whose earlier frame is closer as pairs whose later frame is, so that a
            clock, which always says the later one, is right in half of them: within each episode as far as it has both,
            else over the split. What is too many is dropped (the manifest counts it). Needs pairs.label: progress, or
            pairs that the source brings.
    """

    episodes: int | tuple[str, ...] | None = None
    fraction: float | None = None
    group: str | tuple[str, ...] | None = None
    tasks: int | tuple[str, ...] | None = None
    objects: int | tuple[str, ...] | None = None
    balance: Literal["direction"] | None = None

    def __post_init__(self) -> None:
        either = "give either `episodes` (a count, or a list of ids) or `fraction`"
        if self.episodes is not None and self.fraction is not None:
            raise ValueError(f"{either}, not both")
        if self.episodes is None and self.fraction is None and not self.holds_out:
            raise ValueError(f"{either}, or `tasks` or `objects`")
        if self.holds_out and isinstance(self.episodes, tuple):
            raise ValueError("a list of `episodes` goes without `tasks` and `objects`")
        for name in ("episodes", "tasks", "objects"):
            value = getattr(self, name)
            if value in (0, ()) or (isinstance(value, int) and value < 0):
                raise ValueError(f"`{name}` must be a count of at least 1, or a list of names")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"`fraction` must be above 0 and at most 1, got {self.fraction}")

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it takes episodes of, none for all."""
        return (self.group,) if isinstance(self.group, str) else self.group or ()

    @property
    def holds_out(self) -> bool:
        """Whether the split holds out tasks or objects."""
        return self.tasks is not None or self.objects is not None


def assign_splits(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> dict[str, list[Episode]]:
    """Split name -> its episodes in recording order; no episode is in two.

    Lists of ids are served before counts and fractions, those in the order of the configuration. Fractions are
    of the whole group, rounded so that fractions that add up to 1 leave no episode over.

    Raises:
        ConfigError: For an unknown id or group, an id in two splits, an id that another split holds out, and a rule
            that asks for too many.
    """
    groups = sorted({episode.group for episode in episodes})
    for name, rule in rules.items():
        for unknown in (group for group in rule.groups if group not in groups):
            problem = f"no episode has group {unknown!r}, {nearest(unknown, groups)}"
            raise ConfigError(f"splits.{name}.group", problem)
    held = _held_out(episodes, rules)
    taken = _listed_ids(episodes, rules, held)
    shares: dict[str, float] = {}
    for name, rule in rules.items():
        if isinstance(rule.episodes, tuple):
            continue
        group = [
            episode
            for episode in episodes
            if (not rule.groups or episode.group in rule.groups)
            and _holders(episode, held) == ({name} if rule.holds_out else set())
        ]
        left = [episode for episode in group if episode.episode_id not in taken]
        if rule.fraction is not None:
            pool = name if rule.holds_out else f"group {rule.groups}"
            before = shares.get(pool, 0.0)
            shares[pool] = before + rule.fraction
            count = math.floor(shares[pool] * len(group) + 0.5) - math.floor(before * len(group) + 0.5)
        else:
            count = len(left) if rule.episodes is None else rule.episodes
        if not 0 < count <= len(left):
            which = f"of group {' or '.join(map(repr, rule.groups))} " if rule.groups else ""
            problem = f"asks for {count} episodes {which}and {len(left)} are free ({len(group)} in all)"
            raise ConfigError(f"splits.{name}", problem, "change what the splits ask for, or record more")
        taken |= {left[position].episode_id: name for position in _spread(len(left), count)}
    split_of: dict[str, list[Episode]] = {name: [] for name in rules}
    for episode in episodes:
        if episode.episode_id in taken:
            split = taken[episode.episode_id]
            split_of[split].append(_held_part(episode, split, held))
    return split_of


def held_out_twice(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> list[Omission]:
    """The episodes that `assign_splits` gives to no split, since two splits hold out a task or the object of it."""
    held = _held_out(episodes, rules)
    return [
        Omission("episode", episode.episode_id, "its tasks or its object are held out by two splits")
        for episode in episodes
        if len(_holders(episode, held)) > 1
    ]


def _listed_ids(episodes: Sequence[Episode], rules: Mapping[str, SplitRule], held: _Held) -> dict[str, str]:
    """Episode id -> split, of the ids that splits list."""
    by_id = {episode.episode_id: episode for episode in episodes}
    taken: dict[str, str] = {}
    for name, rule in rules.items():
        for episode_id in rule.episodes if isinstance(rule.episodes, tuple) else ():
            where = f"splits.{name}.episodes"
            if episode_id not in by_id:
                raise ConfigError(where, f"no usable episode {episode_id!r}, {nearest(episode_id, list(by_id))}")
            if episode_id in taken:
                raise ConfigError(where, f"episode {episode_id!r} is already in {taken[episode_id]}", "remove one")
            if holders := _holders(by_id[episode_id], held):
                problem = f"a task or the object of episode {episode_id!r} is held out by {min(holders)}"
                raise ConfigError(where, problem, "remove it from one of the two")
            taken[episode_id] = name
    return taken


def _held_out(episodes: Sequence[Episode], rules: Mapping[str, SplitRule]) -> _Held:
    """What is held out, and by which splits. Raises ConfigError for unknown names and for a name in two splits."""
    whole: dict[str, set[str]] = {"task": set(), "object": set()}
    means: dict[tuple[str, str], set[str]] = {}
    for episode in episodes:
        texts = {segment.task for segment in episode.segments}
        whole["task"].add(episode.task)
        whole["object"].add(episode.object)
        means.setdefault(("task", episode.task), set()).update(texts)
        for key, text in (*(("task", text) for text in texts), ("object", episode.object)):
            means.setdefault((key, text), set()).add(text)
    named: dict[tuple[str, str], str] = {}
    held: _Held = {}
    for name, key, wanted in _wanted(rules):
        where = f"splits.{name}.{key}s"
        if isinstance(wanted, int):
            values = sorted(whole[key] - {""})
            free = [value for value in values if not any((key, text) in held for text in means[key, value])]
            if wanted > len(free):
                raise ConfigError(where, f"asks for {wanted} and {len(free)} are free: {free[:9]}", "ask for fewer")
            wanted = tuple(free[position] for position in _spread(len(free), wanted))
        for value in wanted:
            if (key, value) not in means or not value:
                known = [text for of, text in means if of == key and text]
                raise ConfigError(where, f"no episode has {value!r}, {nearest(value, known)}")
            if named.setdefault((key, value), name) != name:
                raise ConfigError(where, f"{value!r} already belongs to {named[key, value]}", "remove one")
            for text in means[key, value]:
                held.setdefault((key, text), set()).add(name)
    return held


def _wanted(rules: Mapping[str, SplitRule]) -> Iterator[tuple[str, str, int | tuple[str, ...]]]:
    """Split, "task" or "object", and what it holds out of that."""
    for name, rule in rules.items():
        yield name, "task", () if rule.tasks is None else rule.tasks
        yield name, "object", () if rule.objects is None else rule.objects


def _holders(episode: Episode, held: _Held) -> set[str]:
    """The splits that hold out one of the episode's tasks, or its object."""
    keys = [("object", episode.object), *(("task", segment.task) for segment in episode.segments)]
    return {name for key in keys for name in held.get(key, ())}


def _held_part(episode: Episode, split: str, held: _Held) -> Episode:
    """The episode, with only the segments that its split holds out if it is there because of them."""
    segments = tuple(segment for segment in episode.segments if split in held.get(("task", segment.task), ()))
    if not segments or split in held.get(("object", episode.object), ()):
        return episode
    return replace(episode, segments=segments)


def _spread(length: int, count: int) -> list[int]:
    """`count` positions spread evenly over range(length): the middle one of `count` equal parts."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
