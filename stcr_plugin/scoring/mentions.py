"""Where a text names a picture, in English and Chinese: every mention becomes one private character.

So the rules of `parsing` do not depend on how pictures are named.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

_FIRST = 0xE000  # names[0]
OTHER = "\uf8ff"  # a picture with another name
MARK = "[\ue000-\uf8ff]"

_NUMBERS = {
    word: str(number)
    for words in (
        "one two three four five six seven eight nine ten",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
        "一 二 三 四 五 六 七 八 九 十",
    )
    for number, word in enumerate(words.split(), start=1)
}

# Patterns of NFKC-normalised text, in which full-width signs, letters and digits are plain ones.
_END = r"(?![a-z0-9])"
_AND = r"[ \t*`'\")]{0,4}(?:[,/&|、~-]|and|or|nor|to|than|vs\.?|和|与|或|跟|及)[ \t*`'\"(]{0,4}(?:the[ \t])?"


def _several(one: str) -> str:
    """A list of up to eight, as in "images 1 and 2" or "第一、二张图"."""
    return rf"{one}(?:{_AND}{one}){{0,7}}"


_ENGLISH, _CHINESE = r"(?:img|image|picture|pic|photo|frame)s?", r"(?:图片|图像|照片|画面|影像|图|帧)"
_NOUN = rf"(?:(?<![a-z0-9]){_ENGLISH}|{_CHINESE})[ \t_#*`'\"(-]{{0,4}}"
_DIGITS = rf"[0-9]+{_END}"
_WORD = rf"(?:one|two|three|four|five|six|seven|eight|nine|ten){_END}"
_HAN = r"(?:[0-9]+|[一二三四五六七八九十]+)"
_SURE_HAN = r"[一二三四五六七八九十]+(?![下些个样起直次边面定致])"  # 图一下 is not picture 1
_ORDINAL = rf"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|[0-9]+(?:st|nd|rd|th)){_END}"
_PLACE = (
    rf"{_NOUN}(?P<number>{_several(_DIGITS)}|{_several(_WORD)}|{_several(_SURE_HAN)})"
    rf"|(?<![a-z0-9])(?P<ordinal>{_several(_ORDINAL)})[ \t_*`'\"-]{{1,4}}(?:%s){_END}"
    rf"|第[ \t]?(?P<han>{_several(f'第?{_HAN}')})[ \t]?"
    rf"(?:(?:[幅帧副]|张(?![桌床椅纸])){_CHINESE}?|个?[ \t]?{_CHINESE})"
)
_PLACES = re.compile(_PLACE % _ENGLISH, re.I)
_PLACES_DECIDING = re.compile(_PLACE % f"{_ENGLISH}|one", re.I)
_ALONE = re.compile(rf"[\W_]*(?:the[ \t])?(?P<number>{_ORDINAL}|第{_HAN})[\W_]*", re.I)
_TOKEN = re.compile(rf"{_ORDINAL}|{_DIGITS}|{_WORD}|{_HAN}", re.I)

# "A cup is held" opens with an article, "A is closer" with an answer.
_VERBS = "is|was|has|had|looks?|seems?|appears?|shows?|or|and|nor|because|since|as|than|with|where|but|not|then|over|vs"
_NO_ARTICLE = rf"(?![aA][ \t]+(?!(?:{_VERBS})(?![a-z]))[a-z])"
_NO_WORD = r"(?![A-Za-z0-9]|-[a-z])"  # nor a part of one, as in "A-frame"
_CALLED = rf"{_NO_ARTICLE}[a-hA-H]{_NO_WORD}"
_LETTERS = re.compile(
    rf"(?i:{_NOUN})(?P<called>{_several(_CALLED)})"
    rf"|(?<![A-Za-z0-9])(?<![a-z][-/]){_NO_ARTICLE}(?P<letter>[A-H]){_NO_WORD}"
)
_ALONE_LETTER = re.compile(r"[\W_]*([a-hA-H])[\W_]*")


def normal(text: str) -> str:
    """`text` in NFKC without private characters, and with plain line ends."""
    return "\n".join(re.sub(MARK, " ", unicodedata.normalize("NFKC", text)).splitlines())


def marked(text: str, pictures: Sequence[str], deciding: bool = False) -> str:
    """`text` with every mention of a picture replaced by `mark` of its index in `pictures`, else by OTHER.

    Args:
        text: A text from `normal`.
        pictures: The names. Where they are positions or letters, a picture may also be named by its position
            ("image 2", "the second picture", 第二张图).
        deciding: The line can name nothing but a picture: "the second one", and a position or a letter of either case
            alone in the line, is a mention too.
    """
    if not are_pictures(pictures):
        return _as_written(text, pictures)
    known = {name: mark(index) for index, name in enumerate(pictures)}
    places = _places(pictures)
    if not places:
        places = {str(number): mark for number, mark in enumerate(known.values(), start=1)}
        if deciding and (letter := _ALONE_LETTER.fullmatch(text)):
            return known.get(letter[1].upper(), OTHER)
        text = _LETTERS.sub(lambda found: _listed(_letters(found["called"] or found["letter"]), known), text)
    if deciding and (alone := _ALONE.fullmatch(text)):
        return _listed(_numbers(alone["number"]), places)
    pattern = _PLACES_DECIDING if deciding else _PLACES
    return pattern.sub(lambda found: _listed(_numbers(_of(found)), places), text)


def are_pictures(names: Sequence[str]) -> bool:
    """Whether the names are positions or letters; others, such as "yes" and "no", are searched as they are written."""
    return bool(names) and (all(re.fullmatch("[A-H]", name) for name in names) or bool(_places(names)))


def mark(index: int) -> str:
    return chr(_FIRST + index)


def marks(text: str) -> list[str]:
    """The marks in a marked text, in order."""
    return re.findall(MARK, text)


def index(mark: str) -> int:
    """The index of the name behind a mark other than OTHER."""
    return ord(mark) - _FIRST


def _listed(said: Sequence[str], known: Mapping[str, str]) -> str:
    return ",".join(known.get(one, OTHER) for one in said)


def _of(found: re.Match[str]) -> str:
    return str(found["number"] or found["ordinal"] or found["han"])


def _numbers(text: str) -> list[str]:
    """The numbers in "1 and 2", "first or second", 一、二: as digits without leading zeros."""
    return [_NUMBERS.get(word, word.rstrip("stndrh").lstrip("0")) for word in _TOKEN.findall(text.lower())]


def _letters(text: str) -> list[str]:
    return re.findall(r"(?<![A-Z])[A-H](?![A-Z])", text.upper())


def _places(pictures: Sequence[str]) -> dict[str, str]:
    """Number -> mark, where each of the names is one position ("img1", "second picture", 帧1); {} where one is not."""
    found = [_PLACES.fullmatch(normal(name)) for name in pictures]
    said = [_numbers(_of(one)) if one else [] for one in found]
    return {one[0]: mark(index) for index, one in enumerate(said)} if all(len(one) == 1 for one in said) else {}


def _as_written(text: str, pictures: Sequence[str]) -> str:
    """Names that are neither positions nor letters, as whole words; where one is part of another, the longer counts."""
    longest = sorted(range(len(pictures)), key=lambda index: -len(pictures[index]))
    words = "|".join(rf"({re.escape(normal(pictures[index]))})" for index in longest)
    if not words:
        return text
    pattern = re.compile(rf"(?<![a-z0-9])(?:{words}){_END}", re.I)
    return pattern.sub(lambda found: mark(longest[(found.lastindex or 1) - 1]), text)
