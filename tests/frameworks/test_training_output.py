"""What a training prints where output is no terminal: short lines now and then, no bars."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stage import Workshop

from stcr_plugin.frameworks import training_output
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.training_output import ProgressLines, without_bars


@pytest.mark.slow
def test_a_redirected_log_has_the_gap_and_a_few_short_lines(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    workshop.train("weak", "logged", "stcr.evaluate.every_steps=2")
    out, err = capfd.readouterr()
    for when in ("before", "step 2", "after"):
        assert re.search(
            rf"^weak_only  {when}  dev  forward .* gap [+-].* points  pair accuracy .*  4 pairs$", err, re.M
        )
    assert re.search(r"^weak_only  step 1/4  loss \d+\.\d+  \d+\.\d+ s/step$", err, re.M)
    assert "it/s" not in err
    assert "%|" not in err
    assert "{'loss'" not in out
    assert "input_ids" not in out
    assert len(out + err) < 5000


def recipe(**keys: Any) -> Recipe:
    return Recipe.of({"output_dir": "out", **keys, "stcr": {"name": "a", "mode": "cot"}})


def test_bars_are_off_where_there_is_no_terminal_unless_the_recipe_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_bars(recipe()).keys["disable_tqdm"] is True
    assert without_bars(recipe(disable_tqdm=False)).keys["disable_tqdm"] is False
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "disable_tqdm" not in without_bars(recipe()).keys


def test_lines_are_at_least_fifteen_seconds_apart_but_for_the_first_and_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(training_output.time, "perf_counter", lambda: clock[0])
    lines, args = ProgressLines("stage1"), SimpleNamespace(disable_tqdm=True)
    state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
    lines.on_step_begin(args, state, None)
    for step in range(10, 101, 10):
        clock[0] += 4.0
        state.global_step = step
        lines.on_log(args, state, None, logs={"loss": 0.5})
    lines.on_log(args, state, None, logs={"stcr_gap_points": 3.0})  # no step of the training
    printed = [line.split("  ")[1] for line in capsys.readouterr().err.splitlines()]
    assert printed == ["step 10/100", "step 50/100", "step 90/100", "step 100/100"]
