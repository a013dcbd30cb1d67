"""Response of a model -> the percentage that it writes for each picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stcr_plugin.scoring.reasoning import behind_reasoning

_NUMBER = r"(?<![\d.,-])(\d{1,3}(?:[.,]\d+)?)"
_PERCENT = re.compile(rf"{_NUMBER}\s*(?:%|％|percent\b)", re.I)
_ALONE = re.compile(rf"\s*{_NUMBER}\s*[.,;}}]?\s*")


def percentages(text: str, names: Sequence[str]) -> list[float | None]:
    """For each of `names`, the percentage 0..100 that `text` gives to it; None where it gives none.

    Read is what follows a name and a colon, up to the next name with a colon: its last number with a percent sign, or
    a number alone. Of a name that comes several times the last place counts, and nothing inside a reasoning does.

    Args:
        text: What the model wrote.
        names: Of the pictures, such as "img1".
    """
    said = behind_reasoning(text) or ""
    listed = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    heads = list(re.finditer(rf"(?<!\w)({listed})[\"'*_`)\]]*\s*[:：]", said, re.I))
    found: dict[str, float | None] = {}
    for place, head in enumerate(heads, 1):
        end = heads[place].start() if place < len(heads) else None
        found[head[1].lower()] = _last(said[head.end() : end])
    return [found.get(name.lower()) for name in names]


def _last(text: str) -> float | None:
    numbers = _PERCENT.findall(text)
    alone = _ALONE.fullmatch(text.strip("\"'*_` \n"))
    number = numbers[-1] if numbers else alone[1] if alone else None
    value = None if number is None else float(number.replace(",", "."))
    return value if value is not None and value <= 100 else None
