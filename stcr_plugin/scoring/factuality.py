"""What a model wrote about two pictures -> which of its claims are true, and what its wrong answers come from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stcr_plugin.figures import AnswerCauses, ClaimFigures, Factuality, Measure
from stcr_plugin.scoring.metrics import pooled_interval
from stcr_plugin.scoring.reasoning import behind_reasoning
from stcr_plugin.types import Answer, Claim

Halves = tuple[str, str]
"""What the first and the second picture of a prompt show, in words."""

Verdict = Literal["true", "false", "unreadable"]
CAUSES: Mapping[Verdict, str] = {"false": "seeing", "true": "judging", "unreadable": "unknown"}
"""The claims that decide, all together -> what a wrong answer comes from, as `AnswerCauses` says."""

_JUDGMENT = re.compile(r"closer[\s_-]+to[\s_-]+completion", re.IGNORECASE)


@dataclass(frozen=True)
class Truth:
    """What is true of one picture.

    Attributes:
        claims: What a true description of it says.
        holds: Whether a claim is true of it.
    """

    claims: tuple[Claim, ...]
    holds: Callable[[Claim], bool]


@dataclass(frozen=True)
class Statement:
    """One claim as an answer states it, of one picture.

    Attributes:
        family: The claim's family; "" where it cannot be read.
        verdict: Against the picture's true state.
        decides: Whether it is about something in which the two pictures differ, in truth or by the answer.
        off: How far its number is from that of a true description; None where either has none.
    """

    family: str
    verdict: Verdict
    decides: bool = False
    off: int | None = None


@dataclass(frozen=True)
class Described:
    """An answer with what it says of its pictures.

    Attributes:
        statements: Empty where it describes none.
        missing: Claims of the true descriptions about which it says nothing.
        wanted: Claims of the true descriptions.
    """

    answer: Answer
    statements: tuple[Statement, ...]
    missing: int
    wanted: int


def own_halves(text: str, names: Sequence[str]) -> Halves | None:
    """What `text`, a reasoned answer, says of each picture, without its judgment; None where it says nothing of one."""
    before = _JUDGMENT.split(behind_reasoning(text) or "", maxsplit=1)[0]
    heads = [re.search(rf"(?<!\w){re.escape(name)}[\"'`*_]*\s*[:：]", before, re.IGNORECASE) for name in names[:2]]
    first, second = heads
    if first is None or second is None or second.start() < first.end():
        return None
    halves = (before[first.end() : second.start()], before[second.end() :])
    one, two = (" ".join(half.split()).strip(" \"'`*_{},").rstrip(".。") for half in halves)
    return (one, two) if one and two else None


def named_halves(halves: Halves, names: Sequence[str]) -> str:
    """The halves as CoT samples write them: `img1: ... img2: ...` with the names that the pictures have."""
    one, two = (half.strip().rstrip(".。") for half in halves)
    return f"{names[0]}: {one}. {names[1]}: {two}."


def described(
    answer: Answer,
    names: Sequence[str],
    truths: tuple[Truth, Truth],
    *,
    read: Callable[[str], Sequence[Claim | None]],
) -> Described:
    """Hold an answer against the truth.

    Args:
        answer: The answer, whose text describes both pictures.
        names: The names of the pictures in its prompt.
        truths: Of the first and of the second picture of the prompt.
        read: The claims that a text states, None for a piece that cannot be read.
    """
    wanted = sum(len(truth.claims) for truth in truths)
    halves = own_halves(answer.text, names)
    if halves is None:
        return Described(answer, (), wanted, wanted)
    stated = [read(half) for half in halves]
    differing = _differing(*(truth.claims for truth in truths)) | _differing(*stated)
    statements, missing = [], 0
    for claims, truth in zip(stated, truths, strict=True):
        values = {claim.name: claim.value for claim in truth.claims}
        for claim in claims:
            if claim is None:
                statements.append(Statement("", "unreadable"))
            else:
                verdict: Verdict = "true" if truth.holds(claim) else "false"
                family, off = claim.name.partition(":")[0], _distance(claim.value, values.get(claim.name))
                statements.append(Statement(family, verdict, claim.name in differing, off))
        missing += len(values.keys() - {claim.name for claim in claims if claim})
    return Described(answer, tuple(statements), missing, wanted)


def factuality(answers: Sequence[Described], resamples: int = 2000, seed: int = 0) -> Factuality:
    """The figures of described answers, with intervals by the bootstrap over episodes (`metrics.intervals`)."""
    families = sorted({one.family for answer in answers for one in answer.statements if one.family})

    def shares(kind: str, family: str | None = None) -> Measure:
        """The share of claims, of one family where it is given, whose verdict is `kind`."""

        def counts(answer: Described) -> tuple[int, int]:
            mine = [one for one in answer.statements if family is None or one.family == family]
            return sum(one.verdict == kind for one in mine), len(mine)

        return _measure(answers, counts, resamples, seed=seed)

    def of_family(family: str) -> ClaimFigures:
        mine = [one for answer in answers for one in answer.statements if one.family == family]
        numbers = [one.off for one in mine if one.off is not None]
        return ClaimFigures(len(mine), shares("true", family), sum(numbers) / len(numbers) if numbers else None)

    def causes(right: bool) -> AnswerCauses:
        asked = [one for one in answers if one.answer.chosen is not None and one.answer.right == right]
        found = [CAUSES[deciding(one)] for one in asked]
        return AnswerCauses(**{cause: found.count(cause) for cause in CAUSES.values()})

    return Factuality(
        claims_true=shares("true"),
        claims_false=shares("false"),
        claims_unreadable=shares("unreadable"),
        claims_missing=_measure(answers, lambda one: (one.missing, one.wanted), resamples, seed=seed),
        families={family: of_family(family) for family in families},
        wrong=causes(right=False),
        n_claims=sum(len(one.statements) for one in answers),
        n_answers=len(answers),
        n_undescribed=sum(not one.statements for one in answers),
        right=causes(right=True),
    )


def deciding(answer: Described) -> Verdict:
    """All claims that decide: false where one is, unreadable where there is none or any claim is unreadable."""
    verdicts = [one.verdict for one in answer.statements if one.decides]
    if "false" in verdicts:
        return "false"
    unread = any(one.verdict == "unreadable" for one in answer.statements)
    return "unreadable" if unread or not verdicts else "true"


def _distance(stated: str | int, true: str | int | None) -> int | None:
    return abs(stated - true) if isinstance(stated, int) and isinstance(true, int) else None


def _differing(first: Sequence[Claim | None], second: Sequence[Claim | None]) -> set[str]:
    """Names of the claims that are not the same of both pictures."""
    return {claim.name for claim in {*first} ^ {*second} if claim}


def _measure(
    answers: Sequence[Described], counts: Callable[[Described], tuple[int, int]], resamples: int, *, seed: int
) -> Measure:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        part, whole = counts(answer)
        of_episode = sums[answer.answer.episode_id]
        of_episode[0] += part
        of_episode[1] += whole
    part, whole = (sum(of[column] for of in sums.values()) for column in (0, 1))
    if not whole:
        return Measure(None)
    return Measure(100 * part / whole, pooled_interval(sums, resamples, seed))
