"""The labels of some episodes, drawn beside their pictures: one video per episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stcr_plugin.report.progress_video import DrawnCurve, write_overlay
from stcr_plugin.robotics.label_files import ANCHORS, PROGRESS, read_anchors, read_progress
from stcr_plugin.robotics.labelled_data import LabelledData, wanted


def overlays(given: LabelledData, out: Path, names: Sequence[str]) -> Iterator[Path]:
    """Write stcr_progress_<episode>.mp4 for each episode into the folder `out`, which has the labels.

    Raises:
        ConfigError: No such episode.
        DataError: The labels or a picture cannot be read.
    """
    data = given.opened()
    chosen = dict(wanted(data.listed()[0], names, "--video"))
    curves = {one.episode_index: one for one in read_progress(out / PROGRESS) if one.episode_index in chosen}
    anchors = [one for one in read_anchors(out / ANCHORS) if one.episode_index in chosen]
    for number, episode in chosen.items():
        own = [one for one in anchors if one.episode_index == number]
        drawn = DrawnCurve(
            title=f"{episode.episode_id}: {episode.task or episode.segments[0].task}",
            fps=episode.fps,
            progress=[float(value) for value in curves[number].progress],
            anchors=[one.frame_index for one in own],
            disagreement=[one.disagreement for one in own],
        )
        path = out / f"stcr_progress_{episode.episode_id}.mp4"
        write_overlay(path, data.source.frames(episode, range(episode.n_frames)), drawn)
        yield path
