"""Queries -> prompts -> the text and tokens of a conversation.

A prompt holds the pictures with their labels, the question, and the names that count as an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.engines.chat_templates import rendered
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.questions import question_text
from stcr_plugin.scoring.parsing import NEITHER
from stcr_plugin.scoring.reasoning import begun, is_mark
from stcr_plugin.types import Prompt, Query, Response, Shown

PROMPT_VARIANTS = Path(__file__).parent / "prompt_variants"


def prompts_for(queries: Sequence[Query], settings: AskSettings, seed: int = 0, ties: bool = False) -> list[Prompt]:
    """The prompt of each query; both orders of a pair get the same prompt variant.

    Args:
        queries: Pairs in an order.
        settings: How they are asked.
        seed: Draws the prompt variants.
        ties: Offer "neither", as the training data of a build that teaches ties does.

    Raises:
        ConfigError: For an unknown style or language.
    """
    return [_prompt(query, settings, seed, ties=ties) for query in queries]


def _prompt(query: Query, settings: AskSettings, seed: int, ties: bool) -> Prompt:
    names = names_of(settings.style, settings.language, len(query.images))
    question = question_text(
        query, settings.mode or "direct", settings.language, seed=seed, part=settings.part, ties=ties
    )
    return Prompt(
        item=query.pair.pair_id,
        episode_id=query.pair.episode_id,
        order=query.order,
        shown=tuple(Shown(image) for image in query.images),
        labels=names,
        question=renamed(question, names) + (_warning(settings.language) if settings.warn else ""),
        names=(*names, NEITHER) if ties else names,
        reasons=settings.mode == "cot",
    )


def names_of(style: str, language: str, pictures: int) -> tuple[str, ...]:
    """The names of the first `pictures` pictures. Raises ConfigError where the style is unknown or has too few."""
    styles = _read("styles.yaml")
    if style not in styles:
        raise ConfigError("style", f"unknown style {style!r} of naming pictures", nearest(style, list(styles)))
    if language not in styles[style]:
        raise ConfigError(
            "language", f"style {style!r} has no names in {language!r}", nearest(language, list(styles[style]))
        )
    names = tuple(str(name) for name in styles[style][language])
    if pictures > len(names):
        raise ConfigError("style", f"{style!r} names {len(names)} pictures, {pictures} are shown", "show fewer")
    return names[:pictures]


def renamed(text: str, names: Sequence[str]) -> str:
    """`text` with img1, img2, ... replaced by `names`."""
    return re.sub(
        r"img([1-9])", lambda found: names[int(found[1]) - 1] if int(found[1]) <= len(names) else found[0], text
    )


def content(prompt: Prompt) -> list[dict[str, str]]:
    """The user message as content parts: label, picture, newline, label, picture, ..., newline, question.

    As the training template writes it: `img1: `, picture, newline `img2: `, picture. With `question_first` the question
    and a newline come before the first label. A prompt without pictures is its question alone.
    """
    parts, first = [], prompt.question_first and bool(prompt.shown)
    for number, label in enumerate(prompt.labels[: len(prompt.shown)]):
        before = "\n" if number else f"{prompt.question}\n" if first else ""
        parts += [{"type": "text", "text": f"{before}{label}: "}, {"type": "image"}]
    return parts if first else [*parts, {"type": "text", "text": f"{chr(10) if parts else ''}{prompt.question}"}]


def conversation(processor: Any, prompt: Prompt) -> str:
    """The whole conversation in the model's chat template, up to where the model continues. Raises as `rendered`."""
    message = {"role": "user", "content": content(prompt)}
    text = rendered(processor, [message], add_generation_prompt=True)
    mark = begun(text)  # which a given start of the turn has too, see written()
    return (text[: text.rindex(mark)] if mark and prompt.begin.startswith(mark) else text) + prompt.begin


def written(processor: Any, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each model's turn, with the mark of a reasoning that the template has begun for it.

    Special tokens are left out, except those that begin or end a reasoning or an answer.
    """
    tokenizer = processor.tokenizer
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = {number for number, token in special.items() if is_mark(token)}
    left_out = special.keys() - marks
    return [
        begun(conversation(processor, prompt))
        + str(tokenizer.decode([one for one in row if one not in left_out], skip_special_tokens=not marks))
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def end_of_turn(tokenizer: Any) -> str:
    """Qwen's end of turn, which not every checkpoint names as its end of sequence; else the latter."""
    return "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else str(tokenizer.eos_token)


def generates(prompt: Prompt, settings: AskSettings) -> bool:
    """Whether the answer is generated and parsed, not compared."""
    return prompt.reasons or settings.generate


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """All of a prompt as a mapping, for digests: without a field that earlier versions had not, where it is empty."""
    later = ("other", "question_first")

    def row(one: Prompt | Shown) -> dict[str, Any]:
        return {key: value for key, value in asdict(one).items() if value or key not in later}

    return {**row(replace(prompt, shown=())), "shown": [row(one) for one in prompt.shown]}


def answer_tokens(tokenizer: Any, prompt: Prompt) -> tuple[list[int], dict[str, list[int]]]:
    """(tokens that all answers start with, name -> its tokens after them).

    Raises:
        ConfigError: Where an answer is the start of another, so that they cannot be compared.
    """
    written: dict[str, list[int]] = {
        name: tokenizer(prompt.answer.format(name=name), add_special_tokens=False)["input_ids"] for name in prompt.names
    }
    start = next((i for i, tokens in enumerate(zip(*written.values(), strict=False)) if len(set(tokens)) > 1), None)
    if start is None:
        raise ConfigError(
            f"the answers {list(prompt.names)}",
            "cannot be compared: to this model's tokenizer one is the same as another, or its start",
            "set `generate: true`, so that answers are generated and parsed",
        )
    first = next(iter(written.values()))
    return first[:start], {name: tokens[start:] for name, tokens in written.items()}


def likeliest(prompt: Prompt, scores: dict[str, float]) -> Response:
    """The response with the name of the highest log-probability; without text where several have it."""
    best = [name for name, score in scores.items() if score == max(scores.values())]
    return Response(prompt.answer.format(name=best[0]) if len(best) == 1 else "", scores)


def _warning(language: str) -> str:
    warnings = _read("warnings.yaml")
    if language not in warnings:
        raise ConfigError("warn", f"no warning in language {language!r}", nearest(language, list(warnings)))
    return str(warnings[language])


@cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(PROMPT_VARIANTS / name)
