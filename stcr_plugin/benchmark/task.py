"""The functions that lmms-eval calls for each row of an exported benchmark, and for all rows at the end.

A task's YAML names these functions (`!function stcr_plugin.benchmark.task...`), so an exported folder holds data and no
code. Figures come from scoring.metrics and answers from scoring.parsing, as those of `stcr eval` do.
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
from stcr_plugin.scoring.parsing import choice, named_in
from stcr_plugin.types import Answer, Prompt, Response, Shown

RECORD = "stcr"
"""The key of a logged sample under which `process_results` leaves what reading it back needs."""

Doc = Mapping[str, Any]
"""A row of data.parquet: `img1`, `img2` (PIL pictures) and the columns of rows.Row."""


def doc_to_visual(doc: Doc) -> list[Any]:
    """The two pictures, RGB, for models that take all pictures first."""
    return [doc[place].convert("RGB") for place in ("img1", "img2")]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question after both pictures, which it names, since they have no labels."""
    return f"{doc['introduction']}\n{doc['question']}"


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The user turn of chat models, exactly as in `stcr eval`."""
    names = tuple(json.loads(doc["names"]))
    shown = (Shown("img1"), Shown("img2"))
    prompt = Prompt(doc["pair_id"], doc["episode_id"], doc["order"], shown, names[:2], doc["question"], names)
    pictures = iter(doc_to_visual(doc))
    parts = [part if part["type"] == "text" else {"type": "image", "url": next(pictures)} for part in content(prompt)]
    return [{"role": "user", "content": parts}]


def doc_to_target(doc: Doc) -> str:
    return str(doc["answer"])


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Figure -> the answer to this row, the same for each figure; and RECORD, which is only logged."""
    names = json.loads(doc["names"])
    answer = {
        "pair_id": doc["pair_id"],
        "episode_id": doc["episode_id"],
        "order": doc["order"],
        "expected": doc["expected"],
        "chosen": choice(named_in(Response(results[0]), names), names),
        "text": "",  # is in the sample
    }
    record = {"pair_id": doc["pair_id"], "order": doc["order"], "benchmark": doc["benchmark"]}
    return {**dict.fromkeys(RATES, answer), RECORD: record}


def _aggregate(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def aggregate(answers: Sequence[Mapping[str, Any]]) -> float:
        orders = Counter(one["pair_id"] for one in answers)
        whole = [Answer(**one) for one in answers if orders[one["pair_id"]] == 2]
        if len(whole) < len(answers) and name == RATES[0]:  # with an odd --limit; logged once, not for each figure
            logging.getLogger(__name__).warning(
                "%d of %d answers are left out of all figures: their pairs were not evaluated in both orders",
                len(answers) - len(whole),
                len(answers),
            )
        return float(getattr(figures(whole), name)) if whole else math.nan

    return aggregate


# lmms-eval calls one function per figure, by its name.
forward_accuracy = _aggregate("forward_accuracy")
backward_accuracy = _aggregate("backward_accuracy")
gap_points = _aggregate("gap_points")
pair_accuracy = _aggregate("pair_accuracy")
order_consistency = _aggregate("order_consistency")
position_bias = _aggregate("position_bias")
unparsed_rate = _aggregate("unparsed_rate")
