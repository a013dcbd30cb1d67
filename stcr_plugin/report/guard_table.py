"""Figures of yes/no questions in words: lines for a terminal, guard.md, and several guards side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.evaluation.guard import ANSWERS, compare, read_replies
from stcr_plugin.figures import Bounds, GuardKind, YesNoFigures
from stcr_plugin.report import tables
from stcr_plugin.report.lost_words import lost_words
from stcr_plugin.results import Guard, GuardComparison
from stcr_plugin.scoring.yes_no import Reply, constant_figures

GUARD_MD, COMPARE_MD = "guard.md", "compare.md"
COLUMNS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy %", "right answers; no answer is a wrong one"),
    "precision": ("precision %", "of those answered yes, right ones"),
    "recall": ("recall %", "of what is in the picture, answered yes"),
    "f1": ("F1 %", "harmonic mean of precision and recall"),
    "yes_ratio": ("yes %", "answered yes; 50 is unbiased"),
    "unparsed_rate": ("unparsed %", "said neither yes nor no, or both"),
}
"""Figure -> heading and meaning."""


def guard_figure(found: GuardKind, name: str) -> str:
    """A figure with its interval over pictures."""
    return tables.with_interval(found, name, clusters="pictures")


def guard_lines(found: Guard) -> str:
    """One line per kind of negatives."""
    return "\n".join(
        f"{found.name}, {kind}: "
        + ", ".join(f"{head} {guard_figure(one, name)}" for name, (head, _) in COLUMNS.items())
        for kind, one in found.kinds.items()
    ) + "".join(f"\n{line}" for line in lost_words(found.kinds["all"].figures, found.settings))


def guard_markdown(found: Guard, replies: Sequence[Reply]) -> str:
    """guard.md; `replies` say what a constant answer gets to the same questions."""
    return f"# General ability: {tables.cell(found.name)}\n\n{_table([found], replies)}\n" + "".join(
        f"\n{line}\n" for line in lost_words(found.kinds["all"].figures, found.settings)
    )


def comparison_markdown(found: GuardComparison, replies: Sequence[Reply]) -> str:
    """The guards side by side, and what each differs from the first by."""
    first = found.runs[0]
    lines = [
        [tables.cell(one.name), kind, _points(difference.points, difference.interval)]
        for one in found.differences
        for kind, difference in one.kinds.items()
    ]
    parts = [
        f"# General ability before and after: {tables.cell(', '.join(one.name for one in found.runs))}",
        _table(found.runs, replies),
        f"## Accuracy minus that of {tables.cell(first.name)}",
        "In points, on the same questions. An interval without 0 is a change; one with it may hide one as large "
        "as its ends.",
        tables.markdown(["model", "negatives", "difference"], lines),
    ]
    return "\n\n".join(parts) + "\n"


def compare_guards(runs: Sequence[Path], out: Path | None = None) -> str:
    """Compare finished guards; the text, which is written to the folder `out` too (compare.md, compare.json)."""
    text = comparison_markdown(compare(runs, out), read_replies(runs[0] / ANSWERS))
    if out:
        artefacts.write_text(out / COMPARE_MD, text)
    return text


def write_guard_page(out: Path, found: Guard) -> None:
    """Write guard.md into the folder `out`, which holds the answers of `found`."""
    artefacts.write_text(out / GUARD_MD, guard_markdown(found, read_replies(out / ANSWERS)))


def _table(rows: Sequence[Guard], replies: Sequence[Reply]) -> str:
    """Each guard's figures by kind; what always yes, always no and a coin give; what a figure means."""
    heads = ["model", "negatives", *(head for head, _ in COLUMNS.values()), "questions"]
    lines = [
        [
            tables.cell(row.name),
            tables.cell(kind),
            *(guard_figure(row.kinds[kind], key) for key in COLUMNS),
            str(row.kinds[kind].n),
        ]
        for kind in rows[0].kinds
        for row in rows
    ]
    always = constant_figures(replies)
    there = always["yes"].accuracy or 0.0
    coin = YesNoFigures(50, there, 50, f1=100 * there / (50 + there), yes_ratio=50, unparsed_rate=0)
    for word, figures in (*((f"always {word}", found) for word, found in always.items()), ("a coin", coin)):
        lines.append([word, "all", *(tables.number(getattr(figures, key)) for key in COLUMNS), ""])
    return "\n\n".join(
        [
            f"Yes/no questions about {rows[0].n_pictures} pictures in the manner of POPE (arXiv 2305.10355). "
            f"Intervals: 95 %, bootstrap over pictures, {rows[0].resamples} resamples. A model whose figures are those "
            "of the last three lines was not able to answer such questions, so nothing can be said of what training "
            "cost it.",
            tables.markdown(heads, lines),
            tables.markdown(["figure", "what it counts"], [list(one) for one in COLUMNS.values()]),
        ]
    )


def _points(points: float, interval: Bounds | None) -> str:
    return f"{points:+.1f}" + (f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else "")
