"""The engines by name, each made from its own settings, as the command line or a YAML file gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin.config import from_mapping, nearest, settings
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.server import ServerEngine, ServerSettings
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import completed
from stcr_plugin.engines.vllm import VllmEngine, VllmSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.records import stage_of


@settings
class LocalSettings:
    """transformers in this process has no settings beyond AskSettings."""


@dataclass(frozen=True)
class Kind:
    """A kind of engine: the class of its settings, and how it is made. `remote`: it needs no folder of a model."""

    settings: type
    make: Callable[[Path, Path, AskSettings, Any], Engine]
    remote: bool = False


KINDS: Mapping[str, Kind] = {
    "local": Kind(LocalSettings, lambda model, registry, ask, _: LocalEngine(model, registry, ask)),
    "server": Kind(ServerSettings, lambda _, registry, ask, own: ServerEngine(registry, ask, own), remote=True),
    "vllm": Kind(VllmSettings, VllmEngine),
}


def engine_for(
    kind: str,
    model_dir: Path | None,
    registry: Path,
    ask: AskSettings,
    options: Mapping[str, Any],
    where: str = "the options",
) -> tuple[Engine, AskSettings]:
    """The engine `kind` with its `options`, and `ask` as it is to be asked: completed by the model's stage.

    A server is always left to write, since it cannot compare. `where` names the options in errors. Raises ConfigError
    for an engine or an option that there is none of, and for a missing folder of a model.
    """
    if kind not in KINDS:
        raise ConfigError(f"{where}: no engine {kind!r}, {nearest(kind, list(KINDS))}")
    chosen = KINDS[kind]
    if model_dir is None and not chosen.remote:
        raise ConfigError(f"{where}: the {kind} engine needs the folder of a model (--model)")
    if options and not dataclasses.fields(chosen.settings):
        raise ConfigError(
            f"{where}: the {kind} engine has no {next(iter(options))!r}; name another (--engine), or none"
        )
    own: Any = from_mapping(chosen.settings, options, f"{where} of the {kind} engine")
    ask = completed(ask, stage_of(model_dir) if model_dir else {})
    ask = dataclasses.replace(ask, generate=True) if chosen.remote else ask
    return chosen.make(model_dir or Path(), registry, ask, own), ask
