"""How a dataset is labelled, and with whom: what another process needs to label a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.config import option, settings
from stcr_plugin.engines.open import engine_for
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.robotics.judged_progress import Judge
from stcr_plugin.robotics.labelled_data import LabelledData

WORK = ".stcr_label"
"""Folder of unfinished work in that of the files; removed when they are written."""


@settings
class LabelSettings:
    """What decides the labels besides the model and the dataset."""

    every: float = option(default=0.5, help="seconds between the frames that are compared")
    reference: tuple[str, ...] = option(default=(), help="episodes that succeed, on whose scale all are read")
    goal: str | None = option(default=None, help="picture of the finished task, instead of a reference")
    reference_frames: int = option(default=8, help="frames of each reference, evenly spaced over its time")
    success: bool = option(default=False, help="also write how probable it is that each episode ends as the reference")
    controls: int = option(default=4, help="episodes on which controls are run; 0 for none")

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise ValueError(f"every must be above 0 seconds, got {self.every}")
        if self.reference_frames < 2 or self.controls < 0:
            raise ValueError("reference_frames must be at least 2, controls at least 0")
        if self.reference and self.goal:
            raise ValueError("reference and goal exclude each other; give one")
        if self.success and self.relative:
            raise ValueError("success needs a reference or a goal to compare with; give one")

    @property
    def relative(self) -> bool:
        """Whether nothing links the episodes, so that progress is relative to each."""
        return not self.reference and self.goal is None


@dataclass(frozen=True)
class JudgeSettings:
    """Whom to ask: a model's folder, a server, or an oracle, which knows the truth and needs no model.

    Attributes:
        kind: A key of engines.open.KINDS.
        model: Folder of the model.
        ask: How to ask; completed by the model's stage.
        options: The engine's own settings.
        oracle: Name of an oracle, "" for none.
    """

    kind: str = "local"
    model: Path | None = None
    ask: AskSettings = field(default_factory=AskSettings)
    options: Mapping[str, Any] = field(default_factory=dict)
    oracle: str = ""

    @property
    def name(self) -> str:
        """What made the labels, for the progress file."""
        return str(self.model or self.options.get("model") or self.oracle or self.kind)

    def opened(self, pictures: Path, seed: int) -> Judge:
        """The judge, which shows pictures of that folder. Raises ConfigError and DataError as `engine_for` does."""
        if self.oracle:
            identity = dict(Oracle(self.oracle, [], seed=seed).identity())
            identity.pop("truth_digest")  # different for each episode
            ask = self.ask

            def oracle(pairs: Any) -> Engine:
                return Oracle(self.oracle, pairs, seed=seed, generates=ask.generate)

            return Judge(oracle, identity, ask, seed)
        made, ask = engine_for(self.kind, self.model, pictures, ask=self.ask, options=self.options)
        known = dict(made.identity())
        return Judge(lambda pairs: made, known, ask, seed)


@dataclass(frozen=True)
class LabelRequest:
    """One run of `stcr label`.

    Attributes:
        out: Folder of the files; of a LeRobot dataset its own, unless another one is named.
        seed: Draws prompt variants, the episodes of the controls and the bootstrap.
        overwrite: Replace the files of an earlier run.
    """

    data: LabelledData
    judge: JudgeSettings
    out: Path
    settings: LabelSettings = field(default_factory=LabelSettings)
    seed: int = 0
    overwrite: bool = False

    @property
    def simulated(self) -> Path:
        """Folder of what a simulated source has made, as long as the labels are unfinished."""
        return self.out / WORK / "simulated"
