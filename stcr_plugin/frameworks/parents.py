"""What a stage starts from, checked before anything is trained: its place in the chain, and its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin import artefacts, records
from stcr_plugin.errors import ChainError, StcrError
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.records import RECORD, StageRecord
from stcr_plugin.weight_files import refuse_broken_weights

if TYPE_CHECKING:
    from stcr_plugin.frameworks.adapters import Start


@dataclass(frozen=True)
class Parent:
    """The finished stage that `starts_from: stage` demands.

    Attributes:
        record: Its stage record.
        digest: The model_digest of its files as they are.
    """

    record: StageRecord
    digest: str


def parent_of(recipe: Recipe) -> Parent | None:
    """The stage that a recipe starts from; None where the recipe does not demand one.

    A record of an older version, without a digest, is warned of and taken at its word.

    Raises:
        ChainError: It is not a finished stage of the same template, is the base or already in the chain under the
            same name, or its files are not those that it left.
    """
    if not recipe.starts_from_stage:
        return None
    folder = recipe.starting_point
    record = records.parent_record(folder, recipe.template, recipe.settings.name)
    found = artefacts.model_digest(folder, moved_base=recipe.model)
    where = Path(folder) / RECORD
    if record.model_digest is None:
        log = logging.getLogger(__name__)
        log.warning("%s: an older record without model_digest, so changed weights would not be noticed", where)
    elif record.model_digest != found:
        raise ChainError(
            folder,
            f"is not the model that stage {record.name!r} saved, its files have changed since: model_digest is "
            f"{record.model_digest[:12]} in {where} and {found[:12]} of the files there",
            "restore them or train that stage again; set stcr.starts_from: model to start from other weights",
        )
    return Parent(record, found)


def refuse_own_parent(recipe: Recipe) -> None:
    """Raises ChainError where the stage would be written over what it starts from, or over a part of that chain."""
    out = recipe.output_dir.resolve()
    for folder in _ancestors(recipe):
        if folder.resolve() == out:
            what = f"is where {recipe.settings.name!r} would be written, and it starts from the model there"
            raise ChainError(folder, what, "name another output_dir")


def refuse_changed_parent(recipe: Recipe, digest: str | None) -> None:
    """Raises ChainError where a checkpoint would be continued that was trained from other weights than `digest`."""
    if not recipe.keys.get("resume_from_checkpoint"):
        return
    record = records.read(recipe.output_dir) or StageRecord()
    if record.parent == recipe.starting_point and record.parent_digest not in (None, digest):
        raise ChainError(
            recipe.output_dir,
            f"its checkpoints were trained from other weights than {recipe.starting_point} holds now: parent_digest is "
            f"{str(record.parent_digest)[:12]} in {recipe.output_dir / RECORD} and {str(digest)[:12]} of the files",
            "restore them, or set overwrite_output_dir: true to train from the start",
        )


def refuse_broken_parent(recipe: Recipe, start: Start) -> None:
    """Raises DataError where a file of weights that the stage starts from is cut, missing or a Git LFS pointer."""
    for folder in dict.fromkeys([start.parent, start.model or recipe.model, *start.adapters, *recipe.adapters]):
        if Path(folder).is_dir():
            refuse_broken_weights(folder)


def _ancestors(recipe: Recipe) -> Iterator[Path]:
    for name in dict.fromkeys([recipe.model, *recipe.adapters]):
        yield Path(name)
        try:
            yield from (link.folder for link in records.chain(name))
        except StcrError:  # said by the checks of that model
            continue
    yield from map(Path, artefacts.adapter_stack(recipe.starting_point))
