"""Which features of a LeRobot dataset are cameras, and which of those show colour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin.config import nearest
from stcr_plugin.episodes.recordings import COLOUR_WORDS, named_as, words_of
from stcr_plugin.episodes.stored_values import single
from stcr_plugin.errors import ConfigError, DataError

STORED_AS = ("video", "image")  # dtypes of cameras: a video file, or a picture in each row
_GREY, _SENSOR = "of one grey channel", "by its name of another sensor"
_SENSORS = frozenset({"tactile", "gelsight", "infrared", "infra", "ir", "thermal", "heatmap", "flow", "normals"})
_RENAME = "rename it in info.json and its folders of videos, if it does show colour"


def choose_camera(features: Mapping[str, Mapping[str, Any]], wanted: str | None, path: Path) -> str:
    """The camera to use: `wanted`, or the first that shows colour, videos before single pictures.

    Raises ConfigError for an unknown camera and for a depth map or masks, DataError where there is no camera.
    """
    cameras = [name for dtype in STORED_AS for name, feature in features.items() if feature.get("dtype") == dtype]
    if not cameras:
        raise DataError(path, "no feature of dtype video or image", "give a dataset with a camera")
    colour = [name for name in cameras if not why_not_colour(name, features[name])]
    if wanted is None:
        if not colour:
            listed = ", ".join(f"{name} is {why_not_colour(name, features[name])}" for name in cameras)
            usable = [name for name in cameras if why_not_colour(name, features[name]) in (_GREY, _SENSOR)]
            fix = f"set source.camera, such as to {usable[0]}" if usable else _RENAME
            raise ConfigError(path, f"no camera shows colour: {listed}", fix)
        return colour[0]
    if wanted not in cameras:
        raise ConfigError(path, f"no camera {wanted!r}, {nearest(wanted, cameras)}")
    reason = why_not_colour(wanted, features[wanted])
    if reason not in ("", _GREY, _SENSOR):
        raise ConfigError(path, f"the camera {wanted!r} is {reason}, not colour pictures", _instead(colour))
    return wanted


def why_not_colour(name: str, feature: Mapping[str, Any] | None = None) -> str:
    """What the pictures of a camera are if not colour, by its entry in info.json and its name; "" for colour."""
    feature = feature or {}
    parts = [part for part in (feature, feature.get("video_info"), feature.get("info")) if isinstance(part, Mapping)]

    def stated(key: str) -> set[str]:
        named = (part[name] for part in parts for name in (key, f"video.{key}") if name in part)
        return {str(single(value)).lower() for value in named if not isinstance(value, Mapping)}

    pixels = stated("pix_fmt")
    if stated("is_depth_map") & {"true", "1"} or any(re.match(r"gray(9|1\d)", form) for form in pixels):
        return "a depth map"
    if named := named_as(name):
        return named
    words = words_of(name)
    if words & _SENSORS and not words & COLOUR_WORDS:
        return _SENSOR
    shape = feature.get("shape")
    one_plane = isinstance(shape, list) and len(shape) == 3 and 1 in (shape[0], shape[2])
    grey = one_plane or "1" in stated("channels") or any(form.startswith("gray") for form in pixels)
    return _GREY if grey else ""


def _instead(colour: Sequence[str]) -> str:
    return f"choose one of: {', '.join(colour)}" if colour else _RENAME
