"""Small AgiBot World datasets with real videos, in every layout that copies of it have: unpacked, or in tars.

The pictures are the numbered ones of lerobot_dataset, so a test sees by looking at one which frame it was given.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lerobot_dataset as made
import numpy as np

CAMERA = "head_color"
TASK_NAME = "Pickup items in the supermarket"
FPS = 30
LAYOUTS = ("unpacked", "without videos folder", "folder of a range", "tar of a range", "tar an episode")


@dataclass(frozen=True)
class Demo:
    """One episode: its id, how many frames its video has and which number its pictures carry."""

    number: int
    frames: int
    code: int
    actions: Sequence[Any] = ()
    marks: Sequence[Any] | None = None
    labels: str = "label_info"

    def entry(self) -> dict[str, Any]:
        labels: dict[str, Any] = {"action_config": list(self.actions)}
        if self.marks is not None:
            labels["key_frame"] = list(self.marks)
        scene = "The robot stands before the shelf."
        return {
            "episode_id": self.number,
            self.labels: labels,
            "task_name": TASK_NAME,
            "init_scene_text": scene,
        }


def action(text: str, start: Any, end: Any) -> dict[str, Any]:
    return {"start_frame": start, "end_frame": end, "action_text": text, "skill": text.split()[0] if text else ""}


RETRIEVE, PLACE = "Retrieve cucumber from the shelf.", "Place the cucumber in the cart."
DEMOS: Mapping[int, Sequence[Demo]] = {
    327: (
        Demo(648642, 40, 1, (action(RETRIEVE, 2, 20), action(PLACE, 20, 40))),
        Demo(648649, 30, 2, (action(RETRIEVE, 0, 30),), labels="lable_info"),
    ),
    1030: (Demo(700001, 24, 3),),
}


@cache
def encoded(code: int, frames: int, codec: str = "h264 short", fps: int = FPS) -> bytes:
    """The bytes of an mp4 whose pictures carry (code, frame)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        made.write_video(path, [(code, frames)], codec, fps)
        return path.read_bytes()


def write(
    root: Path, layout: str = "unpacked", demos: Mapping[int, Sequence[Demo]] = DEMOS, codec: str = "h264 short"
) -> Path:
    """The dataset `demos`, task -> episodes, in one of LAYOUTS."""
    (root / "task_info").mkdir(parents=True)
    for task, episodes in demos.items():
        (root / f"task_info/task_{task}.json").write_text(json.dumps([demo.entry() for demo in episodes]))
        for demo in episodes:
            path = video_path(root, task, demo.number, layout)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(demo.code, demo.frames, codec))
            (path.parent / "hand_left_color.mp4").write_bytes(b"another camera")
        folder = root / f"observations/{task}"
        if layout == "tar of a range":
            pack(folder / f"{episodes[0].number}-{episodes[-1].number}.tar", folder)
        if layout == "tar an episode":
            for demo in episodes:
                pack(folder / f"{demo.number}.tar", folder / str(demo.number))
    return root


def video_path(root: Path, task: int, number: int, layout: str = "unpacked") -> Path:
    """Where an unpacked episode's video stands."""
    folder = root / f"observations/{task}"
    if layout == "folder of a range":
        folder /= "600000-799999"
    return folder / str(number) / ("" if layout == "without videos folder" else "videos") / f"{CAMERA}.mp4"


def pack(path: Path, folder: Path) -> Path:
    """Move everything in `folder` into the tar `path`, under the names that it has there, pictures of depth added."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".tar")
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(file, str(file.relative_to(folder)))
            add(archive, f"{file.parent.relative_to(folder)}/depth_{file.stem}.png", b"depth" * 200)
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
    if folder != path.parent:
        folder.rmdir()
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    """A member of whatever name and kind, as no honest packer writes it."""
    import io

    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data)
    archive.addfile(member, io.BytesIO(data))


def readings(frames: int, hands: int = 2) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """What proprio_stats.h5 holds: still for the first half, then one joint sweeps 1 rad at an even speed."""
    joints = np.zeros((frames, 14))
    joints[:, 9] = np.clip(np.linspace(-1, 1, frames), 0, 1)
    return {
        "state/joint/position": joints,
        "state/effector/position": np.full((frames, hands), 35.0),
        "state/waist/position": np.full((frames, 2), 0.3),
        "state/robot/position": np.zeros((0,)),
    }


def write_readings(path: Path, values: Mapping[str, Any]) -> Path:
    """A real HDF5 file; needs h5py."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value
    return path
