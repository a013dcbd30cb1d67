"""A stage and all that it came from, the base first, with the results of each."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from stcr_plugin import artefacts
from stcr_plugin.errors import StcrError
from stcr_plugin.records import read_record
from stcr_plugin.report.model_card import Link
from stcr_plugin.results import Controls, Evaluation, Guard

Measured = TypeVar("Measured", Evaluation, Controls, Guard)


def lineage(run: Path) -> list[Link]:
    """The chain that ends in the folder `run`, as far as the records of its stages lead.

    A parent that is missing, or was trained again since, ends it with a link without a digest or results.

    Raises:
        DataError: A record cannot be read.
    """
    links: list[Link] = []
    seen: set[Path] = set()
    folder, digest = str(run), None
    while folder and Path(folder).resolve() not in seen:
        seen.add(Path(folder).resolve())
        link = _link(Path(folder), digest)
        links.insert(0, link)
        folder, digest = str(link.record.get("parent") or ""), link.record.get("parent_digest")
    return links


def _link(folder: Path, expected: str | None) -> Link:
    """`expected`: the digest that the stage after it started from, where that is known."""
    if not folder.is_dir():
        return Link(folder.name if expected else str(folder), str(folder), left_out=(f"{folder} is not here",))
    record = read_record(folder) or {}
    name = str(record.get("name") or folder.resolve().name)
    try:
        digest = artefacts.model_digest(folder)
    except StcrError as error:
        return Link(name, str(folder), left_out=(str(error),))
    if expected and digest != expected:
        changed = f"{folder} holds other weights than the next stage started from"
        return Link(name, str(folder), left_out=(changed,))
    left_out: list[str] = []
    evaluations = [one for one in _measured(Evaluation, folder, digest, left_out) if not one.comparator]
    return Link(
        name,
        str(folder),
        record=record,
        digest=digest,
        evaluations=tuple(evaluations),  # the model's own figures alone
        controls=tuple(_measured(Controls, folder, digest, left_out)),
        guards=tuple(_measured(Guard, folder, digest, left_out)),
        left_out=tuple(left_out),
    )


def _measured(kind: type[Measured], folder: Path, digest: str, left_out: list[str]) -> list[Measured]:
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
