"""The temporal templates: their names, and pictures that are numbered img1 .. imgN by the template itself.

A dataset writes only `<image><image>question`, so no file can mislabel its pictures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stcr_plugin.errors import DataError
from stcr_plugin.registry import pictures

# our template -> (LLaMA-Factory's mm_plugin, default system text of the models' own chat template)
TEMPLATES = {
    "stcr_qwen2_vl": ("qwen2_vl", "You are a helpful assistant."),
    "stcr_qwen3_vl": ("qwen3_vl", ""),
}
_IMAGE = re.compile(r"(?:img\d+: )?<image>\n?")


def number_images(contents: list[str]) -> list[str]:
    """Each `<image>` of a conversation as a line `imgK: <image>`, K counted from 1 through all its turns.

    Where it has fewer than two, nothing is to be told apart: the contents stay as they are.
    """
    if sum(content.count("<image>") for content in contents) < 2:
        return contents
    count = 0

    def numbered(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"img{count}: <image>\n"

    return [_IMAGE.sub(numbered, content) for content in contents]


def opened(image: Any, media_dir: str | Path) -> Any:
    """A picture that is named by its place in a tar file below `media_dir`, decoded; any other form as it is.

    Raises DataError naming the picture that is missing, cut or no picture.
    """
    if not (isinstance(image, str) and pictures.IN_TAR in image):
        return image
    try:
        return pictures.decode(pictures.read(media_dir, image), image)
    except DataError as error:
        raise DataError(f"{media_dir}: {error}; set media_dir to the registry that holds it, or build again") from None
