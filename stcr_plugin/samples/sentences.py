"""A text -> its sentences, so that each can be confirmed alone; and the parts of a stage's text."""

from __future__ import annotations

import re
import unicodedata

# The first never end a sentence; the others may, before a capital letter.
_ABBREVIATION = re.compile(r"approx|ca|cf|dr|e\.g|eg|i\.e|ie|fig|mrs?|ms|resp|vs", re.I)
_MAY_END = re.compile(r"etc|cm|mm|deg|[a-z]")
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|[。！？]+[”’」』）)]*|(?<=[^\d\s])[;；](?=\s|[\u4e00-\u9fff]|$)|\n+")
_LAST_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z](?:[A-Za-z.]*[A-Za-z])?$")
_PART = re.compile(r"(?<!\d),|,(?=\s)|[，、;；。！？\n]|[.!?](?=\s|$)")


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of an English or Chinese text, in their order, without white space around them.

    Decimals, abbreviations and an enumeration by commas stay whole; a semicolon and a line end one.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        if end[0].startswith(".") and not _ends(text, end):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    stripped = (part.strip(" \t\r\n;；") for part in [*found, text[start:]])
    return tuple(part for part in stripped if re.search(r"\w", part))


def _ends(text: str, stop: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: not behind an abbreviation or the number of a list."""
    before, after = text[: stop.start()], text[stop.end() :].lstrip()
    if not after:
        return True
    word = _LAST_WORD.search(before)
    if re.search(r"(?:^|[\n.!?]\s*)\d{1,2}$", before) or (word and _ABBREVIATION.fullmatch(word[0])):
        return False
    return not (word and _MAY_END.fullmatch(word[0]) and after[0].islower())


def missing_in(text: str, other: str) -> tuple[str, ...]:
    """The parts of `text`, between commas and sentence ends, that `other` does not have too.

    By this a stage's text is confirmed by what a second stage wrote of the same picture.
    """
    known = {_same(part) for part in _parts(other)}
    return tuple(part for part in _parts(text) if _same(part) not in known)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in _PART.split(text) if part.strip()]


def _same(part: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", part).casefold().split())
