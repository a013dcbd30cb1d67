"""What an evaluation shares with all that the model's chain was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin import records
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.records import StageRecord
from stcr_plugin.results import TrainingOverlap
from stcr_plugin.types import ORDERS, Pair

if TYPE_CHECKING:
    from stcr_plugin.registry.overlap import Side


def contamination(
    model_dir: Path | None,
    registry: Path,
    *,
    dataset: str,
    split: str,
    pairs: Sequence[Pair],
    questions: Sequence[str],
    seed: int,
) -> TrainingOverlap:
    """What the evaluation of `pairs` shares with all that the model's chain was trained on.

    A part of the chain that cannot be read is named in `unknown` and does not fail an evaluation. Without a
    model's folder, as behind a server, nothing is known. `questions`: of the prompts, a pair's two orders in turn.
    """
    from stcr_plugin.registry.overlap import compare, evaluated_side, merged, prompt_variant

    if model_dir is None:
        return TrainingOverlap(unknown="the model is not a folder here, so nothing is known of its training")
    trained, unknown = _trained_on(model_dir, registry)
    found = None
    if trained:
        tasks = (pair.task for pair in pairs for _ in ORDERS)
        variants = [prompt_variant(question, task) for question, task in zip(questions, tasks, strict=True)]
        found = compare(
            merged(trained), evaluated_side(registry, dataset, split, pairs=pairs, questions=variants), seed
        )
        if found.leaks:
            logging.getLogger(__name__).warning(
                "the model was trained on what it is evaluated on: %d of %d episodes and %d of %d pictures are in its "
                "training data (%s)",
                found.episodes.shared, found.episodes.evaluated, found.pictures.shared, found.pictures.evaluated,
                found.trained,
            )  # fmt: skip
    return TrainingOverlap(found, "; ".join(unknown))


def _trained_on(model_dir: Path, registry: Path) -> tuple[list[Side], list[str]]:
    """The training sets of a model's stage and of those before it, and why some are not known."""
    from stcr_plugin.registry.overlap import side

    sides: dict[tuple[Path, str], Side] = {}
    unknown: list[str] = []
    for link in records.chain(model_dir):
        stage = link.record
        if link.unknown:
            unknown.append(_why_unknown(link))
        if stage is None:
            continue
        if not stage.datasets:
            unknown.append(f"stage {stage.name} does not say what it was trained on")
        for dataset in stage.datasets:
            try:
                folder = _where(stage, dataset, registry)
                if (folder.resolve(), dataset) not in sides:
                    sides[folder.resolve(), dataset] = side(dataset, folder)
            except StcrError as error:
                unknown.append(f"stage {stage.name}: {error}")
    return list(sides.values()), unknown


def _why_unknown(link: records.Link) -> str:
    if link.error:
        return str(link.error)
    if link.child is None:
        return f"{link.folder} holds no stage.json"
    if link.retrained:
        return f"stage {link.retrained.name}: {link.folder} was trained again since {link.child.name} started from it"
    return f"stage {link.child.parent_stage}: {link.folder} holds no stage.json any more"


def _where(stage: StageRecord, dataset: str, registry: Path) -> Path:
    """The registry folder that holds a stage's dataset still: its own or that of the evaluation.

    Raises DataError where neither holds the data that it was trained on.
    """
    from stcr_plugin.registry.manifest import read_manifest

    digests = {entry.build: entry.config_digest for entry in stage.data}
    reasons = []
    for place in dict.fromkeys((stage.registry, registry)):
        try:
            manifest = read_manifest(place, dataset)
        except StcrError as error:
            reasons.append(str(error))
            continue
        if digests.get(manifest.name, manifest.config_digest) == manifest.config_digest:
            return place
        reasons.append(f"{place}: {manifest.name} was built again since, by another configuration or other code")
    raise DataError(f"its dataset {dataset}", f"cannot be read ({'; '.join(reasons)})")
