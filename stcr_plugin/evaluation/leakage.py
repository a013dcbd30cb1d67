"""What an evaluation shares with all that the model's chain was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.records import stage_of
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

    A part of the chain that cannot be read is named in `unknown`, and is no reason to fail an evaluation. Without a
    model's folder, as behind a server, nothing is known. `questions`: of the prompts, a pair's two orders in turn.
    """
    from stcr_plugin.registry.overlap import asked_side, compare, merged, wording

    if model_dir is None:
        return TrainingOverlap(unknown="the model is not a folder here, so nothing is known of its training")
    trained, unknown = _trained_on(model_dir, registry)
    found = None
    if trained:
        tasks = (pair.task for pair in pairs for _ in ORDERS)
        wordings = [wording(question, task) for question, task in zip(questions, tasks, strict=True)]
        found = compare(merged(trained), asked_side(registry, dataset, split, pairs, wordings), seed)
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
    run, stage = model_dir, stage_of(model_dir)
    if not stage:
        unknown.append(f"{run} holds no stage.json")
    seen = {run.resolve()}
    while stage:
        name = stage.get("name")
        if not stage.get("datasets"):
            unknown.append(f"stage {name} does not say what it was trained on")
        for dataset in stage.get("datasets") or ():
            try:
                place = _where(stage, dataset, registry)
                if (place.resolve(), dataset) not in sides:
                    sides[place.resolve(), dataset] = side(dataset, place)
            except StcrError as error:
                unknown.append(f"stage {name}: {error}")
        above: dict[str, Any] = {}
        run = Path(str(stage.get("parent") or ""))
        if stage.get("parent") and run.resolve() not in seen:
            seen.add(run.resolve())
            try:
                above = stage_of(run)
            except DataError as error:
                unknown.append(str(error))
        if stage.get("parent_stage") and not above:
            unknown.append(f"stage {stage['parent_stage']}: {run} holds no stage.json any more")
        elif above.get("model_digest") and above["model_digest"] != stage.get("parent_digest"):
            unknown.append(f"stage {above.get('name')}: {run} was trained again since {name} started from it")
            above = {}
        stage = above
    return list(sides.values()), unknown


def _where(stage: Mapping[str, Any], dataset: str, registry: Path) -> Path:
    """The registry folder that holds a stage's dataset still: its own or that of the evaluation.

    Raises DataError where neither holds the data that it was trained on.
    """
    from stcr_plugin.registry.manifest import read_manifest

    own = Path(str((stage.get("recipe") or {}).get("dataset_dir") or "data_registry"))
    data = stage.get("data") or []
    digests = {entry["build"]: entry["config_digest"] for entry in ([data] if isinstance(data, dict) else data)}
    reasons = []
    for place in dict.fromkeys((own, registry)):
        try:
            manifest = read_manifest(place, dataset)
        except StcrError as error:
            reasons.append(str(error))
            continue
        if digests.get(manifest.name, manifest.config_digest) == manifest.config_digest:
            return place
        reasons.append(f"{place}: {manifest.name} was built again since, by another configuration or other code")
    raise DataError(f"its dataset {dataset}", f"cannot be read ({'; '.join(reasons)})")
