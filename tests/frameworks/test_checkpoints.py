"""A disk that is full when a stage saves: the folder and the need are named. (Loading back: test_callback.py.)"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import Workshop

from stcr_plugin.errors import DataError
from stcr_plugin.frameworks.stage import read_record


def megabytes(error: DataError) -> float:
    (need,) = re.findall(r"no space is left for it: about ([\d.]+) MB are to be written", str(error))
    return float(need)


def test_a_full_disk_at_the_end_names_the_run_and_the_size_of_the_weights(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(DataError) as caught:
        workshop.train("weak", "full", "max_steps=1", "stcr.evaluate=null")
    run = workshop.root / "full"
    assert str(caught.value).startswith(f"{run}: ")
    weights = (workshop.base / "model.safetensors").stat().st_size / 1e6
    assert megabytes(caught.value) == pytest.approx(weights, rel=0.05)
    assert not (read_record(run) or {})["finished"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_at_a_checkpoint_names_it_and_counts_the_optimizer(workshop: Workshop) -> None:
    checkpoint = workshop.root / "full_checkpoint" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").symlink_to("/dev/full")
    settings = ("max_steps=2", "stcr.evaluate=null", "save_strategy=steps", "save_steps=1", "overwrite_output_dir=true")
    with pytest.raises(DataError) as caught:
        workshop.train("weak", "full_checkpoint", *settings)
    assert str(caught.value).startswith(f"{checkpoint}: ")
    weights = (workshop.base / "model.safetensors").stat().st_size / 1e6
    assert megabytes(caught.value) == pytest.approx(3 * weights, rel=0.05)  # AdamW keeps two numbers a weight
    assert (read_record(workshop.root / "full_checkpoint") or {})["seconds_at_checkpoints"] == {}
