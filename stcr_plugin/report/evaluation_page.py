"""One evaluation as a page: report.md, with a plot of its accuracies and a picture of right and wrong examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.figures import Breakdowns, Permutation
from stcr_plugin.report import plots, tables
from stcr_plugin.report.calibration_words import CALIBRATION_PLOT, calibration_parts, draw_calibration
from stcr_plugin.report.comparator_words import comparator_words
from stcr_plugin.report.document import code
from stcr_plugin.report.factuality_words import HEADS, claim_words, family_cells
from stcr_plugin.report.lost_words import lost_words
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.results import ClaimAccount, Evaluation
from stcr_plugin.scoring import breakdown, metrics
from stcr_plugin.types import Answer, Pair

REPORT, PLOT, SHEET = "report.md", "accuracies.png", "examples.png"
_VERDICTS = (
    ((True, True), "right in both orders"),
    ((True, False), "right forward only"),
    ((False, True), "right backward only"),
    ((False, False), "wrong in both orders"),
)
Example = tuple[str, Pair, Answer, Answer]
"""A verdict, and a pair with its forward and backward answer."""


def write_evaluation_page(out: Path, registry: Path, found: Evaluation) -> None:
    """Write report.md and its pictures into the folder `out`, which holds the answers of `found`."""
    from stcr_plugin.registry.manifest import read_pairs

    answers = read_answers(out / ANSWERS)
    asked = {answer.pair_id for answer in answers}
    chosen = examples(
        [pair for pair in read_pairs(registry, found.dataset, found.split) if pair.pair_id in asked], answers
    )
    phases = found.parts.by_phase or {}
    rows: list[tuple[str, tables.HasFigures]] = [("all pairs", found)]
    rows += [(breakdown.PHASE_KINDS[kind], part) for kind, part in phases.items()]
    plots.accuracies(out / PLOT, {_title(found): rows})
    if found.calibration:
        draw_calibration(out / CALIBRATION_PLOT, found.calibration)
    plots.contact_sheet(out / SHEET, [_drawn(registry, *one) for one in chosen])
    artefacts.write_text(out / REPORT, _markdown(found, rows, chosen))


def examples(pairs: Sequence[Pair], answers: Sequence[Answer], each: int = 2) -> list[Example]:
    """Up to `each` pairs of every verdict that occurs, evenly spaced over the split; ties have none, as in figures."""
    both = metrics.untied(metrics.by_pair(answers))
    chosen = []
    for right, verdict in _VERDICTS:
        found = [pair for pair in pairs if tuple(answer.right for answer in both.get(pair.pair_id, ())) == right]
        step = max(1, len(found) // each)
        chosen += [(verdict, pair, *both[pair.pair_id]) for pair in found[::step][:each]]
    return chosen


def _title(found: Evaluation) -> str:
    return f"{found.name}: {found.dataset}, {found.split}"


def _markdown(found: Evaluation, rows: Sequence[tuple[str, tables.HasFigures]], chosen: Sequence[Example]) -> str:
    interval = (
        f"Intervals: 95 %, bootstrap over {found.figures.n_episodes} episodes, {found.resamples} resamples."
        if found.intervals
        else "No intervals: with a single episode nothing can be said of others."
    )
    how = (
        "The answers were generated and parsed."
        if found.settings.get("generate") or found.mode == "cot"
        else "The model did not write: "
        f"the {'likeliest of the three' if found.ties else 'likelier of the two'} answers counts, "
        "so that none is unparsed, unless they are equally likely."
    )
    lines = [
        [verdict, *map(tables.cell, (pair.task, f"{pair.earlier} / {pair.later}", first.text, second.text))]
        for verdict, pair, first, second in chosen
    ]
    parts = [
        f"# Evaluation of {tables.cell(_title(found))}",
        f"Mode `{found.mode}`, model {code(found.model)}, {found.figures.n_queries} queries. {how} {interval}",
        *(f"**{line}**" for line in lost_words(found.figures, found.settings)),
        *([tables.cell(comparator_words(found.comparator, found.figures))] if found.comparator else []),
        *([tables.cell(overlap_words(found.overlap))] if found.overlap else []),
        tables.figures_table(["pairs of"], [([label], part) for label, part in rows]),
        *([_gap_words(found.p_gap, found.figures.gap_points)] if found.p_gap else []),
        f"![Forward, backward and pair accuracy]({PLOT})",
        "## What the figures mean",
        tables.meanings_table([part for _, part in rows]),
        *_parts(found.parts),
        *(calibration_parts(found.calibration) if found.calibration else []),
        *_claims(found.claims),
        "## Right and wrong examples",
        "Forward shows the earlier frame as img1, backward shows it as img2.",
        f"![Examples]({SHEET})",
        tables.markdown(["verdict", "task", "frames", "response forward", "response backward"], lines),
    ]
    return "\n\n".join(parts) + "\n"


def _claims(account: ClaimAccount | None) -> list[str]:
    """What the answers say of their pictures."""
    if account is None:
        return []
    parts = ["## What it wrote", tables.cell(claim_words(account))]
    return [*parts, tables.markdown(HEADS, family_cells(account.found))] if account.found else parts


def _gap_words(found: Permutation, gap: float) -> str:
    how = "all" if found.method == "exact" else "random"
    size = tables.number(abs(gap))
    return (
        f"Were both orders alike, a gap of {size} points or more would come about with p = {found.p:.2g} "
        f"({found.permutations} {how} sign flips of whole episodes). A large p does not prove that there is no gap."
    )


def _parts(found: Breakdowns) -> list[str]:
    """By distance and, where any is known, by phase."""
    distances = found.by_distance
    windows = [([one.steps, span(*one.seconds)], one) for one in distances.windows] if distances else []
    quarters = [([span(*one.seconds)], one) for one in distances.quarters] if distances else []
    parts = [
        "## By distance",
        breakdown.STEP,
        tables.figures_table(["steps", "seconds"], windows),
        "The same pairs in quarters of about equal size:",
        tables.figures_table(["seconds"], quarters),
    ]
    if found.phase_cells:
        parts += [
            "## By phase",
            "The phases of the earlier and of the later frame. The more rows, the more of their intervals miss the "
            "truth at random: one of 95 % in twenty.",
            tables.figures_table(["earlier", "later"], [([one.earlier, one.later], one) for one in found.phase_cells]),
        ]
    return parts


def span(low: float, high: float | None) -> str:
    """A range of seconds."""
    return f"{low:.1f} and more" if high is None else f"{low:.1f} to {high:.1f}"


def _drawn(registry: Path, verdict: str, pair: Pair, *answers: Answer) -> plots.Example:
    colour = {True: "#006644", False: "#A03000"}
    return plots.Example(
        open_picture(registry, pair.earlier_image, pair.pair_id),
        open_picture(registry, pair.later_image, pair.pair_id),
        (
            (f"{verdict.upper()}  ({pair.pair_id}, frames {pair.earlier} and {pair.later})", "#000000"),
            (f"task: {pair.task}", "#000000"),
            *(
                (
                    f"{answer.order}: expected {answer.expected}, got {answer.chosen or 'unparsed'}: {answer.text}",
                    colour[answer.right],
                )
                for answer in answers
            ),
        ),
    )
