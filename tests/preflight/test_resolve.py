"""The recipe as LLaMA-Factory takes it on machines that are not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stage import RECIPES

from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.recipe import read_recipe
from stcr_plugin.preflight.resolve import Resolved, resolve


def resolved(*overrides: str, gpus: int = 1) -> Resolved:
    args = read_recipe(RECIPES / "stage1_cot.yaml", overrides)
    del args["stcr"]
    return resolve({**args, "overwrite_output_dir": True}, gpus)


def test_deepspeed_auto_values_are_those_of_the_run() -> None:
    from transformers.integrations import is_deepspeed_zero3_enabled

    found = resolved(
        "bf16=true",
        f"deepspeed={RECIPES / 'deepspeed' / 'zero3.json'}",
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=4",
        gpus=8,
    )
    assert found.zero == 3
    assert found.deepspeed["train_batch_size"] == 2 * 4 * 8
    assert found.deepspeed["bf16"]["enabled"] is True
    assert not is_deepspeed_zero3_enabled()  # nothing is left behind for models that are built later


def test_this_machine_is_as_it_was_afterwards() -> None:
    import torch
    from transformers import TrainingArguments

    state = torch.get_rng_state()
    resolved("bf16=true", gpus=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert TrainingArguments(output_dir="nowhere", report_to=[], use_cpu=True).world_size == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learnin_rate=1", "unknown key 'learnin_rate', did you mean 'learning_rate'?"),
        ("eval_strategy=steps", "eval_dataset"),
        ("quantization_bit=4", "LoRA"),
        ("finetuning_type=lara", "Invalid fine-tuning method"),
    ],
)
def test_what_llamafactory_would_refuse_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(override)


def test_deepspeed_values_that_contradict_the_recipe_are_named(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"gradient_accumulation_steps": 3, "zero_optimization": {"stage": 2}}))
    with pytest.raises(ConfigError, match="gradient_accumulation_steps=3 vs hf gradient_accumulation_steps=1"):
        resolved(f"deepspeed={rules}")
