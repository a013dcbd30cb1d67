"""Names of runs in TensorBoard, W&B and SwanLab, so that the stages of a chain are shown together.

A chain is the folder that holds its stages' output_dirs: `runs/demo/stage1` is the run `stage1` of the chain `demo`.
Metrics have the same names in all stages, and each log line has the step of the chain, `stcr_chain_step`, as an x axis.
Names and settings that the recipe or the environment give are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.frameworks.recipe import Recipe

PROJECT = "stcr"
CHAIN_STEP = "stcr_chain_step"


def with_run_names(recipe: Recipe) -> Recipe:
    """The recipe with the run's name, in the keys that transformers and LLaMA-Factory pass to the trackers."""
    keys, name = recipe.keys, f"{_chain(recipe)}/{recipe.settings.name}"
    changes = {"run_name": keys.get("run_name") or name}
    if keys.get("use_swanlab"):  # LLaMA-Factory's own callback, which does not read run_name
        changes["swanlab_run_name"] = keys.get("swanlab_run_name") or name
        changes["swanlab_project"] = keys.get("swanlab_project") or PROJECT
    return recipe.changed(changes)


@contextmanager
def tracked(recipe: Recipe, run_id: str) -> Iterator[None]:
    """Environment variables of W&B and SwanLab while a stage trains: a resumed stage continues its own run."""
    wanted = {
        "WANDB_PROJECT": PROJECT,
        "WANDB_RUN_GROUP": _chain(recipe),
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
    """Make a new `trainer` log the step of its chain too, and write TensorBoard's events into output_dir itself.

    TensorBoard shows that folder's name. `before` steps were trained in earlier stages.

    What an earlier process logged after the checkpoint that this one continues from is removed from them.
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
    """The step that a run starts from; figures of step 0 come before the first one, hence -1."""
    return int(artefacts.read_json(Path(checkpoint) / "trainer_state.json")["global_step"]) if checkpoint else -1


def _chain(recipe: Recipe) -> str:
    return recipe.output_dir.absolute().parent.name
