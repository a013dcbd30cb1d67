"""A stage that is planned, and the live model of it, to hold the preflight's formulas against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_stage import RECIPES

from stcr_plugin.embedded.architecture import Architecture
from stcr_plugin.frameworks.recipe import read_recipe
from stcr_plugin.frameworks.stcr_block import StcrSettings
from stcr_plugin.preflight.memory import Batch
from stcr_plugin.preflight.model import Model, read_model
from stcr_plugin.preflight.resolve import Resolved, resolve

# Blocks wide enough that what is left out (masks, positions, adapters' own small outputs) is small beside them.
WIDE = Architecture(hidden=256, mlp=768, layers=4, vision_hidden=192, vision_mlp=512, max_pixels=112 * 112,
                    mrope_section=(8, 12, 12))  # fmt: skip
SIDE = 112


def planned(folder: Path, *overrides: str, gpus: int = 1) -> tuple[Resolved, Model]:
    """The stage 1 recipe on the model in `folder`."""
    args = read_recipe(RECIPES / "stage1_cot.yaml", [f"model_name_or_path={folder}", *overrides])
    del args["stcr"]
    resolved = resolve({**args, "overwrite_output_dir": True}, gpus)
    return resolved, read_model(resolved, StcrSettings(name="stage", mode="cot"), folder.parent)


def loaded(resolved: Resolved, model: Model, dtype: str = "auto") -> Any:
    """The model with weights of a `dtype`, made trainable by LLaMA-Factory itself."""
    from llamafactory.model.adapter import init_adapter
    from transformers import AutoModelForImageTextToText

    live = AutoModelForImageTextToText.from_pretrained(model.folder, dtype=dtype, attn_implementation="sdpa")
    return init_adapter(live.config, live, resolved.model, resolved.finetuning, True).train()


def inputs(model: Model, words: int = 150) -> tuple[dict[str, Any], Batch]:
    """Two samples of two pictures, and their sizes as the formulas take them."""
    from PIL import Image

    pictures = [Image.new("RGB", (SIDE, SIDE))] * 2
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "closer " * words}]
    text = model.processor.apply_chat_template([[{"role": "user", "content": parts}]] * 2, tokenize=False)
    made = dict(model.processor(text=text, images=pictures * 2, return_tensors="pt"))
    made["labels"] = made["input_ids"].clone()
    ids = made["input_ids"]
    return made, Batch(ids.numel(), len(made["pixel_values"]), longest=ids.shape[1], tail=ids.numel())
