"""A run that is killed outright goes on from its last checkpoint to the same figures and the same weights."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stage import Workshop, losses, stage_row, started, wait_for_step

from stcr_plugin.artefacts import model_digest
from stcr_plugin.frameworks.checkpoints import checkpoints, flaw
from stcr_plugin.records import is_finished

STEPS = 30
SETTINGS = (
    f"max_steps={STEPS}",
    "stcr.evaluate.every_steps=10",
    "stcr.evaluate.before=true",
    "stcr.augment={shift_pixels: 4, brightness: 0.3, hue: 0.1}",
    "save_strategy=steps",
    "save_steps=3",
    "save_total_limit=2",
    "logging_steps=2",
)
KINDS: dict[str, tuple[str, ...]] = {
    "full, a worker that augments": ("dataloader_num_workers=1",),
    "lora with dropout": ("finetuning_type=lora", "lora_rank=4", "lora_target=all", "lora_dropout=0.2"),
}


@pytest.fixture(scope="module")
def dropping(shared_workshop: Workshop) -> Path:
    """The tiny base with dropout in its attention, so that training draws random numbers itself."""
    base = shared_workshop.root / "dropping"
    shutil.copytree(shared_workshop.base, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.get("text_config", config)["attention_dropout"] = 0.2
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return base


def final(run: Path) -> dict[str, Any]:
    """All that a stage leaves but what the clock says."""
    record = stage_row(run)
    assert record["finished"]
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    return {
        "figures": [{key: value for key, value in row.items() if key != "seconds"} for row in record["figures"]],
        "losses": losses(run),
        "train_loss": results["train_loss"],
        "weights": model_digest(run),
        "steps": record["steps"],
    }


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_steps_it_ends_with_the_same_figures_and_the_same_weights(
    workshop: Workshop, dropping: Path, kind: str
) -> None:
    torch.set_num_threads(1)  # as the killed processes
    name = kind.split()[0].strip(",")
    settings = (*SETTINGS, *KINDS[kind])
    straight = workshop.train("weak", f"{name}_straight", *settings, model=dropping)
    run = workshop.root / f"{name}_killed"
    overrides = workshop.overrides("weak", run.name, dropping, *settings)
    draw = random.Random(0)
    kills = draw.randrange(4, STEPS // 2), draw.randrange(STEPS // 2, STEPS - 6)
    died_at = []
    for step in kills:
        process = started(workshop, *overrides, fork=True)
        wait_for_step(process, run, step)
        process.kill()
        assert process.wait(60) == -9, (workshop.root / "log.txt").read_text()[-5000:]
        died_at.append(checkpoints(run))
        assert all(flaw(run / f"checkpoint-{k}") is None for k in checkpoints(run))
        assert not is_finished(run)
    last = started(workshop, *overrides, fork=True)
    assert last.wait(400) == 0, (workshop.root / "log.txt").read_text()[-5000:]
    assert any(died_at)
    found, expected = final(run), final(straight)
    assert found == expected
    assert len(set(found["losses"])) > STEPS / 3
