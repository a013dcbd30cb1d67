"""meta/info.json of a LeRobot dataset, of format v2.x or v3.x: frame rate, features, cameras and path templates.

Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3 and, for v2.1, the `meta/` files themselves.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import read_json
from stcr_plugin.episodes.lerobot_cameras import choose_camera
from stcr_plugin.episodes.recordings import inside_download
from stcr_plugin.episodes.stored_values import is_empty, number, shown, single, whole
from stcr_plugin.errors import DataError

_REPAIR = "correct it, or give a LeRobot dataset that is not damaged"
_RATES = (0.01, 10_000.0)  # frames per second that can be meant
_CHUNK = 1000  # episodes of a chunk where info.json does not say
_FORMAT = re.compile(r"(?:0?\d{0,2})d?")  # of a field of a path: a width below a hundred, zeros before
_WIDEST = 20
_LONGEST_PATH, _LONGEST_NAME = 1000, 255
_DEEPEST = 8  # lists inside each other of a vector's names


class Meta:
    """meta/info.json.

    Attributes:
        root: Folder of the dataset.
        path: Its info.json.
        features: Feature name -> its entry in info.json.
        camera: Name of the camera that is used.
        shares_files: Whether several episodes are in one file (v3).
        chunk_size: Episodes in a folder of v2.
    """

    def __init__(self, root: Path, camera: str | None) -> None:
        """Raises DataError where info.json cannot be used, ConfigError for an unknown camera or one without colour."""
        self.root, self.path = root, root / "meta/info.json"
        if not self.path.is_file():
            problem = "not a LeRobot dataset, meta/info.json is missing"
            raise DataError(root, problem, "give the folder that holds meta/")
        info = read_json(self.path)
        try:
            if not isinstance(info, dict):
                raise ValueError(f"expected a mapping, found {shown(info)}")
            self.shares_files = _major_version(info) == "3"
            self.fps = number("fps", info.get("fps"))
            if not _RATES[0] <= self.fps <= _RATES[1]:
                raise ValueError(f"its fps {self.fps:g} is not between {_RATES[0]:g} and {_RATES[1]:g}")
            chunk = single(info.get("chunks_size"))
            self.chunk_size = _CHUNK if is_empty(chunk) else whole("chunks_size", chunk, least=1)
            features = info.get("features")
            if not isinstance(features, dict):
                raise ValueError(f"its features are {shown(features)}, not a mapping")
        except ValueError as error:
            raise DataError(self.path, str(error), _REPAIR) from None
        self.features: dict[str, dict[str, Any]] = {
            name: feature for name, feature in features.items() if isinstance(feature, dict)
        }
        self.camera = choose_camera(self.features, camera, self.path)
        self._folder = lru_cache(1024)(partial(inside_download, root))
        self._templates = {name: self._template(info, name) for name in ("data_path", *self._video_paths)}

    @property
    def in_videos(self) -> bool:
        """Whether the camera's pictures are in videos; otherwise each is stored in its row."""
        return bool(self.features[self.camera].get("dtype") == "video")

    @property
    def _video_paths(self) -> tuple[str, ...]:
        return ("video_path",) if self.in_videos else ()

    def width(self, feature: str) -> int:
        """How many values a feature has per frame. Raises DataError for a shape that is not one."""
        shape = self.features[feature].get("shape")
        sizes = shape if isinstance(shape, list) else [1 if shape is None else shape]
        try:
            return math.prod(whole(f"shape of {feature}", size) for size in sizes[:_DEEPEST])
        except ValueError as error:
            raise DataError(self.path, str(error), _REPAIR) from None

    def names(self, feature: str) -> list[str]:
        """The names of a vector's values, whether info.json has them flat, nested, or as a mapping."""
        return _flat_names(self.features[feature].get("names"))

    def file(self, template: str, values: Mapping[str, Any]) -> Path:
        """A path template of info.json filled in. Raises DataError for a path that leaves the root or cannot be one."""
        relative = self._templates[template].format(**values)
        parts = relative.split("/")
        if len(relative) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
            raise DataError(self.path, f"the path that {template} gives is too long", _REPAIR)
        folder, _, name = relative.rpartition("/")
        path = self._folder(folder) / name
        # Only a link can lead elsewhere than its folder, and a hundred thousand paths take long to follow.
        return inside_download(self.root, relative) if name in ("", ".", "..") or path.is_symlink() else path

    def _template(self, info: Mapping[str, Any], name: str) -> str:
        """A path template, checked once: plain fields that are known, of a bounded width."""
        text = single(info.get(name))
        try:
            if not isinstance(text, str):
                raise ValueError("it is not text")
            if not (text + self.camera).isprintable():
                raise ValueError("it holds a character that no path has")
            known = {"video_key": "", **dict.fromkeys(("episode_index", "episode_chunk", "chunk_index"), 0)}
            known |= {"file_index": 0} if self.shares_files else {}
            for _, field, form, conversion in string.Formatter().parse(text[: _LONGEST_PATH + 1]):
                if field is None:
                    continue
                if field not in known:
                    raise ValueError(f"it has the field {field[:40]!r}; known are {sorted(known)}")
                if conversion or not _FORMAT.fullmatch(form or "") or int(re.sub(r"\D", "", form or "") or 0) > _WIDEST:
                    raise ValueError(f"the field {field!r} has the format {form!r}; use one like :06d")
            text.format(**known)
            return text
        except ValueError as error:
            problem = f"the template {name} = {shown(text)} cannot be filled in: {error}"
            raise DataError(self.path, problem, _REPAIR) from None


def _major_version(info: Mapping[str, Any]) -> str:
    version = str(single(info.get("codebase_version")))[:20]
    found = re.fullmatch(r"v?([23])(?:\..*)?", version)
    if not found:
        raise ValueError(f"codebase_version {version!r}; versions 2 and 3 can be read, convert it by LeRobot's script")
    return found[1]


def _flat_names(names: Any, depth: int = 0) -> list[str]:
    if depth > _DEEPEST:
        return []
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):  # name -> index
            return sorted(names, key=lambda name: int(names[name]))
        names = list(names.values())
    if isinstance(names, list):
        return [name for entry in names for name in _flat_names(entry, depth + 1)]
    return [] if names is None else [str(names)]
