"""The loss mask of the STCR authors' released code, to measure the cost of its mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from stcr_plugin.frameworks.sample_changes import CollatorInFront, put_in_front
from stcr_plugin.logits import IGNORE


class AuthorsMask(TrainerCallback):  # type: ignore[misc]
    """Puts the authors' labels in front of the collator of the training loader."""

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        put_in_front(train_dataloader, AuthorsMaskCollator)


class AuthorsMaskCollator(CollatorInFront):
    """A collator that replaces each sample's labels by `authors_labels`, then calls `collate`."""

    def __call__(self, features: Sequence[dict[str, Any]]) -> Any:
        image = self.collate.processor.image_token_id  # type: ignore[attr-defined]
        return self.collate(
            [
                {**feature, "labels": authors_labels(feature["input_ids"], feature["labels"], image)}
                for feature in features
            ]
        )


def authors_labels(input_ids: Sequence[int], labels: Sequence[int], image_token: int) -> list[int]:
    """Labels [tokens] as their code sets them: the prompt's length is taken before image tokens are expanded.

    Where the prompt was n tokens with one token a picture, all from the n-th on is supervised: the end of the prompt,
    image tokens among it, and the answer. `labels` are the right ones, whose first supervised token ends the prompt.
    """
    prompt = next(position for position, label in enumerate(labels) if label != IGNORE)
    runs = sum(
        input_ids[position] == image_token and (position == 0 or input_ids[position - 1] != image_token)
        for position in range(prompt)
    )
    unexpanded = prompt - sum(token == image_token for token in input_ids[:prompt]) + runs
    return [IGNORE] * unexpanded + list(input_ids[unexpanded:])
