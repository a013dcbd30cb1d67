"""Results and examples as PNG files. The same input gives the same bytes; no display is needed."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import ProbabilityFigures
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.report.tables import HasFigures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Okabe & Ito's colour-blind safe palette (2008); the markers distinguish the series without colour.
_SERIES = (
    ("forward_accuracy", "forward accuracy", "#0072B2", "^", -0.12),
    ("backward_accuracy", "backward accuracy", "#D55E00", "v", 0.0),
    ("pair_accuracy", "pair accuracy (both orders right)", "#000000", "D", 0.12),
)
_COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00")
_CHANCE = ((50, "coin, one order", "--"), (25, "coin, both orders", ":"))
_PROGRESS = {
    "pairs": "judged closer than another frame",
    "gvl": "percentage that the model writes (gvl)",
    "topreward": "probability of the token for done (topreward)",
}
_GAP: Mapping[str, Any] = {"color": "#D6D6D6", "linewidth": 4, "zorder": 2, "solid_capstyle": "round"}


@dataclass(frozen=True)
class Example:
    """A pair to show: its pictures, earlier first, and the lines to print beside them, (text, colour name)."""

    earlier: Image
    later: Image
    lines: tuple[tuple[str, str], ...]


def accuracies(path: Path, panels: Mapping[str, Sequence[tuple[str, HasFigures]]]) -> None:
    """Draw forward, backward and pair accuracy with intervals, the gap, and the chance levels.

    Args:
        path: The PNG file.
        panels: Title of a panel -> (label, result) of each of its rows.
    """
    from matplotlib.figure import Figure

    widths = [max(3.6, 1.1 + 1.1 * len(rows)) for rows in panels.values()]
    # No narrower than the legend.
    figure = Figure(figsize=(max(5.2, sum(widths) + 0.8), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for level, _, style in _CHANCE:
            axis.axhline(level, color="#777777", linestyle=style, linewidth=1, zorder=1)
        for x, (_, row) in enumerate(rows):
            _gap(axis, x, row)
        for name, label, colour, marker, shift in _SERIES:
            for x, (_, row) in enumerate(rows):
                if bounds := (row.intervals or {}).get(name):
                    axis.vlines(x + shift, *bounds, color=colour, linewidth=1.5, alpha=0.7, zorder=3)
            values = [getattr(row.figures, name) for _, row in rows]
            axis.plot(
                [x + shift for x in range(len(rows))],
                values,
                marker,
                color=colour,
                markersize=8,
                label=label,
                zorder=4,
                clip_on=False,
            )
        axis.set_title(printable(title), fontsize=11, pad=12)
        axis.set_xticks(range(len(rows)), ["\n".join(textwrap.wrap(printable(label), 13)) for label, _ in rows])
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


def seeds(path: Path, panels: Mapping[str, Sequence[tuple[str, Sequence[float]]]], unit: str) -> None:
    """Draw one panel per title with a row for each (label, values): one point per seed, a line at their mean."""
    from matplotlib.figure import Figure

    heights = [0.7 + 0.32 * len(rows) for rows in panels.values()]
    figure = Figure(figsize=(8, sum(heights) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
        for y, (_, values) in enumerate(rows):
            axes.plot(values, [y] * len(values), "o", color="#0072B2", markersize=6, alpha=0.6, clip_on=False)
            axes.vlines(sum(values) / len(values), y - 0.3, y + 0.3, color="#000000", linewidth=2)
        axes.set_yticks(range(len(rows)), [printable(label) for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", color="#DDDDDD")
        axes.set_axisbelow(True)
        axes.set_title(printable(title), fontsize=11)
    all_axes[-1].set_xlabel(unit)
    _save(figure, path)


def growth(path: Path, pairs: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> None:
    """Draw seconds over numbers of pairs, both logarithmic, one line per label, and what grows as the pairs do."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    for (label, values), marker, colour in zip(seconds.items(), "^vDosP", _COLOURS, strict=False):
        axis.plot(pairs[: len(values)], values, f"{marker}-", color=colour, markersize=6, label=printable(label))
    least = min(min(values) for values in seconds.values())
    line = [least * size / pairs[0] for size in pairs]
    axis.plot(pairs, line, "--", color="#777777", linewidth=1, label="as the pairs")
    axis.set(xscale="log", yscale="log", xlabel="pairs", ylabel="seconds of processor time")
    for direction, steps in ((axis.xaxis, (1,)), (axis.yaxis, (1, 2, 5))):
        direction.set_major_locator(LogLocator(subs=steps))
        direction.set_major_formatter("{x:,.7g}")
        direction.set_minor_formatter(NullFormatter())
    axis.grid(color="#E5E5E5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    _save(figure, path)


def calibration(path: Path, curves: Mapping[str, ProbabilityFigures]) -> None:
    """Draw reliability on the left and accuracy by coverage on the right, with intervals, one curve per label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    low = min(50.0, *(value for of in curves.values() for one in of.bins for value in (one.predicted, one.observed)))
    left.plot([low, 100], [low, 100], "--", color="#777777", linewidth=1, label="exactly right")
    for (label, of), (_, _, colour, marker, _) in zip(curves.items(), _SERIES, strict=False):
        style: dict[str, Any] = {"color": colour, "linewidth": 1.5}
        for axis, x, y, bounds in (
            (left, "predicted", "observed", "interval"),
            (right, "coverage", "observed_above", "interval_above"),
        ):
            places = [getattr(one, x) for one in of.bins]
            axis.plot(places, [getattr(one, y) for one in of.bins], f"{marker}-", markersize=5, **style)
            for place, one in zip(places, of.bins, strict=True):
                if between := getattr(one, bounds):
                    axis.vlines(place, *between, color=colour, linewidth=1.2, alpha=0.6)
        left.plot([], [], f"{marker}-", label=printable(f"{label}: Brier score {of.brier:.3f}"), **style)
    left.set_xlabel("mean probability of the choice, percent")
    right.set_xlabel("share of the judgments, the surest first, percent")
    left.set_title("Reliability", fontsize=11)
    right.set_title("Accuracy by coverage", fontsize=11)
    for axis in (left, right):
        axis.set_ylabel("accuracy, percent")
        _plain(axis, (low - 2, 102))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def contact_sheet(path: Path, examples: Sequence[Example]) -> None:
    """Draw one row per example: the earlier frame, the later frame, and the lines beside them."""
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
            lines = textwrap.wrap(printable(text), 98, max_lines=4, placeholder=" ...") or [""]
            axes[2].text(0.01, y, "\n".join(lines), va="top", fontsize=8.5, color=colour, linespacing=1.25)
            y -= 0.095 * len(lines) + 0.03
    _save(figure, path)


def progress(path: Path, ranking: Ranking) -> None:
    """Draw the progress of each frame, with its 95 % band where it has one.

    The dashed line is the true progress where it is known, else the frames' order in time where that is known.
    """
    from matplotlib.figure import Figure

    frames = ranking.frames
    timed = frames[0].seconds is not None
    places = [(frame.seconds or 0.0) if timed else frame.place for frame in frames]
    values = [frame.progress for frame in frames]
    half = [1.96 * frame.progress_error for frame in frames if frame.progress_error is not None]
    dashed = [(place, frame.truth) for place, frame in zip(places, frames, strict=True) if frame.truth is not None]
    label = "true progress, as a rank"
    if not dashed and timed:
        label, dashed = "time order", [(place, i / (len(places) - 1)) for i, place in enumerate(places)]
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axis = figure.subplots()
    if timed and half:
        low, high = ([value + sign * error for value, error in zip(values, half, strict=True)] for sign in (-1, 1))
        axis.fill_between(places, low, high, color="#0072B2", alpha=0.18, linewidth=0, label="95 % band")
    if timed:
        axis.plot(places, values, "-", color="#0072B2", linewidth=1.6)
    else:  # there is nothing between pictures whose order in time is not known
        axis.set_xticks(places)
        if half:
            axis.errorbar(places, values, half, fmt="none", ecolor="#0072B2", alpha=0.5, label="95 % interval")
    meaning = _PROGRESS.get(ranking.method, ranking.method)
    axis.plot(places, values, "o", color="#0072B2", markersize=5, label=f"progress: {meaning}")
    if dashed:
        axis.plot(*zip(*dashed, strict=True), "--", color="#000000", linewidth=1.2, label=label)
    if ranking.method == "pairs":
        axis.axhline(0.5, color="#777777", linestyle=":", linewidth=1, label="nothing distinguished")
    axis.set_title("\n".join(textwrap.wrap(printable(f"{ranking.episode_id}: {ranking.task}"), 80)), fontsize=11)
    axis.set_xlabel("seconds" if timed else "picture, in the order given")
    axis.set_ylabel("progress")
    _plain(axis, (-0.04, 1.04))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def correlations(path: Path, found: ValueOrder) -> None:
    """Draw VOC, VROC, VOC-F1 and VOC of both orders with intervals, and one dot per strip."""
    from matplotlib.figure import Figure

    series = (("voc", "VOC", 1), ("vroc", "VROC", -1), ("voc_f1", "VOC-F1", 0), ("voc_both", "VOC of both orders", 0))
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axis = figure.subplots()
    for x, (name, _, guess) in enumerate(series):
        of_strips = [getattr(one, name) or 0.0 for one in found.per_strip if hasattr(one, name)]
        spread = [x - 0.22 + 0.16 * (i % 9 - 4) / 4 for i in range(len(of_strips))]  # side by side, not at random
        axis.plot(spread, of_strips, ".", color="#999999", markersize=4, label="a strip" if x == 0 else None)
        if bounds := found.intervals.get(name):
            axis.vlines(x, *bounds, color="#0072B2", linewidth=2, label="" if x else "95 % interval")
        axis.plot([x], [getattr(found, name)], "D", color="#0072B2", markersize=7, label="mean" if x == 0 else None)
        if found.method == "pairs":
            axis.plot([x + 0.22], [guess], "x", color="#D55E00", label='"the second is further"' if x == 0 else None)
    axis.axhline(0, color="#777777", linestyle=":", linewidth=1, label="coin")
    axis.set_xticks(range(len(series)), ["\n".join(textwrap.wrap(label, 13)) for _, label, _ in series])
    axis.set_title(printable(found.name), fontsize=11)
    axis.set_ylabel("rank correlation with time")
    _plain(axis, (-1.06, 1.06))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _plain(axis: Any, limits: tuple[float, float]) -> None:
    axis.set_ylim(*limits)
    axis.grid(axis="y", color="#E5E5E5", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)


def _gap(axis: Any, x: int, row: HasFigures) -> None:
    """A bar between the two orders, which shows the gap as a length."""
    axis.plot([x - 0.12, x], [row.figures.forward_accuracy, row.figures.backward_accuracy], **_GAP)


def printable(text: str) -> str:
    """`text` on one line, with what no font can draw replaced."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    data = io.BytesIO()
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name or task may hold dollars
    with warnings.catch_warnings(), rc_context({"text.parse_math": False}):  # ticks are made when they are drawn
        # The bundled font has no Chinese characters, which become boxes; the report beside has the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    artefacts.write_bytes(path, data.getvalue())
