"""What a build's source records of the frames that are described, to hold what is written of them against it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stcr_plugin.annotation.claim_check import claims
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.registry.ground_truth import check_pictures, config_of, source_of
from stcr_plugin.registry.manifest import Manifest, pair_files, pair_rows
from stcr_plugin.samples.annotations import UNCHECKED
from stcr_plugin.samples.cot import Phrases, load_phrases
from stcr_plugin.types import Claim, Episode, EpisodeSource, Pair, State

_Opened = tuple[EpisodeSource, Mapping[str, Episode], Phrases]
ClaimCheck = Callable[[str, str, int], str]
"""Text, episode and frame that it is about -> verdict."""


class Recorded:
    """The states of a build's source, read for a few episodes at a time.

    Attributes:
        unknown: Why nothing can be held against them, "" where it can.
    """

    def __init__(self, registry: Path, manifest: Manifest, split: str, *, language: str) -> None:
        self.unknown = ""
        self._opened: _Opened | None = None
        try:
            self._opened = _opened(registry, manifest, split, language=language)
        except StcrError as error:
            self.unknown = str(error)
            logging.getLogger(__name__).warning("what is written is not held against the recordings: %s", error)

    def checking(self, pairs: Sequence[Pair]) -> ClaimCheck:
        """The check of texts about the frames of `pairs`, whose states are read now."""
        if not self._opened:
            return unchecked
        source, episodes, phrases = self._opened
        states = _states(source, episodes, pairs)
        known: dict[str, dict[Claim, None]] = {}
        for (episode_id, _), state in states.items():
            known.setdefault(episode_id, {}).update(dict.fromkeys(source.claims(state)))

        def verdict(text: str, episode_id: str, frame: int) -> str:
            state, of_episode = states.get((episode_id, frame)), tuple(known.get(episode_id, ()))
            return claims(text, state, source, phrases=phrases, known=of_episode)

        return verdict


def _states(
    source: EpisodeSource, episodes: Mapping[str, Episode], pairs: Sequence[Pair]
) -> dict[tuple[str, int], State]:
    found: dict[tuple[str, int], State] = {}
    frames: dict[str, set[int]] = {}
    for pair in pairs:
        frames.setdefault(pair.episode_id, set()).update((pair.earlier, pair.later))
    for episode_id, wanted in frames.items():
        states = source.states(episodes[episode_id])
        found |= {
            (episode_id, frame): states[frame] for frame in sorted(wanted) if states is not None and frame < len(states)
        }
    return found


def unchecked(text: str, episode_id: str, frame: int) -> str:
    """The check where nothing is recorded."""
    return UNCHECKED


def _opened(registry: Path, manifest: Manifest, split: str, *, language: str) -> _Opened:
    """Raises ConfigError or DataError with the reason where nothing can be held against the states."""
    config = config_of(manifest)
    phrases = load_phrases(config.source.kind)
    if language not in phrases:
        raise ConfigError(f"language {language!r}", "has no texts for claims", nearest(language, list(phrases)))
    source, episodes = source_of(config, manifest.splits[split])
    first = _first_pair(registry, manifest, split)
    if source.states(episodes[first.episode_id]) is None:
        raise DataError(f"the source of {config.name}", "records no states")
    check_pictures(source, episodes[first.episode_id], first, rules=config.frames, registry=registry)
    return source, episodes, phrases[language]


def _first_pair(registry: Path, manifest: Manifest, split: str) -> Pair:
    for file in pair_files(manifest, split):
        for _, pair in pair_rows(registry / file, registry):
            return pair
    raise DataError(f"{manifest.name}, split {split}", "has no pairs")
