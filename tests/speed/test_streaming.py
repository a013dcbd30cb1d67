"""How long a training waits for its first batch when LLaMA-Factory streams a Parquet dataset."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import DATA, RECIPES, Workshop

EPISODES, ROUNDS = 100, 3
SMALL = (6, 1)


@pytest.mark.bench
@pytest.mark.slow
def test_first_batch_seconds(
    report: Callable[..., None], full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """value: seconds from the start of a stage in a warm process, model loading included, to its first batch.

    baseline: the same without streaming, which tokenises every sample first. Both read a Parquet build of EPISODES
    episodes with pictures in tar files and start from empty caches, in turns; the fastest of each counts.
    """
    import datasets

    from stcr_plugin.config import from_mapping
    from stcr_plugin.registry.build import build
    from stcr_plugin.registry.data_config import DataConfig

    episodes, rounds = (EPISODES, ROUNDS) if full else SMALL
    workshop = Workshop(tmp_path)
    workshop.make_base()
    data = {
        **copy.deepcopy(DATA),
        "source": {"kind": "tabletop", "seen": episodes, "heldout": 0},
        "frames": {"format": "png", "store": "tar"},
        "splits": {"train": {"episodes": episodes}},
        "datasets": {"weak": {"split": "train", "kind": "weak", "format": "parquet"}},
    }
    build(from_mapping(DataConfig, data, "tiny"), workshop.registry)
    ways: dict[str, dict[str, Any]] = {
        "streamed": {"dataloader_num_workers": 2},
        "whole": {"streaming": False, "accelerator_config": None, "dataloader_num_workers": 0},
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for k in range(rounds):
        for way, changes in ways.items():
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"cache-{way}{k}")
            seconds[way].append(_to_first_batch(workshop, f"{way}{k}", changes))
    value, baseline = min(seconds["streamed"]), min(seconds["whole"])
    report("first_batch_seconds", value, "s", baseline)
    assert value > 0
    assert not full or value < baseline


def _to_first_batch(workshop: Workshop, out: str, changes: dict[str, Any]) -> float:
    from llamafactory.train import tuner
    from omegaconf import OmegaConf
    from transformers import TrainerCallback

    from stcr_plugin.frameworks.llamafactory.experiment import through
    from stcr_plugin.frameworks.recipe import Recipe
    from stcr_plugin.frameworks.stage_run import run_stage

    drawn: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:  # the trainer holds the step's batch
            drawn.append(time.perf_counter())

    overrides = workshop.overrides("weak", out, workshop.base, "stcr.evaluate=null", "stcr.starts_from=model")
    merged = OmegaConf.merge(OmegaConf.load(RECIPES / "stage2_stream.yaml"), OmegaConf.from_dotlist(overrides))
    args: Any = OmegaConf.to_container(merged)
    args = {key: value for key, value in {**args, **changes, "max_steps": 1}.items() if value is not None}
    began = time.perf_counter()
    run_stage(Recipe.of(args), [Clock()], through(getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)))
    return drawn[0] - began
