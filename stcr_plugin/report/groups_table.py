"""Figures of groups of pictures in words: a line for a terminal, and groups.md."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.figures import GroupPart
from stcr_plugin.report import tables
from stcr_plugin.report.lost_words import lost_words
from stcr_plugin.results import MultiImage
from stcr_plugin.scoring.group_figures import ASKS, control_row

GROUPS_MD = "groups.md"
_MEANINGS = {
    "accuracy": "closest picture named right",
    "all_rotations": "groups right in every arrangement",
    "exact": "orders right from first to last",
    "kendall_tau": "Kendall's tau-b with the true order; unparsed counts as 0",
}


def group_figure(found: MultiImage | GroupPart, name: str) -> str:
    """A figure with its interval; tau with two decimals, shares in percent with one; "-" for one that is None."""
    value, bounds = getattr(found.figures, name), (found.intervals or {}).get(name)
    if value is None:
        return "-"
    interval = f" ({' to '.join(_number(name, bound) for bound in bounds)})" if bounds else " (no interval)"
    return f"{_number(name, value)}{_unit(name)}{interval}"


def groups_line(found: MultiImage) -> str:
    """The figures in one line."""
    ordered = (
        f", orders right {group_figure(found, 'exact')}, tau {group_figure(found, 'kendall_tau')}"
        if found.asked.ask == "order"
        else ""
    )
    return (
        f"{found.name}: closest of {found.asked.pictures} right {group_figure(found, 'accuracy')}, chance "
        f"{found.chance['accuracy']:.1f} %; groups right in every arrangement {group_figure(found, 'all_rotations')}"
        f"{ordered}; named by position {list(found.figures.places)}; unparsed {found.figures.unparsed_rate:.1f} %"
        + "".join(f". {line}" for line in lost_words(found.figures, found.settings))
    )


def groups_markdown(found: MultiImage) -> str:
    """groups.md."""
    figures, count = found.figures, found.asked.pictures
    lines = [
        [meaning, group_figure(found, name), f"{_number(name, found.chance[name])}{_unit(name)}"]
        for name, meaning in _MEANINGS.items()
        if getattr(figures, name) is not None
    ]
    bias = (
        f"chi-square {figures.place_chi2:.1f} against equal numbers, p {figures.place_p:.2g}; the answers to one group "
        "are not independent, so p describes and does not test."
        if figures.place_chi2 is not None
        else "nothing was named."
    )
    row = control_row(found)
    parts = [
        f"# Groups of {count} pictures: {tables.cell(f'{found.name}: {found.dataset}, {found.split}')}",
        f"{ASKS[found.asked.ask].capitalize()}? {figures.n_groups} groups of {figures.n_episodes} episodes, each in "
        f"{figures.n_queries // figures.n_groups} arrangements: {figures.n_queries} queries. Intervals: 95 %, "
        f"bootstrap over episodes, {found.resamples} resamples.",
        tables.markdown(["figure", "value", "a coin gives"], lines),
        f"Named by position: {', '.join(str(number) for number in figures.places)}; {bias} "
        f"Unparsed: {figures.unparsed_rate:.1f} %.",
        *lost_words(figures, found.settings),
        f"As a control, {row.name}: **{row.verdict}**. {row.why}. Rule: {row.rule}.",
    ]
    return "\n\n".join(parts) + "\n"


def write_groups_page(out: Path, found: MultiImage) -> None:
    """Write groups.md into the folder `out`."""
    artefacts.write_text(out / GROUPS_MD, groups_markdown(found))


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "kendall_tau" else f"{value:.1f}"


def _unit(name: str) -> str:
    return "" if name == "kendall_tau" else " %"
