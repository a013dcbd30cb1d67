"""What people decide about annotated texts: a file of decisions that only grows, beside the file of texts.

A decision is on the disk before it is answered, and a killed review loses none. Folding writes the latest decision of
each row into the file of texts, whole or not at all; the texts as a model wrote them stay in the file of decisions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.result_files import Result, encode
from stcr_plugin.samples.annotations import Annotation, Review, read_annotations

Key = tuple[str, int]
Texts = tuple[str, str]
_FOLDED = ("review", "note", "earlier_text", "later_text")


@dataclass(frozen=True)
class Decision(Result):
    """The state of a row after a decision; `review` is "" where a decision was undone.

    Attributes:
        pair_id: Names the row, with `sample`.
        earlier_text: As the person left it, like `later_text`.
        earlier_original: As the model wrote it, like `later_original`.
    """

    pair_id: str
    sample: int
    review: Review
    note: str
    earlier_text: str
    later_text: str
    earlier_original: str
    later_original: str

    file: ClassVar[str] = "annotations.decisions.jsonl"
    command: ClassVar[str] = "stcr annotate review"

    @property
    def key(self) -> Key:
        return self.pair_id, self.sample

    @property
    def texts(self) -> Texts:
        return self.earlier_text, self.later_text

    @property
    def originals(self) -> Texts:
        return self.earlier_original, self.later_original


def decisions_file(path: str | Path) -> Path:
    """The file of decisions about the file of texts `path`."""
    return Path(path).with_name(f"{Path(path).stem}.decisions.jsonl")


def being_alone(path: Path) -> AbstractContextManager[None]:
    """The lock on the texts `path` and what was decided. Raises StcrError where another process has it."""
    return artefacts.locked(path.with_name(f".{path.name}.lock"), alone=path)


class ReviewedRows:
    """The rows of a file of annotated texts, as people left them.

    Attributes:
        path: The file of texts.
        rows: In the order of the file, with all decisions taken in.
        originals: Position of a row -> its texts as the model wrote them, where they may differ from the row's.
        taken: How many decisions this process took, undone ones included.
        stale: How many decisions are about texts that are no longer in the file. They are kept and have no effect.
    """

    def __init__(self, path: str | Path) -> None:
        """Read both files. The caller holds a lock on them.

        Raises:
            DataError: for a row or a decision that cannot be read, or two rows of one pair and sample.
        """
        self.path = Path(path)
        self.rows: list[Annotation] = list(read_annotations(path))
        self.originals: dict[int, Texts] = {}
        self.stale = self.taken = 0
        self._folded_at = -1
        self._position: dict[Key, int] = {}
        for at, row in enumerate(self.rows):
            if self._position.setdefault((row.pair_id, row.sample), at) != at:
                raise DataError(path, f"two rows are of pair {row.pair_id!r}, sample {row.sample}", "delete one")
        self._undo: list[Decision] = []
        self._latest: dict[Key, Decision] = {}
        self._known: dict[Key, set[Texts]] = {}  # all texts that the row of a decision may have
        log = decisions_file(path)
        _drop_cut_end(log)
        for number, value in enumerate(artefacts.read_jsonl(log) if log.exists() else (), 1):
            decision = Decision.from_row(value, f"{log}, row {number}")
            self._know(decision)
        for key, decision in list(self._latest.items()):
            position = self._position.get(key)
            if position is None or _texts(self.rows[position]) not in self._known[key]:
                self.stale += 1
                del self._latest[key]
            else:
                self._take(decision)

    def position(self, pair_id: str, sample: int) -> int | None:
        """Where the row of a pair and sample is."""
        return self._position.get((pair_id, sample))

    def edited(self, position: int) -> bool:
        """Whether a person changed a text of the row."""
        row = self.rows[position]
        return self.originals.get(position, _texts(row)) != _texts(row)

    def decision(self, position: int, review: Review, *, note: str = "", texts: Texts | None = None) -> Decision:
        """A decision about the row at `position`; `texts` is None where the person leaves them.

        Raises:
            DataError: for a row that would be accepted with an empty text.
        """
        row = self.rows[position]
        earlier, later = texts or _texts(row)
        if review == "accept" and not (earlier.strip() and later.strip()):
            raise DataError(f"pair {row.pair_id}", "a text is empty", "write it, or reject the row")
        return Decision(
            row.pair_id, row.sample, review, note, earlier, later, *self.originals.get(position, _texts(row))
        )

    def decide(self, decisions: Sequence[Decision]) -> None:
        """Take decisions; they are on the disk when this returns.

        Raises:
            DataError: where they cannot be written. Then none of them is.
        """
        before = [self._now(decision.key) for decision in decisions]
        self._append(decisions)
        self._undo += before

    def undo(self) -> int | None:
        """Take back the latest decision of this process; the position of its row, None where there is none left."""
        if not self._undo:
            return None
        before = self._undo[-1]
        self._append([before])
        self._undo.pop()
        return self._position[before.key]

    def fold(self) -> None:
        """Write all decisions into the file of texts. Columns that this version does not know are kept."""
        if self._folded_at == self.taken:
            return
        taken = self.taken  # before the file is written: a decision may come meanwhile
        rows = list(artefacts.read_jsonl(self.path))
        folded = [self._folded(row) for row in rows]
        if folded != rows:
            artefacts.write_jsonl(self.path, folded)
        self._folded_at = taken

    def _folded(self, row: dict[str, Any]) -> dict[str, Any]:
        decision = self._latest.get(key := (row["pair_id"], row["sample"]))
        if decision is None or (row["earlier_text"], row["later_text"]) not in self._known[key]:
            return row
        return row | {name: getattr(decision, name) for name in _FOLDED}

    def _know(self, decision: Decision) -> None:
        self._latest[decision.key] = decision
        self._known.setdefault(decision.key, set()).update((decision.texts, decision.originals))

    def _now(self, key: Key) -> Decision:
        row = self.rows[at := self._position[key]]
        return Decision(*key, row.review, row.note, *_texts(row), *self.originals.get(at, _texts(row)))

    def _append(self, decisions: Iterable[Decision]) -> None:
        taken = list(decisions)
        lines = "".join(json.dumps(encode(decision), ensure_ascii=False) + "\n" for decision in taken)
        _append(decisions_file(self.path), lines.encode("utf-8", "replace"))
        for decision in taken:
            self._know(decision)
            self._take(decision)
        self.taken += len(taken)

    def _take(self, decision: Decision) -> None:
        at = self._position[decision.key]
        self.originals[at] = decision.originals
        self.rows[at] = replace(self.rows[at], **{name: getattr(decision, name) for name in _FOLDED})


def _texts(row: Annotation) -> Texts:
    return row.earlier_text, row.later_text


def _append(path: Path, data: bytes) -> None:
    """Append to a file and flush it to the disk, all or nothing."""
    try:
        new = not path.exists()
        with open(path, "ab") as file:
            start = file.tell()
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, start)
                raise
        if new:
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise DataError(path, f"could not write a decision: {error.strerror or error}", "free space") from error


def _drop_cut_end(path: Path) -> None:
    """Cut the end of a decision that a killed process did not write whole; nobody was told that it is kept."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
