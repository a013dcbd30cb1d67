"""A recipe: LLaMA-Factory's own YAML with a `stcr:` block, whichever framework trains by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin.errors import ConfigError


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as a mapping, `key=value` overrides laid over it, as `llamafactory-cli train` reads it.

    Raises ConfigError where there is no such file, it is no YAML, or it has no `stcr:` block.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such recipe; give the path of a YAML recipe such as recipes/stage1_cot.yaml")
    if without := [word for word in overrides if "=" not in word]:
        raise ConfigError(f"{without[0]!r}: is no override; write key=value")
    try:
        read = OmegaConf.load(path)
        if not isinstance(read, DictConfig):
            raise ConfigError(f"{path}: holds no `key: value` lines; give a recipe such as recipes/stage1_cot.yaml")
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
        args: dict[str, Any] = OmegaConf.to_container(merged, resolve=True)  # type: ignore[assignment]
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if "stcr" not in args:
        raise ConfigError(f"{path}: has no `stcr:` block; add one with at least name and mode, or use llamafactory-cli")
    return args


def datasets(args: Mapping[str, Any]) -> list[str]:
    """Names of the training sets, in their order."""
    names = args["dataset"]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def starting_point(args: Mapping[str, Any]) -> str:
    """What a stage starts from: the last adapter where there is one, else the model."""
    adapters = args.get("adapter_name_or_path")
    if adapters:
        return str((adapters.split(",") if isinstance(adapters, str) else list(adapters))[-1])
    return str(args["model_name_or_path"])


def media_dir(args: Mapping[str, Any], registry: Path) -> str:
    """What the pictures of data files are relative to, by LLaMA-Factory's own default."""
    return str(args.get("media_dir") or registry)
