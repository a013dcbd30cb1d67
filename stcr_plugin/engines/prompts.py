"""Queries -> prompts: the pictures with their labels, the question, and the names that count as an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.questions import ask
from stcr_plugin.types import Choice, Prompt, Query, Shown

WORDINGS = Path(__file__).parent / "wordings"
NEITHER = "neither"


def prompts_for(queries: Sequence[Query], settings: AskSettings, seed: int = 0, ties: bool = False) -> list[Prompt]:
    """The prompt of each query; both orders of a pair get the same wording.

    `ties` offers "neither", as the training data of a build that teaches ties does. Raises ConfigError for a style or
    language that there is none of.
    """
    return [_prompt(query, settings, seed, ties) for query in queries]


def _prompt(query: Query, settings: AskSettings, seed: int, ties: bool) -> Prompt:
    names = names_of(settings.style, settings.language, len(query.images))
    question = ask(query, settings.mode or "direct", settings.language, seed=seed, part=settings.part, ties=ties)
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
    """What a style calls the first `pictures` pictures. Raises ConfigError where it is not known or has too few."""
    styles = _read("styles.yaml")
    if style not in styles:
        raise ConfigError(f"no style {style!r} of naming pictures, {nearest(style, list(styles))}")
    if language not in styles[style]:
        raise ConfigError(f"style {style!r} has no names in {language!r}, {nearest(language, list(styles[style]))}")
    names = tuple(str(name) for name in styles[style][language])
    if pictures > len(names):
        raise ConfigError(f"style {style!r} names {len(names)} pictures, {pictures} are shown; ask about fewer")
    return names[:pictures]


def renamed(text: str, names: Sequence[str]) -> str:
    """`text` with img1, img2, ... replaced by `names`."""
    return re.sub(
        r"img([1-9])", lambda found: names[int(found[1]) - 1] if int(found[1]) <= len(names) else found[0], text
    )


def choice(name: str | None, names: Sequence[str]) -> Choice | None:
    """The canonical name (img1, img2, neither) of a name of a pair's prompt."""
    if name is None:
        return None
    found: dict[str, Choice] = {names[0]: "img1", names[1]: "img2", NEITHER: "neither"}
    return found[name]


def content(prompt: Prompt) -> list[dict[str, str]]:
    """The user message as content parts: label, picture, newline, label, picture, ..., newline, question.

    As the training template writes it: `img1: `, picture, newline `img2: `, picture. A prompt without pictures is its
    question alone.
    """
    parts = []
    for number, label in enumerate(prompt.labels[: len(prompt.shown)]):
        parts += [{"type": "text", "text": f"{chr(10) if number else ''}{label}: "}, {"type": "image"}]
    return [*parts, {"type": "text", "text": f"{chr(10) if parts else ''}{prompt.question}"}]


def _warning(language: str) -> str:
    warnings = _read("warnings.yaml")
    if language not in warnings:
        raise ConfigError(f"no warning in language {language!r}, {nearest(language, list(warnings))}")
    return str(warnings[language])


@cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(WORDINGS / name)
