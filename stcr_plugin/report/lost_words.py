"""Answers that name nothing because they were cut or refused, in words, with what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stcr_plugin.figures import Figures, GroupFigures, YesNoFigures


def lost_words(figures: Figures | GroupFigures | YesNoFigures, settings: Mapping[str, Any]) -> list[str]:
    """One sentence per cause that occurs; `settings` are those of the evaluation."""
    limit = settings.get("max_new_tokens")
    at = f" at max_new_tokens {limit}" if limit else ""
    found = []
    if figures.cut_rate:
        found.append(
            f"{_share(figures.cut_rate)} % of the answers were cut{at} before they gave a name, and count as wrong: "
            "raise it (--set max_new_tokens=N), or turn the model's thinking off."
        )
    if figures.refused_rate:
        found.append(
            f"{_share(figures.refused_rate)} % of the answers were refused by a content filter or by the model, and "
            "count as wrong."
        )
    return found


def _share(value: float) -> str:
    return f"{value:.1f}" if value >= 0.05 else "under 0.1"
