"""Samples of one picture: a question about the state of img1, and its claims, written as a CoT sample writes them.

The questions are here and not among the prompt files, by which the tokenizer of the embedded base is trained.
"""

from __future__ import annotations

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.cot import END, START, Phrases, check_claims
from stcr_plugin.samples.general import SHOWN
from stcr_plugin.samples.questions import fill_task
from stcr_plugin.types import EpisodeSource, State

QUESTIONS: dict[str, tuple[str, ...]] = {
    "en": (
        "img1 shows the task: {task}. Describe its spatial details. Format: spatial details: img1: ...",
        "Task: {task}. Look at img1 and state where things are. Reply with spatial details: img1: ...",
        "The robot's task is: {task}. Report the state seen in img1. Output: spatial details: img1: ...",
    ),
    "zh": (
        "img1 是任务的一张图片：{task}。请描述空间细节。格式：spatial details: img1: ...",
        "任务：{task}。观察 img1，说明图中物体的位置。回答：spatial details: img1: ...",
        "机器人的任务是：{task}。请报告 img1 中的状态。输出：spatial details: img1: ...",
    ),
}
"""Language -> prompt variants."""


def description_prompt(task: str, language: str, item: str, *, seed: int) -> str:
    """The whole user message: the picture with its name, then the variant that `item` and `seed` draw.

    Raises ConfigError for an unknown language.
    """
    if language not in QUESTIONS:
        problem = f"there is no question about one picture in {language!r}"
        raise ConfigError("languages", problem, nearest(language, list(QUESTIONS)))
    texts = QUESTIONS[language]
    drawn = int(artefacts.digest([seed, item, "describe", language])[:16], 16) % len(texts)
    return f"{SHOWN}{fill_task(texts[drawn], task)}"


def description(text: str) -> str:
    """The target: the first half of a CoT target."""
    return f"{START}{text}{END}"


def described(target: str) -> str | None:
    """The description in a target; None where it is not a target of this kind."""
    if "\n" in target or not (target.startswith(START) and target.endswith(END)):
        return None
    return target.removeprefix(START).removesuffix(END) or None


def check_description(target: str, state: State, source: EpisodeSource, *, phrases: Phrases, where: str) -> int:
    """Read a finished target back and compare it with the truth; how many claims were checked.

    Raises:
        DataError: Naming `where` and the first statement that cannot be read or is false.
    """
    text = described(target)
    if text is None:
        raise DataError(where, f"the target text does not read 'spatial details: img1: ...': {target!r}")
    return check_claims(text, state, source, phrases=phrases, where=where)
