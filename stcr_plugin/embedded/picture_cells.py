"""What each cell of a picture shows, as targets for the vision tower: an image token covers one cell.

A stock VLM knows where things are before it is tuned. These targets teach it to the embedded base: the colours of
objects and pads in a cell, where in it they and the hand are, and whether an object stands on a pad or is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stcr_plugin.episodes.tabletop import SEEN_COLOURS, Spot

_COLOURS = list(SEEN_COLOURS)
_HAND = 2 * len(_COLOURS)
_PRESENCE, _PRESENCE_WEIGHT = _HAND + 1, 3.0
# Right and down in the cell, then the shares of a `Spot`.
_PARTS = {
    "object": slice(_PRESENCE, _PRESENCE + 4),
    "pad": slice(_PRESENCE + 4, _PRESENCE + 6),
    "hand": slice(_PRESENCE + 6, _PRESENCE + 10),
}
COUNT = _PRESENCE + 10
"""Targets of a cell: an object of each colour, a pad of each colour, the hand; then the parts of each."""


def targets(spots: Sequence[Spot], side: int) -> npt.NDArray[np.float32]:
    """[side * side, COUNT], 0 or 1 for presence, -1..1 else; NaN where the picture's recorded state says nothing.

    That is the presence of colours that no task names, since other things may have them.
    """
    found = np.full((side * side, COUNT), math.nan, dtype=np.float32)
    for spot in spots:
        column, row = (min(side - 1, max(0, int(share * side))) for share in spot.at)
        cell, number = row * side + column, _number(spot)
        found[:, number] = 0
        found[cell, number] = 1
        inside = [2 * (share * side - start) - 1 for share, start in zip(spot.at, (column, row), strict=True)]
        found[cell, _PARTS[spot.role]] = [*inside, *(2 * value - 1 for value in spot.shares)]
    return found


def _number(spot: Spot) -> int:
    if spot.role == "hand":
        return _HAND
    return _COLOURS.index(spot.colour) + (len(_COLOURS) if spot.role == "pad" else 0)


def loss(given: Any, wanted: Any) -> Any:
    """The mean squared error of `given` [.., COUNT] over what is known, presence and the rest each by themselves."""
    known = ~wanted.isnan()
    errors = (given - wanted.nan_to_num()) ** 2
    present = errors[..., :_PRESENCE][known[..., :_PRESENCE]].mean()
    return _PRESENCE_WEIGHT * present + errors[..., _PRESENCE:][known[..., _PRESENCE:]].mean()
