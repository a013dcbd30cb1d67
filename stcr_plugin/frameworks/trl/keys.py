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


@settings
class GrpoKeys:
    """How answers are sampled and compared in stage: grpo, with TRL's names and defaults.

    Attributes:
        num_generations: Answers of a group: half of them to each order of a pair.
        max_completion_length: Tokens, after which an answer is cut, which counts as wrong.
        beta: Weight of the divergence from the reference model; 0: no reference.
        epsilon: How far a token's probability may move from where it was sampled, as a ratio.
    """

    num_generations: int = 8
    max_completion_length: int = 256
    temperature: float = 1.0
    beta: float = 0.0
    epsilon: float = 0.2

    def __post_init__(self) -> None:
        if self.num_generations < 2 or self.num_generations % 2:
            raise ValueError(
                f"num_generations is {self.num_generations}; a group is half of either order, so give 2, 4"
            )
        if self.temperature <= 0 or self.beta < 0 or self.epsilon <= 0 or self.max_completion_length < 1:
            raise ValueError("temperature, epsilon and max_completion_length are above 0, beta is at least 0")


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
# Keys that newer versions of transformers dropped -> what takes their values; warmup_steps takes a share of them too.
_RENAMED = {"warmup_ratio": "warmup_steps"}
# Read before this backend is called (stage_run.py, refusals.py).
_READ_BEFORE = ("stage", "overwrite_output_dir")


@dataclass(frozen=True)
class Keys:
    """A recipe sorted. `trainer` holds fields of transformers' TrainingArguments; `grpo` is of that stage alone."""

    model: ModelKeys
    data: DataKeys
    trainer: dict[str, Any]
    grpo: GrpoKeys | None = None


def sorted_keys(args: Mapping[str, Any]) -> Keys:
    """Raises ConfigError for a key that the backend does not know or cannot follow, and for a value of a wrong type."""
    from transformers import TrainingArguments

    kinds: dict[str, Any] = {"trainer": TrainingArguments, "data": DataKeys, "model": ModelKeys}
    if args.get("stage") == "grpo":
        kinds["grpo"] = GrpoKeys
    known = {field.name: part for part, kind in kinds.items() for field in dataclasses.fields(kind)}
    found: dict[str, dict[str, Any]] = {part: {} for part in kinds}
    for key, value in args.items():
        if value is None or key in _READ_BEFORE or (key in _OFF and not value):
            continue
        elsewhere = "remove it, or train with --backend llamafactory"
        if key in _OFF:
            raise ConfigError(key, f"{value!r} is not supported by the TRL backend", _OFF[key] or elsewhere)
        if key not in known:
            key = _RENAMED.get(key, key)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? Else " if near else ""
            raise ConfigError(key, "the TRL backend does not know it", f"{hint}{elsewhere}")
        found[known[key]][key] = value
    model = from_mapping(ModelKeys, found["model"], "the recipe")
    grpo = from_mapping(GrpoKeys, found["grpo"], "the recipe") if "grpo" in found else None
    return Keys(model, from_mapping(DataKeys, found["data"], "the recipe"), found["trainer"], grpo)


def trainer_config(keys: Keys) -> Any:
    """TRL's SFTConfig. Its defaults are transformers', as in LLaMA-Factory, not TRL's.

    Raises ConfigError for DeepSpeed without torchrun, and a value that transformers refuses.
    """
    from trl import SFTConfig

    return _config(SFTConfig, keys, {"max_length": None})


def grpo_config(keys: Keys) -> Any:
    """TRL's GRPOConfig, likewise. Raises ConfigError also where a group would be spread over processes."""
    from trl import GRPOConfig

    assert keys.grpo is not None
    here = keys.trainer.get("per_device_train_batch_size", 8) * keys.trainer.get("gradient_accumulation_steps", 1)
    if here % keys.grpo.num_generations:
        raise ConfigError(
            "num_generations",
            f"{keys.grpo.num_generations} answers make a group, and a process has {here} in a step "
            "(per_device_train_batch_size x gradient_accumulation_steps)",
            f"set gradient_accumulation_steps so that it has a multiple of {keys.grpo.num_generations}",
        )
    forced = {**dataclasses.asdict(keys.grpo), "max_prompt_length": None, "scale_rewards": "group"}
    return _config(GRPOConfig, keys, {**forced, "shuffle_dataset": not keys.data.disable_shuffling})


def _config(kind: Any, keys: Keys, forced: Mapping[str, Any]) -> Any:
    from transformers import TrainingArguments

    own = {field.name: field.default for field in dataclasses.fields(kind)}
    plain = {
        field.name: field.default
        for field in dataclasses.fields(TrainingArguments)
        if field.default is not dataclasses.MISSING and own.get(field.name) != field.default
    }
    if keys.trainer.get("deepspeed") and "LOCAL_RANK" not in os.environ:
        raise ConfigError("deepspeed", "needs processes of torchrun", "set FORCE_TORCHRUN=1 in the environment")
    # Found by its name in LLaMA-Factory too, since PEFT hides the model's forward.
    labels = {"label_names": ["labels"]} if keys.model.finetuning_type == "lora" else {}
    try:
        return kind(**plain | labels | keys.trainer | dict(forced) | {"remove_unused_columns": False})
    except (ValueError, TypeError) as error:
        raise ConfigError("the recipe", str(error)) from error
