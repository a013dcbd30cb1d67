"""What the callback costs a stage beside the evaluations that it was asked for."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stage import Workshop, stage_row

ROUNDS, STEPS = 5, 60
SMALL = (1, 2)


@pytest.mark.bench
@pytest.mark.slow
def test_callback_overhead(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """value: seconds of a stage with the callback, its evaluations taken off; baseline: the same without it."""
    rounds, steps = (ROUNDS, STEPS) if full else SMALL
    workshop = Workshop(tmp_path)
    workshop.make_data()
    workshop.make_base()
    common = (f"max_steps={steps}", "num_train_epochs=10")
    measured = (f"stcr.evaluate.every_steps={steps // 6 or 1}",)

    def seconds(out: str, *more: str) -> float:
        run = workshop.train("weak", out, *common, *more)
        state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
        runtime = next(row["train_runtime"] for row in state["log_history"] if "train_runtime" in row)
        figures = stage_row(run)["figures"]
        # "after" is measured when the trainer's clock has stopped.
        return float(runtime) - sum(row["seconds"] for row in figures if row["when"] != "after")

    if full:
        seconds("warm", *measured)
    times: dict[str, list[float]] = {"with": [], "without": []}
    for k in range(rounds):  # interleaved, so that a busier machine weighs on both alike
        times["without"].append(seconds(f"without{k}", "stcr.evaluate=null"))
        times["with"].append(seconds(f"with{k}", *measured))
    value, baseline = statistics.median(times["with"]), statistics.median(times["without"])
    report("callback_overhead", value, "s", baseline)
    assert value > 0
    assert not full or value < 1.5 * baseline
