"""The findings of `stcr check` as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

_BARS, _BAR = 8, 30  # lines of a histogram, and characters of its longest


class Finding(Protocol):
    """A `preflight.verdict.Verdict`."""

    @property
    def check(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def fix(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, Any]: ...


def line(finding: Finding) -> str:
    """One finding; that of the supervised tokens has a histogram below it."""
    what = "; ".join(filter(None, (": ".join(filter(None, (finding.where, finding.problem))), finding.fix)))
    text = f"{finding.level:<8} {finding.check:<12} {what}"
    tokens = finding.figures.get("tokens") if finding.check == "supervised" else None
    return f"{text}:\n{histogram(tokens)}" if tokens else text


def text(recipe: str, findings: Sequence[Finding]) -> str:
    """All findings, and how many there are of each level."""
    counts = Counter(finding.level for finding in findings)
    found = ", ".join(f"{counts[level]} {level}" for level in ("error", "warning", "ok"))
    return "\n".join([*map(line, findings), f"{recipe}: {found}"])


def histogram(tokens: Mapping[int, int]) -> str:
    """Lines of ranges with bars, at most _BARS of equal width. `tokens`: value -> how many samples have it."""
    low, high = min(tokens), max(tokens)
    width = -(-(high - low + 1) // _BARS)
    binned: Counter[int] = Counter()
    for value, count in tokens.items():
        binned[(value - low) // width] += count
    lines = []
    for number in range((high - low) // width + 1):
        first, last = low + number * width, min(high, low + (number + 1) * width - 1)
        name = f"{first}" if first == last else f"{first}-{last}"
        bar = "#" * -(-binned[number] * _BAR // max(binned.values()))
        lines.append(f"{'':24}{name:>11} {binned[number]:>8} {bar}".rstrip())
    return "\n".join(lines)
