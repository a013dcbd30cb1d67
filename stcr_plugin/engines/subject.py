"""Whom an evaluation asks, and how: an engine with the settings that the model was trained with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.open import engine_for
from stcr_plugin.engines.settings import AskSettings, Engine, completed
from stcr_plugin.errors import ConfigError
from stcr_plugin.records import StageRecord


@dataclass(frozen=True)
class Subject:
    """Whom an evaluation asks.

    Attributes:
        model_dir: Folder of the model; None for a server's model and for an oracle.
        stage: The model's stage.json, empty without one.
        settings: How to ask, completed by the stage.
        engine: Gives the responses.
    """

    model_dir: Path | None
    stage: StageRecord
    settings: AskSettings
    engine: Engine

    def names(self, name: str | None) -> dict[str, str]:
        """`name`, else the name of the stage, folder or served model; and `model`, where it is found."""
        identity = self.engine.identity()
        served = str(identity.get("model") or identity["engine"])
        folder = self.model_dir.resolve().name if self.model_dir else served
        return {"name": str(name or self.stage.name or folder), "model": str(self.model_dir or served)}


def subject(
    model_dir: Path | None,
    pictures: Path,
    settings: AskSettings | None = None,
    engine: Engine | None = None,
    **changes: Any,
) -> Subject:
    """Whom to ask: `engine`, else the local engine for `model_dir`.

    Args:
        model_dir: Folder of the model.
        pictures: Folder of the pictures that are shown.
        settings: How to ask, completed by the model's stage.
        engine: An engine that is used instead of the local one.
        **changes: Settings with other values, whatever `settings` and stage say.

    Raises:
        ConfigError: Without an engine and a folder.
        DataError: For a folder without a model, and for a stage.json that cannot be used.
    """
    if engine is None and model_dir is None:
        raise ConfigError("model", "there is nothing to ask", "give the folder of a model, or an engine")
    model_dir = Path(model_dir) if model_dir else None
    stage = (records.read(model_dir) if model_dir else None) or StageRecord()
    settings = dataclasses.replace(completed(settings or AskSettings(), stage), **changes)
    engine = engine or engine_for("local", model_dir, pictures, ask=settings)[0]
    if isinstance(engine, LocalEngine):
        artefacts.model_files(engine.model_dir)  # before a folder for its results is made
    return Subject(model_dir, stage, settings, engine)
