"""A Qwen3-VL of random weights with the embedded base's tokenizer: 16-pixel patches, no default system turn."""

from __future__ import annotations

from pathlib import Path

QWEN3_SPECIAL = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                 "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip


def write_qwen3_vl(out: Path, base: Path) -> Path:
    """Write it into `out`; `base` is the embedded base. Returns `out`."""
    import torch
    from transformers import (
        AutoProcessor,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = AutoProcessor.from_pretrained(base).tokenizer
    chat_template = "".join(tokenizer.chat_template.partition("{%- for")[1:])
    tokenizer.chat_template = chat_template
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=1024, max_pixels=16384, patch_size=16, merge_size=2),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=chat_template,
    ).save_pretrained(out)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True
        },
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in QWEN3_SPECIAL.items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        Qwen3VLForConditionalGeneration(config).save_pretrained(out)
    return out
