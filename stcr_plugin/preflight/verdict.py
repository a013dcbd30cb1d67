"""What a check found, and all of it together: in lines for a person, in JSON for a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Verdict:
    """One finding of the check `check`: what, `where` (a key, a file and row) and how to mend it.

    `figures` are the numbers behind it, JSON-like. Of several findings of one kind the first few are verdicts of their
    own and the last counts the rest.
    """

    check: str
    level: Level
    what: str
    where: str = ""
    mend: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{self.level:<8} {self.check:<12} {place}{self.what}{f'; {self.mend}' if self.mend else ''}"


@dataclass(frozen=True)
class Report:
    """All verdicts in the order of the checks."""

    recipe: str
    verdicts: tuple[Verdict, ...]

    def count(self, level: Level) -> int:
        return sum(verdict.level == level for verdict in self.verdicts)

    def passes(self, strict: bool = False) -> bool:
        """No error; `strict`: no warning either."""
        return not self.count("error") and not (strict and self.count("warning"))

    def row(self) -> dict[str, Any]:
        """JSON-like values, with what made them."""
        from stcr_plugin.artefacts import provenance

        return {
            "recipe": self.recipe,
            "passes": self.passes(),
            "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
            "provenance": provenance(),
        }

    def __str__(self) -> str:
        found = ", ".join(f"{self.count(level)} {level}" for level in ("error", "warning", "ok"))
        return "\n".join([*map(str, self.verdicts), f"{self.recipe}: {found}"])


def ok(check: str, what: str, **figures: Any) -> Verdict:
    return Verdict(check, "ok", what, figures=figures)


def warning(check: str, what: str, mend: str, where: str = "") -> Verdict:
    return Verdict(check, "warning", what, where, mend)


def error(check: str, what: str, mend: str = "", where: str = "") -> Verdict:
    return Verdict(check, "error", what, where, mend)


def shortened(verdicts: Sequence[Verdict], most: int = 5) -> list[Verdict]:
    """The first `most` of verdicts of one kind, and one that counts the rest."""
    rest = verdicts[most:]
    if not rest:
        return list(verdicts)
    return [*verdicts[:most], Verdict(rest[0].check, rest[0].level, f"{len(rest)} more of the same kind")]
