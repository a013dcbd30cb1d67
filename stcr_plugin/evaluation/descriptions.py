"""What two pictures show, in words: as a model described them itself, or as is true by their source's states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.ground_truth import check_pictures, config_of, source_of
from stcr_plugin.results import ClaimAccount
from stcr_plugin.scoring.factuality import Described, Halves, Truth, factuality
from stcr_plugin.scoring.factuality import described as held_against
from stcr_plugin.types import Answer, Claim, Episode, EpisodeSource, Pair, PairSource, Prompt, Query, State, under

if TYPE_CHECKING:
    from stcr_plugin.registry.manifest import Manifest
    from stcr_plugin.samples.cot import Phrases

_SILENT = "states nothing about the frames of these pairs"
Asked = tuple[Query, Prompt, Answer]
"""A query, how it was asked, and its answer."""


@dataclass(frozen=True)
class Told:
    """What pictures show.

    Attributes:
        halves: (pair_id, order) -> what img1 and img2 show.
        origin: Who says so, where it is not the recorded state: such texts are not known to be true.
    """

    halves: Mapping[tuple[str, str], Halves]
    origin: str = ""


def true(registry: Path, dataset: str, queries: Sequence[Query], language: str) -> Told:
    """What the pictures show, from the states that the source of the build `dataset` records.

    As the CoT samples of such a source say it, and of published pairs, as their publishers describe them. Where neither
    says anything: as the annotated texts of the build's datasets do, of the pairs that have some.

    Raises ConfigError or DataError with the reason where nothing can be said: the source records nothing that can be
    put in words of `language`, does not exist any more, or gives other pictures than those of the build.
    """
    from stcr_plugin.registry.manifest import read_manifest

    manifest = read_manifest(registry, dataset)
    config, origin = config_of(manifest), ""
    pairs = {query.pair.pair_id: query.pair for query in queries}
    source, episodes = source_of(config, {pair.episode_id for pair in pairs.values()})
    first = next(iter(pairs.values()))
    check_pictures(source, episodes[first.episode_id], first, rules=config.frames, registry=registry)
    try:
        if isinstance(source, PairSource):
            texts = _published(source, episodes, pairs)
            origin = "as the publishers of the pairs describe them, which is not checked"
        else:
            texts = _worded(source, config.source.kind, language, episodes=episodes, pairs=pairs)
    except (ConfigError, DataError):
        texts = _annotated(registry, manifest, pairs, language=language)
        origin = "as annotated by a model, which no recorded state says to be true"
        if not texts:
            raise
    found = {}
    for query in queries:
        if query.pair.pair_id in texts:
            earlier, later = texts[query.pair.pair_id]
            found[query.pair.pair_id, str(query.order)] = (
                (earlier, later) if query.order == "forward" else (later, earlier)
            )
    return Told(found, origin)


def _annotated(registry: Path, manifest: Manifest, pairs: Mapping[str, Pair], *, language: str) -> dict[str, Halves]:
    """pair_id -> the annotated texts of the earlier and of the later picture, of the pairs that a dataset has."""
    from stcr_plugin.registry.manifest import dataset_rows, turns_of
    from stcr_plugin.samples.cot import halves_of

    splits = {pair.split for pair in pairs.values()}
    found: dict[str, Halves] = {}
    for dataset in manifest.texts:
        for row in dataset_rows(registry, dataset) if manifest.rules[dataset].split in splits else ():
            if row["pair_id"] in pairs and row["language"] == language:
                halves = halves_of(turns_of(row)[-1]["content"])
                if halves:
                    found[row["pair_id"]] = halves if row["order"] == "forward" else halves[::-1]
    return found


def _worded(
    source: EpisodeSource, kind: str, language: str, episodes: Mapping[str, Episode], pairs: Mapping[str, Pair]
) -> dict[str, Halves]:
    """pair_id -> the earlier and the later frame in words."""
    phrases = _phrases(kind, language)
    states = _states(source, episodes)
    found = {}
    for pair in pairs.values():
        said = [source.claims(under(states[pair.episode_id][frame], pair.task)) for frame in (pair.earlier, pair.later)]
        if all(said):
            found[pair.pair_id] = (phrases.say(said[0]), phrases.say(said[1]))
    if not found:
        raise DataError("the source", _SILENT)
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


@dataclass(frozen=True)
class TrueStates:
    """What is true of the frames of some pairs, by the states that their source records.

    Attributes:
        of: (pair_id, frame) -> what is true of it.
        read: The claims that a text states, None for a piece that cannot be read.
    """

    of: Mapping[tuple[str, int], Truth]
    read: Callable[[str], Sequence[Claim | None]]

    def against(self, query: Query, prompt: Prompt, answer: Answer) -> Described:
        """An answer to a query of these pairs, with its claims."""
        frames = (query.pair.earlier, query.pair.later)
        one, two = (self.of[query.pair.pair_id, frame] for frame in frames)
        return held_against(
            answer, prompt.names, (one, two) if query.order == "forward" else (two, one), read=self.read
        )


def claim_account(request: EvalRequest, asked: Sequence[Asked], language: str) -> ClaimAccount:
    """What reasoned answers say of their pictures, held against the states of the build's source."""
    try:
        answers = held_against_truth(request, asked, language)
    except StcrError as error:
        return ClaimAccount(unknown=str(error))
    return ClaimAccount(factuality(answers, request.resamples, request.seed))


def held_against_truth(request: EvalRequest, asked: Sequence[Asked], language: str) -> list[Described]:
    """Every answer with its claims. Raises ConfigError or DataError with the reason where the truth is not known."""
    truth = true_states(request.registry, request.dataset, [query.pair for query, _, _ in asked], language=language)
    return [truth.against(query, prompt, answer) for query, prompt, answer in asked]


def true_states(registry: Path, dataset: str, pairs: Sequence[Pair], *, language: str) -> TrueStates:
    """What is true of the frames of `pairs` of a build. Raises ConfigError or DataError where that is not known."""
    from stcr_plugin.registry.manifest import read_manifest
    from stcr_plugin.samples.cot import claim_reader

    config = config_of(read_manifest(registry, dataset))
    phrases = _phrases(config.source.kind, language)
    source, episodes = source_of(config, {pair.episode_id for pair in pairs})
    check_pictures(source, episodes[pairs[0].episode_id], pairs[0], rules=config.frames, registry=registry)
    states = _states(source, episodes)

    def truth(pair: Pair, frame: int) -> Truth:
        state = under(states[pair.episode_id][frame], pair.task)
        return Truth(source.claims(state), lambda claim: source.holds(claim, state))

    truths = {(pair.pair_id, frame): truth(pair, frame) for pair in pairs for frame in (pair.earlier, pair.later)}
    stated = [claim for one in truths.values() for claim in one.claims]
    if not stated:
        raise DataError("the source", _SILENT)
    return TrueStates(truths, claim_reader(config.source.kind, phrases, stated))


def _published(source: PairSource, episodes: Mapping[str, Episode], pairs: Mapping[str, Pair]) -> dict[str, Halves]:
    """pair_id -> the published descriptions of the earlier and of the later picture, where both are there."""
    from stcr_plugin.registry.published_texts import published

    found = published(source, episodes, list(pairs.values()))
    if not found:
        raise DataError("the published pairs", "have no descriptions")
    return found
