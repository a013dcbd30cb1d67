"""A frozen part of a model keeps nothing for the backward pass.

PEFT, and transformers' gradient checkpointing, have the embeddings of every part of a model give outputs that require
gradients, those of a frozen vision tower too: then the tower keeps its activations and is computed backwards, for
nothing. That is 2.8 GiB a sample of two 504 x 392 pictures with Qwen2.5-VL-7B.
"""

from __future__ import annotations

from typing import Any

_HOOK = "make_inputs_require_grads"  # what transformers' enable_input_require_grads registers


def rest_frozen_parts(model: Any) -> None:
    """Take that from the parts of `model` in which nothing is trained."""
    from transformers import PreTrainedModel

    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or any(weight.requires_grad for weight in part.parameters()):
            continue
        for module in part.modules():
            for handle, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__name__", "") == _HOOK:
                    del module._forward_hooks[handle]
