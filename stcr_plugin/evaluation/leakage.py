"""What an evaluation shares with all that the model's chain was trained on, and how that is said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import records
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.records import StageRecord
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
        if digests.get(manifest["name"], manifest["config_digest"]) == manifest["config_digest"]:
            return place
        reasons.append(f"{place}: {manifest['name']} was built again since, by another configuration or other code")
    raise DataError(f"its dataset {dataset} cannot be looked at ({'; '.join(reasons)})")
