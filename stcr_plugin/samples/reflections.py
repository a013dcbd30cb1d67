"""Samples of kind reflect: judge a proposed answer, say why by the claims that decide, then answer; and their check.

Every pair is shown in both orders, each with both proposals, so that neither order nor proposal tells the answer.
After REVERIE (arXiv 2407.11422), which trains on rationales of why an answer is right and why a confusing one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

from stcr_plugin.config import from_mapping, nearest, read_yaml
from stcr_plugin.episodes.source_table import Trend, find_kind
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.cot import Phrases, check_details, details, halves_of
from stcr_plugin.samples.questions import PROMPTS, Paraphrases, Part, drawn, fill_task
from stcr_plugin.samples.sentences import sentences
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import Claim, EpisodeSource, Pair, Query, Sample, State, under

REFLECT_FILE = PROMPTS / "reflect.yaml"
UNDECIDED = "no claim tells which of its two frames is closer"
PROPOSED = "proposed answer: "
"""Begins the last line of the question and the first one of the target, in every language."""
Proposal = Literal["img1", "img2"]
PROPOSALS: tuple[Proposal, Proposal] = ("img1", "img2")
Claims = tuple[Claim, ...]


class Reflection(NamedTuple):
    """What a target says: its verdict on the proposed answer, "right" or "wrong", and the reason of each picture."""

    verdict: str
    halves: tuple[str, str]


# ---- which claims decide ----


def trends_of(source_kind: str) -> Mapping[str, Trend]:
    """Which claims of a kind of source carry progress.

    Raises:
        ConfigError: Where the kind says of none that it does.
    """
    trends = find_kind(source_kind).progress
    if not trends:
        raise ConfigError(
            f"source kind {source_kind!r}",
            "does not say which of its claims carry progress, so no reason can be written",
            "set `progress` in its SourceKind, or give annotated texts (`texts`)",
        )
    return trends


def deciding(claims: tuple[Claims, Claims], closer: int, trends: Mapping[str, Trend]) -> tuple[Claims, Claims]:
    """The claims of two frames that speak for the closer one.

    They are about what both frames have a claim of, differ, and change as progress changes them.

    Args:
        claims: Of two frames.
        closer: Which of the two is closer to completion, 0 or 1.
        trends: Family of claims -> how it changes with progress.
    """
    farther, nearer = ({claim.name: claim.value for claim in claims[at]} for at in (1 - closer, closer))
    names = {
        name
        for name in farther.keys() & nearer.keys()
        if _rises(trends.get(name.partition(":")[0]), farther[name], nearer[name])
    }
    one, two = (tuple(claim for claim in of if claim.name in names) for of in claims)
    return one, two


def _rises(trend: Trend | None, farther: str | int, nearer: str | int) -> bool:
    """Whether a claim's value speaks for the frame that has `nearer`."""
    if trend is None or farther == nearer:
        return False
    if trend == "changes":
        return True
    if isinstance(trend, tuple):
        return farther in trend and nearer in trend and trend.index(str(nearer)) > trend.index(str(farther))
    low, high = (_number(value) for value in ((farther, nearer) if trend == "rises" else (nearer, farther)))
    return low is not None and high is not None and low < high


def _number(value: str | int) -> int | None:
    """The number of a claim: 40, or the 2 of the stage 2/5."""
    text = str(value).partition("/")[0]
    return int(text) if text.isdecimal() else None


def why_undecided(source: EpisodeSource, pair: Pair, states: Sequence[State] | Mapping[int, State]) -> str:
    """Why nothing that can be said of a pair's frames decides which is closer, "" where something does."""
    if pair.closer == "neither":
        return UNDECIDED
    earlier, later = (source.claims(under(states[frame], pair.task)) for frame in (pair.earlier, pair.later))
    return "" if deciding((earlier, later), int(pair.closer == "later"), trends_of(source.kind))[0] else UNDECIDED


def unshared_in(texts: tuple[str, str]) -> tuple[str, str] | None:
    """What two texts say of their pictures that the other does not say, in whole sentences; all of one that has none.

    None where both texts say the same.
    """
    if texts[0] == texts[1]:
        return None
    split = [sentences(text) for text in texts]
    known = [{one.rstrip(".。") for one in of} for of in split]  # the last one of a text has no full stop
    own = [[one for one in split[at] if one.rstrip(".。") not in known[1 - at]] or split[at] for at in (0, 1)]
    one, two = (" ".join(of).rstrip(".。") for of in own)
    return one, two


# ---- the texts ----


@cache
def _questions() -> dict[str, Paraphrases]:
    return {
        name: from_mapping(Paraphrases, values, f"{REFLECT_FILE}, {name}")
        for name, values in read_yaml(REFLECT_FILE).items()
    }


def reflect_paraphrases(language: str, part: Part = "train") -> tuple[str, ...]:
    """All variants of the question, without the proposed answer. Raises ConfigError for an unknown language."""
    if language not in _questions():
        known = nearest(language, list(_questions()))
        raise ConfigError(f"language {language!r}", "has no question about a proposed answer", known)
    texts: tuple[str, ...] = getattr(_questions()[language], part)
    return texts


def reflect_question(query: Query, proposed: str, language: str, *, seed: int, part: Part = "train") -> str:
    """The question with a proposed answer: one variant for a pair in both orders, drawn by pair and seed."""
    template = drawn(reflect_paraphrases(language, part), [seed, query.pair.pair_id, "reflect", language, part])
    return f"{fill_task(template, query.pair.task)}\n{PROPOSED}{proposed}"


def proposed_in(question: str) -> tuple[str, str]:
    """A question without its proposed answer, and that answer, "" where it has none."""
    text, _, last = question.rpartition("\n")
    return (text, last.removeprefix(PROPOSED)) if last.startswith(PROPOSED) else (question, "")


def reflections(query: Query, texts: tuple[str, str], language: str, *, seed: int) -> list[Sample]:
    """A sample for each proposed answer; `texts` are the reasons that img1 and img2 give."""
    return [
        Sample(
            query,
            "reflect",
            "<image>" * len(query.images) + reflect_question(query, proposed, language, seed=seed),
            target=f"{PROPOSED}{verdict(query, proposed)}\n{details(texts)}\n{answer_line(query)}",
        )
        for proposed in PROPOSALS
    ]


def verdict(query: Query, proposed: str) -> str:
    """What is true of a proposed answer."""
    return "right" if proposed == query.answer else "wrong"


def reflected(target: str) -> Reflection | None:
    """What a target says of the proposed answer and of both pictures; None where it is not one of this kind."""
    first, _, rest = target.partition("\n")
    halves, said = halves_of(rest), first.removeprefix(PROPOSED)
    if halves is None or first == said or said not in ("right", "wrong"):
        return None
    return Reflection(said, halves)


def true_reasons(
    query: Query, states: tuple[State, State], *, source: EpisodeSource, phrases: Phrases
) -> tuple[str, str]:
    """The reasons of img1 and img2 in words, by their true states. Raises DataError where none decides."""
    claims = source.claims(states[0]), source.claims(states[1])
    decide = deciding(claims, int(query.answer == "img2"), trends_of(source.kind))
    if query.answer == "neither" or not decide[0]:
        raise DataError(f"pair {query.pair.pair_id}", UNDECIDED, "use kind: weak")
    return phrases.say(decide[0]), phrases.say(decide[1])


def check_reflection(sample: Sample, states: tuple[State, State], *, source: EpisodeSource, phrases: Phrases) -> int:
    """Read a finished sample back and compare it with the truth.

    Its verdict must be true of the answer that its question proposes, every claim of its picture's state, and the
    judgment must be the query's answer. Both pictures must have claims about the same, with other values.

    Returns:
        How many claims were checked.

    Raises:
        DataError: Naming the pair, the order and the first statement that cannot be read or is false.
    """
    query, found = sample.query, reflected(sample.target)
    where = f"pair {query.pair.pair_id}, {query.order}"
    if found is None:
        raise DataError(where, f"the target text does not judge a proposed answer and give reasons: {sample.target!r}")
    checked = check_details(found.halves, states, source=source, phrases=phrases, where=where)
    _, proposed = proposed_in(sample.prompt)
    if found.verdict != verdict(query, proposed):
        raise DataError(where, f"the text says that {proposed!r} is {found.verdict}, which is false")
    one, two = ({claim.name: claim.value for claim in phrases.read(half)} for half in found.halves)
    if one.keys() != two.keys() or any(one[name] == two[name] for name in one):
        raise DataError(where, f"the reasons of the two pictures are not about what differs: {found.halves}")
    judgment = sample.target.rpartition("\n")[2]
    if judgment != answer_line(query):
        raise DataError(where, f"the text ends with {judgment!r} where {answer_line(query)!r} is true")
    return checked
