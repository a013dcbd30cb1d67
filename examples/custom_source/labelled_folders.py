"""A source of our own: one folder of PNG pictures per episode, with what each picture shows in a labels.json.

root/pour-01/labels.json   {"task": "pour the tea", "fps": 5, "frames": [{"pot": "upright", "fill": 0}, ...]}
root/pour-01/0000.png      one picture for each entry of `frames`, in the order of their names
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.config import settings
from stcr_plugin.episodes.source_table import SourceKind
from stcr_plugin.errors import DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment


@settings
class LabelledFoldersConfig:
    """The `source` block of a data recipe; unknown keys and wrong types are refused.

    Attributes:
        root: Folder that holds the folders of the episodes.
    """

    root: str
    kind: str = "labelled_folders"


class LabelledFoldersSource:
    """Implements `stcr_plugin.types.EpisodeSource`; no base class is needed."""

    kind = "labelled_folders"

    def __init__(self, config: LabelledFoldersConfig) -> None:
        self.root = Path(config.root)
        if not self.root.is_dir():
            raise DataError(self.root, "no such folder", "set source.root to the folder of the episodes")

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Lists without opening a picture. What cannot be used is an Exclusion: counted, and the build goes on."""
        for file in sorted(self.root.glob("*/labels.json")):
            labels, count = json.loads(file.read_text()), len(self._pictures(file.parent.name))
            if count != len(labels["frames"]):
                yield Exclusion("episode", str(file), f"{len(labels['frames'])} labels for {count} pictures")
                continue
            task = labels["task"]
            segments = (Segment(task, 0, count),)
            yield Episode(self.kind, file.parent.name, task, float(labels["fps"]), count, segments)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 pictures [height, width, 3] at the ascending `indices`."""
        from PIL import Image

        files = self._pictures(episode.episode_id)
        for index in indices:
            with Image.open(files[index]) as picture:
                yield np.asarray(picture.convert("RGB"))

    def states(self, episode: Episode) -> Sequence[dict[str, Any]]:
        """One mapping per frame. `progress`, `phase` and `motion` mean something to the pair rules; here: progress."""
        frames = json.loads((self.root / episode.episode_id / "labels.json").read_text())["frames"]
        return [{**frame, "progress": frame["fill"] / 100} for frame in frames]

    def claims(self, state: dict[str, Any]) -> tuple[Claim, ...]:
        """What may be said of a frame, in order; CLAIMS below says how."""
        return Claim("pot", state["pot"]), Claim("fill", state["fill"])

    def holds(self, claim: Claim, state: dict[str, Any]) -> bool:
        """Checks one claim against the raw state, so that a wrong `claims` is found before anything is trained."""
        return claim.name in ("pot", "fill") and state[claim.name] == claim.value

    def _pictures(self, episode_id: str) -> list[Path]:
        return sorted((self.root / episode_id).glob("*.png"))


# Needed for Chain-of-Thought text (`kind: cot`) only. A YAML file's path does as well.
CLAIMS = {"en": {"separator": ", ", "claims": {"pot": "the pot is {value}", "fill": "the cup is {value}% full"}}}

# Needed for `kind: reflect` only: which claims say how far the task is, and how they change with progress.
PROGRESS = {"fill": "rises"}

KIND = SourceKind(LabelledFoldersConfig, LabelledFoldersSource, claims=CLAIMS, progress=PROGRESS)
