"""The stage record while its stage trains: what was measured, and the seconds that lie behind each checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.checkpoints import PART, checkpoints, delete_old, flaw
from stcr_plugin.frameworks.ranks import wait_for_all
from stcr_plugin.records import RECORD, read_record


class Record(TrainerCallback):  # type: ignore[misc]
    """The `stage.json` of one stage, written by rank 0 alone.

    `seconds` is wall time from the start of a process, added over the processes that a killed stage took, each up to
    the checkpoint that the next one went on from: what was lost and done again counts once.

    `ended` says how the last process ended, None where it was killed or still trains: `how` is finished, interrupted
    or failed. `log_run_id` is the run's in trackers that want one, kept by a resumed stage. `trainer` is set before
    training.
    """

    ROWS = ("figures", "figures_missing", "bad_pictures")  # lists of what happened at a `step`
    AT_CHECKPOINTS = ("seconds_at_checkpoints", "loss_sum_at_checkpoints")  # step -> value

    def __init__(self, run: Path, opening: dict[str, Any], resumed: bool) -> None:
        self.path = run / RECORD
        self.writes = _is_first_rank()
        previous = (read_record(run) or {}) if resumed else {}
        self.values = {
            **opening,
            **{key: previous.get(key, []) for key in self.ROWS},
            **{key: previous.get(key, {}) for key in self.AT_CHECKPOINTS},
            "log_run_id": previous.get("log_run_id") or uuid.uuid4().hex[:21],  # as long as SwanLab wants it
            "ended": None,
        }
        self.trainer: Any = None
        self.started = self.earlier = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()
        self._write()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what an earlier process did behind the step that this one goes on from."""
        step, values = state.global_step, self.values
        for key in self.ROWS:
            values[key] = [row for row in values[key] if row["step"] <= step]
        for key in self.AT_CHECKPOINTS:
            values[key] = {at: value for at, value in values[key].items() if int(at) <= step}
        self.earlier = max(values["seconds_at_checkpoints"].values(), default=0.0)
        if str(step) in values["loss_sum_at_checkpoints"]:
            # transformers starts the sum anew, and divides it by all steps: train_loss of a resumed run would be wrong.
            self.trainer._total_loss_scalar = values["loss_sum_at_checkpoints"][str(step)]
        self._write()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The losses since the last log line are no part of a checkpoint: a resumed run would log another mean of fewer.
        control.should_log = control.should_log or control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # From the last step nothing can go on: transformers would train one step more.
        if state.global_step < state.max_steps:
            self.values["seconds_at_checkpoints"][str(state.global_step)] = self._seconds()
            self.values["loss_sum_at_checkpoints"][str(state.global_step)] = getattr(
                self.trainer, "_total_loss_scalar", 0.0
            )
            self._write()
        if self.writes and args.save_total_limit:  # now that the record knows of the new one, the old may go
            steps = sorted({*map(int, self.values["seconds_at_checkpoints"]), state.global_step})
            delete_old(self.path.parent, steps, args.save_total_limit, state.best_model_checkpoint)
        wait_for_all()

    def add_figures(self, measurement: dict[str, Any]) -> None:
        self.values["figures"].append(measurement)
        self._write()
        if self.writes:
            artefacts.write_jsonl(self.path.with_name("stcr_figures.jsonl"), self.values["figures"])

    def add_missing_figures(self, failed: dict[str, Any]) -> None:
        self.values["figures_missing"].append(failed)
        self._write()

    def add_bad_pictures(self, rows: list[dict[str, Any]]) -> None:
        self.values["bad_pictures"] += rows
        if rows:
            self._write()

    def end(self, how: str, why: str) -> None:
        """How this process ended before the stage was finished: `interrupted` or `failed`."""
        step = getattr(getattr(self.trainer, "state", None), "global_step", None)
        self.values["ended"] = {"how": how, "step": step, "why": why}
        self._write()

    def finish(self) -> None:
        """Raises DataError where the training left no trainer_state.json or no model."""
        run = self.path.parent
        self.values["seconds"] = self._seconds()
        self.values["seconds_evaluating"] = sum(row["seconds"] for row in self.values["figures"])
        if self.writes:
            self.values["steps"] = artefacts.read_json(run / "trainer_state.json")["global_step"]
            self.values["model_digest"] = artefacts.model_digest(run)
        self.values["finished"] = True
        self.values["ended"] = {"how": "finished"}
        if self.writes:
            shutil.rmtree(run / PART, ignore_errors=True)  # of a process that was killed while it saved
        self._write()

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _write(self) -> None:
        if self.writes:
            artefacts.write_json(self.path, self.values)


def _is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def go_on(args: dict[str, Any]) -> None:
    """Tell the framework how a killed stage goes on: from the last whole checkpoint of its record, else anew.

    By itself LLaMA-Factory takes the last checkpoint, even a cut one or that of a training before, and refuses weights
    without any. What the recipe says about it stands, save that `resume_from_checkpoint: true` means the same. Raises
    ConfigError where the checkpoint that the recipe names cannot be gone on from, or there is none.
    """
    run, asked = Path(args["output_dir"]), args.get("resume_from_checkpoint")
    if isinstance(asked, str):
        _refuse_flawed(Path(asked))
        return
    record = None if args.get("overwrite_output_dir") else read_record(run)
    if record is None and not asked:
        return
    # Without a record, as of a run that this plugin did not start, all that look whole are taken for its own.
    steps = sorted(map(int, record.get("seconds_at_checkpoints", {}))) if record else checkpoints(run)
    folders = [path for step in steps if (path := run / f"checkpoint-{step}").is_dir()]
    whole = next((path for path in reversed(folders) if flaw(path) is None), None)
    skipped = [f"{path.name}: {flaw(path)}" for path in folders if whole is None or steps_of(path) > steps_of(whole)]
    if whole:
        args["resume_from_checkpoint"] = str(whole)
    elif record is None:
        raise ConfigError(
            f"{run}: resume_from_checkpoint is true, but there is no whole checkpoint{_listed(skipped)}; remove it to "
            "train from the start, or name the folder of a checkpoint"
        )
    else:
        args.pop("resume_from_checkpoint", None)
        args["overwrite_output_dir"] = True
    if record and _is_first_rank():  # to another rank the record that the first has just opened looks the same
        how = f"it goes on from {whole.name}" if whole else "it has no whole checkpoint and is trained anew"
        logging.getLogger(__name__).warning(
            "%s: the stage %r did not finish; %s%s", run, record.get("name"), how, _listed(skipped)
        )


def steps_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _listed(flaws: list[str]) -> str:
    return f" ({'; '.join(flaws)})" if flaws else ""


def _refuse_flawed(checkpoint: Path) -> None:
    if found := flaw(checkpoint):
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint}: {found}, so no training can go on from it; name another, or set "
            "resume_from_checkpoint: true for the last whole one of output_dir"
        )
