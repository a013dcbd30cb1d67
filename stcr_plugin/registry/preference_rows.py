"""Pairs of a split -> ranking rows, each with a preferred and a rejected answer; and those rows read back and checked.

A row has the columns of a CoT row, but `messages` is the question alone, and `chosen` and `rejected` are the two turns
that may follow it, as LLaMA-Factory reads them (`"ranking": true` in dataset_info.json).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.groups import by_time, segments_of
from stcr_plugin.pairs import PairRules
from stcr_plugin.registry.annotated_texts import count_texts, described
from stcr_plugin.registry.group_rows import closeness, contents_of, shots_of
from stcr_plugin.registry.manifest import SetRule, count_rows
from stcr_plugin.registry.receipts import Choice, Context, Rows, Shard
from stcr_plugin.registry.sample_rows import phrases_of, samples
from stcr_plugin.samples.cot import check_details, halves_of
from stcr_plugin.samples.frame_texts import FrameTexts
from stcr_plugin.samples.preferences import BALANCED, described_by, of_swapped_order, other_judgment
from stcr_plugin.samples.questions import fill_task, paraphrases, questions
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import ORDERS, Pair, Query, State, under

_Row = Mapping[str, Any]


class _Ranked(NamedTuple):
    """Two answers about two pictures, and how many claims of the preferred one were checked for it."""

    images: tuple[str, ...]
    chosen: str
    rejected: str
    checked: int = 0


_Worse = Callable[[_Row], list[_Ranked]]
"""A CoT row -> its ranking rows; none where the pair has no such rejected answer."""


def preference_rows(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice
) -> tuple[list[dict[str, Any]], Rows]:
    """The rows of a choice from `pairs` of the shard, pairs in random order, and what they are.

    A pair without a rejected answer of the wanted kind is skipped, and another one taken as long as there are some.
    """
    rule = context.config.datasets[choice.key]
    worse = _worse(context, shard, pairs, choice=choice)
    take = choice.take
    while True:
        written, made = samples(context, shard, pairs, choice=dataclasses.replace(choice, take=take))
        by_pair = [list(rows) for _, rows in groupby(written, lambda row: str(row["pair_id"]))]
        ranked = [[(row, one) for row in rows for one in worse(row)] for rows in by_pair]
        kept = [of_pair for of_pair in ranked if of_pair][: choice.take]
        if len(kept) == choice.take or made.counts.pairs < take:
            break
        take *= 2
    rows = [_ranking_row(row, one) for of_pair in kept for row, one in of_pair]
    checked = made.claims_checked + sum(one.checked for of_pair in kept for _, one in of_pair)
    texts = None
    if rule.texts is not None:
        used = {row["pair_id"]: row["language"] for row in rows}
        texts = count_texts(described(context, choice.key, shard), used)
    return rows, Rows(count_rows(rows), checked, texts)


def _ranking_row(row: _Row, one: _Ranked) -> dict[str, Any]:
    return {
        **row,
        "messages": list(row["messages"][:1]),
        "images": list(one.images),
        "chosen": {"role": "assistant", "content": one.chosen},
        "rejected": {"role": "assistant", "content": one.rejected},
        "kind": "prefer",
    }


def _worse(context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice) -> _Worse:
    against = context.config.datasets[choice.key].against
    if against == "frame":
        return _OtherFrames(context, shard, pairs, choice=choice)
    if against == "sampled":
        return _Refuted(context, shard, choice.key)
    write = of_swapped_order if against == "order" else other_judgment

    def worse(row: _Row) -> list[_Ranked]:
        target = str(row["messages"][1]["content"])
        rejected = write(target)
        return [] if rejected is None else [_Ranked(tuple(row["images"]), target, rejected)]

    return worse


class _Refuted:
    """Against sampled: the refuted candidate beside an accepted text, with the same judgment."""

    def __init__(self, context: Context, shard: Shard, key: str) -> None:
        accepted = described(context, key, shard)
        self.refuted = {(text.pair_id, text.language): text.refuted for texts in accepted.values() for text in texts}

    def __call__(self, row: _Row) -> list[_Ranked]:
        target = str(row["messages"][1]["content"])
        earlier, later = self.refuted[row["pair_id"], row["language"]]
        rejected = described_by(target, (earlier, later) if row["order"] == "forward" else (later, earlier))
        return [] if rejected == target else [_Ranked(tuple(row["images"]), target, rejected)]


class _Other(NamedTuple):
    """A frame that takes the place of one frame of a pair."""

    instead_of: int
    frame: int
    image: str


class _OtherFrames:
    """Against frame: one description is that of another frame, and the same with that frame shown and preferred.

    The other frame is one of the episode that its pairs show. With the frame that is kept it could be a pair of the
    build with the same label in the same order, and each of the two descriptions is false of the other frame.
    """

    def __init__(self, context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice) -> None:
        self.config, self.source = context.config, context.source
        self.episodes = {episode.episode_id: episode for episode in shard.episodes}
        self.phrases = phrases_of(context.config, context.source)
        languages = sorted(set(context.config.datasets[choice.key].languages))
        self.texts = FrameTexts(self.source, {name: self.phrases[name] for name in languages})
        self.contents = contents_of(context, shard, pairs, sharded=choice.sharded)
        self.pairs = {pair.pair_id: pair for pair in pairs}
        self.by_episode: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            self.by_episode[pair.episode_id].append(pair)
        self.states: dict[str, Sequence[State]] = {}
        self.others: dict[str, _Other | None] = {}

    def __call__(self, row: _Row) -> list[_Ranked]:
        pair = self.pairs[row["pair_id"]]
        if pair.pair_id not in self.others:
            self.others[pair.pair_id] = self._other(pair)
        other = self.others[pair.pair_id]
        target = str(row["messages"][1]["content"])
        halves = halves_of(target)
        if other is None or halves is None:
            return []
        frames = [pair.earlier, pair.later] if row["order"] == "forward" else [pair.later, pair.earlier]
        place = frames.index(other.instead_of)
        phrases = self.phrases[row["language"]]
        states = [self._state(pair, other.frame if at == place else frame) for at, frame in enumerate(frames)]
        text = phrases.say(self.source.claims(states[place]))
        one, two = (text if at == place else half for at, half in enumerate(halves))
        with_other = described_by(target, (one, two))
        where = f"pair {pair.pair_id}, {row['order']}, with frame {other.frame}"
        checked = check_details((one, two), states, source=self.source, phrases=phrases, where=where)
        images = tuple(row["images"])
        shown = tuple(other.image if at == place else image for at, image in enumerate(images))
        return [_Ranked(images, target, with_other), _Ranked(shown, with_other, target, checked)]

    def _state(self, pair: Pair, frame: int) -> State:
        if pair.episode_id not in self.states:
            states = self.source.states(self.episodes[pair.episode_id])
            if states is None:
                raise DataError(f"episode {pair.episode_id}", "the source gives no states any more", "build again")
            self.states[pair.episode_id] = states
        return under(self.states[pair.episode_id][frame], pair.task)

    def _other(self, pair: Pair) -> _Other | None:
        """The first frame in an order drawn by seed and pair; the half that it replaces is drawn too."""
        if pair.closer == "neither":
            return None
        seed, own = self.config.seed, self.by_episode[pair.episode_id]
        self._state(pair, pair.earlier)
        timed = by_time(own, self.config.pairs)
        values = closeness(self.states[pair.episode_id], own, pair.task, timed=timed, texts=self.texts)
        shown = {pair.earlier, pair.later}
        images = next(images for task, images in segments_of(own) if task == pair.task and shown <= set(images))
        order = sorted(images, key=lambda frame: artefacts.digest([seed, pair.pair_id, frame]))
        halves = [(pair.earlier, pair.later), (pair.later, pair.earlier)]
        for replaced, kept in sorted(halves, key=lambda both: artefacts.digest([seed, pair.pair_id, "half", both[0]])):
            for frame in order:
                fits = frame not in (replaced, kept) and _alike(
                    pair, (frame, replaced, kept), values, rules=self.config.pairs
                )
                same = self.contents and self.contents[images[frame]] == self.contents[images[kept]]
                if fits and not same and self._false(pair, frame, replaced) and self._false(pair, replaced, frame):
                    return _Other(replaced, frame, images[frame])
        return None

    def _false(self, pair: Pair, described: int, shown: int) -> bool:
        """Whether the description of one frame is false of another one."""
        state = self._state(pair, shown)
        return any(not self.source.holds(claim, state) for claim in self.source.claims(self._state(pair, described)))


def _alike(pair: Pair, frames: tuple[int, int, int], values: Sequence[float | None], *, rules: PairRules) -> bool:
    """Whether a frame and the kept one could be a pair with the label of the replaced and the kept one."""
    frame, replaced, kept = frames
    own, other, base = values[frame], values[replaced], values[kept]
    if own is None or other is None or base is None:
        return False
    shortest, longest = rules.distances(pair.distance / pair.seconds)
    return (
        shortest <= abs(frame - kept) <= longest
        and (frame - kept) * (replaced - kept) > 0
        and (own - base) * (other - base) > 0
        and (rules.label == "order" or abs(own - base) >= rules.tie_within)
    )


# ---- reading back ----


class PreferenceCheck:
    """What is wrong with the rows of one dataset of preferences.

    Args:
        rule: Of the dataset.
        pairs: Pair id -> pair, of the whole build.
    """

    def __init__(self, rule: SetRule, pairs: Mapping[str, Pair]) -> None:
        self.rule = rule
        self.pairs = pairs
        self.frames = {(episode, shot.image): frame for (episode, frame), shot in shots_of(pairs.values()).items()}
        self.preferred: Counter[tuple[str, str, str]] = Counter()  # (question, one text, another)

    def row(self, row: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a row."""
        if row["kind"] != "prefer" or row["order"] not in ORDERS or row["language"] not in questions():
            yield f"order {row['order']!r}, kind {row['kind']!r} or language {row['language']!r} is not as configured"
            return
        pair = self.pairs.get(row["pair_id"])
        if pair is None:
            yield f"pair {row['pair_id']} is not among the build's pairs"
            return
        query, images = Query(pair, row["order"]), tuple(row["images"])
        if pair.split != self.rule.split or row["episode_id"] != pair.episode_id:
            yield f"pair {pair.pair_id} of episode {pair.episode_id} is of split {pair.split}, not {self.rule.split}"
        others = [one for one, own in zip(images, query.images, strict=False) if one != own]
        if len(images) != 2 or len(others) > (self.rule.against == "frame"):
            yield f"the pictures are not those of pair {pair.pair_id} in {query.order} order"
        elif any((pair.episode_id, image) not in self.frames for image in others):
            yield f"{others[0]} is not a picture of episode {pair.episode_id}"
        if row["answer"] != query.answer:
            yield f"the answer is {row['answer']!r} where {query.answer!r} is true of the {query.order} order"
        chosen, rejected = str(row["chosen"]["content"]), str(row["rejected"]["content"])
        if row["rejected"]["role"] != "assistant":
            yield "the rejected answer is not one of the assistant"
        if chosen.rpartition("\n")[2] != answer_line(query) or halves_of(chosen) is None:
            yield f"the preferred answer does not describe both pictures, or does not end with {answer_line(query)!r}"
        if not self._is_rejected(chosen, rejected):
            yield f"the rejected answer is not one against {self.rule.against}"
        question = str(row["messages"][0]["content"])
        self.preferred[question, chosen, rejected] += 1
        heldout = {fill_task(text, pair.task) for text in paraphrases("cot", row["language"], "heldout")}
        if any(question.removeprefix("<image>" * 2).startswith(text) for text in heldout):
            yield "the question is a held-out paraphrase, which training must not see"

    def rest(self) -> Iterator[str]:
        """What is wrong with the dataset, after all rows."""
        uneven = [
            chosen
            for (question, chosen, rejected), count in self.preferred.items()
            if self.rule.against in BALANCED and self.preferred[question, rejected, chosen] != count
        ]
        if uneven:
            yield (
                f"{len(uneven)} texts are preferred to another one more often than the other way round, so that the "
                f"text alone tells: {uneven[0]!r}"
            )

    def _is_rejected(self, chosen: str, rejected: str) -> bool:
        if self.rule.against == "order":
            return rejected == of_swapped_order(chosen)
        if self.rule.against == "verdict":
            return rejected == other_judgment(chosen)
        one, other = halves_of(chosen), halves_of(rejected)
        if one is None or other is None or rejected.rpartition("\n")[2] != chosen.rpartition("\n")[2]:
            return False
        changed = sum(first != second for first, second in zip(one, other, strict=True))
        return changed == 1 if self.rule.against == "frame" else changed > 0
