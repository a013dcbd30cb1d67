"""Pictures on disk: one file each in a folder, or many in a tar file, named by their position in it.

A picture is named relative to the registry: `stcr/frames-1a2b3c4d/000017/000042.png`, or
`stcr/frames-1a2b3c4d/00003.tar#1536+4211` for the 4,211 bytes from byte 1,536 on. The tar file is an ordinary one
(POSIX ustar), which any tool unpacks.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.episodes.picture_files import header, loaded
from stcr_plugin.errors import DataError
from stcr_plugin.registry.data_config import FrameRules

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from stcr_plugin.types import Picture

    Cells = npt.NDArray[np.int16]

SUFFIX = {"png": ".png", "jpeg": ".jpg", "none": ".none"}
HASH_SIDE = 16
IN_TAR = ".tar#"  # in the name of a picture in a tar file, and in no other name
# PNG at level 3 takes half the time of the default, 6, for files that are a twentieth larger.
_OPTIONS: dict[str, dict[str, Any]] = {"png": {"compress_level": 3}, "jpeg": {"quality": 95, "subsampling": 0}}
_ENDS = (b"IEND\xaeB`\x82", b"\xff\xd9")  # of a PNG (its last chunk) and of a JPEG (marker EOI)
_IN_TAR = re.compile(r"(?P<file>.+\.tar)#(?P<start>\d+)\+(?P<size>\d+)")


def read(registry: str | Path, name: str) -> bytes:
    """The encoded bytes of the picture `name`. Raises DataError for one that is missing or leaves the registry."""
    match = _IN_TAR.fullmatch(name)
    path = artefacts.inside(registry, match["file"] if match else name)
    try:
        if match is None:
            return artefacts.file_bytes(path)
        with open(path, "rb") as file:
            file.seek(int(match["start"]))
            data = file.read(int(match["size"]))
    except FileNotFoundError:
        raise DataError(name, "no such file") from None
    except OSError as error:
        raise DataError(name, f"cannot be read ({error.strerror})") from None
    if len(data) != int(match["size"]):
        raise DataError(name, "the file ends before it; it was cut")
    return data


def decode(data: bytes, name: str) -> Image:
    """The whole picture as it is stored, decoded to its last byte.

    Raises DataError naming one that is cut, is not a picture or has not 8-bit colours.
    """
    return loaded(header(data, name), name)


def is_whole(data: bytes) -> bool:
    """Whether this is a picture as `encode` gives it: it decodes and has its end, which decoders do not need."""
    try:
        decode(data, "")
    except DataError:
        return False
    return data.endswith(_ENDS)


def encode(picture: Picture, rules: FrameRules) -> bytes:
    """One picture, [height, width, 3] uint8, as the bytes of its file."""
    from PIL import Image

    image = Image.fromarray(picture)
    if rules.crop is not None:
        edges = (image.width, image.height, image.width, image.height)
        left, top, right, bottom = (round(share * edge) for share, edge in zip(rules.crop, edges, strict=True))
        image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    size = _size(image.size, rules)
    if image.size != size:
        # Shrunk by a whole number first, to no less than twice the size, which takes half the time.
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, rules.format, **_OPTIONS[rules.format])
    return file.getvalue()


def _size(size: tuple[int, int], rules: FrameRules) -> tuple[int, int]:
    """Width and height in pixels of a picture that is `size` after the crop."""
    if rules.width and rules.height:
        return rules.width, rules.height
    if rules.max_pixels is None or size[0] * size[1] <= rules.max_pixels:
        return size
    scale = (rules.max_pixels / (size[0] * size[1])) ** 0.5
    return tuple(max(rules.multiple_of, int(side * scale) // rules.multiple_of * rules.multiple_of) for side in size)  # type: ignore[return-value]


def fingerprint(data: bytes) -> str:
    """A perceptual hash of an encoded picture, HASH_SIDE squared bits in hex: similar pictures differ in few bits."""
    return hashed(cells(data))


def cells(data: bytes) -> Cells:
    """An encoded picture in grey, shrunk to HASH_SIDE rows and HASH_SIDE + 1 columns, [rows, columns]."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.int16)


def hashed(cells: Cells) -> str:
    """Difference hash: a bit says whether a cell is brighter than the one to its left.

    After N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
    """
    import numpy as np

    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


class TarWriter:
    """A tar file that appears whole at its path when closed.

    It is open while episodes are read, whose errors are not its own, so it does not use `artefacts.whole_file`.
    """

    def __init__(self, registry: Path, relative: str) -> None:
        self._relative = relative
        self._path = registry / relative
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._part, "wb")  # noqa: SIM115 - open until close()

    def add(self, member: str, data: bytes) -> str:
        """Append `data` under the name `member`; the name of the picture. Raises DataError for a full disk."""
        header = tarfile.TarInfo(member)
        header.size = len(data)
        try:
            self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
            start = self._file.tell()
            self._file.write(data + b"\0" * (-len(data) % tarfile.BLOCKSIZE))
        except OSError as error:
            raise self._full(error) from error
        return f"{self._relative}#{start}+{len(data)}"

    def close(self) -> None:
        """Finish the file and put it in place. Raises DataError for a full disk."""
        try:
            self._file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
        except OSError as error:
            raise self._full(error) from error

    def abandon(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # what the buffer still holds may not fit on the disk
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _full(self, error: OSError) -> DataError:
        self.abandon()
        return DataError(self._path, f"could not write: {error.strerror}", "free space, then run again")
