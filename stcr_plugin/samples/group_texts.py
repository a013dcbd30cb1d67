"""The texts of a group in one arrangement: the question, kept in prompts/groups.yaml, the target, and its check."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from stcr_plugin.config import from_mapping, nearest, read_yaml, settings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.cot import Phrases, check_details, details, details_of
from stcr_plugin.samples.questions import PROMPTS, Kind, Paraphrases, Part, drawn, fill_task
from stcr_plugin.types import EpisodeSource, Group, State

Ask = Literal["closest", "order"]

GROUPS_FILE = PROMPTS / "groups.yaml"


@settings
class GroupKinds:
    """One question about a group: with a description of each picture, and without. Each variant has `{names}`."""

    cot: Paraphrases
    direct: Paraphrases

    def __post_init__(self) -> None:
        texts = [text for kind in (self.cot, self.direct) for text in kind.train + kind.heldout]
        if wrong := [text for text in texts if text.count("{names}") != 1]:
            raise ValueError(f"every paraphrase holds {{names}} once; wrong: {wrong}")


@settings
class GroupQuestions:
    """The questions of one language: which picture is closest to completion, and the order of all."""

    closest: GroupKinds
    order: GroupKinds


@cache
def _questions() -> dict[str, GroupQuestions]:
    return {
        name: from_mapping(GroupQuestions, values, f"{GROUPS_FILE}, {name}")
        for name, values in read_yaml(GROUPS_FILE).items()
    }


def group_paraphrases(ask: Ask, kind: Kind, language: str, *, part: Part = "train") -> tuple[str, ...]:
    """All variants of a question, with `{task}` and `{names}` in each. Raises ConfigError for an unknown language."""
    if language not in _questions():
        raise ConfigError(f"language {language!r}", "has no group question", nearest(language, list(_questions())))
    texts: tuple[str, ...] = getattr(getattr(getattr(_questions()[language], ask), kind), part)
    return texts


def fill_group(template: str, task: str, count: int) -> str:
    """A variant about `count` pictures with the task in it."""
    return fill_task(template.replace("{names}", ", ".join(names(count))), task)


def group_question(group: Group, ask: Ask, kind: Kind, *, language: str, seed: int, part: Part = "train") -> str:
    """The question about a group: one variant for all its arrangements, drawn by group and seed."""
    texts = group_paraphrases(ask, kind, language, part=part)
    template = drawn(texts, [seed, group.group_id, ask, kind, language, part])
    return fill_group(template, group.task, len(group.frames))


def names(count: int) -> tuple[str, ...]:
    """img1, img2, ..."""
    return tuple(f"img{number}" for number in range(1, count + 1))


def group_answer(shown: Sequence[int], ask: Ask) -> str:
    """`closer to completion: img2`, or with all names in their order, the closest first: `img2, img3, img1`.

    Args:
        shown: Which of the group's frames is in each position, the last one being the closest to completion.
        ask: What is asked.
    """
    listed = [f"img{shown.index(frame) + 1}" for frame in reversed(range(len(shown)))]
    return f"closer to completion: {listed[0] if ask == 'closest' else ', '.join(listed)}"


def group_target(shown: Sequence[int], ask: Ask, texts: Sequence[str] = ()) -> str:
    """The target of one arrangement: the answer, behind `texts` that describe the pictures in the order shown."""
    answer = group_answer(shown, ask)
    return f"{details(texts)}\n{answer}" if texts else answer


def check_group_target(
    target: str,
    shown: Sequence[int],
    states: Sequence[State],
    *,
    ask: Ask,
    source: EpisodeSource,
    phrases: Phrases,
    where: str,
) -> int:
    """Read the finished target of an arrangement back, as `cot.check_target` does that of a pair.

    Args:
        target: Of the arrangement.
        shown: The arrangement.
        states: The true states of the pictures in the order shown.
        ask: What is asked.
        source: Knows which claims hold.
        phrases: How claims are written.
        where: The group, for errors.

    Returns:
        How many claims were checked.

    Raises:
        DataError: Naming the first statement that cannot be read or is false.
    """
    texts, judgment = details_of(target, len(shown)), target.rpartition("\n")[2]
    if texts is None:
        raise DataError(where, f"the target text does not describe {len(shown)} pictures: {target!r}")
    checked = check_details(texts, states, source=source, phrases=phrases, where=where)
    if judgment != group_answer(shown, ask):
        raise DataError(where, f"the text ends with {judgment!r} where {group_answer(shown, ask)!r} is true")
    return checked
