"""A build of a few simulated episodes, for tests that need pairs and pictures on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stcr_plugin.config import from_mapping

DATA: dict[str, Any] = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 2, "heldout": 3, "size": 56},
    "frames": {"width": 56, "height": 56},
    "splits": {"train": {"episodes": 2, "group": "seen"}, "heldout": {"episodes": 3, "group": "heldout"}},
    "pairs": {"per_episode": 4, "min_seconds": 0.5, "within_phase": 0.5, "trim_idle": 0.02},
    "datasets": {"weak": {"split": "train", "kind": "weak"}},
}


def build_toy(folder: Path, heldout: int = 3, **changes: Any) -> Path:
    """Build DATA into the registry `folder`, with `heldout` episodes to ask about and `changes` laid over its keys."""
    from stcr_plugin.registry.build import DataConfig, build

    source = DATA["source"] | {"heldout": heldout}
    splits = DATA["splits"] | {"heldout": {"episodes": heldout, "group": "heldout"}}
    build(from_mapping(DataConfig, DATA | {"source": source, "splits": splits} | changes, "test"), folder)
    return folder
