"""Weak samples: the label alone, which comes from the order of the frames."""

from __future__ import annotations

from stcr_plugin.samples.questions import prompt
from stcr_plugin.types import Query, Sample


def answer_line(query: Query) -> str:
    """`closer to completion: img1` or `... img2`, as the STCR authors release it (arXiv 2604.10506).

    `... neither` for a tie, where a build teaches ties; that one is ours.
    """
    return f"closer to completion: {query.answer}"


def weak_sample(query: Query, language: str, seed: int, *, ties: bool = False) -> Sample:
    """The answer alone; `ties` offers "neither" in the question."""
    text = prompt(query, "direct", language, seed=seed, ties=ties)
    return Sample(query, "weak", text, target=answer_line(query))
