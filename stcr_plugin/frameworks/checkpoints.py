"""Checkpoints: those of a full fine-tune loaded back whole, and what one needs named where the disk is full.

transformers' Trainer copies a checkpoint's tensors by name, yet `save_pretrained` writes those of Qwen-VL models
under other names than the live model has. What it does not find it leaves as it is, with a warning alone: a resumed
run, and the best model at the end, are then a mixture (huggingface/transformers#43701, seen with 4.57 and 5.5).
"""

from __future__ import annotations

from typing import Any

from stcr_plugin import artefacts


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


def name_what_saving_needs(trainer: Any) -> None:
    """Make a save of `trainer` that finds the disk full raise a DataError with the folder and the bytes of one save."""
    save_model, save_checkpoint = trainer.save_model, trainer._save_checkpoint

    def saved_model(output_dir: str | None = None, *more: Any, **options: Any) -> None:
        folder = output_dir or trainer.args.output_dir
        rest = _optimizer_bytes if options.get("_internal_call") else lambda _: 0  # the first part of a checkpoint
        with artefacts.room_for(folder, lambda: _model_bytes(trainer) + rest(trainer)):
            save_model(output_dir, *more, **options)

    def saved_checkpoint(*given: Any, **options: Any) -> None:
        folder = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
        with artefacts.room_for(folder, lambda: _model_bytes(trainer) + _optimizer_bytes(trainer)):
            save_checkpoint(*given, **options)

    trainer.save_model = saved_model
    trainer._save_checkpoint = saved_checkpoint


def _model_bytes(trainer: Any) -> int:
    """Of the weights that are saved: all, or an adapter's, which are those that train."""
    from transformers import PreTrainedModel

    whole = isinstance(trainer.model, PreTrainedModel)
    # ZeRO-3 leaves every rank an empty tensor, with the true size beside it.
    sizes = [
        (getattr(weight, "ds_numel", weight.numel()), weight.element_size())
        for weight in trainer.model.parameters()
        if whole or weight.requires_grad
    ]
    return sum(count * width for count, width in sizes)


def _optimizer_bytes(trainer: Any) -> int:
    states = trainer.optimizer.state.values() if trainer.optimizer else ()
    return sum(value.nbytes for state in states for value in state.values() if hasattr(value, "nbytes"))


def _copy(checkpoint: str, model: Any) -> None:
    model.load_state_dict(type(model).from_pretrained(checkpoint, local_files_only=True).state_dict())
