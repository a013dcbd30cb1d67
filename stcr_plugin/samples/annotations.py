"""The file of annotated texts: one JSON line per pair and candidate, with a verdict of every check as a column.

`stcr annotate` writes it, people review it, and `texts:` in a data configuration makes Chain-of-Thought samples of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stcr_plugin.result_files import Result
from stcr_plugin.types import Closer

Review = Literal["", "accept", "reject"]
PASSED, UNCHECKED = "passed", "unchecked"
"""Verdicts. Any other text is the reason why a check failed; equal reasons have equal texts, details follow `: `."""

FALSE_CLAIM, NOT_CONFIRMED = "false claim", "not confirmed"
"""Reasons of `claims` and `confirmed` that refute a text: the recorded state, or a second model, says otherwise."""

SAME_POSITION = f"{UNCHECKED}: same position in both orders"
"""Verdict of `judged` where the describing model is led by the order, so that its answers say nothing of the texts."""


def fails(verdict: str) -> bool:
    """Whether a verdict counts against the text."""
    return verdict != PASSED and not verdict.startswith(UNCHECKED)


@dataclass(frozen=True)
class Annotation(Result):
    """Texts about the two pictures of a pair, and what each check found.

    Attributes:
        pair_id: As in the build, like the fields up to `closer`.
        earlier_image: Path relative to the registry folder, as `later_image`.
        earlier_fingerprint: Perceptual hash of the picture that was described, see `registry/picture_store.py`.
        language: Of the texts.
        sample: Number of the candidate for this pair, from 0.
        attempt: How often the texts were asked for, from 1.
        described: Whether there is a text about each picture: verdict of a picture's check, of the earlier one.
        leak: No text speaks of time, order, progress or the other picture.
        claims: Every claim that can be read holds for the recorded state.
        confirmed: The second model confirms every sentence by looking at the picture.
        judged: The describing model, which sees both pictures, gives the label's answer in both orders. One that names
            the same position in both orders has not judged.
        blind: The second model, which reads both texts and sees no picture, gives the label's answer in both orders.
        accepted: No check failed.
        suspect_label: Both orders were judged alike, against the label.
        describer: Name of the describing model, as `verifier` of the second one.
        review: What a person decided, "" where nobody did.
        note: A person's note.
    """

    pair_id: str
    episode_id: str
    split: str
    task: str
    earlier: int
    later: int
    closer: Closer
    earlier_image: str
    later_image: str
    earlier_fingerprint: str
    later_fingerprint: str
    language: str
    sample: int
    attempt: int
    earlier_text: str
    later_text: str
    earlier_described: str = UNCHECKED
    later_described: str = UNCHECKED
    earlier_leak: str = UNCHECKED
    later_leak: str = UNCHECKED
    earlier_claims: str = UNCHECKED
    later_claims: str = UNCHECKED
    earlier_confirmed: str = UNCHECKED
    later_confirmed: str = UNCHECKED
    judged: str = UNCHECKED
    blind: str = UNCHECKED
    accepted: bool = False
    suspect_label: bool = False
    describer: str = ""
    verifier: str = ""
    review: Review = ""
    note: str = ""

    file: ClassVar[str] = "annotations.jsonl"
    command: ClassVar[str] = "stcr annotate"

    @property
    def used(self) -> bool:
        """Whether a build makes a sample of it: a person's decision counts more than the checks."""
        return self.review == "accept" or (self.accepted and self.review != "reject")

    @property
    def refuted(self) -> bool:
        """Whether a text was found false of its picture: by the recorded state, a second model, or a person."""
        found = [getattr(self, column) for name in ("claims", "confirmed") for column in COLUMNS[name]]
        denied = any(verdict.startswith((FALSE_CLAIM, NOT_CONFIRMED)) for verdict in found)
        return self.review == "reject" or (denied and self.review != "accept")


COLUMNS = {name: (f"earlier_{name}", f"later_{name}") for name in ("described", "leak", "claims", "confirmed")} | {
    name: (name,) for name in ("judged", "blind")
}
"""Check -> its columns of verdicts, in the order in which the checks are made: of each picture, or of the pair."""
CHECKS = tuple(COLUMNS)
VERDICTS = tuple(column for columns in COLUMNS.values() for column in columns)


def read_annotations(path: str | Path) -> Iterator[Annotation]:
    """The rows of a file of annotated texts, one at a time. Raises DataError as `Result.read_rows` does."""
    return Annotation.read_rows(path)
