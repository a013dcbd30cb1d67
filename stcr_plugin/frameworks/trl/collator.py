"""Rows -> tokens, by their pictures' sizes alone; tokens -> batches, with the pictures, in the dataloader's workers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.artefacts import code_digest
from stcr_plugin.engines.picture_loading import fit, fitted_size
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.frameworks.numbering import opened, too_long
from stcr_plugin.frameworks.trl.conversation import segments
from stcr_plugin.logits import IGNORE
from stcr_plugin.registry import picture_store

if TYPE_CHECKING:
    from PIL.Image import Image

PAD_TO = 8  # tokens; a batch's length is a multiple


class TemporalCollator:
    """Collates rows of `messages` and `images`, such as `rows.dataset` has, for a Qwen-VL model.

    A batch: input_ids, attention_mask, labels and (from transformers 5 on) mm_token_type_ids [rows, tokens], padded on
    the right to a multiple of PAD_TO; pixel_values [patches of all pictures, values of a patch]; image_grid_thw
    [pictures, 3], patches in time, height and width. A batch without pictures gets a blank one that no token attends
    to: every rank must run the vision tower, or the others wait for it (DDP, ZeRO-3).

    Args:
        processor: The model's own; its chat template writes the conversation, with pictures numbered where there are
            two or more. Each assistant turn and its end of turn is trained on, nothing else.
        image_max_pixels, image_min_pixels: Pictures outside are resized, as in LLaMA-Factory and in evaluation.
        cutoff_len: A sample of more tokens raises DataError; it is never cut. None: any length.
        media_dir: What positions in tar files are relative to.
        bad_pictures: With `replace`, `encoded` accepts a picture without a readable size: the collator in front
            (batches.NamingCollator) replaces its sample.
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_max_pixels: int = MAX_PIXELS,
        image_min_pixels: int = MIN_PIXELS,
        cutoff_len: int | None = None,
        media_dir: str | Path = "",
        bad_pictures: str = "error",
    ) -> None:
        if "image_grid_thw" not in processor.model_input_names:
            what = "is not the processor of a Qwen-VL model"
            raise ConfigError(type(processor).__name__, what, "train it with LLaMA-Factory")
        self.processor = processor
        self.pixels = (image_max_pixels, image_min_pixels)
        self.cutoff_len = cutoff_len
        self.media_dir = media_dir
        self.bad_pictures = bad_pictures
        # Part of the key under which `datasets` caches what `tokenised` made.
        self.code = code_digest(
            "frameworks/trl/collator.py", "frameworks/trl/conversation.py", "frameworks/numbering.py"
        )

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of rows as they are, or `encoded`. Raises DataError for an unreadable picture, and as `encoded`."""
        import PIL.Image
        import torch

        samples = [one if "input_ids" in one else self.encoded(one) for one in features]
        rows = [(list(one["input_ids"]), list(one["labels"]), len(one["input_ids"])) for one in samples]
        shown = [self._picture(image) for one in samples for image in one["images"] or ()]
        blank = not shown
        seen = self._seen(shown or [fit(PIL.Image.new("RGB", (64, 64), (255, 255, 255)), *self.pixels)])
        tokens = seen["image_grid_thw"].prod(-1) // self._cells
        if blank:
            there = self._blank(int(tokens))
            rows[0] = (rows[0][0] + there, rows[0][1] + [IGNORE] * len(there), rows[0][2])
        else:
            self._refuse_other_sizes(samples, tokens.tolist())
        longest = max(len(ids) for ids, _, _ in rows)
        width = math.ceil(longest / PAD_TO) * PAD_TO
        pad = self.processor.tokenizer.pad_token_id
        input_ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _, _ in rows])
        batch = {
            "input_ids": input_ids,
            "attention_mask": torch.tensor([[1] * read + [0] * (width - read) for _, _, read in rows]),
            "labels": torch.tensor([labels + [IGNORE] * (width - len(labels)) for _, labels, _ in rows]),
            **seen,
        }
        if "mm_token_type_ids" in self.processor.model_input_names:  # transformers 4 has no token types
            batch["mm_token_type_ids"] = (input_ids == self.processor.image_token_id).int()
        return batch

    def tokenised(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The columns `input_ids` and `labels` of a batch of columns, for `datasets.map`."""
        rows = zip(batch["messages"], batch["images"], strict=True)
        made = [self.encoded({"messages": messages, "images": images}) for messages, images in rows]
        return {key: [one[key] for one in made] for key in ("input_ids", "labels")}

    def encoded(self, feature: Mapping[str, Any]) -> dict[str, Any]:
        """A row with its `input_ids` and `labels` [tokens], lists. Of its pictures the sizes alone are read.

        Raises DataError for a picture that is missing or not a picture, and for a sample over `cutoff_len`.
        """
        messages, images = feature["messages"], feature["images"] or ()
        parts = segments(self.processor, messages)
        question = next(turn["content"] for turn in reversed(messages) if turn["role"] == "user")
        image = self.processor.image_token
        there = sum(text.count(image) for text, _ in parts)
        if there != len(images):
            raise DataError(
                "a sample",
                f"has {len(images)} pictures and {there} `<image>` (it ends with {question[-120:]!r})",
                "write `<image>` at the position of each picture",
            )
        counts = map(self._image_tokens, images)
        whole = [_expanded(text, image, counts) for text, _ in parts]
        encoded = self.processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        input_ids = [token for ids in encoded for token in ids]
        labels = [token if kept else IGNORE for ids, (_, kept) in zip(encoded, parts, strict=True) for token in ids]
        if self.cutoff_len is not None and len(input_ids) > self.cutoff_len:
            raise too_long(len(input_ids), self.cutoff_len, question)
        return {**feature, "input_ids": input_ids, "labels": labels}

    @property
    def _cells(self) -> int:
        """Patches of one token."""
        return int(self.processor.image_processor.merge_size**2)

    def _image_tokens(self, image: Any) -> int:
        """How many tokens a picture takes, by the size in its header."""
        width, height = fitted_size(self._size(image), *self.pixels)
        return int(self.processor.image_processor.get_number_of_image_patches(height, width, {})) // self._cells

    def _size(self, image: Any) -> tuple[int, int]:
        from PIL import Image

        if not isinstance(image, str):
            return int(image.width), int(image.height)
        try:
            data = picture_store.read(self.media_dir, image) if picture_store.IN_TAR in image else _bytes(image)
            with Image.open(io.BytesIO(data)) as picture:
                return int(picture.width), int(picture.height)
        except (DataError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if self.bad_pictures == "replace":
                return 56, 56
            if isinstance(error, DataError):
                raise
            raise DataError(image, f"cannot be read as a picture ({error})") from None

    def _picture(self, image: Any) -> Image:
        image = opened(image, self.media_dir)
        if isinstance(image, str):
            image = picture_store.decode(_bytes(image), image)
        return fit(image, *self.pixels)

    def _seen(self, shown: Sequence[Image]) -> dict[str, Any]:
        found = self.processor.image_processor(images=list(shown), return_tensors="pt")
        return {"pixel_values": found["pixel_values"], "image_grid_thw": found["image_grid_thw"]}

    def _refuse_other_sizes(self, samples: Sequence[Mapping[str, Any]], tokens: Sequence[int]) -> None:
        """Raises DataError for a sample whose tokens were made when its pictures had another size."""
        counts = iter(tokens)
        for one in samples:
            wanted = sum(next(counts) for _ in one["images"] or ())
            if list(one["input_ids"]).count(self.processor.image_token_id) != wanted:
                what = "has another size than when its sample was tokenised"
                raise DataError(one["images"][0], what, "set overwrite_cache: true in the recipe")

    def _blank(self, tokens: int) -> list[int]:
        text = f"<|vision_start|>{self.processor.image_token * tokens}<|vision_end|>"
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))


def _expanded(text: str, image: str, counts: Iterator[int]) -> str:
    """`text` with the image tokens of each picture instead of one."""
    first, *rest = text.split(image)
    return first + "".join(image * next(counts) + piece for piece in rest)


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        fix = "set media_dir to the folder of the pictures"
        raise DataError(path, f"cannot be read ({error.strerror})", fix) from None
