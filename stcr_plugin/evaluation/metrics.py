"""Answers -> figures: what a model knows, and how far the order of the pictures sways it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import ORDERS, Answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """The figures of one set of answers. Rates are percent, 0..100; the gap is in percentage points, signed.

    An unparsed answer counts as wrong, breaks its pair's order consistency, and is not "img2" for position bias,
    whose denominator is all queries.
    """

    forward_accuracy: float
    backward_accuracy: float
    gap_points: float
    pair_accuracy: float
    order_consistency: float
    position_bias: float
    unparsed_rate: float
    n_pairs: int
    n_episodes: int
    n_queries: int


RATES = tuple(field.name for field in dataclasses.fields(Figures) if not field.name.startswith("n_"))
"""The names of the seven figures that have an interval."""


def figures(answers: Sequence[Answer]) -> Figures:
    """The figures of `answers`, which hold each pair once forward and once backward.

    Raises DataError for no answers, and names a pair that misses an order or has one twice.
    """
    sums = _episode_sums(answers)
    totals = _array(sums).sum(axis=0)
    rates = dict(zip(RATES, (float(rate) for rate in _rates(totals)), strict=True))
    n_pairs = int(totals[-1])
    return Figures(**rates, n_pairs=n_pairs, n_episodes=len(sums), n_queries=2 * n_pairs)


def intervals(
    answers: Sequence[Answer], resamples: int = 2000, seed: int = 0, level: float = 95
) -> dict[str, tuple[float, float]] | None:
    """(low, high) of each figure at `level` percent: the percentile bootstrap over episodes as clusters.

    Pairs of one episode share its frames, so whole episodes are drawn with replacement, and a figure is the ratio of
    the drawn episodes' sums (Davison & Hinkley 1997, Bootstrap Methods and their Application, sections 3.8 and 5.3.1;
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). None for a single episode, whose spread
    says nothing of other episodes. With a handful of episodes the intervals are too narrow, and a figure that is the
    same in all of them (0 or 100 %) gets an interval of no width.
    """
    bounds = _bounds(_array(_episode_sums(answers)), _rates, resamples, seed, level)
    return None if bounds is None else dict(zip(RATES, bounds, strict=True))


@dataclass(frozen=True)
class Difference:
    """Pair accuracy of one set of answers minus another's over the same pairs, in points, with its interval."""

    points: float
    interval: tuple[float, float] | None


def paired_difference(
    answers: Sequence[Answer], others: Sequence[Answer], resamples: int = 2000, seed: int = 0, level: float = 95
) -> Difference:
    """How much higher the pair accuracy of `answers` is than that of `others`, who were asked the same pairs.

    The bootstrap of `intervals`, on each pair's difference: what makes a pair or an episode hard for both cancels
    out, so this tells apart what two separate intervals cannot. Raises DataError where the pairs are not the same.
    """
    mine, theirs = by_pair(answers), by_pair(others)
    if mine.keys() != theirs.keys():
        raise DataError("the two sets of answers are to different pairs; ask both models the same split and limit")
    sums: dict[str, list[int]] = {}
    for pair_id in mine:
        right, other_right = (all(answer.right for answer in both[pair_id]) for both in (mine, theirs))
        have = sums.setdefault(mine[pair_id][0].episode_id, [0, 0])
        have[0] += right - other_right
        have[1] += 1
    table = _array({episode: sums[episode] for episode in sorted(sums)})
    bounds = _bounds(table, lambda totals: 100 * totals[..., :1] / totals[..., 1:], resamples, seed, level)
    lead, pairs = table.sum(axis=0)
    return Difference(100 * float(lead / pairs), bounds[0] if bounds else None)


def _bounds(
    sums: Floats, rates: Callable[[Floats], Floats], resamples: int, seed: int, level: float
) -> list[tuple[float, float]] | None:
    """(low, high) of each of `rates`([..., columns]) when the rows of `sums` [episodes, columns] are drawn anew."""
    import numpy as np

    if resamples < 1 or not 0 < level < 100:
        raise ConfigError(f"resamples {resamples}, level {level}: need resamples >= 1 and 0 < level < 100")
    episodes = len(sums)
    if episodes < 2:
        return None
    random = np.random.default_rng(seed)
    share = np.full(episodes, 1 / episodes)
    # In blocks: all weights at once would be resamples x episodes numbers.
    blocks = [
        rates(random.multinomial(episodes, share, size=min(100, resamples - start)) @ sums)
        for start in range(0, resamples, 100)
    ]
    tail = (100 - level) / 2
    low, high = np.percentile(np.concatenate(blocks), [tail, 100 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def per_episode(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One row an episode, sorted by its id: `episode_id` and its figures."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.episode_id].append(answer)
    return [{"episode_id": episode, **dataclasses.asdict(figures(groups[episode]))} for episode in sorted(groups)]


def by_pair(answers: Sequence[Answer]) -> dict[str, tuple[Answer, Answer]]:
    """pair_id -> its (forward, backward) answers, in order of first appearance. Raises DataError as `figures`."""
    found: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        orders = found.setdefault(answer.pair_id, {})
        if answer.order in orders:
            raise DataError(f"pair {answer.pair_id}: answered twice in {answer.order} order; keep one answer an order")
        orders[answer.order] = answer
    if not found:
        raise DataError("no answers: nothing to compute figures from; check the split's name and that it has pairs")
    for pair_id, orders in found.items():
        for order in ORDERS:
            if order not in orders:
                raise DataError(f"pair {pair_id}: no {order} answer; a pair counts only when put in both orders")
    return {pair_id: (orders["forward"], orders["backward"]) for pair_id, orders in found.items()}


def _episode_sums(answers: Sequence[Answer]) -> dict[str, list[int]]:
    """episode_id -> sums over its pairs, in the columns that `_rates` reads. Sorted, so that a seed means one draw."""
    sums: dict[str, list[int]] = {}
    for forward, backward in by_pair(answers).values():
        both = (forward, backward)
        row = (
            forward.right,
            backward.right,
            forward.right and backward.right,
            # The same frame is img1 in one order and img2 in the other.
            {forward.chosen, backward.chosen} == {"img1", "img2"},
            sum(answer.chosen == "img2" for answer in both),
            sum(answer.chosen is None for answer in both),
            1,
        )
        have = sums.setdefault(forward.episode_id, [0] * len(row))
        sums[forward.episode_id] = [a + b for a, b in zip(have, row, strict=True)]
    return {episode: sums[episode] for episode in sorted(sums)}


def _array(sums: Mapping[str, Sequence[int]]) -> Floats:
    import numpy as np

    return np.array(list(sums.values()), dtype=np.float64)


def _rates(totals: Floats) -> Floats:
    """[..., 7] sums -> [..., 7] figures in the order of RATES, in percent and points."""
    import numpy as np

    forward, backward, pair, consistent, img2, unparsed, n = np.moveaxis(totals, -1, 0)
    shares = (forward / n, backward / n, (forward - backward) / n, pair / n, consistent / n, img2 / n / 2)
    return 100 * np.stack([*shares, unparsed / n / 2], axis=-1)
