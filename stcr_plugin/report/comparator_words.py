"""One paragraph about an evaluation by a comparator."""

from __future__ import annotations

from stcr_plugin.figures import Figures
from stcr_plugin.results import ComparatorAccount


def comparator_words(found: ComparatorAccount, figures: Figures) -> str:
    """What the comparator did, and its accuracy beside that of the plain prompt; `figures` are the evaluation's."""
    weight = f" Its weight, {found.weight:.3g}, is {found.weight_of}." if found.weight is not None else ""
    plain, against = found.plain, ""
    if plain:
        bounds = plain.difference.interval
        interval = f" ({bounds[0]:+.1f} to {bounds[1]:+.1f})" if bounds else ""
        against = (
            f", against {plain.pair_accuracy:.1f} and {plain.mean_accuracy:.1f} of the plain prompt: "
            f"{plain.difference.points:+.1f} points of pair accuracy{interval}"
        )
    gap = (
        " Its gap is 0 by construction, since one choice answers both orders: judge it by accuracy."
        if found.name == "swap_ensemble"
        else ""
    )
    return (
        f"Comparator `{found.name}` ({found.source}): {found.does}.{weight} Nothing of it was tuned on any split of "
        f"this data. Prompts per query: {len(found.variants)}. Pair accuracy {figures.pair_accuracy:.1f} %, mean of "
        f"the single orders {found.mean_accuracy:.1f} %{against}.{gap}"
    )
