"""The TRL backend on two processes: DDP and ZeRO-3 on the CPU (gloo), each through both stages.

ZeRO-2, which leaves the parameters whole as DDP does, is trained through LLaMA-Factory (test_distributed.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop, losses, stage_row

from stcr_plugin.artefacts import model_digest

pytestmark = pytest.mark.slow

# Each rank trains half of the batch that one process has.
LAUNCHES: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "zero3": (f"deepspeed={RECIPES / 'deepspeed' / 'zero3.json'}",),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = Workshop(tmp_path_factory.mktemp("distributed"))
    workshop.make_data()
    workshop.make_base()
    return workshop


def launch(shop: Workshop, recipe: str, data: str, out: str, model: Path, *more: str, ranks: int = 2) -> Path:
    size = f"per_device_train_batch_size={4 // ranks}"
    overrides = shop.overrides(data, out, model, size, "preprocessing_num_workers=null", *more)
    two = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"} if ranks == 2 else {}
    command = ["stcr", "train", RECIPES / f"{recipe}.yaml", "--backend", "trl", *overrides]
    done = shop.run(command, timeout=600, **two)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"
    return shop.root / out


def record(run: Path) -> dict[str, Any]:
    found = stage_row(run)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def alone(shop: Workshop) -> list[float]:
    return losses(launch(shop, "stage1_cot", "cot", "alone", shop.base, "stcr.evaluate=null", ranks=1))


@pytest.mark.parametrize("way", LAUNCHES)
def test_two_ranks_train_both_stages_with_the_callback_and_the_losses_of_one(
    shop: Workshop, alone: list[float], way: str
) -> None:
    first = launch(shop, "stage1_cot", "cot", f"{way}-1", shop.base, *LAUNCHES[way])
    second = launch(shop, "stage2_weak", "weak", f"{way}-2", first, *LAUNCHES[way], "dataloader_num_workers=1")
    one, two = record(first), record(second)
    assert (one["backend"], one["finished"], two["finished"]) == ("trl", True, True)
    assert two["parent_stage"] == "stage1"
    assert two["parent_digest"] == one["model_digest"] == model_digest(first)
    for run in (one, two):
        assert [row["when"] for row in run["figures"]] == ["before", "after"]
        assert all(row["n_queries"] == 8 for row in run["figures"])
    assert len(losses(second)) == 4
    # CoT answers differ in length: the mean of two half batches' means is not quite the mean of the whole.
    assert losses(first) == pytest.approx(alone, rel=1e-3)
    if way != "ddp" and (shop.root / "ddp-1").is_dir():
        assert losses(first) == pytest.approx(losses(shop.root / "ddp-1"), rel=1e-5)
        assert losses(second) == pytest.approx(losses(shop.root / "ddp-2"), rel=1e-5)


def test_an_adapter_trains_under_zero_3(shop: Workshop) -> None:
    more = (*LAUNCHES["zero3"], "finetuning_type=lora", "disable_gradient_checkpointing=false", "stcr.evaluate=null")
    found = losses(launch(shop, "weak_only", "weak", "lora", shop.base, *more))
    assert len(found) == 4
    same = losses(launch(shop, "weak_only", "weak", "lora-ddp", shop.base, *more[1:]))
    assert found == pytest.approx(same, rel=1e-4)
