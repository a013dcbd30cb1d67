"""What runs are called in TensorBoard, W&B and SwanLab, so that the stages of a chain are one picture.

A chain is the folder that its stages' output_dirs stand in: `runs/demo/stage1` is the run `stage1` of the chain
`demo`. Metrics have the same names in all stages, and each log line the step of the chain, `stcr_chain_step`, to draw
them over. Names and settings that the recipe or the environment give stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts

PROJECT = "stcr"
CHAIN_STEP = "stcr_chain_step"


def name_run(args: dict[str, Any], stage: str) -> None:
    """The run's name into the recipe, in the keys that transformers and LLaMA-Factory hand to the trackers."""
    name = f"{_chain(args)}/{stage}"
    args["run_name"] = args.get("run_name") or name
    if args.get("use_swanlab"):  # LLaMA-Factory's own callback, which does not read run_name
        args["swanlab_run_name"] = args.get("swanlab_run_name") or name
        args["swanlab_project"] = args.get("swanlab_project") or PROJECT


@contextmanager
def tracked(args: Mapping[str, Any], run_id: str) -> Iterator[None]:
    """Environment variables of W&B and SwanLab while a stage trains: a resumed stage goes on in its own run."""
    wanted = {
        "WANDB_PROJECT": PROJECT,
        "WANDB_RUN_GROUP": _chain(args),
        "WANDB_RUN_ID": run_id,
        "WANDB_RESUME": "allow",
        "SWANLAB_PROJECT": PROJECT,
        "SWANLAB_RUN_ID": run_id,
        "SWANLAB_RESUME": "allow",
    }
    ours = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)


def keep_names(trainer: Any, before: int) -> None:
    """Make a fresh `trainer` log the step of its chain too, `before` steps having been trained in earlier stages, and
    write TensorBoard's events into output_dir itself, whose name TensorBoard shows.

    What an earlier process logged behind the checkpoint that this one goes on from is struck out of them.
    """
    if not trainer.args.report_to:
        return
    log = trainer.log

    def logged(logs: dict[str, float], *more: Any, **options: Any) -> None:
        log({**logs, CHAIN_STEP: before + trainer.state.global_step}, *more, **options)

    trainer.log = logged
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "TensorBoardCallback" and callback.logging_dir is None:
            callback.logging_dir = trainer.args.output_dir
            if trainer.is_world_process_zero():
                from torch.utils.tensorboard import SummaryWriter

                start = _step(trainer.args.resume_from_checkpoint) + 1
                callback.tb_writer = SummaryWriter(callback.logging_dir, purge_step=start)


def _step(checkpoint: str | None) -> int:
    """The step that a run starts from; before the first one lie the figures of step 0, hence -1."""
    return int(artefacts.read_json(Path(checkpoint) / "trainer_state.json")["global_step"]) if checkpoint else -1


def _chain(args: Mapping[str, Any]) -> str:
    return Path(args["output_dir"]).absolute().parent.name
