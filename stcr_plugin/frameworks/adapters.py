"""How a stage continues from one that left a LoRA adapter: the three ways, as keys that the framework knows.

    continue  the same adapter is trained further
    stack     a new adapter is trained on top of the frozen old ones; only adapters are written
    merge     the old adapter is merged into its base, a whole model on the disk, and training starts from that

What LLaMA-Factory 0.9.5 does with several adapters (model/adapter.py, `_setup_lora_tuning`): it merges all of them into
the weights in memory, save the last one where `create_new_adapter` is false. Under ZeRO-3, which cannot merge, it
continues the last one whatever the recipe says. The new adapter's `base_model_name_or_path` then names the model at the
bottom, so the adapters between would be lost to those who load it; `AdapterConfig` names the adapter below instead.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stcr_plugin import artefacts
from stcr_plugin.errors import ChainError, ConfigError, DataError
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.provenance import provenance
from stcr_plugin.records import AdapterStart

CONFIG = artefacts.ADAPTER_CONFIG
MERGED = "merged.json"
WAYS = {
    "continue": "the same adapter is trained on",
    "merge": "it is merged into its base, a whole model on the disk, and a new adapter (or full training) starts there",
    "stack": "a new adapter is trained on top of it, and both are needed from then on",
}
# Recipe key -> the adapter's own; LLaMA-Factory does not read the recipe's when it continues an adapter.
_SHAPE = {"lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}


@dataclass(frozen=True)
class Start:
    """What a stage starts from.

    Attributes:
        parent: The stage or model that the recipe names.
        way: How the parent's adapter is continued; None where the parent is a whole model.
        model: The model at the bottom.
        adapters: The adapters over it up to the parent's, the lowest first.
        merged: The folder of the merged model.
    """

    parent: str
    way: str | None = None
    model: str = ""
    adapters: tuple[str, ...] = ()
    merged: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The recipe's keys, in LLaMA-Factory's words, by which a framework loads this; nothing for a whole model."""
        if self.way is None:
            return {}
        if self.merged:
            return {"model_name_or_path": self.merged, "adapter_name_or_path": None, "create_new_adapter": False}
        return {
            "model_name_or_path": self.model,
            "adapter_name_or_path": ",".join(self.adapters),
            "create_new_adapter": self.way == "stack",
        }

    @property
    def below(self) -> str | None:
        """The base of the adapter that is trained; None where the parent is a whole model."""
        if self.way is None:
            return None
        under = {"continue": self.adapters[:-1], "stack": self.adapters, "merge": ()}[self.way]
        return under[-1] if under else self.merged or self.model

    @property
    def record(self) -> AdapterStart | None:
        """For stage.json, key `adapter`."""
        if self.way is None:
            return None
        digest = artefacts.model_digest(self.merged) if self.merged else None
        return AdapterStart(self.way, self.model, self.adapters, merged=self.merged, merged_digest=digest)


def start_of(recipe: Recipe) -> Start:
    """What the stage of a recipe starts from. Nothing is loaded or written.

    Raises:
        ConfigError: The parent is an adapter and the recipe names no way, or one that the rest of it contradicts.
        ChainError: The recipe's model is not the one that the adapter was trained on.
    """
    parent, way, given = recipe.starting_point, recipe.settings.adapter, recipe.model
    if not (Path(parent) / CONFIG).is_file():
        if way:
            raise ConfigError(
                "stcr.adapter",
                f"{way}, but {parent} holds no adapter",
                "a whole model needs no way, remove stcr.adapter",
            )
        return Start(parent)
    if way is None:
        if not recipe.starts_from_stage and given != parent:
            return Start(parent)  # another project's adapter, named as LLaMA-Factory does it
        ways = "; ".join(f"{name}: {what}" for name, what in WAYS.items())
        raise ConfigError(
            parent,
            "holds an adapter, and the recipe does not say how training continues",
            f"set stcr.adapter to one of {ways}",
        )
    if len(recipe.adapters) > 1:
        raise ConfigError(
            "adapter_name_or_path",
            f"{recipe.keys['adapter_name_or_path']!r} names several",
            "with stcr.adapter name the last alone, the plugin finds those below it",
        )
    _refuse(recipe.keys, way)
    bottom, adapters = chain(parent)
    model = bottom if given == parent else _same_model(given, bottom, parent)
    if way == "continue":
        _refuse_another_shape(recipe.keys, parent)
        _refuse_merging(recipe.keys, way, len(adapters) > 1)
    return Start(parent, way, model, adapters=adapters)


def chain(folder: str | Path) -> tuple[str, tuple[str, ...]]:
    """(the model at the bottom, the adapters over it up to `folder`, the lowest first).

    Raises ChainError for an adapter that names no base, or itself.
    """
    try:
        *adapters, bottom = artefacts.adapter_stack(folder)
    except DataError as error:
        raise ChainError(error.where, error.problem, error.fix) from None
    if (Path(bottom) / CONFIG).is_file():
        raise ChainError(Path(bottom) / CONFIG, "names no base", "set base_model_name_or_path")
    return bottom, tuple(reversed(adapters))


def _same_model(given: str, bottom: str, parent: str) -> str:
    """`given`, if it is the model that the adapter in `parent` was trained on; by content, for it may have moved."""
    there = Path(given).is_dir() and Path(bottom).is_dir()
    if there and artefacts.model_digest(given) != artefacts.model_digest(bottom):
        raise ChainError(
            "model_name_or_path",
            f"{given} is not the model that {parent} was trained on, {bottom}",
            f"set model_name_or_path to {bottom}, or to {parent}",
        )
    return given


def _refuse(keys: Mapping[str, Any], way: str) -> None:
    tuning = keys.get("finetuning_type", "lora")  # LLaMA-Factory's default
    if way != "merge" and tuning != "lora":
        raise ConfigError(
            "stcr.adapter",
            f"{way} trains an adapter, and the recipe says finetuning_type: {tuning}",
            "set it to lora, or stcr.adapter: merge",
        )
    new = keys.get("create_new_adapter")
    if new is not None and bool(new) != (way == "stack"):
        raise ConfigError(
            "create_new_adapter", f"{new} contradicts stcr.adapter: {way}", "remove it, the plugin sets it"
        )
    _refuse_merging(keys, way, way == "stack")


def _refuse_merging(keys: Mapping[str, Any], way: str, merges: bool) -> None:
    """Raises ConfigError where adapters below would have to be merged in memory, and cannot be."""
    reasons = {
        f"quantization_bit: {keys.get('quantization_bit')}": keys.get("quantization_bit"),
        "ZeRO-3 (deepspeed)": _zero_stage(keys) == 3,
        "use_unsloth": keys.get("use_unsloth"),
        "use_kt": keys.get("use_kt"),
    }
    reason = next((name for name, holds in reasons.items() if holds), None)
    if merges and reason:
        raise ConfigError(
            "stcr.adapter",
            f"{way} has adapters merged in memory, which LLaMA-Factory cannot do with {reason}",
            "set stcr.adapter: merge",
        )


def _zero_stage(keys: Mapping[str, Any]) -> int:
    rules = keys.get("deepspeed")
    if isinstance(rules, str):
        rules = json.loads(rules) if rules.lstrip().startswith("{") else artefacts.read_json(rules)
    zero = (rules or {}).get("zero_optimization") or {}
    return int(zero.get("stage") or 0)


def _refuse_another_shape(keys: Mapping[str, Any], parent: str) -> None:
    """Raises ConfigError where the recipe wants another shape than that of the adapter which it continues."""
    has = artefacts.read_json(Path(parent) / CONFIG)
    for key, own in _SHAPE.items():
        if keys.get(key) is not None and own in has and keys[key] != has[own]:
            raise ConfigError(
                key,
                f"{keys[key]}, but stcr.adapter: continue keeps the adapter of {parent}, which has {has[own]}",
                f"remove {key}, or set stcr.adapter to stack or merge",
            )


def settled(start: Start) -> Start:
    """`start` with its merged model on the disk, where it needs one. Other ranks wait at the lock.

    Raises DataError where the adapter or its base cannot be loaded, and for a full disk.
    """
    if start.way != "merge":
        return start
    return replace(start, merged=str(_merged(Path(start.parent), start)))


def _merged(parent: Path, start: Start) -> Path:
    """The folder in `parent` of the model that all adapters were merged into, in the bottom model's own precision.

    Written whole and kept: its name holds the digest of what was merged, so another training has another folder.
    """
    from stcr_plugin.engines.loading import assembled, load_processor

    digest = artefacts.model_digest(parent)
    folder = parent / f"merged-{digest[:8]}"
    with artefacts.locked(parent / ".merged.lock"):
        if _is_as_merged(folder):
            return folder
        model = assembled(parent, "auto")
        size = sum(weight.nbytes for weight in model.parameters())
        what = {"parent": str(parent), "parent_digest": digest, "model": start.model, "adapters": list(start.adapters)}
        with artefacts.room_for(parent, lambda: size), artefacts.whole_folder(folder) as part:
            model.save_pretrained(part)
            load_processor(parent).save_pretrained(part)
            what["model_digest"] = artefacts.model_digest(part)
            artefacts.write_json(part / MERGED, {**what, "provenance": provenance()})
    return folder


def _is_as_merged(folder: Path) -> bool:
    """Whether a merged model is there with the files that it was written with; an older one did not say."""
    if not (folder / MERGED).is_file():
        return False
    return artefacts.read_json(folder / MERGED).get("model_digest") in (None, artefacts.model_digest(folder))


class AdapterConfig(TrainerCallback):  # type: ignore[misc]
    """What the configuration of every saved adapter says.

    It names the adapter's base (`below`), where LLaMA-Factory would name the model at the bottom, and lists its modules
    in one order, where PEFT writes a set, whose order differs between processes.
    """

    def __init__(self, below: str | None) -> None:
        self.below = below

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        for config in getattr(model, "peft_config", {}).values():
            if isinstance(config.target_modules, set):
                config.target_modules = sorted(config.target_modules)
            if self.below:
                config.base_model_name_or_path = self.below
                # PEFT looks for the vocabulary's size there, and an adapter does not say it.
                warnings.filterwarnings("ignore", f"Could not find a config file in {re.escape(self.below)}")
