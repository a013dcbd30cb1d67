"""Pairs whose two pictures are the same, or almost: nothing in them says which is closer to completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stcr_plugin.registry import picture_store
from stcr_plugin.types import Exclusion, Omission, Pair

if TYPE_CHECKING:
    from stcr_plugin.registry.picture_store import Cells

LEVELS = 3  # of 255: by how much the grey of a cell may differ in two pictures that are almost the same
SAME = "both pictures of the pair are the same"
STILL = "nothing moves: all pictures that its pairs show are the same"


def without_same(pairs: Sequence[Pair], encoded: Mapping[int, bytes]) -> tuple[list[Pair], list[Exclusion]]:
    """The pairs of one episode that show two pictures, and what is skipped: the others, or the whole episode.

    A tie stays, since "neither" is true of two pictures that are the same. encoded: frame -> its stored picture.
    """
    same = [pair for pair in pairs if pair.closer != "neither" and encoded[pair.earlier] == encoded[pair.later]]
    if same and len(same) == len(pairs) and len({encoded[pair.earlier] for pair in same}) == 1:
        return [], [Exclusion("episode", same[0].episode_id, STILL)]
    skipped = {pair.pair_id for pair in same}
    # An Omission, since nobody can fix a camera that delivered a picture twice: it never stops a build.
    excluded = [Omission("pair", f"episode {one.episode_id}, frames {one.earlier}-{one.later}", SAME) for one in same]
    return [pair for pair in pairs if pair.pair_id not in skipped], [*excluded]


def almost_same(pairs: Sequence[Pair], cells: Mapping[int, Cells]) -> int:
    """How many pairs show two pictures that differ by no more than a sensor's noise, or than one light.

    cells: frame -> `picture_store.cells` of its picture. The noise of the pixels is averaged away in a cell.
    """
    import numpy as np

    count = 0
    for pair in pairs:
        if pair.closer != "neither":
            earlier, later = cells[pair.earlier], cells[pair.later]
            near = int(np.abs(earlier - later).max()) <= LEVELS
            count += near or picture_store.hashed(earlier) == picture_store.hashed(later)
    return count
