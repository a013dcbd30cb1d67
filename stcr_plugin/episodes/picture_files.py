"""Folders of pictures in the order in which they were taken, and the one reader of picture files."""

from __future__ import annotations

import io
import itertools
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stcr_plugin.artefacts import LFS_START, inside, refuse_lfs_pointer
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from stcr_plugin.types import Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})  # Pillow's, of 8 bits or fewer
MOST_PIXELS = 89_478_485  # of a picture; Pillow warns of a decompression bomb from there on
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif")  # brands, after `ftyp`
# EXIF's orientation tag, its value -> Pillow's name of the turn that puts the picture upright, and where it may stand.
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_MARKED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


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
        with header(file, file) as image:
            sizes.append(_upright_size(image))
        _check_size(file, sizes[-1], sizes[0])
    return files, sizes[0]


def followed(root: Path, relative: str) -> Path:
    """The path of `relative` under `root`. Raises DataError for one that leaves it, or that no system can follow."""
    path = inside(root, relative)
    try:
        path.exists()  # raises for a name that is too long and a folder that may not be entered
    except OSError as error:
        raise DataError(repr(relative), f"not a path that can be followed ({error.strerror})") from None
    return path


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


def decoded(source: Path | bytes, size: tuple[int, int] | None = None, *, name: str | Path = "") -> Picture:
    """The whole picture of a file, or of its bytes with a `name`, as `upright` gives it, uint8 [height, width, 3].

    Raises DataError naming one that is truncated, damaged, or not of the `size` (width, height) that was listed.
    """
    where = source if isinstance(source, Path) else name
    with header(source, where) as image:
        picture = upright(loaded(image, where))
    _check_size(where, picture.size, size or picture.size)
    return np.asarray(picture)


def header(source: Path | bytes, name: str | Path) -> Image:
    """A picture of which only the header is read, not its pixels.

    Raises DataError naming one that is not a picture, has not 8-bit colours or has over MOST_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    start = b""
    try:
        if isinstance(source, Path):
            if source.stat().st_size == 0:
                raise DataError(name, "an empty file (0 bytes)")
            with open(source, "rb") as file:
                start = file.read(LFS_START)
        else:
            start = source[:LFS_START]
        refuse_lfs_pointer(name, start)
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except UnidentifiedImageError:
        if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
            raise DataError(name, "is HEIC or AVIF, which cannot be read here", "save it as JPEG or PNG") from None
        raise DataError(name, "cannot be opened as a picture (its format is not known)") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(name, f"cannot be opened as a picture ({reason})") from None
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise _too_large(name)
    refuse_other_modes(image, name)
    return image


def refuse_other_modes(image: Image, name: str | Path) -> None:
    """Raises DataError for a picture without 8-bit colours: how its values become colours is not known."""
    if image.mode not in MODES:
        image.close()
        raise DataError(
            name,
            f"its pixels have mode {image.mode!r}, not 8-bit colours; is it a depth picture?",
            "name a colour picture, or save this one with 8 bits per colour, scaled from black to white",
        )


def loaded(image: Image, name: str | Path) -> Image:
    """`image`, decoded to its last byte. Raises DataError naming one that is truncated or damaged."""
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise various errors at damaged data
        problem = f"cannot be decoded ({error}), it is truncated or damaged"
        raise DataError(name, problem, "download or record it again") from None
    return image


def upright(image: Image) -> Image:
    """A decoded picture in RGB, turned by its EXIF mark of how the camera was held."""
    from PIL import Image

    turn = _TURNS.get(orientation(image))
    turned = image if turn is None else image.transpose(Image.Transpose[turn])
    return turned if turned.mode == "RGB" else turned.convert("RGB")


def orientation(image: Image) -> int:
    """The EXIF mark of how the camera was held, 1 to 8; 1 (upright) where there is none that can be read."""
    if not _MARKED & image.info.keys():
        return 1
    try:
        mark = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow raises various errors at damaged EXIF data; the pixels are sound
        return 1
    return mark if mark in _TURNS else 1


def _upright_size(image: Image) -> tuple[int, int]:
    """Width and height that `upright` gives a picture, by its header."""
    return (image.height, image.width) if orientation(image) in _ON_ITS_SIDE else image.size


def _check_size(file: str | Path, size: tuple[int, int], first: tuple[int, int]) -> None:
    if size != first:
        problem = f"{size[0]}x{size[1]} pixels in a folder of {first[0]}x{first[1]}, turned by their EXIF marks"
        raise DataError(file, problem, "keep pictures of one size in a folder")


def _too_large(name: str | Path) -> DataError:
    problem = f"has more than {MOST_PIXELS:,} pixels, which are not decoded"
    return DataError(name, problem, "shrink it first")
