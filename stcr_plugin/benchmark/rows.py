"""One split of a build as a benchmark: every pair in both orders, with the question as `stcr eval` puts it."""

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


@dataclass(frozen=True)
class Row:
    """One query of a benchmark. `introduction` names the pictures where a tool shows them all before the text.

    `names` are the answers that count: those of img1 and img2, then "neither" where it is offered. `answer` is the
    right one of them, `expected` the same as img1, img2 or neither. `images` are relative to the registry. `number`
    is the row's place, from 0.
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
        """What every format carries beside pictures and question; texts and numbers alone."""
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
class Benchmark:
    """The rows of one split, and `asked`: what they were made by, JSON-like, from which they can be made again.

    `name` ends in a digest of the prompts and of the pictures' contents, so that no tool takes what it kept of
    another benchmark (answers, pictures, tables) for this one's.
    """

    name: str
    asked: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def label(self) -> str:
        """`asked` as the text that each row carries, so that a log says of itself what was asked."""
        return json.dumps(self.asked, ensure_ascii=False, sort_keys=True)


def benchmark(
    registry: Path, dataset: str, split: str, settings: AskSettings | None = None, seed: int = 0
) -> Benchmark:
    """Every pair of `split` of the build `dataset`, forward then backward.

    The wordings are those that `stcr eval` draws with these settings and this seed; mode None is "direct". Raises
    ConfigError for an unknown name or setting, DataError for pairs or pictures that cannot be read.
    """
    from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

    settings = dataclasses.replace(settings or AskSettings(), generate=True)
    settings = dataclasses.replace(settings, mode=settings.mode or "direct")
    queries = [Query(pair, order) for pair in read_pairs(registry, dataset, split) for order in ORDERS]
    prompts = prompts_for(queries, settings, seed, teaches_ties(read_manifest(registry, dataset)))
    if not queries:
        raise DataError(f"{dataset}: split {split} has no pairs; build it with more episodes, or name another")
    introduction = _introduction(settings.language)
    rows = [_row(number, *one, introduction) for number, one in enumerate(zip(queries, prompts, strict=True))]
    default = dataclasses.asdict(AskSettings())
    given = {key: value for key, value in dataclasses.asdict(settings).items() if value != default[key]}
    digest = _digest(registry, rows)
    asked = {"dataset": dataset, "split": split, "seed": seed, "settings": given, "digest": digest}
    return Benchmark(f"{title(dataset, split)}_{digest[:8]}", asked, rows)


def benchmark_again(registry: Path, asked: Any, where: str) -> Benchmark:
    """The benchmark whose rows carry `asked`, made from the registry anew; `where` names the log in errors.

    Raises DataError where the registry's data or this version's wordings give another one.
    """
    keys = {"dataset", "split", "seed", "settings", "digest"}
    if not isinstance(asked, dict) or asked.keys() != keys or not isinstance(asked["settings"], dict):
        raise DataError(f"{where}: its rows do not say what was asked; run a benchmark that `stcr benchmark` exported")
    settings = from_mapping(AskSettings, asked["settings"], f"{where}, what was asked")
    found = benchmark(registry, str(asked["dataset"]), str(asked["split"]), settings, int(asked["seed"]))
    if found.asked["digest"] != asked["digest"]:
        raise DataError(
            f"{where}: answers to another benchmark ({str(asked['digest'])[:8]}) than {found.name}, which {registry} "
            "gives now: pairs, pictures or wordings differ; read it with the registry it was exported from, or export "
            "and ask again"
        )
    return found


def title(dataset: str, split: str) -> str:
    """What the names of all benchmarks of a split start with; a digest of 8 hex digits follows, after `_`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", f"stcr_{dataset}_{split}")


def _row(number: int, query: Query, prompt: Prompt, introduction: str) -> Row:
    names, expected = prompt.names, query.answer
    first, second = query.images
    return Row(
        number,
        query.pair,
        query.order,
        (first, second),
        names,
        introduction.replace("{names}", ", ".join(names[:2])),
        prompt.question,
        expected,
        {"img1": names[0], "img2": names[1]}.get(expected, expected),
    )


def _digest(registry: Path, rows: Sequence[Row]) -> str:
    """SHA-256 over all that a model is shown and all that its answer is held against."""
    contents = picture_digests(registry, {image: f"pair {row.pair.pair_id}" for row in rows for image in row.images})
    return artefacts.digest(
        [[row.columns(), row.introduction, row.question, *(contents[image] for image in row.images)] for row in rows]
    )


@cache
def _introduction(language: str) -> str:
    texts = read_yaml(INTRODUCTIONS)
    if language not in texts:
        raise ConfigError(f"{INTRODUCTIONS}: no text in {language!r}, {nearest(language, list(texts))}")
    return str(texts[language])
