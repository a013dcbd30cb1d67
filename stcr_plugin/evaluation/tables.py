"""Figures -> Markdown: one place for the headings, the meanings and the chance levels."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """How a figure is named and read. `coin`: what guessing gives; `order_guess`: what "always img2" gives."""

    heading: str
    meaning: str
    coin: str
    order_guess: str


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
}


def figure(row: Mapping[str, Any], name: str) -> str:
    """`row[name]` with one decimal; the gap signed."""
    value = round(float(row[name]), 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{value:+.1f}" if name == "gap_points" else f"{value:.1f}"


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """`row[name]` and, where `row["intervals"]` has one, its interval; one of no width is no certainty, and says so."""
    bounds = (row.get("intervals") or {}).get(name)
    if not bounds:
        return figure(row, name)
    low, high = (figure({name: bound}, name) for bound in bounds)
    return f"{figure(row, name)} ({f'{low} to {high}' if low != high else 'alike in all episodes'})"


def figures_table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Markdown: the columns `keys` of each row, then its figures, pair accuracy with interval, and its size."""
    heads = [*keys, *(column.heading for column in COLUMNS.values()), "pairs", "episodes"]
    lines = [
        [cell(row[key]) for key in keys]
        + [with_interval(row, name) if name == "pair_accuracy" else figure(row, name) for name in COLUMNS]
        + [str(row["n_pairs"]), str(row["n_episodes"])]
        for row in rows
    ]
    return markdown(heads, lines)


def meanings_table() -> str:
    """Markdown: what each figure means, and what chance gives."""
    lines = [[c.heading, c.meaning, c.coin, c.order_guess] for c in COLUMNS.values()]
    return markdown(["figure", "what it counts", "a coin gives", '"always img2" gives'], lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(value: object) -> str:
    """`value` as the text of a table cell, where neither a model's words nor a path can break the table."""
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|").replace("`", "'")
