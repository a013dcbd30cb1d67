"""Sample -> dataset files that LLaMA-Factory loads, their pictures, and the manifest that accounts for them.

    <registry>/dataset_info.json           LLaMA-Factory's list of datasets
    <registry>/<name>/manifest.json        written last: it stands for a finished build
    <registry>/<name>/pairs/00000.parquet  every pair, a file a shard (some episodes of one split)
    <registry>/<name>/frames/00000.parquet the index of the pictures: size, checksum, perceptual hash
    <registry>/<name>/<name>_<key>.json    one training set, a row a line; or, for many rows,
    <registry>/<name>/<name>_<key>/        the same in Parquet
    <registry>/<name>/frames-<digest>/     the pictures, named by what decides their content

A build works in a staging folder, shard by shard, and moves what it made into place at the end. A killed build goes
on where it stopped: a shard's step that left its receipt is done, and pictures are written whole, one by one, and kept.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.frames import FramesSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.progress_bar import progress
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import parquet, picture_store
from stcr_plugin.registry.data_config import (
    DataConfig,
    DatasetRule,
    config_digest,
    frames_folder,
    load_data_config,
    plain,
)
from stcr_plugin.registry.shards import (
    Choice,
    Place,
    Receipt,
    Shard,
    in_tar,
    part_file,
    samples,
    set_aside,
    shard_pairs,
    wordings_of,
)
from stcr_plugin.registry.workers import Job, Runner, WorkerPool, runner
from stcr_plugin.samples.general import general_rows
from stcr_plugin.samples.questions import unusable
from stcr_plugin.splits import assign_splits, held_out_twice
from stcr_plugin.types import ORDERS, Episode, EpisodeSource, Exclusion

__all__ = ["DataConfig", "build", "load_data_config"]

# Above this many samples, `format: auto` takes Parquet: JSON has to be read whole.
_JSON_SAMPLES = 100_000
_STEPS = ("draw", "picture", "tell")
_REASONS_NAMED = 5
# The folders of pictures and of staged work, which are a build's to the last file in them.
_WHOLE = re.compile(r"frames-[0-9a-f]{8}|\.build-[0-9a-f]{8}")
_ID_BYTES = {"tar": tarfile.LENGTH_PREFIX, "folder": 255}  # of a folder in a tar, and of one on the usual disks


def build(config: DataConfig, registry: str | Path, hands: WorkerPool = WorkerPool()) -> Path:  # noqa: B008 - frozen
    """Make or finish the build that `config` describes under `registry`; the path of its manifest.

    A finished build of the same configuration is left as it is, to the byte. One of another configuration is
    replaced: its manifest goes first, its pictures last, so a reader never meets a mixture. `hands` says where the
    work is done and changes no byte. Raises ConfigError for a configuration that the source cannot serve and for
    files in the build's folder that no build made, DataError for bad data (such as a split of which no picture can be
    read) and for a full disk.
    """
    registry = Path(registry)
    # A second build in the same place waits here, then finds the first one's work done.
    with artefacts.locked(registry / f".{config.name}.lock"):
        account = _finished(config, registry)
        if account is None:
            _with_entries(config, registry, {})
            _own_folder(config, registry)
            source = open_source(config.source, config.seed)
            wordings_of(config, source)
            staging = registry / config.name / f".build-{config_digest(config)[:8]}"
            place = Place(registry, staging, frames_folder(config))
            account = _make(config, source, place, hands)
        if _left_over(registry, account):  # by this run, or by one that was killed before it had cleaned up
            _prune(registry, account)
    return registry / config.name / manifests.MANIFEST


def _make(config: DataConfig, source: EpisodeSource, place: Place, hands: WorkerPool) -> dict[str, Any]:
    """Stage the build and move it into place; its manifest."""
    plan = place.staging / "manifest.json"
    if plan.is_file() and not _is_whole(place, artefacts.read_json(plan)):
        shutil.rmtree(place.staging)  # receipts too: what they stand for was deleted since
    if not plan.is_file():  # otherwise all is staged, and the build was killed while it was moved into place
        artefacts.write_json(plan, _stage(config, source, place, hands))
    account: dict[str, Any] = artefacts.read_json(plan)
    _publish(config, place, account)
    return account


def _stage(config: DataConfig, source: EpisodeSource, place: Place, hands: WorkerPool) -> dict[str, Any]:
    """Do all the work in the staging folder; the manifest of what stands there."""
    splits, excluded = _listed(config, source)
    ids = {split: [episode.episode_id for episode in episodes] for split, episodes in splits.items()}
    shards = _shards(config, splits)
    with runner(hands, config, place, source, sum(map(len, splits.values()))) as run:
        drawn = _step("draw", "pairs", [Job("draw", shard) for shard in shards], config, place, run)
        _enough(config, shards, drawn, excluded)
        pictured = _step("picture", "pictures", [Job("picture", shard) for shard in shards], config, place, run)
        _some_left(config, shards, drawn, pictured)
        sharded = {key: _is_sharded(rule, shards, pictured) for key, rule in config.datasets.items()}
        choices = _choices(config, sharded, shards, pictured)
        jobs = [Job("tell", shard, choices[shard.number]) for shard in shards if choices[shard.number]]
        receipts = _step("tell", "samples", jobs, config, place, run) if jobs else []
    told = {job.shard.number: receipt for job, receipt in zip(jobs, receipts, strict=True)}
    datasets = {
        key: _in_shards(config, key, choices, shards, told, place)
        if sharded[key]
        else _general(config, source, key, shards, place)
        if config.datasets[key].kind == "general"
        else _in_one_file(config, source, key, shards, pictured, ids, place)
        for key in config.datasets
    }
    for receipt in (*drawn, *pictured):
        excluded += [Exclusion(**item) for item in receipt["excluded"]]
    for key, dataset in datasets.items():
        if not dataset.counts["samples"]:
            raise DataError(f"datasets.{key}: not one sample is left{_aside(item.reason for item in excluded)}")
    account = _account(config, place, shards, ids, drawn, pictured, datasets, excluded)
    if isinstance(source, FramesSource):  # elsewhere the source's root and the id say which recording it is
        episodes = chain.from_iterable(splits.values())
        account["paths"] = {episode.episode_id: source.path_of(episode) for episode in episodes}
    return account


# ---- which episodes, and how they are cut into shards ----


def _listed(config: DataConfig, source: EpisodeSource) -> tuple[dict[str, list[Episode]], list[Exclusion]]:
    """Split -> its episodes in recording order, and what was set aside while they were listed."""
    excluded: list[Exclusion] = []
    usable: list[Episode] = []
    for item in source.episodes():
        for found in _usable_parts(item, config):
            if isinstance(found, Episode):
                usable.append(found)
            else:
                excluded.append(set_aside(found, config))
    twice = [name for name, count in Counter(episode.episode_id for episode in usable).items() if count > 1]
    if twice:
        raise DataError(f"the source gives two episodes the same id {min(twice)!r}; give each its own")
    reasons = [item.reason for item in excluded]
    if excluded and not usable:
        raise DataError(f"{config.name}: not one episode of the source can be used{_aside(reasons)}")
    try:
        splits = assign_splits(usable, config.splits)
    except ConfigError as error:
        raise ConfigError(f"{error}{_aside(reasons)}") from None
    return splits, [*excluded, *held_out_twice(usable, config.splits)]


def _aside(reasons: Iterable[str]) -> str:
    """The end of an error's text: why things were set aside, the most frequent reasons first; "" where none were."""
    counts = Counter(manifests.count_excluded(reasons)).most_common()
    named = "".join(f"; set aside, {number} times: {reason}" for reason, number in counts[:_REASONS_NAMED])
    more = len(counts) - _REASONS_NAMED
    return named + (f"; and for {more} other reasons" if more > 0 else "")


def _usable_parts(item: Episode | Exclusion, config: DataConfig) -> Iterator[Episode | Exclusion]:
    """An episode without the segments that cannot be used, and those."""
    if isinstance(item, Exclusion):
        yield item
        return
    if not re.fullmatch(r"[\w.+=@-]+", item.episode_id) or item.episode_id.startswith("."):
        yield Exclusion("episode", repr(item.episode_id), "the episode's id is not safe as a file name")
        return
    limit, length = _ID_BYTES[config.frames.store], len(item.episode_id.encode())
    if length > limit:
        too_long = f"the episode's id is too long for a folder's name, {length} bytes of at most {limit}"
        yield Exclusion("episode", repr(item.episode_id), too_long)
        return
    good = []
    for segment in item.segments:
        where = f"episode {item.episode_id}, frames {segment.start}-{segment.end}"
        if reason := unusable(segment.task):
            yield Exclusion("segment", where, reason)
        elif not 0 <= segment.start <= segment.end <= item.n_frames:
            yield Exclusion("segment", where, "the segment leaves its episode")
        else:
            good.append(segment)
    if good:
        yield dataclasses.replace(item, segments=tuple(good))


def _shards(config: DataConfig, splits: Mapping[str, Sequence[Episode]]) -> list[Shard]:
    """Each split's episodes in random order, so many a shard: whoever streams the shards meets all tasks early."""
    import numpy as np

    shards: list[Shard] = []
    for split, episodes in splits.items():
        rng = np.random.default_rng(int(artefacts.digest([config.seed, "shards", split])[:16], 16))
        order = rng.permutation(len(episodes)).tolist()
        for start in range(0, len(order), config.shard_episodes):
            positions = sorted(order[start : start + config.shard_episodes])
            shards.append(Shard(len(shards), split, tuple(episodes[position] for position in positions)))
    return shards


# ---- the steps, and how much each dataset takes of a shard ----


def _step(step: str, noun: str, jobs: Sequence[Job], config: DataConfig, place: Place, run: Runner) -> list[Receipt]:
    """The receipts of all jobs of one step, in order; those on disk are of jobs done before."""
    folder = place.staging / "receipts"
    paths = [folder / f"{job.shard.number:05d}-{step}-{_made_for(job)}.json" for job in jobs]
    receipts: dict[Path, Receipt] = {}
    for path in paths:
        receipt = artefacts.read_json(path) if path.is_file() else None
        # An episode that was set aside may have been mended since, such as by downloading its video.
        if receipt and not any(item["what"] == "episode" for item in receipt.get("excluded", ())):
            receipts[path] = receipt
    left = [(path, job) for path, job in zip(paths, jobs, strict=True) if path not in receipts]
    episodes = sum(len(job.shard.episodes) for job in jobs)
    with progress(episodes, f"{config.name}: {noun}", "episodes") as bar:
        bar.update(episodes - sum(len(job.shard.episodes) for _, job in left))
        for (path, job), receipt in zip(left, run([job for _, job in left]) if left else (), strict=True):
            receipts[path] = receipt
            for later in _STEPS[_STEPS.index(step) :]:
                for stale in folder.glob(f"{job.shard.number:05d}-{later}-*.json"):
                    stale.unlink()
            artefacts.write_json(path, receipt)
            bar.update(len(job.shard.episodes))
    return [receipts[path] for path in paths]


def _made_for(job: Job) -> str:
    """Of the shard's episodes, since recordings may be added between two runs, and of what a dataset takes of it."""
    return artefacts.digest([repr(job.shard.episodes), [vars(choice) for choice in job.choices]])[:8]


def _enough(
    config: DataConfig, shards: Sequence[Shard], drawn: Sequence[Receipt], excluded: Sequence[Exclusion]
) -> None:
    """Raises ConfigError where a dataset asks for more pairs than were drawn, before a picture is decoded."""
    aside = _aside([*(item.reason for item in excluded), *_reasons(drawn)])
    for key, rule in config.datasets.items():
        counted = "described" if rule.kind == "cot" else "pairs"
        have = sum(receipt[counted] for shard, receipt in zip(shards, drawn, strict=True) if shard.split == rule.split)
        if have < (rule.pairs or 1):
            raise ConfigError(
                f"datasets.{key}.pairs: asks for {rule.pairs or 'all'} pairs and split {rule.split!r} has {have}; ask "
                "for fewer, raise pairs.per_episode, widen the allowed distances or give the split more episodes"
                + aside
            )


def _some_left(
    config: DataConfig, shards: Sequence[Shard], drawn: Sequence[Receipt], pictured: Sequence[Receipt]
) -> None:
    """Raises DataError for a split without a pair, such as one of which no picture can be read."""
    for split in config.splits:
        own = [number for number, shard in enumerate(shards) if shard.split == split]
        if not any(pictured[number]["counts"]["pairs"] for number in own):
            reasons = _reasons([step[number] for number in own for step in (drawn, pictured)])
            raise DataError(
                f"splits.{split}: not one pair is left; mend what was set aside or loosen `pairs`, then run again"
                + _aside(reasons)
            )


def _reasons(receipts: Sequence[Receipt]) -> list[str]:
    return [item["reason"] for receipt in receipts for item in receipt["excluded"]]


def _is_sharded(rule: DatasetRule, shards: Sequence[Shard], pictured: Sequence[Receipt]) -> bool:
    if rule.kind == "general":
        return False
    if rule.format != "auto":
        return rule.format == "parquet"
    have = sum(_pairs_of(rule, shards, pictured).values())
    orders = 1 if rule.orders in ORDERS else 2
    return min(have, rule.pairs or have) * orders > _JSON_SAMPLES


def _pairs_of(rule: DatasetRule, shards: Sequence[Shard], pictured: Sequence[Receipt]) -> dict[int, int]:
    """Shard number -> how many pairs it has, of the rule's split."""
    return {
        shard.number: receipt["counts"]["pairs"]
        for shard, receipt in zip(shards, pictured, strict=True)
        if shard.split == rule.split
    }


def _choices(
    config: DataConfig, sharded: Mapping[str, bool], shards: Sequence[Shard], pictured: Sequence[Receipt]
) -> dict[int, tuple[Choice, ...]]:
    """Shard number -> what each sharded dataset takes of it: together a uniform draw without replacement."""
    import numpy as np

    choices: dict[int, list[Choice]] = {shard.number: [] for shard in shards}
    for key, rule in config.datasets.items():
        if not sharded[key]:
            continue
        for part, (shortest, longest, wanted) in enumerate(_parts(rule, shards, pictured)):
            counts = {
                shard.number: sum(
                    number
                    for distance, number in receipt["counts"]["distances"].items()
                    if shortest <= int(distance) <= longest
                )
                for shard, receipt in zip(shards, pictured, strict=True)
                if shard.split == rule.split
            }
            rng = np.random.default_rng(int(artefacts.digest([config.seed, "quota", key, part])[:16], 16))
            takes = rng.multivariate_hypergeometric(list(counts.values()), wanted, method="marginals")
            for number, take in zip(counts, takes.tolist(), strict=True):
                choices[number].append(Choice(key, take, shortest, longest, True, part))
    return {number: tuple(listed) for number, listed in choices.items()}


def _parts(rule: DatasetRule, shards: Sequence[Shard], pictured: Sequence[Receipt]) -> list[tuple[int, int, int]]:
    """A dataset's parts, in order: shortest and longest distance (native frames), and how many such pairs to take.

    The parts share the pairs that were asked for by their size, rounded so that together they take no other number.
    """
    distances: Counter[int] = Counter()
    for shard, receipt in zip(shards, pictured, strict=True):
        if shard.split == rule.split:
            distances.update({int(frames): count for frames, count in receipt["counts"]["distances"].items()})
    bins = _distance_bins(rule, distances)
    every = distances.total()
    take = every if rule.pairs is None else min(rule.pairs, every)
    sizes = [sum(distances[frames] for frames in distances if start <= frames <= end) for start, end in bins]
    # Half up, in whole numbers: a part then never takes more than it has.
    ends = [(2 * take * seen + every) // (2 * max(every, 1)) for seen in accumulate(sizes, initial=0)]
    return [(*bounds, end - start) for bounds, (start, end) in zip(bins, pairwise(ends), strict=True)]


def _distance_bins(rule: DatasetRule, distances: Counter[int]) -> list[tuple[int, int]]:
    """Ranges of distance (native frames, both ends meant) of about equally many pairs, in the curriculum's order."""
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


# ---- training sets ----


@dataclass(frozen=True)
class _Dataset:
    """What the manifest says of one training set; files are relative to the build's folder."""

    files: list[str]
    counts: dict[str, Any]
    claims_checked: int


def _in_shards(
    config: DataConfig,
    key: str,
    choices: Mapping[int, Sequence[Choice]],
    shards: Sequence[Shard],
    told: Mapping[int, Receipt],
    place: Place,
) -> _Dataset:
    """A dataset in Parquet. A curriculum is one file, since frameworks read a folder's files in any order."""
    rule = config.datasets[key]
    folder = manifests.dataset_name(config.name, key)
    parts = sorted(
        (choice.part, shard.number, part_file(config, choice, shard))
        for shard in shards
        for choice in choices[shard.number]
        if choice.key == key
    )
    receipts = [told[number][f"{key}/{part}"] for part, number, _ in parts]
    files = [file for (_, _, file), receipt in zip(parts, receipts, strict=True) if receipt["counts"]["samples"]]
    if rule.curriculum:
        parquet.join(place.staging / f"{folder}.parquet", [place.staging / file for file in files], parquet.SAMPLES)
        files = [f"{folder}.parquet"]
    return _dataset(config, key, files, receipts)


def _in_one_file(
    config: DataConfig,
    source: EpisodeSource,
    key: str,
    shards: Sequence[Shard],
    pictured: Sequence[Receipt],
    ids: Mapping[str, Sequence[str]],
    place: Place,
) -> _Dataset:
    """A dataset as sharegpt JSON, drawn from all pairs of its split in recording order."""
    rule = config.datasets[key]
    position = {episode_id: number for number, episode_id in enumerate(ids[rule.split])}
    own = [shard for shard in shards if shard.split == rule.split]
    pairs = [pair for shard in own for pair in shard_pairs(place.staging / "pairs" / shard.file)]
    pairs.sort(key=lambda pair: position[pair.episode_id])
    episodes = Shard(-1, rule.split, tuple(episode for shard in own for episode in shard.episodes))
    rows: list[dict[str, Any]] = []
    checked = 0
    for part, (shortest, longest, take) in enumerate(_parts(rule, shards, pictured)):
        listed, count = samples(config, source, [(episodes, pairs)], Choice(key, take, shortest, longest, False, part))
        rows, checked = rows + listed, checked + count
    file = _write_rows(config, key, rows, place)
    return _dataset(config, key, [file], [{"counts": manifests.count_rows(rows), "claims_checked": checked}])


def _general(config: DataConfig, source: EpisodeSource, key: str, shards: Sequence[Shard], place: Place) -> _Dataset:
    """A dataset of yes/no questions about the pictures of pairs that are drawn from all of its split."""
    import numpy as np

    from stcr_plugin.episodes.tabletop import TabletopSource

    assert isinstance(source, TabletopSource)  # DataConfig lets no other pass
    rule = config.datasets[key]
    own = [shard for shard in shards if shard.split == rule.split]
    episodes = {episode.episode_id: episode for shard in own for episode in shard.episodes}
    pairs = [pair for shard in own for pair in shard_pairs(place.staging / "pairs" / shard.file)]
    rng = np.random.default_rng(int(artefacts.digest([config.seed, "dataset", key])[:16], 16))
    chosen = [pairs[position] for position in rng.permutation(len(pairs))[: rule.pairs].tolist()]
    rows = general_rows(source, episodes, chosen, languages=rule.languages, seed=config.seed)
    short = 0 if rule.pairs is None else rule.pairs - len(chosen)
    return _Dataset([_write_rows(config, key, rows, place)], manifests.count_rows(rows) | {"short_by": short}, 0)


def _write_rows(config: DataConfig, key: str, rows: Sequence[Mapping[str, Any]], place: Place) -> str:
    file = f"{manifests.dataset_name(config.name, key)}.json"
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    artefacts.write_text(place.staging / file, f"[\n{lines}\n]\n")
    return file


def _dataset(config: DataConfig, key: str, files: Sequence[str], receipts: Sequence[Receipt]) -> _Dataset:
    rule = config.datasets[key]
    counts = manifests.total([receipt["counts"] for receipt in receipts])
    return _Dataset(
        files=list(files),
        counts=counts | {"short_by": 0 if rule.pairs is None else rule.pairs - counts["pairs"]},
        claims_checked=sum(receipt["claims_checked"] for receipt in receipts),
    )


def _with_entries(config: DataConfig, registry: Path, datasets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """dataset_info.json as it shall be: our entries new, those of others as they are.

    Raises ConfigError where a dataset of another's has a name of ours.
    """
    path = registry / manifests.DATASET_INFO
    known = artefacts.read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise DataError(f"{path}: expected a mapping of datasets; mend or delete it")
    others = {name: entry for name, entry in known.items() if not _ours(entry, config)}
    for name in {manifests.dataset_name(config.name, key) for key in config.datasets} & others.keys():
        raise ConfigError(f"{path}: already has another dataset {name!r}; choose another `name`")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    ours = {
        name: {
            "file_name": manifests.file_name(files),
            "formatting": "sharegpt",
            "columns": columns,
            "tags": tags,
        }
        for name, files in datasets.items()
    }
    return others | ours


def _ours(entry: Any, config: DataConfig) -> bool:
    return isinstance(entry, dict) and str(entry.get("file_name", "")).startswith(f"{config.name}/")


# ---- into place ----


def _publish(config: DataConfig, place: Place, account: Mapping[str, Any]) -> None:
    """Move what was staged into place, file by file, so that a publication that was killed goes on."""
    (place.registry / config.name / manifests.MANIFEST).unlink(missing_ok=True)
    for file in account["checksums"]["files"]:
        staged, target = place.staging / file.partition("/")[2], place.registry / file
        if staged.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            staged.replace(target)
    with artefacts.locked(place.registry / f".{manifests.DATASET_INFO}.lock"):
        entries = _with_entries(config, place.registry, account["datasets"])
        artefacts.write_json(place.registry / manifests.DATASET_INFO, entries)
    artefacts.write_json(place.registry / config.name / manifests.MANIFEST, account)


def _account(
    config: DataConfig,
    place: Place,
    shards: Sequence[Shard],
    ids: Mapping[str, Sequence[str]],
    drawn: Sequence[Receipt],
    pictured: Sequence[Receipt],
    datasets: Mapping[str, _Dataset],
    excluded: Sequence[Exclusion],
) -> dict[str, Any]:
    """The manifest of what is staged, checksums included."""
    kept = {episode_id for receipt in pictured for episode_id in receipt["episodes"]}
    folder = place.pictures
    counts: dict[str, Any] = {}
    for split in config.splits:
        own = [number for number, shard in enumerate(shards) if shard.split == split]
        counts[split] = manifests.total([pictured[number]["counts"] for number in own])
        if any(drawn[number]["dropped"][kind] for number in own for kind in ("tied", "unlabelled")):
            counts[split]["dropped"] = manifests.total([drawn[number]["dropped"] for number in own])
    files = [f"{config.name}/{room}/{shard.file}" for room in ("pairs", "frames") for shard in shards]
    files += [f"{config.name}/{file}" for dataset in datasets.values() for file in dataset.files]
    files += [f"{folder}/{shard.number:05d}.tar" for shard in shards if in_tar(config)]
    return {
        "name": config.name,
        "config": plain(config),
        "config_digest": config_digest(config),
        "seed": config.seed,
        "counts": {
            "splits": counts,
            "datasets": {manifests.dataset_name(config.name, key): dataset.counts for key, dataset in datasets.items()},
            "excluded": manifests.count_excluded(item.reason for item in excluded),
        },
        "claims_checked": sum(dataset.claims_checked for dataset in datasets.values()),
        "frames": {
            "folder": folder,
            "count": sum(receipt["frames"] for receipt in pictured),
            "format": config.frames.format,
        },
        "splits": {split: [episode_id for episode_id in listed if episode_id in kept] for split, listed in ids.items()},
        "shards": [
            {"split": shard.split, "pairs": f"pairs/{shard.file}", "frames": f"frames/{shard.file}"} for shard in shards
        ],
        "datasets": {
            manifests.dataset_name(config.name, key): [f"{config.name}/{file}" for file in dataset.files]
            for key, dataset in datasets.items()
        },
        "checksums": {"files": {file: _checksum(place, file) for file in files}},
        "excluded": [vars(item) for item in excluded],
        "provenance": artefacts.provenance(),
    }


def _checksum(place: Place, file: str) -> str:
    return artefacts.sha256(_present(place, file))


def _present(place: Place, file: str) -> Path:
    """Where a file named as in the registry stands now: staged, or in place, as tar files of pictures always do."""
    staged = place.staging / file.partition("/")[2]
    return staged if staged.is_file() else place.registry / file


# ---- is it done, and what is left over ----


def _own_folder(config: DataConfig, registry: Path) -> None:
    """Raises ConfigError where other files lie in the build's folder, in which a build deletes what former ones made.

    Hidden files, such as a file browser's, may lie there; nothing touches them.
    """
    folder = registry / config.name
    mend = "move it elsewhere, or choose another `name` or --registry"
    for key in ("root", "file"):
        path = getattr(config.source, key, None)
        if path is not None and Path(path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"source.{key}: {path} lies in {folder}, the folder of what is built; {mend}")
    for path in _files(folder):
        if not path.relative_to(folder).parts[0].startswith(".") and not _is_made(path, folder):
            raise ConfigError(f"name {config.name}: {path} was made by no build; {mend}")


def _files(folder: Path) -> Iterator[Path]:
    """The files in a build's folder, without pictures: of millions the list alone would fill the memory."""
    for top in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not _WHOLE.fullmatch(top.name):
            yield from (path for path in chain((top,), top.rglob("*")) if not path.is_dir())


def _is_made(path: Path, folder: Path) -> bool:
    """Whether a build whose folder is this one makes a file of that name."""
    made = (
        r"manifest\.json|\.manifest\.json\.\d+\.part",
        r"(pairs|frames)/\d{5,}\.parquet",
        rf"{folder.name}_[a-z0-9_]+(\.json|\.parquet|/\d{{2,}}-\d{{5,}}\.parquet)",
    )
    return any(re.fullmatch(pattern, path.relative_to(folder).as_posix()) for pattern in made)


def _is_loose(account: Mapping[str, Any]) -> bool:
    """Whether every picture is a file of its own."""
    rules = account["config"]["frames"]
    return bool(rules["format"] != "none" and rules["store"] == "folder")


def _is_whole(place: Place, account: Mapping[str, Any]) -> bool:
    """Whether all that a plan lists is on disk, staged or in place, and every picture as long as it was written."""
    return all(_present(place, file).is_file() for file in account["checksums"]["files"]) and (
        not _is_loose(account)
        or all(
            (place.registry / row["image"]).is_file() and (place.registry / row["image"]).stat().st_size == row["bytes"]
            for shard in account["shards"]
            for row in parquet.read(_present(place, f"{account['name']}/{shard['frames']}"), ("image", "bytes"))
        )
    )


def _finished(config: DataConfig, registry: Path) -> dict[str, Any] | None:
    """The manifest, where it is of this very configuration and all its files are there and no picture more."""
    path = registry / config.name / manifests.MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = manifests.read_manifest(registry, config.name)
        if manifest["config_digest"] != config_digest(config):
            return None
        info = artefacts.read_json(registry / manifests.DATASET_INFO)
    except DataError:
        return None
    suffix = picture_store.SUFFIX[config.frames.format]
    loose = (registry / manifest["frames"]["folder"]).glob(f"*/[!.]*{suffix}") if _is_loose(manifest) else None
    there = None if loose is None else sum(1 for _ in loose)
    finished = (
        there in (None, manifest["frames"]["count"])
        and all((registry / file).is_file() for file in manifest["checksums"]["files"])
        and all(_ours(info.get(name), config) for name in manifest["datasets"])
    )
    return manifest if finished else None


def _left_over(registry: Path, account: Mapping[str, Any]) -> list[Path]:
    """Folders of pictures that are not this build's, then those of staged work."""
    frames = registry / account["frames"]["folder"]
    tops = (registry / account["name"]).iterdir()
    return sorted((path for path in tops if path != frames and _WHOLE.fullmatch(path.name)), reverse=True)


def _prune(registry: Path, account: Mapping[str, Any]) -> None:
    """Delete what former and killed builds made; staged work last, since it tells the next run that this was begun."""
    folder = registry / account["name"]
    frames = registry / account["frames"]["folder"]
    keep = {folder / manifests.MANIFEST, *(registry / file for file in account["checksums"]["files"])}
    for path in [path for path in _files(folder) if path not in keep and _is_made(path, folder)]:
        path.unlink()
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
    for path in frames.iterdir() if frames.is_dir() else ():
        if path.is_file() and path not in keep:
            path.unlink()
    _prune_pictures(registry, account, frames)
    for other in _left_over(registry, account):
        shutil.rmtree(other)


def _prune_pictures(registry: Path, account: Mapping[str, Any], frames: Path) -> None:
    """Delete loose pictures that no pair uses, an episode at a time, so that memory does not grow with them."""
    folders = {path.name: path for path in frames.iterdir() if path.is_dir()} if frames.is_dir() else {}
    for shard in account["shards"] if folders else ():
        used: dict[str, set[str]] = {}
        for row in parquet.read(registry / account["name"] / shard["frames"], ("episode_id", "image")):
            used.setdefault(row["episode_id"], set()).add(row["image"].rpartition("/")[2])
        for episode_id, names in used.items():
            folder = folders.pop(episode_id, None)
            for path in folder.iterdir() if folder else ():
                if path.name not in names:
                    path.unlink()
    for folder in folders.values():
        shutil.rmtree(folder)
