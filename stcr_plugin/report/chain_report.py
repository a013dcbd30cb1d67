"""The report of `stcr report`: what changed over a chain of runs, and how far the figures can be trusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.provenance import provenance
from stcr_plugin.report import chain, chain_parts, comparison, gallery, plots, tables
from stcr_plugin.report.chain import Chain
from stcr_plugin.report.document import (
    Block,
    Code,
    Document,
    Fold,
    Plot,
    Section,
    Table,
    Words,
    code,
    figures,
    markdown,
)
from stcr_plugin.report.evidence import counts_of_controls, evidence
from stcr_plugin.report.html import page
from stcr_plugin.report.runs import KINDS, Runs

REPORT, PAGE, CHAIN, EVIDENCE, PLOT = "report.md", "report.html", "chain.json", "evidence.json", "accuracies.png"
LARGEST = 6_000_000
"""Bytes of report.html; the gallery takes those that the rest leaves."""

_ROWS = ("settings", "seed", "resamples", "limit", "engine", "model_digest", "data_digest", "questions_digest")


def report(
    found: Runs,
    out: Path,
    registry: Path = Path("data_registry"),
    *,
    seed: int = 0,
    largest: int = LARGEST,
) -> Path:
    """Write report.html, report.md, chain.json, evidence.json and plots into a folder.

    Results of `stcr controls`, `stcr rank`, `stcr guard` and of groups of images, up to two folders deep in a run, have
    sections of their own. Rows keep the order of the runs. The text compares the first run with "stage2" (without one:
    with the last that is not "weak_only"), and "stage2" with "weak_only", pair by pair where the answers.jsonl of both
    exist; a table compares it with every run. Evaluations with other settings (prompt variant, language, image names, a
    warning, generated answers, image sizes) are compared only with their like.

    Args:
        found: The results of the runs, of `runs.read`.
        out: Folder of the report.
        registry: Folder of the registry, for the pictures of the gallery.
        seed: Seed that draws the pairs of the gallery.
        largest: About the most bytes of report.html.

    Returns:
        The path of report.md.
    """
    out = Path(out)
    of = chain.chains(found.chain)
    compared, without = comparison.comparisons(of)
    first = [*_results(found, of, out), *comparison.section(compared, without), *_evidence(found, of, out)]
    last = _background(found, seed)
    title = f"STCR: forward against backward, {of[0].after.name}"
    room = largest - len(page(Document(title, [*first, *last])).encode())
    pairs = gallery.counts(found.chain)
    for number, one in enumerate(of, 1):
        pairs += gallery.gallery(one, Path(registry), seed=seed, room=room // len(of), name=f"g{number}")
    whole = Document(title, [*first, Section("Right and wrong pairs", pairs), *last])
    artefacts.write_json(out / CHAIN, found.rows)
    compared_rows = {"comparisons": [dataclasses.asdict(one) for one in compared]}
    artefacts.write_json(out / EVIDENCE, {**_others(found), **compared_rows})
    artefacts.write_text(out / PAGE, page(whole))
    artefacts.write_text(out / REPORT, markdown(whole))
    return out / REPORT


def summary(found: Runs) -> str:
    """Plain text for a terminal: the figures of each run and split, and the verdict on the end of each chain."""
    rows = [(f"{one.name}, {one.of.split}", one.of.figures) for one in found.chain]
    verdicts = [chain.finding(one.after).text for one in chain.chains(found.chain)]
    return "\n".join([tables.console_table(rows), "", *verdicts])


def _results(found: Runs, of: Sequence[Chain], out: Path) -> list[Section]:
    """What changed, and the figures; the plot goes into the folder `out`."""
    panels = {one.title: [(each.name, each.of) for each in one.measured] for one in of}
    plots.accuracies(out / PLOT, panels)
    headline: list[Block] = [block for one in of for block in chain.changed(one)]
    headline += [Words(line) for line in counts_of_controls(found)]
    heads, rows = ["name", "dataset", "split", "mode"], []
    heads += ["settings"] if any(one.settings for one in found.chain) else []
    for one in found.chain:
        labels = [one.name, one.of.dataset, one.of.split, one.of.mode, ", ".join(one.settings) or "default"]
        rows.append((labels[: len(heads)], one.of))
    table: list[Block] = [
        figures(heads, rows, "Figures of the chain"),
        Words(
            "Pair accuracy with its 95 % interval (bootstrap over episodes) where there are two episodes or more. In "
            "mode cot the answer is written and parsed; in mode direct the likeliest answer counts, so none is "
            "unparsed, unless two are equally likely or `generate` was set."
        ),
        Plot(out / PLOT, "Forward, backward and pair accuracy, stage by stage", len(panels)),
    ]
    return [
        Section("What changed", headline),
        Section("Figures", table),
    ]


def _evidence(found: Runs, of: Sequence[Chain], out: Path) -> list[Section]:
    """The parts of the chain's figures, and all other results; plots go into the folder `out`."""
    return [
        *chain_parts.by_distance(of),
        *chain_parts.by_task(of),
        *chain_parts.by_phase(of),
        *chain_parts.claims(found.chain),
        *evidence(found, out),
    ]


def _background(found: Runs, seed: int) -> list[Section]:
    """The sections after the gallery."""

    meanings: list[Block] = [
        Table(*tables.meanings_cells([one.of for one in found.chain]), "What the figures mean"),
        Words(
            "A judge that ignores the order but cannot distinguish the frames has 50 % pair accuracy and a gap near "
            "0: a small gap alone is not proof of knowledge."
        ),
    ]
    return [
        Section("What the figures mean", meanings),
        *chain_parts.overlaps(found.chain),
        *chain_parts.times(found.chain),
        _made(found, seed),
    ]


def _others(found: Runs) -> Mapping[str, Any]:
    """File name -> the run's name and the values of each file of that name."""
    rows = {kind.file: [{"run": one.run, **one.result.row()} for one in found.of(kind)] for kind in KINDS}
    return {name: of for name, of in rows.items() if of}


def _made(found: Runs, seed: int) -> Section:
    """How every figure was made, folded away."""

    folds = [
        Fold(
            f"{row['name']}: {row['dataset']}, {row['split']}",
            [Code(_json({key: row[key] for key in ("model", *_ROWS, "provenance")}))],
        )
        for row in found.rows
    ]
    folds.append(Fold("This report", [Code(_json({"seed": seed, "provenance": provenance()}))]))
    return Section(
        "How it was made",
        [
            Words(
                f"All figures of the runs are in {code(CHAIN)}, and those of controls and other results in "
                f"{code(EVIDENCE)}, beside this file."
            ),
            *folds,
        ],
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
