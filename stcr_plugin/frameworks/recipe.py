"""A recipe: LLaMA-Factory's own YAML with a `stcr:` block, whichever framework trains by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stcr_plugin.config import from_mapping, read_yaml
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.stcr_block import StcrSettings


@dataclass(frozen=True)
class Recipe:
    """A recipe, made once from its mapping.

    Attributes:
        written: The recipe as written, with its `stcr:` block.
        keys: The framework's own keys, with what the plugin has set. `framework_keys` hands them over.
        settings: The `stcr:` block.
    """

    written: Mapping[str, Any]
    keys: Mapping[str, Any]
    settings: StcrSettings

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Raises ConfigError for a `stcr:` block that cannot be used."""
        where, block = "the recipe's `stcr:` block", values.get("stcr")
        if not isinstance(block, Mapping):
            raise ConfigError(where, f"is {block!r}", "write `key: value` lines, at least name and mode")
        keys = {"dataset_dir": "data_registry", **{key: value for key, value in values.items() if key != "stcr"}}
        return cls(dict(values), keys, from_mapping(StcrSettings, block, where))

    def changed(self, changes: Mapping[str, Any], without: Sequence[str] = ()) -> Recipe:
        """The same recipe with other framework keys."""
        keys = {key: value for key, value in {**self.keys, **changes}.items() if key not in without}
        return replace(self, keys=keys)

    def framework_keys(self) -> dict[str, Any]:
        """The plain mapping that a framework trains by."""
        return dict(self.keys)

    @property
    def template(self) -> str:
        return str(self.keys["template"])

    @property
    def output_dir(self) -> Path:
        return Path(self.keys["output_dir"])

    @property
    def registry(self) -> Path:
        """The folder of dataset_info.json."""
        return Path(self.keys["dataset_dir"])

    @property
    def media_dir(self) -> str:
        """What the pictures of data files are relative to, by LLaMA-Factory's own default."""
        return str(self.keys.get("media_dir") or self.registry)

    @property
    def datasets(self) -> list[str]:
        """Names of the training sets, in their order."""
        return names(self.keys["dataset"])

    @property
    def model(self) -> str:
        return str(self.keys["model_name_or_path"])

    @property
    def adapters(self) -> list[str]:
        """The adapters that the recipe names, the lowest first."""
        return names(self.keys.get("adapter_name_or_path"))

    @property
    def starting_point(self) -> str:
        """What the stage starts from: the last adapter where there is one, else the model."""
        return self.adapters[-1] if self.adapters else self.model

    @property
    def starts_from_stage(self) -> bool:
        return self.settings.starts_from == "stage"

    @property
    def prefers(self) -> bool:
        """Whether the stage trains on ranking rows, which have a preferred and a rejected answer."""
        return self.keys.get("stage") == "dpo"

    @property
    def samples_answers(self) -> bool:
        """Whether the stage trains on answers that the model samples, by their reward (GRPO)."""
        return self.keys.get("stage") == "grpo"

    @property
    def image_max_pixels(self) -> int:
        return int(self.keys.get("image_max_pixels", MAX_PIXELS))

    @property
    def image_min_pixels(self) -> int:
        return int(self.keys.get("image_min_pixels", MIN_PIXELS))

    @property
    def cutoff_len(self) -> int:
        return int(self.keys.get("cutoff_len", 2048))

    @property
    def seed(self) -> int:
        return int(self.keys.get("seed", 42))

    @property
    def overwrites(self) -> bool:
        return bool(self.keys.get("overwrite_output_dir"))

    @property
    def data_configs(self) -> tuple[str, ...]:
        """The data configurations that are built before training."""
        configs = self.settings.prepare.data or ()
        return (configs,) if isinstance(configs, str) else configs


def names(value: str | Sequence[str] | None) -> list[str]:
    """A list that a recipe gives as YAML or separated by commas."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value or ())


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as a mapping, `key=value` overrides laid over it, as `llamafactory-cli train` reads it.

    Raises:
        ConfigError: The file is missing, is not YAML, or has no `stcr:` block.
    """
    values = read_yaml(path, overrides, resolve=True)
    if "stcr" not in values:
        raise ConfigError(path, "has no `stcr:` block", "add one with at least name and mode, or use llamafactory-cli")
    return values
