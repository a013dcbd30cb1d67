"""What two datasets share, and what an evaluation shares with the training, in words."""

from __future__ import annotations

from stcr_plugin.figures import Nearness, Shared
from stcr_plugin.registry.overlap import BITS
from stcr_plugin.results import Overlap, TrainingOverlap


def overlap_text(found: Overlap) -> str:
    """A few lines for a terminal."""
    lines = [f"{found.trained} (training) against {found.evaluated} (evaluated)"]
    for label, shared, named in (
        ("episodes", found.episodes, True),
        ("identical pictures", found.pictures, True),
        ("prompt variants", found.questions, False),
        ("task texts", found.tasks, True),
    ):
        lines.append(
            f"shared {label}: {shared.shared} of {shared.evaluated} evaluated, {shared.trained} in training"
            + (f" ({_listed(shared)})" if shared.shared and named else "")
        )
    return "\n".join(
        [*lines, *(_near(found.near) if found.near else ["near pictures: unknown, a side has no pictures"])]
    )


def overlap_words(found: TrainingOverlap) -> str:
    """One sentence or two about what an evaluation shares with the training of its model."""
    shared = found.found
    if shared is None:
        return f"Overlap with the training data is unknown: {found.unknown}."
    if shared.leaks:
        text = (
            f"WARNING: the model was trained on what it is evaluated on: {shared.episodes.shared} of "
            f"{shared.episodes.evaluated} episodes and {shared.pictures.shared} of {shared.pictures.evaluated} "
            "pictures are in its training data"
        )
    else:
        text = "No evaluated episode or picture is in the training data"
    text += f" ({shared.trained})."
    near = shared.near
    if near and near.share is not None:
        beside = "" if near.share_within is None else f", against {near.share_within:.1f} % between training episodes"
        text += (
            f" Of {near.sampled} evaluated pictures {near.share:.1f} % are nearer to a training picture than "
            f"neighbouring frames of one episode are to each other{beside}."
        )
    return f"{text} Not all of the training is known: {found.unknown}." if found.unknown else text


def _near(found: Nearness) -> list[str]:
    def bits(distance: float) -> str:
        return f"over {found.reach}" if distance > found.reach else f"{distance:g}"

    looked = f"{found.sampled} of {found.evaluated} evaluated pictures against {found.trained} of the training"
    lines = [f"near pictures: {looked}; distances in bits of {BITS}"]
    lines.append(f"  nearest training picture: median {bits(found.median)}")
    if found.median_within is not None:
        lines.append(f"  the same between training episodes: median {bits(found.median_within)}")
    if found.neighbours is None or found.share is None:
        return [*lines, "  no training episode has two pictures, so nearness cannot be measured"]
    lines.append(f"  neighbouring frames of a training episode ({found.gap:g} apart): median {found.neighbours:g}")
    within = "" if found.share_within is None else f"; between training episodes {found.share_within:.1f} %"
    return [*lines, f"  nearer than those neighbours: {found.share:.1f} %{within}"]


def _listed(found: Shared) -> str:
    more = found.shared - len(found.named)
    return ", ".join(found.named) + (f" and {more} more" if more else "")
