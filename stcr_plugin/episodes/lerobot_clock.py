"""Which frame of a video belongs to which row of an episode: row i is frame i of the episode's part of the video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stcr_plugin.episodes.lerobot_rows import same_length
from stcr_plugin.episodes.lerobot_stretches import Stretch
from stcr_plugin.episodes.video import VideoFacts
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.episodes.video import Times

_RATE = "correct fps in meta/info.json, or encode the videos at that rate"


def picture_times(
    stretch: Stretch, length: int, fps: float, *, facts: VideoFacts, read_times: Callable[[Path], Times]
) -> Times:
    """Presentation time (s) of the picture of each row, [length].

    A video that keeps an even clock of `fps` from 0 is not looked at further; of another one every time is read.

    Raises:
        DataError: where the video has more or fewer frames than rows, so that none can be told from the next, or
            another rate than `fps`.
    """
    lasts = (facts.frames - 1) / fps
    # Not only by rate: over a long file a small difference adds up to frames.
    even = same_length(facts.last_seconds, lasts) and abs(facts.last_seconds - lasts) < 0.5 / fps
    if stretch.whole:
        if even and facts.frames == length:
            return np.arange(length) / fps
        return _whole_file(stretch.video, length, fps=fps, read_times=read_times)
    end = min(stretch.end, stretch.start + length / fps) - 1 / fps
    if facts.last_seconds < end - 0.5 / fps:
        problem = f"its last frame is at {facts.last_seconds:.2f} s, the episode's at {end:.2f} s"
        raise DataError(stretch.video, problem)
    if even:
        first, stop = (int(np.floor(seconds * fps + 0.5)) for seconds in (stretch.start, stretch.end))
        if stop - first == length and stop <= facts.frames:
            return np.arange(first, stop) / fps
    times = read_times(stretch.video)
    first, stop = np.searchsorted(times, np.array([stretch.start, stretch.end]) - 0.5 / fps)
    if stop - first != length:
        _refuse_count(stretch.video, times, fps, frames=int(stop - first), rows=length)
    found: Times = times[first:stop]
    _check_rate(stretch.video, found, fps)
    return found


def _whole_file(video: Path, length: int, *, fps: float, read_times: Callable[[Path], Times]) -> Times:
    times = read_times(video)
    if len(times) != length:
        _refuse_count(video, times, fps, frames=len(times), rows=length)
    _check_rate(video, times, fps)
    return times


def _refuse_count(video: Path, times: Times, fps: float, *, frames: int, rows: int) -> None:
    if len(times) > 1 and not same_length(float(np.median(np.diff(times))), 1 / fps):
        _refuse_rate(video, times, fps)
    drift = f"a drift of {abs(frames - rows) / fps:.2f} s"
    raise DataError(video, f"{frames} frames for {rows} rows, {drift}", "download it again, or convert it again")


def _check_rate(video: Path, times: Times, fps: float) -> None:
    if not same_length(float(times[-1] - times[0]), (len(times) - 1) / fps):
        _refuse_rate(video, times, fps)


def _refuse_rate(video: Path, times: Times, fps: float) -> None:
    rate = (len(times) - 1) / float(times[-1] - times[0])
    raise DataError(video, f"its frames run at {rate:.4g} a second, info.json says {fps:g} fps", _RATE)
