"""What stands in front of the framework's collator, and changes the samples of a training batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin.frameworks.images import picture_name

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


def sample_key(feature: Mapping[str, Any], media_dir: str | Path = "") -> int:
    """64 bits that are a sample's own, in whichever process, rank, batch or step it is met: of its text and pictures.

    Pictures below `media_dir` count by their place in it, so that a folder may be moved. The same sample written down
    twice counts as one.
    """
    text = feature["input_ids"] if "input_ids" in feature else {k: v for k, v in feature.items() if k != "images"}
    names = [picture_name(one).removeprefix(os.path.join(media_dir, "")) for one in feature["images"]]
    said = repr((list(text) if "input_ids" in feature else text, names))
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big")
