"""The figures of several runs -> one table, one picture and plain words about what changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation import plots, tables
from stcr_plugin.evaluation.metrics import RATES, Figures
from stcr_plugin.evaluation.run import RESULTS, stage_of

REPORT, CHAIN, PLOT = "report.md", "chain.json", "accuracies.png"
WEAK_ONLY, STAGE2 = "weak_only", "stage2"
Row = dict[str, Any]


def report(runs: Sequence[Path], out: Path) -> Path:
    """Write report.md, chain.json and accuracies.png about `runs` into the folder `out`; returns report.md's path.

    A run is a folder with `eval/*/results.json` or results.json, and maybe a stage.json that names it. Rows keep the
    order of `runs`; the words compare the first with "stage2" (without one: with the last that is not "weak_only"),
    and "stage2" with "weak_only". Raises DataError for a run without results.
    """
    rows = [row for run in runs for row in _rows(Path(run))]
    if not rows:
        raise DataError("no runs: give at least one folder that `stcr eval` has written into")
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(f"{row['dataset']}, {row['split']}", []).append(row)
    parts = ["# STCR: forward against backward", "## What changed"]
    parts += [line for title, of_split in splits.items() for line in _words(title, of_split)]
    parts += [
        "## Figures",
        tables.figures_table(rows, ["name", "dataset", "split"]),
        "Pair accuracy with its 95 % interval (bootstrap over episodes) where there are two episodes or more.",
        f"![Forward, backward and pair accuracy, stage by stage]({PLOT})",
        "## What the figures mean",
        tables.meanings_table(),
        "A judge that ignores the order but cannot tell the frames apart has 50 % pair accuracy and a gap near 0: "
        "a small gap alone is no sign of knowing.",
        *_times(rows),
    ]
    panels = {title: [(row["name"], row) for row in of_split] for title, of_split in splits.items()}
    plots.accuracies(out / PLOT, panels)
    artefacts.write_json(out / CHAIN, rows)
    artefacts.write_text(out / REPORT, "\n\n".join(parts) + "\n")
    return out / REPORT


def console_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Plain text for a terminal: a line a (name, figures), columns aligned."""
    heads = ["", *(tables.COLUMNS[name].heading for name in RATES), "pairs"]
    lines = [heads]
    for label, figures in rows:
        values = dataclasses.asdict(figures)
        lines.append([label, *(tables.figure(values, name) for name in RATES), str(figures.n_pairs)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _rows(run: Path) -> list[Row]:
    """chain.json's rows of one run: results.json without its rows an episode, named and timed by stage.json."""
    paths = [run / RESULTS] if (run / RESULTS).exists() else sorted(run.glob(f"eval/*/{RESULTS}"))
    if not paths:
        raise DataError(f"{run}: no {RESULTS} and no eval/*/{RESULTS} in it; run `stcr eval` on it first")
    stage = stage_of(run)
    rows = []
    for path in paths:
        results = artefacts.read_json(path)
        needed = ("name", "dataset", "split", *(field.name for field in dataclasses.fields(Figures)))
        absent = [key for key in needed if not isinstance(results, dict) or key not in results]
        if absent:
            raise DataError(
                f"{path}: not the results of an evaluation ({absent[0]!r} is missing); run `stcr eval` again"
            )
        row = {"name": stage.get("name") or results["name"], "split": results["split"]}
        row |= {key: value for key, value in results.items() if key not in ("per_episode", *row)}
        known = {"parent": stage.get("parent_stage") or stage.get("parent")} | {
            key: stage.get(key) for key in ("steps", "seconds")
        }
        rows.append(row | {key: value for key, value in known.items() if value is not None})
    return rows


def _words(title: str, rows: Sequence[Row]) -> list[str]:
    """What the figures of one split say, in sentences that are chosen by the figures alone."""
    by_name = {row["name"]: row for row in rows}
    chain = [row for row in rows if row["name"] != WEAK_ONLY] or list(rows)
    before, after = chain[0], by_name.get(STAGE2, chain[-1])
    lines = [f"**{tables.cell(title)}**"]
    if before is after:
        lines.append(f"Only `{tables.cell(after['name'])}` was evaluated: {_state(after)}.")
    else:
        lines.append(
            f"Before, `{tables.cell(before['name'])}`: {_state(before)}. "
            f"After, `{tables.cell(after['name'])}`: {_state(after)}. "
            f"The gap's size {_change(abs(before['gap_points']), abs(after['gap_points']))}, "
            f"pair accuracy {_change(before['pair_accuracy'], after['pair_accuracy'])}{_apart(before, after)}."
        )
    lines += _warnings(after)
    if WEAK_ONLY in by_name and STAGE2 in by_name:
        lines.append(_against_weak_only(by_name[STAGE2], by_name[WEAK_ONLY]))
    return lines


def _state(row: Row) -> str:
    return (
        f"forward {tables.figure(row, 'forward_accuracy')} %, backward {tables.figure(row, 'backward_accuracy')} %, "
        f"gap {tables.figure(row, 'gap_points')} points, pair accuracy {tables.with_interval(row, 'pair_accuracy')} %"
    )


def _change(before: float, after: float) -> str:
    moved = round(after - before, 1)
    if not moved:
        return "is unchanged"
    return f"{'rose' if moved > 0 else 'fell'} by {abs(moved):.1f} points"


def _warnings(row: Row) -> list[str]:
    """Where the end of the chain falls short, in words."""
    low = _interval(row)[0]
    name = tables.cell(row["name"])
    found = [
        (
            low <= 50,
            f"Pair accuracy of `{name}` is not shown to be above the 50 % of a judge that ignores order but "
            f"cannot tell the frames apart ({'interval from' if row.get('intervals') else 'it is'} {low:.1f} %).",
        ),
        (
            abs(row["gap_points"]) > 10,
            f"`{name}` is still swayed by order: its gap is {tables.figure(row, 'gap_points')} points.",
        ),
        (
            row["unparsed_rate"] > 5,
            f"{tables.figure(row, 'unparsed_rate')} % of `{name}`'s answers could not be read; they count as wrong.",
        ),
        (not row.get("intervals"), f"`{name}` has no intervals: a single episode says nothing of others."),
    ]
    return [text for holds, text in found if holds]


def _against_weak_only(stage2: Row, weak: Row) -> str:
    lead = round(stage2["pair_accuracy"] - weak["pair_accuracy"], 1) + 0.0
    text = (
        f"`{WEAK_ONLY}` (weak samples alone, without stage 1) has pair accuracy "
        f"{tables.with_interval(weak, 'pair_accuracy')} % against {tables.with_interval(stage2, 'pair_accuracy')} % of "
        f"`{STAGE2}`, a difference of {lead:+.1f} points for `{STAGE2}`. "
    )
    if not (stage2.get("intervals") and weak.get("intervals")):
        return text + "Without intervals it cannot be said whether that is more than chance."
    if _overlap(stage2, weak):
        verdict = f"`{WEAK_ONLY}` does as well here, for the intervals overlap"
    elif lead < 0:
        verdict = f"`{WEAK_ONLY}` does better here, and the intervals do not overlap"
    else:
        return text + f"The intervals do not overlap: `{STAGE2}` is better here than weak samples alone."
    return text + f"{verdict}: this evaluation does not show that the CoT stage helps."


def _apart(first: Row, second: Row) -> str:
    if not (first.get("intervals") and second.get("intervals")):
        return ""
    return f" (the intervals {'overlap' if _overlap(first, second) else 'do not overlap'})"


def _overlap(first: Row, second: Row) -> bool:
    (low, high), (other_low, other_high) = _interval(first), _interval(second)
    return low <= other_high and other_low <= high


def _interval(row: Row) -> tuple[float, float]:
    """The interval of pair accuracy, or the figure itself twice."""
    low, high = (row.get("intervals") or {}).get("pair_accuracy") or (row["pair_accuracy"],) * 2
    return low, high


def _times(rows: Sequence[Row]) -> list[str]:
    """The section on seconds a stage and their sum, where stage.json gave any."""
    stages = {row["name"]: row for row in rows if row.get("seconds") is not None}
    if not stages:
        return []
    lines = [
        [tables.cell(name), tables.cell(row.get("parent") or ""), str(row.get("steps", "")), f"{row['seconds']:.0f}"]
        for name, row in stages.items()
    ]
    lines.append(["total", "", "", f"{sum(row['seconds'] for row in stages.values()):.0f}"])
    return ["## Training time", tables.markdown(["stage", "parent", "steps", "seconds"], lines)]
