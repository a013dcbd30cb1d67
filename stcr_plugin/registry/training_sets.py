"""Last steps of a build: how many pairs each training set takes of each shard, and its file or files.

A training set is JSON in one file, drawn from all pairs of its split, or Parquet in shards, a part of which each shard
writes by itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.figures import TextCounts
from stcr_plugin.groups import GroupRule
from stcr_plugin.registry import parquet
from stcr_plugin.registry.data_config import DatasetRule
from stcr_plugin.registry.manifest import RowCounts, count_rows, dataset_name, total
from stcr_plugin.registry.preference_rows import preference_rows
from stcr_plugin.registry.receipts import Choice, Context, Rows, Sampled, Shard, Staged
from stcr_plugin.registry.sample_rows import described_pictures, samples
from stcr_plugin.registry.shards import part_file, shard_pairs
from stcr_plugin.samples.general import general_rows
from stcr_plugin.types import Pair

# Above this many samples, `format: auto` takes Parquet: JSON has to be read whole.
_JSON_SAMPLES = 100_000


@dataclass(frozen=True)
class TrainingSet:
    """A training set as the manifest lists it; files are relative to the build's folder."""

    files: list[str]
    counts: RowCounts
    claims_checked: int
    texts: TextCounts | None = None


# ---- which pairs ----


def is_sharded(key: str, rule: DatasetRule, staged: Staged) -> bool:
    """Whether a dataset is written as Parquet, shard by shard."""
    if rule.single or rule.kind == "prefer":
        return False
    if rule.format != "auto":
        return rule.format == "parquet"
    if rule.kind == "group":
        asked = rule.groups or GroupRule()
        episodes = sum(len(pictured.episodes) for _, _, pictured in staged.of(rule.split))
        return episodes * asked.per_episode * asked.pictures > _JSON_SAMPLES
    available = sum(sum(pictured.distances(key).values()) for _, _, pictured in staged.of(rule.split))
    return min(available, rule.pairs or available) * rule.rows_of_pair > _JSON_SAMPLES


def choices(context: Context, staged: Staged) -> dict[int, tuple[Choice, ...]]:
    """Shard number -> what each sharded dataset takes of it: together a uniform draw without replacement."""
    chosen: dict[int, list[Choice]] = {shard.number: [] for shard in staged.shards}
    for key, rule in context.config.datasets.items():
        for part in parts(key, rule, staged) if is_sharded(key, rule, staged) else ():
            counts = {
                shard.number: sum(
                    number
                    for distance, number in pictured.distances(key).items()
                    if part.shortest <= int(distance) <= part.longest
                )
                for shard, _, pictured in staged.of(rule.split)
            }
            rng = artefacts.rng(context.config.seed, "quota", key, part.part)
            takes = rng.multivariate_hypergeometric(list(counts.values()), part.take, method="marginals")
            for number, take in zip(counts, takes.tolist(), strict=True):
                chosen[number].append(dataclasses.replace(part, take=take, sharded=True))
    return {number: tuple(listed) for number, listed in chosen.items()}


def parts(key: str, rule: DatasetRule, staged: Staged) -> list[Choice]:
    """A dataset's parts in order, one without a curriculum.

    The parts share the pairs that are asked for by their size, rounded so that together they take no other number.
    """
    distances: Counter[int] = Counter()
    for _, _, pictured in staged.of(rule.split):
        distances.update({int(frames): count for frames, count in pictured.distances(key).items()})
    bins = _distance_bins(rule, distances)
    every = distances.total()
    take = every if rule.pairs is None else min(rule.pairs, every)
    sizes = [sum(distances[frames] for frames in distances if start <= frames <= end) for start, end in bins]
    # Half up, in whole numbers: a part then never takes more than it has.
    ends = [(2 * take * seen + every) // (2 * max(every, 1)) for seen in accumulate(sizes, initial=0)]
    shares = [end - start for start, end in pairwise(ends)]
    return [
        Choice(key, number, *bounds, take=share)
        for number, (bounds, share) in enumerate(zip(bins, shares, strict=True))
    ]


def _distance_bins(rule: DatasetRule, distances: Counter[int]) -> list[tuple[int, int]]:
    """Ranges of distance (native frames, both ends included) of about equally many pairs, in the curriculum's order."""
    if rule.curriculum is None:
        return [(0, 2**62)]
    bins: list[tuple[int, int]] = []
    total, seen, start = sum(distances.values()), 0, 0
    for distance in sorted(distances):
        seen += distances[distance]
        if seen >= math.ceil(total * (len(bins) + 1) / rule.curriculum.bins):
            bins.append((start, distance))
            start = distance + 1
    return bins[::-1] if rule.curriculum.first == "far" else bins


# ---- their files ----


def write_sets(
    context: Context,
    staged: Staged,
    *,
    order: Mapping[str, int],
    chosen: Mapping[int, Sequence[Choice]],
    sampled: Sequence[Sampled],
) -> dict[str, TrainingSet]:
    """Write the training sets that are one file, and list those that the shards wrote.

    Args:
        order: Episode id -> its position in the recorded order.
        chosen: Shard number -> what each sharded dataset took of it.
        sampled: Receipts of the shards' samples.
    """
    written = dict(chain.from_iterable(receipt.files.items() for receipt in sampled))
    sets = {}
    for key, rule in context.config.datasets.items():
        if is_sharded(key, rule, staged):
            listed = [(shard, choice) for shard in staged.shards for choice in chosen[shard.number]]
            sets[key] = _in_shards(context, [item for item in listed if item[1].key == key], written, key=key)
        elif rule.kind == "general":
            sets[key] = _general(context, key, staged)
        elif rule.kind == "describe":
            rows, made = described_pictures(context, *_split_pairs(context, key, staged), key=key)
            short = dataclasses.replace(made.counts, short_by=(rule.pictures or len(rows)) - len(rows))
            sets[key] = TrainingSet([_write_rows(context, key, rows)], short, made.claims_checked)
        else:
            sets[key] = _in_one_file(context, staged, order, key=key)
    return sets


def _in_shards(
    context: Context, listed: Sequence[tuple[Shard, Choice]], written: Mapping[str, Rows], *, key: str
) -> TrainingSet:
    """A dataset in Parquet. A curriculum becomes one file, since frameworks read a folder's files in any order."""
    config, staging, wanted = context.config, context.place.staging, context.config.datasets[key].pairs
    listed = sorted(listed, key=lambda item: (item[1].part, item[0].number))
    own = {file: written[file] for shard, choice in listed for file in (part_file(config, choice, shard),)}
    files = [file for file, rows in own.items() if rows.counts.samples]
    if config.datasets[key].curriculum:
        file = f"{dataset_name(config.name, key)}.parquet"
        parquet.join(staging / file, [staging / part for part in files], parquet.SAMPLES)
        files = [file]
    return _training_set(wanted, files, list(own.values()))


def _in_one_file(context: Context, staged: Staged, order: Mapping[str, int], *, key: str) -> TrainingSet:
    """A dataset as sharegpt JSON, drawn from all pairs of its split in recorded order."""
    split, pairs = _split_pairs(context, key, staged)
    pairs.sort(key=lambda pair: order[pair.episode_id])
    rows: list[dict[str, Any]] = []
    made: list[Rows] = []
    for part in parts(key, context.config.datasets[key], staged):
        make = preference_rows if context.config.datasets[key].kind == "prefer" else samples
        listed, one = make(context, split, pairs, choice=part)
        rows += listed
        made.append(one)
    return _training_set(context.config.datasets[key].pairs, [_write_rows(context, key, rows)], made)


def _general(context: Context, key: str, staged: Staged) -> TrainingSet:
    """A dataset of yes/no questions about the pictures of pairs that are drawn from all of its split."""
    from stcr_plugin.episodes.tabletop import TabletopSource

    assert isinstance(context.source, TabletopSource)  # DataConfig lets no other pass
    config, rule = context.config, context.config.datasets[key]
    split, pairs = _split_pairs(context, key, staged)
    episodes = {episode.episode_id: episode for episode in split.episodes}
    order = artefacts.rng(config.seed, "dataset", key).permutation(len(pairs))
    chosen = [pairs[position] for position in order[: rule.pairs].tolist()]
    rows = general_rows(context.source, episodes, chosen, languages=rule.languages, seed=config.seed)
    short = 0 if rule.pairs is None else rule.pairs - len(chosen)
    counts = dataclasses.replace(count_rows(rows), short_by=short)
    return TrainingSet([_write_rows(context, key, rows)], counts, 0)


def _split_pairs(context: Context, key: str, staged: Staged) -> tuple[Shard, list[Pair]]:
    """A dataset's whole split as one shard, and its pairs."""
    rule = context.config.datasets[key]
    own = [shard for shard, _, _ in staged.of(rule.split)]
    pairs = [pair for shard in own for pair in shard_pairs(context.place.staging / "pairs" / shard.file)]
    return Shard(-1, rule.split, tuple(episode for shard in own for episode in shard.episodes)), pairs


def _write_rows(context: Context, key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    file = f"{dataset_name(context.config.name, key)}.json"
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    artefacts.write_text(context.place.staging / file, f"[\n{lines}\n]\n")
    return file


def _training_set(wanted: int | None, files: list[str], rows: Sequence[Rows]) -> TrainingSet:
    counts = total([one.counts for one in rows])
    counts = dataclasses.replace(counts, short_by=0 if wanted is None else wanted - counts.pairs)
    texts = [one.texts for one in rows if one.texts is not None]
    return TrainingSet(files, counts, sum(one.claims_checked for one in rows), total(texts) if texts else None)
