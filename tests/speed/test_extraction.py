"""How fast videos become stored pictures, against bare decoding and against the way that the STCR authors went.

All three take every tenth frame of the same videos of a real robot (AV1, a key frame at every second frame, as
LeRobot records), one after the other in turns, in one process with one decoder thread: a build runs a process a core.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_stage import REPOSITORY

from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.pairs import PairRules
from stcr_plugin.registry import parquet, picture_store, shards
from stcr_plugin.registry.data_config import DataConfig, FrameRules
from stcr_plugin.registry.receipts import Context, Place, Shard
from stcr_plugin.splits import SplitRule
from stcr_plugin.types import Episode

REAL = Path(os.environ.get("STCR_REAL_DATA", REPOSITORY.parent / "shared/real")) / "g1_pick_bottle"
CAMERA = "observation.images.cam_high"
EVERY = 10
EPISODES = int(os.environ.get("STCR_BENCH_EPISODES", "6"))
ROUNDS = int(os.environ.get("STCR_BENCH_ROUNDS", "5"))
# What recipes/data/g1_pick_bottle.yaml stores for the embedded model, and what a large one sees in 256 tokens.
SIZES = {
    "": FrameRules(crop=(0.25, 0, 1, 1), width=84, height=84),
    "_256_tokens": FrameRules(max_pixels=256 * 28 * 28, format="jpeg"),
}

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not at {REAL} (set STCR_REAL_DATA)"),
]


@pytest.mark.parametrize("size", SIZES)
def test_extraction_speed(size: str, report: Callable[..., None], tmp_path: Path) -> None:
    """value of all three: frames/s of the build's picture step (decode, crop, resize, encode, hash, write, index).

    baseline of extract_vs_bare_decode: those of PyAV alone, to RGB arrays, by the quicker of two ways, which is
    seeking to each frame where key frames are dense; of extract_vs_sequential_decode: by the slower, reading all
    frames and keeping every tenth; of extract_vs_sequential_jpeg: those of `_sequential_jpeg`.
    """
    config = _config(SIZES[size])
    source = LeRobotSource(config.source)
    episodes = tuple(item for item in source.episodes() if isinstance(item, Episode))[:EPISODES]
    shard = Shard(0, "train", episodes)
    drawn = tmp_path / "drawn"
    shards.draw(Context(config, source, Place(tmp_path, drawn, "frames")), shard)
    videos = {
        episode.episode_id: REAL / f"videos/chunk-000/{CAMERA}/episode_{episode.episode_id}.mp4" for episode in episodes
    }
    # As the authors count: of 393 frames, 39 are taken, from 0 to 380.
    wanted = {episode.episode_id: [k * EVERY for k in range(episode.n_frames // EVERY)] for episode in episodes}
    frames = sum(map(len, wanted.values()))

    def ours(folder: Path) -> None:
        shutil.copytree(drawn, folder / "staging")
        shards.picture(Context(config, source, Place(folder, folder / "staging", "frames")), shard)

    ways: dict[str, Callable[[Path], object]] = {
        "ours": ours,
        "seeking": lambda folder: [_seeking(video, wanted[name], source.fps) for name, video in videos.items()],
        "reading": lambda folder: [_reading(video, len(wanted[name])) for name, video in videos.items()],
        "jpeg": lambda folder: [
            _sequential_jpeg(video, len(wanted[name]), folder / name) for name, video in videos.items()
        ],
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, way in ways.items():
            folder = tmp_path / f"{name}{round_}"
            folder.mkdir()
            began = time.perf_counter()
            way(folder)
            if round_:  # the first one warms the disk's cache and the imports
                speeds[name].append(frames / (time.perf_counter() - began))
            if round_ < ROUNDS:
                shutil.rmtree(folder)
    assert len(list((tmp_path / f"jpeg{ROUNDS}").rglob("*.jpg"))) == frames
    _check_same_pictures(config, tmp_path / f"ours{ROUNDS}", videos, wanted, source.fps)

    medians = {name: statistics.median(figures) for name, figures in speeds.items()}
    slower, quicker = sorted([medians["seeking"], medians["reading"]])
    report(f"extract_vs_bare_decode{size}", medians["ours"], "frames/s", quicker)
    report(f"extract_vs_sequential_decode{size}", medians["ours"], "frames/s", slower)
    report(f"extract_vs_sequential_jpeg{size}", medians["ours"], "frames/s", medians["jpeg"])
    assert medians["ours"] > medians["jpeg"]


def test_where_the_time_of_a_jpeg_goes(report: Callable[..., None]) -> None:
    """Milliseconds of processor time a frame of each part, and how far (PSNR in dB over all frames) the pictures that
    FFmpeg's scaler shrinks (bicubic), and those that JPEG gives back, are from the ones that a build shrinks.
    """
    from av.video.reformatter import Interpolation

    rules = SIZES["_256_tokens"]
    videos = sorted(REAL.glob(f"videos/chunk-000/{CAMERA}/*.mp4"))[: EPISODES // 2]
    taken: dict[str, list[float]] = {}

    def timed(part: str, do: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = do()
        taken.setdefault(part, []).append(time.process_time() - began)
        return made

    errors: dict[str, list[float]] = {"scaler": [], "jpeg": []}
    for video in videos:
        for frame in _seek(video, [k * EVERY for k in range(30)], timed):
            full = timed("rgb", lambda frame=frame: frame.to_ndarray(format="rgb24"))
            size = picture_store._size((frame.width, frame.height), rules)
            image = Image.fromarray(full)
            small = timed(
                "shrink", lambda image=image, size=size: image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
            )
            file = timed("encode", lambda small=small: picture_store.encode(np.asarray(small), rules))
            other = timed(
                "scaler",
                lambda frame=frame, size=size: frame.reformat(
                    *size, format="rgb24", interpolation=Interpolation.BICUBIC
                ).to_ndarray(),
            )
            shrunk = np.asarray(small, dtype=np.float64)
            stored = np.asarray(picture_store.decode(file, ""))
            for name, made in (("scaler", other), ("jpeg", stored)):
                errors[name].append(float(np.mean((made - shrunk) ** 2)))
    for part, seconds in taken.items():
        report(f"extract_jpeg_{part}_ms", 1000 * statistics.mean(seconds), "ms", None)
    for name, squares in errors.items():
        report(f"extract_jpeg_{name}_psnr", 10 * float(np.log10(255**2 / np.mean(squares))), "dB", None)


def _seek(video: Path, frames: list[int], timed: Callable[..., Any]) -> Iterator[Any]:
    """The frames as the decoder gives them."""
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in frames:
            due = round(frame / float(stream.average_rate) / stream.time_base)

            def found(due: int = due) -> Any:
                container.seek(due, stream=stream)
                return next(shown for shown in container.decode(stream) if shown.pts >= due)

            yield timed("decode", found)


def _config(frames: FrameRules) -> DataConfig:
    """Pairs of neighbours, EVERY frames apart: with them every tenth frame is wanted, and few pairs are counted."""
    return DataConfig(
        name="bench",
        source=LeRobotConfig(root=str(REAL), camera=CAMERA, threads=1),
        splits={"train": SplitRule(fraction=1.0)},
        frames=frames,
        pairs=PairRules(per_episode=1000, stride=EVERY, min_frames=EVERY, max_frames=EVERY),
        on_bad_data="error",
    )


def _check_same_pictures(
    config: DataConfig, registry: Path, videos: Mapping[str, Path], wanted: Mapping[str, list[int]], fps: float
) -> None:
    """Every picture that was stored is the one that seeking finds, encoded by the same rules."""
    rows = list(parquet.read(registry / "staging" / "frames" / "00000.parquet"))
    assert [(row["episode_id"], row["frame"]) for row in rows] == [
        (name, frame) for name, listed in wanted.items() for frame in listed
    ]
    found = [picture for name, video in videos.items() for picture in _seeking(video, wanted[name], fps)]
    for row, picture in zip(rows, found, strict=True):
        assert picture_store.read(registry, row["image"]) == picture_store.encode(picture, config.frames)


def _seeking(video: Path, frames: list[int], fps: float) -> list[np.ndarray]:
    import av

    found = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in frames:
            due = round(frame / fps / stream.time_base)
            container.seek(due, stream=stream)
            shown = next(shown for shown in container.decode(stream) if shown.pts >= due)
            found.append(shown.to_ndarray(format="rgb24"))
    return found


def _reading(video: Path, count: int) -> list[np.ndarray]:
    import av

    with av.open(str(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        shown = itertools.islice(container.decode(video=0), 0, count * EVERY, EVERY)
        return [frame.to_ndarray(format="rgb24") for frame in shown]


def _sequential_jpeg(video: Path, count: int, folder: Path) -> None:
    """The STCR authors' way: read all frames, write every tenth as JPEG of full size, move it, delete the rest.

    Only the tenth are turned into RGB and written at all, which is to the baseline's favour.
    """
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    for number, picture in enumerate(_reading(video, count)):
        Image.fromarray(picture).save(scratch / f"{number * EVERY:06d}.jpg", quality=95)
    for path in sorted(scratch.iterdir()):
        shutil.move(path, folder / path.name)
    shutil.rmtree(scratch)
