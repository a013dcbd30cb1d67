"""The measured chain (chain.py): known to work on the CPU, held to its figures where there is a GPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch
from script_modules import loaded
from tiny_stage import REPOSITORY, quiet_environment

SCRIPT = Path(__file__).with_name("chain.py")


def results(out: Path, *arguments: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *arguments]
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.txt", "wb") as log:
        code = subprocess.run(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log).returncode
    said = (out / "log.txt").read_text(encoding="utf-8")
    assert code == 0, said[-6000:]
    print(said[-2000:])
    return dict(json.loads((out / "results.json").read_text(encoding="utf-8")))


@pytest.mark.slow(seconds=15)
def test_the_script_runs_through_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, each training in a forked one."""

    def run(command: list[str], **_: Any) -> None:
        with open(tmp_path / "log.txt", "ab") as log:
            code = forked.start(command, quiet_environment(tmp_path), tmp_path, stdout=log, stderr=log).wait()
        assert code == 0, (tmp_path / "log.txt").read_text(encoding="utf-8")[-6000:]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    chain = loaded(SCRIPT)
    monkeypatch.setattr(chain, "subprocess", SimpleNamespace(run=run))
    chain.main(["--out", str(tmp_path), "--size", "tiny", "--device", "cpu", "--steps", "4"])
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["stage"] for row in found["stages"]] == ["stage1", "stage2"]
    for row in found["stages"]:
        assert row["samples_per_second"] == pytest.approx(row["batch"] / row["seconds_per_step"])
        assert row["patches_per_step"] == row["batch"] * 2 * 36  # two pictures of 6 x 6 patches
        # At least the 6 operations of each of the model's weights for each token.
        assert row["flops_per_step"] > 6 * 0.5 * row["parameters"] * row["tokens_per_step"]
        assert math.isfinite(row["loss_last"])
        assert row["memory_measured"] is None
    lines = (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| stage1", "| stage2"]


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory and FLOPs are measured on a CUDA device; none here")
def test_memory_is_what_the_preflight_foretold_within_15_percent() -> None:
    found = results(REPOSITORY / "runs" / "gpu", environment=dict(os.environ))
    for row in found["stages"]:
        assert row["memory_ratio"] == pytest.approx(1, abs=0.15), row
        assert found["peak_tflops"] is None or 0 < row["mfu"] < 1
        assert row["loss_last"] < row["loss_first"]
