"""Pairs of a shard -> rows of a training set: which of them, the text of each, and the check of what it claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import evenly
from stcr_plugin.registry.annotated_texts import count_texts, described
from stcr_plugin.registry.data_config import DataConfig, DatasetRule
from stcr_plugin.registry.group_rows import group_rows
from stcr_plugin.registry.manifest import count_rows
from stcr_plugin.registry.published_texts import published
from stcr_plugin.registry.receipts import Choice, Context, Rows, Shard
from stcr_plugin.samples.cot import Phrases, check_target, cot_sample, given_sample, load_phrases
from stcr_plugin.samples.frame_texts import FrameTexts
from stcr_plugin.samples.reflections import check_reflection, reflections, true_reasons, unshared_in, why_undecided
from stcr_plugin.samples.single_pictures import check_description, description, description_prompt
from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import ORDERS, Episode, EpisodeSource, Order, Pair, PairSource, Query, Sample, State, under

_Given = Mapping[str, Mapping[str, tuple[str, str]]]  # pair id -> language -> texts of the earlier and later picture


def samples(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, choice: Choice
) -> tuple[list[dict[str, Any]], Rows]:
    """The rows of a choice from `pairs` of the shard, in random order, and what they are.

    Without `choice.sharded` the shard is a whole split.
    """
    config, source, rule = context.config, context.source, context.config.datasets[choice.key]
    if rule.kind == "group":
        return group_rows(context, shard, pairs, choice=choice, phrases=phrases_of(config, source))
    episodes = {episode.episode_id: episode for episode in shard.episodes}
    inside = [pair for pair in pairs if choice.shortest <= pair.distance <= choice.longest]
    annotated = described(context, choice.key, shard) if choice.key in context.texts else None
    given: _Given | None = None
    if annotated is not None:
        given = {name: {one.language: (one.earlier, one.later) for one in of} for name, of in annotated.items()}
    elif rule.kind in ("cot", "reflect", "prefer") and isinstance(source, PairSource):
        texts = published(source, episodes, inside)
        given = {name: dict.fromkeys(rule.languages, halves) for name, halves in texts.items()}
    if given is not None:
        given = _reasons(given) if rule.kind == "reflect" else given
        inside = [pair for pair in inside if pair.pair_id in given and not _is_tied(rule, pair)]
    numbers = [shard.number] if choice.sharded else []
    parts = [choice.part] if rule.curriculum else []
    # In random order, so that any first part is a fair sample.
    order = artefacts.rng(config.seed, "dataset", rule.draw or choice.key, *numbers, *parts).permutation(len(inside))
    listed = [inside[position] for position in order.tolist()]
    chosen = listed[: choice.take]
    offers = config.pairs.ties == "teach"
    rows: list[dict[str, Any]] = []
    if rule.kind == "weak":
        for query, language in _queries(chosen, rule):
            rows.append(_row(weak_sample(query, language, config.seed, ties=offers), language))
        return rows, Rows(count_rows(rows), 0)
    if given is not None:
        used: dict[str, str] = {}
        for query, language in _queries(chosen, rule, given):
            used[query.pair.pair_id] = language
            halves = given[query.pair.pair_id][language]
            if rule.kind == "reflect":
                of_images = halves if query.order == "forward" else halves[::-1]
                both = reflections(query, of_images, language, seed=config.seed)
                rows += [_row(one, language) for one in both]
            else:
                rows.append(_row(given_sample(query, halves, language, seed=config.seed, ties=offers), language))
        return rows, Rows(count_rows(rows), 0, None if annotated is None else count_texts(annotated, used))
    by_language = phrases_of(config, source)
    states = _states(source, episodes, chosen)
    frames = FrameTexts(source, {name: by_language[name] for name in sorted(set(rule.languages))})

    def mute(pair: Pair) -> str:
        of_pair = _of_pair(states, pair)
        return why_mute(frames, of_pair, pair) or (
            why_undecided(source, pair, of_pair) if rule.kind == "reflect" else ""
        )

    if any(mute(pair) for pair in chosen):
        states = _states(source, episodes, listed)
        chosen = [pair for pair in listed if not mute(pair)][: choice.take]
    checked = 0
    for query, language in _queries(chosen, rule):
        shown = _shown(query, states)
        phrases = by_language[language]
        if rule.kind == "reflect":
            both = reflections(
                query, true_reasons(query, shown, source=source, phrases=phrases), language, seed=config.seed
            )
            checked += sum(check_reflection(one, shown, source=source, phrases=phrases) for one in both)
            rows += [_row(one, language) for one in both]
            continue
        made = cot_sample(query, shown, source, phrases=phrases, language=language, seed=config.seed, ties=offers)
        checked += check_target(made.target, query, shown, source=source, phrases=phrases)
        rows.append(_row(made, language))
    return rows, Rows(count_rows(rows), checked)


def _reasons(given: _Given) -> _Given:
    """What each text says and its pair's other one does not, of the pairs of which the two texts differ."""
    own = {
        name: {language: unshared for language, halves in of.items() if (unshared := unshared_in(halves))}
        for name, of in given.items()
    }
    return {name: of for name, of in own.items() if of}


def _is_tied(rule: DatasetRule, pair: Pair) -> bool:
    """Whether a dataset cannot use a pair since neither frame is closer."""
    return rule.kind == "reflect" and pair.closer == "neither"


@dataclass(frozen=True)
class _Frame:
    """One picture: a frame of `pair`."""

    pair: Pair
    frame: int
    image: str

    @property
    def episode_id(self) -> str:
        return self.pair.episode_id

    @property
    def item(self) -> str:
        return f"{self.episode_id}:{self.frame}"


def described_pictures(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, key: str
) -> tuple[list[dict[str, Any]], Rows]:
    """The rows of a dataset of kind describe about the pictures of `pairs`, each picture once; the shard is its split.

    They are spread evenly over the episodes, in random order: the first of each episode before any second.
    """
    config, source, rule = context.config, context.source, context.config.datasets[key]
    by_language = phrases_of(config, source)
    states = _states(source, {episode.episode_id: episode for episode in shard.episodes}, pairs)
    texts = FrameTexts(source, {name: by_language[name] for name in sorted(set(rule.languages))})
    shown = {
        (pair.episode_id, frame): _Frame(pair, frame, image)
        for pair in reversed(pairs)
        for frame, image in ((pair.later, pair.later_image), (pair.earlier, pair.earlier_image))
    }
    usable = [one for place, one in sorted(shown.items()) if not texts.why_not(states[place])]
    order = artefacts.rng(config.seed, "dataset", key).permutation(len(usable))
    rows: list[dict[str, Any]] = []
    checked = 0
    for number, one in enumerate(evenly([usable[at] for at in order.tolist()], rule.pictures, config.seed)):
        language = rule.languages[number % len(rule.languages)]
        state, phrases = states[one.episode_id, one.frame], by_language[language]
        target = description(phrases.say(source.claims(state)))
        where = f"episode {one.episode_id}, frame {one.frame}"
        checked += check_description(target, state, source, phrases=phrases, where=where)
        rows.append(
            {
                "messages": [
                    {
                        "role": "user",
                        "content": description_prompt(one.pair.task, language, one.item, seed=config.seed),
                    },
                    {"role": "assistant", "content": target},
                ],
                "images": [one.image],
                "pair_id": one.pair.pair_id,
                "episode_id": one.episode_id,
                "order": "",
                "answer": "",
                "kind": "describe",
                "language": language,
            }
        )
    return rows, Rows(count_rows(rows), checked)


def phrases_of(config: DataConfig, source: EpisodeSource) -> dict[str, Phrases]:
    """Language -> phrases of the source's claims, for the CoT datasets; empty where none are needed."""
    worded = {key: rule for key, rule in config.datasets.items() if rule.says_claims}
    if not worded or isinstance(source, PairSource):
        return {}
    by_language = load_phrases(config.source.kind)
    for key, rule in worded.items():
        for language in rule.languages:
            if language not in by_language:
                problem = f"there are no claim texts in {language!r}"
                raise ConfigError(f"datasets.{key}.languages", problem, nearest(language, list(by_language)))
    return by_language


def why_mute(texts: FrameTexts, states: Mapping[int, State] | Sequence[State], pair: Pair) -> str:
    """Why one of a pair's frames is not described, "" where both are."""
    return texts.why_not(states[pair.earlier]) or texts.why_not(states[pair.later])


def _queries(pairs: Sequence[Pair], rule: DatasetRule, given: _Given | None = None) -> Iterator[tuple[Query, str]]:
    """Each pair in the rule's orders, with its language: one of those that `given` has a text in."""
    for position, pair in enumerate(pairs):
        languages = [one for one in rule.languages if given is None or one in given[pair.pair_id]]
        for order in orders_of(rule, pair):
            yield Query(pair, order), languages[position % len(languages)]


def orders_of(rule: DatasetRule, pair: Pair) -> tuple[Order, ...]:
    """The orders in which a dataset shows a pair."""
    return {"both": ORDERS, "forward": ORDERS[:1], "backward": ORDERS[1:], "given": pair.orders}[rule.orders]


def _of_pair(states: Mapping[tuple[str, int], State], pair: Pair) -> dict[int, State]:
    return {frame: under(states[pair.episode_id, frame], pair.task) for frame in (pair.earlier, pair.later)}


def _states(
    source: EpisodeSource, episodes: Mapping[str, Episode], pairs: Sequence[Pair]
) -> dict[tuple[str, int], State]:
    """The states of all frames in `pairs`, read once per episode."""
    frames: dict[str, set[int]] = {}
    for pair in pairs:
        frames.setdefault(pair.episode_id, set()).update((pair.earlier, pair.later))
    found: dict[tuple[str, int], State] = {}
    for episode_id, wanted in frames.items():
        states = source.states(episodes[episode_id])
        if states is None:
            raise DataError(f"episode {episode_id}", "the source gives no states any more", "build again")
        found |= {(episode_id, frame): states[frame] for frame in sorted(wanted)}
    return found


def _shown(query: Query, states: Mapping[tuple[str, int], State]) -> tuple[State, State]:
    """The states of img1 and img2."""
    earlier, later = _of_pair(states, query.pair).values()
    return (earlier, later) if query.order == "forward" else (later, earlier)


def _row(sample: Sample, language: str) -> dict[str, Any]:
    """One row in LLaMA-Factory's sharegpt format, with the columns that `stcr data check` needs."""
    query = sample.query
    return {
        "messages": [
            {"role": "user", "content": sample.prompt},
            {"role": "assistant", "content": sample.target},
        ],
        "images": list(query.images),
        "pair_id": query.pair.pair_id,
        "episode_id": query.pair.episode_id,
        "order": query.order,
        "answer": query.answer,
        "kind": sample.kind,
        "language": language,
    }
