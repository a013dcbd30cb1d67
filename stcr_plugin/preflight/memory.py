"""Memory of one GPU in training, by formula.

- Weights, gradients and optimizer states, and what ZeRO divides by the number of GPUs: Rajbhandari et al., "ZeRO",
  arXiv 1910.02054, section 3.1 and 5 (2 + 2 + 12 bytes a parameter in mixed precision with Adam). Without DeepSpeed,
  LLaMA-Factory trains float32 copies of what is trained under autocast: 4 + 4 + 8 bytes.
- Activations: what autograd keeps for the backward pass, counted matrix by matrix as Korthikanti et al., "Reducing
  Activation Recomputation in Large Transformer Models", arXiv 2205.05198, section 4, do for GPT; here for gated
  feed-forward parts, grouped keys and values, RMS norms, and attention that keeps no matrix of scores (Dao et al.,
  FlashAttention, arXiv 2205.14135, section 3: queries, keys, values, output and one number a row). With gradient
  checkpointing: the input of each block, and one block recomputed (section 5 of Korthikanti et al.; Chen et al.,
  arXiv 1604.06174).
- A preference stage: two sequences a row; the logits of the reference model, whose forward pass keeps no more, while
  those of the trained one are kept; and the reference's weights where it is a second model, counted as large as the
  trained one.
- 4-bit weights: 4.127 bits a parameter with double quantisation, 4.5 without (Dettmers et al., QLoRA, arXiv 2305.14314,
  section 3).

Not counted: what CUDA and its libraries take for themselves, fragmentation, and evaluation by generating.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stcr_plugin.preflight.model import Blocks, Model, Weights
from stcr_plugin.preflight.resolve import Resolved

GIB = 2**30
_FLOAT = 4

# Optimizer -> bytes of its states for a matrix of this shape. Those with 8 bits keep float32 below 4096 elements.
_STATES: Mapping[str, Callable[[tuple[int, ...]], int]] = {
    "adamw_torch": lambda shape: 8 * _count(shape),
    "adamw_torch_fused": lambda shape: 8 * _count(shape),
    "adamw_hf": lambda shape: 8 * _count(shape),
    "adamw_bnb_8bit": lambda shape: (2 if _count(shape) >= 4096 else 8) * _count(shape),
    "adamw_8bit": lambda shape: (2 if _count(shape) >= 4096 else 8) * _count(shape),
    "paged_adamw_32bit": lambda shape: 8 * _count(shape),
    "paged_adamw_8bit": lambda shape: (2 if _count(shape) >= 4096 else 8) * _count(shape),
    "lion_32bit": lambda shape: 4 * _count(shape),
    "lion_8bit": lambda shape: (1 if _count(shape) >= 4096 else 4) * _count(shape),
    "sgd": lambda shape: 0,
    "adagrad": lambda shape: 4 * _count(shape),
    "rmsprop": lambda shape: 4 * _count(shape),
    "adafactor": lambda shape: 4 * (sum(shape) if len(shape) > 1 else _count(shape)),
}
LIGER = ("qwen2_vl", "qwen2_5_vl")
"""Models to which LLaMA-Factory 0.9.5 applies the kernel (model_utils/liger_kernel.py); with others it does nothing."""
_BITS = {(4, True): 4.127, (4, False): 4.5, (8, True): 8.0, (8, False): 8.0}


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. `peak` is the greatest of four moments of a step: the loss, its gradient, and the first and the
    last block of the backward pass.

    `recomputed` is one block of those that are recomputed, with its copies. `buffers` hold gradients on their way to
    other GPUs, and weights that ZeRO-3 has gathered. `copies` are 16-bit copies that autocast makes of float32 weights.
    `reference` is a second model of a preference stage. `host` is what is offloaded, of all GPUs together.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    copies: int
    activations: int
    recomputed: int
    loss: int
    loss_gradient: int
    reference: int
    accumulated: bool
    checkpointed: bool
    host: int

    @property
    def peak(self) -> int:
        earlier = self.gradients if self.accumulated else 0
        moments = (
            self.activations + self.copies + self.loss + earlier,
            self.activations + self.loss_gradient + earlier + (0 if self.checkpointed else self.copies),
            self.activations + self.recomputed + earlier,
            self.gradients + self.recomputed,
        )
        return self.weights + self.reference + self.optimizer + self.buffers + max(moments)


@dataclass(frozen=True)
class Batch:
    """What one GPU computes at once: padded text tokens and patches of pictures, of all its samples together, and
    `tail`, those of the tokens that logits are computed of (logits.py)."""

    tokens: int
    patches: int
    longest: int
    tail: int


@dataclass(frozen=True)
class Precision:
    """Bytes of an element: `compute` of what matrices multiply, `residual` of the residual stream."""

    compute: int
    residual: int

    @property
    def autocast(self) -> bool:
        return self.compute != self.residual


def estimate(resolved: Resolved, model: Model, batch: Batch) -> Memory:
    """Memory of one of the run's GPUs. Raises KeyError for an optimizer that there is no formula for (see `known`)."""
    weights, deepspeed, zero, gpus = model.weights, resolved.deepspeed, resolved.zero, resolved.gpus
    precision = Precision(compute_bytes(resolved), model.residual_bytes)
    saved = _saved_by_quantising(resolved, weights)
    weight_bytes = weights.total_bytes - saved
    rule = deepspeed.get("zero_optimization") or {}
    if deepspeed:
        half = precision.compute == 2
        weight_bytes = weights.total * 2 - saved if half else weight_bytes
        gradients = weights.trainable * (2 if half else _FLOAT)
        # The float32 weights that are updated count as a state of the optimizer, as in ZeRO's section 3.1.
        optimizer = weights.trainable * _FLOAT + states(resolved, weights)
    else:
        gradients = weights.trainable_bytes
        optimizer = states(resolved, weights)
    host = 0
    if zero >= 1:
        optimizer = -(-optimizer // gpus)
    if zero >= 2:
        gradients = -(-gradients // gpus)
    if zero == 3:
        weight_bytes = -(-weight_bytes // gpus)
    if _offloaded(rule, "offload_optimizer"):
        # DeepSpeed 0.19 keeps float32 gradients and 16-bit copies of the weights there as well (stage_1_and_2.py).
        beside = weights.trainable * (_FLOAT + 2) if zero < 3 else 0
        host, optimizer = host + optimizer * gpus + beside, 0
    if _offloaded(rule, "offload_param"):
        host, weight_bytes = host + weight_bytes * gpus, 0
    checkpointed = not resolved.model.disable_gradient_checkpointing
    kept, recomputed = activations(model, batch, precision, resolved=resolved, checkpointed=checkpointed)
    # Autocast keeps a 16-bit copy of each float32 matrix that learns, an adapter's too, until it is left (its
    # cached_cast, aten/src/ATen/autocast_mode.cpp). A block that is recomputed has it entered for itself. DeepSpeed's
    # weights have 16 bits already where the residual stream has.
    cast = precision.compute == 2 and (precision.autocast or not deepspeed)
    copies = 2 * weights.cast if cast else 0
    # The loss: logits, the same in float32, log-probabilities. Its gradient: those, theirs and that of the logits.
    finetuning = resolved.finetuning
    fused_loss = resolved.model.enable_liger_kernel and model.config.model_type in LIGER and finetuning.stage != "dpo"
    values = batch.tail * model.vocabulary
    logits = values * (2 * _FLOAT + (precision.compute if precision.compute < _FLOAT else 0))
    return Memory(
        weights=weight_bytes,
        gradients=gradients,
        optimizer=optimizer,
        buffers=_buffers(resolved, model, precision, gradients=gradients),
        copies=copies,
        activations=kept,
        recomputed=recomputed + (copies // model.text.count if checkpointed else 0),
        loss=0 if fused_loss else logits * (2 if finetuning.use_ref_model else 1),
        loss_gradient=0 if fused_loss else values * 3 * _FLOAT,
        reference=_reference(resolved, model, precision),
        accumulated=int(resolved.training.gradient_accumulation_steps) > 1 or zero >= 1,
        checkpointed=checkpointed,
        host=host,
    )


def _reference(resolved: Resolved, model: Model, precision: Precision) -> int:
    """Bytes of the weights of a second model; ZeRO divides them at stage 3 alone."""
    finetuning = resolved.finetuning
    if not finetuning.use_ref_model or (finetuning.finetuning_type == "lora" and not finetuning.ref_model):
        return 0
    whole = model.parameters * precision.compute
    return -(-whole // resolved.gpus) if resolved.zero == 3 else whole


def known(optimizer: str) -> bool:
    """Whether there is a formula for this optimizer's states."""
    return optimizer in _STATES


def states(resolved: Resolved, weights: Weights) -> int:
    """Bytes of the optimizer's states for all that is trained, a scalar step counter aside."""
    name = str(getattr(resolved.training.optim, "value", resolved.training.optim))
    return sum(_STATES[name](shape) for shape in weights.shapes)


def compute_bytes(resolved: Resolved) -> int:
    """Bytes of an element that matrices multiply."""
    training = resolved.training
    return 2 if training.bf16 or training.fp16 or resolved.finetuning.pure_bf16 else _FLOAT


def activations(
    model: Model, batch: Batch, precision: Precision, *, resolved: Resolved, checkpointed: bool
) -> tuple[int, int]:
    """Bytes kept for the backward pass, and bytes of the largest block that is recomputed in it (0 where none is)."""
    eager = str(getattr(resolved.model.flash_attn, "value", resolved.model.flash_attn)) == "disabled"
    kept = recomputed = 0
    parts: list[tuple[Blocks, int, int]] = [(model.text, batch.tokens, batch.longest)]
    if model.vision is not None and batch.patches and (model.vision.trainable or model.vision.adapted):
        parts.append((model.vision, batch.patches, model.vision.window or batch.longest))
        # The patches themselves, and the merger: its norm, and the inputs of its two matrices and their function.
        merger = model.vision.width * (_FLOAT + precision.residual + 3 * precision.compute)
        kept += batch.patches * (model.patch_values * precision.compute + merger)
    for blocks, tokens, seen in parts:
        one = tokens * block_bytes(blocks, precision, seen if eager else 0)
        kept += blocks.count * tokens * blocks.width * precision.residual if checkpointed else blocks.count * one
        recomputed = max(recomputed, one) if checkpointed else 0
    # The last norm, and its output, which the vocabulary's matrix multiplies.
    kept += batch.tokens * model.text.width * (_FLOAT + 2 * precision.residual)
    kept += batch.tokens * model.text.width * precision.compute if precision.autocast else 0
    return kept, recomputed


def block_bytes(blocks: Blocks, precision: Precision, scores: int = 0) -> int:
    """Bytes that one block keeps for each of its tokens.

    `scores`: how many tokens one sees, where attention keeps the matrix of scores; 0 where it does not.
    """
    compute, residual = precision.compute, precision.residual
    learns = blocks.trainable or blocks.adapted
    queries, keys = blocks.heads * blocks.head, blocks.kv_heads * blocks.head
    # Each norm keeps its input in float32, and what it multiplies by its weight where that weight learns.
    norm = (_FLOAT + (residual if blocks.trainable else 0)) * blocks.width if blocks.rms else residual * blocks.width
    total = 2 * norm
    # Inputs of matrices that learn. Autocast and adapters give each matrix a copy of its own; else they share one.
    apart = precision.autocast or (blocks.adapted and compute == 2)
    into_attention, into_inner = (1 if blocks.fused else 3), (2 if blocks.gated else 1)
    if learns:
        total += compute * (into_attention + into_inner if apart else 2) * blocks.width
    # Queries, keys and values as attention takes them, its output and a number a row, sines and cosines. Values that
    # come out of one matrix with queries and keys keep those alive too.
    values = queries + 2 * keys if blocks.fused else keys
    total += compute * (queries + keys + values + queries) + _FLOAT * blocks.heads
    total += compute * queries if blocks.fused or (apart and blocks.adapted) else 2 * residual * blocks.head
    total += (_FLOAT + residual) * (queries + keys) if blocks.normed_heads else 0
    total += blocks.heads * scores * (_FLOAT + compute)
    # Feed-forward: the gate before and after its function, the other factor, and their product.
    inner = (3 if blocks.gated else 1) + (1 if learns else 0)
    return total + compute * inner * blocks.inner


def _buffers(resolved: Resolved, model: Model, precision: Precision, *, gradients: int) -> int:
    rule = resolved.deepspeed.get("zero_optimization") or {}
    width = precision.compute if resolved.deepspeed else _FLOAT
    if not resolved.deepspeed:
        return gradients if resolved.gpus > 1 else 0  # DDP's buckets are as large as the gradients
    found = 0
    if resolved.zero >= 2:
        bucket = rule.get("reduce_bucket_size", 500_000_000)  # DeepSpeed's default, in elements
        bucket = model.text.width**2 if bucket == "auto" else int(bucket)  # as transformers fills it in
        found += min(bucket, model.weights.trainable) * width * (2 if rule.get("overlap_comm") else 1)
    if resolved.zero == 3:
        live = rule.get("stage3_max_live_parameters", 1_000_000_000)  # DeepSpeed's default
        found += min(int(live), model.weights.total) * width
    return found


def _saved_by_quantising(resolved: Resolved, weights: Weights) -> int:
    bits = resolved.model.quantization_bit
    if bits is None:
        return 0
    width = _BITS.get((int(bits), bool(resolved.model.double_quantization)), float(bits))
    return int(weights.linear_bytes - weights.linear * width / 8)


def _offloaded(rule: Mapping[str, Any], what: str) -> bool:
    return (rule.get(what) or {}).get("device", "none") in ("cpu", "nvme")


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
