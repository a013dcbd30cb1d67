"""Whom an evaluation asks, and how: a model's folder or an engine, with the settings that the model was trained by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.errors import ConfigError
from stcr_plugin.records import stage_of


@dataclass(frozen=True)
class Subject:
    """`engine` answers for the model in `model_dir`, where that is a folder here; `stage` is the model's stage.json."""

    model_dir: Path | None
    stage: Mapping[str, Any]
    settings: AskSettings
    engine: Engine

    def names(self, name: str | None) -> dict[str, str]:
        """`name`, or what the model is called by its stage, folder or server, and `model`, where it is found."""
        identity = self.engine.identity()
        served = str(identity.get("model") or identity["engine"])
        folder = self.model_dir.resolve().name if self.model_dir else served
        return {"name": str(name or self.stage.get("name") or folder), "model": str(self.model_dir or served)}


def subject(
    model_dir: Path | None,
    pictures: Path,
    settings: AskSettings | None = None,
    engine: Engine | None = None,
    **changes: Any,
) -> Subject:
    """`engine`, or the model in `model_dir`, which is shown what lies in the folder `pictures`.

    settings: completed by the model's stage; `changes` are laid over them. Raises ConfigError where there is neither
    an engine nor a folder, DataError for a folder without a model and for a stage.json that cannot be used.
    """
    model_dir = Path(model_dir) if model_dir else None
    stage = stage_of(model_dir) if model_dir else {}
    settings = dataclasses.replace(completed(settings or AskSettings(), stage), **changes)
    if engine is None:
        if model_dir is None:
            raise ConfigError("nothing to ask: give the folder of a model, or an engine")
        engine = LocalEngine(model_dir, Path(pictures), settings)
    if isinstance(engine, LocalEngine):
        artefacts.model_files(engine.model_dir)  # before a folder for its results is made
    return Subject(model_dir, stage, settings, engine)


def completed(settings: AskSettings, stage: Mapping[str, Any]) -> AskSettings:
    """`settings` with what they leave open taken from the model's stage: pictures are sized as in its training.

    Answers may be as long as its callback let them be, where `max_new_tokens` is the default.

    Raises ConfigError where they ask for another size of pictures and do not say `other_image_size`.
    """
    where, given = "the settings, completed by the model's stage.json", dataclasses.asdict(settings)
    for key in ("image_max_pixels", "image_min_pixels"):
        if given[key] is not None and stage.get(key) not in (None, given[key]) and not settings.other_image_size:
            raise ConfigError(
                f"{key}: {given[key]}, but stage {stage.get('name')!r} was trained with {stage[key]}, and a model sees "
                f"pictures of another size otherwise; leave {key} out, or set other_image_size (--other-image-size)"
            )
    trained = {key: stage.get(key) for key in ("mode", "image_max_pixels", "image_min_pixels") if given[key] is None}
    taken = from_mapping(AskSettings, given | trained, where)
    most, least = taken.pixels
    rest: dict[str, Any] = {"mode": taken.mode or "direct", "image_max_pixels": most, "image_min_pixels": least}
    if given["max_new_tokens"] == AskSettings.max_new_tokens:  # reasons as long as the callback let them be
        asked = (stage.get("settings") or {}).get("evaluate") or {}
        rest["max_new_tokens"] = asked.get("max_new_tokens") or AskSettings.max_new_tokens
    return from_mapping(AskSettings, given | rest, where)
