"""One split of a build as a benchmark: every pair in both orders, with the questions of `stcr eval`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml
from stcr_plugin.engines.cache import picture_digests
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import ORDERS, Pair, Prompt, Query

INTRODUCTIONS = Path(__file__).with_name("introductions.yaml")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One query of a benchmark.

    Attributes:
        number: From 0.
        images: Relative to the registry.
        names: The valid answers: those of img1 and img2, then "neither" where it is offered.
        introduction: Names the pictures where a tool shows them all before the text.
        expected: The right answer as img1, img2 or neither; `answer` is the same as in `names`.
    """

    number: int
    pair: Pair
    order: str
    images: tuple[str, str]
    names: tuple[str, ...]
    introduction: str
    question: str
    expected: str
    answer: str

    def columns(self) -> dict[str, Any]:
        """What every format has besides pictures and question: texts and numbers."""
        return {
            "answer": self.answer,
            "pair_id": self.pair.pair_id,
            "episode_id": self.pair.episode_id,
            "order": self.order,
            "expected": self.expected,
            "names": json.dumps(self.names, ensure_ascii=False),
            "task": self.pair.task,
            "phase": self.pair.phase,
            "seconds": self.pair.seconds,
        }


@dataclass(frozen=True)
class Source:
    """What a benchmark was made from; every row carries it as JSON, so that the benchmark can be made again.

    Attributes:
        settings: The fields of AskSettings that are not the default.
        digest: Of all that a model is shown and that its answer is compared with.
    """

    dataset: str
    split: str
    seed: int
    settings: Mapping[str, Any]
    digest: str

    @property
    def ask(self) -> AskSettings:
        return from_mapping(AskSettings, self.settings, "settings of the benchmark")


@dataclass(frozen=True)
class Benchmark:
    """The rows of one split.

    Attributes:
        name: Ends in a part of the digest, so that no tool mixes up what it keeps of two benchmarks.
    """

    name: str
    source: Source
    rows: Sequence[Row]

    @property
    def label(self) -> str:
        """`source` as the text that each row carries."""
        return json.dumps(dataclasses.asdict(self.source), ensure_ascii=False, sort_keys=True)


def benchmark(
    registry: Path, dataset: str, split: str, *, settings: AskSettings | None = None, seed: int = 0
) -> Benchmark:
    """Every pair of a split, forward then backward.

    Args:
        registry: Folder of the builds.
        dataset: Name of a build.
        split: Split of the build.
        settings: How `stcr eval` would ask; mode None is "direct".
        seed: Draws the prompt variants, as for `stcr eval`.

    Raises:
        ConfigError: A name or a setting is unknown.
        DataError: Pairs or pictures cannot be read.
    """
    from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

    settings = dataclasses.replace(settings or AskSettings(), generate=True)
    settings = dataclasses.replace(settings, mode=settings.mode or "direct")
    queries = [Query(pair, order) for pair in read_pairs(registry, dataset, split) for order in ORDERS]
    prompts = prompts_for(queries, settings, seed, ties=teaches_ties(read_manifest(registry, dataset)))
    if not queries:
        raise DataError(dataset, f"split {split} has no pairs", "build it with more episodes, or name another")
    introduction = _introduction(settings.language)
    pairs = enumerate(zip(queries, prompts, strict=True))
    rows = [_row(number, query, prompt, introduction=introduction) for number, (query, prompt) in pairs]
    default = dataclasses.asdict(AskSettings())
    given = {key: value for key, value in dataclasses.asdict(settings).items() if value != default[key]}
    source = Source(dataset, split, seed=seed, settings=given, digest=_digest(registry, rows))
    return Benchmark(f"{title(dataset, split)}_{source.digest[:8]}", source, rows)


def benchmark_again(registry: Path, label: str, where: str | Path) -> Benchmark:
    """The benchmark whose rows carry the text `label`, made from the registry.

    Args:
        registry: Folder of the builds.
        label: See Benchmark.label.
        where: The log, for errors.

    Raises:
        DataError: The label cannot be read, or the registry or this version's prompts give another benchmark.
    """
    try:
        source = from_mapping(Source, json.loads(label), str(where))
        settings = source.ask
    except (ValueError, TypeError, ConfigError) as error:
        problem = f"its rows do not say how they were made ({error})"
        raise DataError(where, problem, "run a benchmark that `stcr benchmark` exported") from None
    found = benchmark(registry, source.dataset, source.split, settings=settings, seed=source.seed)
    if found.source.digest != source.digest:
        raise DataError(
            where,
            f"has answers to another benchmark ({source.digest[:8]}) than {found.name}, which {registry} gives now: "
            "pairs, pictures or prompts differ",
            "read it with the registry that it was exported from, or export and evaluate again",
        )
    return found


def title(dataset: str, split: str) -> str:
    """The start of the names of all benchmarks of a split; `_` and 8 hex digits of the digest follow."""
    return re.sub(r"[^A-Za-z0-9]+", "_", f"stcr_{dataset}_{split}")


def _row(number: int, query: Query, prompt: Prompt, *, introduction: str) -> Row:
    names, expected = prompt.names, query.answer
    first, second = query.images
    return Row(
        number=number,
        pair=query.pair,
        order=query.order,
        images=(first, second),
        names=names,
        introduction=introduction.replace("{names}", ", ".join(names[:2])),
        question=prompt.question,
        expected=expected,
        answer={"img1": names[0], "img2": names[1]}.get(expected, expected),
    )


def _digest(registry: Path, rows: Sequence[Row]) -> str:
    """SHA-256 over all that a model is shown and all that its answer is compared with."""
    contents = picture_digests(registry, {image: f"pair {row.pair.pair_id}" for row in rows for image in row.images})
    return artefacts.digest(
        [[row.columns(), row.introduction, row.question, *(contents[image] for image in row.images)] for row in rows]
    )


@cache
def _introduction(language: str) -> str:
    texts = read_yaml(INTRODUCTIONS)
    if language not in texts:
        raise ConfigError(INTRODUCTIONS, f"no text in {language!r}", nearest(language, list(texts)))
    return str(texts[language])
