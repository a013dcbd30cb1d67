"""What a model wrote -> which image it named."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

# Applied to NFKC-normalised lower case, where full-width colons and digits are already plain ones.
_KEY = re.compile(r"closer[\s_-]+to[\s_-]+completion[\s\"'`*_]*:")
_NAME = re.compile(r"(?<![a-z0-9])(?:img|image)[\s_-]*([0-9]+)(?![a-z0-9])[\"'`*_]*(\s*:)?")
_MARKUP = " \t\"'`*_>#-"


def parse(text: str) -> Literal["img1", "img2"] | None:
    """The image that `text` says is closer to completion; None (unparsed) where it names no image or several.

    The last `closer to completion:` line decides (also `closer_to_completion`, in JSON, Markdown, full-width signs
    and any case); where nothing follows the colon, the next line that has words. A text without that key counts only
    if it names exactly one image, and not as a heading (`img1: ...`), which opens a description and chooses nothing.
    A name is `img1`, `img 1`, `image 1`; a third image (`img3`) makes the answer unparsed. Raises nothing.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("\r", "\n")
    keys = list(_KEY.finditer(plain))
    if not keys:
        names = _NAME.findall(plain)
        return None if any(colon for _, colon in names) else _only(names)
    lines = (line for line in plain[keys[-1].end() :].split("\n") if line.strip(_MARKUP))
    return _only(_NAME.findall(next(lines, "")))


def _only(names: list[tuple[str, str]]) -> Literal["img1", "img2"] | None:
    numbers = {number for number, _ in names}
    if numbers == {"1"}:
        return "img1"
    return "img2" if numbers == {"2"} else None
