"""The scripts in examples/ run as their first lines say, on tiny models and builds."""

from __future__ import annotations

import re
import runpy
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from script_modules import loaded
from tiny_stage import REPOSITORY, Workshop

EXAMPLES = REPOSITORY / "examples"


def script(name: str) -> ModuleType:
    return loaded(EXAMPLES / f"{name}.py")


def test_reward_is_symmetric_and_zero_where_the_orders_disagree(model: Path, tmp_path: Path) -> None:
    from stcr_plugin.evaluation.judge import judge_all, opened

    judge, images = opened(model), [np.full((56, 56, 3), shade, np.uint8) for shade in (0, 90, 250)]
    found = script("reward").rewards(judge, "put the cup on the plate", images)
    assert len(found) == 2
    for step, reward in zip(pairwise(images), found, strict=True):
        (judged,) = judge_all(judge, [(step, "put the cup on the plate")])
        assert judged.probabilities is not None
        assert reward == (0.0 if judged.disagreeing else pytest.approx(2 * judged.probabilities[1] - 1))


def test_reward_prints_a_line_per_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (56, 56), (100 * number,) * 3).save(path)
    monkeypatch.setattr(sys, "argv", ["reward.py", str(model), "put the cup on the plate", *paths])
    runpy.run_path(str(EXAMPLES / "reward.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [re.fullmatch(r"[+-]\d\.\d{3}  (.+) -> (.+)", line).groups() for line in lines] == [  # type: ignore[union-attr]
        (paths[0], paths[1]),
        (paths[1], paths[2]),
    ]


def test_results_are_read_and_summarised(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stcr_plugin.cli import main

    command = ["eval", "--oracle", "right", "--dataset", "toy", "--registry", str(registry), "--out", str(tmp_path)]
    assert main(command) in (0, None)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["read_results.py", str(tmp_path / "results.json")])
    runpy.run_path(str(EXAMPLES / "read_results.py"), run_name="__main__")
    first, second = capsys.readouterr().out.splitlines()
    assert "toy heldout, 12 pairs: pair accuracy 100.0 % (" in first
    assert first.endswith("gap +0.0 points")
    assert second.startswith("  hardest task: ")


@pytest.mark.slow
def test_trl_script_trains_and_reports_the_gap_before_and_after(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "own"
    options = ["--steps", "2", "--batch-size", "2", "--pairs", "4"]
    command = [sys.executable, EXAMPLES / "trl_script.py", workshop.base, workshop.registry, "tiny", out, *options]
    done = workshop.run(command, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").is_file()
    assert (out / "tokenizer_config.json").is_file()
    assert done.stdout.count("pair") >= 2
