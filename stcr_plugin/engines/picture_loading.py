"""Pictures of a registry as a model is shown them: decoded, changed where asked, sized as in training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.engines.picture_changes import change
from stcr_plugin.engines.sealed import inside
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes.picture_files import upright
from stcr_plugin.errors import DataError
from stcr_plugin.registry.picture_store import decode, read
from stcr_plugin.types import Shown

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures:
    """Opens the pictures below the folder `registry` as a model is shown them."""

    def __init__(self, registry: Path, settings: AskSettings) -> None:
        self.registry, self.settings = registry, settings

    def open(self, shown: Shown, item: str) -> Image:
        """The picture, changed and sized. Raises DataError naming the file and `item`, the pair that shows it."""
        image, other = inside(shown.image), inside(shown.other)
        picture = open_picture(self.registry, image, inside(item))
        changed = change(
            picture, Shown(image, shown.change, other), lambda path: open_picture(self.registry, path, inside(item))
        )
        return fit(changed, *self.settings.pixels)


def fit(image: Image, max_pixels: int, min_pixels: int) -> Image:
    """`image` as RGB and in the size that LLaMA-Factory 0.9.5 trains Qwen-VL models with.

    The steps and their order are those of its Qwen2VLPlugin (data/mm_plugin.py): shrink to `max_pixels`, grow to
    `min_pixels`, both keeping the shape; RGB; no side below 28 pixels; no side over 200 times the other.
    """
    if image.width * image.height > max_pixels:
        image = image.resize(scaled_size(*image.size, max_pixels))
    if image.width * image.height < min_pixels:
        image = image.resize(scaled_size(*image.size, min_pixels))
    image = image.convert("RGB")
    if min(image.size) < 28:
        image = image.resize((max(image.width, 28), max(image.height, 28)))
    if image.width / image.height > 200:
        image = image.resize((image.height * 180, image.height))
    if image.height / image.width > 200:
        image = image.resize((image.width, image.width * 180))
    return image


def fitted_size(size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
    """Width and height that `fit` gives a picture of `size`."""
    width, height = size
    if width * height > max_pixels:
        width, height = scaled_size(width, height, max_pixels)
    if width * height < min_pixels:
        width, height = scaled_size(width, height, min_pixels)
    width, height = max(width, 28), max(height, 28)
    width = height * 180 if width / height > 200 else width
    return width, width * 180 if height / width > 200 else height


def scaled_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Width and height of the same shape with at most `pixels` pixels, as LLaMA-Factory rounds them."""
    scale = math.sqrt(pixels / (width * height))
    return int(width * scale), int(height * scale)


def open_picture(registry: Path, relative: str, pair_id: str) -> Image:
    """The picture as `picture_files.upright` gives it.

    Raises DataError naming file and pair where it is missing, cut or not a picture.
    """
    try:
        return upright(decode(read(registry, relative), relative))
    except DataError as error:
        raise DataError(
            registry / relative,
            f"picture of pair {pair_id} is not readable ({error.problem or error})",
            "write the dataset again, or leave the pair out",
        ) from error
