"""From recordings to dataset files that LLaMA-Factory loads, their pictures, and the manifest that accounts for them.

    <registry>/dataset_info.json           LLaMA-Factory's list of datasets
    <registry>/<name>/manifest.json        written last: where it exists the build is finished
    <registry>/<name>/pairs/00000.parquet  every pair, one file per shard (some episodes of one split)
    <registry>/<name>/frames/00000.parquet the index of the pictures: size, checksum, perceptual hash
    <registry>/<name>/<name>_<key>.json    one training set, one row per line; or, for many rows,
    <registry>/<name>/<name>_<key>/        the same in Parquet
    <registry>/<name>/frames-<digest>/     the pictures, named by what decides their content

`_stage` lists the steps in order. They work in a staging folder, shard by shard, and what they made is moved into place
at the end. The next run goes on with a killed build: a step of a shard that left its receipt is done, and pictures are
written whole, one by one, and kept.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.frames import FramesSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import AnnotatedTexts
from stcr_plugin.progress_bar import progress
from stcr_plugin.provenance import provenance
from stcr_plugin.registry import publishing
from stcr_plugin.registry.annotated_texts import stage_texts, staged_texts
from stcr_plugin.registry.data_config import (
    DataConfig,
    config_digest,
    file_digest,
    frames_folder,
    load_data_config,
    plain,
)
from stcr_plugin.registry.directions import drops
from stcr_plugin.registry.listing import cut, deal, list_episodes, why
from stcr_plugin.registry.manifest import (
    MANIFEST,
    Checksums,
    Counts,
    Manifest,
    PairCounts,
    Pictures,
    ShardFiles,
    count_excluded,
    dataset_name,
    total,
)
from stcr_plugin.registry.receipts import (
    RECEIPTS,
    Context,
    Drawn,
    Pictured,
    Place,
    Sampled,
    Staged,
)
from stcr_plugin.registry.refined_pairs import refined_pairs, stage_decisions, staged_decisions
from stcr_plugin.registry.sample_rows import phrases_of
from stcr_plugin.registry.shards import in_tar, skipped
from stcr_plugin.registry.training_sets import TrainingSet, choices, write_sets
from stcr_plugin.registry.workers import Job, Runner, WorkerPool, runner
from stcr_plugin.types import Episode, EpisodeSource, Exclusion

__all__ = ["DataConfig", "build", "load_data_config"]

R = TypeVar("R", Drawn, Pictured, Sampled)


def build(config: DataConfig, registry: str | Path, pool: WorkerPool = WorkerPool()) -> Path:  # noqa: B008 - frozen
    """Make or finish the build that `config` describes.

    A finished build of the same configuration is left as it is, to the byte. One of another configuration is
    replaced: its manifest is deleted first and its pictures last, so a reader never meets a mixture.

    Args:
        registry: Folder of builds; the build gets the folder `config.name` in it.
        pool: Where the work is done; it changes no byte.

    Returns:
        The path of the manifest.

    Raises:
        ConfigError: for a configuration that the source cannot serve, and files in the build's folder that were not
            made by a build.
        DataError: for bad data, such as a split without a readable picture, and for a full disk.
    """
    registry = Path(registry)
    # A second build in the same place waits here, then finds the first one's work done.
    with artefacts.locked(registry / f".{config.name}.lock"):
        manifest = publishing.finished(config, registry)
        if manifest is None:
            publishing.dataset_info(config, registry, {})
            publishing.refuse_other_files(config, registry)
            place = Place(registry, _staging(registry, config), frames_folder(config))
            source = open_source(config.source, config.seed, place.simulated)
            phrases_of(config, source)
            manifest = _make(Context(config, source, place), pool)
        if publishing.left_over(registry, manifest):  # by this run, or by one that was killed before it had cleaned up
            publishing.prune(registry, manifest)
    return registry / config.name / MANIFEST


def _staging(registry: Path, config: DataConfig) -> Path:
    return registry / config.name / f".build-{config_digest(config)[:8]}"


def _make(context: Context, pool: WorkerPool) -> Manifest:
    """Stage the build and move it into place; its manifest."""
    place = context.place
    plan = place.staging / "manifest.json"
    if plan.is_file() and not publishing.is_whole(place, Manifest.read(plan)):
        shutil.rmtree(place.staging)  # receipts too: their files were deleted since
    if not plan.is_file():  # otherwise all is staged, and the build was killed while it was moved into place
        _stage(context, pool).write(plan)
    manifest = Manifest.read(plan)
    publishing.publish(context.config, place, manifest)
    return manifest


def _stage(context: Context, pool: WorkerPool) -> Manifest:
    """Do all the work in the staging folder; the manifest of what is in it."""
    config = context.config
    unusable = [skipped(item, config) for item in stage_texts(config, context.place.staging)]
    stage_decisions(config, context.place.staging)
    context = dataclasses.replace(
        context,
        texts=staged_texts(config, context.place.staging),
        decisions=staged_decisions(config, context.place.staging),
    )
    # 1. Episodes -> splits -> shards.
    usable, excluded = list_episodes(config, context.source)
    splits, between = deal(config, usable, excluded)
    excluded += [*between, *unusable]
    shards = cut(config, splits)
    with runner(pool, context, sum(map(len, splits.values()))) as run:
        # 2. Pairs.
        drawn = _step(Drawn, "drawing pairs", [Job(Drawn.step, shard) for shard in shards], context=context, run=run)
        dropped = drops(config, Staged(shards, drawn, []))
        _refuse_too_few(config, Staged(shards, drawn, []), excluded, dropped=dropped)
        # 3. Pictures.
        jobs = [Job(Pictured.step, shard, drop=dropped[shard.number]) for shard in shards]
        pictured = _step(Pictured, "writing pictures", jobs, context=context, run=run)
        staged = Staged(shards, drawn, pictured)
        _refuse_empty_splits(config, staged)
        # 4. Samples of the sets that are written shard by shard.
        chosen = choices(context, staged)
        jobs = [Job(Sampled.step, shard, chosen[shard.number]) for shard in shards if chosen[shard.number]]
        sampled = _step(Sampled, "writing samples", jobs, context=context, run=run) if jobs else []
    # 5. Training sets.
    order = {episode.episode_id: number for number, episode in enumerate(usable)}
    sets = write_sets(context, staged, order=order, chosen=chosen, sampled=sampled)
    excluded += chain.from_iterable(receipt.excluded for step in (drawn, pictured) for receipt in step)
    for key, one in sets.items():
        if not one.counts.samples:
            few = "ask for fewer pictures in groups, raise pairs.per_episode or lower the least distance"
            fix = few if config.datasets[key].kind == "group" else ""
            raise DataError(f"datasets.{key}", f"not one sample is left{why(excluded)}", fix)
    # 6. Manifest.
    return _account(context, splits, staged, sets=sets, excluded=excluded)


def _step(kind: type[R], verb: str, jobs: Sequence[Job], *, context: Context, run: Runner) -> list[R]:
    """The receipts of all jobs of one step, in order; a job with a receipt on disk was done before."""
    folder = context.place.staging / "receipts"
    paths = [folder / f"{job.shard.number:05d}-{kind.step}-{_job_digest(job)}.json" for job in jobs]
    receipts: dict[Path, R] = {}
    for path in paths:
        receipt = from_mapping(kind, artefacts.read_json(path), str(path)) if path.is_file() else None
        # A skipped episode may have been fixed since, such as by downloading its video.
        if receipt and not any(item.what == "episode" for item in getattr(receipt, "excluded", ())):
            receipts[path] = receipt
    left = [(path, job) for path, job in zip(paths, jobs, strict=True) if path not in receipts]
    steps = list(RECEIPTS)
    episodes = sum(len(job.shard.episodes) for job in jobs)
    with progress(episodes, f"{context.config.name}: {verb}", "episodes") as bar:
        bar.update(episodes - sum(len(job.shard.episodes) for _, job in left))
        for (path, job), done in zip(left, run([job for _, job in left]) if left else (), strict=True):
            assert isinstance(done, kind)
            receipts[path] = done
            for later in steps[steps.index(kind.step) :]:
                for stale in folder.glob(f"{job.shard.number:05d}-{later}-*.json"):
                    stale.unlink()
            artefacts.write_json(path, dataclasses.asdict(done))
            bar.update(len(job.shard.episodes))
    return [receipts[path] for path in paths]


def _job_digest(job: Job) -> str:
    """Of the shard's episodes, since recordings may be added between two runs, and of what is taken of it."""
    taken = [[vars(choice) for choice in job.choices], dict(job.drop)]
    return artefacts.digest([repr(job.shard.episodes), *taken])[:8]


def _refuse_too_few(
    config: DataConfig, staged: Staged, excluded: Sequence[Exclusion], *, dropped: Mapping[int, Mapping[str, int]]
) -> None:
    """Raises ConfigError where a dataset asks for more than was drawn, before a picture is decoded.

    dropped: Shard number -> closer frame -> pairs that are left out of the split.
    """
    for key, rule in config.datasets.items():
        of_split = [pair for pair in zip(staged.shards, staged.drawn, strict=True) if pair[0].split == rule.split]
        own = [drawn for _, drawn in of_split]
        gone = [0 if rule.kind == "describe" else sum(dropped[shard.number].values()) for shard, _ in of_split]
        usable = [one.described.get(key, one.pairs) for one in own]
        available = sum(
            min(most, one.pairs - drop) if drop else most for one, most, drop in zip(own, usable, gone, strict=True)
        )
        if available < (rule.wanted or 1):
            unit = "pictures" if rule.kind == "describe" else "pairs"
            reasons = why([*excluded, *chain.from_iterable(drawn.excluded for drawn in staged.drawn)])
            reasons += "".join(f"; {number} pairs: {reason}" for reason, number in _wordless(own).items())
            raise ConfigError(
                f"datasets.{key}.{unit}",
                f"asks for {rule.wanted or 'all'} {unit} and split {rule.split!r} has {available}{reasons}",
                "ask for fewer, raise pairs.per_episode, widen the allowed distances or give the split more episodes",
            )


def _wordless(drawn: Sequence[Drawn]) -> dict[str, int]:
    """Reason -> how many drawn pairs a dataset of annotated texts cannot use."""
    counts: Counter[str] = Counter()
    for one in drawn:
        counts.update(one.wordless)
    return dict(sorted(counts.items()))


def _refuse_empty_splits(config: DataConfig, staged: Staged) -> None:
    """Raises DataError for a split without a pair, such as one of which no picture can be read."""
    for split in config.splits:
        own = staged.of(split)
        if not any(pictured.counts.pairs for _, _, pictured in own):
            reasons = why(chain.from_iterable([*drawn.excluded, *pictured.excluded] for _, drawn, pictured in own))
            raise DataError(
                f"splits.{split}",
                f"not one pair is left{reasons}",
                "fix what was skipped or loosen `pairs`, then run again",
            )


def _account(
    context: Context,
    splits: Mapping[str, Sequence[Episode]],
    staged: Staged,
    *,
    sets: Mapping[str, TrainingSet],
    excluded: Sequence[Exclusion],
) -> Manifest:
    """The manifest of what is staged, checksums included. Raises DataError where a named file changed meanwhile."""
    config, place, name = context.config, context.place, context.config.name
    if (context.texts or config.pairs.refine) and place.staging != _staging(place.registry, config):
        problem = "a file of annotated texts or of contradicted pairs was changed while the build ran"
        raise DataError(config.name, problem, "run the same command again")
    kept = {episode_id for receipt in staged.pictured for episode_id in receipt.episodes}
    files = [f"{name}/{room}/{shard.file}" for room in ("pairs", "frames") for shard in staged.shards]
    files += [f"{name}/{file}" for one in sets.values() for file in one.files]
    files += [f"{place.pictures}/{shard.number:05d}.tar" for shard in staged.shards if in_tar(config)]
    return Manifest(
        name=name,
        config=plain(config),
        config_digest=config_digest(config),
        seed=config.seed,
        counts=Counts(
            splits={split: _split_counts(staged, split) for split in config.splits},
            datasets={dataset_name(name, key): one.counts for key, one in sets.items()},
            excluded=count_excluded(item.reason for item in excluded) | _wordless(staged.drawn),
        ),
        claims_checked=sum(one.claims_checked for one in sets.values()),
        frames=Pictures(place.pictures, sum(receipt.frames for receipt in staged.pictured), config.frames.format),
        splits={
            split: [episode.episode_id for episode in episodes if episode.episode_id in kept]
            for split, episodes in splits.items()
        },
        shards=[ShardFiles(shard.split, f"pairs/{shard.file}", f"frames/{shard.file}") for shard in staged.shards],
        datasets={dataset_name(name, key): [f"{name}/{file}" for file in one.files] for key, one in sets.items()},
        checksums=Checksums({file: artefacts.sha256(publishing.current(place, file)) for file in files}),
        excluded=list(excluded),
        provenance=provenance(),
        paths=_paths(context.source, splits),
        texts={
            dataset_name(name, key): AnnotatedTexts(str(file), file_digest(str(file)), one.texts)
            for key, one in sets.items()
            if one.texts is not None and (file := config.datasets[key].texts)
        },
        refined=refined_pairs(context, staged),
    )


def _paths(source: EpisodeSource, splits: Mapping[str, Sequence[Episode]]) -> dict[str, str] | None:
    """Episode id -> recording of a table; of other sources the root and the id name the recording."""
    if not isinstance(source, FramesSource):
        return None
    return {episode.episode_id: source.path_of(episode) for episode in chain.from_iterable(splits.values())}


def _split_counts(staged: Staged, split: str) -> PairCounts:
    own = staged.of(split)
    dropped = {kind: sum(getattr(drawn, kind) for _, drawn, _ in own) for kind in ("tied", "unlabelled")}
    if unbalanced := sum(pictured.unbalanced for _, _, pictured in own):
        dropped["unbalanced"] = unbalanced
    if refined := sum(pictured.refined.get("drop", 0) for _, _, pictured in own):
        dropped["refined"] = refined
    counts = total([pictured.counts for _, _, pictured in own])
    almost = sum(pictured.almost_same for _, _, pictured in own)
    return dataclasses.replace(counts, dropped=dropped if any(dropped.values()) else None, almost_same=almost or None)
