"""Sampled answers about one pair, its two orders in turn -> the parts of their rewards, which are added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.scoring.factuality import Described


@dataclass(frozen=True)
class SampledAnswer:
    """What counts of one sampled answer.

    Attributes:
        right: Whether it names the picture that is closer to completion.
        claims: `true_share` of what it says; None where the true state is not known, or no reason was asked for.
    """

    right: bool
    claims: float | None = None


def true_share(answer: Described) -> float | None:
    """The share of the claims of the true descriptions that an answer states, less false ones, from 0 to 1.

    Each claim that is false, and each piece that cannot be read, takes one away. So neither silence nor repetition
    pays, which a share of the stated claims would reward. None where nothing can be said of the pictures.
    """
    if not answer.wanted:
        return None
    wrong = sum(one.verdict != "true" for one in answer.statements)
    return max(0, answer.wanted - answer.missing - wrong) / answer.wanted


def right(answers: Sequence[SampledAnswer]) -> list[float | None]:
    """1 for a right answer, 0 for any other."""
    return [float(one.right) for one in answers]


def right_in_both_orders(answers: Sequence[SampledAnswer]) -> list[float | None]:
    """1 for both answers of two that are asked one after the other, forward and backward, where both are right.

    It belongs to the pair: an answer has it only together with that of the other order.
    """
    both = [one.right and other.right for one, other in zip(answers[::2], answers[1::2], strict=True)]
    return [float(one) for one in both for _ in range(2)]


def claims_true(answers: Sequence[SampledAnswer]) -> list[float | None]:
    """The share of true claims, None where it is not known."""
    return [one.claims for one in answers]


PARTS: Mapping[str, Callable[[Sequence[SampledAnswer]], list[float | None]]] = {
    one.__name__: one for one in (right, right_in_both_orders, claims_true)
}
"""Name -> values of each answer. A part that is None for an answer is left out of its sum."""
