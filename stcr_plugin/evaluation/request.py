"""The request of a measurement: which model, on which data, with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import Subject, subject


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """One request that every measurement takes.

    Attributes:
        model: Folder of the model; None where `engine` alone is known.
        engine: Is used instead of the model in the folder `model`.
        dataset: Name of a build.
        split: Split of the build.
        registry: Folder of the builds and their pictures.
        settings: How the model is evaluated; completed by the model's stage.
        limit: As many pairs or groups at most, spread evenly over episodes; None for all.
        seed: Draws prompt variants, groups, the pairs of `limit` and the bootstrap.
        resamples: Of the bootstrap.
        name: What tables call the model; by default its stage, folder or name at the server.
    """

    model: Path | None = None
    engine: Engine | None = None
    dataset: str = ""
    split: str = "heldout"
    registry: Path = Path("data_registry")
    settings: AskSettings = field(default_factory=AskSettings)
    limit: int | None = None
    seed: int = 0
    resamples: int = 2000
    name: str | None = None

    def subject(self, pictures: Path | None = None, **changes: Any) -> Subject:
        """The engine and its completed settings, with `changes` laid over them; `pictures` default to the registry.

        Raises:
            ConfigError: There is neither an engine nor a model.
            DataError: The model's folder or its stage.json cannot be used.
        """
        return subject(self.model, pictures or self.registry, self.settings, engine=self.engine, **changes)
