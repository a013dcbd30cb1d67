"""What lmms-eval calls for each row of an exported benchmark, and for all of them at the end.

A task's YAML names these functions (`!function stcr_plugin.benchmark.task...`), so that an exported folder holds data
and no code. Figures come from evaluation.metrics and answers from evaluation.answers, as those of `stcr eval` do.
Signatures are those of lmms-eval 0.7 (lmms_eval/api/task.py).
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stcr_plugin.engines.prompts import content
from stcr_plugin.scoring.metrics import RATES, figures
from stcr_plugin.scoring.parsing import choice, parse
from stcr_plugin.types import Answer, Prompt, Shown

RECORD = "stcr"
"""The key of a logged sample under which `process_results` leaves what reading it back needs."""

Doc = Mapping[str, Any]
"""A row of data.parquet: `img1`, `img2` (PIL pictures) and the columns of rows.Row."""


def doc_to_visual(doc: Doc) -> list[Any]:
    """The two pictures, RGB, as models that take all pictures first are given them."""
    return [doc[place].convert("RGB") for place in ("img1", "img2")]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question after both pictures, which are named in it since no label stands before each."""
    return f"{doc['introduction']}\n{doc['question']}"


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The user turn of chat models, word for word and picture for picture as `stcr eval` puts it."""
    names = tuple(json.loads(doc["names"]))
    shown = (Shown("img1"), Shown("img2"))
    prompt = Prompt(doc["pair_id"], doc["episode_id"], doc["order"], shown, names[:2], doc["question"], names)
    pictures = iter(doc_to_visual(doc))
    parts = [part if part["type"] == "text" else {"type": "image", "url": next(pictures)} for part in content(prompt)]
    return [{"role": "user", "content": parts}]


def doc_to_target(doc: Doc) -> str:
    return str(doc["answer"])


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Figure -> what was said to this row, alike for each since each needs all; and RECORD, which is only logged."""
    names = json.loads(doc["names"])
    said = {
        "pair_id": doc["pair_id"],
        "episode_id": doc["episode_id"],
        "order": doc["order"],
        "expected": doc["expected"],
        "chosen": choice(parse(results[0], names), names),
        "text": "",  # the sample holds it already
    }
    record = {"pair_id": doc["pair_id"], "order": doc["order"], "benchmark": doc["benchmark"]}
    return {**dict.fromkeys(RATES, said), RECORD: record}


def _aggregate(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def aggregate(said: Sequence[Mapping[str, Any]]) -> float:
        asked = Counter(one["pair_id"] for one in said)
        whole = [Answer(**one) for one in said if asked[one["pair_id"]] == 2]
        if (
            len(whole) < len(said) and name == RATES[0]
        ):  # as where --limit is odd; said of the first figure, not of each
            logging.getLogger(__name__).warning(
                "%d of %d answers are left out of all figures: their pairs were not asked in both orders",
                len(said) - len(whole),
                len(said),
            )
        return float(getattr(figures(whole), name)) if whole else math.nan

    return aggregate


# lmms-eval calls one function a figure, by its name.
forward_accuracy = _aggregate("forward_accuracy")
backward_accuracy = _aggregate("backward_accuracy")
gap_points = _aggregate("gap_points")
pair_accuracy = _aggregate("pair_accuracy")
order_consistency = _aggregate("order_consistency")
position_bias = _aggregate("position_bias")
unparsed_rate = _aggregate("unparsed_rate")
