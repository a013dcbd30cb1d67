"""One piece of a build's work: some episodes of one split, taken from pairs to pictures to training samples.

Every step is a function of the configuration and the shard alone, writes its files whole under `staging`, and last a
receipt that says what it did. So steps may run in any process, on any machine that sees the registry, in any order;
a step with a receipt is done; and the bytes are the same however the work was spread.

    drawn/00003.parquet      its pairs, before a picture was read
    pairs/00003.parquet      its pairs, with their pictures' names, without episodes that could not be read
    frames/00003.parquet     its pictures: size, checksum, perceptual hash
    <dataset>/00003.parquet  its training samples
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import draw_pairs, take_given
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import parquet, picture_store
from stcr_plugin.registry.data_config import DataConfig, DatasetRule
from stcr_plugin.samples.cot import Wording, check_target, cot_sample, given_sample, is_described, load_wordings
from stcr_plugin.samples.questions import unusable
from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import (
    ORDERS,
    Episode,
    EpisodeSource,
    Exclusion,
    GivenPair,
    Omission,
    Order,
    Pair,
    PairSource,
    Query,
    Sample,
    State,
)

Receipt = dict[str, Any]
_MUTE = "published without a description of each picture; only kind: weak can use it"
_AHEAD = 4  # pictures that wait to be encoded, so that a slow encoder does not fill the memory


class Place(NamedTuple):
    """Where a build works: the registry folder, its staging folder inside, and the folder of its pictures (relative).

    Settled once, at the start: a worker that began later may have loaded newer code, whose digest names another folder.
    """

    registry: Path
    staging: Path
    pictures: str


@dataclass(frozen=True)
class Shard:
    """Some episodes of one split; `number` is its place among all shards of the build."""

    number: int
    split: str
    episodes: tuple[Episode, ...]

    @property
    def file(self) -> str:
        return f"{self.number:05d}.parquet"


@dataclass(frozen=True)
class Choice:
    """Which of a shard's pairs go into a dataset: `take` of them, `shortest` to `longest` native frames apart."""

    key: str
    take: int
    shortest: int
    longest: int
    sharded: bool
    part: int = 0


def draw(config: DataConfig, source: EpisodeSource, place: Place, shard: Shard) -> Receipt:
    """Draw the shard's pairs. No picture is decoded."""
    described = [key for key, rule in config.datasets.items() if (rule.split, rule.kind) == (shard.split, "cot")]
    pairs: list[Pair] = []
    kept: list[str] = []
    excluded: list[Exclusion] = []
    tied = unlabelled = mute = 0
    for episode in shard.episodes:
        bad: dict[GivenPair, str] = {}
        try:
            states = source.states(episode)
            if isinstance(source, PairSource):
                given = source.given_pairs(episode)
                bad = {one: reason for one in given if (reason := _bad_text(one))}
                sound = [one for one in given if one not in bad]
                drawn = take_given(episode, states, sound, rules=config.pairs, split=shard.split)
            else:
                drawn = draw_pairs(episode, states, config.pairs, split=shard.split, seed=config.seed)
        except DataError as error:
            excluded.append(set_aside(Exclusion("episode", episode.episode_id, str(error)), config))
            continue
        for one, reason in bad.items():
            where = f"episode {episode.episode_id}, frames {one.earlier}-{one.later}"
            excluded.append(set_aside(Exclusion("pair", where, reason), config))
        for pair in drawn.pairs if described and not isinstance(source, PairSource) else ():
            if states is None or not source.claims(states[pair.earlier]):
                raise ConfigError(
                    f"datasets.{described[0]}.kind: the source says nothing of episode {episode.episode_id} that "
                    "could be described; use kind: weak, or complete `source`"
                )
        if described and isinstance(source, PairSource):
            told = _given(source, {episode.episode_id: episode}, drawn.pairs)
            for pair in drawn.pairs:
                if not is_described(told[pair.pair_id]):
                    where = f"episode {episode.episode_id}, frames {pair.earlier}-{pair.later}"
                    excluded.append(set_aside(Exclusion("description", where, _MUTE), config))
                    mute += 1
        pairs += drawn.pairs
        kept.append(episode.episode_id)
        excluded += drawn.excluded
        tied, unlabelled = tied + drawn.tied, unlabelled + drawn.unlabelled
    parquet.write(place.staging / "drawn" / shard.file, [vars(pair) for pair in pairs], parquet.PAIRS)
    return {
        "episodes": kept,
        "pairs": len(pairs),
        "described": len(pairs) - mute,
        "dropped": {"tied": tied, "unlabelled": unlabelled},
        "excluded": [dataclasses.asdict(item) for item in excluded],
    }


def picture(config: DataConfig, source: EpisodeSource, place: Place, shard: Shard) -> Receipt:
    """Write every picture that a pair of the shard uses, once; set episodes aside that cannot be read."""
    by_episode: dict[str, list[Pair]] = {}
    for pair in shard_pairs(place.staging / "drawn" / shard.file):
        by_episode.setdefault(pair.episode_id, []).append(pair)
    folder = place.pictures
    tar = picture_store.TarWriter(place.registry, f"{folder}/{shard.number:05d}.tar") if in_tar(config) else None
    pairs: list[Pair] = []
    index: list[dict[str, Any]] = []
    kept: list[str] = []
    excluded: list[Exclusion] = []
    for episode in shard.episodes:
        listed = by_episode.get(episode.episode_id, [])
        wanted = sorted({frame for pair in listed for frame in (pair.earlier, pair.later)})
        try:
            if config.frames.format == "none":
                shown = {frame: (f"{folder}/{episode.episode_id}/{frame:06d}.none", b"") for frame in wanted}
            elif tar is not None:
                # All of an episode before any: one that cannot be read leaves nothing in the tar.
                read = list(_encoded(config, source, episode, wanted))
                suffix = picture_store.SUFFIX[config.frames.format]
                shown = {
                    frame: (tar.add(f"{episode.episode_id}/{frame:06d}{suffix}", data), data) for frame, data in read
                }
            else:
                shown = dict(_in_folder(config, source, episode, wanted, place.registry, folder))
        except UnreadableError as error:
            excluded.append(set_aside(Exclusion("episode", episode.episode_id, str(error)), config))
            shutil.rmtree(place.registry / folder / episode.episode_id, ignore_errors=True)
            continue
        except BaseException:
            if tar is not None:
                tar.abandon()
            raise
        kept.append(episode.episode_id)
        index += [_indexed(*shown[frame], episode, frame) for frame in wanted]
        pairs += [
            Pair(**{**vars(pair), "earlier_image": shown[pair.earlier][0], "later_image": shown[pair.later][0]})
            for pair in listed
        ]
    if tar is not None:
        tar.close()
    elif config.frames.format != "none":
        os.sync()  # a receipt must not outlive its pictures; flushed one by one they would take 30 times as long
    parquet.write(place.staging / "pairs" / shard.file, [vars(pair) for pair in pairs], parquet.PAIRS)
    parquet.write(place.staging / "frames" / shard.file, index, parquet.FRAMES)
    return {
        "episodes": kept,
        "frames": len(index),
        "counts": manifests.count_pairs(pairs, kept),
        "excluded": [dataclasses.asdict(item) for item in excluded],
    }


def tell(config: DataConfig, source: EpisodeSource, place: Place, shard: Shard, choices: Sequence[Choice]) -> Receipt:
    """Write the shard's training samples, a Parquet file a choice."""
    pairs = list(shard_pairs(place.staging / "pairs" / shard.file))
    receipts = {}
    for choice in choices:
        rows, checked = samples(config, source, [(shard, pairs)], choice)
        parquet.write(place.staging / part_file(config, choice, shard), rows, parquet.SAMPLES)
        receipts[f"{choice.key}/{choice.part}"] = {"counts": manifests.count_rows(rows), "claims_checked": checked}
    return receipts


def part_file(config: DataConfig, choice: Choice, shard: Shard) -> str:
    """Where a shard's samples of a choice stand, relative to the build's folder: parts of a curriculum come first."""
    return f"{manifests.dataset_name(config.name, choice.key)}/{choice.part:02d}-{shard.file}"


def samples(
    config: DataConfig, source: EpisodeSource, pairs_of: Iterable[tuple[Shard, Sequence[Pair]]], choice: Choice
) -> tuple[list[dict[str, Any]], int]:
    """The rows of a dataset's choice from the pairs of some shards, in random order; how many claims were checked."""
    rule = config.datasets[choice.key]
    listed = list(pairs_of)
    episodes = {episode.episode_id: episode for shard, _ in listed for episode in shard.episodes}
    inside = [pair for _, pairs in listed for pair in pairs if choice.shortest <= pair.distance <= choice.longest]
    given = _given(source, episodes, inside) if rule.kind == "cot" and isinstance(source, PairSource) else None
    if given is not None:
        inside = [pair for pair in inside if is_described(given[pair.pair_id])]
    # A dataset in one file is drawn from all its pairs; one in shards from each shard, by a seed of its own.
    numbers = [shard.number for shard, _ in listed] if choice.sharded else []
    parts = [choice.part] if rule.curriculum else []
    chosen = _chosen(inside, choice.take, [config.seed, "dataset", rule.draw or choice.key, *numbers, *parts])
    offers = config.pairs.ties == "teach"
    if rule.kind == "weak":
        return [
            _row(weak_sample(query, language, config.seed, ties=offers), language)
            for query, language in _queries(chosen, rule)
        ], 0
    if given is not None:
        return [
            _row(given_sample(query, given[query.pair.pair_id], language, seed=config.seed, ties=offers), language)
            for query, language in _queries(chosen, rule)
        ], 0
    wordings = wordings_of(config, source)
    states = _states(source, episodes, chosen)
    rows, checked = [], 0
    for query, language in _queries(chosen, rule):
        shown = _shown(query, states)
        wording = wordings[language]
        sample = cot_sample(query, shown, source, wording=wording, language=language, seed=config.seed, ties=offers)
        checked += check_target(sample.target, query, shown, source=source, wording=wording)
        rows.append(_row(sample, language))
    return rows, checked


def wordings_of(config: DataConfig, source: EpisodeSource) -> dict[str, Wording]:
    """Language -> wording of the source's claims, for the CoT datasets; empty where none are needed."""
    described = {key: rule for key, rule in config.datasets.items() if rule.kind == "cot"}
    if not described or isinstance(source, PairSource):
        return {}
    wordings = load_wordings(config.source.kind)
    for key, rule in described.items():
        for language in rule.languages:
            if language not in wordings:
                near = nearest(language, list(wordings))
                raise ConfigError(f"datasets.{key}.languages: no claims are worded in {language!r}, {near}")
    return wordings


def in_tar(config: DataConfig) -> bool:
    return config.frames.store == "tar" and config.frames.format != "none"


class UnreadableError(DataError):
    """A picture that the source cannot give, told apart from a disk that is full, which is no fault of the episode."""


def _encoded(
    config: DataConfig, source: EpisodeSource, episode: Episode, frames: Sequence[int]
) -> Iterator[tuple[int, bytes]]:
    """Each frame with its encoded picture; one is encoded while the decoder is at the next ones."""
    waiting: deque[tuple[int, Future[bytes]]] = deque()
    shown = source.frames(episode, frames) if frames else iter(())
    with ThreadPoolExecutor(1) as encoder:
        for frame in frames:
            try:
                array = next(shown, None)
            except DataError as error:
                raise UnreadableError(str(error)) from None
            if array is None:
                raise UnreadableError(f"the source gave no picture for frame {frame}")
            waiting.append((frame, encoder.submit(picture_store.encode, array, config.frames)))
            if len(waiting) > _AHEAD:
                done, encoded = waiting.popleft()
                yield done, encoded.result()
        for done, encoded in waiting:
            yield done, encoded.result()


def _in_folder(
    config: DataConfig, source: EpisodeSource, episode: Episode, frames: Sequence[int], registry: Path, folder: str
) -> Iterator[tuple[int, tuple[str, bytes]]]:
    """Frame -> its name and bytes; those that a killed or former build wrote whole are read back, not written again."""
    suffix = picture_store.SUFFIX[config.frames.format]
    names = {frame: f"{folder}/{episode.episode_id}/{frame:06d}{suffix}" for frame in frames}
    missing = []
    for frame in frames:
        data = _read_back(registry, names[frame])
        if data is None:
            missing.append(frame)
        else:
            yield frame, (names[frame], data)
    for frame, data in _encoded(config, source, episode, missing):
        artefacts.write_bytes(registry / names[frame], data, durable=False)
        yield frame, (names[frame], data)


def _read_back(registry: Path, name: str) -> bytes | None:
    """The bytes of a picture that is there whole, else None: a machine that was lost leaves empty and cut ones."""
    try:
        data = picture_store.read(registry, name)
    except DataError:
        return None
    return data if picture_store.is_whole(data) else None


def _indexed(name: str, data: bytes, episode: Episode, frame: int) -> dict[str, Any]:
    return {
        "image": name,
        "episode_id": episode.episode_id,
        "frame": frame,
        "bytes": len(data),
        "sha256": artefacts.sha256_of(data),
        "fingerprint": picture_store.fingerprint(data) if data else "",
    }


def set_aside(item: Exclusion, config: DataConfig) -> Exclusion:
    """`item`, to be counted in the manifest. Raises DataError where bad data shall stop the build."""
    if config.on_bad_data == "error" and not isinstance(item, Omission):
        raise DataError(f"{item.what} {item.where}: {item.reason}; mend it, or set on_bad_data: exclude")
    return item


def _bad_text(pair: GivenPair) -> str | None:
    """Why a published pair's texts must not go into a conversation, or None; it may have no description at all."""
    texts = (pair.task, *(text for text in pair.descriptions if text))
    return next((reason for text in texts if (reason := unusable(text))), None)


def shard_pairs(path: Path) -> Iterator[Pair]:
    """Our own pairs, written a moment ago: they are not checked again."""
    for row in parquet.read(path):
        yield manifests.pair_of(row)


def _chosen(pairs: Sequence[Pair], count: int, seed: list[Any]) -> list[Pair]:
    """`count` of the pairs (all where too few) in random order, so that any first part is a fair sample."""
    import numpy as np

    order = np.random.default_rng(int(artefacts.digest(seed)[:16], 16)).permutation(len(pairs))
    return [pairs[position] for position in order[:count].tolist()]


def _queries(pairs: Sequence[Pair], rule: DatasetRule) -> Iterator[tuple[Query, str]]:
    """Each pair in the rule's orders, with its language."""
    for position, pair in enumerate(pairs):
        for order in orders_of(rule, pair):
            yield Query(pair, order), rule.languages[position % len(rule.languages)]


def orders_of(rule: DatasetRule, pair: Pair) -> tuple[Order, ...]:
    """The orders in which a dataset shows a pair."""
    return {"both": ORDERS, "forward": ORDERS[:1], "backward": ORDERS[1:], "given": pair.orders}[rule.orders]


def _states(
    source: EpisodeSource, episodes: Mapping[str, Episode], pairs: Sequence[Pair]
) -> dict[tuple[str, int], State]:
    """The states of all frames in `pairs`, each episode asked once."""
    frames: dict[str, set[int]] = {}
    for pair in pairs:
        frames.setdefault(pair.episode_id, set()).update((pair.earlier, pair.later))
    found: dict[tuple[str, int], State] = {}
    for episode_id, wanted in frames.items():
        states = source.states(episodes[episode_id])
        if states is None:
            raise DataError(f"episode {episode_id}: the source gives no states any more; build again")
        found |= {(episode_id, frame): states[frame] for frame in sorted(wanted)}
    return found


def _shown(query: Query, states: Mapping[tuple[str, int], State]) -> tuple[State, State]:
    """The states of img1 and img2."""
    pair = query.pair
    earlier, later = states[pair.episode_id, pair.earlier], states[pair.episode_id, pair.later]
    return (earlier, later) if query.order == "forward" else (later, earlier)


def _given(source: PairSource, episodes: Mapping[str, Episode], pairs: Sequence[Pair]) -> dict[str, GivenPair]:
    """Pair id -> the pair as it was published."""
    wanted = sorted({pair.episode_id for pair in pairs})
    return {
        f"{episode_id}:{given.earlier}-{given.later}": given
        for episode_id in wanted
        for given in source.given_pairs(episodes[episode_id])
    }


def _row(sample: Sample, language: str) -> dict[str, Any]:
    """One row in LLaMA-Factory's sharegpt format, with what we need to check it beside."""
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
