"""What an evaluation shares with all that the model's chain was trained on, and how that is said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.records import stage_of
from stcr_plugin.types import ORDERS, Pair

if TYPE_CHECKING:
    from stcr_plugin.registry.overlap import Side


def overlap_words(row: Mapping[str, Any]) -> str:
    """One sentence or two about `overlap` of a results.json: Overlap.row(), or `unknown`, or both."""
    unknown = str(row.get("unknown") or "")
    if "episodes" not in row:
        return f"Overlap with the training data is unknown: {unknown}."
    episodes, pictures, near = row["episodes"], row["pictures"], row["near"]
    if episodes["shared"] or pictures["shared"]:
        text = (
            f"WARNING: the model was trained on what it is evaluated on: {episodes['shared']} of "
            f"{episodes['evaluated']} episodes and {pictures['shared']} of {pictures['evaluated']} pictures are in "
            "its training data"
        )
    else:
        text = "No evaluated episode or picture is in the training data"
    text += f" ({row['trained']})."
    if near and near["share"] is not None:
        within = near["share_within"]
        beside = "" if within is None else f", against {within:.1f} % between training episodes"
        text += (
            f" Of {near['sampled']} evaluated pictures {near['share']:.1f} % are nearer to a training picture than "
            f"neighbouring frames of one episode are to each other{beside}."
        )
    return f"{text} Not all of the training is known: {unknown}." if unknown else text


def contamination(
    model_dir: Path | None,
    registry: Path,
    dataset: str,
    split: str,
    pairs: Sequence[Pair],
    questions: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """What the evaluation shares with all that the model's chain was trained on: key `overlap` of results.json.

    Overlap.row(), with `unknown` beside it where a part of the chain cannot be looked at; `unknown` alone where no
    part can. `questions` are those put, a pair's two orders one after the other. Trouble with another's data is no
    reason to fail an evaluation. Without a folder of a model, as behind a server, nothing is known.
    """
    from stcr_plugin.registry.overlap import asked_side, compare, merged, wording

    if model_dir is None:
        return {"unknown": "the model is not a folder here, so nothing is known of its training"}
    trained, unknown = _trained_on(model_dir, registry)
    row: dict[str, Any] = {}
    if trained:
        tasks = (pair.task for pair in pairs for _ in ORDERS)
        wordings = [wording(question, task) for question, task in zip(questions, tasks, strict=True)]
        row = compare(merged(trained), asked_side(registry, dataset, split, pairs, wordings), seed).row()
    row |= {"unknown": "; ".join(unknown)} if unknown else {}
    if row.get("episodes", {}).get("shared") or row.get("pictures", {}).get("shared"):
        logging.getLogger(__name__).warning("%s", overlap_words(row))
    return row


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
            unknown.append(f"stage {above.get('name')}: {run} was trained anew since {name} started from it")
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
        reasons.append(f"{place}: {manifest.name} was built anew since, by another configuration or other code")
    raise DataError(f"its dataset {dataset} cannot be looked at ({'; '.join(reasons)})")
