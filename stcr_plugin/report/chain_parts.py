"""The parts of the evaluations of a chain: by distance, task and phase; overlap with the training, training time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from stcr_plugin.figures import PhaseCell, QuarterFigures, WindowFigures
from stcr_plugin.report import tables
from stcr_plugin.report.chain import Chain
from stcr_plugin.report.document import Block, Cell, Fold, Heading, Heat, Section, Table, Words, code, figures, share
from stcr_plugin.report.factuality_words import claims_of
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.report.runs import Measured
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring.breakdown import PHASE_KINDS

_TASKS_OPEN = 12  # more tasks than this are folded away


def by_distance(chains: Sequence[Chain]) -> list[Section]:
    """Pair accuracy of every run by windows of steps and by quarters, where the results have them."""
    blocks: list[Block] = []
    for chain in chains:
        if parts := chain.after.of.parts.by_distance:
            blocks += [Heading(chain.title), *([_distances(chain, "windows")] if parts.windows else [])]
            blocks += [_distances(chain, "quarters")]
    intro = Words(
        "Pair accuracy; forward and backward are those of the chain's end. A step is one frame in ten of 30 per "
        "second, as in the windows of SpatialLogic-Bench; the quarters have about equally many pairs."
    )
    return [Section("Accuracy by distance", [intro, *blocks])] if blocks else []


Kind = Literal["windows", "quarters"]


def _distances(chain: Chain, kind: Kind) -> Table:
    name = chain.after.name
    runs = [{_label(part): part for part in _parts(one.of, kind)} for one in chain.measured]
    lines: list[list[Cell]] = [
        [
            _label(part),
            str(part.figures.n_pairs),
            *(tables.figure(part, rate) for rate in ("forward_accuracy", "backward_accuracy")),
            *(share(run[_label(part)]) if _label(part) in run else "-" for run in runs),
        ]
        for part in _parts(chain.after.of, kind)
    ]
    heads = ["seconds" if kind == "quarters" else "steps (seconds)", "pairs"]
    heads += [f"{name}: forward %", f"{name}: backward %", *(f"{one.name}: pair accuracy %" for one in chain.measured)]
    return Table(heads, lines, f"By distance in {kind}, {chain.title}")


def _parts(of: Evaluation, kind: Kind) -> Sequence[WindowFigures | QuarterFigures]:
    found: Sequence[WindowFigures | QuarterFigures] = getattr(of.parts.by_distance, kind, ())
    return found


def _label(part: WindowFigures | QuarterFigures) -> str:
    low, high = part.seconds
    span = f"{low:.1f} and more" if high is None else f"{low:.1f} to {high:.1f}"
    return f"{part.steps} ({span})" if isinstance(part, WindowFigures) else span


def by_task(chains: Sequence[Chain]) -> list[Section]:
    """The end of each chain, where it was evaluated on several tasks."""
    blocks: list[Block] = []
    for chain in chains:
        found = chain.after.of.parts.by_task
        if found and len(found.tasks) > 1:
            table = figures(["task"], [([one.task], one) for one in found.tasks], f"By task, {chain.title}")
            shown = Fold(f"{len(found.tasks)} tasks", [table]) if len(found.tasks) > _TASKS_OPEN else table
            blocks += [Heading(f"{chain.title}: {code(chain.after.name)}"), shown]
            if found.left_out.tasks:
                left_out = f"{found.left_out.tasks} tasks of a single episode, {found.left_out.pairs} pairs"
                blocks.append(Words(f"{left_out}, are left out."))
    return [Section("Accuracy by task", blocks)] if blocks else []


def by_phase(chains: Sequence[Chain]) -> list[Section]:
    """The end of each chain: within and across phases, and a heat table of the earlier by the later frame's phase."""
    blocks: list[Block] = []
    for chain in chains:
        parts = chain.after.of.parts
        if parts.by_phase:
            rows = [([PHASE_KINDS.get(kind, kind)], part) for kind, part in parts.by_phase.items()]
            blocks += [Heading(f"{chain.title}: {code(chain.after.name)}")]
            blocks += [figures(["pairs of"], rows, f"By phase, {chain.title}")]
        if parts.phase_cells:
            blocks += [
                Words(
                    "Pair accuracy in percent, and its number of pairs; the phases are in the order in which they "
                    "mostly occur. Few pairs show little, and among many cells some are high or low at random."
                ),
                _heat(parts.phase_cells, f"By the phases of both frames, {chain.title}"),
            ]
    return [Section("Confusion by phase", blocks)] if blocks else []


def _heat(cells: Sequence[PhaseCell], about: str) -> Table:
    phases = _in_order(cells)
    found = {(one.earlier, one.later): one.figures for one in cells}

    def cell(earlier: str, later: str) -> Cell:
        one = found.get((earlier, later))
        return Heat(one.pair_accuracy, f"{one.n_pairs} pairs") if one else ""

    rows = [[earlier, *(cell(earlier, later) for later in phases)] for earlier in phases]
    return Table(["earlier frame \\ later frame", *phases], rows, about)


def _in_order(cells: Sequence[PhaseCell]) -> list[str]:
    """Phases by how rarely they are the earlier one of two that differ."""
    first: Counter[str] = Counter()
    either: Counter[str] = Counter()
    for cell in cells:
        either.update({cell.earlier: 0, cell.later: 0})
        if cell.earlier != cell.later:
            first[cell.earlier] += cell.figures.n_pairs
            either.update({cell.earlier: cell.figures.n_pairs, cell.later: cell.figures.n_pairs})
    return sorted(either, key=lambda phase: (-first[phase] / (either[phase] or 1), phase))


def claims(measured: Sequence[Measured]) -> list[Section]:
    """What the answers of each run say of their pictures, where they were held against the truth."""
    blocks = claims_of([(one.name, one.of) for one in measured])
    return [Section("What they wrote", blocks)] if blocks else []


def overlaps(measured: Sequence[Measured]) -> list[Section]:
    """What the evaluated pairs share with the training, where the results say it."""
    lines = [
        [one.name, one.of.dataset, one.of.split, overlap_words(one.of.overlap)] for one in measured if one.of.overlap
    ]
    heads = ["name", "dataset", "split", "shared with what the chain was trained on"]
    table = Table(heads, lines, "Overlap with the training data")
    return [Section("Overlap with the training data", [table])] if lines else []


def times(measured: Sequence[Measured]) -> list[Section]:
    """Seconds of each stage and their sum, where known; a run with several evaluations counts once."""
    stages = {one.run: one for one in measured if "seconds" in one.stage}
    if not stages:
        return []
    lines = [
        [one.name, *(str(one.stage.get(key, "")) for key in ("parent", "steps")), f"{one.stage['seconds']:.0f}"]
        for one in stages.values()
    ]
    lines.append(["total", "", "", f"{sum(one.stage['seconds'] for one in stages.values()):.0f}"])
    heads = ["stage", "parent", "steps", "seconds, with the callback's measurements"]
    return [Section("Training time", [Table(heads, lines, "Training time")])]
