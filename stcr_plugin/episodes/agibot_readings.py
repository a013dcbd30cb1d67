"""proprio_stats.h5 of AgiBot World: the robot's own readings, as vectors of which the speed says how much moves."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

import numpy as np

from stcr_plugin.artefacts import LFS_START, refuse_lfs_pointer
from stcr_plugin.episodes import archive
from stcr_plugin.episodes.archive import Slice
from stcr_plugin.episodes.proprioception import Vectors
from stcr_plugin.episodes.recordings import check_finite
from stcr_plugin.episodes.video_file import Video
from stcr_plugin.errors import DataError

_GRIPPER = 100.0  # mm of opening that count as much as 1 rad of a joint
_WIDEST = 64  # values per frame; the widest published vector has 14
_ELSEWHERE = "files that refer to others are not read"


def read_vectors(readings: Video, n_frames: int) -> Vectors:
    """What moves of the robot, [n_frames, D]: joints and waist (rad, m), grippers (100 mm) or fingers (rad / sqrt 6).

    Raises:
        DataError: For a file that is damaged, has not one row per frame, or refers to other files.
    """
    h5py = importlib.import_module("h5py")
    where = str(readings)
    try:
        with ExitStack() as stack:
            file = archive.opened(readings) if isinstance(readings, Slice) else readings.open("rb")
            data = stack.enter_context(h5py.File(stack.enter_context(file), "r"))
            joints, waist, effector = (
                _table(data, f"state/{part}/position", n_frames) for part in ("joint", "waist", "effector")
            )
    except DataError as error:
        raise DataError(f"{where}, {error.where}", error.problem, error.fix) from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        with archive.opened(readings) if isinstance(readings, Slice) else readings.open("rb") as file:
            refuse_lfs_pointer(where, file.read(LFS_START))
        raise DataError(where, f"cannot be read as HDF5 ({error})", "download it again") from None
    if not joints.shape[1]:
        raise DataError(where, "has no state/joint/position", "download it again")
    effector /= _GRIPPER if effector.shape[1] == 2 else np.sqrt(6)
    return check_finite(np.concatenate([joints, waist, effector], axis=1), where)


def _table(data: Any, name: str, n_frames: int) -> Vectors:
    """A data set [n_frames, D] of the open file, or [n_frames, 0] where it is absent or empty."""
    h5py = importlib.import_module("h5py")
    for part in name.split("/"):
        link = data.get(part, getlink=True) if isinstance(data, h5py.Group) else None
        if link is None:
            return np.empty((n_frames, 0))
        if not isinstance(link, h5py.HardLink):
            raise DataError(name, f"is a link; {_ELSEWHERE}")
        data = data[part]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(name, f"holds no data of its own; {_ELSEWHERE}")
    if data.shape and data.shape[0] == 0:
        return np.empty((n_frames, 0))
    if len(data.shape) != 2 or data.shape[0] != n_frames or data.shape[1] > _WIDEST:
        raise DataError(name, f"has the shape {data.shape} for a video of {n_frames} frames")
    return np.asarray(data[()], dtype=np.float64)
