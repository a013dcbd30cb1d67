"""The public functions of the package: `stcr_plugin.build`, `judge` and `judge_all`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.evaluation.judge import judge, judge_all

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import DataConfig

__all__ = ["build", "judge", "judge_all"]


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
