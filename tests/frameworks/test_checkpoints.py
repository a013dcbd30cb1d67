"""Checkpoints: whole or not there, and a full disk named with its need. (Loading back: test_callback.py.)"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stage import Workshop, losses, stage_row

from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.frameworks.checkpoints import PART, checkpoints, flaw
from stcr_plugin.frameworks.stage_record import Record
from stcr_plugin.records import is_finished


def megabytes(error: DataError) -> float:
    (need,) = re.findall(r"no space is left for it: about ([\d.]+) MB are to be written", str(error))
    return float(need)


@pytest.mark.slow
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
    assert not is_finished(run)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_at_a_checkpoint_names_it_and_counts_the_optimizer(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(value: Any, path: Any) -> None:
        save(value, "/dev/full" if str(path).endswith("optimizer.pt") else path)

    monkeypatch.setattr(torch, "save", full)
    settings = ("max_steps=2", "stcr.evaluate=null", "save_strategy=steps", "save_steps=1")
    with pytest.raises(DataError) as caught:
        workshop.train("weak", "full_checkpoint", *settings)
    run = workshop.root / "full_checkpoint"
    assert str(caught.value).startswith(f"{run / 'checkpoint-1'}: ")
    weights = (workshop.base / "model.safetensors").stat().st_size / 1e6
    assert megabytes(caught.value) == pytest.approx(3 * weights, rel=0.05)  # AdamW keeps two numbers a weight
    record = stage_row(run)
    assert record["seconds_at_checkpoints"] == {}
    assert (record["ended"]["how"], record["ended"]["why"]) == ("failed", str(caught.value))
    assert checkpoints(run) == []


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_save_leaves_nothing_under_the_name_of_a_checkpoint(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(BaseException):
        pass

    run = workshop.root / "cut_save"
    seen: list[list[int]] = []
    save = torch.save

    def cut(value: Any, path: Any) -> None:
        if str(path).endswith("checkpoint-2/rng_state.pth"):
            seen.append(checkpoints(run))
            raise PowerCutError
        save(value, path)

    settings = ("max_steps=3", "stcr.evaluate=null", "save_strategy=steps", "save_steps=1", "save_total_limit=1")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", run.name, *settings)
    assert seen == [[1]]  # the old one is still there while the new one is written
    assert checkpoints(run) == [1]
    assert flaw(run / "checkpoint-1") is None
    assert flaw(run / PART / "checkpoint-2") == "trainer_state.json is missing or cut"
    workshop.train("weak", run.name, *settings)
    assert checkpoints(run) == [3]
    assert not (run / PART).exists()
    assert len(losses(run)) == 3


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_not_saved(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Record, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 2:  # as a last step may leave them, whose loss was a number
            next(weight for weight in model.parameters() if weight.requires_grad).data.view(-1)[0] = float("inf")
        original(self, args, state, control)

    original = Record.on_step_end
    monkeypatch.setattr(Record, "on_step_end", broken)
    settings = ("max_steps=2", "stcr.evaluate=null", "save_strategy=steps", "save_steps=1")
    with pytest.raises(StcrError, match=r"step 2: .+ has values that are not finite numbers, so nothing was saved"):
        workshop.train("weak", "broken", *settings)
    run = workshop.root / "broken"
    assert checkpoints(run) == [1]
    assert not (run / "model.safetensors").exists()
    assert stage_row(run)["ended"]["how"] == "failed"
