"""Probabilities against what came true, and temperatures, in words, tables and plots."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import Calibration, ProbabilityFigures, Temperature
from stcr_plugin.figures import Bounds
from stcr_plugin.report import plots, tables
from stcr_plugin.report.document import Block, Document, Plot, Section, Table, Words, code, markdown, written

CALIBRATION_PLOT, PAGE = "calibration.png", "calibration.md"
_HEADS = (
    "judgments",
    "Brier score",
    "calibration error",
    "noise alone",
    "mean probability %",
    "accuracy %",
    "number",
)
_MEANING = (
    "A judgment gives a probability to its own choice, 50 % and more. The Brier score is its mean squared error: 0 for "
    "a judge that is sure and right, 0.25 for one that always says 50 %. The calibration error is the mean distance of "
    "probability and accuracy over the bins, in points; where all probabilities are exactly right, so few judgments "
    "show about the noise alone. Resampling adds that noise again, so the interval of an error near it lies too high. "
    "`stcr judge` and `stcr rank` average both orders. Ties are left out."
)


def calibration_words(found: Calibration) -> str:
    """The figures of both orders and of one order in a line."""
    both, one = found.both_orders, found.one_order
    return (
        f"probabilities, both orders averaged: Brier score {brier(both)}, calibration error "
        f"{both.calibration_error:.1f} points (noise alone {both.error_by_noise:.1f}); of single answers "
        f"{one.brier:.3f} and {one.calibration_error:.1f}"
    )


def brier(found: ProbabilityFigures) -> str:
    """The Brier score with its interval."""
    return f"{found.brier:.3f}" + _between(found.intervals.get("brier"), 3)


def calibration_parts(found: Calibration) -> list[str]:
    """The section of an evaluation's page, as Markdown; its plot is drawn by `draw_calibration`."""
    blocks: list[Block] = [
        Words(_MEANING),
        figures_table({"pairs, both orders averaged": found.both_orders, "single answers": found.one_order}),
        Plot(Path(CALIBRATION_PLOT), "Reliability, and accuracy by coverage"),
        bins_table(found.both_orders),
    ]
    return ["## Probabilities", *map(written, blocks)]


def draw_calibration(path: Path, found: Calibration) -> None:
    """Draw reliability and accuracy by coverage of both orders and of single answers."""
    plots.calibration(path, {"both orders averaged": found.both_orders, "single answers": found.one_order})


def figures_table(rows: dict[str, ProbabilityFigures]) -> Table:
    """A row for each label and its figures."""
    lines = [
        [
            label,
            brier(of),
            f"{of.calibration_error:.1f}{_between(of.intervals.get('calibration_error'), 1)}",
            f"{of.error_by_noise:.1f}",
            tables.number(of.predicted),
            f"{of.observed:.1f}{_between(of.intervals.get('observed'), 1)}",
            f"{of.n} of {of.n_episodes} episodes",
        ]
        for label, of in rows.items()
    ]
    return Table(_HEADS, lines, "Probabilities against what is right")


def bins_table(found: ProbabilityFigures) -> Table:
    """The surest judgments first: how right each bin is, and all that are at least as sure."""
    lines = [
        [
            str(one.n),
            tables.number(one.predicted),
            f"{one.observed:.1f}{_between(one.interval, 1)}",
            tables.number(one.least),
            tables.number(one.coverage),
            f"{one.observed_above:.1f}{_between(one.interval_above, 1)}",
        ]
        for one in reversed(found.bins)
    ]
    heads = ["pairs", "mean probability %", "accuracy %", "with at least %", "coverage %", "accuracy of these %"]
    return Table(heads, lines, "Accuracy by probability, and by coverage")


def temperature_words(found: Temperature) -> str:
    """A few lines for a terminal."""
    low, high = found.interval
    sure = "neither too sure nor too unsure" if low <= 1 <= high else f"too {'' if low > 1 else 'un'}sure of itself"
    lines = [
        f"temperature {found.temperature:.2f} ({low:.2f} to {high:.2f}), fitted on {found.fitted.dataset}, "
        f"{found.fitted.split}: {found.fitted.n_pairs} pairs of {found.fitted.n_episodes} episodes, "
        f"{found.fitted.n_wrong} of them wrong. The model is {sure} there."
    ]
    for one in found.reported:
        before, after, change = one.raw.both_orders, one.scaled.both_orders, one.brier_change
        lines.append(
            f"on {one.dataset}, {one.split}: Brier score {before.brier:.3f}, with it {after.brier:.3f}, change "
            f"{change.value:+.3f}{_between(change.interval, 3, sign='+')}; calibration error "
            f"{before.calibration_error:.1f}, with it {after.calibration_error:.1f} points (noise alone "
            f"{after.error_by_noise:.1f})"
        )
    if not found.reported:
        lines.append("name evaluations of other splits (--on) to see what it does there")
    return "\n".join(lines)


def write_temperature_page(out: Path, found: Temperature) -> None:
    """Write calibration.md and a plot for each split into the folder `out`."""
    sections = []
    for number, one in enumerate(found.reported, 1):
        plot = out / f"calibration-{number}.png"
        scaled = f"with temperature {found.temperature:.2f}"
        curves = {"as they are": one.raw.both_orders, scaled: one.scaled.both_orders}
        plots.calibration(plot, curves)
        rows = {
            "pairs, as they are": one.raw.both_orders,
            f"pairs, {scaled}": one.scaled.both_orders,
            "single answers, as they are": one.raw.one_order,
            f"single answers, {scaled}": one.scaled.one_order,
        }
        change = f"{one.brier_change.value:+.3f}{_between(one.brier_change.interval, 3, sign='+')}"
        blocks: list[Block] = [
            figures_table(rows),
            Words(f"The Brier score of pairs changes by {change}; below 0 is better. No choice changes."),
            Plot(plot, "Reliability, and accuracy by coverage, without and with the temperature"),
            bins_table(one.scaled.both_orders),
        ]
        sections.append(Section(f"{one.dataset}, {one.split}", blocks))
    use = "`stcr judge` and `stcr rank` take it with --calibration, for this model, asked in this way."
    intro = [Words(f"{temperature_words(found)}"), Words(f"Model {code(found.model)}. {use}"), Words(_MEANING)]
    artefacts.write_text(out / PAGE, markdown(Document(f"Calibration of {found.name}", sections, intro)))


def _between(bounds: Bounds | None, digits: int, sign: str = "") -> str:
    return f" ({bounds[0]:{sign}.{digits}f} to {bounds[1]:{sign}.{digits}f})" if bounds else ""
