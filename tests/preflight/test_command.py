"""`stcr check`: lines for a person, JSON and an exit code for a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stage import RECIPES, UNPREPARED, Workshop

from stcr_plugin.cli import main


def run(shared: Workshop, tmp_path: Path, *more: str) -> int:
    where = (
        f"dataset_dir={shared.registry}",
        "dataset=tiny_dev",
        "stcr.evaluate.split=heldout",
        f"output_dir={tmp_path / 'out'}",
        f"model_name_or_path={shared.base}",
        "per_device_train_batch_size=4",
    )
    return main(["check", str(RECIPES / "stage1_cot.yaml"), *UNPREPARED, *where, *more])


def test_exit_code_and_json_say_what_the_lines_say(
    shared: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert run(shared, tmp_path, "--out", str(out)) == 0
    row = json.loads(out.read_text())
    assert row["passes"]
    assert row["provenance"]["versions"]["llamafactory"]
    lines = capsys.readouterr().out
    assert lines.strip().endswith(f"0 error, 0 warning, {len(row['verdicts'])} ok")
    memory = next(verdict for verdict in row["verdicts"] if verdict["check"] == "memory")
    assert f"{memory['figures']['peak_gib']:.2f} GiB" in lines
    assert run(shared, tmp_path, "--gpu-memory", "0.01") == 1


def test_warnings_fail_only_where_they_are_told_to(shared: Workshop, tmp_path: Path) -> None:
    assert run(shared, tmp_path, "bf16=true") == 0
    assert run(shared, tmp_path, "bf16=true", "--strict") == 1


@pytest.mark.parametrize(
    "options", [("--tflops", "300"), ("--gpus", "0"), ("--throughput", "5", "--tflops", "300", "--mfu", "0.4")]
)
def test_figures_that_do_not_go_together_are_refused(
    options: tuple[str, ...], shared: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shared, tmp_path, *options) == 1
    assert capsys.readouterr().err.startswith("stcr: ")
