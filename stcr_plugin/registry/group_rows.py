"""Pairs of a shard -> rows that show groups of their frames, in every rotation; and those rows read back and checked.

A row has the columns of a pair's row: `pair_id` is the group's id, `order` its rotation ("rotation 1"), and `answer`
the picture that is closest to completion, also where the order of all is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.groups import GroupRule, arranged, by_time, draw_groups
from stcr_plugin.registry import parquet
from stcr_plugin.registry.manifest import SetRule, count_rows
from stcr_plugin.registry.receipts import Choice, Context, Rows, Shard
from stcr_plugin.samples.cot import Phrases, details_of
from stcr_plugin.samples.frame_texts import FrameTexts
from stcr_plugin.samples.group_texts import (
    check_group_target,
    fill_group,
    group_answer,
    group_paraphrases,
    group_question,
    group_target,
)
from stcr_plugin.samples.questions import Kind, fill_task, questions
from stcr_plugin.types import Group, Pair, State, under

_States = Mapping[int, State]  # frame -> state, of one episode


def group_rows(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice, phrases: Mapping[str, Phrases]
) -> tuple[list[dict[str, Any]], Rows]:
    """The rows of all groups that `pairs` of the shard give, groups in random order, and what they are.

    Without `choice.sharded` the shard is a whole split.

    Args:
        context: Of the build.
        shard: Whose episodes they are.
        pairs: Of the shard.
        choice: Names the dataset.
        phrases: Language -> how claims are written, where the rule wants CoT text.

    Raises:
        DataError: A picture cannot be described, though its claims say that it can.
    """
    config, rule = context.config, context.config.datasets[choice.key]
    asked = rule.groups or GroupRule()
    groups, states = _groups(context, shard, pairs, choice=choice, phrases=phrases)
    numbers = [shard.number] if choice.sharded else []
    order = artefacts.rng(config.seed, "dataset", choice.key, *numbers).permutation(len(groups))
    rows: list[dict[str, Any]] = []
    checked = 0
    for position, at in enumerate(order.tolist()):
        group, language = groups[at], rule.languages[position % len(rule.languages)]
        question = group_question(group, asked.ask, _kind(asked), language=language, seed=config.seed)
        for number, shown in enumerate(arranged(group, asked, config.seed), 1):
            target = group_target(shown, asked.ask)
            if asked.target == "cot":
                own = [states[group.group_id][group.frames[frame]] for frame in shown]
                texts = [phrases[language].say(context.source.claims(state)) for state in own]
                target = group_target(shown, asked.ask, texts)
                checked += check_group_target(
                    target,
                    shown,
                    own,
                    ask=asked.ask,
                    source=context.source,
                    phrases=phrases[language],
                    where=f"group {group.group_id}, rotation {number}",
                )
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": "<image>" * len(shown) + question},
                        {"role": "assistant", "content": target},
                    ],
                    "images": [group.images[frame] for frame in shown],
                    "pair_id": group.group_id,
                    "episode_id": group.episode_id,
                    "order": f"rotation {number}",
                    "answer": group_answer(shown, "closest").rpartition(" ")[2],
                    "kind": "group",
                    "language": language,
                }
            )
    return rows, Rows(count_rows(rows), checked)


def _groups(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice, phrases: Mapping[str, Phrases]
) -> tuple[list[Group], dict[str, _States]]:
    """The groups of the shard's episodes, and with CoT text the states of their frames.

    An episode whose frames have no known order gives none, a frame that cannot be described is in none.
    """
    config, source, rule = context.config, context.source, context.config.datasets[choice.key]
    asked = rule.groups or GroupRule()
    described = asked.target == "cot"
    texts = FrameTexts(source, {name: phrases[name] for name in sorted(set(rule.languages) & phrases.keys())})
    contents = contents_of(context, shard, pairs, sharded=choice.sharded)
    by_episode: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_episode[pair.episode_id].append(pair)
    groups: list[Group] = []
    shown: dict[str, _States] = {}
    for episode in shard.episodes:
        own = by_episode.get(episode.episode_id)
        if not own:
            continue
        states, truth, timed = None, None, by_time(own, config.pairs)
        if described or not timed:
            states = source.states(episode)
            if not states:
                continue
            words = texts if described else None
            truth = {
                (episode.episode_id, task): closeness(states, own, task, timed=timed, texts=words)
                for task in {pair.task for pair in own}
            }
        drawn = draw_groups(own, config.pairs, asked, seed=config.seed, truth=truth, contents=contents)
        groups += drawn
        if described and states:
            shown |= {
                group.group_id: {frame: under(states[frame], group.task) for frame in group.frames} for group in drawn
            }
    return groups, shown


def closeness(
    states: Sequence[State], pairs: Sequence[Pair], task: str, *, timed: bool, texts: FrameTexts | None
) -> list[float | None]:
    """How close each frame of an episode is to completion of one of its tasks.

    None where that is not known, or `texts` have no words. timed: The later of two frames is the closer one.
    """
    own = [under(state, task) for state in states]
    used = {frame for pair in pairs if pair.task == task for frame in (pair.earlier, pair.later)}
    mute = {frame for frame in used if texts is not None and texts.why_not(own[frame])}
    return [
        None if frame in mute else float(frame) if timed else state.get("progress") for frame, state in enumerate(own)
    ]


def contents_of(context: Context, shard: Shard, pairs: Sequence[Pair], *, sharded: bool) -> dict[str, str]:
    """Picture -> SHA-256 of its contents; none where no picture was written."""
    if context.config.frames.format == "none":
        return {}
    folder = context.place.staging / "frames"
    used = {image for pair in pairs for image in (pair.earlier_image, pair.later_image)}
    files = [folder / shard.file] if sharded else sorted(folder.glob("*.parquet"))
    return {
        row["image"]: row["sha256"]
        for file in files
        for row in parquet.read(file, ("image", "sha256"))
        if row["image"] in used
    }


def _kind(asked: GroupRule) -> Kind:
    return "cot" if asked.target == "cot" else "direct"


# ---- reading back ----


class Shot(NamedTuple):
    """A frame that pairs of a build show: its picture, its split, and the tasks that it is shown for."""

    image: str
    split: str
    tasks: tuple[str, ...]


Shots = Mapping[tuple[str, int], Shot]
"""(episode id, frame) -> the shot."""


def shots_of(pairs: Iterable[Pair]) -> dict[tuple[str, int], Shot]:
    """All frames that `pairs` show."""
    found: dict[tuple[str, int], Shot] = {}
    for pair in pairs:
        for frame, image in ((pair.earlier, pair.earlier_image), (pair.later, pair.later_image)):
            known = found.get((pair.episode_id, frame))
            if known is None or pair.task not in known.tasks:
                tasks = (*(known.tasks if known else ()), pair.task)
                found[pair.episode_id, frame] = Shot(image, pair.split, tasks)
    return found


def group_of(row: Mapping[str, Any], shots: Shots) -> Group:
    """The group that a row shows. Raises DataError where its id is not one, or pairs of the build lack its frames."""
    group_id = str(row["pair_id"])
    episode_id, _, numbers = group_id.rpartition(":")
    frames = tuple(int(number) for number in numbers.split("-") if number.isdecimal())
    if not episode_id or "-".join(map(str, frames)) != numbers or len(set(frames)) < len(frames):
        raise DataError(f"group {group_id}", "is not the id of a group, episode:frame-frame-frame", "build again")
    if any((episode_id, frame) not in shots for frame in frames):
        raise DataError(f"group {group_id}", "has frames that no pair of the build shows", "build again")
    found = [shots[episode_id, frame] for frame in frames]
    question = str(row["messages"][0]["content"])
    shared = [task for task in found[0].tasks if all(task in one.tasks for one in found)]
    named = [task for task in shared if fill_task("{task}", task) in question]
    if not named:
        raise DataError(f"group {group_id}", "is not of one segment, or its question names another task", "build again")
    return Group(group_id, episode_id, max(named, key=len), frames, tuple(one.image for one in found))


class GroupCheck:
    """What is wrong with the rows of one dataset of groups.

    Args:
        rule: Of the dataset.
        pairs: Pair id -> pair, of the whole build.
    """

    def __init__(self, rule: SetRule, pairs: Mapping[str, Pair]) -> None:
        self.rule = rule
        self.asked = rule.groups or GroupRule()
        self.pairs = pairs
        self.shots = shots_of(pairs.values())
        self.shown: dict[str, int] = {}  # group id -> a bit for every frame in every position

    def row(self, row: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a row. Raises DataError for a group that the build does not have."""
        count, target = self.asked.pictures, str(row["messages"][1]["content"])
        if row["kind"] != "group" or row["language"] not in questions():
            yield f"kind {row['kind']!r} or language {row['language']!r} is not as configured"
            return
        group = group_of(row, self.shots)
        split = self.shots[group.episode_id, group.frames[0]].split
        if split != self.rule.split or row["episode_id"] != group.episode_id:
            yield f"group {group.group_id} of episode {group.episode_id} is of split {split}, not {self.rule.split}"
        images = list(row["images"])
        if len(group.frames) != count or sorted(images) != sorted(group.images):
            yield f"the pictures are not the {count} of group {group.group_id}"
            return
        shown = [group.images.index(image) for image in images]
        bits = sum(1 << (count * place + frame) for place, frame in enumerate(shown))
        if self.shown.setdefault(group.group_id, 0) & bits:
            yield f"group {group.group_id} has a frame twice in one position"
        self.shown[group.group_id] |= bits
        yield from self._label_faults(group)
        answer = group_answer(shown, self.asked.ask)
        if f"closer to completion: {row['answer']}" != group_answer(shown, "closest"):
            yield f"the answer is {row['answer']!r} where {group_answer(shown, 'closest')!r} is true of the arrangement"
        described = self.asked.target == "cot"
        if target.rpartition("\n")[2] != answer or (not described and "\n" in target):
            yield f"the target does not end with {answer!r}, or a weak one says more"
        if described and details_of(target, count) is None:
            yield f"the target does not describe each of the {count} pictures"
        question = str(row["messages"][0]["content"]).removeprefix("<image>" * count)
        heldout = group_paraphrases(self.asked.ask, _kind(self.asked), row["language"], part="heldout")
        if question in {fill_group(template, group.task, count) for template in heldout}:
            yield "the question is a held-out paraphrase, which training must not see"

    def rest(self) -> Iterator[str]:
        """What is wrong with the groups, after all rows."""
        whole = (1 << self.asked.pictures**2) - 1
        for group_id, bits in self.shown.items():
            if bits != whole:
                yield f"group {group_id} does not show each of its frames once in each position"

    def _label_faults(self, group: Group) -> Iterator[str]:
        """Where the order of the group contradicts a pair of two of its frames."""
        for farther, closer in combinations(group.frames, 2):
            earlier, later = sorted((farther, closer))
            pair = self.pairs.get(f"{group.episode_id}:{earlier}-{later}")
            if pair is not None and pair.closer == ("earlier" if closer == later else "later"):
                yield f"group {group.group_id} contradicts pair {pair.pair_id} about which frame is closer"
