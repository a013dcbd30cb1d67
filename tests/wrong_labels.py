"""A build whose labels go by order although its source knows better, and judges that know the truth, but for some."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.ground_truth import true_progress
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import Pair

DATA: dict[str, Any] = {
    "name": "order",
    "source": {"kind": "tabletop", "seen": 3, "heldout": 1, "regress": 5, "size": 56},
    "frames": {"width": 56, "height": 56},
    "splits": {"heldout": {"episodes": 1, "group": "heldout"}, "train": {"episodes": 8}},
    "pairs": {"per_episode": 6, "min_seconds": 1.0, "trim_idle": 0.02},
    "datasets": {"weak": {"split": "train", "kind": "weak"}},
    "shard_episodes": 3,
}


def config(**changes: Any) -> DataConfig:
    """DATA with `changes` laid over its keys; those of `pairs` over its keys in turn."""
    rules = DATA["pairs"] | changes.pop("pairs", {})
    return from_mapping(DataConfig, DATA | {"pairs": rules} | changes, "test")


def build_wrong_labels(folder: Path, **changes: Any) -> Path:
    """Build `config(**changes)` into the registry `folder`."""
    build(config(**changes), folder)
    return folder


def true_pairs(registry: Path, name: str = "order", split: str = "train") -> list[Pair]:
    """The pairs of a split with the label that the recorded progress gives."""
    pairs = read_pairs(registry, name, split)
    progress = true_progress(registry, name, {(pair.episode_id, pair.task) for pair in pairs})
    found = []
    for pair in pairs:
        known = progress[pair.episode_id, pair.task]
        assert known is not None
        earlier, later = known[pair.earlier], known[pair.later]
        assert earlier is not None
        assert later is not None
        closer = "later" if later > earlier else "earlier" if earlier > later else "neither"
        found.append(dataclasses.replace(pair, closer=closer))
    return found


def judge(registry: Path, mistaken: Collection[str] = (), generates: bool = False) -> EvalRequest:
    """Asks a judge of the split train that knows the truth, but names the other frame of the pairs `mistaken`."""
    other = {"earlier": "later", "later": "earlier", "neither": "later"}
    known = [
        dataclasses.replace(pair, closer=other[pair.closer]) if pair.pair_id in mistaken else pair
        for pair in true_pairs(registry)
    ]
    engine = Oracle("right", known, generates=generates)
    return EvalRequest(engine=engine, dataset="order", split="train", registry=registry, resamples=20)
