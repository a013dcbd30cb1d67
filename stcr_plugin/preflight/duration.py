"""Time of a training, from a stated throughput or from floating-point operations.

Operations of a token: 2 for each weight that multiplies it forward, 4 backward (6 N; Kaplan et al., arXiv 2001.08361,
section 2.1), of which 2 fall away where a weight is frozen, and all 4 where nothing before it learns. Attention adds
12 times layers, width of the heads and tokens seen (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B, which also
defines the share of the peak, MFU: what checkpointing recomputes does not count). A vision tower multiplies patches,
not tokens of text, and its windows see so many patches as they hold; the vocabulary's matrix multiplies the tokens from
the first supervised one on (logits.py).
"""

from __future__ import annotations

from stcr_plugin.preflight.data import Data
from stcr_plugin.preflight.model import Blocks, Model


def operations(model: Model, data: Data, compares: bool = False) -> float:
    """Floating-point operations of a mean sample, forward and backward; those that recompute activations aside.

    compares: A reference model of the same size computes it forward too.
    """
    many = len(data.samples)
    tokens = sum(sample.tokens for sample in data.samples) / many
    patches = sum(sample.patches for sample in data.samples) / many
    pictures = sum(sample.pictures for sample in data.samples) / many
    tail = sum(sample.tokens - max(sample.prompt - 1, 0) for sample in data.samples) / many
    more = 1 if compares else 0
    text = _blocks(model.text, tokens, tokens, passes=_passes(model.text, _learns(model.vision)), more=more)
    head = 2 * model.vocabulary * model.text.width * tail * (_passes(model.text, True) + more)
    vision = 0.0
    if model.vision and patches:
        vision = _blocks(model.vision, patches, patches / pictures, passes=_passes(model.vision, False), more=more)
    return text + head + vision


def _blocks(blocks: Blocks, tokens: float, seen: float, *, passes: int, more: int) -> float:
    windows, whole = blocks.count - blocks.whole, blocks.whole
    scores = 4 * blocks.heads * blocks.head * (whole * seen + windows * min(blocks.window, seen))
    through = 3 if passes > 1 else 1  # scores have no weights: both their factors need a gradient, or none
    return tokens * (2 * blocks.parameters * (passes + more) + scores * (through + more))


def _passes(blocks: Blocks, learns_below: bool) -> int:
    """Forward, backward to the inputs, backward to the weights: how many of the three are done."""
    if blocks.trainable:
        return 3
    return 2 if blocks.adapted or learns_below else 1


def _learns(blocks: Blocks | None) -> bool:
    return blocks is not None and (blocks.trainable or blocks.adapted)
