"""Strategies that damage a valid input: values of other types, missing keys, cut files, bytes that are no text."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

SPLINTER = "\ud83d"  # half of a surrogate pair
NASTY_TEXTS = (
    "", " ", "\0", SPLINTER, "../../outside", "/dev/full", "a" * 5000, "{x}", "{0:>999999999}", "%s", "$HOME", "nan",
    "<image>", "<|im_end|>", "\n# head", "![x](http://example.invalid/x.png)", "~", "-", "null", "\x1b[2J",
)  # fmt: skip
NASTY_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.0, 1e308, float("nan"), float("inf"), True)
SCALARS = st.one_of(
    st.none(),
    st.sampled_from(NASTY_NUMBERS),
    st.sampled_from(NASTY_TEXTS),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """A copy of a JSON-like document with one to three changes at random places."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = _changed(draw, found)
    return found


def _changed(draw: st.DrawFn, value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    deeper = bool(keys) and draw(st.integers(0, 5)) > 0
    if not deeper:
        return draw(VALUES)
    key = draw(st.sampled_from(list(keys)))
    what = draw(st.sampled_from(("change", "change", "change", "drop", "double")))
    if what == "drop":
        del value[key]
    elif what == "double" and isinstance(value, list):
        value.append(copy.deepcopy(value[key]))
    else:
        value[key] = _changed(draw, value[key])
    return value


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file that was cut, mixed up or overwritten in part."""
    start = draw(st.integers(0, len(data)))
    what = draw(st.sampled_from(("cut", "insert", "overwrite", "empty", "double", "deep")))
    if what == "cut":
        return data[:start]
    if what == "insert":
        return data[:start] + draw(st.binary(min_size=1, max_size=8)) + data[start:]
    if what == "overwrite":
        more = draw(st.binary(min_size=1, max_size=8))
        return data[:start] + more + data[start + len(more) :]
    if what == "deep":
        return b"[" * 5000 + data
    return b"" if what == "empty" else data + data


def encoded(document: Any) -> bytes:
    """JSON as a careless program writes it, NaN and half surrogate pairs included."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def damaged_json(document: Any) -> st.SearchStrategy[bytes]:
    """The bytes of a JSON file whose values or bytes are damaged."""
    return st.one_of(damaged(document).map(encoded), damaged_bytes(encoded(document)))
