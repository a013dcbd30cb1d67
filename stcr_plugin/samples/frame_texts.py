"""Which frames of a source can be described in words that read back as the same claims, and why others cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stcr_plugin.errors import DataError
from stcr_plugin.samples.cot import Phrases
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.types import Claim, EpisodeSource, State

NO_STAGE = "no annotated stage covers the frame"
_OF_THE_ANSWER = re.compile(r"[\r\n]|\bimg\s*\d|closer to completion|spatial details", re.IGNORECASE)


class FrameTexts:
    """The texts of a source's frames, in all the languages of `phrases`."""

    def __init__(self, source: EpisodeSource, phrases: Mapping[str, Phrases]) -> None:
        self._source = source
        self._phrases = phrases
        self._known: dict[tuple[Claim, ...], str] = {}

    def why_not(self, state: State) -> str:
        """Why a frame with that state is not described, "" where it is. Raises DataError for a claim without a phrase.

        Values of claims may be free text, such as an annotated stage. A text that cannot be read back exactly, that
        looks like a part of the answer, or that a tokenizer reads as a special token, is not used.
        """
        claims = self._source.claims(state)
        if claims not in self._known:
            self._known[claims] = self._problem(claims) if claims else NO_STAGE
        return self._known[claims]

    def _problem(self, claims: tuple[Claim, ...]) -> str:
        for phrases in self._phrases.values():
            text = phrases.say(claims)
            shown = next((repr(str(claim.value)[:60]) for claim in claims if claim.name == "stage"), repr(text[:60]))
            if why_unusable(text):
                return f"the text {shown} holds a media or chat marker"
            if _OF_THE_ANSWER.search(text):
                return f"the text {shown} looks like a part of the answer"
            try:
                same = phrases.read(text) == claims
            except DataError:
                same = False
            if not same:
                return f"the text {shown} cannot be read back exactly"
        return ""
