"""Folders of real models without their weights: true sizes, processors and chat format, and a stand-in tokenizer.

The settings are those that the models' publishers put beside the weights (config.json, preprocessor_config.json and
the special tokens with their ids of Qwen/Qwen2.5-VL-7B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct,
Qwen/Qwen3-VL-8B-Instruct and OpenGVLab/InternVL3-8B-hf). The tokenizer has each special token under its real id, but of
the 151,643 ids below them only a few hundred are pieces of text: a text takes more tokens than with the real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.embedded.architecture import CHAT_TEMPLATE

# Parameters of the published weights: their bytes in model.safetensors.index.json, two to a parameter.
PARAMETERS = {
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen3_vl_8b": 8_767_123_696,
    "internvl3_8b": 7_944_373_760,
}
FIRST_SPECIAL = 151643  # all four models build on Qwen's tokenizer, whose special tokens begin here
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
QWEN3_SPECIAL = (*QWEN_SPECIAL, "<tool_response>", "</tool_response>", "<think>", "</think>")
INTERNVL_SPECIAL = (*QWEN_SPECIAL, "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>",
                    "</box>", "<video>")  # fmt: skip
INTERNVL_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
QWEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# Qwen3-VL's chat format is Qwen2.5-VL's without the default system turn.
QWEN3_CHAT_TEMPLATE = "".join(CHAT_TEMPLATE.partition("{%- for")[1:])
# InternVL's writes a line feed behind each picture, and has no system turn of its own.
INTERNVL_CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part['type'] == 'video' %}{{ '<video>\\n' }}
{%- else %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def qwen2_5_vl_7b(folder: Path) -> Path:
    return _qwen2_5_vl(
        folder,
        text={"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
              "num_key_value_heads": 4, "vocab_size": 152064, "max_window_layers": 28},
        tied=False,
    )  # fmt: skip


def qwen2_5_vl_3b(folder: Path) -> Path:
    return _qwen2_5_vl(
        folder,
        text={"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
              "num_key_value_heads": 2, "vocab_size": 151936, "max_window_layers": 70},
        tied=True,
    )  # fmt: skip


def qwen3_vl_8b(folder: Path) -> Path:
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "transformers_version": "4.57.0.dev0",
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        **QWEN_IDS,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "attention_bias": False,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
            "hidden_act": "gelu_pytorch_tanh",
        },
        "tie_word_embeddings": False,
    }
    pictures = {
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    videos = {**pictures, "size": {"longest_edge": 25165824, "shortest_edge": 4096}}
    return _folder(
        folder,
        {
            "config.json": config,
            "preprocessor_config.json": {**pictures, "image_processor_type": "Qwen2VLImageProcessorFast"},
            "video_preprocessor_config.json": {**videos, "video_processor_type": "Qwen3VLVideoProcessor"},
        },
        QWEN3_SPECIAL,
        QWEN3_CHAT_TEMPLATE,
        context=262144,
    )


def internvl3_8b(folder: Path) -> Path:
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "transformers_version": "4.52.0.dev0",
        "model_type": "internvl",
        "dtype": "bfloat16",
        "image_token_id": 151667,
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 151674,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "layer_norm_eps": 1e-06,
            "layer_scale_init_value": 0.1,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
        },
        "tie_word_embeddings": False,
    }
    pictures = {
        "processor_class": "InternVLProcessor",
        "size": {"height": 448, "width": 448},
        "do_convert_rgb": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return _folder(
        folder,
        {
            "config.json": config,
            "preprocessor_config.json": {
                **pictures,
                "image_processor_type": "GotOcr2ImageProcessorFast",
                "crop_to_patches": False,
                "min_patches": 1,
                "max_patches": 12,
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 256},
            "video_preprocessor_config.json": {**pictures, "video_processor_type": "InternVLVideoProcessor"},
        },
        INTERNVL_SPECIAL,
        INTERNVL_CHAT_TEMPLATE,
        context=8192,
        named=INTERNVL_NAMED,
    )


MODELS = {
    "qwen2_5_vl_7b": qwen2_5_vl_7b,
    "qwen2_5_vl_3b": qwen2_5_vl_3b,
    "qwen3_vl_8b": qwen3_vl_8b,
    "internvl3_8b": internvl3_8b,
}


def _qwen2_5_vl(folder: Path, text: Mapping[str, Any], tied: bool) -> Path:
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "transformers_version": "4.41.2",
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        **QWEN_IDS,
        "vision_token_id": 151654,
        # As published: the text model's settings stand beside those of the whole.
        **text,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        "tie_word_embeddings": tied,
    }
    pictures = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **CLIP,
    }
    files = {"config.json": config, "preprocessor_config.json": pictures}
    return _folder(folder, files, QWEN_SPECIAL, CHAT_TEMPLATE, context=131072)


def _folder(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    special: Sequence[str],
    chat_template: str,
    context: int,
    named: Mapping[str, str] | None = None,
) -> Path:
    """Write `files` as JSON, the chat format and the tokenizer. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151643, "do_sample": True}
    for name, values in {**files, "generation_config.json": generation}.items():
        (folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": chat_template}), encoding="utf-8")
    tokenizer = stand_in_tokenizer(special, named)
    tokenizer.chat_template = chat_template
    tokenizer.model_max_length = context
    tokenizer.save_pretrained(folder)
    return folder


def stand_in_tokenizer(
    special: Sequence[str], named: Mapping[str, str] | None = None, first: int | None = FIRST_SPECIAL
) -> Any:
    """A tokenizer that knows the bytes, a few pieces of our own prompts, and `special` from the id `first` on.

    first: None puts them right behind the pieces. named: tokens that a processor asks the tokenizer for by name.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = json.loads(_trained())
    vocabulary, merges = dict(pieces["vocab"]), [tuple(pair) for pair in pieces["merges"]]
    first = len(vocabulary) if first is None else first
    vocabulary |= {f"<|unused{number}|>": number for number in range(len(vocabulary), first)}
    vocabulary |= {token: first + number for number, token in enumerate(special)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = _pre_tokenizer(), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in special if token not in ("<|im_end|>", "<|endoftext|>")],
        extra_special_tokens=dict(named or {}),
    )


def _pre_tokenizer() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


@cache
def _trained() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from stcr_plugin.samples import questions

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    prompts = Path(questions.__file__).parent / "prompts" / "questions.yaml"
    bpe.train_from_iterator([prompts.read_text(encoding="utf-8")], trainer)
    return json.dumps(json.loads(bpe.to_str())["model"])


# What LLaMA-Factory's arguments for a tokenizer and a processor begin with.
LOADED_BY = ("image_", "video_", "audio_", "use_", "crop_", "add_", "new_", "resize_", "split_", "init_", "model_max")


@contextmanager
def loaded_once() -> Iterator[None]:
    """Tokenizer and processor of a model, which LLaMA-Factory takes seconds to load, once for all recipes alike."""
    from llamafactory.model import loader

    load, found = loader.load_tokenizer, dict[str, Any]()

    def kept(arguments: Any) -> Any:
        folder = Path(arguments.model_name_or_path)
        files = [
            path for pattern in (*artefacts.PROCESSOR_FILES, "config.json") for path in sorted(folder.glob(pattern))
        ]
        others = {key: value for key, value in vars(arguments).items() if key.startswith(LOADED_BY)}
        key = artefacts.digest([[path.name, artefacts.sha256(path)] for path in files] + [repr(others)])
        if key not in found:
            found[key] = load(arguments)
        return found[key]

    loader.load_tokenizer = kept
    try:
        yield
    finally:
        loader.load_tokenizer = load
