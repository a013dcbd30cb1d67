"""What the steps of a build work with, and the receipts that they leave: one JSON file per shard and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from stcr_plugin.figures import TextCounts
from stcr_plugin.registry.contradictions import Contradiction
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

    @property
    def simulated(self) -> Path:
        """Folder of what a simulated source has made."""
        return self.staging / "simulated"


@dataclass(frozen=True)
class Text:
    """Annotated texts about a pair that are accepted, as their file has them.

    Attributes:
        earlier: The description of the earlier picture, as `later` of the other one.
        pictures: The folder of the pictures that were described, relative to their registry.
        earlier_fingerprint: Of the picture that was described.
        accepted_by: "checks" or "person".
        passed: The checks that both texts passed.
        refuted: Texts about the same two pictures that were refuted; empty where none is asked for.
    """

    pair_id: str
    task: str
    closer: str
    language: str
    earlier: str
    later: str
    pictures: str
    earlier_fingerprint: str
    later_fingerprint: str
    accepted_by: str
    describer: str
    verifier: str
    passed: tuple[str, ...] = ()
    refuted: tuple[str, ...] = ()


Accepted = Mapping[str, tuple[Text, ...]]
"""Pair id -> its accepted texts, at most one in each language."""
Decisions = Mapping[str, Contradiction]
"""Pair id -> the row about it in the file of contradicted pairs."""


@dataclass(frozen=True)
class Context:
    """What every step of a build needs.

    Attributes:
        texts: Dataset -> pair id -> the accepted texts of the pair, of the datasets that are made of annotated texts.
        decisions: About contradicted pairs.
    """

    config: DataConfig
    source: EpisodeSource
    place: Place
    texts: Mapping[str, Accepted] = field(default_factory=dict)
    decisions: Decisions = field(default_factory=dict)


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
class Directions:
    """Frame that is closer, "earlier" or "later" -> pairs.

    Attributes:
        pairs: All of a shard, ties left out.
        surplus: Those of them that their episodes have too many of.
    """

    pairs: dict[str, int]
    surplus: dict[str, int]


@dataclass(frozen=True)
class Drawn:
    """Receipt of drawing a shard's pairs.

    Attributes:
        described: Dataset of kind cot or reflect -> how many pairs it can use; of kind describe: pictures.
        tied: Pairs dropped since neither frame is closer.
        unlabelled: Pairs dropped since the progress of a frame is not known.
        wordless: Reason -> how many pairs a dataset cannot use for want of a text; too many to be listed.
        directions: Of a split that is balanced by direction, see `directions.count`.
    """

    step: ClassVar[str] = "draw"
    pairs: int
    described: dict[str, int]
    tied: int
    unlabelled: int
    excluded: list[Exclusion]
    wordless: dict[str, int] = field(default_factory=dict)
    directions: Directions | None = None


@dataclass(frozen=True)
class Pictured:
    """Receipt of writing a shard's pictures: the episodes that could be read, and what is left of its pairs.

    Attributes:
        almost_same: How many of these pairs show two pictures that are almost the same.
        described: Dataset of annotated texts -> native frames between two frames -> pairs that it can use.
        unbalanced: How many drawn pairs were dropped to balance the split by direction.
        refined: Decision about contradicted pairs -> how many it was followed for.
    """

    step: ClassVar[str] = "picture"
    episodes: list[str]
    frames: int
    counts: PairCounts
    excluded: list[Exclusion]
    almost_same: int = 0
    described: dict[str, dict[str, int]] = field(default_factory=dict)
    unbalanced: int = 0
    refined: dict[str, int] = field(default_factory=dict)

    def distances(self, key: str) -> dict[str, int]:
        """Native frames between the two -> pairs that the dataset `key` can use."""
        return self.described.get(key, self.counts.distances)


@dataclass(frozen=True)
class Rows:
    """What was written into one file of a training set; `texts` is of annotated texts alone."""

    counts: RowCounts
    claims_checked: int
    texts: TextCounts | None = None


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
