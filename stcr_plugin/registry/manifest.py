"""What a finished build is described by: its manifest, its pairs, and how both are counted and read."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, type_adapter
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import AnnotatedTexts, TextCounts
from stcr_plugin.groups import GroupRule
from stcr_plugin.registry import parquet
from stcr_plugin.samples.cot import halves_of
from stcr_plugin.types import Exclusion, Pair

MANIFEST, DATASET_INFO = "manifest.json", "dataset_info.json"


@dataclass(frozen=True)
class PairCounts:
    """The figures of some pairs.

    Attributes:
        frames: Pictures that they use.
        within_phase: Pairs whose two frames are in one phase of the task; across_phase: in two.
        closer: Which frame is closer to completion -> pairs.
        distances: Native frames between the two -> pairs.
        dropped: Pairs that were drawn but not used, "tied", "unlabelled", "refined" or, where the split is balanced by
            direction, "unbalanced"; None where there were none.
        almost_same: Pairs whose two pictures are almost the same; None where there are none.
    """

    episodes: int
    pairs: int
    frames: int = 0
    within_phase: int = 0
    across_phase: int = 0
    closer: dict[str, int] = field(default_factory=dict)
    distances: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] | None = None
    almost_same: int | None = None


@dataclass(frozen=True)
class RowCounts:
    """The figures of a training set's rows.

    Attributes:
        pairs: Those that the rows show; of kind group: groups.
        short_by: How many pairs (of kind describe: pictures) fewer it has than the configuration asks for.
        same_text: How many of its pairs have two equal descriptions, so that the judgment does not follow from them;
            None where pictures are not described.
    """

    pairs: int
    samples: int
    answers: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    short_by: int = 0
    same_text: int | None = None


C = TypeVar("C", PairCounts, RowCounts, TextCounts)


@dataclass(frozen=True)
class Counts:
    """The figures of a build: by split, by dataset, and reason -> how many were skipped for it."""

    splits: dict[str, PairCounts]
    datasets: dict[str, RowCounts]
    excluded: dict[str, int]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a build: their folder in the registry, how many there are, and their format (or none)."""

    folder: str
    count: int
    format: str = "png"


@dataclass(frozen=True)
class RefinedPairs:
    """What a build did with the contradicted pairs of a file.

    Attributes:
        digest: The file's SHA-256.
        dropped: Pairs that are left out; ties: taught as ties; kept: as they are.
        unmatched: Rows about no pair of the build, such as one of an episode that cannot be read any more.
    """

    file: str
    digest: str
    dropped: int
    ties: int
    kept: int
    unmatched: int


@dataclass(frozen=True)
class ShardFiles:
    """The files of a shard, relative to the build's folder."""

    split: str
    pairs: str
    frames: str


@dataclass(frozen=True)
class Checksums:
    """File, relative to the registry -> its SHA-256."""

    files: dict[str, str]


@dataclass(frozen=True)
class SetRule:
    """What readers need of a dataset's rule in the configuration."""

    split: str
    kind: str
    orders: str = "both"
    texts: str | None = None
    groups: GroupRule | None = None
    against: str | None = None


@dataclass(frozen=True)
class StoredAs:
    """What readers need of the configuration's rules for pictures."""

    format: str = "png"
    store: str = "folder"
    width: int | None = None
    height: int | None = None

    @property
    def loose(self) -> bool:
        """Whether every picture is its own file."""
        return self.format != "none" and self.store == "folder"


P = TypeVar("P", SetRule, StoredAs)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The account of a finished build, manifest.json.

    Attributes:
        config: The data configuration, defaults filled in; a build of an older version may have other keys.
        config_digest: Digest of all that decides the build's bytes.
        claims_checked: How many claims of CoT texts were held against the truth.
        splits: Split -> ids of its episodes in recorded order.
        datasets: Dataset -> its files, relative to the registry.
        excluded: What was skipped, and why.
        provenance: The code and libraries that made the build.
        paths: Episode id -> its recording, where ids are those of a table.
        texts: Dataset -> its annotated texts, of the datasets that have some.
        refined: What became of contradicted pairs; None where the configuration names no file of them.
    """

    name: str
    config: dict[str, Any]
    config_digest: str
    seed: int
    counts: Counts
    claims_checked: int | None = None
    frames: Pictures
    splits: dict[str, list[str]]
    shards: list[ShardFiles]
    datasets: dict[str, list[str]]
    checksums: Checksums
    excluded: list[Exclusion]
    provenance: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] | None = None
    texts: dict[str, AnnotatedTexts] = field(default_factory=dict)
    refined: RefinedPairs | None = None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises DataError, which names the field, for a file that is not a manifest."""
        values = artefacts.read_json(path)
        try:
            return from_mapping(cls, values if isinstance(values, dict) else {}, str(path))
        except ConfigError as error:
            raise DataError(path, error.problem, "delete it and build again") from None

    def write(self, path: Path) -> None:
        values = dataclasses.asdict(self)
        for optional in ("claims_checked", "paths", "texts", "refined"):
            if values[optional] in (None, {}):
                del values[optional]
        for figures in values["counts"]["splits"].values():
            for optional in ("dropped", "almost_same"):
                if figures[optional] is None:
                    del figures[optional]
        for rows in values["counts"]["datasets"].values():
            if rows["same_text"] is None:
                del rows["same_text"]
        artefacts.write_json(path, values)

    @cached_property
    def rules(self) -> dict[str, SetRule]:
        """Dataset -> its rule, of all that the configuration names."""
        found = {
            dataset_name(self.name, key): self._part(SetRule, f"datasets.{key}", rule)
            for key, rule in self._mapping("datasets").items()
        }
        if strange := self.datasets.keys() - found:
            problem = f"lists {min(strange)!r}, which its configuration does not have"
            raise DataError(f"{self.name}/{MANIFEST}", problem, "build again")
        return found

    @cached_property
    def stored(self) -> StoredAs:
        return self._part(StoredAs, "frames", self._mapping("frames"))

    def _mapping(self, key: str) -> dict[str, Any]:
        values = self.config.get(key, {})
        return values if isinstance(values, dict) else {}

    def _part(self, kind: type[P], key: str, values: Any) -> P:
        try:
            values = values if isinstance(values, dict) else {}
            return from_mapping(kind, values, f"{self.name}/{MANIFEST}, config.{key}")
        except ConfigError as error:
            raise DataError(error.where, error.problem, "build again") from None


def dataset_name(name: str, key: str) -> str:
    """The name under which LLaMA-Factory knows the training set `key` of the build `name`."""
    return f"{name}_{key}"


def read_manifest(registry: str | Path, name: str) -> Manifest:
    """The manifest of the build `name`, or of the build that the dataset `name` (stcr_weak) belongs to.

    Raises:
        ConfigError: for an unknown name.
        DataError: for a manifest that cannot be read.
    """
    return Manifest.read(Path(registry) / build_name(registry, name) / MANIFEST)


def read_pairs(registry: str | Path, name: str, split: str) -> list[Pair]:
    """The pairs of one split, its episodes in recorded order, of the build `name` or its dataset.

    Raises:
        ConfigError: for an unknown name or split.
        DataError: for a row that is not a pair or whose pictures leave the registry folder.
    """
    manifest = read_manifest(registry, name)
    if split not in manifest.splits:
        raise unknown_split(manifest, split)
    position = {episode_id: number for number, episode_id in enumerate(manifest.splits[split])}
    pairs = [
        pair
        for file in pair_files(manifest, split)
        for _, pair in pair_rows(Path(registry) / file, Path(registry))
        if pair.split == split
    ]
    return sorted(pairs, key=lambda pair: position.get(pair.episode_id, -1))


def unknown_split(manifest: Manifest, split: str) -> ConfigError:
    """The error for a split that the build does not have."""
    return ConfigError(manifest.name, f"has no split {split!r}", nearest(split, list(manifest.splits)))


def pair_files(manifest: Manifest, split: str | None = None) -> list[str]:
    """The pair files of a split, or of all, relative to the registry."""
    return [f"{manifest.name}/{shard.pairs}" for shard in manifest.shards if split in (None, shard.split)]


def file_name(files: Sequence[str]) -> str:
    """The `file_name` of a training set in dataset_info.json: its file, or the folder of its shards."""
    return files[0].rpartition("/")[0] if files[0].count("/") > 1 else files[0]


def frame_rows(registry: str | Path, manifest: Manifest, split: str | None = None) -> Iterator[dict[str, Any]]:
    """The index of the pictures of a split, or of all: rows with the keys of `parquet.FRAMES`."""
    for shard in manifest.shards:
        if split in (None, shard.split):
            yield from parquet.read(Path(registry) / manifest.name / shard.frames)


def dataset_rows(registry: str | Path, dataset: str) -> Iterator[dict[str, Any]]:
    """The rows of a training set in JSON or Parquet, with the keys of `parquet.SAMPLES`.

    Raises:
        ConfigError: for an unknown dataset.
        DataError: for files that cannot be read.
    """
    manifest = read_manifest(registry, dataset)
    files = manifest.datasets.get(dataset)
    if files is None:
        raise ConfigError(manifest.name, f"has no dataset {dataset!r}", nearest(dataset, list(manifest.datasets)))
    for file in files:
        if file.endswith(".json"):
            rows = artefacts.read_json(Path(registry) / file)
            if not isinstance(rows, list):
                raise DataError(file, "is not a list of rows", "build again")
            yield from rows
        else:
            yield from parquet.read(Path(registry) / file)


def turns_of(row: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The turns of a row that are trained on; those of a ranking row end with the answer that is preferred."""
    return [*row["messages"], row["chosen"]] if "chosen" in row else list(row["messages"])


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a row of our own, without a check; `pair_rows` checks."""
    return Pair(**{**row, "orders": tuple(row["orders"])})


def teaches_ties(manifest: Manifest) -> bool:
    """Whether the build offers "neither" as an answer."""
    return bool(manifest.config["pairs"]["ties"] == "teach")


def pair_rows(path: Path, registry: Path) -> Iterator[tuple[int, Pair]]:
    """Every pair of a file of pairs with its row (from 1). Raises DataError as `read_pairs` does."""
    import pydantic

    as_pair = type_adapter(Pair)
    for row, values in enumerate(parquet.read(path), 1):
        where = f"{path}, row {row}"
        try:
            pair = as_pair.validate_python(values)
            for image in (pair.earlier_image, pair.later_image):
                artefacts.inside(registry, image)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise DataError(where, f"is not a pair: {key}: {problem['msg']}", "build again") from None
        except DataError as error:
            raise DataError(where, f"{error.where} {error.problem}", error.fix) from None
        if values.keys() != parquet.PAIRS.keys() or pair.earlier >= pair.later:
            raise DataError(where, "is not a pair: earlier must be below later, no other keys", "build again")
        yield row, pair


def listed(registry: str | Path) -> dict[str, Any]:
    """Dataset -> its entry, as dataset_info.json has them; {} without that file.

    Raises:
        DataError: for a file that is not a mapping.
    """
    path = Path(registry) / DATASET_INFO
    known = artefacts.read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise DataError(path, "expected a mapping of datasets", "fix or delete it")
    return known


def build_name(registry: str | Path, name: str) -> str:
    """The build that `name`, a build or a dataset, belongs to. Raises ConfigError naming the nearest."""
    registry = Path(registry)
    builds = sorted(path.parent.name for path in registry.glob(f"*/{MANIFEST}"))
    if name in builds:
        return name
    datasets = {}
    for known, entry in listed(registry).items():
        folder = str(entry.get("file_name", "")).partition("/")[0] if isinstance(entry, dict) else ""
        if folder in builds:
            datasets[known] = folder
    if name in datasets:
        return datasets[name]
    if not builds:
        raise ConfigError(registry, "holds no finished build", "run `stcr data build CONFIG` first")
    raise ConfigError(registry, f"no build or dataset {name!r}", nearest(name, [*builds, *datasets]))


def count_pairs(pairs: Sequence[Pair], episodes: Sequence[str]) -> PairCounts:
    """The figures of all pairs of some episodes."""
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

    described = [row for row in rows if row.get("kind") == "cot"]
    halves = {row["pair_id"]: halves_of(row["messages"][1]["content"]) for row in described}
    same = [pair_id for pair_id, both in halves.items() if both and both[0] == both[1]]
    return RowCounts(
        pairs=len({row["pair_id"] for row in rows}),
        samples=len(rows),
        answers=counted("answer"),
        orders=counted("order"),
        languages=counted("language"),
        same_text=len(same) if described else None,
    )


def total(counts: Sequence[C]) -> C:
    """The sum of figures of one kind, at least one, field by field; keys inside are in order, numbers by value."""
    summed: dict[str, Any] = {}
    for name in vars(counts[0]):
        values = [getattr(figures, name) for figures in counts]
        if isinstance(values[0], dict):
            joined = Counter[str]()
            for value in values:
                joined.update(value)
            summed[name] = {key: joined[key] for key in sorted(joined, key=_by_number)}
        elif any(value is not None for value in values):
            summed[name] = sum(value or 0 for value in values)
    return type(counts[0])(**summed)


def count_excluded(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> how many were skipped for it; numbers in a reason are written # so that they count together."""
    return dict(sorted(Counter(re.sub(r"\d+", "#", reason) for reason in reasons).items()))


def _by_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else -1, name)
