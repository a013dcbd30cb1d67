"""The model of a stage, as LLaMA-Factory 0.9.5 makes it ready to train: what is frozen, in which precision, adapters.

Facts: llamafactory/model/adapter.py (`init_adapter`), model/patcher.py, model/model_utils/visual.py (`qwen2_5_vl`).
"""

from __future__ import annotations

from typing import Any

from stcr_plugin.engines.loading import assembled, with_adapter
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.recipe import names
from stcr_plugin.frameworks.trl.keys import ModelKeys

_ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}


def load_model(keys: ModelKeys) -> Any:
    """The model, its trained weights in float32 and requiring gradients, activations recomputed unless keys say not to.

    The seed decides the weights of a new adapter.

    Raises:
        DataError: The model cannot be loaded.
        ConfigError: It is not a Qwen-VL model, or nothing of it would be trained.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    attention = {} if keys.flash_attn == "auto" else {"attn_implementation": _ATTENTION[keys.flash_attn]}
    model = assembled(keys.model_name_or_path, "auto", local_files_only=False, **attention)
    if not any(".visual." in name for name, _ in model.named_parameters()):
        raise ConfigError(keys.model_name_or_path, "is not a Qwen-VL model", "train it with --backend llamafactory")
    zero3 = is_deepspeed_zero3_enabled()
    for config in (model.config, model.config.get_text_config()):
        config.use_cache = False
    generation = model.generation_config
    if generation.temperature not in (None, 1.0) or generation.top_p not in (None, 1.0):
        generation.do_sample = True  # transformers saves no greedy configuration that names them
    if not keys.disable_gradient_checkpointing:
        reentrant = keys.use_reentrant_gc
        if reentrant is None:
            reentrant = zero3 and keys.finetuning_type == "lora"
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
    if keys.finetuning_type == "lora":
        model = _with_adapters(model, keys, zero3)
    else:
        frozen = _frozen(keys)
        for name, weight in model.named_parameters():
            weight.requires_grad_(_part(name) not in frozen)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise ConfigError("freeze_*", "nothing of the model would be trained", "set one of these keys to false")
    if not (keys.pure_bf16 or zero3):  # DeepSpeed keeps float32 copies of its own
        for weight in trained:
            weight.data = weight.data.float()
    return model.train()


def _frozen(keys: ModelKeys) -> set[str]:
    flags = {
        "vision": keys.freeze_vision_tower,
        "projector": keys.freeze_multi_modal_projector,
        "language": keys.freeze_language_model,
    }
    return {part for part, frozen in flags.items() if frozen}


def _part(name: str) -> str:
    """The part of a Qwen-VL model that has a weight or module. Qwen3-VL's lower mergers belong to its vision tower."""
    if "visual.merger" in name:
        return "projector"
    return "vision" if "visual." in name else "language"


def _with_adapters(model: Any, keys: ModelKeys, zero3: bool) -> Any:
    """Adapters below are merged in memory; the last is trained on, or a new one on top of all of them."""
    from peft import LoraConfig, TaskType, get_peft_model

    below = names(keys.adapter_name_or_path)
    last = [] if keys.create_new_adapter else below[-1:]
    merged = below[: len(below) - len(last)]
    if zero3 and merged:
        raise ConfigError(
            "deepspeed", "ZeRO-3 cannot merge adapters in memory", "set stcr.adapter: merge, or use ZeRO-2"
        )
    for adapter in merged:
        model = with_adapter(model, adapter).merge_and_unload()
    if last:
        return with_adapter(model, last[0], trainable=True)
    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            inference_mode=False,
            r=keys.lora_rank,
            lora_alpha=keys.lora_alpha or 2 * keys.lora_rank,
            lora_dropout=keys.lora_dropout,
            use_rslora=keys.use_rslora,
            use_dora=keys.use_dora,
            target_modules=_targets(model, keys),
            modules_to_save=names(keys.additional_target) or None,
        ),
    )


def _targets(model: Any, keys: ModelKeys) -> list[str]:
    """The linear layers that an adapter is put on: `all` leaves out the projector and the output layer."""
    import torch

    wanted, frozen = names(keys.lora_target), _frozen(keys)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if wanted == ["all"]:
        chosen = [name for name in linear if _part(name) != "projector" and "lm_head" not in name]
    else:
        chosen = [name for name in linear if any(one in name for one in wanted)]
    found = [name for name in chosen if _part(name) not in frozen and "patch_embed" not in name]
    if not found:
        what = f"{','.join(wanted)} names no linear layer that is not frozen"
        raise ConfigError("lora_target", what, "fix it, or freeze_*")
    return found
