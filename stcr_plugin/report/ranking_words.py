"""Rankings and value-order correlations in words and pictures."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin.evaluation.rank import MEANINGS
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.report import plots

CURVE_PLOT, VOC_PLOT = "progress.png", "voc.png"


def correlation(found: ValueOrder, name: str) -> str:
    """A correlation with its interval."""
    bounds = found.intervals.get(name)
    return f"{getattr(found, name):+.2f}" + (f" ({bounds[0]:+.2f} to {bounds[1]:+.2f})" if bounds else "")


def value_order_words(found: ValueOrder) -> str:
    """The correlations in one line."""
    parts = [f"{name} {correlation(found, name)}" for name in MEANINGS]
    none = {name: count for name, count in found.undefined.items() if count}
    tied = f"; counted as 0, since all frames came out alike: {none}" if none else ""
    lost = f"; frames without a value that could be read: {found.unread}" if found.unread else ""
    by = "" if found.method == "pairs" else f" by {found.method}"
    return f"{found.n_strips} strips of {found.n_episodes} episodes{by}: {', '.join(parts)}{tied}{lost}"


def cost_words(found: Ranking | ValueOrder) -> str:
    """What the answers took, in one line."""
    cost = found.cost
    if cost is None:
        return "cost: not counted"
    parts = [f"queries {cost.queries:,}", f"pictures {cost.pictures:,}"]
    if cost.tokens:
        parts.append(f"tokens of prompts {cost.tokens.prompt:,}, of responses {cost.tokens.completion:,}")
    if cost.money is not None:
        parts.append(f"price {cost.money:.2f}")
    return f"cost: {', '.join(parts)}"


def draw_ranking(out: Path, found: Ranking) -> None:
    """Draw progress.png into the folder `out`."""
    plots.progress(out / CURVE_PLOT, found)


def draw_value_order(out: Path, found: ValueOrder) -> None:
    """Draw voc.png into the folder `out`."""
    plots.correlations(out / VOC_PLOT, found)
