"""A recipe's keys for the TRL backend, with LLaMA-Factory's names and defaults, sorted into model, data and trainer."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stcr_plugin.config import from_mapping, settings
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.recipe import names

Strings = str | tuple[str, ...] | None


@settings
class ModelKeys:
    """What is trained, and which part of it. Defaults are LLaMA-Factory 0.9.5's (hparams/), except use_reentrant_gc.

    Attributes:
        use_reentrant_gc: torch's older way to recompute activations; by default only where ZeRO-3 and LoRA need it. The
            figures are the same.
    """

    model_name_or_path: str
    adapter_name_or_path: Strings = None
    create_new_adapter: bool = False
    finetuning_type: Literal["full", "lora"] = "lora"
    freeze_vision_tower: bool = True
    freeze_multi_modal_projector: bool = True
    freeze_language_model: bool = False
    lora_rank: int = 8
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_target: str | tuple[str, ...] = "all"
    additional_target: Strings = None
    use_rslora: bool = False
    use_dora: bool = False
    pure_bf16: bool = False
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2"] = "auto"
    disable_gradient_checkpointing: bool = False
    use_reentrant_gc: bool | None = None


@settings
class DataKeys:
    """What it is trained on.

    Attributes:
        val_size: Rows, or a share below 1, held out of the training set at random.
    """

    dataset: str | tuple[str, ...]
    eval_dataset: Strings = None
    dataset_dir: str = "data_registry"
    media_dir: str | None = None
    template: str = "stcr_qwen2_vl"
    cutoff_len: int = 2048
    image_max_pixels: int = MAX_PIXELS
    image_min_pixels: int = MIN_PIXELS
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = "concat"
    interleave_probs: str | tuple[float, ...] | None = None
    max_samples: int | None = None
    val_size: float = 0.0
    disable_shuffling: bool = False
    preprocessing_num_workers: int | None = None
    overwrite_cache: bool = False

    @property
    def media(self) -> str:
        return self.media_dir or self.dataset_dir

    @property
    def sets(self) -> list[str]:
        return names(self.dataset)

    @property
    def eval_sets(self) -> list[str]:
        return names(self.eval_dataset)

    @property
    def shares(self) -> list[float] | None:
        given = self.interleave_probs.split(",") if isinstance(self.interleave_probs, str) else self.interleave_probs
        return None if given is None else [float(share) for share in given]

    def __post_init__(self) -> None:
        if self.val_size and self.eval_dataset:
            raise ValueError("val_size holds rows out of the training set, eval_dataset names another; give one")
        if self.shares and (self.mix_strategy == "concat" or len(self.shares) != len(self.sets)):
            raise ValueError("interleave_probs is a share for each dataset, with mix_strategy interleave_*")


# LLaMA-Factory's keys that this backend does not support: key -> what to do. A recipe may have them switched off.
_OFF: dict[str, str] = {
    "streaming": "its rows are read from the disk as they are trained on, pictures too; remove it",
    "packing": "TRL packs no samples with pictures; remove it",
    "neat_packing": "TRL packs no samples with pictures; remove it",
    "mask_history": "every answer of a conversation is trained on",
    "train_on_prompt": "the answer alone is trained on",
    "crop_to_patches": "evaluation shows whole pictures; remove it",
    "trust_remote_code": "code in a model's folder is never run; take a model that transformers knows",
    "do_predict": "use `stcr eval`",
    "predict_with_generate": "use `stcr eval`",
    "remove_unused_columns": "the pictures' column would be dropped; remove it",
    "plot_loss": "the losses are in trainer_state.json; remove it",
    "quantization_bit": "",
    "enable_liger_kernel": "",
    "use_unsloth": "",
    "upcast_layernorm": "",
    "tokenized_path": "",
}
# Read before this backend is called (stage_run.py, refusals.py).
_READ_BEFORE = ("stage", "overwrite_output_dir")


@dataclass(frozen=True)
class Keys:
    """A recipe sorted. `trainer` holds fields of transformers' TrainingArguments."""

    model: ModelKeys
    data: DataKeys
    trainer: dict[str, Any]


def sorted_keys(args: Mapping[str, Any]) -> Keys:
    """Raises ConfigError for a key that the backend does not know or cannot follow, and for a value of a wrong type."""
    from transformers import TrainingArguments

    known = {
        field.name: part
        for part, kind in (("trainer", TrainingArguments), ("data", DataKeys), ("model", ModelKeys))
        for field in dataclasses.fields(kind)
    }
    found: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
    for key, value in args.items():
        if value is None or key in _READ_BEFORE or (key in _OFF and not value):
            continue
        elsewhere = "remove it, or train with --backend llamafactory"
        if key in _OFF:
            raise ConfigError(key, f"{value!r} is not supported by the TRL backend", _OFF[key] or elsewhere)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? Else " if near else ""
            raise ConfigError(key, "the TRL backend does not know it", f"{hint}{elsewhere}")
        found[known[key]][key] = value
    model = from_mapping(ModelKeys, found["model"], "the recipe")
    return Keys(model, from_mapping(DataKeys, found["data"], "the recipe"), found["trainer"])


def trainer_config(keys: Keys) -> Any:
    """TRL's SFTConfig. Its defaults are transformers', as in LLaMA-Factory, not TRL's.

    Raises ConfigError for DeepSpeed without torchrun, and a value that transformers refuses.
    """
    from transformers import TrainingArguments
    from trl import SFTConfig

    own = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
    plain = {
        field.name: field.default
        for field in dataclasses.fields(TrainingArguments)
        if field.default is not dataclasses.MISSING and own.get(field.name) != field.default
    }
    if keys.trainer.get("deepspeed") and "LOCAL_RANK" not in os.environ:
        raise ConfigError("deepspeed", "needs processes of torchrun", "set FORCE_TORCHRUN=1 in the environment")
    forced = {"remove_unused_columns": False, "max_length": None}
    # Found by its name in LLaMA-Factory too, since PEFT hides the model's forward.
    labels = {"label_names": ["labels"]} if keys.model.finetuning_type == "lora" else {}
    try:
        return SFTConfig(**plain | labels | keys.trainer | forced)
    except (ValueError, TypeError) as error:
        raise ConfigError("the recipe", str(error)) from error
