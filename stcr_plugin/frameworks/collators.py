"""What stands in front of the framework's collator, and changes the samples of a training batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Collator = Callable[[Sequence[dict[str, Any]]], Any]


class CollatorInFront:
    """Base of a collator that changes samples, then calls `collate`, whose attributes are its own too."""

    def __init__(self, collate: Collator) -> None:
        self.collate = collate

    def __getattr__(self, name: str) -> Any:  # others look for .template and .processor on the collator
        if name == "collate":
            raise AttributeError(name)
        return getattr(self.collate, name)


def put_in_front(train_dataloader: Any, wrap: Callable[[Collator], Collator]) -> None:
    """Give the training loader the collator that `wrap` makes of its own."""
    # accelerate wraps the loader that draws the batches.
    loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
    loader.collate_fn = wrap(loader.collate_fn)
