"""Changes of a picture for a control: mirrored, blank, noise, masked by cells of a grid, or in part another picture's.

mask change: grey where the two pictures of a pair visibly differ, in both of them. mask elsewhere: grey in as many
cells where they do not. mask border: grey at the four borders and corners. swap rest: all but the visible change comes
from the other picture, and so do the borders and corners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.types import Shown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    Cells = npt.NDArray[np.bool_]

GRID = 16  # cells along each side of a picture
CORNER = 3  # cells along each side of a corner; a border is one cell wide
VISIBLE = 8  # of 255: by how much the mean of a part of a cell must differ in one colour
_PARTS = 4  # parts along each side of a cell; means over parts, since single pixels differ by noise
_GREY = (128, 128, 128)


def change(picture: Image, shown: Shown, opened: Callable[[str], Image]) -> Image:
    """`picture`, which is that of `shown`, with the change of `shown`; `opened` gives the picture of a path."""
    if shown.change in _OF_PAIR:
        other = opened(shown.other)
        return _OF_PAIR[shown.change](picture, other, visibly_different(picture, other))
    return _OF_ONE[shown.change](picture)


def visibly_different(first: Image, second: Image) -> Cells:
    """[GRID, GRID]: the cells in which the two pictures visibly differ, whichever is first."""
    import numpy as np
    from PIL import Image

    def means(picture: Image.Image) -> Any:
        side = GRID * _PARTS
        return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BOX), dtype=np.int16)

    apart = np.abs(means(first) - means(second)).max(axis=-1) > VISIBLE
    cells: Cells = apart.reshape(GRID, _PARTS, GRID, _PARTS).any(axis=(1, 3))
    return cells


def _border() -> Cells:
    import numpy as np

    near = np.minimum(np.arange(GRID), np.arange(GRID)[::-1])
    row, column = near[:, None], near[None, :]
    cells: Cells = (np.minimum(row, column) < 1) | (np.maximum(row, column) < CORNER)
    return cells


def _elsewhere(changed: Cells) -> Cells:
    """As many of the other cells, or all of them where they are fewer; the same for the same changed cells."""
    import numpy as np

    random = artefacts.rng("mask elsewhere", np.packbits(changed).tobytes().hex())
    cells = np.zeros(changed.size, dtype=np.bool_)
    cells[random.permutation(np.flatnonzero(~changed))[: int(changed.sum())]] = True
    return cells.reshape(changed.shape)


def _composed(picture: Image, cells: Cells, fill: Image | None = None) -> Image:
    """`picture` with `cells` taken from `fill`, or grey."""
    from PIL import Image

    picture = picture.convert("RGB")
    fill = Image.new("RGB", picture.size, _GREY) if fill is None else fill.convert("RGB").resize(picture.size)
    mask = Image.fromarray(cells).convert("L").resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(fill, picture, mask)


def _noise(picture: Image) -> Image:
    import numpy as np
    from PIL import Image

    random = artefacts.rng("noise", artefacts.sha256_of(picture.tobytes()))
    return Image.fromarray(random.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8))


def _blank(picture: Image) -> Image:
    from PIL import Image

    return Image.new("RGB", picture.size, _GREY)


def _mirrored(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(picture)


_OF_ONE: Mapping[str, Callable[[Image], Image]] = {
    "": lambda picture: picture,
    "mirror": _mirrored,
    "blank": _blank,
    "noise": _noise,
    "mask border": lambda picture: _composed(picture, _border()),
}
_OF_PAIR: Mapping[str, Callable[[Image, Image, Cells], Image]] = {
    "mask change": lambda picture, other, changed: _composed(picture, changed),
    "mask elsewhere": lambda picture, other, changed: _composed(picture, _elsewhere(changed)),
    "swap rest": lambda picture, other, changed: _composed(picture, ~changed | _border(), fill=other),
}
