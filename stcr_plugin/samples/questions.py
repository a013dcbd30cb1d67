"""The question about two pictures: several prompt variants of each, kept in prompts/questions.yaml."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml, settings
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Query

Kind = Literal["cot", "direct"]
Part = Literal["train", "heldout"]

PROMPTS = Path(__file__).parent / "prompts"

# What LLaMA-Factory or a chat template would read as a picture or as the end of a turn.
_MARKERS = re.compile(r"<\s*(?:image|video|audio)\s*>|<[|｜]|[|｜]>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>", re.I)


@settings
class Paraphrases:
    """Variants of one question, each with `{task}` in it.

    Attributes:
        train: Variants that training uses.
        heldout: Variants that it never uses.
    """

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = [text for text in self.train + self.heldout if text.count("{task}") != 1]
        if wrong or not self.train or not self.heldout:
            raise ValueError(f"every paraphrase holds {{task}} once, and both parts have some; wrong: {wrong}")
        if set(self.train) & set(self.heldout):
            raise ValueError("a held-out paraphrase is used in training too")


@settings
class Questions:
    """The questions of one language.

    Attributes:
        cot: Questions that ask for a description of each picture and a judgment.
        direct: Questions that ask for the judgment alone.
        neither: End of a question where a tie may be answered.
    """

    cot: Paraphrases
    direct: Paraphrases
    neither: str


@cache
def questions() -> dict[str, Questions]:
    """Language -> its questions. Raises ConfigError where prompts/questions.yaml cannot be used."""
    path = PROMPTS / "questions.yaml"
    return {name: from_mapping(Questions, values, f"{path}, {name}") for name, values in read_yaml(path).items()}


def paraphrases(kind: Kind, language: str, part: Part = "train") -> tuple[str, ...]:
    """All variants of a question, each with `{task}` in it. Raises ConfigError for an unknown language."""
    if language not in questions():
        known = nearest(language, list(questions()))
        raise ConfigError(PROMPTS / "questions.yaml", f"no question in language {language!r}, {known}")
    texts: tuple[str, ...] = getattr(getattr(questions()[language], kind), part)
    return texts


@lru_cache(1)  # both orders of a pair follow each other
def question(kind: Kind, language: str, pair_id: str, *, seed: int, part: Part = "train") -> str:
    """The variant for one pair, with `{task}` still in it: the same for both orders, drawn by pair and seed."""
    texts = paraphrases(kind, language, part)
    return texts[int(artefacts.digest([seed, pair_id, kind, language, part])[:16], 16) % len(texts)]


def prompt(query: Query, kind: Kind, language: str, *, seed: int, part: Part = "train", ties: bool = False) -> str:
    """The whole user message: one `<image>` per image, then the question about the query's task."""
    return "<image>" * len(query.images) + question_text(query, kind, language, seed=seed, part=part, ties=ties)


def question_text(
    query: Query, kind: Kind, language: str, *, seed: int, part: Part = "train", ties: bool = False
) -> str:
    """The question about the query's task, which offers "neither" as an answer where `ties` are taught."""
    text = fill_task(question(kind, language, query.pair.pair_id, seed=seed, part=part), query.pair.task)
    return f"{text}{questions()[language].neither}" if ties else text


def fill_task(template: str, task: str) -> str:
    """A variant with the task in it; the task's own full stop is removed, since the variant has one."""
    # str.replace, not str.format: a task text may contain braces.
    return template.replace("{task}", task.strip().rstrip(".。"))


def why_unusable(task: str) -> str | None:
    """Why a task text must not be in a prompt, or None: it is empty, or would be read as a picture or a turn."""
    if not task.strip():
        return "the task text is empty"
    return "the task text holds a media or chat marker" if _MARKERS.search(task) else None
