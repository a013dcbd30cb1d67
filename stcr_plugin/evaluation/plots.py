"""Figures and examples -> PNG. The same input gives the same bytes; no display is needed."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Okabe & Ito's colour-blind safe palette (2008); the markers tell the series apart without colour.
_SERIES = (
    ("forward_accuracy", "forward accuracy", "#0072B2", "^", -0.12),
    ("backward_accuracy", "backward accuracy", "#D55E00", "v", 0.0),
    ("pair_accuracy", "pair accuracy (both orders right)", "#000000", "D", 0.12),
)
_CHANCE = ((50, "coin, one order", "--"), (25, "coin, both orders", ":"))
_GAP: Mapping[str, Any] = {"color": "#D6D6D6", "linewidth": 4, "zorder": 2, "solid_capstyle": "round"}


@dataclass(frozen=True)
class Example:
    """A pair to show: its pictures, earlier first, and the lines to print beside them, (text, colour name)."""

    earlier: Image
    later: Image
    lines: tuple[tuple[str, str], ...]


def accuracies(path: Path, panels: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]) -> None:
    """Forward, backward and pair accuracy of each (label, row), with intervals, the gap, and the chance levels.

    One panel for each title in `panels`; rows are as in results.json (percent).
    """
    from matplotlib.figure import Figure

    widths = [max(3.6, 1.1 + 1.1 * len(rows)) for rows in panels.values()]
    figure = Figure(figsize=(sum(widths) + 0.8, 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for level, _, style in _CHANCE:
            axis.axhline(level, color="#777777", linestyle=style, linewidth=1, zorder=1)
        for x, (_, row) in enumerate(rows):
            _gap(axis, x, row)
        for name, label, colour, marker, shift in _SERIES:
            for x, (_, row) in enumerate(rows):
                if bounds := (row.get("intervals") or {}).get(name):
                    axis.vlines(x + shift, *bounds, color=colour, linewidth=1.5, alpha=0.7, zorder=3)
            places = [x + shift for x in range(len(rows))]
            values = [row[name] for _, row in rows]
            axis.plot(places, values, marker, color=colour, markersize=8, label=label, zorder=4, clip_on=False)
        axis.set_title(_printable(title), fontsize=11, pad=12)
        axis.set_xticks(range(len(rows)), ["\n".join(textwrap.wrap(_printable(label), 13)) for label, _ in rows])
        axis.set_xlim(-0.6, len(rows) - 0.4)
        axis.set_ylim(0, 100)
        axis.grid(axis="y", color="#E5E5E5", linewidth=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("percent")
    handles, labels = axes[0].get_legend_handles_labels()
    handles += [axes[0].plot([], [], color="#777777", linestyle=style)[0] for _, _, style in _CHANCE]
    labels += [f"{label}: {level} %" for level, label, _ in _CHANCE]
    handles += axes[0].plot([], [], **_GAP)
    figure.legend(handles, [*labels, "gap"], loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def contact_sheet(path: Path, examples: Sequence[Example]) -> None:
    """One row an example: the earlier frame, the later frame, and what is said of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.3 * len(examples)))
    grid = figure.subplots(len(examples), 3, squeeze=False, width_ratios=(1, 1, 2.6))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0.03, hspace=0.08)
    for axes, example in zip(grid, examples, strict=True):
        for axis, picture, name in ((axes[0], example.earlier, "earlier"), (axes[1], example.later, "later")):
            axis.imshow(picture)
            axis.set_axis_off()
            axis.text(0.03, 0.97, name, transform=axis.transAxes, va="top", fontsize=8, bbox={"fc": "white", "lw": 0})
        axes[2].set_axis_off()
        y = 0.97
        for text, colour in example.lines:
            lines = textwrap.wrap(_printable(text), 98, max_lines=4, placeholder=" ...") or [""]
            axes[2].text(
                0.01, y, "\n".join(lines), va="top", fontsize=8.5, color=colour, parse_math=False, linespacing=1.25
            )
            y -= 0.095 * len(lines) + 0.03
    _save(figure, path)


def _gap(axis: Any, x: int, row: Mapping[str, Any]) -> None:
    """A bar between the two orders, so that the gap can be seen as a length."""
    places, heights = [x - 0.12, x], [row["forward_accuracy"], row["backward_accuracy"]]
    axis.plot(places, heights, **_GAP)


def _printable(text: str) -> str:
    """`text` on one line, with what no font can draw replaced."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # The bundled font has no Chinese signs; they are drawn as boxes, and the report beside has the words.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    artefacts.write_bytes(path, data.getvalue())
