"""The forms of questions: how a teacher is asked to describe, to judge and to confirm, by what kind of model it is.

general: for any vision-language model. stage: the teacher was trained by this package and knows only its own CoT
question. authors: the way of STCR's authors (arXiv 2604.10506), one question about both pictures and no checks.
Every prompt has an item and order of its own: prompts that have both alike are the same question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.annotation.question_texts import filled, texts_in
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.samples.annotations import CHECKS
from stcr_plugin.samples.questions import fill_task, paraphrases, questions
from stcr_plugin.scoring.factuality import Halves, named_halves
from stcr_plugin.scoring.parsing import NEITHER
from stcr_plugin.types import ORDERS, Order, Pair, Prompt, Query, Shown

T = TypeVar("T")
_IMAGES = ("img1", "img2")


class DescribeOne(Protocol):
    """Asks for a text about one picture. As `describe_prompt`."""

    def __call__(
        self,
        picture: Shown,
        task: str,
        language: str,
        *,
        episode_id: str,
        variant: int = 0,
        reasons: Sequence[str] = (),
    ) -> Prompt: ...


class DescribeBoth(Protocol):
    """Asks for a text about each of two pictures. As `describe_both_prompt`."""

    def __call__(
        self, query: Query, language: str, *, variant: int = 0, reasons: Sequence[str] = (), ties: bool = False
    ) -> Prompt: ...


class JudgeTexts(Protocol):
    """Asks which picture is closer to completion, given texts about both. As `judge_prompt`."""

    def __call__(self, query: Query, halves: Halves, language: str, *, ties: bool = False) -> Prompt: ...


class ConfirmSentence(Protocol):
    """Asks whether one sentence is true of one picture. As `confirm_prompt`."""

    def __call__(self, picture: Shown, sentence: str, language: str, *, episode_id: str) -> Prompt: ...


@dataclass(frozen=True)
class Form:
    """The questions of one kind of teacher.

    Attributes:
        describe: None where the teacher can only be shown both pictures.
        describe_both: Both pictures at once.
        described_in: Pair -> the orders in which both are asked about at once; the texts of the first one are used.
        judge: None where the answer to `describe_both` has the judgment (`scoring.parsing.named_in`).
        blind: A second model judges by the texts.
        blind_begins: `blind` begins the model's turn, which a server cannot continue; use `blind_prompt` there.
        confirm: None where the second model is asked `describe_both`, and a text is confirmed by what it wrote itself
            (`sentences.missing_in`).
        checks: Those of CHECKS that are made.
    """

    describe: DescribeOne | None
    describe_both: DescribeBoth
    described_in: Callable[[Pair], tuple[Order, ...]]
    judge: JudgeTexts | None
    blind: JudgeTexts
    blind_begins: bool
    confirm: ConfirmSentence | None
    checks: tuple[str, ...] = CHECKS


def in_order(query: Query, texts: tuple[str, str]) -> Halves:
    """Texts of the earlier and the later picture -> of img1 and img2, as `query` shows them; and back again."""
    return texts if query.order == "forward" else (texts[1], texts[0])


# ---- general ----


def describe_prompt(
    picture: Shown, task: str, language: str, *, episode_id: str, variant: int = 0, reasons: Sequence[str] = ()
) -> Prompt:
    """Ask what one picture shows, alone; read the response by `readings.read_text`.

    Args:
        picture: The only picture that is shown.
        task: Of the segment, so that the teacher knows which things matter.
        language: Of question and text.
        episode_id: Of the picture.
        variant: Number of the prompt variant, counted on from the first one after the last.
        reasons: Verdicts for which the last text failed.

    Raises:
        ConfigError: For a language without questions.
    """
    texts = texts_in(language)
    question = fill_task(texts.describe[variant % len(texts.describe)], task) + texts.why(reasons)
    return _about_one(picture, "describe", question, episode_id=episode_id, label=texts.label)


def describe_both_prompt(
    query: Query, language: str, *, variant: int = 0, reasons: Sequence[str] = (), ties: bool = False
) -> Prompt:
    """As `describe_prompt`, about both pictures at once; read the response by `readings.read_halves`."""
    texts = texts_in(language)
    question = fill_task(texts.both[variant % len(texts.both)], query.pair.task) + texts.why(reasons)
    return _about_both(query, _number("both", question), question, reasons=True)


def judge_prompt(query: Query, halves: Halves, language: str, *, ties: bool = False) -> Prompt:
    """Show both pictures with their texts and ask which is closer; read it by `scoring.parsing.named_in`.

    Args:
        query: Both orders of a pair get the same prompt variant.
        halves: Texts of img1 and img2, as `query` shows them (`in_order`).
        language: Of question and texts.
        ties: Offer "neither", as the build does.
    """
    return _judging(query, halves, language, kind="judge", ties=ties)


def blind_prompt(query: Query, halves: Halves, language: str, *, ties: bool = False) -> Prompt:
    """As `judge_prompt` without any picture; "neither" is always offered, for texts that do not decide."""
    return replace(_judging(query, halves, language, kind="blind", ties=True), shown=(), labels=())


def confirm_prompt(picture: Shown, sentence: str, language: str, *, episode_id: str) -> Prompt:
    """Ask whether one sentence is true of one picture; read the response by `scoring.yes_no.label_in`."""
    texts = texts_in(language)
    drawn = _drawn(texts.confirm, [picture.image, sentence])
    question = filled(drawn, sentence=sentence.strip())
    prompt = _about_one(picture, "confirm", question, episode_id=episode_id, label=texts.label)
    return replace(prompt, names=texts.names, answer="{name}", reasons=False)


def _judging(query: Query, halves: Halves, language: str, *, kind: Literal["judge", "blind"], ties: bool) -> Prompt:
    texts = texts_in(language)
    variants = texts.judge if kind == "judge" else texts.blind
    task = query.pair.task.strip().rstrip(".。")
    question = filled(_drawn(variants, [query.pair.pair_id]), task=task, texts=named_halves(halves, _IMAGES))
    prompt = _about_both(query, _number(kind, sorted(halves)), question + (texts.neither if ties else ""))
    return replace(prompt, names=(*_IMAGES, NEITHER)) if ties else prompt


def _about_one(picture: Shown, kind: str, question: str, *, episode_id: str, label: str) -> Prompt:
    return Prompt(
        item=f"{picture.image} {_number(kind, question)}",
        episode_id=episode_id,
        order="",
        shown=(picture,),
        labels=(label,),
        question=question,
        reasons=True,  # written, not compared
    )


def _about_both(query: Query, item: str, question: str, *, reasons: bool = False) -> Prompt:
    return Prompt(
        item=f"{query.pair.pair_id} {item}",
        episode_id=query.pair.episode_id,
        order=query.order,
        shown=tuple(Shown(image) for image in query.images),
        labels=_IMAGES,
        question=question,
        reasons=reasons,
    )


# ---- a stage of this package ----


def stage_prompt(
    query: Query, language: str, *, variant: int = 0, reasons: Sequence[str] = (), ties: bool = False
) -> Prompt:
    """The CoT question of training, which has the judgment in its answer. `variant` counts the prompt variants.

    It cannot be told `reasons`: another text needs another variant.
    """
    (prompt,) = prompts_for([query], AskSettings(mode="cot", language=language), ties=ties)
    known = paraphrases("cot", language)
    question = fill_task(known[variant % len(known)], query.pair.task)
    if ties:
        question += questions()[language].neither
    return replace(prompt, item=f"{query.pair.pair_id} {_number('both', question)}", question=question)


def blind_begun_prompt(query: Query, halves: Halves, language: str, *, ties: bool = False) -> Prompt:
    """The question of training with blank pictures and the texts as the beginning of the model's own turn."""
    asked = stage_prompt(query, language, ties=ties)
    return replace(
        asked,
        item=f"{query.pair.pair_id} {_number('begun', sorted(halves))}",
        shown=tuple(Shown(one.image, "blank") for one in asked.shown),
        begin=f"spatial details: {named_halves(halves, asked.names)}\n",
        reasons=False,
    )


# ---- the authors' way ----


def authors_prompt(
    query: Query, language: str, *, variant: int = 0, reasons: Sequence[str] = (), ties: bool = False
) -> Prompt:
    """One question for both texts and the judgment. It has one variant and is not told `reasons`."""
    question = fill_task(texts_in(language).authors, query.pair.task)
    return _about_both(query, _number("both", question), question, reasons=True)


# ---- the table ----


def _drawn_order(pair: Pair) -> tuple[Order, ...]:
    """One order, drawn by pair: with a fixed one the texts of the later picture would always be the second ones."""
    return (_drawn(ORDERS, [pair.pair_id, "order"]),)


def _both_orders(pair: Pair) -> tuple[Order, ...]:
    first = _drawn(ORDERS, [pair.pair_id, "order"])
    return first, ORDERS[1 - ORDERS.index(first)]


def _later_first(pair: Pair) -> tuple[Order, ...]:
    return ("backward",)


FORMS: Mapping[str, Form] = {
    "general": Form(
        describe=describe_prompt,
        describe_both=describe_both_prompt,
        described_in=_drawn_order,
        judge=judge_prompt,
        blind=blind_prompt,
        blind_begins=False,
        confirm=confirm_prompt,
    ),
    "stage": Form(
        describe=None,
        describe_both=stage_prompt,
        described_in=_both_orders,
        judge=None,
        blind=blind_begun_prompt,
        blind_begins=True,
        confirm=None,
    ),
    "authors": Form(
        describe=None,
        describe_both=authors_prompt,
        described_in=_later_first,
        judge=None,
        blind=blind_prompt,
        blind_begins=False,
        confirm=None,
        checks=("described",),
    ),
}


def _drawn(choices: Sequence[T], key: Sequence[str]) -> T:
    return choices[int(artefacts.digest(list(key))[:16], 16) % len(choices)]


def _number(kind: str, content: str | Sequence[str]) -> str:
    """What an item ends with: the kind of question and a digest of what differs between questions of that kind."""
    return f"{kind} {artefacts.digest(content if isinstance(content, str) else list(content))[:12]}"
