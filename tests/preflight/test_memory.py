"""The memory formulas against the bytes that torch really holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from config_only_models import MODELS, PARAMETERS
from planned_stage import WIDE, inputs, loaded, planned

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.preflight import memory
from stcr_plugin.preflight.memory import Batch, Precision


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "model", WIDE)


KINDS = {
    "full": (),
    "language model": ("freeze_vision_tower=true", "freeze_multi_modal_projector=true"),
    "lora": ("finetuning_type=lora", "lora_rank=4"),
    "lora of the language model": ("finetuning_type=lora", "freeze_vision_tower=true"),
}


@pytest.mark.parametrize("overrides", KINDS.values(), ids=KINDS)
@pytest.mark.slow(seconds=1)
def test_weights_gradients_and_optimizer_states_are_exact(wide: Path, overrides: tuple[str, ...]) -> None:
    import torch

    resolved, model = planned(wide, *overrides)
    live = loaded(resolved, model)
    optimizer = torch.optim.AdamW([weight for weight in live.parameters() if weight.requires_grad])
    made, batch = inputs(model, words=5)
    live(**made).loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    found = memory.estimate(resolved, model, batch)
    assert found.weights == sum(weight.nbytes for weight in live.parameters())
    assert found.gradients == sum(weight.grad.nbytes for weight in live.parameters() if weight.grad is not None)
    assert found.optimizer == sum(value.nbytes for value in states)


def saved_for_backward(live: Any, made: dict[str, Any], autocast: bool) -> int:
    """Bytes of all tensors that a forward pass keeps for the backward pass, weights and autocast's copies aside."""
    import torch

    own = {weight.untyped_storage().data_ptr() for weight in live.parameters()}
    shapes = {shape for weight in live.parameters() for shape in (weight.shape, weight.shape[::-1]) if len(shape) > 1}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in shapes:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no other takes its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = live(**made).loss
    assert loss.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [((), 0.03), (("freeze_vision_tower=true", "freeze_multi_modal_projector=true"), 0.03),
     (("finetuning_type=lora", "lora_rank=4"), 0.06)],
    ids=["full", "language model", "lora"],
)  # fmt: skip
@pytest.mark.slow(seconds=1)
def test_activations_are_those_that_autograd_keeps(
    wide: Path, overrides: tuple[str, ...], tolerance: float, autocast: bool
) -> None:
    """Log-probabilities are kept too, and have a formula of their own."""
    resolved, model = planned(wide, "disable_gradient_checkpointing=true", *overrides)
    made, batch = inputs(model)
    live = loaded(resolved, model)
    found = saved_for_backward(live, made, autocast)
    kept, recomputed = memory.activations(
        model, batch, Precision(2 if autocast else 4, 4), resolved=resolved, checkpointed=False
    )
    assert recomputed == 0
    estimated = kept + 4 * batch.tokens * model.vocabulary
    assert estimated == pytest.approx(found, rel=tolerance)


def test_checkpointing_keeps_the_input_of_each_block(wide: Path) -> None:
    resolved, model = planned(wide)
    made, batch = inputs(model)
    live = loaded(resolved, model)
    live.gradient_checkpointing_enable({"use_reentrant": False})
    found = saved_for_backward(live, made, autocast=False)
    kept, recomputed = memory.activations(model, batch, Precision(4, 4), resolved=resolved, checkpointed=True)
    assert kept + 4 * batch.tokens * model.vocabulary == pytest.approx(found, rel=0.1)
    assert recomputed == batch.tokens * memory.block_bytes(model.text, Precision(4, 4))


def test_frozen_tower_under_adapters_keeps_nothing(wide: Path) -> None:
    from stcr_plugin.frameworks.frozen import rest_frozen_parts

    resolved, model = planned(wide, "finetuning_type=lora", "freeze_vision_tower=true")
    made, batch = inputs(model)
    live = loaded(resolved, model)
    live.gradient_checkpointing_enable({"use_reentrant": False})
    rest_frozen_parts(live)
    found = saved_for_backward(live, made, autocast=False)
    kept, _ = memory.activations(model, batch, Precision(4, 4), resolved=resolved, checkpointed=True)
    assert kept + 4 * batch.tokens * model.vocabulary == pytest.approx(found, rel=0.1)


def most_held(report: Path, run: Callable[[], Any]) -> tuple[int, Any]:
    """The most bytes that torch had given out at once while `run` ran; those from before it do not count."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        done = run()
    profiled.export_chrome_trace(str(report))
    rows = [row for row in json.loads(report.read_text())["traceEvents"] if row.get("name") == "[memory]"]
    changes = [row["args"]["Bytes"] for row in sorted(rows, key=lambda row: row["ts"])]
    return max(accumulate(changes)), done


@pytest.mark.parametrize(("layers", "rank"), [(2, 32), (4, 64)])
@pytest.mark.slow(seconds=10)
def test_adapters_are_copied_to_16_bits_as_long_as_autocast_lasts(tmp_path: Path, layers: int, rank: int) -> None:
    """Adapters are float32 also beside weights of 16 bits; all are copied in the forward pass, a block's in its own."""
    import torch

    from stcr_plugin.frameworks.frozen import rest_frozen_parts

    folder = write_checkpoint(tmp_path / "model", dataclasses.replace(WIDE, layers=layers))
    lora = ("finetuning_type=lora", f"lora_rank={rank}", "freeze_vision_tower=true", "bf16=true", "use_cpu=true")
    resolved, model = planned(folder, *lora, "disable_gradient_checkpointing=false")
    live = loaded(resolved, model, "bfloat16")
    live.gradient_checkpointing_enable({"use_reentrant": False})
    rest_frozen_parts(live)
    made, batch = inputs(model, words=5)

    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return live(**made).loss

    forward()
    found = memory.estimate(resolved, model, batch)
    trained = [one for one in live.parameters() if one.requires_grad]
    assert found.copies == 2 * sum(one.numel() for one in trained)
    most, loss = most_held(tmp_path / "forward.json", forward)
    assert found.activations + found.copies + found.loss == pytest.approx(most, rel=0.1)
    most, _ = most_held(tmp_path / "backward.json", loss.backward)
    gradients = found.gradients * (1 - 1 / layers)  # the block that is recomputed last has none yet
    assert gradients + found.recomputed == pytest.approx(most, rel=0.1)


def test_kernel_that_fuses_the_loss_counts_where_there_is_one(wide: Path) -> None:
    resolved, model = planned(wide)
    resolved.model.enable_liger_kernel = True  # LLaMA-Factory's parser wants the kernel installed
    batch = Batch(8, 0, 8, tail=8)
    assert memory.estimate(resolved, model, batch).loss == 0
    model.config.model_type = "qwen3_vl"
    assert memory.estimate(resolved, model, batch).loss > 0


def test_offloading_the_optimizer_keeps_gradients_and_weights_on_the_host_as_well(wide: Path) -> None:
    """18 bytes a weight: float32 weights, two moments and gradients, and 16-bit weights (DeepSpeed 0.19)."""
    zero = {"stage": 2, "overlap_comm": False, "offload_optimizer": {"device": "cpu"}}
    resolved, model = planned(wide, "bf16=true", f"deepspeed={{bf16: {{enabled: true}}, zero_optimization: {zero}}}")
    found = memory.estimate(resolved, model, Batch(8, 0, 8, tail=8))
    assert (found.host, found.optimizer) == (18 * model.weights.trainable, 0)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS["qwen2_5_vl_7b"](tmp_path_factory.mktemp("real") / "qwen2_5_vl_7b")


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_published_weights(name: str, tmp_path: Path) -> None:
    _, model = planned(MODELS[name](tmp_path / name))
    assert model.parameters == PARAMETERS[name]


@pytest.mark.slow(seconds=1)
def test_zero_divides_what_its_paper_says(real: Path) -> None:
    """Rajbhandari et al., table 1: 7.5 G parameters and 64 GPUs take 120, 31.4, 16.6 and 1.9 GB; here 8.3 G and 8."""
    n, gpus, batch = PARAMETERS["qwen2_5_vl_7b"], 8, Batch(8, 0, 8, tail=8)

    def held(stage: int) -> tuple[int, int, int]:
        zero = {"stage": stage, "overlap_comm": False}
        resolved, model = planned(
            real, "bf16=true", f"deepspeed={{bf16: {{enabled: true}}, zero_optimization: {zero}}}", gpus=gpus
        )
        found = memory.estimate(resolved, model, batch)
        return found.weights, found.gradients, found.optimizer

    # A fine-tune trains all: 2 + 2 bytes a weight and 12 for its float32 copy and two moments.
    assert held(1) == (2 * n, 2 * n, -(-12 * n // gpus))
    assert held(2) == (2 * n, -(-2 * n // gpus), -(-12 * n // gpus))
    assert held(3) == (-(-2 * n // gpus), -(-2 * n // gpus), -(-12 * n // gpus))


@pytest.mark.slow(seconds=1)
def test_quantised_weights_take_as_many_bits_as_qlora_says(real: Path) -> None:
    """Section 3 of its paper: 4 bits, and 0.127 a parameter for the constants where they are quantised too."""
    lora = ("bf16=true", "finetuning_type=lora", "freeze_vision_tower=true")
    resolved, model = planned(real, *lora, "quantization_bit=4", "double_quantization=true")
    plain = planned(real, *lora)
    batch = Batch(8, 0, 8, tail=8)
    saved = memory.estimate(*plain, batch).weights - memory.estimate(resolved, model, batch).weights
    assert saved == pytest.approx(model.weights.linear * (16 - 4.127) / 8, rel=1e-6)
    # All but the vocabulary's two matrices, norms and biases.
    assert model.weights.linear == pytest.approx(PARAMETERS["qwen2_5_vl_7b"] - 2 * 152064 * 3584, rel=0.01)


def test_peak_is_the_greatest_moment_of_a_step(wide: Path) -> None:
    resolved, model = planned(wide)
    small = memory.estimate(resolved, model, Batch(8, 0, 8, tail=8))
    large = memory.estimate(resolved, model, Batch(80_000, 0, 8, tail=80_000))
    held = small.weights + small.optimizer
    assert small.peak == held + small.gradients + small.recomputed
    assert large.peak == held + large.activations + max(large.loss_gradient, large.recomputed)
    spread = memory.estimate(planned(wide, gpus=2)[0], model, Batch(8, 0, 8, tail=8))
    assert spread.buffers == small.gradients  # DDP's buckets
