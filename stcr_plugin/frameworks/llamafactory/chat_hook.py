"""Serving (`llamafactory-cli api`, `chat`): the model gets to know which tokens are pictures, as in training."""

from __future__ import annotations

import functools
from typing import Any


def pass_token_types(hf_engine: Any) -> None:
    """Make LLaMA-Factory's transformers engine pass `mm_token_type_ids` on, under our templates.

    From transformers 5 on, Qwen-VL models give picture tokens their positions in height and width only where these name
    them (modeling_qwen2_5_vl.py, `get_rope_index`). LLaMA-Factory 0.9.5 computes the positions itself in training, but
    not in inference, where a model would see its pictures as lines of text, without a warning.
    """
    engine = getattr(hf_engine, "HuggingfaceEngine", None)
    original = getattr(engine, "_process_args", None)
    if engine is None or original is None:  # another version
        return

    @functools.wraps(original)
    def process_args(
        model: Any, tokenizer: Any, processor: Any, template: Any, *rest: Any, **more: Any
    ) -> tuple[dict[str, Any], int]:
        found, length = original(model, tokenizer, processor, template, *rest, **more)
        ours = hasattr(template.mm_plugin, "media_dir")
        if ours and "mm_token_type_ids" in getattr(processor, "model_input_names", ()):
            tokens = found["inputs"]
            types = (tokens == processor.image_token_id).long() + 2 * (tokens == processor.video_token_id).long()
            found.setdefault("mm_token_type_ids", types)
        return found, length

    engine._process_args = staticmethod(process_args)
