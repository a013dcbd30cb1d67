"""A trained stage on the pairs of its own training split -> the pairs whose label it contradicts in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from stcr_plugin import artefacts
from stcr_plugin.errors import StcrError
from stcr_plugin.evaluation.evaluate import ANSWERS, evaluate, read_answers
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.contradictions import Contradiction, Decision, pairs_digest, read_contradictions
from stcr_plugin.registry.ground_truth import config_of, true_progress
from stcr_plugin.registry.manifest import frame_rows, read_manifest, read_pairs
from stcr_plugin.result_files import Inline, Omitted, Result
from stcr_plugin.scoring.metrics import by_pair
from stcr_plugin.types import Answer, Pair

Both = tuple[Answer, Answer]


@dataclass(frozen=True)
class EpisodeCount:
    """How many of an episode's pairs were evaluated, and how many of them are contradicted."""

    pairs: int
    contradicted: int


@dataclass(frozen=True)
class FoundLabels:
    """The listed pairs against the truth: a label is wrong where the other frame has the greater recorded progress.

    Attributes:
        pairs: Evaluated pairs whose two frames have a recorded progress; `unrecorded`: the others.
        wrong: How many of them are labelled wrong.
        listed: How many of them are listed as contradicted.
        found: How many are both.
        precision: Percent of the listed labels that are wrong; None where none is listed.
        recall: Percent of the wrong labels that are listed; None where none is wrong.
    """

    pairs: int
    unrecorded: int
    wrong: int
    listed: int
    found: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class LabelTruth:
    """How right the list is.

    Attributes:
        found: None where the truth is not known.
        unknown: Why it is not, "" where it is.
    """

    found: Inline[FoundLabels | None] = None
    unknown: Omitted[str] = ""


@dataclass(frozen=True, kw_only=True)
class Refinement(Result):
    """What one model contradicts of the labels of a split.

    Attributes:
        name: What tables call the model.
        mode: As in the evaluation beside it, whose settings are in its results.json.
        decide: The decision that rows have unless a person changes it.
        pairs: Evaluated pairs that are not ties.
        contradicted: How many of them are listed; by_episode: the same by episode, of those that have some.
        decisions: Decision -> rows.
        truth: Against the progress that the source records.
    """

    file: ClassVar[str] = "refine.json"
    command: ClassVar[str] = "stcr data refine"

    name: str
    model: str = ""
    dataset: str
    split: str
    mode: str = ""
    decide: Decision
    pairs: int
    contradicted: int
    decisions: Mapping[str, int] = field(default_factory=dict)
    by_episode: Mapping[str, EpisodeCount] = field(default_factory=dict)
    truth: LabelTruth = LabelTruth()
    limit: int | None = None
    seed: int = 0
    model_digest: str | None = None
    data_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def refine(request: EvalRequest, out: Path, decide: Decision = "drop") -> Refinement:
    """Evaluate a model on a split, and list the pairs whose label it contradicts in both orders.

    Writes what `evaluate` writes, contradicted.jsonl (the most confident first; by pair id where answers were not
    compared) and refine.json into the folder `out`. Decisions that a person changed there are kept.

    Args:
        request: Model, build, split and settings.
        out: Folder of the results.
        decide: What a build does with a listed pair.

    Raises:
        DataError: The data or the model cannot be used, or a row of an earlier list cannot be read.
    """
    out = Path(out)
    manifest = read_manifest(request.registry, request.dataset)
    digest = pairs_digest(config_of(manifest))
    with artefacts.locked(out / ".refine.lock"):
        changed = _changed(out, digest)
        measured = evaluate(request, out)
        answered = by_pair(read_answers(out / ANSWERS))
        every = read_pairs(request.registry, request.dataset, request.split)
        pairs = [pair for pair in every if pair.pair_id in answered and pair.closer != "neither"]
        contradicted = [pair for pair in pairs if contradicts(answered[pair.pair_id])]
        indexed = frame_rows(request.registry, manifest, request.split) if contradicted else ()
        prints = {row["image"]: row["fingerprint"] for row in indexed}
        rows = [
            Contradiction(
                pair_id=pair.pair_id,
                episode_id=pair.episode_id,
                split=pair.split,
                task=pair.task,
                earlier=pair.earlier,
                later=pair.later,
                closer=pair.closer,
                earlier_image=pair.earlier_image,
                later_image=pair.later_image,
                earlier_fingerprint=prints[pair.earlier_image],
                later_fingerprint=prints[pair.later_image],
                answers={one.order: one.chosen for one in answered[pair.pair_id] if one.chosen is not None},
                confidence=confidence(answered[pair.pair_id]),
                decision=changed.get(pair.pair_id, decide),
                proposed=decide,
                build=manifest.name,
                seed=manifest.seed,
                pairs_digest=digest,
            )
            for pair in contradicted
        ]
        rows.sort(key=lambda row: (row.confidence is None, -(row.confidence or 0.0), row.pair_id))
        of_episode = Counter(pair.episode_id for pair in pairs)
        listed = Counter(row.episode_id for row in rows).most_common()
        found = Refinement(
            name=measured.name,
            model=measured.model,
            dataset=request.dataset,
            split=request.split,
            mode=measured.mode,
            decide=decide,
            pairs=len(pairs),
            contradicted=len(rows),
            decisions=dict(sorted(Counter(row.decision for row in rows).items())),
            by_episode={name: EpisodeCount(of_episode[name], count) for name, count in listed},
            truth=_truth(request, pairs, {row.pair_id for row in rows}),
            limit=request.limit,
            seed=request.seed,
            model_digest=measured.model_digest,
            data_digest=measured.data_digest,
            provenance=provenance(),
        )
        artefacts.write_jsonl(out / Contradiction.file, [row.row() for row in rows])
        found.write(out / Refinement.file)
    return found


def contradicts(both: Both) -> bool:
    """Whether the answers name the other frame than the label in both orders. "neither" names no frame."""
    return all(one.chosen in ("img1", "img2") and one.chosen != one.expected for one in both)


def confidence(both: Both) -> float | None:
    """Sum over both orders of the log-probability of the named answer minus that of the label's; None without them."""
    margins = []
    for one in both:
        scores = {"img1": one.logprob_img1, "img2": one.logprob_img2, "neither": one.logprob_neither}
        named, label = scores.get(one.chosen or ""), scores[one.expected]
        if named is None or label is None:
            return None
        margins.append(named - label)
    return sum(margins)


def _changed(out: Path, digest: str) -> dict[str, Decision]:
    """Pair id -> the decision that a person wrote into an earlier list about the same pairs."""
    file = out / Contradiction.file
    rows = read_contradictions(file) if file.is_file() else ()
    return {row.pair_id: row.decision for row in rows if row.decision != row.proposed and row.pairs_digest == digest}


def _truth(request: EvalRequest, pairs: Sequence[Pair], listed: set[str]) -> LabelTruth:
    try:
        progress = true_progress(request.registry, request.dataset, {(pair.episode_id, pair.task) for pair in pairs})
    except StcrError as error:
        return LabelTruth(unknown=str(error))
    if not any(progress.values()):
        return LabelTruth(unknown="the source records no progress")
    closer = {pair.pair_id: _ahead(pair, progress[pair.episode_id, pair.task]) for pair in pairs}
    known = [pair for pair in pairs if closer[pair.pair_id] is not None]
    wrong = {pair.pair_id for pair in known if closer[pair.pair_id] not in (pair.closer, "neither")}
    of_list = {pair.pair_id for pair in known} & listed
    found = len(wrong & listed)
    return LabelTruth(
        FoundLabels(
            pairs=len(known),
            unrecorded=len(pairs) - len(known),
            wrong=len(wrong),
            listed=len(of_list),
            found=found,
            precision=100 * found / len(of_list) if of_list else None,
            recall=100 * found / len(wrong) if wrong else None,
        )
    )


def _ahead(pair: Pair, progress: Sequence[float | None] | None) -> str | None:
    """Which frame has the greater progress, "neither" where both have the same; None where that is not known."""
    earlier, later = (progress[frame] if progress else None for frame in (pair.earlier, pair.later))
    if earlier is None or later is None:
        return None
    return "later" if later > earlier else "earlier" if earlier > later else "neither"
