"""Name of an engine, model folder and options -> the engine and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import records
from stcr_plugin.config import from_mapping, nearest, settings
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings, Engine, completed
from stcr_plugin.errors import ConfigError
from stcr_plugin.records import StageRecord


@settings
class LocalSettings:
    """The local engine, transformers in this process, has no settings beyond AskSettings."""


@dataclass(frozen=True)
class Kind:
    """A kind of engine.

    Attributes:
        settings: Class of its own settings.
        make: Engine from model folder, registry, AskSettings and its own settings.
        remote: It needs no model folder, and generates unless it is set to compare by log-probabilities.
    """

    settings: type
    make: Callable[[Path, Path, AskSettings, Any], Engine]
    remote: bool = False


KINDS: Mapping[str, Kind] = {
    "local": Kind(LocalSettings, lambda model, registry, ask, _: LocalEngine(model, registry, ask)),
    "server": Kind(ServerSettings, lambda _, registry, ask, own: ServerEngine(registry, ask, own), remote=True),
}


def engine_for(
    kind: str,
    model_dir: Path | None,
    registry: Path,
    *,
    ask: AskSettings | None = None,
    options: Mapping[str, Any] | None = None,
    where: str = "the options",
) -> tuple[Engine, AskSettings]:
    """The engine `kind`, and `ask` completed by the model's stage.

    Args:
        kind: A key of KINDS.
        model_dir: Folder of the model; a server needs none.
        registry: Folder of the pictures.
        ask: How to ask.
        options: The engine's own settings by name.
        where: What the options are called in errors.

    Raises:
        ConfigError: For an unknown engine or option, and without a model folder where one is needed.
    """
    if kind not in KINDS:
        raise ConfigError(where, f"unknown engine {kind!r}", nearest(kind, list(KINDS)))
    chosen = KINDS[kind]
    if model_dir is None and not chosen.remote:
        raise ConfigError(where, f"the {kind} engine needs the folder of a model", "name it (--model)")
    if options and not dataclasses.fields(chosen.settings):
        raise ConfigError(
            where, f"the {kind} engine has no {next(iter(options))!r}", "use another engine (--engine) or leave it out"
        )
    own: Any = from_mapping(chosen.settings, options or {}, f"{where} of the {kind} engine")
    ask = completed(ask or AskSettings(), (records.read(model_dir) if model_dir else None) or StageRecord())
    ask = dataclasses.replace(ask, generate=True) if chosen.remote and not own.logprobs else ask
    return chosen.make(model_dir or Path(), registry, ask, own), ask
