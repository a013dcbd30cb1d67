"""A stage and all that it came from, the base first, with what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.errors import StcrError
from stcr_plugin.evaluation.controls import CONTROLS_JSON
from stcr_plugin.evaluation.evaluate import RESULTS
from stcr_plugin.evaluation.guard import GUARD
from stcr_plugin.records import StageRecord

Row = dict[str, Any]
MEASURES = (RESULTS, CONTROLS_JSON, GUARD)
"""What `stcr eval`, `stcr controls` and `stcr guard` leave in the model's folder, or up to two folders deeper."""


@dataclass(frozen=True)
class Link:
    """One model of a chain.

    record: its stage.json, {} of a model that no stage made. digest: that of its files now, None where they are not
    here. measured: file name -> the rows of it that were measured on these very files. left_out: why others are not.
    """

    name: str
    folder: str
    record: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    measured: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def lineage(run: Path) -> list[Link]:
    """The chain that ends in the folder `run`, as far as its stages' records lead.

    A parent that is gone, or was trained again since, ends it: a link without digest or figures says so.
    Raises DataError for a record that cannot be read.
    """
    links: list[Link] = []
    for one in records.chain(run):
        if one.error:
            raise one.error
        links.insert(0, _link(one.folder, one.record or one.retrained, one.child.parent_digest if one.child else None))
        if not links[0].record:
            break
    return links


def _link(folder: Path, stage: StageRecord | None, expected: str | None) -> Link:
    """`expected`: the digest that the stage after it started from, where that is known."""
    if not folder.is_dir():
        return Link(folder.name if expected else str(folder), str(folder), left_out=(f"{folder} is not here",))
    record = stage.row if stage else {}
    name = str(record.get("name") or folder.resolve().name)
    try:
        digest = artefacts.model_digest(folder)
    except StcrError as error:
        return Link(name, str(folder), left_out=(str(error),))
    if expected and digest != expected:
        changed = f"{folder} holds other weights than the next stage started from"
        return Link(name, str(folder), left_out=(changed,))
    measured: dict[str, tuple[Row, ...]] = {}
    left_out: list[str] = []
    for file in MEASURES:
        rows = []
        for path in sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{file}")):
            row = artefacts.read_json(path)
            if file == RESULTS and row.get("comparator"):
                continue  # the model's own figures alone
            if _asked(row) == digest:
                rows.append(row)
            else:
                left_out.append(f"{path}: not known to be measured on these files")
        measured[file] = tuple(rows)
    return Link(name, str(folder), record, digest, measured, tuple(left_out))


def _asked(row: Mapping[str, Any]) -> str | None:
    """The digest of the model that was asked; None of a server, which tells none, and of files of another make."""
    engine = (row.get("of") or row).get("engine")
    found = engine.get("model_digest") if isinstance(engine, Mapping) else None
    return str(found) if found else None
