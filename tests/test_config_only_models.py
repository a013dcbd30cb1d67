"""The folders of real models without weights are of the published sizes, and load as a real one would, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_only_models import MODELS, PARAMETERS

PROCESSORS = {
    "qwen2_5_vl_7b": ("Qwen2_5_VLProcessor", "<|image_pad|>", 151655),
    "qwen2_5_vl_3b": ("Qwen2_5_VLProcessor", "<|image_pad|>", 151655),
    "qwen3_vl_8b": ("Qwen3VLProcessor", "<|image_pad|>", 151655),
    "internvl3_8b": ("InternVLProcessor", "<IMG_CONTEXT>", 151667),
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_as_many_as_published(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(MODELS[name](tmp_path), local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_processor_and_config_name_the_same_tokens(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoProcessor

    folder = MODELS[name](tmp_path)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    kind, image, image_id = PROCESSORS[name]
    tokenizer = processor.tokenizer
    assert type(processor).__name__ == kind
    assert config.image_token_id == tokenizer.convert_tokens_to_ids(image) == image_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == 151645
    text = "img1: the gripper holds a cup. 图一"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert max(tokenizer.encode(f"{text}<|im_end|>")) < config.get_text_config().vocab_size
