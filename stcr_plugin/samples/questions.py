"""The question about two pictures: several prompt variants of each, kept in prompts/questions.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
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

# What LLaMA-Factory, a chat template or a tokenizer of the model families that it supports would read as a picture, as
# the end of a turn or as another special token. Any other word in angle brackets, such as <left>, is text.
_WORDS = """image img im video audio sound box ref quad point poly patch unit slice mask placeholder s bos eos eot eoh
eoa eom eod eop sop pad unk sep cls think thinking thought answer tool tools function parameter invoke role
user assistant system model bot ai"""
_PARTS = """image img im_ _im video audio vision token tool_ fim[_-] _of_ begin_ end_ extra_id unused\\d reserved
special loc\\d seg\\d row_\\d col_\\d _index_ arg_ think_ _think seed: utterance _user _bot _system function=
parameter= 0x[0-9a-f]{2}>"""
_BRACKETED = """INST IMG IMG_BREAK IMG_END TOOL_CALLS TOOL_RESULTS TOOL_CONTENT AVAILABLE_TOOLS SYSTEM_PROMPT THINK ARGS
CALL_ID MODEL_SETTINGS AUDIO BEGIN_AUDIO PREFIX MIDDLE SUFFIX UNK PAD CLS SEP MASK gMASK sMASK BOS EOS"""
_MARKERS = re.compile(
    r"<\s*(?:image|video|audio)\s*>|<[|｜]|[|｜]>|<\[[^\]\s]+\]>|<<\s*/?SYS\s*>>|<用户>"
    rf"|</?(?:{'|'.join(_WORDS.split())})>"
    rf"|</?(?=[^<>\s]*(?:{'|'.join(_PARTS.split())}))[^<>\s]+>"
    rf"|(?-i:\[/?(?:{'|'.join(_BRACKETED.split())}|unused\d+)\])",
    re.IGNORECASE,
)


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
    return drawn(paraphrases(kind, language, part), [seed, pair_id, kind, language, part])


def drawn(texts: Sequence[str], key: Sequence[str | int]) -> str:
    """One of `texts`, always the same one for a key."""
    return texts[int(artefacts.digest(list(key))[:16], 16) % len(texts)]


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


def why_unusable(text: str, what: str = "the task text") -> str | None:
    """Why a text must not be in a conversation, or None: it is empty, or a tokenizer reads a special token in it."""
    if not text.strip():
        return f"{what} is empty"
    return f"{what} holds a media or chat marker" if _MARKERS.search(text) else None
