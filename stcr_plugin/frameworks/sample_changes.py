"""Changes to the samples of a training batch, made before the framework's collator gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Collator = Callable[[Sequence[dict[str, Any]]], Any]


class CollatorInFront:
    """Base of a collator that changes samples, then calls `collate`; it has the attributes of `collate` too."""

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


def sample_key(feature: Mapping[str, Any], pictures: Iterable[str | bytes]) -> int:
    """64 bits that identify a sample by its text and `pictures`, the same in any process, rank, batch or step.

    `pictures` are their names, or their pixels, which are the same however the pictures are stored. A sample that is in
    the data twice counts as one.
    """
    text = feature["input_ids"] if "input_ids" in feature else {k: v for k, v in feature.items() if k != "images"}
    digest = hashlib.blake2b(repr(list(text) if "input_ids" in feature else text).encode(), digest_size=8)
    for picture in pictures:
        data = picture.encode() if isinstance(picture, str) else picture
        digest.update(b"%d:" % len(data) + data)
    return int.from_bytes(digest.digest(), "big")
