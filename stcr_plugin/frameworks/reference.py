"""The reference model of a stage of DPO or GRPO: the model by whose log-probabilities it measures its own.

It must be the model that the stage starts from, else the first loss is not ln 2. What LLaMA-Factory 0.9.5 takes
(train/trainer_utils.py, `create_ref_model`): with LoRA the live model with its adapter switched off, which is the
starting point where a new adapter is trained, and the base below it where an old one is continued; with full training a
second copy of the starting point; or what `ref_model` names. `pref_loss: orpo` and `simpo` need none. Our GRPO takes
the same two (trl/grpo.py), and none with `beta: 0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.adapters import CONFIG, Start, chain
from stcr_plugin.frameworks.recipe import Recipe, names
from stcr_plugin.records import ReferenceModel
from stcr_plugin.weight_files import refuse_broken_weights

WITHOUT = ("orpo", "simpo")
"""Losses that compare with no reference."""


@dataclass(frozen=True)
class Reference:
    """A stage's reference model.

    Attributes:
        model: A stage's folder or a model, as the recipe names it.
        copied: Whether it is loaded as a second model; else the trained one is used with its adapter switched off.
        keys: The recipe's keys by which LLaMA-Factory loads it.
    """

    model: str
    copied: bool
    keys: Mapping[str, Any]

    @property
    def how(self) -> str:
        return "a second model" if self.copied else "its adapter switched off"

    def record(self, start: str, digest: str | None) -> ReferenceModel:
        """For stage.json, key `reference`; `digest` is that of the files of `start`, which it mostly is."""
        if self.model != start:
            digest = artefacts.model_digest(self.model) if Path(self.model).is_dir() else None
        return ReferenceModel(self.model, digest, self.how)


def reference_of(recipe: Recipe, start: Start) -> Reference | None:
    """The reference model of a recipe's stage; None where it has none. Nothing is loaded.

    Raises:
        ConfigError: The one that LLaMA-Factory would take is not the model that the stage starts from.
        DataError: A file of weights of the named one is cut or missing.
    """
    keys = recipe.keys
    if not _compares(recipe):
        return None
    lora = keys.get("finetuning_type", "lora") == "lora"
    if recipe.prefers and (folder := keys.get("ref_model")):
        return _named(str(folder), names(keys.get("ref_model_adapters")))
    continues = start.way == "continue" or (
        start.way is None and bool(recipe.adapters) and not keys.get("create_new_adapter")
    )
    if lora and continues:
        named = "name the reference: ref_model: the folder of a stage or model"
        other = named if recipe.prefers else "beta: 0, which compares with no reference"
        raise ConfigError(
            "stcr.adapter" if start.way else "adapter_name_or_path",
            f"continues the adapter of {start.parent}, and stage: {keys['stage']} would compare with the model below "
            "it, as it was before that adapter was trained",
            f"set stcr.adapter: stack or merge, or {other}",
        )
    return Reference(start.parent, not lora, {})


def _compares(recipe: Recipe) -> bool:
    if recipe.samples_answers:
        return bool(recipe.keys.get("beta"))
    return recipe.prefers and recipe.keys.get("pref_loss") not in WITHOUT


def _named(folder: str, adapters: list[str]) -> Reference:
    """What `ref_model` names; of a stage that left an adapter, the model at the bottom and the adapters over it."""
    if Path(folder).is_dir():
        refuse_broken_weights(folder)
    if not (Path(folder) / CONFIG).is_file():
        return Reference(folder, True, {})
    bottom, below = chain(folder)
    return Reference(folder, True, {"ref_model": bottom, "ref_model_adapters": ",".join([*below, *adapters])})
