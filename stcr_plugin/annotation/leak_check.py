"""Whether a text about one picture gives away its time: by words of time, of order, or of progress."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

from stcr_plugin.config import from_mapping, read_yaml, settings
from stcr_plugin.samples.annotations import PASSED

WORDS = Path(__file__).parent / "leak_words.yaml"


@settings
class LeakWords:
    """The patterns of one reason; see the file for what each is."""

    en: tuple[str, ...]
    zh: tuple[str, ...]
    innocent: tuple[str, ...]


def leak(text: str) -> str:
    """Verdict of the check `leak`: "passed", or "REASON: word" of the first word that leaks.

    English and Chinese words are both searched, whatever the language of `text`: teachers mix them.
    """
    plain = " ".join(_normal(text).replace("’", "'").split()).lower()
    for reason, (innocent, words) in _patterns().items():
        if found := words.search(innocent.sub(lambda place: " _ ", plain)):
            return f"{reason}: {found[0].strip()}"
    return PASSED


def _normal(text: str) -> str:
    """Full-width letters, digits and signs as plain ones, in texts and in patterns alike."""
    return unicodedata.normalize("NFKC", text)


@cache
def _patterns() -> dict[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    """Reason -> (innocent uses, leaking words)."""
    found = {}
    for reason, values in read_yaml(WORDS).items():
        words = from_mapping(LeakWords, values, f"{WORDS}, {reason}")
        english = rf"(?<![a-z0-9-])(?:{'|'.join(words.en)})(?![a-z0-9-])"
        found[reason] = (
            re.compile("|".join(rf"(?<![a-z]){one}(?![a-z])" for one in words.innocent)),
            re.compile("|".join([english, *(_normal(one) for one in words.zh)])),
        )
    return found
