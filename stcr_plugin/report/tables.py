"""Figures -> Markdown: one place for the headings, the meanings and the chance levels."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stcr_plugin.results import Figures


@dataclass(frozen=True)
class Column:
    """How a figure is named and read. `coin`: what guessing gives; `order_guess`: what "always img2" gives.

    A column that `needs` figures is shown where a row has one of them that is not 0.
    """

    heading: str
    meaning: str
    coin: str
    order_guess: str
    needs: tuple[str, ...] = ()


COLUMNS: Mapping[str, Column] = {
    "forward_accuracy": Column("forward %", "right answers where the pictures stand in time order", "50", "100"),
    "backward_accuracy": Column("backward %", "right answers where they are swapped", "50", "0"),
    "gap_points": Column("gap", "forward minus backward, in points; 0 is unswayed by order", "0", "+100"),
    "pair_accuracy": Column(
        "pair accuracy %", "pairs right in BOTH orders; the headline figure", "25 (50 if blind but order-free)", "0"
    ),
    "order_consistency": Column("order consistency %", "pairs whose two answers choose the same frame", "50", "0"),
    "position_bias": Column("position bias %", "answers that say img2; 50 is unbiased", "50", "100"),
    "unparsed_rate": Column("unparsed %", "answers that name no image or both; counted as wrong", "0", "0"),
    "earlier_closer_accuracy": Column(
        "earlier closer %",
        "of pairs whose EARLIER frame is closer, those right in both orders; 0 for a judge of which frame came later",
        "25",
        "0",
        ("n_closer_earlier",),
    ),
    "tie_accuracy": Column("ties %", "ties answered neither in both orders", "0", "0", ("n_ties",)),
    "neither_rate": Column(
        "neither %",
        "answers that say neither, to pairs of which one frame is closer; counted as wrong, not as unparsed",
        "0",
        "0",
        ("n_ties", "neither_rate"),
    ),
}

GUARD: Mapping[str, str] = {
    "accuracy": "accuracy %",
    "f1": "F1 %",
    "yes_ratio": "yes %",
    "unparsed_rate": "unparsed %",
}
"""The figures of yes/no questions that tables show."""
COUNTS: Mapping[str, str] = {
    "n_pairs": "pairs",
    "n_closer_earlier": "pairs, earlier closer",
    "n_ties": "ties",
    "n_episodes": "episodes",
}


def shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names in COLUMNS to show of `rows`: all but those of ties and the like, where no row has any."""
    return [
        name
        for name, column in COLUMNS.items()
        if not column.needs or any(row.get(need) for row in rows for need in column.needs)
    ]


def figure(row: Mapping[str, Any], name: str) -> str:
    """`row[name]` with one decimal; the gap signed; "-" for a figure that the row does not have."""
    if row.get(name) is None:
        return "-"
    value = round(float(row[name]), 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{value:+.1f}" if name == "gap_points" else f"{value:.1f}"


def with_interval(row: Mapping[str, Any], name: str, clusters: str = "episodes") -> str:
    """`row[name]` and, where `row["intervals"]` has one, its interval over `clusters`; one of no width says so."""
    bounds = (row.get("intervals") or {}).get(name)
    if not bounds:
        return figure(row, name)
    low, high = (figure({name: bound}, name) for bound in bounds)
    return f"{figure(row, name)} ({f'{low} to {high}' if low != high else f'alike in all {clusters}'})"


def figures_table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Markdown of `figures_cells`."""
    heads, lines = figures_cells(rows, keys)
    return markdown(heads, [[cell(text) for text in line] for line in lines])


def figures_cells(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: the columns `keys` of each row, its figures, pair accuracy with interval, and its size."""
    names = shown(rows)
    counts = [name for name in COUNTS if name in ("n_pairs", "n_episodes") or any(row.get(name) for row in rows)]
    heads = [*keys, *(COLUMNS[name].heading for name in names), *(COUNTS[name] for name in counts)]
    lines = [
        [str(row[key]) for key in keys]
        + [with_interval(row, name) if name == "pair_accuracy" else figure(row, name) for name in names]
        + [str(row.get(name, 0)) for name in counts]
        for row in rows
    ]
    return heads, lines


def console_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Plain text for a terminal: a line a (name, figures), columns aligned."""
    figures_of = [(label, dataclasses.asdict(found)) for label, found in rows]
    names = shown([values for _, values in figures_of])
    heads = ["", *(COLUMNS[name].heading for name in names), "pairs"]
    lines = [heads]
    for label, values in figures_of:
        lines.append([label, *(figure(values, name) for name in names), str(values["n_pairs"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def meanings_table(rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown of `meanings_cells`."""
    return markdown(*meanings_cells(rows))


def meanings_cells(rows: Sequence[Mapping[str, Any]] = ()) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: what each figure shown of `rows` means, and what chance gives."""
    columns = [COLUMNS[name] for name in shown(rows)]
    lines = [[column.heading, column.meaning, column.coin, column.order_guess] for column in columns]
    always = '"always img2" gives'
    if any(row.get("n_closer_earlier") for row in rows):
        always += " where the later frame is closer"
    return ["figure", "what it counts", "a coin gives", always], lines


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(value: object) -> str:
    """`value` as the text of a table cell, where neither a model's words nor a path can break the table."""
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|").replace("`", "'")
