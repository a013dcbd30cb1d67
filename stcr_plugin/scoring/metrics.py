"""Answers -> figures: what a model knows, and how much the order of the pictures changes its answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import Bounds, Difference, EpisodeFigures, Figures, Intervals
from stcr_plugin.types import ORDERS, Answer, Closer, Order, Pair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


RATES = (
    "forward_accuracy",
    "backward_accuracy",
    "gap_points",
    "pair_accuracy",
    "order_consistency",
    "position_bias",
    "unparsed_rate",
)
"""The seven figures that every set of answers has, each with an interval."""

_FEW_WEIGHTS = 1_000_000  # so many numbers are kept, 8 MB

_RARE = {
    "tie_accuracy": "n_ties",
    "neither_rate": "n_ties",
    "earlier_closer_accuracy": "n_closer_earlier",
    "later_closer_accuracy": "n_closer_earlier",
    "clock_accuracy": "n_closer_earlier",
}
"""Other figures with an interval -> the number of pairs that they are about."""

_SUMS = (
    "forward",
    "backward",
    "pair",
    "consistent",
    "img2",
    "unparsed",
    "n_pairs",
    "n_ties",
    "tie",
    "neither",
    "n_closer_earlier",
    "closer_earlier",
)
"""The sums over pairs behind the figures; `tie` and `closer_earlier` count right answers."""


def figures(answers: Sequence[Answer]) -> Figures:
    """The figures of `answers`, which hold each pair once forward and once backward.

    Raises:
        DataError: For no answers, for ties alone, and for a pair with a missing or repeated order.
    """
    sums = _episode_sums(answers)
    totals = _array(sums).sum(axis=0)
    counts = dict(zip(_SUMS, (int(total) for total in totals), strict=True))
    rates: dict[str, Any] = dict(zip((*RATES, *_RARE), _rates(totals).tolist(), strict=True))
    absent = [name for name, of in _RARE.items() if name != "neither_rate" and not counts[of]]
    if counts["n_closer_earlier"] == counts["n_pairs"]:
        absent.append("later_closer_accuracy")
    return Figures(
        **rates | dict.fromkeys(absent),
        **{name: counts[name] for name in ("n_pairs", "n_ties", "n_closer_earlier")},
        n_episodes=len(sums),
        n_queries=(asked := 2 * (counts["n_pairs"] + counts["n_ties"])),
        cut_rate=100 * (sum(one.lost == "cut" for one in answers) / asked),
        refused_rate=100 * (sum(one.lost == "refused" for one in answers) / asked),
    )


Key = TypeVar("Key", bound=Hashable)


def intervals(answers: Sequence[Answer], resamples: int = 2000, seed: int = 0, level: float = 95) -> Intervals | None:
    """(low, high) of each rate at `level` percent: the percentile bootstrap over episodes as clusters.

    The rates are those of RATES, and those of ties and of pairs whose earlier frame is closer where there are any;
    draws without pairs of a rate are left out of its interval.

    Pairs of one episode share its frames, so whole episodes are drawn with replacement, and a figure is the ratio of
    the drawn episodes' sums (Davison & Hinkley 1997, Bootstrap Methods and their Application, sections 3.8 and 5.3.1;
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). A rate with pairs of one episode alone has
    no interval; None where no rate has one. With few episodes the intervals are too narrow, and a figure that is the
    same in all of them (0 or 100 %) gets one of no width.
    """
    return group_intervals({"all": answers}, (), resamples=resamples, seed=seed, level=level)["all"]


def group_intervals(
    groups: Mapping[Key, Sequence[Answer]],
    episodes: Iterable[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 95,
) -> dict[Key, Intervals | None]:
    """`intervals` of each of `groups`, parts of one evaluation whose episodes are `episodes` (more may be in groups).

    Every group and every rate is computed from the same drawn episodes, those that `intervals` draws for the whole
    evaluation with the same seed. An episode that a group lacks adds nothing to it.
    """
    import numpy as np

    sums = [_episode_sums(answers) for answers in groups.values()]
    rows = sorted({*episodes, *(episode for one in sums for episode in one)})
    nothing = [0] * len(_SUMS)
    tables = np.array([[one.get(episode, nothing) for episode in rows] for one in sums], dtype=np.float64)
    drawn = cluster_bounds(tables, _rates, resamples=resamples, seed=seed, level=level)
    found: dict[Key, Intervals | None] = {}
    for name, table, bounds in zip(groups, tables, drawn, strict=True):
        there = dict(zip(_SUMS, table.sum(axis=0), strict=True))
        absent = {rate for rate, count in _RARE.items() if not there[count]}
        kept = {
            rate: pair
            for rate, pair in zip((*RATES, *_RARE), bounds, strict=True)
            if pair is not None and rate not in absent
        }
        found[name] = kept or None
    return found


def in_published_order(
    answers: Sequence[Answer], orders: Mapping[str, Sequence[Order]], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, Bounds | None] | None:
    """The share of answers that are right in the order in which their pair was published, and its interval.

    It is what a benchmark reports that shows each pair once. None where all pairs were published in both orders.

    Args:
        answers: As for `figures`; those about ties are left out.
        orders: pair_id -> the orders in which it was published.
        resamples: Of the bootstrap of `intervals`.
        seed: Of it.
    """
    if all(set(orders[answer.pair_id]) == set(ORDERS) for answer in answers):
        return None
    sums = {episode: [0, 0] for episode in sorted({answer.episode_id for answer in answers})}
    for answer in answers:
        if answer.expected != "neither" and answer.order in orders[answer.pair_id]:
            sums[answer.episode_id][0] += answer.right
            sums[answer.episode_id][1] += 1
    share, bounds, _ = _pooled_share(sums, resamples, seed)
    return share, bounds


def under_both_texts(
    pairs: Sequence[Pair], answers: Sequence[Answer], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, Bounds | None, int] | None:
    """Of frames shown under two task texts with opposite answers, the share that is right under both, in both orders.

    A judge that ignores the text has 0 there, and so has one that ignores the pictures.

    Returns:
        The share in percent, its interval as of `intervals`, and the number of such frame pairs; None without any.
    """
    texts: dict[tuple[str, int, int], dict[Closer, str]] = defaultdict(dict)
    for pair in pairs:
        texts[pair.episode_id, pair.earlier, pair.later][pair.closer] = pair.pair_id
    both, sums = by_pair(answers), {episode: [0, 0] for episode in sorted({pair.episode_id for pair in pairs})}
    for (episode, *_), of_answer in texts.items():
        if {"earlier", "later"} <= of_answer.keys():
            asked = [*both[of_answer["earlier"]], *both[of_answer["later"]]]
            sums[episode][0] += all(answer.right for answer in asked)
            sums[episode][1] += 1
    return _pooled_share(sums, resamples, seed) if any(count for _, count in sums.values()) else None


def paired_difference(
    answers: Sequence[Answer], others: Sequence[Answer], *, resamples: int = 2000, seed: int = 0, level: float = 95
) -> Difference:
    """How much higher the pair accuracy of `answers` is than that of `others` on the same pairs, without ties.

    The bootstrap of `intervals`, on each pair's difference: what makes a pair or an episode hard for both cancels out,
    so the interval is narrower than two separate ones suggest. Raises DataError where the pairs are not the same.
    """
    rights = paired_rights(answers, others)
    # Episodes of ties alone add nothing, and stay, so that the same episodes are drawn as for the intervals.
    sums = {episode: [0, 0] for episode in sorted({answer.episode_id for answer in answers})}
    for episode, right, other_right in rights.values():
        sums[episode][0] += right - other_right
        sums[episode][1] += 1
    lead = sum(one for one, _ in sums.values())
    return Difference(100 * lead / len(rights), pooled_interval(sums, resamples, seed, level=level))


def paired_rights(answers: Sequence[Answer], others: Sequence[Answer]) -> dict[str, tuple[str, bool, bool]]:
    """pair_id -> its episode_id, and whether it was answered right in BOTH orders in `answers` and in `others`.

    Ties are left out. Raises DataError where the pairs are not the same.
    """
    mine, theirs = untied(by_pair(answers)), untied(by_pair(others))
    if mine.keys() != theirs.keys():
        raise DataError("", "the two sets of answers are to different pairs", "use the same split and limit for both")
    return {
        pair_id: (both[0].episode_id, all(one.right for one in both), all(one.right for one in theirs[pair_id]))
        for pair_id, both in mine.items()
    }


def _pooled_share(sums: Mapping[Any, Sequence[int]], resamples: int, seed: int) -> tuple[float, Bounds | None, int]:
    """100 x (sum of firsts) / (sum of seconds), its `pooled_interval`, and the sum of seconds."""
    part, whole = (sum(one[place] for one in sums.values()) for place in (0, 1))
    return 100 * part / whole, pooled_interval(sums, resamples, seed), whole


def pooled_interval(
    sums: Mapping[Any, Sequence[float]], resamples: int = 2000, seed: int = 0, *, level: float = 95
) -> Bounds | None:
    """(low, high) of 100 x (sum of firsts) / (sum of seconds) when the keys of `sums`, the clusters, are drawn again.

    The bootstrap of `intervals`. None where fewer than two clusters have a second that is not 0.
    """
    table = _array({key: sums[key] for key in sorted(sums)})[None]
    return cluster_bounds(table, _ratio, resamples=resamples, seed=seed, level=level)[0][0]


def cluster_bounds(
    sums: Floats, rates: Callable[[Floats], Floats], *, resamples: int, seed: int, level: float
) -> list[list[Bounds | None]]:
    """(low, high) of each of `rates`([..., columns]) for each of `sums` [groups, episodes, columns], drawn together.

    Which episodes are drawn depends on their number, `resamples` and `seed` alone. A rate that is NaN in some draws
    gets its bounds from the others, and None where it is not NaN in fewer than two episodes, or in no draw.
    """
    import numpy as np

    if resamples < 1 or not 0 < level < 100:
        raise ConfigError(f"resamples {resamples}, level {level}", "need resamples >= 1 and 0 < level < 100")
    episodes = sums.shape[1]
    weights = (_kept_weights if episodes * resamples <= _FEW_WEIGHTS else _weights)(episodes, resamples, seed)
    blocks = [rates(block @ sums) for block in weights]
    tails = [(100 - level) / 2, 100 - (100 - level) / 2]
    drawn, in_each_episode = np.concatenate(blocks, axis=1), rates(sums)
    missing = np.count_nonzero(np.isnan(drawn), axis=1)
    known = np.count_nonzero(~np.isnan(in_each_episode), axis=1)
    at_once = np.percentile(drawn, tails, axis=1)  # of all columns, which takes a tenth of the time of one by one

    def bounds(group: int, rate: int) -> Bounds | None:
        kept = drawn[group, :, rate]
        kept = kept[~np.isnan(kept)] if missing[group, rate] else kept
        if not len(kept) or known[group, rate] < 2:
            return None
        low, high = (np.percentile(kept, tails) if missing[group, rate] else at_once[:, group, rate]).tolist()
        return low, high

    groups, rows = known.shape
    return [[bounds(group, rate) for rate in range(rows)] for group in range(groups)]


def _weights(episodes: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each episode is drawn, [resamples, episodes], in blocks: all at once may be too much for the memory."""
    import numpy as np

    random, share = np.random.default_rng(seed), np.full(episodes, 1 / episodes)
    for start in range(0, resamples, 100):
        yield random.multinomial(episodes, share, size=min(100, resamples - start)).astype(np.float64)


@lru_cache(4)  # the figures of an evaluation are all drawn from the same episodes, and drawing takes the most time
def _kept_weights(episodes: int, resamples: int, seed: int) -> tuple[Floats, ...]:
    return tuple(_weights(episodes, resamples, seed))


def _ratio(totals: Floats) -> Floats:
    """[..., (part, whole)] -> [..., 1], in percent; NaN for a whole of 0."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return 100 * totals[..., :1] / totals[..., 1:]


def per_episode(answers: Sequence[Answer]) -> tuple[EpisodeFigures, ...]:
    """The figures of each episode, sorted by its id. An episode of ties alone is left out."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.episode_id].append(answer)
    return tuple(
        EpisodeFigures(episode, figures(group)) for episode, group in sorted(groups.items()) if not only_ties(group)
    )


def by_pair(answers: Sequence[Answer]) -> dict[str, tuple[Answer, Answer]]:
    """pair_id -> its (forward, backward) answers, in order of first appearance. Raises DataError as `figures`."""
    found: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        orders = found.setdefault(answer.pair_id, {})
        if answer.order in orders:
            raise DataError(
                f"pair {answer.pair_id}", f"answered twice in {answer.order} order", "keep one answer per order"
            )
        orders[answer.order] = answer
    if not found:
        raise DataError("answers", "no answers to compute figures from", "check the split's name and its pairs")
    for pair_id, orders in found.items():
        for order in ORDERS:
            if order not in orders:
                raise DataError(f"pair {pair_id}", f"no {order} answer", "evaluate each pair in both orders")
    return {pair_id: (orders["forward"], orders["backward"]) for pair_id, orders in found.items()}


def only_ties(answers: Sequence[Answer]) -> bool:
    """Whether all pairs are ties, so that they have no figures."""
    return all(answer.expected == "neither" for answer in answers)


def untied(pairs: Mapping[str, tuple[Answer, Answer]]) -> dict[str, tuple[Answer, Answer]]:
    """The pairs that are not ties. Raises DataError where there are none."""
    kept = {pair_id: both for pair_id, both in pairs.items() if not only_ties(both)}
    if not kept:
        raise DataError("pairs", f"all {len(pairs)} pairs are ties, which have no accuracy", "use another split")
    return kept


def _episode_sums(answers: Sequence[Answer]) -> dict[str, list[int]]:
    """episode_id -> sums over its pairs, as _SUMS names them. Sorted, so that a seed means one draw."""
    pairs = by_pair(answers)
    closer_known = untied(pairs)
    sums: dict[str, list[int]] = {}
    for pair_id, (forward, backward) in pairs.items():
        both = (forward, backward)
        right = forward.right and backward.right
        tie = pair_id not in closer_known
        earlier = forward.expected == "img1"  # the picture shown first, which forward is the earlier frame
        found = {
            "unparsed": sum(answer.chosen is None for answer in both),
            "n_ties": tie,
            "tie": tie and right,
        }
        if not tie:
            found |= {
                "forward": forward.right,
                "backward": backward.right,
                "pair": right,
                # The same frame is img1 in one order and img2 in the other.
                "consistent": {forward.chosen, backward.chosen} == {"img1", "img2"},
                "img2": sum(answer.chosen == "img2" for answer in both),
                "neither": sum(answer.chosen == "neither" for answer in both),
                "n_pairs": 1,
                "n_closer_earlier": earlier,
                "closer_earlier": earlier and right,
            }
        have = sums.setdefault(forward.episode_id, [0] * len(_SUMS))
        sums[forward.episode_id] = [a + found.get(name, 0) for a, name in zip(have, _SUMS, strict=True)]
    return {episode: sums[episode] for episode in sorted(sums)}


def _array(sums: Mapping[Any, Sequence[float]]) -> Floats:
    import numpy as np

    return np.array(list(sums.values()), dtype=np.float64)


def _rates(totals: Floats) -> Floats:
    """[..., _SUMS] -> [..., RATES and _RARE], in percent and points; NaN for a rate of no pairs."""
    import numpy as np

    forward, backward, pair, consistent, img2, unparsed, n, ties, tie, neither, earlier, right = np.moveaxis(
        totals, -1, 0
    )
    shares = (
        (forward, n),
        (backward, n),
        (forward - backward, n),
        (pair, n),
        (consistent, n),
        (img2, 2 * n),
        (unparsed, 2 * (n + ties)),
        (tie, ties),
        (neither, 2 * n),
        (right, earlier),
        (pair - right, n - earlier),
        (n - earlier, n),
    )
    with np.errstate(invalid="ignore"):
        return 100 * np.stack([part / whole for part, whole in shares], axis=-1)
