"""A checkpoint of the real InternVL architecture (transformers' format), random and tiny: a picture is 4 tokens."""

from __future__ import annotations

from pathlib import Path

from config_only_models import INTERNVL_CHAT_TEMPLATE, INTERNVL_NAMED, INTERNVL_SPECIAL, stand_in_tokenizer

SIDE, PATCH = 56, 14
TOKENS = (SIDE // PATCH // 2) ** 2


def write_internvl(out: Path, seed: int = 0) -> Path:
    """Write model, tokenizer and processor into `out`, as OpenGVLab/InternVL3-8B-hf has them; returns it."""
    import torch
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = stand_in_tokenizer(INTERNVL_SPECIAL, INTERNVL_NAMED, first=None)
    token = tokenizer.convert_tokens_to_ids
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "initializer_range": 0.1,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "attention_bias": True,
        "image_size": [SIDE, SIDE],
        "patch_size": [PATCH, PATCH],
    }
    config = InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=token("<IMG_CONTEXT>"), image_seq_length=TOKENS
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
    model.generation_config.update(
        eos_token_id=token("<|im_end|>"), pad_token_id=token("<|endoftext|>"), do_sample=False
    )
    size = {"height": SIDE, "width": SIDE}
    tokenizer.chat_template = INTERNVL_CHAT_TEMPLATE
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=TOKENS,
        chat_template=INTERNVL_CHAT_TEMPLATE,
    ).save_pretrained(out)
    model.save_pretrained(out)
    return out
