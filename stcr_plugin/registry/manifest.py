"""What a finished build says of itself: its manifest, its pairs, and how both are counted and read back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import parquet
from stcr_plugin.types import Pair

MANIFEST, DATASET_INFO = "manifest.json", "dataset_info.json"


@dataclass(frozen=True)
class PairCounts:
    """The figures of some pairs.

    Attributes:
        frames: Pictures that they use.
        within_phase: Pairs whose two frames are in one phase of the task; across_phase: in two.
        closer: Which frame is closer to completion -> pairs.
        distances: Native frames between the two -> pairs.
        dropped: Pairs that were drawn but not used, "tied" or "unlabelled"; None where there were none.
    """

    episodes: int
    pairs: int
    frames: int = 0
    within_phase: int = 0
    across_phase: int = 0
    closer: dict[str, int] = field(default_factory=dict)
    distances: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] | None = None


@dataclass(frozen=True)
class RowCounts:
    """The figures of a training set's rows; short_by: how many pairs fewer it has than the configuration asks for."""

    pairs: int
    samples: int
    answers: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    short_by: int = 0


C = TypeVar("C", PairCounts, RowCounts)

_KEYS = (
    "name",
    "config",
    "config_digest",
    "seed",
    "splits",
    "shards",
    "datasets",
    "counts",
    "frames",
    "checksums",
    "excluded",
)


def dataset_name(name: str, key: str) -> str:
    """The name under which LLaMA-Factory knows the training set `key` of the build `name`."""
    return f"{name}_{key}"


def read_manifest(registry: str | Path, name: str) -> dict[str, Any]:
    """The manifest of the build `name`, or of the build that the dataset `name` (stcr_weak) belongs to.

    Raises ConfigError for an unknown name, DataError for a manifest that cannot be read.
    """
    path = Path(registry) / build_name(registry, name) / MANIFEST
    manifest = artefacts.read_json(path)
    missing = [key for key in _KEYS if key not in manifest] if isinstance(manifest, dict) else list(_KEYS)
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; delete it and build again")
    return dict(manifest)


def read_pairs(registry: str | Path, name: str, split: str) -> list[Pair]:
    """The pairs of one split, in the order that its episodes were recorded in, of the build `name` or its dataset.

    Raises ConfigError for an unknown name or split, DataError (file, row) for a row that is no pair or whose
    pictures leave the registry folder.
    """
    manifest = read_manifest(registry, name)
    if split not in manifest["splits"]:
        raise ConfigError(f"{manifest['name']} has no split {split!r}, {nearest(split, list(manifest['splits']))}")
    position = {episode_id: number for number, episode_id in enumerate(manifest["splits"][split])}
    pairs = [
        pair
        for file in pair_files(manifest, split)
        for _, pair in pair_rows(Path(registry) / file, Path(registry))
        if pair.split == split
    ]
    return sorted(pairs, key=lambda pair: position.get(pair.episode_id, -1))


def pair_files(manifest: Mapping[str, Any], split: str | None = None) -> list[str]:
    """The pair files of a split, or of all, relative to the registry."""
    return [f"{manifest['name']}/{shard['pairs']}" for shard in manifest["shards"] if split in (None, shard["split"])]


def file_name(files: Sequence[str]) -> str:
    """How dataset_info.json names a training set's files: the file, or the folder of its shards."""
    return files[0].rpartition("/")[0] if files[0].count("/") > 1 else files[0]


def frame_rows(registry: str | Path, manifest: Mapping[str, Any], split: str | None = None) -> Iterator[dict[str, Any]]:
    """The index of the pictures of a split, or of all: rows as `tables.FRAMES` lists them."""
    for shard in manifest["shards"]:
        if split in (None, shard["split"]):
            yield from parquet.read(Path(registry) / manifest["name"] / shard["frames"])


def dataset_rows(registry: str | Path, dataset: str) -> Iterator[dict[str, Any]]:
    """The rows of a training set, whether it lies in JSON or in Parquet: keys as `tables.SAMPLES` lists them.

    Raises ConfigError for an unknown dataset, DataError for files that cannot be read.
    """
    manifest = read_manifest(registry, dataset)
    files = manifest["datasets"].get(dataset)
    if files is None:
        raise ConfigError(f"{manifest['name']}: no dataset {dataset!r}, {nearest(dataset, list(manifest['datasets']))}")
    for file in files:
        if file.endswith(".json"):
            rows = artefacts.read_json(Path(registry) / file)
            if not isinstance(rows, list):
                raise DataError(f"{file}: is no list of rows; build again")
            yield from rows
        else:
            yield from parquet.read(Path(registry) / file)


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a row that we wrote ourselves a moment ago, taken at its word; `pair_rows` checks."""
    return Pair(**{**row, "orders": tuple(row["orders"])})


def teaches_ties(manifest: Mapping[str, Any]) -> bool:
    """Whether the build offers "neither" as an answer."""
    return bool(manifest["config"]["pairs"]["ties"] == "teach")


def pair_rows(path: Path, registry: Path) -> Iterator[tuple[int, Pair]]:
    """Every pair of a file of pairs with its row (from 1). Raises DataError as read_pairs does."""
    import pydantic

    as_pair = pydantic.TypeAdapter(Pair)
    for row, values in enumerate(parquet.read(path), 1):
        try:
            pair = as_pair.validate_python(values)
            for image in (pair.earlier_image, pair.later_image):
                artefacts.inside(registry, image)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise DataError(f"{path}, row {row}: is no pair: {key}: {problem['msg']}; build again") from None
        except DataError as error:
            raise DataError(f"{path}, row {row}: {error}") from None
        if values.keys() != parquet.PAIRS.keys() or pair.earlier >= pair.later:
            raise DataError(f"{path}, row {row}: is no pair: earlier must be below later, no other keys; build again")
        yield row, pair


def build_name(registry: str | Path, name: str) -> str:
    """The build that `name`, a build or a dataset, stands for. Raises ConfigError naming the nearest."""
    registry = Path(registry)
    builds = sorted(path.parent.name for path in registry.glob(f"*/{MANIFEST}"))
    if name in builds:
        return name
    datasets = {}
    if (registry / DATASET_INFO).is_file():
        for known, entry in artefacts.read_json(registry / DATASET_INFO).items():
            folder = str(entry.get("file_name", "")).partition("/")[0] if isinstance(entry, dict) else ""
            if folder in builds:
                datasets[known] = folder
    if name in datasets:
        return datasets[name]
    if not builds:
        raise ConfigError(f"{registry}: holds no finished build; run `stcr data build CONFIG` first")
    raise ConfigError(f"{registry}: no build or dataset {name!r}, {nearest(name, [*builds, *datasets])}")


def summary(manifest: Mapping[str, Any]) -> str:
    """What a finished build holds, in a few lines: its splits and datasets, what was set aside, where it lies."""
    counts = manifest["counts"]
    lines = [
        f"split {split}: {of['episodes']} episodes, {of['pairs']} pairs"
        + (f" ({of['within_phase']} within a phase)" if of["within_phase"] else "")
        for split, of in counts["splits"].items()
    ]
    for name, of in counts["datasets"].items():
        short = f"; {of['short_by']} pairs fewer than asked for" if of["short_by"] else ""
        lines.append(f"dataset {name}: {of['samples']} samples of {of['pairs']} pairs{short}")
    lines.append(f"pictures: {manifest['frames']['count']} in {manifest['frames']['folder']}")
    lines += [f"set aside, {number} times: {reason}" for reason, number in counts["excluded"].items()]
    return "\n".join(lines)


def count_pairs(pairs: Sequence[Pair], episodes: Sequence[str]) -> PairCounts:
    """The figures of some pairs, which are all that `episodes` have."""
    distances = Counter(pair.distance for pair in pairs)
    return PairCounts(
        episodes=len(episodes),
        pairs=len(pairs),
        frames=len({image for pair in pairs for image in (pair.earlier_image, pair.later_image)}),
        within_phase=sum(bool(pair.phase) and ">" not in pair.phase for pair in pairs),
        across_phase=sum(">" in pair.phase for pair in pairs),
        closer=dict(sorted(Counter(pair.closer for pair in pairs).items())),
        distances={str(frames): distances[frames] for frames in sorted(distances)},
    )


def count_rows(rows: Sequence[Mapping[str, Any]]) -> RowCounts:
    """The figures of some rows of one dataset, which hold each pair's rows together."""

    def counted(column: str) -> dict[str, int]:
        return dict(sorted(Counter(str(row[column]) for row in rows).items()))

    pairs = len({row["pair_id"] for row in rows})
    return RowCounts(pairs, len(rows), counted("answer"), counted("order"), counted("language"))


def total(counts: Sequence[C]) -> C:
    """The sum of figures of one kind, at least one, field by field; keys inside stand in order, numbers by value."""
    summed: dict[str, Any] = {}
    for name in vars(counts[0]):
        values = [getattr(figures, name) for figures in counts]
        if isinstance(values[0], dict):
            joined = Counter[str]()
            for value in values:
                joined.update(value)
            summed[name] = {key: joined[key] for key in sorted(joined, key=_by_number)}
        elif values[0] is not None:
            summed[name] = sum(values)
    return type(counts[0])(**summed)


def count_excluded(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> how many were set aside for it; numbers in a reason (of frames, bytes) are written # to be alike."""
    return dict(sorted(Counter(re.sub(r"\d+", "#", reason) for reason in reasons).items()))


def _by_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else -1, name)
