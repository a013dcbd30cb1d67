"""What two pictures show, in words: as a model described them itself, or as is true by their source's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.evaluation.ground_truth import config_of, source_of
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.results import ClaimAccount
from stcr_plugin.scoring.factuality import Described, Halves, Truth, factuality
from stcr_plugin.scoring.factuality import described as held_against
from stcr_plugin.types import Answer, Episode, EpisodeSource, Pair, PairSource, Prompt, Query, State

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import FrameRules
    from stcr_plugin.samples.cot import Phrases

Asked = tuple[Query, Prompt, Answer]
"""A query, how it was asked, and its answer."""


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
    phrases = _phrases(kind, language)
    states = _states(source, episodes)
    found = {}
    for pair in pairs.values():
        earlier, later = (
            phrases.say(source.claims(states[pair.episode_id][frame])) for frame in (pair.earlier, pair.later)
        )
        found[pair.pair_id] = (earlier, later)
    return found


def _phrases(kind: str, language: str) -> Phrases:
    from stcr_plugin.samples.cot import load_phrases

    texts_of = load_phrases(kind)
    if language not in texts_of:
        raise ConfigError(f"language {language!r}", "has no texts for claims", nearest(language, list(texts_of)))
    return texts_of[language]


def _states(source: EpisodeSource, episodes: Mapping[str, Episode]) -> dict[str, Sequence[State]]:
    """episode_id -> the states of its frames. Raises DataError for an episode without any."""
    states: dict[str, Sequence[State]] = {}
    for episode_id, episode in episodes.items():
        of_episode = source.states(episode)
        if of_episode is None:
            raise DataError(f"episode {episode_id}", "the source records no states of it")
        states[episode_id] = of_episode
    return states


def claim_account(request: EvalRequest, asked: Sequence[Asked], language: str) -> ClaimAccount:
    """What reasoned answers say of their pictures, held against the states of the build's source."""
    try:
        answers = held_against_truth(request, asked, language)
    except StcrError as error:
        return ClaimAccount(unknown=str(error))
    return ClaimAccount(factuality(answers, request.resamples, request.seed))


def held_against_truth(request: EvalRequest, asked: Sequence[Asked], language: str) -> list[Described]:
    """Every answer with its claims. Raises ConfigError or DataError with the reason where the truth is not known."""
    from stcr_plugin.registry.manifest import read_manifest
    from stcr_plugin.samples.cot import claim_reader

    config = config_of(read_manifest(request.registry, request.dataset))
    phrases = _phrases(config.source.kind, language)
    source, episodes = source_of(config, {query.pair.episode_id for query, _, _ in asked})
    first = asked[0][0].pair
    _check_pictures(source, episodes[first.episode_id], first, rules=config.frames, registry=request.registry)
    states = _states(source, episodes)

    def truth(query: Query, frame: int) -> Truth:
        state = states[query.pair.episode_id][frame]
        return Truth(source.claims(state), lambda claim: source.holds(claim, state))

    truths = []
    for query, _, _ in asked:
        shown = (query.pair.earlier, query.pair.later)
        first_frame, second_frame = shown if query.order == "forward" else shown[::-1]
        truths.append((truth(query, first_frame), truth(query, second_frame)))
    stated = [claim for both in truths for one in both for claim in one.claims]
    read = claim_reader(config.source.kind, phrases, stated)
    return [
        held_against(answer, prompt.names, both, read=read)
        for (_, prompt, answer), both in zip(asked, truths, strict=True)
    ]


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
