"""A file of annotated texts about the pairs of a build, as `stcr annotate` writes it."""

from __future__ import annotations

import json
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.samples.annotations import PASSED, VERDICTS, Annotation

FAILURES: list[dict[str, Any]] = [
    {},
    {"earlier_leak": "time: before"},
    {"judged": "against the label", "suspect_label": True},
    {},
    {"later_claims": "wrong claim: gripper open", "blind": "no answer"},
]
"""What the rows fail, in turn."""


def annotation(number: int = 0, **changes: Any) -> Annotation:
    """A row that every check accepts, with `changes`."""
    values: dict[str, Any] = {
        "pair_id": f"e{number // 10}:{number}-{number + 9}", "episode_id": f"e{number // 10}", "split": "train",
        "task": "put the bottle into the box", "earlier": number, "later": number + 9, "closer": "later",
        "earlier_image": "none.png", "later_image": "none.png", "earlier_fingerprint": "", "later_fingerprint": "",
        "language": "en", "sample": 0, "attempt": 1, "earlier_text": f"The gripper is open, {number} cm away.",
        "later_text": f"The gripper holds the bottle, {number} cm high.", "accepted": True, "describer": "teacher",
        "verifier": "judge",
    }  # fmt: skip
    return Annotation(**values | dict.fromkeys(VERDICTS, PASSED) | changes)


def write_rows(path: Path, rows: list[Annotation]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def annotate(path: Path, registry: Path, count: int = 20, build: str = "toy", **changes: Any) -> Path:
    """Write `count` rows about the pairs of a build, which fail FAILURES in turn, to `path`."""
    pairs = read_pairs(registry, build, "heldout")
    rows = [
        annotation(
            number, **{"pair_id": f"{number}:{pair.pair_id}", "episode_id": pair.episode_id, "task": pair.task,
            "earlier_image": pair.earlier_image, "later_image": pair.later_image, "accepted": not failure}
            | failure | changes
        )
        for number, (pair, failure) in enumerate(islice(zip(cycle(pairs), cycle(FAILURES)), count))
    ]  # fmt: skip
    return write_rows(path, rows)
