"""What other commands have left in the runs' folders -> sections, each only where there is something to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin.evaluation import controls, guard, multi_image, rank
from stcr_plugin.report import plots, tables
from stcr_plugin.report.document import (
    Block,
    Bullets,
    Cell,
    Fold,
    Heading,
    Judged,
    Plot,
    Section,
    Share,
    Table,
    Words,
    code,
    share,
)
from stcr_plugin.report.groups_table import group_figure
from stcr_plugin.report.runs import Left, Measured, Row, Runs
from stcr_plugin.result_files import decode
from stcr_plugin.results import ControlRow, Controls, MultiImage
from stcr_plugin.scoring.group_figures import control_row

_CURVES = 6  # so many progress curves are drawn at most


def evidence(runs: Runs, out: Path) -> list[Section]:
    """Sections of controls, groups, comparators, progress and guard; their plots are written into the folder `out`."""
    sections = [
        Section("Controls", _controls(runs.left.get(controls.CONTROLS_JSON, ()))),
        Section("Three and more pictures", _groups(runs.left.get(multi_image.GROUPS, ()))),
        Section("Comparators: other ways to ask", _comparators(runs.comparators)),
        Section("Progress curves", _curves(runs.left.get(rank.RANKING, ()), out)),
        Section("Value-order correlation", _correlations(runs.left.get(rank.VOC, ()), out)),
        Section("General ability", _guards(runs.left.get(guard.GUARD, ()))),
    ]
    return [section for section in sections if section.blocks]


def control_counts(runs: Runs) -> list[str]:
    """A line for each file of controls: how many hold, and which fail."""
    return [
        f"Controls of {code(left.run)} on {code(left.row['of'].get('split'))}: "
        f"{_counts(Controls.read(left.path).rows)}."
        for left in runs.left.get(controls.CONTROLS_JSON, ())
    ]


def _controls(found: Sequence[Left]) -> list[Block]:
    blocks: list[Block] = []
    for left in found:
        of, rows = left.row["of"], Controls.read(left.path).rows
        mended = [f"{code(row.name)} ({row.verdict}): {row.mends}." for row in rows if _at_fault(row)]
        by_rule: dict[str, list[str]] = {}
        for row in rows:
            by_rule.setdefault(row.rule, []).append(code(row.name))
        blocks += [
            Heading(", ".join((left.run, *(str(of.get(key)) for key in ("dataset", "split"))))),
            Words(
                f"{of.get('n_pairs')} pairs of {of.get('n_episodes')} episodes, mode {code(of.get('mode'))}: "
                f"{_counts(rows)}. Intervals: 95 %, bootstrap over episodes, paired with the plain run; each stands by "
                "itself, so of twenty one may miss by chance. An informative control tells what the model uses; none "
                "of its outcomes is a fault."
            ),
            Table(
                ["control", "verdict", "figures", "what is asked", "a model that looks"],
                [
                    [
                        row.name,
                        Judged(row.verdict, row.informative),
                        row.why + (f"; {row.left_out} pairs left out" if row.left_out else ""),
                        row.asks,
                        row.looks,
                    ]
                    for row in rows
                ],
                "Controls",
            ),
            *_mending(mended),
            Fold(
                "The rules of the verdicts, which stand in the code and depend on no result",
                [Bullets(tuple(f"{', '.join(names)}: {rule}." for rule, names in by_rule.items()))],
            ),
        ]
    return blocks


def _mending(mended: Sequence[str]) -> list[Block]:
    return [Words("What would mend it:"), Bullets(tuple(mended))] if mended else []


def _at_fault(row: ControlRow) -> bool:
    return row.verdict in ("fails", "not shown") and not row.informative


def _counts(rows: Sequence[ControlRow]) -> str:
    counted = Counter(row.verdict for row in rows if not row.informative)
    failing = [code(row.name) for row in rows if row.verdict == "fails" and not row.informative]
    named = f" ({', '.join(failing)})" if failing else ""
    return f"{counted['holds']} hold, {counted['fails']} fail{named}, {counted['not shown']} not shown"


def _groups(found: Sequence[Left]) -> list[Block]:
    if not found:
        return []
    rows: list[list[Cell]] = []
    for left in found:
        row, judged = left.row, control_row(decode(MultiImage, left.row))
        rows.append(
            [
                left.run,
                f"{row['dataset']}, {row['split']}",
                f"{row['pictures']}, {row['ask']}",
                Judged(judged.verdict),
                share(row, "accuracy"),
                f"{row['chance']['accuracy']:.1f}",
                share(row, "all_rotations"),
                f"{row['chance']['all_rotations']:.1f}",
                share(row, "exact"),
                "-" if row["kendall_tau"] is None else group_figure(decode(MultiImage, row), "kendall_tau"),
                " / ".join(map(str, row["places"])),
                f"{row['n_groups']} of {row['n_episodes']}",
            ]
        )
    heads = ["name", "asked about", "pictures", "verdict", "closest named right %", "a coin gives"]
    heads += ["groups right in every arrangement %", "a coin gives", "whole order right %", "Kendall's tau"]
    heads += ["named by place", "groups of episodes"]
    rules = dict.fromkeys(
        f"{one.name}: {one.rule}." for one in (control_row(decode(MultiImage, left.row)) for left in found)
    )
    return [Table(heads, rows, "Groups of pictures"), Bullets(tuple(rules))]


def _comparators(found: Sequence[Measured]) -> list[Block]:
    if not found:
        return []
    rows: list[list[Cell]] = []
    for one in found:
        of = one.row["comparator"]
        plain = of["plain"]
        rows.append(
            [
                of["name"],
                one.name,
                f"{one.row['dataset']}, {one.row['split']}",
                share(one.row),
                f"{of['mean_accuracy']:.1f}",
                f"{plain['pair_accuracy']:.1f}" if plain else "-",
                points(plain["difference"]) if plain else "-",
                str(one.row["n_pairs"]),
                f"{of['does']} ({of['source']})",
            ]
        )
    heads = ["comparator", "name", "asked about", "pair accuracy %", "mean of the single orders %"]
    heads += ["plain prompt: pair accuracy %", "difference", "pairs", "what it does"]
    return [
        Words(
            "What anyone should try before training: the model's weights are as they were, and nothing was tuned on "
            "any split of this data. Judge by accuracy: an ensemble of both orders has no gap by construction."
        ),
        Table(heads, rows, "Comparators"),
    ]


def points(difference: Mapping[str, Any]) -> str:
    """A difference of pair accuracies, with its interval where it has one."""
    points, *bounds = (
        tables.figure({"gap_points": value}, "gap_points")
        for value in (difference["points"], *(difference["interval"] or ()))
    )
    return f"{points} ({' to '.join(bounds)})" if bounds else points


def _curves(found: Sequence[Left], out: Path) -> list[Block]:
    blocks: list[Block] = []
    for number, left in enumerate(found[:_CURVES], 1):
        file = out / f"progress-{number}.png"
        plots.progress(file, left.row)
        blocks += [
            Heading(f"{code(left.run)}: {left.row['episode_id']}"),
            Words(left.row["words"]),
            Plot(file, f"Progress of each frame of {left.row['episode_id']}: {left.row['words']}"),
        ]
    if len(found) > _CURVES:
        blocks.append(Words(f"{len(found) - _CURVES} more rankings lie in the runs' folders."))
    return blocks


def _correlations(found: Sequence[Left], out: Path) -> list[Block]:
    if not found:
        return []
    rows = [
        [left.run, *(_with_interval(left.row, name) for name in rank.MEANINGS)]
        + [str(left.row[name]) for name in ("n_strips", "n_episodes")]
        for left in found
    ]
    heads = ["run", "VOC", "VROC", "VOC-F1", "VOC of both orders", "strips", "episodes"]
    blocks: list[Block] = [
        Table(heads, rows, "Value-order correlation"),
        Bullets(tuple(f"{head}: {meaning}." for head, meaning in zip(heads[1:5], rank.MEANINGS.values(), strict=True))),
        Words('Each is 1 for a judge that is always right and 0 for a coin; "the second is further" has +1, -1, 0, 0.'),
    ]
    for number, left in enumerate(found[:_CURVES], 1):
        file = out / f"voc-{number}.png"
        plots.correlations(file, left.row)
        alt = ", ".join(f"{head} {value}" for head, value in zip(heads[1:5], rows[number - 1][1:5], strict=True))
        blocks.append(Plot(file, f"Value-order correlations of {left.run}: {alt}"))
    return blocks


def _with_interval(row: Row, name: str) -> str:
    bounds = row["intervals"].get(name)
    return f"{row[name]:+.2f}" + (f" ({bounds[0]:+.2f} to {bounds[1]:+.2f})" if bounds else "")


def _guards(found: Sequence[Left]) -> list[Block]:
    if not found:
        return []
    kinds = dict.fromkeys(kind for left in found for kind in left.row["kinds"])
    rows: list[list[Cell]] = [
        [left.run, kind, *(_guard_cell(of, name) for name in tables.GUARD), str(of["n"])]
        for kind in kinds
        for left, of in ((left, left.row["kinds"].get(kind)) for left in found)
        if of
    ]
    silent = [code(left.run) for left in found if all(of["yes_ratio"] in (0, 100) for of in left.row["kinds"].values())]
    same = f"One answer to all questions was given by {', '.join(silent)}: of what training cost, that says nothing."
    return [
        Words(
            "Yes/no questions about single pictures in the manner of POPE (arXiv 2305.10355), to see what training "
            'cost. Always "yes", always "no" and a coin have 50 % accuracy; a coin says yes to 50 %. Intervals: 95 %, '
            "bootstrap over pictures. `stcr guard --compare` gives the difference of two runs with its interval."
        ),
        *([Words(same)] if silent else []),
        Table(["name", "negatives", *tables.GUARD.values(), "questions"], rows, "General ability"),
    ]


def _guard_cell(row: Mapping[str, Any], name: str) -> Cell:
    cell = share(row, name)
    return (
        Share(cell.text.replace("episodes", "pictures"), cell.percent, cell.bounds) if isinstance(cell, Share) else cell
    )
