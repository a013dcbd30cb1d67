"""Where the time of a training step goes: stage 2 of the embedded model, by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop

RECIPE = RECIPES / "stage2_weak.yaml"
STEPS, WARM_UP = 20, 5
SMALL = (1, 0)
# What an operator's name begins with -> what it is. The first that fits counts; all others are small operations.
KINDS = {
    "aten::_scaled_dot_product": "attention",
    "aten::_flash_attention": "attention",
    "aten::convolution": "patch_convolution",
    "aten::_convolution": "patch_convolution",
    "aten::mkldnn_convolution": "patch_convolution",
    "aten::slow_conv": "patch_convolution",
    "aten::_slow_conv": "patch_convolution",
    "aten::mm": "matrix_products",
    "aten::addmm": "matrix_products",
    "aten::bmm": "matrix_products",
    "aten::baddbmm": "matrix_products",
    "enumerate(DataLoader)": "data",
}
SHARES = ("matrix_products", "patch_convolution", "attention", "data", "small_operations")


@pytest.mark.bench
@pytest.mark.slow(seconds=15)
@pytest.mark.timeout(3600)
def test_where_the_time_of_a_step_goes(report: Callable[..., None], full: bool, workshop: Workshop) -> None:
    """step_share_KIND: percent of the time in operators, of recipes/stage2_weak.yaml as it stands but without its
    evaluations. `data` is waiting for the next batch. step_operators: how many an average step runs."""
    steps, warm_up = (STEPS, WARM_UP) if full else SMALL
    times, calls = profiled(workshop, steps, warm_up)
    whole = sum(times.values())
    shares = {kind: 100 * times[kind] / whole for kind in SHARES}
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["matrix_products"] > 0
    for kind, share in shares.items():
        report(f"step_share_{kind}", share, "%", None)
    report("step_operators", calls / steps, "operators", None)


def profiled(workshop: Workshop, steps: int, warm_up: int) -> tuple[Mapping[str, float], int]:
    """Microseconds of each kind over `steps` steps, and how many operators ran."""
    import torch
    from llamafactory.train import tuner
    from transformers import TrainerCallback

    from stcr_plugin.frameworks.llamafactory.experiment import through
    from stcr_plugin.frameworks.recipe import Recipe, read_recipe
    from stcr_plugin.frameworks.stage_run import run_stage

    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    class Profile(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == warm_up + 1:
                profile.start()
            elif state.global_step == warm_up + 1 + steps:
                profile.stop()

    overrides = workshop.overrides("weak", f"profiled{steps}", workshop.base)
    overrides = [one for one in overrides if not one.startswith(("per_device", "dataloader", "stcr.evaluate"))]
    more = (f"max_steps={warm_up + steps + 2}", "stcr.evaluate=null", "stcr.starts_from=model")
    args = read_recipe(RECIPE, [*overrides, *more])
    run_stage(Recipe.of(args), [Profile()], through(getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)))
    times, calls = Counter[str](), 0
    for event in profile.key_averages():
        kind = next((kind for start, kind in KINDS.items() if event.key.startswith(start)), "small_operations")
        times[kind] += event.self_cpu_time_total
        calls += event.count if event.key.startswith("aten::") else 0
    return times, calls
