"""Checkpoints of a full fine-tune, loaded back whole.

transformers' Trainer copies a checkpoint's tensors by name, yet `save_pretrained` writes those of Qwen-VL models
under other names than the live model has. What it does not find it leaves as it is, with a warning alone: a resumed
run, and the best model at the end, are then a mixture (huggingface/transformers#43701, seen with 4.57 and 5.5).
"""

from __future__ import annotations

from typing import Any


def load_whole(trainer: Any) -> None:
    """Make `trainer` read full checkpoints through `from_pretrained`, which knows both sets of names.

    Adapters, DeepSpeed and FSDP have their own way, which is left as it is. The weights stand in memory twice while
    they are loaded. Raises RuntimeError at a checkpoint whose tensors are not the model's.
    """
    from transformers import PreTrainedModel

    from_checkpoint, best_model = trainer._load_from_checkpoint, trainer._load_best_model

    def own_way(model: Any) -> bool:
        return not isinstance(model, PreTrainedModel) or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled

    def load_from_checkpoint(checkpoint: str, model: Any = None) -> None:
        model = model or trainer.model
        if own_way(model):
            from_checkpoint(checkpoint, model)
        else:
            _copy(checkpoint, model)

    def load_best_model() -> None:
        if own_way(trainer.model):
            best_model()
        else:
            _copy(trainer.state.best_model_checkpoint, trainer.model)

    trainer._load_from_checkpoint = load_from_checkpoint
    trainer._load_best_model = load_best_model


def _copy(checkpoint: str, model: Any) -> None:
    model.load_state_dict(type(model).from_pretrained(checkpoint, local_files_only=True).state_dict())
