"""The texts of pairs that were published with some. Nobody says in which language they are, nor that they are true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stcr_plugin.samples.cot import published_halves
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.types import Episode, GivenPair, Pair, PairSource


def published(source: PairSource, episodes: Mapping[str, Episode], pairs: Sequence[Pair]) -> dict[str, tuple[str, str]]:
    """Pair id -> the published texts of the earlier and of the later picture, of the pairs that have both."""
    wanted = {pair.pair_id for pair in pairs}
    found = {
        f"{episode_id}:{given.earlier}-{given.later}": published_halves(given)
        for episode_id in sorted({pair.episode_id for pair in pairs})
        for given in source.given_pairs(episodes[episode_id])
    }
    return {name: halves for name, halves in found.items() if name in wanted and all(halves)}


def bad_text(pair: GivenPair) -> str | None:
    """Why a published pair's texts must not go into a conversation, or None. It may have no description."""
    texts = (pair.task, *(text for text in pair.descriptions if text))
    return next((reason for text in texts if (reason := why_unusable(text))), None)
