"""The figures of several runs -> one table, one picture and plain words about what changed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation import plots, tables
from stcr_plugin.evaluation.contamination import overlap_words, stage_of
from stcr_plugin.evaluation.metrics import RATES, Figures, figures, paired_difference
from stcr_plugin.evaluation.run import ANSWERS, RESULTS, read_answers
from stcr_plugin.types import Answer

REPORT, CHAIN, PLOT = "report.md", "chain.json", "accuracies.png"
WEAK_ONLY, STAGE2 = "weak_only", "stage2"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A row of chain.json, and where the answers lie that it was computed from."""

    row: Row
    answers: Path

    @property
    def name(self) -> str:
        return tables.cell(self.row["name"])


def report(runs: Sequence[Path], out: Path) -> Path:
    """Write report.md, chain.json and accuracies.png about `runs` into the folder `out`; returns report.md's path.

    A run is a folder with `eval/*/results.json` or results.json, and maybe a stage.json that names it. Rows keep the
    order of `runs`; the words compare the first with "stage2" (without one: with the last that is not "weak_only"),
    and "stage2" with "weak_only", pair by pair where the answers.jsonl of both are there. Raises DataError for a run
    without results.
    """
    measured = [one for run in runs for one in _measurements(Path(run))]
    if not measured:
        raise DataError("no runs: give at least one folder that `stcr eval` has written into")
    rows = [one.row for one in measured]
    splits: dict[str, list[_Measured]] = {}
    for one in measured:
        splits.setdefault(_title(one.row), []).append(one)
    parts = ["# STCR: forward against backward", "## What changed"]
    parts += [line for title, of_split in splits.items() for line in _words(title, of_split)]
    parts += [
        "## Figures",
        tables.figures_table(rows, ["name", "dataset", "split", "mode"]),
        "Pair accuracy with its 95 % interval (bootstrap over episodes) where there are two episodes or more. In mode "
        "cot the answer is written and parsed; in mode direct the likeliest answer counts, so that none "
        "can be unparsed, unless `generate` was set.",
        f"![Forward, backward and pair accuracy, stage by stage]({PLOT})",
        "## What the figures mean",
        tables.meanings_table(rows),
        "A judge that ignores the order but cannot tell the frames apart has 50 % pair accuracy and a gap near 0: "
        "a small gap alone is no sign of knowing.",
        *_overlaps(rows),
        *_times(rows),
    ]
    panels = {title: [(one.row["name"], one.row) for one in of_split] for title, of_split in splits.items()}
    plots.accuracies(out / PLOT, panels)
    artefacts.write_json(out / CHAIN, rows)
    artefacts.write_text(out / REPORT, "\n\n".join(parts) + "\n")
    return out / REPORT


def console_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Plain text for a terminal: a line a (name, figures), columns aligned."""
    figures_of = [(label, dataclasses.asdict(found)) for label, found in rows]
    names = tables.shown([values for _, values in figures_of])
    heads = ["", *(tables.COLUMNS[name].heading for name in names), "pairs"]
    lines = [heads]
    for label, values in figures_of:
        lines.append([label, *(tables.figure(values, name) for name in names), str(values["n_pairs"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _measurements(run: Path) -> list[_Measured]:
    """chain.json's rows of one run: results.json without its rows an episode, named and timed by stage.json."""
    paths = [run / RESULTS] if (run / RESULTS).exists() else sorted(run.glob(f"eval/*/{RESULTS}"))
    if not paths:
        raise DataError(f"{run}: no {RESULTS} and no eval/*/{RESULTS} in it; run `stcr eval` on it first")
    stage = stage_of(run)
    measured = []
    for path in paths:
        results = artefacts.read_json(path)
        needed = ("name", "dataset", "split", "mode", *RATES, "n_pairs", "n_episodes", "n_queries")
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
        row |= {key: value for key, value in known.items() if value is not None}
        measured.append(_Measured(row, path.with_name(ANSWERS)))
    return measured


def _title(row: Row) -> str:
    """What was asked: only rows of the same title are compared."""
    asked = row.get("settings") or {}
    wordings = ", wordings never trained on" if asked.get("part") == "heldout" else ""
    language = f", {asked['language']}" if asked.get("language", "en") != "en" else ""
    return f"{row['dataset']}, {row['split']}{wordings}{language}"


def _words(title: str, measured: Sequence[_Measured]) -> list[str]:
    """What the figures of one split say, in sentences that are chosen by the figures alone."""
    named: dict[str, _Measured] = {}
    for one in measured:
        named.setdefault(one.row["name"], one)
    chain = [one for one in measured if one.row["name"] != WEAK_ONLY] or list(measured)
    before, after = chain[0], named.get(STAGE2, chain[-1])
    lines = [f"**{tables.cell(title)}**"]
    if twice := [name for name, count in Counter(one.name for one in measured).items() if count > 1]:
        lines.append(
            f"Several runs are called {' and '.join(f'`{name}`' for name in twice)}: the words are of the first."
        )
    if before is after:
        lines.append(f"Only `{after.name}` was evaluated: {_state(after.row)}.")
    else:
        lines.append(
            f"Before, `{before.name}`: {_state(before.row)}. After, `{after.name}`: {_state(after.row)}. "
            f"The gap's size {_change(abs(before.row['gap_points']), abs(after.row['gap_points']))}, "
            f"pair accuracy {_change(before.row['pair_accuracy'], after.row['pair_accuracy'])}. "
            f"{_pair_by_pair(after, before)[1]}"
        )
    lines += _warnings(after.row)
    if WEAK_ONLY in named and STAGE2 in named:
        lines.append(_against_weak_only(named[STAGE2], named[WEAK_ONLY]))
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


def _against_weak_only(stage2: _Measured, weak: _Measured) -> str:
    better, words = _pair_by_pair(stage2, weak)
    text = (
        f"`{WEAK_ONLY}` (weak samples alone, without stage 1) has pair accuracy "
        f"{tables.with_interval(weak.row, 'pair_accuracy')} % against "
        f"{tables.with_interval(stage2.row, 'pair_accuracy')} % of `{STAGE2}`. {words} "
    )
    return text + (
        "That is of one training run each; another seed may come out otherwise."
        if better
        else "This evaluation does not show that the CoT stage helps."
    )


def _pair_by_pair(one: _Measured, other: _Measured) -> tuple[bool, str]:
    """Whether `one` is shown to be better than `other` on the same pairs, and what is to be said of it."""
    try:
        if one.row.get("data_digest") != other.row.get("data_digest"):
            raise DataError("they were asked about other pictures")
        found = paired_difference(_answers(one), _answers(other))
    except DataError as error:
        return False, f"They cannot be compared pair by pair, so nothing is shown: {tables.cell(error)}."
    lead = tables.figure({"gap_points": found.points}, "gap_points")
    said = f"Pair by pair, `{one.name}` minus `{other.name}` is {lead} points"
    if found.interval is None:
        return False, f"{said}; a single episode cannot say whether that is more than chance."
    low, high = found.interval
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference is shown"
    bounds = " to ".join(tables.figure({"gap_points": bound}, "gap_points") for bound in found.interval)
    return low > 0, f"{said} (95 % interval {bounds}, bootstrap over episodes): {verdict}."


def _answers(measured: _Measured) -> list[Answer]:
    """Raises DataError where they are missing, or are not those that the row was computed from."""
    if not measured.answers.is_file():
        raise DataError(f"{ANSWERS} of {measured.row['name']} is not beside its {RESULTS}")
    answers = read_answers(measured.answers)
    if figures(answers).pair_accuracy != measured.row["pair_accuracy"]:
        raise DataError(f"{ANSWERS} of {measured.row['name']} does not give the figures of its {RESULTS}")
    return answers


def _interval(row: Row) -> tuple[float, float]:
    """The interval of pair accuracy, or the figure itself twice."""
    low, high = (row.get("intervals") or {}).get("pair_accuracy") or (row["pair_accuracy"],) * 2
    return low, high


def _overlaps(rows: Sequence[Row]) -> list[str]:
    """The section on what the evaluated pairs share with the training, a line a row whose results say it."""
    said = [
        [*(tables.cell(row[key]) for key in ("name", "dataset", "split")), tables.cell(overlap_words(row["overlap"]))]
        for row in rows
        if row.get("overlap")
    ]
    heads = ["name", "dataset", "split", "shared with what the chain was trained on"]
    return ["## Overlap with the training data", tables.markdown(heads, said)] if said else []


def _times(rows: Sequence[Row]) -> list[str]:
    """The section on seconds a stage and their sum, where stage.json gave any; a run of several splits counts once."""
    stages = {(row["name"], row.get("model")): row for row in rows if row.get("seconds") is not None}
    if not stages:
        return []
    lines = [
        [
            tables.cell(row["name"]),
            tables.cell(row.get("parent") or ""),
            str(row.get("steps", "")),
            f"{row['seconds']:.0f}",
        ]
        for row in stages.values()
    ]
    lines.append(["total", "", "", f"{sum(row['seconds'] for row in stages.values()):.0f}"])
    heads = ["stage", "parent", "steps", "seconds, with the callback's measurements"]
    return ["## Training time", tables.markdown(heads, lines)]
