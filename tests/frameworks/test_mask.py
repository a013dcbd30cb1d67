"""The authors' loss mask, reproduced to measure it: what it supervises, and that only a study asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stage import Workshop, history

from stcr_plugin.frameworks.mask import AuthorsMaskCollator, authors_labels

IMAGE, IGNORE = 9, -100


def test_supervision_starts_where_the_prompt_ended_before_its_pictures_were_expanded() -> None:
    prompt = [1, 2, IMAGE, IMAGE, IMAGE, 3, IMAGE, IMAGE, IMAGE, 4, 5]
    answer = [6, 7, 8]
    right = [IGNORE] * len(prompt) + answer
    # 11 tokens of prompt, 7 with one token a picture: the second picture's last tokens are trained on.
    assert authors_labels(prompt + answer, right, IMAGE) == [IGNORE] * 7 + [IMAGE, IMAGE, 4, 5, 6, 7, 8]


def test_prompt_without_pictures_is_masked_rightly() -> None:
    right = [IGNORE, IGNORE, 6, 7]
    assert authors_labels([1, 2, 6, 7], right, IMAGE) == right


def test_collator_changes_labels_alone() -> None:
    collate: Any = SimpleNamespace(processor=SimpleNamespace(image_token_id=IMAGE))
    seen: list[Any] = []

    class Collate:
        processor = collate.processor

        def __call__(self, features: Any) -> Any:
            seen.extend(features)
            return features

    feature = {"input_ids": [1, IMAGE, IMAGE, 6], "labels": [IGNORE] * 3 + [6], "images": ["a"]}
    AuthorsMaskCollator(Collate())([feature])
    assert seen == [{**feature, "labels": [IGNORE, IGNORE, IMAGE, 6]}]
    assert feature["labels"] == [IGNORE] * 3 + [6]


@pytest.mark.slow
def test_run_with_the_authors_mask_trains_on_prompt_and_pictures(workshop: Workshop) -> None:
    """The same batches: a loss over image tokens has other gradients, from the first step on."""
    right = history(workshop.train("weak", "right_mask"), "grad_norm")
    theirs = history(workshop.train("weak", "authors_mask", "stcr.mask=authors"), "grad_norm")
    assert [step for step, _ in right] == [step for step, _ in theirs]
    assert all(abs(one - other) > 0.1 for (_, one), (_, other) in zip(right, theirs, strict=True))
