"""The limits on picture sizes that a server must keep so that it sees the pictures that the model was trained on.

LLaMA-Factory sizes a picture in two steps: it shrinks it to `image_max_pixels` (picture_loading.fit), then the
processor rounds both sides to whole tokens (`smart_resize`). A server has only the second step, which rounds down where
the picture is over its limit. So `image_max_pixels` itself, written as the limit, is often wrong by a row of tokens: at
100,352 a picture of 640x480 is trained as 364x280 and served as 364x252.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from stcr_plugin.engines.picture_loading import fit
from stcr_plugin.report.serving_words import Limits, Size

COMMON: tuple[Size, ...] = ((640, 480), (1280, 720), (640, 360), (848, 480), (1920, 1080), (256, 256), (224, 224))
"""Sizes of robot cameras, used where the training pictures cannot be measured."""


def serving_limits(processor: Mapping[str, Any], least: int, most: int, *, sizes: Sequence[Size] = ()) -> Limits | None:
    """The limits that a server should have.

    Under them every picture that the sender has resized is seen as in training. Of these limits, those under which
    most of the original `sizes` are seen so too; of these, the one nearest to the limit of training.

    Args:
        processor: Configuration of an image processor.
        least: image_min_pixels of training.
        most: image_max_pixels of training.
        sizes: Sizes of training pictures.

    Returns:
        None where the processor has no limits on pixels, as InternVL's.
    """
    own = _own(processor)
    if own is None:
        return None
    factor = int(processor["patch_size"]) * int(processor["merge_size"])
    known, sizes = bool(sizes), tuple(dict.fromkeys(sizes)) or COMMON

    def rounded(size: Size, limits: tuple[int, int]) -> Size:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        height, width = smart_resize(size[1], size[0], factor, min_pixels=limits[0], max_pixels=limits[1])
        return width, height

    fitted = [_fitted(size, least, most) for size in sizes]
    trained = [rounded(size, own) for size in fitted]
    tops = {min(most, own[1]), own[1], max(width * height for width, height in trained)}
    for (width, height), (wide, high) in zip(sizes, trained, strict=True):  # where rounding down reaches a whole row
        tops |= {math.ceil(width * high**2 / height) + 1, math.ceil(height * wide**2 / width) + 1}
    found = []
    for low, top in product({own[0], max(own[0], least)}, {min(top, own[1]) for top in tops}):
        if low <= top and all(rounded(one, (low, top)) == size for one, size in zip(fitted, trained, strict=True)):
            served = [rounded(one, (low, top)) for one in sizes]
            alike = sum(one == size for one, size in zip(served, trained, strict=True))
            found.append((-alike, abs(top - min(most, own[1])), -low, top, served))
    *_, low, top, served = min(found)  # the processor's own limits are always among them
    return Limits(-low, top, sizes=tuple(zip(sizes, trained, served, strict=True)), known=known)


def with_limits(processor: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The configuration with `limits` in every spelling: `size` (transformers 5), min_pixels and max_pixels (4).

    Some versions of transformers 4 read `size` and others the other two, not always with a warning
    (huggingface/transformers#41955, QwenLM/Qwen3-VL#1052).
    """
    size = {"shortest_edge": limits.least, "longest_edge": limits.most}
    return {**processor, "size": size, "min_pixels": limits.least, "max_pixels": limits.most}


def _own(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    size = processor.get("size") or {}
    least = processor.get("min_pixels") or size.get("shortest_edge")
    most = processor.get("max_pixels") or size.get("longest_edge")
    return (int(least), int(most)) if least and most and processor.get("merge_size") else None


def _fitted(size: Size, least: int, most: int) -> Size:
    from PIL import Image

    found: Size = fit(Image.new("L", size), most, least).size
    return found
