"""The TRL backend on two processes: ZeRO-3 through both stages and DDP on the CPU (gloo), against one process.

ZeRO-2, which leaves the parameters whole as DDP does, is trained through LLaMA-Factory (test_distributed.py); the
torchrun of `stcr train`, which asks for no backend, is in test_interruption.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop, losses, stage_row

from stcr_plugin.artefacts import model_digest

pytestmark = pytest.mark.slow(seconds=25)

ZERO3 = f"deepspeed={RECIPES / 'deepspeed' / 'zero3.json'}"


def overrides(workshop: Workshop, data: str, out: str, model: Path, *more: str) -> list[str]:
    # Under ZeRO-3 every written token takes all ranks: few are enough to see that they measure.
    few = ("stcr.evaluate.pairs=2", "stcr.evaluate.max_new_tokens=3")
    return workshop.overrides(data, out, model, "preprocessing_num_workers=null", *few, *more)


def launch(workshop: Workshop, recipe: str, data: str, out: str, model: Path, *more: str) -> Path:
    """A stage on two forked ranks, each with half of a batch. Returns its folder."""
    given = overrides(workshop, data, out, model, "per_device_train_batch_size=2", *more)
    command = ["stcr", "train", RECIPES / f"{recipe}.yaml", "--backend", "trl", *given]
    done = workshop.fork(command, timeout=600, ranks=2)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"
    return workshop.root / out


def alone(workshop: Workshop, recipe: str, data: str, out: str, model: Path, *more: str) -> list[float]:
    """The losses of a stage in this very process."""
    from stcr_plugin.frameworks.trl.sft import train

    train(str(RECIPES / f"{recipe}.yaml"), overrides(workshop, data, out, model, "stcr.evaluate=null", *more))
    return losses(workshop.root / out)


def record(run: Path) -> dict[str, Any]:
    found = stage_row(run)
    assert found is not None
    return found


def assert_trained(run: Path) -> None:
    found = record(run)
    assert (found["backend"], found["finished"]) == ("trl", True)
    assert [row["when"] for row in found["figures"]] == ["before", "after"]
    assert all(row["n_queries"] == 4 for row in found["figures"])
    assert len(losses(run)) == 4


def test_two_ranks_train_both_stages_with_the_callback_and_the_losses_of_one(
    workshop: Workshop,
) -> None:
    first = launch(workshop, "stage1_cot", "cot", "trl_zero3_1", workshop.base, ZERO3)
    second = launch(workshop, "stage2_weak", "weak", "trl_zero3_2", first, ZERO3, "dataloader_num_workers=1")
    ddp = launch(workshop, "stage1_cot", "cot", "trl_ddp_1", workshop.base)
    for run in (first, second, ddp):
        assert_trained(run)
    one, two = record(first), record(second)
    assert two["parent_stage"] == "stage1"
    assert two["parent_digest"] == one["model_digest"] == model_digest(first)
    assert losses(first) == pytest.approx(losses(ddp), rel=1e-5)
    # CoT answers differ in length: the mean of two half batches' means is not quite the mean of the whole.
    assert losses(first) == pytest.approx(alone(workshop, "stage1_cot", "cot", "trl_alone_1", workshop.base), rel=1e-3)
    assert losses(second) == pytest.approx(alone(workshop, "stage2_weak", "weak", "trl_alone_2", first), rel=1e-5)


def test_an_adapter_trains_under_zero_3(workshop: Workshop) -> None:
    more = ("finetuning_type=lora", "disable_gradient_checkpointing=false")
    found = losses(launch(workshop, "weak_only", "weak", "trl_lora", workshop.base, ZERO3, *more, "stcr.evaluate=null"))
    assert len(found) == 4
    assert found == pytest.approx(
        alone(workshop, "weak_only", "weak", "trl_lora_alone", workshop.base, *more), rel=1e-4
    )
