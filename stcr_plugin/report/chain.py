"""The runs of a chain -> what changed, in words that the figures alone choose, and tables of their parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stcr_plugin.errors import DataError
from stcr_plugin.report import tables
from stcr_plugin.report.document import (
    Block,
    Bullets,
    Cell,
    Finding,
    Fold,
    Heading,
    Heat,
    Section,
    Table,
    Words,
    code,
    figures,
    share,
)
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.report.runs import Measured, Row, same_pairs
from stcr_plugin.result_files import decode
from stcr_plugin.results import Measure, TrainingOverlap, Verdict
from stcr_plugin.scoring.breakdown import PHASE_KINDS
from stcr_plugin.scoring.metrics import paired_difference
from stcr_plugin.scoring.verdicts import CHANCE, FEWEST, RULES, judged

WEAK_ONLY, STAGE2 = "weak_only", "stage2"
_TASKS_OPEN = 12  # more than so many tasks are folded away
_SWAY = 5.0  # points that the share of img2 may be off 50 %: a gap of 10, where the later frame is always closer
_CONSISTENT = 90.0  # percent of pairs of which the same frame must be chosen in both orders


@dataclass(frozen=True)
class Chain:
    """The evaluations of one title, all asked alike, of which no two have one name.

    after: the first that was called stage2, unless the chain starts with it and there is another; without one the
    last. before: the first but for that. What was called weak_only is neither, unless there is nothing else.
    """

    title: str
    measured: Sequence[Measured]

    @property
    def before(self) -> Measured:
        return next((one for one in self._stages if one is not self.after), self.after)

    @property
    def after(self) -> Measured:
        ends = [one for one in self._stages if one.called == STAGE2] or [self._stages[-1]]
        return next((one for one in ends if one is not self._stages[0]), ends[0])

    @property
    def weak_only(self) -> Measured | None:
        return next((one for one in self.measured if one.called == WEAK_ONLY), None)

    @property
    def _stages(self) -> Sequence[Measured]:
        return [one for one in self.measured if one.called != WEAK_ONLY] or self.measured


def chains(measured: Sequence[Measured]) -> list[Chain]:
    """Only rows that were asked the same are compared; those asked by the defaults come first."""
    titles: dict[str, list[Measured]] = {}
    for one in sorted(measured, key=lambda one: bool(one.otherwise)):
        titles.setdefault(one.asked, []).append(one)
    return [Chain(title, of_title) for title, of_title in titles.items()]


# ---- what changed ----


def changed(chain: Chain) -> list[Block]:
    """The verdict on the end of the chain, and what it was before."""
    before, after = chain.before, chain.after
    blocks: list[Block] = [Heading(chain.title), _finding(after.row), Words(_asked(chain))]
    if before is after:
        blocks.append(Words(f"Only {code(after.name)} was evaluated: {_state(after.row)}."))
    else:
        first, then = ("Before", "After") if before.called != after.called else ("The first", "The second")
        blocks.append(
            Words(
                f"{first}, {code(before.name)}: {_state(before.row)}. {then}, {code(after.name)}: {_state(after.row)}. "
                f"Pair accuracy {_change(before.row['pair_accuracy'], after.row['pair_accuracy'])}, "
                f"the gap's size {_change(abs(before.row['gap_points']), abs(after.row['gap_points']))}. "
                f"{_pair_by_pair(after, before)[1]}"
            )
        )
    if chance := _gap_by_chance(after.row):
        blocks.append(Words(chance))
    if warnings := _warnings(after.row):
        blocks.append(Bullets(tuple(warnings)))
    if chain.weak_only and after.called == STAGE2:
        blocks.append(Words(_against_weak_only(after, chain.weak_only)))
    return blocks


def _asked(chain: Chain) -> str:
    row = chain.after.row
    how = "to reason first" if row["mode"] == "cot" else "to answer at once"
    ties = f"; {row['n_ties']} more are ties" if row.get("n_ties") else ""
    others = {one.name: one.row for one in chain.measured if one is not chain.after}
    alike = [code(name) for name, other in others.items() if other.get("data_digest") == row.get("data_digest")]
    apart = [f"{code(name)} {other['n_pairs']} pairs" for name, other in others.items() if code(name) not in alike]
    return (
        f"{code(row['name'])} was asked which of two pictures of a robot task is closer to its completion, {how} (mode "
        f"{code(row['mode'])}): {row['n_pairs']} pairs of {row['n_episodes']} episodes of the split "
        f"{code(row['split'])}{ties}, each in both orders, {row['n_queries']} queries in all."
        + (f" The same pairs were put to {' and '.join(alike)}." if alike else "")
        + (f" Other pairs, or other pictures of them, were put to some: to {', to '.join(apart)}." if apart else "")
    )


_FOUND: Mapping[Verdict, str] = {
    "holds": "is shown to do better than a judge that ignores order but cannot tell the frames apart",
    "fails": "is shown not to do better than a judge that ignores order but cannot tell the frames apart",
    "not shown": "is not shown to do better than a judge that ignores order but cannot tell the frames apart",
}
_WHAT = {
    "pair_accuracy": "pair accuracy",
    "earlier_closer_accuracy": "where the earlier frame is closer",
}


def _finding(row: Row) -> Finding:
    bounds = row.get("intervals") or {}
    rule = RULES["knows"]
    measures = {
        name: Measure(row[name], bounds.get(name) and tuple(bounds[name]))
        for name in rule.judged
        if row.get(name) is not None
    }
    verdict, _ = judged(rule, measures, row["n_episodes"])
    if verdict == "holds" and row.get("overlap") and decode(TrainingOverlap, row["overlap"]).leaks:
        verdict = "not shown"  # by pairs that it may have learned by heart
    shown = " and ".join(f"{_WHAT[name]} {tables.with_interval(row, name)} %" for name in measures)
    few = f" {row['n_episodes']} episodes are too few for a verdict." if row["n_episodes"] < FEWEST else ""
    return Finding(verdict, f"{code(row['name'])} {_FOUND[verdict]}: {shown}, against {CHANCE:.0f} %.{few}")


def _state(row: Row) -> str:
    return (
        f"pair accuracy {tables.with_interval(row, 'pair_accuracy')} %, "
        f"forward {tables.figure(row, 'forward_accuracy')} %, backward {tables.figure(row, 'backward_accuracy')} %, "
        f"gap {tables.figure(row, 'gap_points')} points"
    )


def _change(before: float, after: float) -> str:
    moved = round(after - before, 1)
    if not moved:
        return "is unchanged"
    return f"{'rose' if moved > 0 else 'fell'} by {abs(moved):.1f} points"


def _gap_by_chance(row: Row) -> str:
    found = row.get("p_gap")
    if not found:
        return ""
    number = found["permutations"]
    flips = f"all {number}" if found["method"] == "exact" else f"{number} random"
    return (
        f"Were both orders alike to {code(row['name'])}, a gap as large as its {tables.figure(row, 'gap_points')} "
        f"points would come about with p = {found['p']:.2g} ({flips} sign flips of whole episodes). A "
        "large p is no proof that there is no gap, and no gap is no proof of knowing: a coin has none."
    )


def _warnings(row: Row) -> list[str]:
    """Where the end of the chain falls short besides, in words."""
    name, sway = code(row["name"]), _sway(row)
    overlap = overlap_words(decode(TrainingOverlap, row["overlap"])) if row.get("overlap") else ""
    silent = row["unparsed_rate"] or row.get("neither_rate")
    manner = "is not consistent" if silent else "contradicts itself"
    found = [
        (bool(row.get("overlap")) and decode(TrainingOverlap, row["overlap"]).leaks, f"**{overlap}**"),
        (bool(sway), f"{name} is still swayed by order: {sway}."),
        (
            row["order_consistency"] < _CONSISTENT,
            f"{name} {manner}: in {100 - row['order_consistency']:.1f} % of the pairs it does not choose the same "
            "frame in both orders (a coin: 50 %)"
            f"{'; an answer that names no picture chooses none' if silent else ''}.",
        ),
        (
            row["unparsed_rate"] > 5,
            f"{tables.figure(row, 'unparsed_rate')} % of {name}'s answers could not be read; they count as wrong.",
        ),
        (not row.get("intervals"), f"{name} has no intervals: a single episode says nothing of others."),
    ]
    return [text for holds, text in found if holds]


def _sway(row: Row) -> str:
    """What shows that the order of the pictures decides, "" where nothing does."""
    low, high = _says_img2(row)
    if low - _SWAY <= 50 <= high + _SWAY and abs(row["gap_points"]) <= 2 * _SWAY:
        return ""
    earlier = row.get("n_closer_earlier") or 0
    hides = f"; in {earlier} of {row['n_pairs']} pairs the earlier frame is closer, and of order the gap shows the less"
    share = f"{low:.1f}" if round(low, 1) == round(high, 1) else f"{low:.1f} to {high:.1f}"
    return (
        f"{share} % of its answers that name a picture say img2 (50 is unbiased), its gap is "
        f"{tables.figure(row, 'gap_points')} points{hides if earlier else ''}"
    )


def _says_img2(row: Row) -> tuple[float, float]:
    """At least and at most so many percent of the answers that name a picture say img2, ties left out.

    The two differ only where there are ties: a row does not say how many of the unparsed answers are to them.
    """
    ties, bias = 100 * (row.get("n_ties") or 0) / row["n_pairs"], row["position_bias"]
    unparsed = row["unparsed_rate"] * (1 + ties / 100)  # of all queries -> of those about the other pairs, 100 %
    read = 100 - (row.get("neither_rate") or 0)
    sure = max(bias, (row["forward_accuracy"] + row["backward_accuracy"]) / 2)  # what is img2 or right names a picture
    most, least = read - max(0, unparsed - ties), max(sure, read - unparsed)
    low, high = (100 * bias / named if named > 1e-6 else 50 for named in (most, least))
    return min(low, high), max(low, high)


def _against_weak_only(stage2: Measured, weak: Measured) -> str:
    better, words = _pair_by_pair(stage2, weak)
    text = (
        f"{code(weak.name)} (weak samples alone, without stage 1) has pair accuracy "
        f"{tables.with_interval(weak.row, 'pair_accuracy')} % against "
        f"{tables.with_interval(stage2.row, 'pair_accuracy')} % of {code(stage2.name)}. {words} "
    )
    return text + (
        "That is of one training run each; another seed may come out otherwise."
        if better
        else "This evaluation does not show that the CoT stage helps."
    )


def _pair_by_pair(one: Measured, other: Measured) -> tuple[bool, str]:
    """Whether `one` is shown to be better than `other` on the same pairs, and what is to be said of it."""
    try:
        found = paired_difference(*same_pairs(one, other))
    except DataError as error:
        return False, f"They cannot be compared pair by pair, so nothing is shown: {error}."
    lead = tables.figure({"gap_points": found.points}, "gap_points")
    said = f"Pair by pair, {code(one.name)} minus {code(other.name)} is {lead} points"
    if found.interval is None:
        return False, f"{said}; a single episode cannot say whether that is more than chance."
    low, high = found.interval
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference is shown"
    bounds = " to ".join(tables.figure({"gap_points": bound}, "gap_points") for bound in found.interval)
    return low > 0, f"{said} (95 % interval {bounds}, bootstrap over episodes): {verdict}."


# ---- parts of the figures ----


def by_distance(of: Sequence[Chain]) -> list[Section]:
    """Pair accuracy of every run by windows of steps and by quarters; only of runs whose results have them."""
    blocks: list[Block] = []
    for chain in of:
        if parts := chain.after.row.get("by_distance"):
            windows = _distances(chain, "windows", "steps")
            quarters = _distances(chain, "quarters", "seconds")
            blocks += [Heading(chain.title), *([windows] if parts["windows"] else []), quarters]
    intro = Words(
        "Pair accuracy; forward and backward are those of the chain's end. A step is one frame in ten of 30 a second, "
        "as the windows of SpatialLogic-Bench count; the quarters hold about equally many pairs."
    )
    return [Section("Accuracy by distance", [intro, *blocks])] if blocks else []


def _distances(chain: Chain, kind: str, key: str) -> Table:
    name = chain.after.name
    heads = [key if key == "seconds" else f"{key} (seconds)", "pairs", f"{name}: forward %", f"{name}: backward %"]
    rows: list[list[Cell]] = []
    for part in chain.after.row["by_distance"][kind]:
        span = _span(*part["seconds"])
        cells: list[Cell] = [span if key == "seconds" else f"{part[key]} ({span})", str(part["n_pairs"])]
        cells += [tables.figure(part, rate) for rate in ("forward_accuracy", "backward_accuracy")]
        for one in chain.measured:
            same = [other for other in (one.row.get("by_distance") or {}).get(kind, ()) if other[key] == part[key]]
            cells.append(share(same[0]) if same else "-")
        rows.append(cells)
    heads += [f"{one.name}: pair accuracy %" for one in chain.measured]
    return Table(heads, rows, f"By distance in {kind}, {chain.title}")


def _span(low: float, high: float | None) -> str:
    return f"{low:.1f} and more" if high is None else f"{low:.1f} to {high:.1f}"


def by_task(of: Sequence[Chain]) -> list[Section]:
    """The end of each chain, where it was asked about several tasks."""
    blocks: list[Block] = []
    for chain in of:
        parts = chain.after.row.get("by_task") or {"tasks": []}
        if len(parts["tasks"]) > 1:
            table = figures(parts["tasks"], ["task"], f"By task, {chain.title}")
            many = len(parts["tasks"]) > _TASKS_OPEN
            shown = Fold(f"{len(parts['tasks'])} tasks", [table]) if many else table
            blocks += [Heading(f"{chain.title}: {code(chain.after.name)}"), shown]
            if out := parts["left_out"]["tasks"]:
                blocks.append(
                    Words(f"{out} tasks of a single episode, {parts['left_out']['pairs']} pairs, are left out.")
                )
    return [Section("Accuracy by task", blocks)] if blocks else []


def by_phase(of: Sequence[Chain]) -> list[Section]:
    """The end of each chain: within and across phases, and a heat table of the earlier by the later frame's phase."""
    blocks: list[Block] = []
    for chain in of:
        row = chain.after.row
        parts = [
            {"pairs of": PHASE_KINDS.get(kind, kind), **part} for kind, part in (row.get("by_phase") or {}).items()
        ]
        if parts:
            blocks += [Heading(f"{chain.title}: {code(chain.after.name)}")]
            blocks += [figures(parts, ["pairs of"], f"By phase, {chain.title}")]
        if cells := row.get("phase_cells"):
            blocks += [
                Words(
                    "Pair accuracy in percent, and the pairs it is of; phases stand in the order in which they mostly "
                    "come. Few pairs say little, and of many cells some are high or low by chance."
                ),
                _heat(cells, f"By the phases of both frames, {chain.title}"),
            ]
    return [Section("Confusion by phase", blocks)] if blocks else []


def _heat(cells: Sequence[Mapping[str, Any]], about: str) -> Table:
    phases = _in_order(cells)
    found = {(cell["earlier"], cell["later"]): cell for cell in cells}

    def cell(earlier: str, later: str) -> Cell:
        one = found.get((earlier, later))
        return Heat(one["pair_accuracy"], f"{one['n_pairs']} pairs") if one else ""

    rows = [[earlier, *(cell(earlier, later) for later in phases)] for earlier in phases]
    return Table(["earlier frame \\ later frame", *phases], rows, about)


def _in_order(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Phases by how rarely they are the earlier one of two that differ."""
    first: Counter[str] = Counter()
    either: Counter[str] = Counter()
    for cell in cells:
        either.update({cell["earlier"]: 0, cell["later"]: 0})
        if cell["earlier"] != cell["later"]:
            first[cell["earlier"]] += cell["n_pairs"]
            either.update({cell["earlier"]: cell["n_pairs"], cell["later"]: cell["n_pairs"]})
    return sorted(either, key=lambda phase: (-first[phase] / (either[phase] or 1), phase))


def overlaps(rows: Sequence[Row]) -> list[Section]:
    """What the evaluated pairs share with the training, a line a row whose results say it."""
    said = [
        [
            *(str(row[key]) for key in ("name", "dataset", "split")),
            overlap_words(decode(TrainingOverlap, row["overlap"])),
        ]
        for row in rows
        if row.get("overlap")
    ]
    heads = ["name", "dataset", "split", "shared with what the chain was trained on"]
    table = Table(heads, said, "Overlap with the training data")
    return [Section("Overlap with the training data", [table])] if said else []


def times(measured: Sequence[Measured]) -> list[Section]:
    """Seconds a stage and their sum, where stage.json gave any; a run of several evaluations counts once."""
    stages = {one.run: one.row for one in measured if one.row.get("seconds") is not None}
    if not stages:
        return []
    lines = [
        [row["name"], str(row.get("parent") or ""), str(row.get("steps", "")), f"{row['seconds']:.0f}"]
        for row in stages.values()
    ]
    lines.append(["total", "", "", f"{sum(row['seconds'] for row in stages.values()):.0f}"])
    heads = ["stage", "parent", "steps", "seconds, with the callback's measurements"]
    return [Section("Training time", [Table(heads, lines, "Training time")])]
