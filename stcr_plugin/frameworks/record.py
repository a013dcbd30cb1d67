"""The stage record while its stage trains: what was measured, and the seconds that lie behind each checkpoint."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stcr_plugin import artefacts
from stcr_plugin.frameworks.stage import RECORD, read_record


class Record(TrainerCallback):  # type: ignore[misc]
    """The `stage.json` of one stage, written by rank 0 alone.

    `seconds` is wall time from the start of a process, added over the processes that a killed stage took, each up to
    the checkpoint that the next one went on from: what was lost and done again counts once.
    """

    def __init__(self, run: Path, opening: dict[str, Any], resumed: bool) -> None:
        self.path = run / RECORD
        self.writes = _is_first_rank()
        previous = (read_record(run) or {}) if resumed else {}
        self.values = {
            **opening,
            "figures": previous.get("figures", []),
            "seconds_at_checkpoints": previous.get("seconds_at_checkpoints", {}),  # step -> seconds
        }
        self.started = self.earlier = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()
        self._write()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what an earlier process did behind the step that this one goes on from."""
        step, values = state.global_step, self.values
        values["figures"] = [row for row in values["figures"] if row["step"] <= step]
        values["seconds_at_checkpoints"] = {
            at: seconds for at, seconds in values["seconds_at_checkpoints"].items() if int(at) <= step
        }
        self.earlier = max(values["seconds_at_checkpoints"].values(), default=0.0)
        self._write()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # From the last step nothing can go on: transformers would train one step more.
        if state.global_step < state.max_steps:
            self.values["seconds_at_checkpoints"][str(state.global_step)] = self._seconds()
            self._write()

    def add_figures(self, measurement: dict[str, Any]) -> None:
        self.values["figures"].append(measurement)
        self._write()
        if self.writes:
            artefacts.write_jsonl(self.path.with_name("stcr_figures.jsonl"), self.values["figures"])

    def finish(self) -> None:
        """Raises DataError where the training left no trainer_state.json or no model."""
        run = self.path.parent
        self.values["seconds"] = self._seconds()
        self.values["seconds_evaluating"] = sum(row["seconds"] for row in self.values["figures"])
        if self.writes:
            self.values["steps"] = artefacts.read_json(run / "trainer_state.json")["global_step"]
            self.values["model_digest"] = artefacts.model_digest(run)
        self.values["finished"] = True
        self._write()

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _write(self) -> None:
        if self.writes:
            artefacts.write_json(self.path, self.values)


def _is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def go_on(args: dict[str, Any]) -> None:
    """Tell LLaMA-Factory how a killed stage goes on: from the last checkpoint of its record, else anew.

    By itself LLaMA-Factory takes the last checkpoint, even a cut one or that of a training before, and refuses weights
    without any. What the recipe says about it stands, save that `resume_from_checkpoint: true` means the same.
    """
    run = Path(args["output_dir"])
    record = read_record(run)
    if record is None or args.get("overwrite_output_dir") or args.get("resume_from_checkpoint") not in (None, True):
        return
    steps = sorted(map(int, record.get("seconds_at_checkpoints", {})))
    whole = [path for step in steps if (path := run / f"checkpoint-{step}").is_dir()]
    if whole:
        args["resume_from_checkpoint"] = str(whole[-1])
    else:
        args.pop("resume_from_checkpoint", None)
        args["overwrite_output_dir"] = True
    if _is_first_rank():  # to another rank the record that the first has just opened looks the same
        how = f"it goes on from {whole[-1].name}" if whole else "it has no whole checkpoint and is trained anew"
        logging.getLogger(__name__).warning("%s: the stage %r did not finish; %s", run, record.get("name"), how)
