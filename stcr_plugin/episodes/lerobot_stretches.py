"""Stretches of video files that episodes claim, and which of them contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_DRIFT = 0.002  # the same for a stretch of a shared file: 29.97 for 30


@dataclass(frozen=True)
class Stretch:
    """Part of a video file, in seconds [start, end); end infinite for a whole file."""

    video: Path
    start: float
    end: float

    @property
    def whole(self) -> bool:
        """Whether it is the whole file."""
        return math.isinf(self.end)

    @property
    def span(self) -> str:
        """The stretch in words."""
        return "all" if self.whole else f"{self.start:.2f} to {self.end:.2f} s"


def check_span(start: float, end: float, *, length: int, fps: float) -> None:
    """Raises ValueError for a stretch that begins before its file, or that `length` frames do not fill at `fps`."""
    if start < -0.5 / fps:
        raise ValueError(f"its from_timestamp {start:.2f} is before the start of the video")
    lasts, expected = end - start, length / fps
    if lasts <= 0 < length:
        raise ValueError(f"it ends at {end:.2f} s of its video, before it starts at {start:.2f} s")
    if abs(lasts - expected) > max(0.5 / fps, _DRIFT * expected):
        raise ValueError(
            f"its {length} frames in {lasts:.2f} s of its video (from_timestamp {start:.2f}, to_timestamp {end:.2f}) "
            f"are {length / lasts:.4g} a second, info.json says {fps:g} fps"
            if lasts > 0
            else f"its {length} frames last {lasts:.2f} s of its video"
        )


def overlapping(claims: Mapping[int, Stretch], tolerance: float) -> dict[int, int]:
    """Episodes whose stretch overlaps another's by `tolerance` seconds or more -> that other episode."""
    found: dict[int, int] = {}
    furthest: int | None = None  # of the stretches seen in this file, the one that ends last
    for index, claim in sorted(claims.items(), key=lambda item: (str(item[1].video), item[1].start, item[0])):
        if furthest is not None and claims[furthest].video == claim.video:
            last = claims[furthest]
            if min(last.end, claim.end) - claim.start > tolerance - 1e-6:
                found.setdefault(index, furthest)
                found.setdefault(furthest, index)
            if claim.end <= last.end:
                continue
        furthest = index
    return found
