"""What the steps of a build work with, and the receipts that they leave: one JSON file per shard and step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.registry.manifest import PairCounts, RowCounts
from stcr_plugin.types import Episode, EpisodeSource, Exclusion


@dataclass(frozen=True)
class Place:
    """Where a build works, settled once at its start: a worker that starts later may have loaded newer code.

    Attributes:
        registry: The registry folder.
        staging: The folder of unfinished work inside it.
        pictures: The folder of the pictures, relative to the registry.
    """

    registry: Path
    staging: Path
    pictures: str


@dataclass(frozen=True)
class Context:
    """What every step of a build needs."""

    config: DataConfig
    source: EpisodeSource
    place: Place


@dataclass(frozen=True)
class Shard:
    """Some episodes of one split; `number` is its position among all shards of the build."""

    number: int
    split: str
    episodes: tuple[Episode, ...]

    @property
    def file(self) -> str:
        return f"{self.number:05d}.parquet"


@dataclass(frozen=True)
class Choice:
    """Which pairs go into a part of a dataset: `take` of those `shortest` to `longest` native frames apart.

    Attributes:
        key: The dataset's key in the configuration.
        part: Number of the part, in the curriculum's order; 0 without a curriculum.
        sharded: Whether the pairs are taken from one shard, not from the whole split.
    """

    key: str
    part: int
    shortest: int
    longest: int
    take: int
    sharded: bool = False


@dataclass(frozen=True)
class Drawn:
    """Receipt of drawing a shard's pairs.

    Attributes:
        described: How many pairs a dataset of kind cot can use.
        tied: Pairs dropped since neither frame is closer.
        unlabelled: Pairs dropped since the progress of a frame is not known.
    """

    step: ClassVar[str] = "draw"
    pairs: int
    described: int
    tied: int
    unlabelled: int
    excluded: list[Exclusion]


@dataclass(frozen=True)
class Pictured:
    """Receipt of writing a shard's pictures: the episodes that could be read, and what is left of its pairs.

    Attributes:
        almost_same: How many of these pairs show two pictures that are almost the same.
    """

    step: ClassVar[str] = "picture"
    episodes: list[str]
    frames: int
    counts: PairCounts
    excluded: list[Exclusion]
    almost_same: int = 0


@dataclass(frozen=True)
class Rows:
    """What was written into one file of a training set."""

    counts: RowCounts
    claims_checked: int


@dataclass(frozen=True)
class Sampled:
    """Receipt of writing a shard's training samples; `files` maps the name of each to what is in it."""

    step: ClassVar[str] = "sample"
    files: dict[str, Rows]


Receipt = Drawn | Pictured | Sampled
RECEIPTS: dict[str, type[Receipt]] = {kind.step: kind for kind in (Drawn, Pictured, Sampled)}


@dataclass(frozen=True)
class Staged:
    """All shards of a build in order, each with its receipts."""

    shards: list[Shard]
    drawn: list[Drawn]
    pictured: list[Pictured]

    def of(self, split: str) -> list[tuple[Shard, Drawn, Pictured]]:
        """The shards of one split with their receipts."""
        every = zip(self.shards, self.drawn, self.pictured, strict=True)
        return [(shard, drawn, pictured) for shard, drawn, pictured in every if shard.split == split]
