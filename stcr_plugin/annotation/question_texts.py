"""The texts with which a teacher is asked, in prompts/general.yaml: language -> what each question says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from stcr_plugin.config import from_mapping, nearest, read_yaml, settings
from stcr_plugin.errors import ConfigError

GENERAL = Path(__file__).parent / "prompts" / "general.yaml"
_SLOTS = {
    "describe": ("task",),
    "both": ("task",),
    "judge": ("task", "texts"),
    "blind": ("task", "texts"),
    "confirm": ("sentence",),
    "authors": ("task",),
    "again": ("reasons",),
}


@settings
class QuestionTexts:
    """The texts of one language; see the file for what each asks.

    Attributes:
        label: What stands before a picture that is shown alone.
        names: The answers yes and no.
        reasons: REASON of a verdict -> how the teacher is told, with `{detail}` for what follows the reason.
    """

    label: str
    describe: tuple[str, ...]
    both: tuple[str, ...]
    again: str
    judge: tuple[str, ...]
    blind: tuple[str, ...]
    neither: str
    confirm: tuple[str, ...]
    names: tuple[str, str]
    authors: str
    reasons: dict[str, str]

    def __post_init__(self) -> None:
        for key, slots in _SLOTS.items():
            given = getattr(self, key)
            for text in (given,) if isinstance(given, str) else given:
                if wrong := [slot for slot in slots if text.count(f"{{{slot}}}") != 1]:
                    raise ValueError(f"`{key}` holds {{{wrong[0]}}} once, not so in {text!r}")
            if not given:
                raise ValueError(f"`{key}` has no text")

    def why(self, verdicts: Sequence[str]) -> str:
        """The end of a question that is asked again: why the last text failed, "" for no verdicts."""
        said = []
        for verdict in dict.fromkeys(verdicts):
            reason, _, detail = verdict.partition(": ")
            said.append(filled(self.reasons[reason], detail=detail) if reason in self.reasons else verdict)
        return filled(self.again, reasons="; ".join(said)) if said else ""


def texts_in(language: str) -> QuestionTexts:
    """The texts of `language`. Raises ConfigError where there are none."""
    known = _read()
    if language not in known:
        raise ConfigError(f"language {language!r}", "has no questions for a teacher", nearest(language, list(known)))
    return known[language]


def filled(template: str, **values: str) -> str:
    """`template` with `{name}` replaced by its value, once: braces in a value are text."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


@cache
def _read() -> dict[str, QuestionTexts]:
    return {
        name: from_mapping(QuestionTexts, values, f"{GENERAL}, {name}") for name, values in read_yaml(GENERAL).items()
    }
