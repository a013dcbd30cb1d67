"""What to try before training: other prompts, whose responses are combined; the model's weights are unchanged.

A comparator is a row of COMPARATORS: variants of each prompt, each with its own folder, and a rule that makes one
`Response` of them. How much a variant counts follows the sources named; none was chosen on a split of ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.config import nearest
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.settings import Engine
from stcr_plugin.errors import ConfigError
from stcr_plugin.results import ComparatorAccount, PlainAccuracy
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.parsing import named_in, why_lost
from stcr_plugin.types import Answer, Change, Lost, Prompt, Response

PLAIN = "plain"

Variants = Mapping[str, Sequence[Response]]
"""Variant -> the response to each prompt in it."""


@dataclass(frozen=True)
class Comparator:
    """One way to evaluate a model with other prompts.

    Attributes:
        does: What it does, in words.
        source: Where it is from.
        combine: (comparator, prompts, responses to each variant) -> the response that counts, for each prompt.
        variants: Name (also of its folder) -> what is done to the pictures of a prompt.
        weight: How much the second variant counts; None where there is nothing to weigh.
        weight_of: Whose weight it is, in words.
        plausible: Names that the plain prompt makes less likely than this share of its likeliest cannot be chosen.
        compares: It needs log-probabilities.
        settings: Fields of AskSettings that it sets.
    """

    name: str
    does: str
    source: str
    combine: Callable[[Comparator, Sequence[Prompt], Variants], list[Response]]
    variants: Mapping[str, Change] = field(default_factory=lambda: {PLAIN: ""})
    weight: float | None = None
    weight_of: str = ""
    plausible: float = 0.0
    compares: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


def comparator(name: str, weight: float | None = None) -> Comparator:
    """The comparator of that name, with `weight` instead of its default. Raises ConfigError for an unknown name."""
    if name not in COMPARATORS:
        raise ConfigError("comparator", f"no {name!r}", nearest(name, list(COMPARATORS)))
    found = COMPARATORS[name]
    if weight is None:
        return found
    if found.weight is None:
        weighted = [one.name for one in COMPARATORS.values() if one.weight is not None]
        raise ConfigError(f"comparator {name!r}", "has no weight to set", f"{', '.join(weighted)} have one")
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"comparator {name!r}", f"its weight must be a number of at least 0, got {weight}")
    return dataclasses.replace(found, weight=weight, weight_of="given by the user")


def ask(
    comparator: Comparator,
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    out: Path,
    asked: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> tuple[list[Response], list[Response] | None]:
    """The combined response to each of `prompts`, and that to the plain prompts alone, None where there are none.

    Each variant has a folder of its name in `out` (see cache.collect_responses), so that a killed run goes on.

    Raises:
        ConfigError: The comparator needs log-probabilities, and the first answer has none.
    """
    checked = _Comparing(engine, comparator.name) if comparator.compares else engine
    responses = {
        variant: collect_responses(
            checked,
            [_changed(prompt, change) for prompt in prompts],
            out / variant,
            asked=asked,
            pictures=pictures,
        )
        for variant, change in comparator.variants.items()
    }
    return comparator.combine(comparator, prompts, responses), responses.get(PLAIN)


def account(
    comparator: Comparator, answers: Sequence[Answer], plain: Sequence[Answer] | None, *, resamples: int, seed: int
) -> ComparatorAccount:
    """How the comparator evaluated, and how its accuracy compares with that of the plain prompt on the same pairs."""
    against = None
    if plain is not None:
        difference = metrics.paired_difference(answers, plain, resamples=resamples, seed=seed)
        against = PlainAccuracy(metrics.figures(plain).pair_accuracy, _mean_accuracy(plain), difference)
    return ComparatorAccount(
        comparator.name,
        comparator.does,
        comparator.source,
        variants=dict(comparator.variants),
        weight=comparator.weight,
        weight_of=comparator.weight_of,
        plausible=comparator.plausible,
        mean_accuracy=_mean_accuracy(answers),
        plain=against,
    )


class _Comparing:
    """`engine`, whose every response must have log-probabilities."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def identity(self) -> Mapping[str, Any]:
        return self.engine.identity()

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for number, response in self.engine.respond(prompts):
            if not response.logprobs:
                able = [one.name for one in COMPARATORS.values() if not one.compares]
                raise ConfigError(
                    f"comparator {self.name!r}",
                    "needs log-probabilities, and the engine gives none",
                    f"use mode direct without generate, or one that works without: {', '.join(able)}",
                )
            yield number, response


def _changed(prompt: Prompt, change: Change) -> Prompt:
    if not change:
        return prompt
    return dataclasses.replace(prompt, shown=tuple(dataclasses.replace(one, change=change) for one in prompt.shown))


def _unchanged(comparator: Comparator, prompts: Sequence[Prompt], responses: Variants) -> list[Response]:
    return list(next(iter(responses.values())))


def _weighted(
    weights: Callable[[float], Mapping[str, float]],
) -> Callable[[Comparator, Sequence[Prompt], Variants], list[Response]]:
    """A rule that adds up each name's log-probabilities over the variants, times what `weights`(weight) gives them."""

    def combine(comparator: Comparator, prompts: Sequence[Prompt], responses: Variants) -> list[Response]:
        factors = weights(comparator.weight or 0.0)
        found = []
        for number, prompt in enumerate(prompts):
            of = {variant: responses[variant][number] for variant in factors}
            plain = of[PLAIN].logprobs
            least = max(plain.values()) + (math.log(comparator.plausible) if comparator.plausible else -math.inf)
            scores = {
                name: sum(factor * of[variant].logprobs[name] for variant, factor in factors.items())
                for name in prompt.names
                if plain[name] >= least
            }
            found.append(_chosen(prompt, scores, list(of.values())))
        return found

    return combine


def _both_orders(comparator: Comparator, prompts: Sequence[Prompt], responses: Variants) -> list[Response]:
    """One choice per pair: the mean over both orders of each frame's log-probability, or a vote of written answers.

    The mean log-probability of the frames differs by the mean log-odds of "the frame that is earlier in the file is
    closer". Two votes that disagree give no answer.
    """
    orders: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        orders.setdefault(prompt.item, []).append(number)
    found: dict[int, Response] = {}
    for numbers in orders.values():
        both = [responses[PLAIN][number] for number in numbers]  # the tokens of each stay its own
        # Names by the frame that they stand for: what a swapped pair calls first is its later frame.
        by_frame = [dict(zip(_frames(prompts[number]), prompts[number].names, strict=True)) for number in numbers]
        if all(one.logprobs for one in both):
            mean = {
                frame: sum(one.logprobs[names[frame]] for one, names in zip(both, by_frame, strict=True)) / len(both)
                for frame in sorted(by_frame[0])
            }
            for number, names in zip(numbers, by_frame, strict=True):
                scores = {names[frame]: mean[frame] for frame in _frames(prompts[number])}
                found[number] = _chosen(prompts[number], scores, [responses[PLAIN][number]])
        else:
            named = [named_in(one, prompts[number].names) for one, number in zip(both, numbers, strict=True)]
            votes = {
                next((frame for frame, name in names.items() if name == one), None)
                for one, names in zip(named, by_frame, strict=True)
            }
            frame = votes.pop() if len(votes) == 1 else None
            unread = [why_lost(one) for one, name in zip(both, named, strict=True) if name is None]
            lost: Lost = next((one for one in unread if one), "")
            for number, names in zip(numbers, by_frame, strict=True):
                text = "" if frame is None else prompts[number].answer.format(name=names[frame])
                found[number] = Response(text, {}, *_tokens([responses[PLAIN][number]]), "" if text else lost)
    return [found[number] for number in range(len(prompts))]


def _frames(prompt: Prompt) -> tuple[int, ...]:
    """The frame that each name stands for: 0 the earlier, 1 the later, 2 neither."""
    first = (1, 0) if prompt.order == "backward" else (0, 1)
    return (*first, 2)[: len(prompt.names)]


def _chosen(prompt: Prompt, scores: Mapping[str, float], responses: Sequence[Response]) -> Response:
    """The name with the highest score, none where two share it; scores become log-probabilities that add up to one."""
    top = max(scores.values())
    whole = top + math.log(sum(math.exp(score - top) for score in scores.values()))
    best = [name for name, score in scores.items() if score == top]
    text = prompt.answer.format(name=best[0]) if len(best) == 1 else ""
    return Response(text, {name: score - whole for name, score in scores.items()}, *_tokens(responses))


def _tokens(responses: Sequence[Response]) -> tuple[int | None, int | None]:
    """Sums over `responses`, None where one was not counted."""
    prompt, written = ([getattr(one, f"{kind}_tokens") for one in responses] for kind in ("prompt", "completion"))
    return (None if None in prompt else sum(prompt), None if None in written else sum(written))


def _mean_accuracy(answers: Sequence[Answer]) -> float:
    found = metrics.figures(answers)
    return (found.forward_accuracy + found.backward_accuracy) / 2


# Of M3ID: gamma_t = exp(-lambda t), and the correction counts (1 - gamma_t) / gamma_t. The figure of an answer
# `closer to completion: img1` is its sixth token, t = 5 from 0.
_FORGETTING, _DECIDING = 0.02, 5

COMPARATORS: Mapping[str, Comparator] = {
    one.name: one
    for one in (
        Comparator(
            "swap_ensemble",
            "the scores of both orders are averaged, or where answers are written, counted as votes; a "
            "disagreement is unparsed",
            "the plain baseline",
            _both_orders,
            compares=False,
        ),
        Comparator(
            "warned",
            "the question warns that the pictures may be in either order",
            "the plain baseline",
            _unchanged,
            {"warned": ""},
            compares=False,
            settings={"warn": True},
        ),
        Comparator(
            "ritual",
            "log-probabilities of the answers, plus weight times those where both pictures are mirrored (the paper "
            "draws a change at random, for each picture; a text that says left or right is wrong for a mirrored one)",
            "after RITUAL, Woo et al. 2024, arXiv 2405.17821",
            _weighted(lambda weight: {PLAIN: 1, "mirrored": weight}),
            {PLAIN: "", "mirrored": "mirror"},
            weight=3.0,
            weight_of="the default of the authors' code (alpha 3, plausibility cut 0.1)",
            plausible=0.1,
        ),
        Comparator(
            "m3id",
            "log-probabilities of the answers, plus weight times how far they rise above those with both pictures "
            "blank, order and question kept (the paper leaves the picture out)",
            "after M3ID, Favero et al. 2024, arXiv 2403.14003",
            _weighted(lambda weight: {PLAIN: 1 + weight, "blank": -weight}),
            {PLAIN: "", "blank": "blank"},
            weight=math.expm1(_FORGETTING * _DECIDING),
            weight_of="(1 - g) / g with g = exp(-0.02 t) at the deciding token, t = 5; 0.02 and the plausibility cut "
            "0.1 are those that the public code of RITUAL's authors runs M3ID with",
            plausible=0.1,
        ),
        Comparator(
            "calibrated",
            "probabilities of the answers divided by those with both pictures blank, which say what order and "
            "question alone suggest",
            "contextual calibration, Zhao et al. 2021, arXiv 2102.09690",
            _weighted(lambda weight: {PLAIN: 1, "blank": -weight}),
            {PLAIN: "", "blank": "blank"},
            weight=1.0,
            weight_of="the paper's: the prior is divided out whole, and no answer is ruled out",
        ),
    )
}
