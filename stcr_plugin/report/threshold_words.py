"""Thresholds of success in words and as a table."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import TaskThreshold, Thresholds
from stcr_plugin.figures import Measure
from stcr_plugin.report.document import Block, Document, Table, Words, code, markdown

PAGE = "thresholds.md"


def threshold_words(found: Thresholds) -> str:
    """A line per task, for a terminal."""
    lines = []
    for one in found.tasks:
        of = one.heldout
        if of is None:
            lines.append(f"{one.task}: no threshold, {one.why}")
        else:
            lines.append(
                f"{one.task}: success from {one.threshold:.3f}; held out ({_counts(of.n_successes, of.n_failures)}): "
                f"precision {percent(of.precision)}, recall {percent(of.recall)}, AUC {_area(of.auc)}"
            )
    return "\n".join(lines)


def write_threshold_page(out: Path, found: Thresholds) -> None:
    """Write thresholds.md into the folder `out`."""
    dealt = "the column split of the table" if found.parts == "table" else f"a hash of seed {found.seed} and their ids"
    blocks: list[Block] = [
        Words(
            f"Probabilities: {code(found.success)}; labels: {code(found.labels)}. Which episodes are fitted on, and "
            f"which are held out, says {dealt}. {found.unlabelled} rows of the probabilities have no label."
        ),
        Words(
            f"The rule: the lowest threshold whose precision has a lower bound (Wilson's, 95 %) of "
            f"{100 * found.precision:g} % or more on the part that is fitted on, from {found.fewest} successes and as "
            "many failures at least. Precision holds for data with the same share of failures; recall and AUC do not "
            "depend on it. The number that a threshold cuts is a score, not the probability of a success."
        ),
        Table(
            ["task", "threshold", "fitted on", "precision there", "held out", "precision", "recall", "AUC"],
            [_row(one) for one in found.tasks],
            "Thresholds of success",
        ),
        Words(
            "Precision: share of the predicted successes that are successes. Recall: share of the successes that are "
            "predicted. AUC: share of the pairs of a success and a failure whose success is more probable. Intervals: "
            "95 %, Wilson's, of the AUC Newcombe's; each counts episodes as independent of each other."
        ),
    ]
    artefacts.write_text(out / PAGE, markdown(Document("Thresholds of success", (), blocks)))


def percent(found: Measure) -> str:
    """A share with its interval."""
    if found.value is None:
        return "-"
    return f"{found.value:.1f} %" + (f" ({found.low:.1f} to {found.high:.1f})" if found.interval else "")


def _area(found: Measure) -> str:
    return "-" if found.value is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _counts(successes: int, failures: int) -> str:
    return f"{successes} successes, {failures} failures"


def _row(one: TaskThreshold) -> list[str]:
    fitted, of = _counts(one.n_successes, one.n_failures), one.heldout
    if one.threshold is None or of is None or one.precision is None:
        return [one.task, f"none: {one.why}", fitted, "-", "-", "-", "-", "-"]
    held = _counts(of.n_successes, of.n_failures)
    shares = [percent(of.precision), percent(of.recall), _area(of.auc)]
    return [one.task, f"{one.threshold:.3f}", fitted, percent(one.precision), held, *shares]
