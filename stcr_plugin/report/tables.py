"""Tables of figures: their heads, meanings and chance levels, and numbers as text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stcr_plugin.figures import Difference, Figures, PairFigures


@dataclass(frozen=True)
class Column:
    """How a figure is named and read.

    Attributes:
        coin: What guessing gives.
        order_guess: What "always img2" gives.
        needs: The column is shown only where a result has one of these figures that is not 0.
    """

    heading: str
    meaning: str
    coin: str
    order_guess: str
    needs: tuple[str, ...] = ()


# A bracket, or the sign after which renderers take the rest for an address, without which none is a link.
_LINKS = re.compile(r"[\[\]]|\b(?:https?|ftp|mailto):|\bwww\.", re.IGNORECASE)


COLUMNS: Mapping[str, Column] = {
    "forward_accuracy": Column("forward %", "right answers where the pictures are in time order", "50", "100"),
    "backward_accuracy": Column("backward %", "right answers where they are swapped", "50", "0"),
    "gap_points": Column("gap", "forward minus backward, in points; 0 is free of order bias", "0", "+100"),
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
    "later_closer_accuracy": Column(
        "later closer %",
        "the same, of pairs whose LATER frame is closer; 100 for a judge of which frame came later",
        "25",
        "0",
        ("clock_accuracy",),
    ),
    "clock_accuracy": Column(
        "clock %",
        "pair accuracy of a clock, which always names the frame that was recorded later: what knowing the time gives",
        "as shown",
        "as shown",
        ("clock_accuracy",),
    ),
    "published_accuracy": Column(
        "published order %",
        "right answers in the one order in which each pair was published, as benchmarks report that show it once",
        "50",
        "as shown",
        ("published_accuracy",),
    ),
    "both_texts_accuracy": Column(
        "both texts %",
        "of frames shown under two task texts with opposite answers, those right under both in both orders; 0 for a "
        "judge that ignores the text",
        "6.25",
        "0",
        ("both_texts_accuracy",),
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

OVER_EPISODES, OVER_SEEDS = "95 % over episodes", "95 % over seeds"
"""The two intervals of a comparison of trainings: other episodes for the same weights, and other trainings."""
ONE_TRAINING = "unknown: one training each"

COUNTS: Mapping[str, str] = {
    "n_pairs": "pairs",
    "n_closer_earlier": "pairs, earlier closer",
    "n_ties": "ties",
    "n_episodes": "episodes",
}


class HasFigures(Protocol):
    """A result, or a part of one: a dataclass of figures, and the intervals of some of them."""

    @property
    def figures(self) -> Any: ...
    @property
    def intervals(self) -> Mapping[str, tuple[float, float]] | None: ...


Labelled = tuple[Sequence[str], HasFigures]
"""The first cells of a line, and the result that the others show."""


def shown(found: Iterable[HasFigures]) -> list[str]:
    """The names in COLUMNS to show: all but those of ties and the like, where no result has any."""
    figures = [one.figures for one in found]
    return [
        name
        for name, column in COLUMNS.items()
        if not column.needs or any(getattr(one, need, None) for one in figures for need in column.needs)
    ]


def number(value: float | None) -> str:
    """One decimal, "-" for None."""
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"  # + 0.0 turns -0.0 into 0.0


def signed(value: float | None) -> str:
    """One decimal and the sign, "-" for None."""
    return "-" if value is None else f"{round(value, 1) + 0.0:+.1f}"


def _form(name: str) -> Callable[[float | None], str]:
    return signed if name == "gap_points" else number


def figure(found: HasFigures, name: str) -> str:
    """The figure `name` of a result, signed if it is the gap; "-" where it has none."""
    return _form(name)(getattr(found.figures, name, None))


def with_interval(found: HasFigures, name: str, clusters: str = "episodes") -> str:
    """A figure and its interval, where it has one.

    Args:
        found: The result.
        name: The name of the figure.
        clusters: What the bootstrap draws. An interval without width shows no certainty: all of them came out alike.
    """
    bounds = (found.intervals or {}).get(name)
    if not bounds:
        return figure(found, name)
    low, high = map(_form(name), bounds)
    return f"{figure(found, name)} ({f'{low} to {high}' if low != high else f'alike in all {clusters}'})"


def bounds(interval: tuple[float, float] | None) -> str:
    """The interval of a difference, "-" for None."""
    return "-" if interval is None else " to ".join(map(signed, interval))


def difference(found: Difference) -> str:
    """A difference of pair accuracies, with its interval where it has one."""
    return signed(found.points) + (f" ({bounds(found.interval)})" if found.interval else "")


def figures_cells(heads: Sequence[str], rows: Sequence[Labelled]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: the labels of each row, its figures, pair accuracy with its interval, and its size.

    Args:
        heads: Those of the labels.
        rows: Labels and results.
    """
    names = shown(found for _, found in rows)
    counts = [
        name
        for name in COUNTS
        if name in ("n_pairs", "n_episodes") or any(getattr(found.figures, name, 0) for _, found in rows)
    ]
    lines = [
        [*labels]
        + [with_interval(found, name) if name == "pair_accuracy" else figure(found, name) for name in names]
        + [str(getattr(found.figures, name, 0)) for name in counts]
        for labels, found in rows
    ]
    return [*heads, *(COLUMNS[name].heading for name in names), *(COUNTS[name] for name in counts)], lines


def figures_table(heads: Sequence[str], rows: Sequence[Labelled]) -> str:
    """Markdown of `figures_cells`."""
    return _escaped(*figures_cells(heads, rows))


def meanings_cells(found: Sequence[HasFigures] = ()) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: what each figure that is shown of the results means, and what chance gives."""
    columns = [COLUMNS[name] for name in shown(found)]
    always = '"always img2" gives'
    if any(one.figures.n_closer_earlier for one in found):
        always += " where the later frame is closer"
    lines = [[column.heading, column.meaning, column.coin, column.order_guess] for column in columns]
    return ["figure", "what it counts", "a coin gives", always], lines


def meanings_table(found: Sequence[HasFigures] = ()) -> str:
    """Markdown of `meanings_cells`."""
    return _escaped(*meanings_cells(found))


def _escaped(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown(heads, [list(map(cell, line)) for line in lines])


def console_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Plain text for a terminal: one line per (name, figures), with aligned columns."""
    found = [(label, PairFigures(figures)) for label, figures in rows]
    names = shown(one for _, one in found)
    lines = [["", *(COLUMNS[name].heading for name in names), "pairs"]]
    lines += [[label, *(figure(one, name) for name in names), str(one.figures.n_pairs)] for label, one in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width) for column, (text, width) in enumerate(cells)
        ).rstrip()
        for cells in (zip(line, widths, strict=True) for line in lines)
    )


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(value: object) -> str:
    """`value` as the text of a Markdown cell; neither a model's words nor a path can break the table or be a link."""
    return inert(" ".join(str(value).split())).replace("|", "\\|").replace("`", "'")


def inert(text: str) -> str:
    """`text` for Markdown: no HTML, no picture and no link, also none that begins with https: or www."""
    return _LINKS.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", html.escape(text, quote=False))
