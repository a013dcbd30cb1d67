"""Pairwise judgments -> scores by the Bradley-Terry model, and the choice of pairs so that few questions are enough.

Hand-written: packages such as choix fit counts of wins, not probabilities with weights, and give no covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RIDGE = 0.03
"""Prior precision of the scores: each is normally distributed with variance 1 / RIDGE."""

_STEPS = 1000  # of Newton's method at most; a score moves by at most 1 per step, and 20 steps are usual

_VOTES: Mapping[str, float] = {"img1": 0.0, "neither": 0.5, "img2": 1.0}


@dataclass(frozen=True)
class Comparison:
    """The result of the queries about two frames of a list that is ranked.

    Attributes:
        first: Index of a frame in the list, from 0.
        second: Index of the other frame.
        outcome: Probability 0..1 that `second` is closer to completion; 1/2 where the answers cancel out.
        weight: Share 0..1 of the queries with a parsed answer.
    """

    first: int
    second: int
    outcome: float
    weight: float


@dataclass(frozen=True)
class Scores:
    """Bradley-Terry scores of n frames, in list order.

    Attributes:
        values: [n] in log-odds: `a` is judged closer than `b` with probability 1 / (1 + exp(b - a)); their mean is 0.
        covariance: [n, n], the inverse of the curvature at the maximum. It counts every comparison as one independent
            draw, which answers from log-probabilities are not: their errors are then rather too large.
        progress: [n], mean probability 0..1 of being judged closer than another frame of the list. Where every
            comparison is certain, frame i has i / (n - 1); where frames cannot be distinguished, all have 1/2.
        progress_errors: [n], to first order from the covariance.
    """

    values: Floats
    covariance: Floats
    progress: Floats
    progress_errors: Floats

    @property
    def errors(self) -> Floats:
        import numpy as np

        return np.sqrt(np.diag(self.covariance))


def outcome(answers: Sequence[Answer], temperature: float = 1.0) -> tuple[float, float]:
    """(outcome, weight) of a Comparison, from a pair's answers in one order or in both; the earlier frame is `first`.

    Where names were compared, the log-odds of the later frame, averaged over the orders, divided by `temperature`: a
    preference for a position cancels out. Otherwise each answer is a vote, and two votes for one position cancel out
    too. "Neither" counts half for either frame.
    """
    odds = log_odds(answers)
    if odds is not None:
        return _sigmoid(odds / temperature), 1.0
    votes = [_toward_later(answer, _VOTES[answer.chosen]) for answer in answers if answer.chosen]
    return (sum(votes) / len(votes) if votes else 0.5), len(votes) / len(answers)


def log_odds(answers: Sequence[Answer]) -> float | None:
    """Of the later frame, averaged over the orders; None where names were not compared in all of them."""
    odds = [_log_odds(answer) for answer in answers if answer.logprob_img1 is not None]
    return sum(odds) / len(odds) if len(odds) == len(answers) else None


def _toward_later(answer: Answer, share: float) -> float:
    """The later frame's share, from that of img2."""
    return share if answer.order == "forward" else 1 - share


def _log_odds(answer: Answer) -> float:
    """Of the later frame against the earlier one; half the probability of "neither" goes to each."""
    import numpy as np

    half = -math.inf if answer.logprob_neither is None else answer.logprob_neither - math.log(2)
    odds = float(np.logaddexp(answer.logprob_img2, half) - np.logaddexp(answer.logprob_img1, half))  # type: ignore[arg-type]
    return odds if answer.order == "forward" else -odds


def _sigmoid(odds: float) -> float:
    return (1 + math.tanh(odds / 2)) / 2


def bradley_terry(n: int, comparisons: Sequence[Comparison], ridge: float = RIDGE) -> Scores:
    """The maximum-likelihood scores of n frames given `comparisons`, with a ridge penalty.

    The model is Bradley & Terry 1952, Rank Analysis of Incomplete Block Designs I, Biometrika 39, 324-345: a frame of
    score a is closer than one of score b with probability 1 / (1 + exp(b - a)). Maximised is the sum of
    weight * (outcome log p + (1 - outcome) log (1 - p)) minus ridge / 2 times the sum of squared scores. It is strictly
    concave, so that Newton's method finds the one maximum (Hunter 2004, MM Algorithms for Generalized Bradley-Terry
    Models, Annals of Statistics 32, 384-406, section 4, compares it with others); a step is kept below 1. The ridge
    gives a maximum also where a frame wins all its comparisons, or where some frames were never compared.
    """
    import numpy as np

    first, second = (
        np.array([getattr(one, side) for one in comparisons], dtype=np.intp) for side in ("first", "second")
    )
    outcomes = np.array([one.outcome for one in comparisons])
    weights = np.array([one.weight for one in comparisons])
    cells = np.concatenate([first * n + second, second * n + first])  # of an n x n matrix, both ways
    values = np.zeros(n)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(values[first] - values[second]))
        pull = weights * (outcomes - chance)
        slope = np.bincount(second, pull, n) - np.bincount(first, pull, n) - ridge * values
        between = np.bincount(cells, np.tile(weights * chance * (1 - chance), 2), n * n).reshape(n, n)
        curvature = np.diag(between.sum(axis=1) + ridge) - between
        step = np.linalg.solve(curvature, slope)
        largest = np.abs(step).max()
        if largest < 1e-10:
            break
        values += step / max(1, largest)
    covariance = np.array(np.linalg.inv(curvature), dtype=np.float64)
    beats = 1 / (1 + np.exp(values[None, :] - values[:, None]))
    np.fill_diagonal(beats, 0)
    slopes = -beats * (1 - beats)  # of beats[i, j] by the value of j
    np.fill_diagonal(slopes, -slopes.sum(axis=1))
    variance = ((slopes @ covariance) * slopes).sum(axis=1) / (n - 1) ** 2
    return Scores(values, covariance, beats.sum(axis=1) / (n - 1), np.sqrt(variance))


def enough(n: int) -> int:
    """Default number of comparisons of n frames: n log2 n, at most the number of pairs."""
    return min(n * (n - 1) // 2, math.ceil(n * math.log2(n))) if n > 1 else 0


def rank(
    n: int,
    budget: int | None,
    seed: int,
    compare: Callable[[int, list[tuple[int, int]]], Sequence[Comparison]],
) -> tuple[Scores, list[Comparison]]:
    """Scores of n frames from `budget` comparisons, no pair twice, and the comparisons.

    Round 0 is a random ring through all frames, so that every frame is compared twice and all are linked. Every later
    round takes the pairs whose result is least certain: the largest p (1 - p) times variance of the score difference,
    each frame once per round. To first order that is the information gain of one more comparison, as in D-optimal
    designs (Chaloner & Verdinelli 1995, Bayesian Experimental Design: A Review, Statistical Science 10, 273-304). The
    choice depends on answers alone, never on the order of the frames in the list.

    Args:
        n: Number of frames.
        budget: Number of comparisons; None: `enough`. With n - 1, a chain is used instead of the ring.
        seed: Of the ring.
        compare: Makes the comparisons of a round, from its number and its pairs of indices, the lower first.

    Raises:
        ConfigError: For fewer than two frames, and for a budget below n - 1.
    """
    budget = enough(n) if budget is None else min(budget, n * (n - 1) // 2)
    if n < 2 or budget < n - 1:
        raise ConfigError(
            "comparisons",
            f"{budget} comparisons cannot link {n} frames",
            "give at least two frames and n - 1 comparisons; the default is n log2 n",
        )
    made: list[Comparison] = []
    pairs = _ring(n, seed)[:budget]
    for number in range(budget):  # every round makes at least one comparison
        made += compare(number, pairs)
        scores = bradley_terry(n, made)
        asked = {(one.first, one.second) for one in made}
        pairs = _unsure(scores, asked)[: budget - len(made)]
        if not pairs:
            break
    return scores, made


def _ring(n: int, seed: int) -> list[tuple[int, int]]:
    order = _permutation(n, seed)
    ends = zip(order, [*order[1:], order[0]], strict=True)
    return list(dict.fromkeys((min(pair), max(pair)) for pair in ends))  # of two frames the ring is one pair


def _permutation(n: int, seed: int) -> list[int]:
    import numpy as np

    return [int(place) for place in np.random.default_rng(seed).permutation(n)]


def _gain(scores: Scores) -> Any:
    """[n, n]: about how much one more comparison of two frames would say, see `rank`."""
    import numpy as np

    values, covariance = scores.values, scores.covariance
    chance = 1 / (1 + np.exp(values[None, :] - values[:, None]))
    spread = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
    return (chance * (1 - chance) * spread).round(9)  # rounded, so that no machine's last digit decides


def _unsure(scores: Scores, asked: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs not in `asked`, the least certain first, each frame in at most one."""
    gain = _gain(scores)
    n = len(scores.values)
    left = [(i, j) for i in range(n) for j in range(i + 1, n) if (i, j) not in asked]
    taken: set[int] = set()
    chosen = []
    for i, j in sorted(left, key=lambda pair: -gain[pair]):
        if not {i, j} & taken:
            chosen.append((i, j))
            taken |= {i, j}
    return chosen


def rank_groups(
    n: int,
    size: int,
    budget: int | None,
    *,
    seed: int,
    compare: Callable[[int, list[tuple[int, ...]]], Sequence[Comparison]],
) -> tuple[Scores, list[Comparison]]:
    """As `rank`, with `size` frames at a time, each of whose size (size - 1) / 2 pairs is compared.

    Round 0 cuts a random order of all frames into groups that overlap by one, so that all are linked. Every later round
    grows groups around the least certain pair that was not compared yet, each frame once per round, until `budget`
    pairs were compared; then around neighbours in the order of the scores, until every two of them were compared.
    A pair that a group brings along again counts as one more comparison in the scores.

    Args:
        n: Number of frames.
        size: Frames of a group.
        budget: Number of pairs to compare at least once; None: `enough`. Round 0 is always whole.
        seed: Of round 0.
        compare: Makes the comparisons of a round, from its number and its groups of indices, the lowest first.

    Raises:
        ConfigError: For fewer frames than a group has.
    """
    if n < size:
        raise ConfigError("group", f"groups of {size} need {size} frames, there are {n}", "ask for fewer")
    budget = enough(n) if budget is None else min(budget, n * (n - 1) // 2)
    made: list[Comparison] = []
    order = _permutation(n, seed)
    starts = range(0, n - 1, size - 1)
    groups = [tuple(sorted(order[(start + place) % n] for place in range(size))) for start in starts]
    for number in range(n * n):  # every round compares at least one new pair
        made += compare(number, groups)
        scores = bradley_terry(n, made)
        asked = {(one.first, one.second) for one in made}
        groups = _unsure_groups(scores, asked, size, missing=budget - len(asked))
        groups = groups or _neighbours(sorted(order, key=lambda i: round(float(scores.values[i]), 9)), asked, size)
        if not groups:
            break
    return scores, made


def _unsure_groups(scores: Scores, asked: set[tuple[int, int]], size: int, *, missing: int) -> list[tuple[int, ...]]:
    """Groups with pairs that are not in `asked`, the least certain first, until `missing` of them are in one.

    Each frame is in at most one group.
    """
    gain = _gain(scores)
    for first, second in asked:
        gain[first, second] = gain[second, first] = 0
    free = set(range(len(gain)))
    chosen: list[tuple[int, ...]] = []
    while missing > 0 and len(free) >= size:
        left = [(i, j) for i in sorted(free) for j in sorted(free) if i < j and (i, j) not in asked]
        if not left:
            break
        group = list(max(left, key=lambda pair: float(gain[pair])))
        while len(group) < size:
            others = sorted(free - set(group))
            group.append(max(others, key=lambda other: float(gain[other, group].sum())))
        chosen.append(tuple(sorted(group)))
        free -= set(group)
        missing -= sum(pair not in asked for pair in combinations(chosen[-1], 2))
    return chosen


def _neighbours(order: Sequence[int], asked: set[tuple[int, int]], size: int) -> list[tuple[int, ...]]:
    """Groups of frames that follow each other in `order`, one for each two neighbours that are not in `asked`.

    Each frame is in at most one group, so that some may be left for the next round.
    """
    chosen: list[tuple[int, ...]] = []
    end = 0
    for place in range(len(order) - 1):
        start = min(place, len(order) - size)
        first, second = sorted(order[place : place + 2])
        if start >= end and (first, second) not in asked:
            end = start + size
            chosen.append(tuple(sorted(order[start:end])))
    return chosen


def hops(n: int) -> list[tuple[int, int]]:
    """Pairs of frames 1, 2, 4, 8, ... apart: about n log2 n, fixed beforehand, linking all n.

    A judge that always says "later" with certainty gets time order from them; with 51 %, 0.99 of it.
    """
    return [(i, i + step) for step in (2**power for power in range(n.bit_length())) for i in range(n - step)]
