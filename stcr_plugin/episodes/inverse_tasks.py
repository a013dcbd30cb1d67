"""Tasks that undo each other: the text of a task -> the text of the one that undoes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_PART = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class InverseTasks:
    """Which tasks undo each other.

    Attributes:
        texts: Text of a task -> text of the task that undoes it, with `{name}` for a part that both have, as in "put
            the {thing} down"; each is read in both directions.
        phases: Phases in which something changes that the other task undoes; empty: in all of them. Elsewhere only the
            robot moves, of which the other task's text says nothing.

    Raises:
        ValueError: A text is empty, has a part twice, or has other parts than its inverse.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    phases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text, inverse in self.texts.items():
            parts = [sorted(_PART.findall(one)) for one in (text, inverse)]
            if not (text.strip() and inverse.strip()):
                raise ValueError(f"a task and its inverse are texts, got {text!r} and {inverse!r}")
            if parts[0] != parts[1] or len(set(parts[0])) < len(parts[0]):
                raise ValueError(f"{text!r} and {inverse!r} must have the same parts in braces, each once")

    def after(self, texts: Mapping[str, str]) -> InverseTasks:
        """These, with `texts` looked up first."""
        return replace(self, texts={**texts, **{key: one for key, one in self.texts.items() if key not in texts}})

    def inverse(self, task: str) -> str | None:
        """The text of the task that undoes `task`; None where nothing says it."""
        for pair in self.texts.items():
            for known, other in (pair, pair[::-1]):
                if (found := _rewritten(task, known, other)) is not None:
                    return found
        return None

    def shown(self, phase: str) -> bool:
        """Whether a pair of this phase ("reach>transport", or "reach" for both frames) shows something to undo."""
        return not self.phases or not set(self.phases).isdisjoint(phase.split(">"))


def _rewritten(task: str, known: str, other: str) -> str | None:
    """`other` with the parts that `task` has where `known` has them; None where `task` is another one."""
    texts = _PART.split(known.strip().rstrip(".。"))
    pattern = "".join(f"(?P<{text}>.+?)" if place % 2 else re.escape(text) for place, text in enumerate(texts))
    found = re.fullmatch(pattern, task.strip().rstrip(".。"))
    return _PART.sub(lambda part: found[part[1]], other) if found else None
