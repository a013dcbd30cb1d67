"""Augmentation of training pictures: every picture of a sample changes alike, so their order stays visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from stcr_plugin.frameworks.images import decoded
from stcr_plugin.frameworks.sample_changes import Collator, CollatorInFront, put_in_front, sample_key
from stcr_plugin.frameworks.stcr_block import Augment

if TYPE_CHECKING:
    from PIL.Image import Image

DRAWS = 6  # right, down, brightness, contrast, saturation, hue


class Augmentation(TrainerCallback):  # type: ignore[misc]
    """Puts `augmented` in front of the collator of the training loader; evaluation loaders stay as they are.

    Names of pictures in tar files are relative to `media_dir`.
    """

    def __init__(self, augment: Augment, media_dir: str | Path = "") -> None:
        self.augment = augment
        self.media_dir = media_dir
        self.collator: AugmentingCollator | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        def wrap(collate: Collator) -> Collator:
            self.collator = AugmentingCollator(collate, self.augment, args.seed, media_dir=self.media_dir)
            return self.collator

        put_in_front(train_dataloader, wrap)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Before the loader's workers make the epoch's first batch. A resumed epoch begins in its middle.
        if self.collator is not None:
            self.collator.epoch.fill_(int(state.epoch or 0))


class AugmentingCollator(CollatorInFront):
    """A collator that augments the pictures of each sample, then calls `collate`.

    The change depends on the seed, the epoch and the sample alone, so it is the same in any process, rank or batch, and
    after a resume; no random state is touched. A sample that an epoch has several times changes alike each time.
    `epoch` [] int64 is in shared memory, where workers that outlive an epoch see it.
    """

    def __init__(self, collate: Collator, augment: Augment, seed: int = 0, *, media_dir: str | Path = "") -> None:
        import torch

        super().__init__(collate)
        self.augment = augment
        self.seed = seed
        self.media_dir = media_dir
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, features: Sequence[dict[str, Any]]) -> Any:
        return self.collate([self._augmented(feature) if feature.get("images") else feature for feature in features])

    def _augmented(self, feature: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        images = [decoded(image, self.media_dir).convert("RGB") for image in feature["images"]]
        own = [self.seed, int(self.epoch), sample_key(feature, (image.tobytes() for image in images))]
        draws = np.random.default_rng(own).random(DRAWS).tolist()
        return {**feature, "images": augmented(images, self.augment, draws)}


def augmented(pictures: Sequence[Image], augment: Augment, draws: Sequence[float]) -> list[Image]:
    """The pictures of one sample after one change, which `draws` say: DRAWS numbers in [0, 1). Sizes stay."""
    right, down = (round((2 * draw - 1) * augment.shift_pixels) for draw in draws[:2])
    spreads = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    change = [(2 * draw - 1) * spread for draw, spread in zip(draws[2:], spreads, strict=True)]
    shifted = [_shifted(picture, right, down) for picture in pictures]
    return [_coloured(picture, *change) for picture in shifted] if any(change) else shifted


def _coloured(picture: Image, brightness: float, contrast: float, saturation: float, hue: float) -> Image:
    """One linear change of every colour: contrast about the picture's mean grey, the others as CSS filters make them.

    Saturation and hue are the `saturate` and `hueRotate` matrices of W3C's Filter Effects Module Level 1,
    feColorMatrix: both keep the luminance. One pass over the pixels costs a tenth of one pass for each change.
    """
    import numpy as np
    from PIL import Image

    luminance = np.array([0.213, 0.715, 0.072])
    grey = np.tile(luminance, (3, 1))
    turn = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    angle = 2 * np.pi * hue
    rotated = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * turn
    saturated = grey + (1 + saturation) * (np.eye(3) - grey)
    matrix = (1 + contrast) * (1 + brightness) * (rotated @ saturated)
    mean = (1 + brightness) * float(np.array(picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))) @ luminance)
    rows = [(*row, -contrast * mean) for row in matrix.tolist()]
    return picture.convert("RGB", tuple(value for row in rows for value in row))


def _shifted(picture: Image, right: int, down: int) -> Image:
    import numpy as np
    import PIL.Image

    if not (right or down):
        return picture
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return PIL.Image.fromarray(pixels.take(rows, axis=0).take(columns, axis=1))
