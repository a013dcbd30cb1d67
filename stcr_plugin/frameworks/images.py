"""Pictures of training samples, in whatever form a dataset carries them: their names, and their pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stcr_plugin.errors import DataError
from stcr_plugin.frameworks.numbering import opened
from stcr_plugin.registry import picture_store


def picture_name(image: Any) -> str:
    """The path of a picture, or its position in a tar file; of one that has neither, a digest."""
    if isinstance(image, Mapping):
        image = image.get("path") or image["bytes"]
    if isinstance(image, str):
        return image
    if named := getattr(image, "filename", None):
        return str(named)
    data = image if isinstance(image, bytes) else image.tobytes()
    return f"a picture without a path, sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def decoded(image: Any, media_dir: str | Path) -> Any:
    """A picture in any form that datasets carry (path, position in a tar, bytes, dict, PIL), decoded to its last byte.

    It keeps its name as `filename`. Raises DataError naming it.
    """
    if hasattr(image, "load"):
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(getattr(image, "filename", "a picture"), f"cannot be decoded ({error})") from None
        return image
    name, data = picture_name(image), opened(_data(image), media_dir)
    if isinstance(data, str):
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise DataError(name, f"cannot be read ({error.strerror})") from None
    picture: Any = picture_store.decode(data, name) if isinstance(data, bytes) else data
    picture.filename = name
    return picture


def stand_in(image: Any) -> Any:
    """A grey picture instead of one that cannot be decoded, of its size where its header still says it.

    So a sample can be tokenised before another one replaces it.
    """
    from PIL import Image

    data = _data(image)
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as header:
            size = header.size
    except (OSError, ValueError, SyntaxError):
        size = (56, 56)
    return Image.new("RGB", size, (128, 128, 128))


def _data(image: Any) -> Any:
    return (image["path"] if image.get("bytes") is None else image["bytes"]) if isinstance(image, Mapping) else image
