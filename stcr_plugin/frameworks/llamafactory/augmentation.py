"""Augmentation of training pictures: every picture of a sample changes alike, so its order stays readable."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from stcr_plugin.frameworks.llamafactory.settings import Augment

if TYPE_CHECKING:
    from PIL.Image import Image

Collator = Callable[[Sequence[dict[str, Any]]], Any]


class Augmentation(TrainerCallback):  # type: ignore[misc]
    """Puts `augmented` in front of the collator of the training loader; evaluation loaders stay as they are."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        # accelerate wraps the loader that draws the batches.
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        loader.collate_fn = AugmentingCollator(loader.collate_fn, self.augment)


class AugmentingCollator:
    """A collator that augments the pictures of each sample, then calls `collate`. Draws from torch's RNG."""

    def __init__(self, collate: Collator, augment: Augment) -> None:
        self.collate = collate
        self.augment = augment

    def __call__(self, features: Sequence[dict[str, Any]]) -> Any:
        return self.collate(
            [
                {**feature, "images": augmented([_opened(image) for image in feature["images"]], self.augment)}
                if feature.get("images")
                else feature
                for feature in features
            ]
        )

    def __getattr__(self, name: str) -> Any:  # others look for .template and .processor on the collator
        if name == "collate":
            raise AttributeError(name)
        return getattr(self.collate, name)


def augmented(pictures: Sequence[Image], augment: Augment) -> list[Image]:
    """The pictures of one sample after one random change that they share; sizes stay as they are."""
    import torch
    from PIL import ImageEnhance

    draws = torch.rand(5).tolist()
    right, down = (round((2 * draw - 1) * augment.shift_pixels) for draw in draws[:2])
    factors = [
        (ImageEnhance.Brightness, 1 + (2 * draws[2] - 1) * augment.brightness),
        (ImageEnhance.Contrast, 1 + (2 * draws[3] - 1) * augment.contrast),
        (ImageEnhance.Color, 1 + (2 * draws[4] - 1) * augment.saturation),
    ]
    changed = [_shifted(picture, right, down) for picture in pictures]
    for enhance, factor in factors:
        if factor != 1:
            changed = [enhance(picture).enhance(factor) for picture in changed]
    return changed


def _shifted(picture: Image, right: int, down: int) -> Image:
    import numpy as np
    import PIL.Image

    if not (right or down):
        return picture
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return PIL.Image.fromarray(pixels[rows][:, columns])


def _opened(image: Any) -> Image:
    """A picture in any of the forms that LLaMA-Factory's datasets carry: path, bytes, dict or PIL image."""
    import PIL.Image

    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        image = io.BytesIO(image)
    opened = image if isinstance(image, PIL.Image.Image) else PIL.Image.open(image)
    return opened.convert("RGB")
