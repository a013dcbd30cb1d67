"""Which frame is which row, where time stamps are not the video's clock; and frame rates that contradict each other."""

from __future__ import annotations

import json

import lerobot_dataset as made
import numpy as np
import pyarrow as pa
import pytest

from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.types import Episode

STEPS = np.arange(30) / 10
META = "meta/episodes/chunk-000/file-000.parquet"


def read(root):
    """Episodes and exclusions; every picture of the episodes is looked at."""
    source = LeRobotSource(LeRobotConfig(str(root)))
    found = list(source.episodes())
    for episode in found:
        if isinstance(episode, Episode):
            numbers = [made.number(picture) for picture in source.frames(episode, range(episode.n_frames))]
            assert numbers == [(int(episode.episode_id), frame) for frame in range(episode.n_frames)]
    return found


def set_fps(root, fps):
    info = json.loads((root / "meta/info.json").read_text())
    info["fps"] = fps
    (root / "meta/info.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return made.write_v21(tmp_path_factory.mktemp("base") / "set", made.Layout(lengths=(30,)))


@pytest.fixture
def v21(tmp_path, single):
    """One episode of 30 frames at 10 fps."""
    made.shutil.copytree(single, tmp_path / "set")
    return tmp_path / "set"


STAMPS = {
    "wall clock": pa.array(1.7e9 + STEPS, pa.float64()),
    "epoch, which 32 bits cannot count": pa.array(1.7e9 + STEPS, pa.float32()),
    "milliseconds": pa.array(1000 * STEPS, pa.float32()),
    "epoch in milliseconds": pa.array(1.7e12 + 1000 * STEPS, pa.float64()),
    "nanoseconds": pa.array((1.7e18 + 1e9 * STEPS).astype(np.int64)),
    "dates": pa.array((1.7e15 + 1e6 * STEPS).astype(np.int64)).cast(pa.timestamp("us")),
    "a late start": pa.array(5 + STEPS, pa.float32()),
    "uneven": pa.array(STEPS + 0.03 * np.sin(np.arange(30)), pa.float64()),
    "lists of one": pa.array([[step] for step in STEPS]),
    "none": pa.nulls(30, pa.float32()),
}


@pytest.mark.parametrize("case", STAMPS)
def test_row_i_is_frame_i_whatever_its_time_stamps_count(v21, case):
    made.edit_parquet(v21 / "data/chunk-000/episode_000000.parquet", {"timestamp": STAMPS[case]})
    (episode,) = read(v21)
    assert episode.n_frames == 30


BAD_STAMPS = {
    "slower": (2 * STEPS, "its time stamps run at 5 a second, info.json says 10 fps"),
    "faster": (STEPS / 3, "its time stamps run at 30 a second, info.json says 10 fps"),
    "backwards": (STEPS[::-1], "do not ascend"),
    "one twice": (np.repeat(STEPS, 2)[:30] * 2, "do not ascend"),
    "all zero": (0 * STEPS, "do not ascend"),
    "a hole": (np.where(STEPS == 1.0, np.nan, STEPS), "its timestamp is empty in some rows"),
}


@pytest.mark.parametrize("case", BAD_STAMPS)
def test_time_stamps_that_contradict_the_frame_rate_or_the_order_are_named_when_listing(v21, case):
    stamps, reason = BAD_STAMPS[case]
    made.edit_parquet(v21 / "data/chunk-000/episode_000000.parquet", {"timestamp": pa.array(stamps, pa.float64())})
    (excluded,) = read(v21)
    assert reason in excluded.reason


VIDEOS = {
    "a late start": 3 + STEPS,
    "uneven": STEPS + 0.04 * np.sin(np.arange(30)),
    "uneven, more than half a frame": STEPS + 0.3 * np.sin(np.pi * np.arange(30) / 29),
    "29.97 for 30": 1.001 * STEPS,
    "a hundredth slower": 1.01 * STEPS,
}


@pytest.mark.parametrize("case", VIDEOS)
def test_row_i_is_frame_i_of_an_own_video_whatever_its_clock(v21, case):
    made.write_timed(v21 / f"videos/chunk-000/{made.CAMERA}/episode_000000.mp4", 0, VIDEOS[case])
    (episode,) = read(v21)
    assert episode.n_frames == 30


@pytest.mark.parametrize(
    ("fps", "words"), [(3.333, "10 a second, info.json says 3.333"), (30, "info.json says 30 fps")]
)
@pytest.mark.parametrize("stamps", ["with", "without"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0", "v3.0 without to_timestamp"])
def test_a_frame_rate_that_videos_and_time_stamps_contradict_is_named(tmp_path, fps, words, stamps, version):
    layout = made.Layout(lengths=(30, 20))
    root = (made.write_v21 if version == "v2.1" else made.write_v30)(tmp_path / "set", layout)
    set_fps(root, fps)
    if stamps == "without":
        for path in root.glob("data/*/*.parquet"):
            made.edit_parquet(path, {"timestamp": None})
    if version.endswith("to_timestamp"):
        made.edit_parquet(root / META, {f"videos/{made.CAMERA}/to_timestamp": None})
    found = list(_listed(root))
    assert found
    assert not any(isinstance(item, Episode) for item in found)
    if not version.endswith("to_timestamp"):
        assert words in str(found[0])


def _listed(root):
    from stcr_plugin.errors import DataError

    try:
        yield from LeRobotSource(LeRobotConfig(str(root))).episodes()
    except DataError as error:
        yield error


@pytest.mark.parametrize("frames", [28, 33])
def test_a_video_with_other_frames_than_rows_says_the_drift_when_listing(v21, frames):
    made.write_timed(v21 / f"videos/chunk-000/{made.CAMERA}/episode_000000.mp4", 0, np.arange(frames) / 10)
    (excluded,) = read(v21)
    drift = f"{frames} frames for 30 rows, a drift of {abs(frames - 30) / 10:.2f} s"
    assert drift in excluded.reason


def test_a_shared_video_of_a_slightly_other_rate_is_counted_frame_by_frame(tmp_path):
    """At 9.9 fps the second episode starts where its meta data say, in the video's own time."""
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(100, 90)))
    seconds = np.arange(190) / 9.985
    video = root / f"videos/{made.CAMERA}/chunk-000/file-000.mp4"
    _film(video, [(0, 100), (1, 90)], seconds)
    edges = {"from_timestamp": [0.0, 100 / 9.985], "to_timestamp": [100 / 9.985, 190 / 9.985]}
    made.edit_parquet(root / META, {f"videos/{made.CAMERA}/{name}": values for name, values in edges.items()})
    assert [item.episode_id for item in read(root)] == ["000000", "000001"]


def test_a_stretch_with_other_frames_than_rows_says_the_drift(tmp_path):
    """Three frames of the shared video were dropped: later times are those of other frames."""
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(30, 20)))
    seconds = np.delete(np.arange(50) / 10, [10, 11, 12])
    shots = [(0, frame) for frame in range(30) if not 10 <= frame <= 12] + [(1, frame) for frame in range(20)]
    _film(root / f"videos/{made.CAMERA}/chunk-000/file-000.mp4", shots, seconds, numbered=True)
    first, second = read(root)
    assert "27 frames for 30 rows, a drift of 0.30 s" in first.reason
    assert second.n_frames == 20


def _film(path, shots, seconds, numbered=False):
    """A video of pictures (episode, frame), or of whole episodes (episode, frames), at some times."""
    pictures = shots if numbered else [(episode, frame) for episode, frames in shots for frame in range(frames)]
    real = made.picture
    try:
        made.picture = lambda _, position: real(*pictures[position])
        made.write_timed(path, 0, seconds)
    finally:
        made.picture = real
