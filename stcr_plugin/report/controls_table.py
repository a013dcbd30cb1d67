"""The controls as a table, for a terminal, Markdown, a page, the model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.evaluation.controls import CONTROLS_JSON, CONTROLS_MD
from stcr_plugin.evaluation.evaluate import RESULTS
from stcr_plugin.evaluation.multi_image import GROUPS
from stcr_plugin.report import evaluation_page, groups_table, tables
from stcr_plugin.report.document import Cell, Judged, Marked, Table, code, written
from stcr_plugin.results import ControlRow, Controls, Evaluation, MultiImage
from stcr_plugin.scoring.verdicts import MEANINGS

COLUMNS: Mapping[str, Callable[[ControlRow], Cell]] = {
    "control": lambda row: Marked(code(row.name)),
    "verdict": lambda row: Judged(row.verdict, row.informative),
    "figures": lambda row: row.why + (f"; {row.left_out} pairs left out" if row.left_out else ""),
    "what is asked": lambda row: row.asks,
    "a model that looks": lambda row: row.looks,
}
"""Heading -> cell of a row."""


def control_cells(rows: Sequence[ControlRow], columns: Sequence[str] = tuple(COLUMNS)) -> list[list[Cell]]:
    """The cells of `rows` under the headings `columns` of COLUMNS."""
    return [[COLUMNS[column](row) for column in columns] for row in rows]


def control_table(rows: Sequence[ControlRow], columns: Sequence[str] = tuple(COLUMNS)) -> Table:
    """The table of the controls, for Markdown, a page, the model card."""
    return Table(columns, control_cells(rows, columns), "Controls")


def control_counts(rows: Sequence[ControlRow]) -> str:
    """How many hold, which fail, and how many are not shown, of those with a right outcome."""
    counted = Counter(row.verdict for row in rows if not row.informative)
    failing = [code(row.name) for row in rows if row.verdict == "fails" and not row.informative]
    named = f" ({', '.join(failing)})" if failing else ""
    return f"{counted['holds']} hold, {counted['fails']} fail{named}, {counted['not shown']} not shown"


def control_fixes(rows: Sequence[ControlRow]) -> list[str]:
    """A line for each row at fault: which training data would fix it."""
    return [f"{code(row.name)} ({row.verdict}): {row.fix}." for row in rows if row.at_fault]


def control_rules(rows: Sequence[ControlRow]) -> list[str]:
    """A line for each rule, after the names of the controls that it judges."""
    by_rule: dict[str, list[str]] = {}
    for row in rows:
        by_rule.setdefault(row.rule, []).append(code(row.name))
    return [f"{', '.join(names)}: {rule}." for rule, names in by_rule.items()]


def controls_console(rows: Sequence[ControlRow]) -> str:
    """One line per row for a terminal: name, verdict, figures."""
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:<{width}}  {row.verdict:<14}  {row.why}" for row in rows)


def controls_markdown(found: Controls) -> str:
    """controls.md: the table, what would fix a failure, and the rules."""
    of, rows = found.of, found.rows
    named = [name for name in MEANINGS if any(name in row.measures for row in rows)]
    fixes = [f"- {tables.cell(line)}" for line in control_fixes(rows)]
    parts = [
        f"# Controls of {tables.cell(f'{of.name}: {of.dataset}, {of.split}')}",
        f"{of.n_pairs} pairs of {of.n_episodes} episodes, mode `{of.mode}`. Of those with a right outcome: "
        f"{control_counts(rows)}. Intervals: 95 %, bootstrap over episodes, paired with the plain run; each stands by "
        "itself, so of twenty one may miss at random, and with a handful of episodes they are too narrow.",
        written(control_table(rows, ("control", "what is asked", "a model that looks", "figures", "verdict"))),
        "An informative control shows what the model uses; none of its outcomes is a fault.",
        tables.markdown(["figure", "what it counts"], [list(MEANINGS[name]) for name in named]),
        *(["## What would fix it", "\n".join(fixes)] if fixes else []),
        "## The rules",
        "They are in the code (scoring/verdicts.py; of groups in scoring/group_figures.py) and depend on no result.",
        "\n".join(f"- {tables.cell(line)}" for line in control_rules(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def write_controls_pages(out: Path, registry: Path, rows: Sequence[ControlRow]) -> None:
    """Write controls.md into the folder `out`, and the page of each of `rows` into its own folder there."""
    for folder in (out / row.folder for row in rows if row.folder):
        if (folder / GROUPS).is_file():
            groups_table.write_groups_page(folder, MultiImage.read(folder / GROUPS))
        else:
            evaluation_page.write_evaluation_page(folder, registry, Evaluation.read(folder / RESULTS))
    artefacts.write_text(out / CONTROLS_MD, controls_markdown(Controls.read(out / CONTROLS_JSON)))
