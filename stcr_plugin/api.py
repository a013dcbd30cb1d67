"""The public functions of the package: `stcr_plugin.build`, `evaluate`, `judge` and `judge_all`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.evaluation.judge import judge, judge_all
from stcr_plugin.evaluation.request import EvalRequest

if TYPE_CHECKING:
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.registry.data_config import DataConfig
    from stcr_plugin.results import Evaluation

__all__ = ["EvalRequest", "build", "evaluate", "judge", "judge_all", "results_folder"]


def build(
    config: str | Path | DataConfig,
    overrides: Sequence[str] = (),
    *,
    registry: str | Path = "data_registry",
    workers: int | None = None,
) -> Path:
    """Build the training sets of a data config, as `stcr data build` does.

    Args:
        config: A YAML file, or the config itself.
        overrides: `key=value` strings, laid over the YAML file.
        registry: Folder of the training sets, made where it is missing.
        workers: Processes; None for one per core. The result is the same.

    Returns:
        The build's manifest.json.

    Raises:
        ConfigError: If the config cannot be loaded.
        DataError: If the source cannot be read, or too little of it can be used.
    """
    from stcr_plugin.registry.build import build, load_data_config
    from stcr_plugin.registry.workers import WorkerPool

    loaded = load_data_config(config, overrides) if isinstance(config, str | Path) else config
    return build(loaded, registry, WorkerPool(workers))


def evaluate(request: EvalRequest, out: str | Path | None = None) -> Evaluation:
    """Evaluate a model on a split in both orders, as `stcr eval` does.

    Args:
        request: The model or engine, the split, and how to evaluate on it.
        out: Folder of the results (default: that of `stcr eval`).

    Returns:
        The figures, also written to results.json in the folder.

    Raises:
        ConfigError: If the request names neither a model nor an engine, or a setting is out of range.
        DataError: If the data or the model cannot be used.
    """
    from stcr_plugin.evaluation.evaluate import evaluate

    return evaluate(request, Path(out) if out else results_folder(request, request.settings))


def results_folder(request: EvalRequest, settings: AskSettings, how: str = "", *, room: str = "eval") -> Path:
    """The default folder of results: beside the model, or below runs/ROOM for the model of a server.

    Results with other settings than the defaults get their own folder, so that they replace no other figures.

    Args:
        request: What is evaluated.
        settings: Those given by the user, not completed by the model's stage.
        how: A further part of the folder's name.
        room: Folder in the model's folder, such as "eval".
    """
    identity = request.engine.identity() if request.engine else {"engine": "local"}
    folder = settings.folder(request.dataset, request.split, how)
    if request.model is None:
        served = re.sub(r"[^\w.-]+", "_", str(identity.get("model") or identity["engine"])).strip("._")
        return Path("runs", room, served or "model", folder)
    return Path(request.model, room, folder if identity["engine"] == "local" else f"{folder}-{identity['engine']}")
