"""A stage and all that it came from, the base first, with the results of each."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from stcr_plugin import artefacts, records
from stcr_plugin.errors import StcrError
from stcr_plugin.report.model_card import CardStage
from stcr_plugin.results import Controls, Evaluation, Guard

Measured = TypeVar("Measured", Evaluation, Controls, Guard)


def lineage(run: Path) -> list[CardStage]:
    """The chain that ends in the folder `run`, the base first, as far as the records of its stages lead.

    A parent that is missing, or was trained again since, ends it with a stage without a digest or results.

    Raises:
        DataError: A record cannot be read.
    """
    found: list[CardStage] = []
    for link in records.chain(run):
        if link.error:
            raise link.error
        found.insert(0, _stage(link))
        if found[0].digest is None:
            break
    return found


def _stage(link: records.Link) -> CardStage:
    folder, record, expected = link.folder, link.record, link.child.parent_digest if link.child else None
    if not folder.is_dir():
        return CardStage(folder.name if expected else str(folder), folder, left_out=(f"{folder} is missing",))
    known = record or link.retrained
    name = (known.name if known else None) or folder.resolve().name
    try:
        digest = artefacts.model_digest(folder)
    except StcrError as error:
        return CardStage(name, folder, left_out=(str(error),))
    if expected and digest != expected:
        changed = f"{folder} holds other weights than the next stage started from"
        return CardStage(name, folder, left_out=(changed,))
    left_out: list[str] = []
    evaluations = [one for one in _measured(Evaluation, folder, digest, left_out=left_out) if not one.comparator]
    return CardStage(
        name,
        folder,
        record=record,
        digest=digest,
        evaluations=tuple(evaluations),  # the model's own figures alone
        controls=tuple(_measured(Controls, folder, digest, left_out=left_out)),
        guards=tuple(_measured(Guard, folder, digest, left_out=left_out)),
        left_out=tuple(left_out),
    )


def _measured(kind: type[Measured], folder: Path, digest: str, *, left_out: list[str]) -> list[Measured]:
    """The results of one kind in the folder and up to two below that were measured on the model's files as they are.

    The others are named in `left_out`. A server does not tell which files it serves.
    """
    found = []
    for path in sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{kind.file}")):
        result = kind.read(path)
        engine = result.of.engine if isinstance(result, Controls) else result.engine
        if engine.get("model_digest") == digest:
            found.append(result)
        elif not (isinstance(result, Evaluation) and result.comparator):
            left_out.append(f"{path}: not known to be measured on these files")
    return found
