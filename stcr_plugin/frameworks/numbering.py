"""The temporal templates: their names, and pictures that are numbered img1 .. imgN by the template itself.

A dataset writes only `<image><image>question`, so no file can mislabel its pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin.errors import DataError
from stcr_plugin.registry import picture_store


@dataclass(frozen=True)
class Family:
    """Models of one chat format: what a template needs to write a conversation as their own chat template does.

    Attributes:
        plugin: LLaMA-Factory's mm_plugin, made with image_token and video_token.
        system: The default system text.
        after_image: What their chat template writes after each picture.
    """

    plugin: str
    system: str = ""
    image_token: str = "<|image_pad|>"
    video_token: str = "<|video_pad|>"
    after_image: str = ""


TEMPLATES = {
    "stcr_qwen2_vl": Family("qwen2_vl", "You are a helpful assistant."),
    "stcr_qwen3_vl": Family("qwen3_vl"),
    # Those in transformers' format, OpenGVLab/InternVL3-8B-hf and the like.
    "stcr_intern_vl": Family("intern_vl", image_token="<image>", video_token="<video>", after_image="\n"),
}


def number_images(contents: list[str], after_image: str = "") -> list[str]:
    """Each `<image>` of a conversation as a line `imgK: <image>`, K counted from 1 through all its turns.

    `after_image` comes between a picture and the end of its line. A conversation of fewer than two pictures stays as it
    is.
    """
    if sum(content.count("<image>") for content in contents) < 2:
        return contents
    count = 0

    def numbered(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"img{count}: <image>{after_image}\n"

    image = re.compile(rf"(?:img\d+: )?<image>(?:{re.escape(after_image)})?\n?")
    return [image.sub(numbered, content) for content in contents]


def opened(image: Any, media_dir: str | Path) -> Any:
    """A picture that is named by its position in a tar file below `media_dir`, decoded; any other form as it is.

    Raises DataError naming the picture that is missing, cut or not a picture.
    """
    if not (isinstance(image, str) and picture_store.IN_TAR in image):
        return image
    try:
        return picture_store.decode(picture_store.read(media_dir, image), image)
    except DataError as error:
        fix = "set media_dir to the registry that holds it, or build again"
        raise DataError(f"{media_dir}: {error.where}", error.problem, fix) from None


def too_long(tokens: int, limit: int, question: str) -> DataError:
    """The error of a sample that `cutoff_len` would cut."""
    return DataError(
        "a sample",
        f"takes {tokens} tokens but cutoff_len is {limit}, which would cut its pictures or its answer (it ends with "
        f"{question[-120:]!r})",
        f"set cutoff_len to {tokens} or more, or image_max_pixels lower",
    )
