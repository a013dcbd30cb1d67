"""Small real LeRobot datasets, v2.1 and v3.0, with real mp4 files whose every picture shows its own number.

Each picture carries a bar code of 12 black or white blocks: episode * 256 + frame. So a test can tell which frame it
was given by looking at it, without trusting any reader.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAMERA = "observation.images.head"
TASK = "put the cup on the shelf"
NAMES = ["kLeftElbow", "kLeftWrist", "kRightElbow", "kRightWrist", "kRightGripper"]
WIDTH, HEIGHT, BLOCK, BITS = 96, 64, 16, 12

LONG_GOP = {"g": "40", "bf": "3", "b_strategy": "0", "sc_threshold": "0"}
OPEN_GOP = {"g": "10", "bf": "3", "b_strategy": "0", "x264-params": "open-gop=1:scenecut=0"}
SHORT_GOP = {"g": "2", "bf": "0"}
CODECS: dict[str, tuple[str, Mapping[str, str]]] = {
    "h264 long": ("libx264", LONG_GOP),
    "h264 open": ("libx264", OPEN_GOP),
    "h264 short": ("libx264", SHORT_GOP),
    "av1": ("libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
}


def picture(episode: int, frame: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The numbered picture [HEIGHT, WIDTH, 3], with a stripe that wanders so that frames depend on each other."""
    pixels = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    pixels[2 * BLOCK :, (3 * frame) % WIDTH :][:, :10] = (200, 90, 40)
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        value = 255 * ((episode * 256 + frame) >> bit & 1)
        pixels[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = value
    return pixels


def number(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, int]:
    """(episode, frame) read off a picture."""
    code = 0
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        block = pixels[row * BLOCK + 4 : (row + 1) * BLOCK - 4, column * BLOCK + 4 : (column + 1) * BLOCK - 4]
        code |= int(block.mean() > 128) << bit
    return divmod(code, 256)


def write_video(path: Path, shots: Sequence[tuple[int, int]], codec: str, fps: int, faststart: bool = False) -> None:
    """One mp4 of the episodes `shots` = (episode, frames) one after the other; `codec` is a key of CODECS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_video(tuple(shots), codec, fps, faststart))


@cache  # the same few videos are asked for again and again
def _video(shots: Sequence[tuple[int, int]], codec: str, fps: int, faststart: bool) -> bytes:
    name, options = CODECS[codec]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
            stream = container.add_stream(name, rate=fps, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.codec_context.thread_count = 1
            for episode, frames in shots:
                for frame in range(frames):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(episode, frame), format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()


def write_timed(path: Path, episode: int, seconds: Sequence[float], codec: str = "h264 long") -> None:
    """An mp4 whose frame i is shown at seconds[i], to the millisecond."""
    name, options = CODECS[codec]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=1000, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for number_of_frame, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(picture(episode, number_of_frame), format="rgb24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def edit_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Give columns of a parquet file other values; None takes a column away."""
    table = pq.read_table(path, partitioning=None)
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        if position >= 0:
            table = table.remove_column(position)
        if values is not None:
            table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    _write_parquet(path, table)


def store_pictures(root: Path, shape: str = "bytes") -> Path:
    """Turn the camera of a written dataset into single pictures, one in each row, as LeRobot does without videos."""
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA] |= {"dtype": "image"}
    info["video_path"] = None
    (root / "meta/info.json").write_text(json.dumps(info))
    shutil.rmtree(root / "videos")
    for path in sorted(root.glob("data/**/*.parquet")):
        rows = pq.read_table(path, columns=["episode_index", "frame_index"], partitioning=None).to_pylist()
        pictures = []
        for row in rows:
            data, episode, frame = io.BytesIO(), row["episode_index"], row["frame_index"]
            Image.fromarray(picture(episode, frame)).save(data, "PNG")
            name = f"images/{CAMERA}/episode_{episode:06d}/frame_{frame:06d}.png"
            if shape == "path":
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data.getvalue())
            stored = {"bytes": None if shape == "path" else data.getvalue(), "path": name}
            pictures.append(data.getvalue() if shape == "binary" else stored)
        edit_parquet(path, {CAMERA: pictures})
    for path in root.glob("meta/episodes/**/*.parquet"):
        names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        edit_parquet(path, {f"videos/{CAMERA}/{name}": None for name in names})
    return root


def write_frameless(path: Path) -> None:
    """An mp4 as a recorder leaves it that is killed before its first frame: a header and no packet."""
    with av.open(str(path), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1, 0), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])


def vectors(frames: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """States [frames, 5]: the left arm never moves; the right one rests for a fifth at either end and sweeps 2 rad
    between; the gripper closes (100 -> 0) in the middle of that, and opens again at its end."""
    clock = np.linspace(0, 1, frames)
    sweep = np.clip((clock - 0.2) / 0.6, 0, 1)
    grip = np.where((sweep > 0.4) & (sweep < 0.9), 0.0, 100.0)
    return np.stack([np.full(frames, 0.3), np.full(frames, -0.2), 2 * sweep, 0 * clock, grip], axis=1)


@dataclass
class Layout:
    """What to write. `extra` columns go into the rows of every episode: name -> values by frame index."""

    lengths: Sequence[int] = (30, 41, 24)
    codec: str = "h264 long"
    fps: int = 10
    names: Any = field(default_factory=lambda: [list(NAMES)])
    subtasks: Sequence[str] = ()


def write_v21(root: Path, layout: Layout, rows: Mapping[int, Mapping[str, Any]] | None = None) -> Path:
    """One parquet and one mp4 an episode. `rows` adds keys to the lines of meta/episodes.jsonl by episode."""
    templates = (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    _write_info(root, "v2.1", templates, layout)
    lines = []
    for episode, frames in enumerate(layout.lengths):
        chunk, name = f"chunk-{episode // 2:03d}", f"episode_{episode:06d}"
        write_video(root / "videos" / chunk / CAMERA / f"{name}.mp4", [(episode, frames)], layout.codec, layout.fps)
        _write_rows(root / "data" / chunk / f"{name}.parquet", [(episode, frames)], layout)
        lines.append({"episode_index": episode, "tasks": [TASK], "length": frames, **(rows or {}).get(episode, {})})
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n")
    return root


def write_v30(root: Path, layout: Layout, per_file: int = 2) -> Path:
    """`per_file` episodes share one parquet and one mp4 file."""
    templates = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    _write_info(root, "v3.0", templates, layout)
    episodes = list(enumerate(layout.lengths))
    rows = []
    for number_of_file, first in enumerate(range(0, len(episodes), per_file)):
        shots, name = episodes[first : first + per_file], f"chunk-000/file-{number_of_file:03d}"
        write_video(root / "videos" / CAMERA / f"{name}.mp4", shots, layout.codec, layout.fps)
        _write_rows(root / "data" / f"{name}.parquet", shots, layout)
        begin = 0
        for episode, frames in shots:
            row = {"episode_index": episode, "tasks": [TASK], "length": frames}
            row |= {"data/chunk_index": 0, "data/file_index": number_of_file}
            row |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": number_of_file}
            first = sum(layout.lengths[:episode])
            row |= {"dataset_from_index": first, "dataset_to_index": first + frames}
            row |= {f"videos/{CAMERA}/from_timestamp": begin / layout.fps}
            row |= {f"videos/{CAMERA}/to_timestamp": (begin + frames) / layout.fps}
            rows.append(row)
            begin += frames
    _write_parquet(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    _write_parquet(root / "meta/tasks.parquet", pa.table({"task_index": [0], "__index_level_0__": [TASK]}))
    if layout.subtasks:
        table = pa.table({"subtask_index": range(len(layout.subtasks)), "subtask": list(layout.subtasks)})
        _write_parquet(root / "meta/subtasks.parquet", table)
    return root


def _write_info(root: Path, version: str, templates: tuple[str, str], layout: Layout) -> None:
    scalars = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    scalars += ["subtask_index"] if layout.subtasks else []
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [len(NAMES)], "names": layout.names},
        CAMERA: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channel"]},
    }
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in scalars}
    info = {"codebase_version": version, "fps": layout.fps, "chunks_size": 2, "features": features}
    info |= {"data_path": templates[0], "video_path": templates[1]}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))


def _write_rows(path: Path, shots: Sequence[tuple[int, int]], layout: Layout) -> None:
    """Frames of several episodes in one file; the subtasks share an episode evenly, its last four frames have none."""
    tables = []
    for episode, frames in shots:
        columns: dict[str, Any] = {
            "observation.state": pa.array(vectors(frames).astype(np.float32).tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(frames) / layout.fps, pa.float32()),
            "frame_index": range(frames),
            "episode_index": [episode] * frames,
            "index": range(sum(layout.lengths[:episode]), sum(layout.lengths[:episode]) + frames),
            "task_index": [0] * frames,
        }
        if layout.subtasks:
            share = (frames - 4) // len(layout.subtasks)
            spread = [min(frame // share, len(layout.subtasks) - 1) for frame in range(frames - 4)]
            columns["subtask_index"] = spread + [-1] * 4
        tables.append(pa.table(columns))
    _write_parquet(path, pa.concat_tables(tables))


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
