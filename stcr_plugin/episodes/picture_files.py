"""Folders of pictures, in the order in which they were taken, and pictures decoded whole."""

from __future__ import annotations

import itertools
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stcr_plugin.artefacts import inside
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})  # Pillow's, of 8 bits or fewer


def list_pictures(root: Path, path: Path) -> tuple[list[Path], tuple[int, int]]:
    """A folder's pictures in natural order, and the size (width, height) that they all have.

    Raises DataError where their names leave their order unclear, and for one that is empty, cannot be opened, has not
    8-bit colours, has another size or is a link out of root.
    """
    try:
        with os.scandir(path) as listing:
            entries = {
                entry.name: entry.is_symlink()
                for entry in listing
                if Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith(".")
            }
    except OSError as error:
        raise DataError(path, f"cannot be listed ({error.strerror})") from None
    if not entries:
        raise DataError(path, f"an empty folder, it holds none of {', '.join(sorted(SUFFIXES))}")
    files = [path / name for name in _in_order(list(entries), path)]
    for file in files:
        if entries[file.name]:
            followed(root, str(file))
    sizes = []
    for file in files:
        with _opened(file) as image:
            sizes.append(image.size)
        _check_size(file, sizes[-1], sizes[0])
    return files, sizes[0]


def followed(root: Path, relative: str) -> Path:
    """The path of `relative` under `root`. Raises DataError for one that leaves it, or that no system can follow."""
    try:
        path = inside(root, relative)
        path.exists()  # raises for a name that is too long and a folder that may not be entered
        return path
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        reason = getattr(error, "strerror", None) or error
        raise DataError(repr(relative), f"not a path that can be followed ({reason})") from None


def _in_order(names: list[str], path: Path) -> list[str]:
    """File names by the numbers in them, frame_2 before frame_10.

    Pictures in a wrong order would be learned as a wrong order, so it must be clear: names differ in their numbers
    alone, and it makes no difference whether 0.5 is read as one number or as two. Raises DataError otherwise.
    """
    alike: dict[str, str] = {}
    for name in sorted(names):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(path, f"the file name {name!r} is not UTF-8", "rename it") from None
        alike.setdefault(re.sub(r"\d+", "0", name).lower(), name)
    if len(alike) > 1:
        first, second = list(alike.values())[:2]
        raise DataError(
            path,
            f"the order of {first!r} and {second!r} is not clear; names must differ in their numbers alone",
            "keep each camera and each file type in its own folder",
        )
    whole = sorted((tuple(map(int, re.findall(r"\d+", name))), name) for name in names)
    for (numbers, name), (others, other) in itertools.pairwise(whole):
        if numbers == others:
            raise DataError(path, f"{name!r} and {other!r} have the same number", "keep one")
    decimal = sorted((tuple(map(Decimal, re.findall(r"\d+(?:\.\d+)?", name))), name) for name in names)
    for (_, name), (_, other) in zip(whole, decimal, strict=True):
        if name != other:
            problem = f"whether {name!r} or {other!r} comes first depends on whether the dot is a decimal point"
            raise DataError(path, problem, "number the pictures with whole numbers")
    return [name for _, name in whole]


def decoded(file: Path, size: tuple[int, int] | None = None, *, upright: bool = True) -> Picture:
    """The whole picture, uint8 [height, width, 3], `upright` by its EXIF mark.

    Raises DataError naming a file that is truncated, damaged, or not of the `size` (width, height) that was listed.
    """
    from PIL import ImageOps

    with _opened(file) as image:
        _check_size(file, image.size, size or image.size)
        try:
            return np.asarray((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))
        except Exception as error:  # Pillow's decoders raise various errors at damaged data
            problem = f"cannot be decoded ({error}), it is truncated or damaged"
            raise DataError(file, problem, "download or record it again") from None


def _check_size(file: Path, size: tuple[int, int], first: tuple[int, int]) -> None:
    if size != first:
        problem = f"{size[0]}x{size[1]} pixels in a folder of {first[0]}x{first[1]}"
        raise DataError(file, problem, "keep pictures of one size in a folder")


def _opened(file: Path) -> Any:
    """A Pillow image of which only the header is read. Raises DataError for a file without 8-bit colours."""
    from PIL import Image

    try:
        if file.stat().st_size == 0:
            raise DataError(file, "an empty file (0 bytes)")
        image = Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(file, f"cannot be opened as a picture ({error})") from None
    if image.mode not in MODES:
        image.close()
        raise DataError(file, f"its pixels have mode {image.mode!r}, not 8-bit colours; is it a depth picture?")
    return image
