"""Finished rollouts as files, so that a run that goes on, and each of its steps, need not simulate them again."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.artefacts import whole_file
from stcr_plugin.episodes.rollout import Facts, Vector

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # cut by a loss of power


@dataclass(frozen=True)
class StoredRollout:
    """What an episode's draws came to.

    Attributes:
        seed: Of the draw that is of its kind.
        frames: Of that draw; empty where no draw is of its kind.
        actions: [steps, 4], what led from each frame to the next.
        failures: Why the draws before it were not.
    """

    seed: int
    frames: tuple[Facts, ...]
    actions: Vector
    failures: tuple[str, ...]


def write_rollout(path: Path, rollout: StoredRollout) -> None:
    """Write one file, whole. Raises DataError where that fails."""
    columns: dict[str, Any] = {
        field.name: np.array([getattr(facts, field.name) for facts in rollout.frames])
        for field in dataclasses.fields(Facts)
    }
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(
            file,
            seed=np.array(rollout.seed, dtype=np.int64),
            actions=rollout.actions,
            failures=np.array(rollout.failures, dtype=np.str_),
            **{f"frame_{name}": values for name, values in columns.items()},
        )


def read_rollout(path: Path) -> StoredRollout | None:
    """None where there is no whole file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            columns = {field.name: kept[f"frame_{field.name}"] for field in dataclasses.fields(Facts)}
            failures = tuple(str(text) for text in kept["failures"])
            return StoredRollout(int(kept["seed"]), _frames(columns), kept["actions"], failures)
    except _UNREADABLE:
        return None


def _frames(columns: dict[str, Vector]) -> tuple[Facts, ...]:
    values: dict[str, Sequence[object]] = {
        name: column.tolist() if column.ndim == 1 else list(column) for name, column in columns.items()
    }
    return tuple(Facts(**dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True))
