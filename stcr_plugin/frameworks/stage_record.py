"""The stage record while its stage trains: what was measured, and the seconds up to each checkpoint."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from stcr_plugin import artefacts, records
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.frameworks.checkpoints import PART, checkpoints, delete_old, flaw
from stcr_plugin.frameworks.ranks import is_first_rank, wait_for_all
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.records import RECORD, BadPicture, Ended, Measurement, MissingMeasurement, Reward, StageRecord


class Record(TrainerCallback):  # type: ignore[misc]
    """The `stage.json` of one stage, written by rank 0 alone.

    Seconds are added over the processes that a killed stage took, each up to the checkpoint that the next one continued
    from: what was lost and done again counts once. `log_run_id` is kept by a resumed stage.

    Attributes:
        now: The record as it was last written.
        trainer: Must be set before training starts.
    """

    def __init__(self, run: Path, opening: StageRecord, resumed: bool) -> None:
        self.run = run
        self.writes = is_first_rank()
        earlier = (records.read(run) if resumed else None) or StageRecord()
        self.now = replace(
            opening,
            figures=earlier.figures,
            figures_missing=earlier.figures_missing,
            bad_pictures=earlier.bad_pictures,
            seconds_at_checkpoints=earlier.seconds_at_checkpoints,
            loss_sum_at_checkpoints=earlier.loss_sum_at_checkpoints,
            log_run_id=earlier.log_run_id or uuid.uuid4().hex[:21],  # as long as SwanLab wants it
            more=earlier.more,
        )
        self.trainer: Any = None
        self.started = self.earlier = 0.0

    @property
    def path(self) -> Path:
        return self.run / RECORD

    def start(self) -> None:
        self.started = time.perf_counter()
        self._write()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what an earlier process did after the step that this one continues from."""
        step, now = state.global_step, self.now
        seconds = {at: value for at, value in now.seconds_at_checkpoints.items() if int(at) <= step}
        sums = {at: value for at, value in now.loss_sum_at_checkpoints.items() if int(at) <= step}
        self.earlier = max(seconds.values(), default=0.0)
        if str(step) in sums:
            # transformers restarts the sum, and divides it by all steps: train_loss of a resumed run would be wrong.
            self.trainer._total_loss_scalar = sums[str(step)]
        self._write(
            figures=tuple(row for row in now.figures if row.step <= step),
            figures_missing=tuple(row for row in now.figures_missing if row.step <= step),
            bad_pictures=tuple(row for row in now.bad_pictures if row.step <= step),
            seconds_at_checkpoints=seconds,
            loss_sum_at_checkpoints=sums,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The losses since the last log line are not in a checkpoint: a resumed run would log another mean of fewer.
        control.should_log = control.should_log or control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Nothing can continue from the last step: transformers would train one step more.
        if state.global_step < state.max_steps:
            at, loss_sum = str(state.global_step), getattr(self.trainer, "_total_loss_scalar", 0.0)
            self._write(
                seconds_at_checkpoints={**self.now.seconds_at_checkpoints, at: self._seconds()},
                loss_sum_at_checkpoints={**self.now.loss_sum_at_checkpoints, at: loss_sum},
            )
        if self.writes and args.save_total_limit:  # now that the record knows of the new one, the old may go
            steps = sorted({*map(int, self.now.seconds_at_checkpoints), state.global_step})
            delete_old(self.run, steps, args.save_total_limit, best=state.best_model_checkpoint)
        wait_for_all()

    def add(self, measured: Measurement | MissingMeasurement) -> None:
        """Add what the callback measured, or failed to measure."""
        if isinstance(measured, MissingMeasurement):
            self._write(figures_missing=(*self.now.figures_missing, measured))
            return
        self._write(figures=(*self.now.figures, measured))
        if self.writes:
            artefacts.write_jsonl(self.run / "stcr_figures.jsonl", [row.row for row in self.now.figures])

    def rewarded(self, parts: Sequence[str], unknown: str) -> None:
        """Add by what sampled answers are rewarded, and why claims are not."""
        self._write(reward=Reward(tuple(parts), unknown))

    def add_bad_pictures(self, rows: Sequence[BadPicture]) -> None:
        if rows:
            self._write(bad_pictures=(*self.now.bad_pictures, *rows))

    def end(self, how: Literal["interrupted", "failed"], why: str) -> None:
        """How this process ended before the stage was finished. On a full disk nothing is written, and nothing raised:
        the error that ended it is the one to tell.
        """
        step = getattr(getattr(self.trainer, "state", None), "global_step", None)
        with suppress(DataError):
            self._write(ended=Ended(how, step, why))

    def finish(self) -> None:
        """Raises DataError where the training left no trainer_state.json or no model."""
        made: dict[str, Any] = {}
        seconds = self._seconds()
        if self.writes:
            made["steps"] = artefacts.read_json(self.run / "trainer_state.json")["global_step"]
            made["model_digest"] = artefacts.model_digest(self.run)
            shutil.rmtree(self.run / PART, ignore_errors=True)  # of a process that was killed while it saved
        self._write(
            seconds=seconds,
            seconds_evaluating=sum(row.seconds for row in self.now.figures),
            finished=True,
            ended=Ended("finished"),
            **made,
        )

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _write(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
        if self.writes:
            records.write(self.run, self.now)


def resumed(recipe: Recipe) -> Recipe:
    """The recipe with the keys by which a killed stage continues: from the last whole checkpoint of its record, if any.

    LLaMA-Factory itself takes the last checkpoint, even a cut one or that of an earlier training, and refuses weights
    without any. What the recipe says about it holds, except that `resume_from_checkpoint: true` means the same.

    Raises:
        ConfigError: The checkpoint that the recipe names cannot be used, or there is none.
    """
    run, named = recipe.output_dir, recipe.keys.get("resume_from_checkpoint")
    if isinstance(named, str):
        _refuse_flawed(Path(named))
        return recipe
    record = None if recipe.overwrites else records.read(run)
    if record is None and not named:
        return recipe
    # Without a record, as of a run that this plugin did not start, all that look whole are taken for its own.
    steps = sorted(map(int, record.seconds_at_checkpoints)) if record else checkpoints(run)
    folders = [path for step in steps if (path := run / f"checkpoint-{step}").is_dir()]
    whole = next((path for path in reversed(folders) if flaw(path) is None), None)
    skipped = [f"{path.name}: {flaw(path)}" for path in folders if whole is None or steps_of(path) > steps_of(whole)]
    listed = f" ({'; '.join(skipped)})" if skipped else ""
    if whole is None and record is None:
        raise ConfigError(
            run,
            f"resume_from_checkpoint is true, but there is no whole checkpoint{listed}",
            "remove it to train from the start, or name the folder of a checkpoint",
        )
    if record and is_first_rank():  # to another rank the record that the first has just opened looks the same
        how = f"it continues from {whole.name}" if whole else "it has no whole checkpoint and is trained again"
        logging.getLogger(__name__).warning("%s: the stage %r did not finish; %s%s", run, record.name, how, listed)
    if whole:
        return recipe.changed({"resume_from_checkpoint": str(whole)})
    return recipe.changed({"overwrite_output_dir": True}, without=["resume_from_checkpoint"])


def steps_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _refuse_flawed(checkpoint: Path) -> None:
    if found := flaw(checkpoint):
        raise ConfigError(
            "resume_from_checkpoint",
            f"{checkpoint}: {found}, so no training can continue from it",
            "name another, or set resume_from_checkpoint: true for the last whole one of output_dir",
        )
