"""A frozen vision tower keeps no activations, and what is trained learns as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_internvl import write_internvl
from tiny_qwen3_vl import write_qwen3_vl
from tiny_stage import RECIPES, Workshop
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

from stcr_plugin.cli import main
from stcr_plugin.frameworks.frozen import rest_frozen_parts

LORA = ("finetuning_type=lora", "lora_rank=4")
FROZEN = ("freeze_vision_tower=true", "freeze_multi_modal_projector=true")


def features_require_gradients(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of what the vision tower gives in training, step by step."""
    seen: list[bool] = []
    forward = Tower.forward

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        output = forward(self, *given, **named)
        if self.training:
            features = next(value for value in output.values() if torch.is_tensor(value))
            seen.append(features.requires_grad)
        return output

    monkeypatch.setattr(Tower, "forward", watched)
    return seen


@pytest.mark.parametrize("backend", ["llamafactory", "trl"])
@pytest.mark.parametrize(
    ("kind", "requires"),
    [((*LORA, *FROZEN), False), (FROZEN, False), (LORA, True)],
    ids=["lora", "full", "lora of all"],
)
@pytest.mark.slow
def test_frozen_tower_is_not_computed_backwards(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    kind: tuple[str, ...],
    requires: bool,
) -> None:
    seen = features_require_gradients(monkeypatch)
    more = ("max_steps=1", "stcr.evaluate=null", "disable_gradient_checkpointing=false", *kind)
    overrides = workshop.overrides("weak", f"frozen-{backend}-{len(kind)}-{requires}", workshop.base, *more)
    assert main(["train", str(RECIPES / "weak_only.yaml"), "--backend", backend, *overrides]) == 0
    assert seen
    assert set(seen) == {requires}


@pytest.mark.parametrize("name", ["InternVL", "Qwen3-VL"])
def test_frozen_tower_of_another_model_is_not_computed_backwards(name: str, workshop: Workshop, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    out = tmp_path / "model"
    written = write_internvl(out) if name == "InternVL" else write_qwen3_vl(out, workshop.base)
    model = AutoModelForImageTextToText.from_pretrained(written)
    model.gradient_checkpointing_enable()
    model = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj")).train()
    pictures = {"pixel_values": torch.zeros(1, 3, 56, 56)}
    if name == "Qwen3-VL":
        pictures = {"pixel_values": torch.zeros(16, 3 * 2 * 16 * 16), "image_grid_thw": torch.tensor([[1, 4, 4]])}

    def requires_gradients() -> bool:
        found = model.get_base_model().get_image_features(**pictures).pooler_output
        return bool((found if torch.is_tensor(found) else found[0]).requires_grad)

    assert requires_gradients() == (name == "InternVL")  # Qwen3-VL's tower has no embeddings that could be hooked
    rest_frozen_parts(model)
    assert not requires_gradients()


def test_adapters_get_the_gradients_that_they_got(workshop: Workshop) -> None:
    from peft import LoraConfig, get_peft_model
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(workshop.base, dtype="float32")
    model.gradient_checkpointing_enable()
    targets = r".*language_model.*(q|v)_proj"
    model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).train()
    processor = AutoProcessor.from_pretrained(workshop.base)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "closer"}]}]
    text = processor.apply_chat_template([turn], tokenize=False)
    batch = dict(processor(text=text, images=[Image.new("RGB", (84, 84), (200, 30, 30))], return_tensors="pt"))
    batch["labels"] = batch["input_ids"].clone()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**batch).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    before = gradients()
    rest_frozen_parts(model)
    after = gradients()
    assert before.keys() == after.keys()
    assert all("lora" in name for name in after)
    for name, gradient in before.items():
        assert torch.equal(after[name], gradient), name
