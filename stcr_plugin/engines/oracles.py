"""Four engines without a model, whose figures are known beforehand: they show that the evaluation can distinguish them.

Of a group of pictures they name the one, or list all, by the same rule. Asked how much of the task is done, they count
the frames of the strip that are behind by that rule.

position-only: always the second picture. Forward 100, backward 0, pair accuracy 0, position bias 100.
coin: a fair coin for each prompt. Forward and backward 50, gap 0, pair accuracy 25, consistency 50.
right: always right. Forward and backward 100, gap 0, pair accuracy 100, consistency 100, position bias 50.
chronological: the picture that was recorded later, in either position. As `right` where the later frame is closer to
completion, and always wrong where the earlier one is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.errors import ConfigError
from stcr_plugin.figures import FEWEST
from stcr_plugin.scoring.parsing import NEITHER
from stcr_plugin.types import ORDERS, Pair, Prompt, Query, Response

SURE = 0.9
"""Probability of an oracle's choice where answers are compared; the other names share the rest."""


class Oracle:
    """The engine `name`, which knows the truth about `pairs` (their `closer` and their order).

    A group's prompt brings the truth with it, in its order.

    It answers with the prompt's own names: in a text where the prompt asks for reasons, else by log-probabilities as if
    answers were compared, or in text with `generates`.

    Args:
        name: A key of ORACLES.
        pairs: What it may be asked.
        seed: Of the coin.
        generates: Answer in text, without log-probabilities.

    Raises:
        ConfigError: For an unknown name; from `respond`, for a prompt about other pairs where the truth is needed.
    """

    def __init__(self, name: str, pairs: Sequence[Pair], *, seed: int = 0, generates: bool = False) -> None:
        if name not in ORACLES:
            raise ConfigError("oracle", f"unknown oracle {name!r}", nearest(name, list(ORACLES)))
        self.name, self.seed, self.generates = name, seed, generates
        self.pairs = {pair.pair_id: pair for pair in pairs}

    def identity(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "seed": self.seed,
            "truth_digest": artefacts.digest([[pair.pair_id, pair.closer] for pair in self.pairs.values()]),
            "code_digest": artefacts.code_digest("engines/oracles.py", "engines/prompts.py"),
        }

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for number, prompt in enumerate(map(unsealed, prompts)):
            if _asks_values(prompt):
                yield number, _valued(self, prompt)
                continue
            listed = _listed(self, prompt)
            chosen = listed[0] if listed else ORACLES[self.name](self, prompt)
            text = prompt.answer.format(name=chosen, names=", ".join(listed))
            if prompt.reasons:
                yield number, Response(text if prompt.begin else f"{_details(prompt)}\n{text}")
            elif self.generates:
                yield number, Response(text)
            else:
                yield number, Response(text, _logprobs(prompt, chosen))

    def query(self, prompt: Prompt) -> Query:
        """The pair and order of a prompt. Raises ConfigError for one that is not of the pairs."""
        pair = self.pairs.get(prompt.item)
        order = next((order for order in ORDERS if order == prompt.order), None)
        if pair is None or order is None:
            raise ConfigError(
                f"{prompt.item}, {prompt.order}",
                f"the oracle {self.name!r} does not know the truth about it",
                "ask about the pairs that it was made with, or use one of: position-only, coin",
            )
        return Query(pair, order)


def _second(oracle: Oracle, prompt: Prompt) -> str:
    return prompt.names[1]


def _coin(oracle: Oracle, prompt: Prompt) -> str:
    """By question, pair and order, so that the two orders of a pair are independent. Never "neither".

    Not by paths: the folder of a build's pictures is named by the code that makes them.
    """
    pictures = [name for name in prompt.names if name != NEITHER]
    drawn = [oracle.seed, prompt.item, prompt.order, prompt.question, [one.change for one in prompt.shown]]
    return pictures[int(artefacts.digest(drawn)[:16], 16) % len(pictures)]


def _closer(oracle: Oracle, prompt: Prompt) -> str:
    """By the pictures that are shown, also where the recording is stored in reverse."""
    named = {"img1": prompt.names[0], "img2": prompt.names[1], NEITHER: NEITHER}
    query, shown = oracle.query(prompt), tuple(one.image for one in prompt.shown)
    swapped = shown != query.images and shown == query.images[::-1]
    return named[Query(query.pair, ORDERS[query.order == "forward"] if swapped else query.order).answer]


def _later(oracle: Oracle, prompt: Prompt) -> str:
    return prompt.names[1 if oracle.query(prompt).order == "forward" else 0]


ORACLES: Mapping[str, Callable[[Oracle, Prompt], str]] = {
    "position-only": _second,
    "coin": _coin,
    "right": _closer,
    "chronological": _later,
}


def _listed(oracle: Oracle, prompt: Prompt) -> list[str]:
    """The names of a group's pictures, the closest first by the oracle's rule; empty for a pair.

    A group's id ends in its frames, the farthest from completion first, and its order is the place among them of each
    picture that is shown (evaluation/multi_image.py).
    """
    if len(prompt.shown) < FEWEST or not re.fullmatch(r"\d+(-\d+)+", prompt.order):
        return []
    places = [int(place) for place in prompt.order.split("-")]
    frames = [int(frame) for frame in prompt.item.rpartition(":")[2].split("-")]
    drawn = [oracle.seed, prompt.item, prompt.order, prompt.question]
    rules: Mapping[str, Callable[[int], Any]] = {
        "position-only": lambda position: position != 1,
        "coin": lambda position: artefacts.digest([*drawn, position]),
        "right": lambda position: -places[position],
        "chronological": lambda position: -frames[places[position]],
    }
    return [prompt.names[position] for position in sorted(range(len(places)), key=rules[oracle.name])]


def _asks_values(prompt: Prompt) -> bool:
    """Whether it asks for progress (evaluation/zero_shot.py): by percentages, or of a strip by names of no picture."""
    of_strip = re.fullmatch(r"\d+(-\d+)*", prompt.order) is not None
    return "{percents}" in prompt.answer or (of_strip and not {*prompt.names} & {*prompt.labels, NEITHER})


def _valued(oracle: Oracle, prompt: Prompt) -> Response:
    """A percentage for each picture but the first, or log-probabilities that the last one shows the task as done."""
    if not re.fullmatch(r"\d+(-\d+)*", prompt.order):
        oracle.query(prompt)  # which says what it does not know
    if "{percents}" in prompt.answer:
        shares = [_share(oracle, prompt, position) for position in range(1, len(prompt.shown))]
        lines = [f"{name}: {100 * share:.1f} %" for name, share in zip(prompt.names, shares, strict=True)]
        return Response(prompt.answer.format(percents="\n".join(lines)))
    sure = 1 - SURE + (2 * SURE - 1) * _share(oracle, prompt, len(prompt.shown) - 1)
    logprobs = dict(zip(prompt.names, map(math.log, (sure, 1 - sure)), strict=True))
    return Response(prompt.answer.format(name=max(logprobs, key=logprobs.__getitem__)), logprobs)


def _share(oracle: Oracle, prompt: Prompt, position: int) -> float:
    """The progress 0..1 of the picture at a position; ids and orders are as those of a group."""
    places = [int(place) for place in prompt.order.split("-")]
    frames = [int(frame) for frame in prompt.item.rpartition(":")[2].split("-")]
    drawn = artefacts.digest([oracle.seed, prompt.item, prompt.order, prompt.question, position])
    most = max(1, len(frames) - 1)
    rules: Mapping[str, float] = {
        "position-only": position / len(frames),
        "coin": int(drawn[:8], 16) / 16**8,
        "right": places[position] / most,
        "chronological": sorted(frames).index(frames[places[position]]) / most,
    }
    return rules[oracle.name]


def _details(prompt: Prompt) -> str:
    """The first line of a reasoned answer in the format of training, without content."""
    return "spatial details: " + " ".join(f"{label}: not described." for label in prompt.labels)


def _logprobs(prompt: Prompt, chosen: str) -> dict[str, float]:
    rest = (1 - SURE) / (len(prompt.names) - 1)
    return {name: math.log(SURE if name == chosen else rest) for name in prompt.names}
