"""The two answers of a ranking row: the target of a CoT sample, and a worse one about the same two pictures."""

from __future__ import annotations

from typing import Literal

from stcr_plugin.samples.cot import details, halves_of

Against = Literal["order", "frame", "verdict", "sampled"]
"""What a rejected answer is; see `DatasetRule.against`. A single false detail is not among them: it mostly contradicts
the rest of its text, so that a judge who sees no picture tells which text was changed."""

BALANCED: tuple[Against, ...] = ("order", "frame")
"""Those of which every text is preferred as often as it is rejected, so that no text alone tells."""

_OTHER = {"img1": "img2", "img2": "img1"}


def described_by(target: str, texts: tuple[str, str]) -> str:
    """The target with other descriptions of img1 and img2, and its own judgment."""
    return f"{details(texts)}\n{target.rpartition(chr(10))[2]}"


def of_swapped_order(target: str) -> str | None:
    """What is true where the two pictures change places; None where they are described alike, or not at all."""
    halves = halves_of(target)
    if halves is None or halves[0] == halves[1]:
        return None
    return described_by(other_judgment(target) or target, halves[::-1])


def other_judgment(target: str) -> str | None:
    """The target with the other picture as its judgment; None for a tie, which has no other one."""
    start, colon, answer = target.rpartition(": ")
    return f"{start}{colon}{_OTHER[answer]}" if answer in _OTHER else None
