"""Checkpoints are written whole or not at all and loaded whole; a full disk is an error that names the space needed.

transformers' Trainer copies a checkpoint's tensors by name, yet `save_pretrained` writes those of Qwen-VL models
under other names than the live model has. Tensors that it does not find stay as they are, with only a warning: a
resumed run, and the best model at the end, are then a mixture (huggingface/transformers#43701, seen with 4.57 and 5.5).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.frameworks.ranks import wait_for_all
from stcr_plugin.weight_files import is_cut, missing_shards

PART = ".checkpoints.part"  # folder of a run in which checkpoints are written and deleted
_STATE = "trainer_state.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "global_step*", "pytorch_model_fsdp*")
_OPTIMIZER = ("optimizer*", "global_step*")  # DeepSpeed's is in a folder of that name


def load_whole(trainer: Any) -> None:
    """Make `trainer` read full checkpoints through `from_pretrained`, which knows both sets of names.

    Adapters, DeepSpeed and FSDP keep their own way. The weights are in memory twice while they are loaded. Raises
    RuntimeError at a checkpoint whose tensors are not the model's.
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

    if trainer.args.device.type == "cpu":
        _make_cpu_0_known()
    trainer._load_from_checkpoint = load_from_checkpoint
    trainer._load_best_model = load_best_model


@cache
def _make_cpu_0_known() -> None:
    """With several ranks accelerate calls the CPU cpu:0, a device that torch.load does not know."""
    import torch

    # The number is the registry's order, in which no two may be the same: torch then sorts by the functions after it.
    torch.serialization.register_package(1207, lambda _: None, lambda data, at: data if at == "cpu:0" else None)


def save_whole(trainer: Any) -> None:
    """Make a checkpoint of `trainer` appear under its name when every rank has written its part, in one rename.

    Its `save_total_limit` is then kept by `delete_old`. One that is pushed to a hub is written in transformers' own
    way, which uploads from where it writes.

    Raises, at a save:
        StcrError: The weights are not finite numbers; nothing was written.
        DataError: The disk is full; with the folder and the bytes of one save.
    """
    _name_what_saving_needs(trainer)
    if trainer.args.push_to_hub:
        return
    save_checkpoint = trainer._save_checkpoint

    def saved(*given: Any, **options: Any) -> None:
        args, state = trainer.args, trainer.state
        run, name = Path(args.output_dir), f"checkpoint-{state.global_step}"
        part = run / PART / name
        if args.should_save:
            shutil.rmtree(run / PART, ignore_errors=True)  # of a killed process
        wait_for_all()
        with _writing_into(trainer, run / PART):
            save_checkpoint(*given, **options)
        if Path(state.best_model_checkpoint or "") == part:
            state.best_model_checkpoint = str(run / name)
            if args.should_save:
                state.save_to_json(str(part / _STATE))
        wait_for_all()
        if args.should_save:
            _delete(run / name)
            os.replace(part, run / name)
            (run / PART).rmdir()
        wait_for_all()

    trainer._save_checkpoint = saved


@contextmanager
def _writing_into(trainer: Any, folder: Path) -> Iterator[None]:
    """Checkpoints go into `folder`, and none is deleted."""
    limit = trainer.args.save_total_limit
    trainer._get_output_dir = lambda trial=None: str(folder)
    trainer.args.save_total_limit = None
    try:
        yield
    finally:
        del trainer._get_output_dir
        trainer.args.save_total_limit = limit


def delete_old(run: Path, steps: list[int], limit: int | None, *, best: str | None) -> None:
    """Delete the first of the checkpoints at `steps`, ascending, until `limit` are left; the last and the best stay.

    This is the rule of transformers' `save_total_limit`.
    """
    protected = {f"checkpoint-{steps[-1]}", Path(best or "").name}
    there = [name for step in steps if (run / (name := f"checkpoint-{step}")).is_dir()]
    surplus = len(there) - max(limit or len(there), len(protected & set(there)))
    for name in [name for name in there if name not in protected][: max(0, surplus)]:
        _delete(run / name)


def _delete(checkpoint: Path) -> None:
    """In one rename, so that a kill leaves no half of it under its name."""
    if checkpoint.exists():
        gone = checkpoint.parent / PART / f"{checkpoint.name}.deleted"
        gone.parent.mkdir(exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(checkpoint, gone)
        shutil.rmtree(gone)
        with suppress(OSError):  # a checkpoint that is being written is there too
            gone.parent.rmdir()


def checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints in the folder of a run, ascending."""
    names = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in run.glob("checkpoint-*") if path.is_dir())
    return sorted(int(name[1]) for name in names if name)


def flaw(checkpoint: Path) -> str | None:
    """Why no training can continue from a checkpoint (the part that is missing or cut), None for a whole one.

    Reads headers alone, see `weight_files.is_cut`.
    """
    if not checkpoint.is_dir():
        return "is not a folder"
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        for path in sorted(checkpoint.glob(pattern)):
            if path.name != "training_args.bin" and is_cut(path):
                return f"{path.name} is cut"
    try:
        artefacts.read_json(checkpoint / _STATE)["global_step"]
    except (DataError, KeyError, TypeError):
        return f"{_STATE} is missing or cut"
    try:
        for name in missing_shards(checkpoint):
            return f"{name} is missing"
    except DataError as error:
        return f"{Path(error.where).name} is missing or cut"
    for what, patterns in (("model", _WEIGHTS), ("optimizer", _OPTIMIZER)):
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"the {what} is missing"
    return None


def _refuse_broken_weights(trainer: Any) -> None:
    """Raises StcrError for trained weights that are not finite numbers, from which no training recovers."""
    for name, weight in trainer.model.named_parameters():
        values = getattr(weight, "ds_tensor", weight)  # this rank's share under ZeRO-3
        if weight.requires_grad and not bool(values.isfinite().all()):
            raise StcrError(
                f"step {trainer.state.global_step}",
                f"{name} has values that are not finite numbers, so nothing was saved",
                "lower learning_rate, set max_grad_norm, or train in bf16 instead of fp16, then run again",
            )


def _name_what_saving_needs(trainer: Any) -> None:
    save_model, save_checkpoint = trainer.save_model, trainer._save_checkpoint

    def saved_model(output_dir: str | None = None, *more: Any, **options: Any) -> None:
        folder = (output_dir or trainer.args.output_dir).replace(f"/{PART}/", "/")
        rest = _optimizer_bytes if options.get("_internal_call") else lambda _: 0  # the first part of a checkpoint
        _refuse_broken_weights(trainer)
        with artefacts.room_for(folder, lambda: _model_bytes(trainer) + rest(trainer)):
            save_model(output_dir, *more, **options)

    def saved_checkpoint(*given: Any, **options: Any) -> None:
        folder = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
        with artefacts.room_for(folder, lambda: _model_bytes(trainer) + _optimizer_bytes(trainer)):
            save_checkpoint(*given, **options)

    trainer.save_model = saved_model
    trainer._save_checkpoint = saved_checkpoint


def _model_bytes(trainer: Any) -> int:
    """Bytes of the weights that are saved: all, or an adapter's, which are those that train."""
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
