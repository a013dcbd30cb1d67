"""A file of annotated texts about the pairs of a build, for tests: written by hand, as `stcr annotate` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stcr_plugin.registry.manifest import frame_rows, read_manifest, read_pairs
from stcr_plugin.samples.annotations import Annotation
from stcr_plugin.types import Pair


def annotations(registry: Path, name: str, split: str = "train", **changes: Any) -> list[Annotation]:
    """An accepted text for every pair of a split: which episode and frame each picture is."""
    prints = {row["image"]: row["fingerprint"] for row in frame_rows(registry, read_manifest(registry, name))}
    return [annotation(pair, prints, **changes) for pair in read_pairs(registry, name, split)]


def annotation(pair: Pair, prints: dict[str, str], **changes: Any) -> Annotation:
    values: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "episode_id": pair.episode_id,
        "split": pair.split,
        "task": pair.task,
        "earlier": pair.earlier,
        "later": pair.later,
        "closer": pair.closer,
        "earlier_image": pair.earlier_image,
        "later_image": pair.later_image,
        "earlier_fingerprint": prints[pair.earlier_image],
        "later_fingerprint": prints[pair.later_image],
        "language": "en",
        "sample": 0,
        "attempt": 1,
        "earlier_text": f"Grey {pair.earlier} of {pair.episode_id}.",
        "later_text": f"Grey {pair.later} of {pair.episode_id}.",
        "earlier_leak": "passed",
        "later_leak": "passed",
        "judged": "passed",
        "accepted": True,
        "describer": "teacher-7b",
        "verifier": "judge-3b",
    }
    return Annotation(**values | changes)


def write(path: Path, rows: list[Annotation]) -> str:
    path.write_text("".join(json.dumps(row.row()) + "\n" for row in rows), encoding="utf-8")
    return str(path)
