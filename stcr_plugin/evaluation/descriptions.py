"""What two pictures show, in words: as a model described them itself, or as is true by their source's states."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.ground_truth import config_of, source_of
from stcr_plugin.types import Episode, EpisodeSource, Pair, PairSource, Query

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import FrameRules

Halves = tuple[str, str]
"""What the first and the second picture of a prompt show."""

_JUDGMENT = re.compile(r"closer[\s_-]+to[\s_-]+completion", re.IGNORECASE)


def described(halves: Halves, names: Sequence[str]) -> str:
    """The halves as CoT samples write them: `img1: ... img2: ...` with the names that the pictures have."""
    return f"{names[0]}: {halves[0]}. {names[1]}: {halves[1]}."


def own(text: str, names: Sequence[str]) -> Halves | None:
    """What `text`, a reasoned answer, says of each picture, without its judgment; None where it says nothing of one."""
    before = _JUDGMENT.split(text, maxsplit=1)[0]
    heads = [re.search(rf"(?<!\w){re.escape(name)}[\"'`*_]*\s*[:：]", before, re.IGNORECASE) for name in names[:2]]
    first, second = heads
    if first is None or second is None or second.start() < first.end():
        return None
    halves = (before[first.end() : second.start()], before[second.end() :])
    one, two = (" ".join(half.split()).strip(" \"'`*_{},").rstrip(".。") for half in halves)
    return (one, two) if one and two else None


def true(registry: Path, dataset: str, queries: Sequence[Query], language: str) -> dict[tuple[str, str], Halves]:
    """(pair_id, order) -> what its pictures show, from the states that the source of the build `dataset` records.

    Worded as the CoT samples of such a source are; of published pairs, as their publishers describe them, where they
    do. Raises ConfigError or DataError with the reason where nothing true can be said: the source records no states,
    has no texts in `language`, does not exist any more, or gives other pictures than those of the build.
    """
    from stcr_plugin.registry.manifest import read_manifest

    config = config_of(read_manifest(registry, dataset))
    pairs = {query.pair.pair_id: query.pair for query in queries}
    source, episodes = source_of(config, {pair.episode_id for pair in pairs.values()})
    first = next(iter(pairs.values()))
    _check_pictures(source, episodes[first.episode_id], first, rules=config.frames, registry=registry)
    if isinstance(source, PairSource):
        texts = _published(source, episodes, pairs)
    else:
        texts = _worded(source, config.source.kind, language, episodes=episodes, pairs=pairs)
    found = {}
    for query in queries:
        if query.pair.pair_id in texts:
            earlier, later = texts[query.pair.pair_id]
            found[query.pair.pair_id, str(query.order)] = (
                (earlier, later) if query.order == "forward" else (later, earlier)
            )
    return found


def _check_pictures(source: EpisodeSource, episode: Episode, pair: Pair, rules: FrameRules, registry: Path) -> None:
    """Raises DataError where the source shows something else now, so that its states are not those of the build."""
    from stcr_plugin.registry.picture_store import encode, fingerprint, read

    frames = [pair.earlier, pair.later] if pair.later < episode.n_frames else []
    now = [fingerprint(encode(picture, rules)) for picture in source.frames(episode, frames)]
    if now != [fingerprint(read(registry, image)) for image in (pair.earlier_image, pair.later_image)]:
        raise DataError(
            f"pair {pair.pair_id}",
            "the source gives other pictures than those that were built, so its states are not theirs",
            "build again",
        )


def _worded(
    source: EpisodeSource, kind: str, language: str, episodes: Mapping[str, Episode], pairs: Mapping[str, Pair]
) -> dict[str, Halves]:
    """pair_id -> the earlier and the later frame in words."""
    from stcr_plugin.samples.cot import load_phrases

    texts_of = load_phrases(kind)
    if language not in texts_of:
        raise ConfigError(f"language {language!r}", "has no texts for claims", nearest(language, list(texts_of)))
    states = {episode_id: source.states(episode) for episode_id, episode in episodes.items()}
    found = {}
    for pair in pairs.values():
        of_episode = states[pair.episode_id]
        if of_episode is None:
            raise DataError(f"episode {pair.episode_id}", "the source records no states of it")
        earlier, later = (
            texts_of[language].say(source.claims(of_episode[frame])) for frame in (pair.earlier, pair.later)
        )
        found[pair.pair_id] = (earlier, later)
    return found


def _published(source: PairSource, episodes: Mapping[str, Episode], pairs: Mapping[str, Pair]) -> dict[str, Halves]:
    """pair_id -> the published descriptions of the earlier and of the later picture, where both are there."""
    from stcr_plugin.samples.cot import published_halves

    given = {
        (episode.episode_id, one.earlier, one.later): published_halves(one)
        for episode in episodes.values()
        for one in source.given_pairs(episode)
    }
    found = {}
    for pair in pairs.values():
        texts = given.get((pair.episode_id, pair.earlier, pair.later), ("", ""))
        if all(texts):
            found[pair.pair_id] = texts
    if not found:
        raise DataError("the published pairs", "have no descriptions")
    return found
