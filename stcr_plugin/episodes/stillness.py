"""How much moves, measured on the pictures alone: for sources without readings of the robot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from stcr_plugin.episodes.proprioception import SMOOTHING

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

BLOCKS = (32, 24)  # columns and rows of the grey thumbnail that is compared
POWER = 4  # of the mean over blocks: an arm covers few of them, and must not drown in the noise of the rest
FLOOR, TOP = 0.05, 0.95  # quantiles of an episode that count as no motion and as the fastest
CONTRAST = 0.5  # a floor above this share of the top is movement too: that episode never stands still


def picture_motion(pictures: Iterable[Picture], fps: float) -> list[float]:
    """State "motion" of each picture [height, width, 3] of one episode: 0 stands still .. 1 moves fastest.

    With x[t] the grey thumbnail of 24 x 32 block means and r = round(fps / 15), as for proprioception:

        d[t] = x[t + 1 + r] - x[t - r], ends cut, less its median over the blocks (a change of exposure)
        s[t] = (mean over blocks of d[t] ** 4) ** (1 / 4)                in grey levels
        motion[t] = (s[t] - floor) / (top - floor), clipped to 0..1      0 for the last picture

    top is the 95th percentile of s, so that one broken picture does not make all others still. floor is the 5th:
    what the sensor's noise and the compression change where nothing moves. An episode without a still stretch has
    no such floor to measure; where it would be above half of top it is taken as 0, so none of its motion is lost.
    One that is still throughout cannot be distinguished from that, since motion is relative. The wide step bridges
    cameras that deliver every picture twice. The formula is ours; the sizes were chosen on one real data set.
    """
    thumbnails = np.array([_thumbnail(picture) for picture in pictures], dtype=np.float32)
    count = len(thumbnails)
    if count < 2:
        return [0.0] * count
    reach = round(SMOOTHING * fps)
    before = np.maximum(np.arange(count) - reach, 0)
    after = np.minimum(np.arange(count) + 1 + reach, count - 1)
    change = thumbnails[after] - thumbnails[before]
    change -= np.median(change, axis=1, keepdims=True)
    size = np.mean(change**POWER, axis=1) ** (1 / POWER)
    floor, top = np.quantile(size[:-1], [FLOOR, TOP])
    if floor > CONTRAST * top:
        floor = 0.0
    motion = np.clip((size - floor) / max(float(top - floor), 1e-9), 0, 1)
    motion[-1] = 0.0
    return [float(value) for value in motion]


def _thumbnail(picture: Picture) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Block means [rows * columns] in grey levels of 0..255, not rounded, since noise is smaller than one level."""
    from PIL import Image

    grey = Image.fromarray(picture).convert("L").convert("F").resize(BLOCKS, Image.Resampling.BOX)
    return np.asarray(grey).ravel()
