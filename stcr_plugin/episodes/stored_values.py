"""Values as JSON and Parquet files of recordings hold them, whatever their spelling: 3, 3.0, "3" and [3] are one."""

from __future__ import annotations

import math
from typing import Any

_DEEPEST = 8  # lists of one inside each other that are looked through
_LARGEST = 2**53  # whole numbers that a float holds exactly


def single(value: Any) -> Any:
    """The value in a list of one."""
    for _ in range(_DEEPEST):
        if not isinstance(value, list | tuple) or len(value) != 1:
            break
        value = value[0]
    return value


def number(name: str, value: Any) -> float:
    """Raises ValueError for what is not a finite number; `name` is the column or key."""
    found = single(value)
    if is_empty(found):
        raise ValueError(f"its {name} is empty")
    read = finite(found)
    if math.isnan(read):
        raise ValueError(f"its {name} {shown(found)} is not a number")
    return read


def finite(value: Any) -> float:
    """`value` as a number; NaN for what is not a finite one."""
    try:
        read = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return read if math.isfinite(read) else math.nan


def whole(name: str, value: Any, least: int = 0) -> int:
    """Raises ValueError for what is not a whole number from `least`; `name` is the column or key."""
    if type(value) is int and least <= value <= _LARGEST:  # as nearly all are
        return value
    read = number(name, value)
    if not read.is_integer() or abs(read) > _LARGEST:
        raise ValueError(f"its {name} {shown(single(value))} is not a whole number")
    if read < least:
        raise ValueError(f"its {name} {int(read)} is below {least}")
    return int(read)


def is_empty(value: Any) -> bool:
    """Whether nothing is stored: null, NaN (pandas' missing number), or a text without a character to see."""
    if isinstance(value, str):
        return not any(sign.isprintable() and not sign.isspace() for sign in value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown(value: Any) -> str:
    """A value for an error, cut short; what is nested is only named."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= _LARGEST else "(a very large number)"
    return f"(a {type(value).__name__})"
