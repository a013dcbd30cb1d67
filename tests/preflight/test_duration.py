"""Operations of a step against those that torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned_stage import WIDE, inputs, loaded, planned

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.preflight import duration
from stcr_plugin.preflight.data import Data, Sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        ((), 0.05),
        (("freeze_vision_tower=true", "freeze_multi_modal_projector=true"), 0.05),
        # The adapters' own operations are left out, and are a larger share of a model so narrow.
        (("finetuning_type=lora", "lora_rank=2"), 0.1),
    ],
    ids=["full", "language model", "lora"],
)
def test_operations_are_those_that_torch_counts(overrides: tuple[str, ...], tolerance: float, tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    resolved, model = planned(write_checkpoint(tmp_path / "model", WIDE), *overrides)
    live = loaded(resolved, model)
    live.set_attn_implementation("eager")  # torch counts the matrix products of attention, not the CPU's fused kernel
    made, batch = inputs(model)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        live(**made).loss.backward()
    sample = Sample("", batch.longest, 0, supervised=batch.longest, pictures=2, patches=batch.patches // 2)
    data = Data({"one": 1}, (sample,), (), pictures=2, decoded=2, newest=0.0, largest=0, cached=None)
    assert 2 * duration.operations(model, data) == pytest.approx(counter.get_total_flops(), rel=tolerance)
