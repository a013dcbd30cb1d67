"""A tiny model made into a finished stage, and LoRA adapters as training leaves them."""

import json

from stcr_plugin import artefacts
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.manifest import read_manifest


def finished(run, registry, name="stage2", parent=None, **changes):
    """Make the model in `run` a finished stage."""
    record = {
        "name": name,
        "mode": "direct",
        "template": "stcr_qwen2_vl",
        "parent": str(parent or "Qwen/Qwen2.5-VL-7B-Instruct"),
        "parent_stage": None,
        "parent_digest": artefacts.model_digest(parent) if parent else None,
        "seed": 7,
        "image_max_pixels": 3136,
        "image_min_pixels": 1024,
        "datasets": ["toy_weak"],
        "data": [{"build": "toy", "config_digest": read_manifest(registry, "toy").config_digest}],
        "recipe": {"dataset_dir": str(registry), "learning_rate": 0.001, "output_dir": "/home/somebody/secret"},
        "provenance": provenance(),
        "steps": 12,
        "seconds": 34.5,
        "model_digest": artefacts.model_digest(run),
        "finished": True,
    }
    (run / "stage.json").write_text(json.dumps(record | changes))
    return run


def adapter(base, folder, scale=0.3, seed=0):
    """A LoRA adapter on the model or adapter in `base`, as training leaves one: not zero, with processor files."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoProcessor

    from stcr_plugin.engines.loading import assembled

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(assembled(base, "auto"), config)
    torch.manual_seed(seed)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(folder)
    AutoProcessor.from_pretrained(str(base), local_files_only=True).save_pretrained(folder)
    return folder
