"""How fast the simulator renders, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.types import Episode


@pytest.mark.bench
def test_tabletop_frames_per_second(report: Callable[..., None], full: bool) -> None:
    source = TabletopSource(TabletopConfig(seen=30 if full else 1, heldout=0))
    episodes = [episode for episode in source.episodes() if isinstance(episode, Episode)]
    began = time.perf_counter()
    frames = sum(1 for episode in episodes for _ in source.frames(episode, range(0, episode.n_frames, 2)))
    seconds = time.perf_counter() - began
    assert frames > (500 if full else 10)
    report("tabletop_frames_per_second", frames / seconds, "frames/s", None)
