"""In training, compute the logits only of a batch's tail: from its first supervised token on.

A weak sample has a few supervised tokens after hundreds of prompt and picture tokens, and a real vocabulary has 150,000
tokens: logits of the prompt, which the loss ignores, would take gigabytes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

IGNORE = -100


def supervised_tail(labels: Any) -> int:
    """The number of last positions that the loss reads, at least 1.

    They begin with the one that predicts the first supervised token of any row.

    Args:
        labels: Tensor [rows, tokens], IGNORE where a token is not supervised.
    """
    columns = (labels != IGNORE).any(0).nonzero()
    return labels.shape[1] - max(int(columns[0]) - 1, 0) if len(columns) else 1


def cut_to_tail(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with `logits_to_keep`, as transformers' forward methods take it. The loss stays the same."""
    tail = supervised_tail(inputs["labels"])
    return {**inputs, "labels": inputs["labels"][:, -tail:], "logits_to_keep": tail}


def keep_tail(trainer: Any) -> None:
    """Make a fresh `trainer` compute only the tail's logits in training steps, where its model can."""
    if "logits_to_keep" not in inspect.signature(_plain(trainer.model).forward).parameters:
        return
    compute_loss = trainer.compute_loss

    @functools.wraps(compute_loss)
    def of_tail(model: Any, inputs: Mapping[str, Any], *more: Any, **options: Any) -> Any:
        # Labels that context parallelism has shifted, and other loss functions, read every position.
        cuts = model.training and "labels" in inputs and "shift_labels" not in inputs
        if cuts and trainer.compute_loss_func is None:
            inputs = cut_to_tail(inputs)
        return compute_loss(model, inputs, *more, **options)

    trainer.compute_loss = of_tail


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
