"""Findings of the checks. Their text for a terminal is made by `report.preflight_words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stcr_plugin.errors import StcrError
from stcr_plugin.provenance import provenance

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Verdict:
    """One finding of a check.

    Attributes:
        check: The check's name.
        problem: What was found.
        where: A key, or a file and row.
        fix: What to do about it.
        figures: The numbers behind it, JSON-like.
    """

    check: str
    level: Level
    problem: str
    where: str = ""
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """As the file of `stcr check --out` has it."""
        return {
            "check": self.check,
            "level": self.level,
            "what": self.problem,
            "where": self.where,
            "mend": self.fix,
            "figures": dict(self.figures),
        }


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
        """JSON-like values, with the provenance."""

        return {
            "recipe": self.recipe,
            "passes": self.passes(),
            "verdicts": [verdict.row for verdict in self.verdicts],
            "provenance": provenance(),
        }


def ok(check: str, problem: str, **figures: Any) -> Verdict:
    return Verdict(check, "ok", problem, figures=figures)


def warning(check: str, problem: str, fix: str, *, where: str = "") -> Verdict:
    return Verdict(check, "warning", problem, where=where, fix=fix)


def error(check: str, problem: str, fix: str = "", *, where: str = "") -> Verdict:
    return Verdict(check, "error", problem, where=where, fix=fix)


def refused(check: str, refusal: StcrError) -> Verdict:
    """An error of the package as a finding."""
    return Verdict(check, "error", refusal.problem, where=refusal.where, fix=refusal.fix)


def shortened(verdicts: Sequence[Verdict], most: int = 5) -> list[Verdict]:
    """The first `most` of verdicts of one kind, and one that counts the rest."""
    rest = verdicts[most:]
    if not rest:
        return list(verdicts)
    return [*verdicts[:most], Verdict(rest[0].check, rest[0].level, f"{len(rest)} more of the same kind")]
