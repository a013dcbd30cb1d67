"""The embedded checkpoint: a tiny model of the real Qwen2.5-VL architecture, with its tokenizer and processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import read_yaml, settings

# Jinja, in the content-parts convention of transformers' processors; the turns are Qwen's ChatML.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@settings
class Architecture:
    """Sizes of a Qwen2.5-VL, by default the tiny one of a million parameters. One image token covers 28x28 pixels."""

    vocabulary: int = 1536
    hidden: int = 96
    layers: int = 3
    heads: int = 4
    mlp: int = 256
    vision_depth: int = 3
    vision_hidden: int = 96
    vision_heads: int = 4
    vision_mlp: int = 256
    mrope_section: tuple[int, int, int] = (4, 4, 4)
    initializer_range: float = 0.1
    max_pixels: int = 7056
    # A plain table fills most of a picture: centred on it, the little that differs is what the patches carry.
    image_mean: tuple[float, float, float] = (0.74, 0.71, 0.68)
    image_std: tuple[float, float, float] = (0.15, 0.15, 0.15)


# The embedded default, and one of 437 million parameters to load a GPU with, 256 image tokens per picture.
SIZES = {
    "tiny": Architecture(),
    "400m": Architecture(
        hidden=1024,
        layers=24,
        heads=16,
        mlp=2816,
        vision_depth=16,
        vision_hidden=768,
        vision_heads=12,
        vision_mlp=2048,
        mrope_section=(8, 12, 12),
        initializer_range=0.02,
        max_pixels=448 * 448,
    ),
}


def write_checkpoint(out: Path, architecture: Architecture | None = None, seed: int = 0) -> Path:
    """Write a Qwen2.5-VL checkpoint with random weights, its tokenizer and its processor into `out`.

    The tokenizer is a byte-level BPE trained on the package's own prompts, so nothing is downloaded. The folder
    appears whole or not at all.

    Returns:
        `out`.

    Raises:
        DataError: where its disk is full.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    architecture = architecture or Architecture()
    processor = _processor(architecture)
    config = Qwen2_5_VLConfig(**_model_config(architecture, processor.tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.update(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=config.text_config.pad_token_id, do_sample=False
    )
    size = sum(weight.nbytes for weight in model.parameters())
    with artefacts.room_for(out, lambda: size), artefacts.whole_folder(out) as part:
        processor.save_pretrained(part)
        model.save_pretrained(part)
    return out


def _model_config(a: Architecture, tokenizer: Any) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    return {
        "text_config": {
            "vocab_size": len(tokenizer),
            "hidden_size": a.hidden,
            "intermediate_size": a.mlp,
            "num_hidden_layers": a.layers,
            "num_attention_heads": a.heads,
            "num_key_value_heads": a.heads,
            "max_position_embeddings": 4096,
            "initializer_range": a.initializer_range,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": list(a.mrope_section),
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        "vision_config": {
            "depth": a.vision_depth,
            "hidden_size": a.vision_hidden,
            "num_heads": a.vision_heads,
            "intermediate_size": a.vision_mlp,
            "out_hidden_size": a.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(a.vision_depth)),
            "initializer_range": a.initializer_range,
        },
        "tie_word_embeddings": True,
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def _processor(a: Architecture) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    bpe = Tokenizer(models.BPE())
    # Single digits, so that "img1" and "img2" differ in one token and numbers are read place by place.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=a.vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_prompt_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )
    pixels = {"min_pixels": 784, "max_pixels": a.max_pixels, "image_mean": a.image_mean, "image_std": a.image_std}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels, patch_size=14, merge_size=2, temporal_patch_size=2),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels, patch_size=14, merge_size=2, temporal_patch_size=2),
        chat_template=CHAT_TEMPLATE,
    )


_LATER = frozenset(
    {
        "未清楚入镜", "doing “ value ”", "stage  value ", "正在做“ value ”", "第 value 步", "; ", "；",
    }
)  # fmt: skip
"""Texts of the prompt files that the published bases did not have: with them, every base would be another one."""
_LATER_FILES = frozenset(("groups.yaml", "reflect.yaml"))
"""Prompt files of which the same is true as a whole."""


def _prompt_texts() -> Iterator[str]:
    """Texts that the tokenizer is trained on: the package's prompt files in order, and the simulator's words."""
    from stcr_plugin.episodes.tabletop import HELDOUT_COLOURS, PHASES, SEEN_COLOURS, SHAPES

    yield "system\nYou are a helpful assistant.\nuser\nassistant\n img1: img2:"
    yield " put the on the pad. gripper open closed"
    for word in (*SEEN_COLOURS, *HELDOUT_COLOURS, *SHAPES, *PHASES):
        yield f" {word} {word}"
    for path in sorted((Path(__file__).parents[1] / "samples" / "prompts").glob("*.yaml")):
        if path.name not in _LATER_FILES:
            yield from (text for text in _strings(read_yaml(path)) if text not in _LATER)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.replace("{", " ").replace("}", " ")
    else:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
