"""What of a text can be read as claims, held against the state that the source recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.annotations import FALSE_CLAIM, PASSED, UNCHECKED
from stcr_plugin.samples.cot import Phrases, claim_reader, load_phrases
from stcr_plugin.samples.sentences import sentences
from stcr_plugin.types import Claim, EpisodeSource, State

# "The gripper is open" says what the phrase "gripper open" does. Anything more in such a sentence makes it unreadable.
_PLAIN = (
    (re.compile(r"(?:the |its |a )?(?:robot's |robotic )?(.+?) (?:is|are) (.+)", re.I), r"\1 \2"),
    (re.compile(r"(?:机器人的)?([^，]+?)(?:是|处于|呈|为)([^，]+?)(?:的|状态)?"), r"\1\2"),
)


def phrases_of(kind: str, language: str) -> Phrases | None:
    """How a kind of source writes its claims in `language`; None where it has no texts, so that none can be read."""
    try:
        return load_phrases(kind).get(language)
    except ConfigError:
        return None


def claims(
    text: str, state: State | None, source: EpisodeSource, phrases: Phrases | None, *, known: Sequence[Claim] = ()
) -> str:
    """Verdict of the check `claims`: "passed", "unchecked" where nothing can be read, or "false claim: NAME = VALUE".

    A sentence is read where it is written as the claim texts of the source are, or as "The gripper is open". Other
    words are not read: a wrong reading would reject a right text.

    Args:
        text: About one picture.
        state: Recorded of its frame, None where there is none.
        source: Knows what holds.
        phrases: Its claim texts in the language of `text`, None for a source without any.
        known: Claims of other frames, whose values can be read too.
    """
    if state is None or phrases is None:
        return UNCHECKED
    read = claim_reader(source.kind, phrases, [*source.claims(state), *known])
    found = [claim for sentence in sentences(text) for claim in _read(sentence, phrases, read)]
    for claim in found:
        if not source.holds(claim, state):
            return f"{FALSE_CLAIM}: {claim.name} = {claim.value}"
    return PASSED if found else UNCHECKED


def _read(sentence: str, phrases: Phrases, read: Callable[[str], list[Claim | None]]) -> list[Claim]:
    """The claims of one sentence. A value alone, such as a phase, counts only in a sentence that is all claims."""
    pieces = sentence.rstrip(".。!！ ").split(phrases.separator)
    claims = [_first(read, piece) for piece in pieces]
    found = [one for one in claims if one is not None]
    named = [one for one in found if phrases.claims[one.name.partition(":")[0]].strip() != "{value}"]
    return found if named and len(found) == len(claims) else named


def _first(read: Callable[[str], list[Claim | None]], piece: str) -> Claim | None:
    """The claim of one piece: as it is written, with a small first letter, or as a plain sentence."""
    piece = piece.strip()
    written = [piece, piece[:1].lower() + piece[1:]]
    for pattern, phrase in _PLAIN:
        if found := pattern.fullmatch(written[1]):
            written.append(found.expand(phrase))
    return next((claim for one in written if (claim := read(one)[0] if one else None)), None)
