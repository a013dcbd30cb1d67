"""The results of one chain trained with several seeds -> means, how far they spread, and which of two chains leads.

What is asked: would another training run come out alike? The intervals of one evaluation do not answer that; they say
what other episodes would have given the same model. Five seeds, the usual number, show little at best: the sign-flip
test of n seeds has no p below 2 / 2^n, two-sided, so that five give 1/16 = 0.0625 where all of them agree, and six are
the fewest that can fall below 5 %. The t-test may give less, on the word that differences are normally distributed.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import Permutation
from stcr_plugin.scoring.metrics import RATES, pooled_interval
from stcr_plugin.scoring.significance import sign_flips

SAME = ("name", "dataset", "split")
"""The keys of results.json in which the rows of one chain agree."""
RARE = ("tie_accuracy", "neither_rate", "earlier_closer_accuracy")
"""The figures of results.json that only some pairs have."""
_OF_PAIRS = tuple(name for name in RATES if name != "unparsed_rate")
"""Shares of n_pairs, which can be added up over episodes."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds, in its own unit: `values` in the order of the seeds, their mean, standard deviation (n - 1)
    and the t-interval of the mean. With one seed there is no deviation and no interval.

    The t-interval (Student 1908, Biometrika 6) may reach beyond 0 or 100 %, and is left so.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class OverSeeds:
    """The figures of one chain over `seeds`; `of` says which chain: the keys that its rows agree in."""

    of: Mapping[str, Any]
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class SeedsDifference:
    """One chain's `figure` minus another's, seed by seed, in points.

    p_t: the paired t-test, None with one seed or where all differences are alike. p_flips: whether as large a mean
    comes about when the sign of each seed's difference is random, all 2^n of them looked at for up to 12 seeds.
    episodes_interval: of the mean over all pairs of all seeds, by bootstrap over episodes, the runs as they are: what
    other episodes would say of the same runs.
    """

    of: Mapping[str, Any]
    minus: Mapping[str, Any]
    figure: str
    seeds: tuple[int, ...]
    points: Spread
    p_t: float | None
    p_flips: Permutation
    episodes_interval: tuple[float, float] | None


def over_seeds(results: Sequence[Mapping[str, Any]], same: Sequence[str] = SAME, level: float = 95) -> list[OverSeeds]:
    """The rows of results.json that agree in the keys `same`, put together; in order of first appearance.

    `seed` of a row must be the seed of its chain's training: put it there where the evaluation drew with its own.
    Raises DataError for a key that is missing, and for a seed that is there twice.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in results:
        groups[tuple(_value(row, key) for key in same)].append(row)
    found = []
    for values, group in groups.items():
        by_seed = _by_seed(group)
        names = [*RATES, *(name for name in RARE if all(row.get(name) is not None for row in group))]
        figures = {name: spread([float(_value(row, name)) for row in by_seed.values()], level) for name in names}
        found.append(OverSeeds(dict(zip(same, values, strict=True)), tuple(by_seed), figures))
    return found


def difference(
    results: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    figure: str = "pair_accuracy",
    resamples: int = 2000,
    seed: int = 0,
    level: float = 95,
    same: Sequence[str] = SAME,
) -> SeedsDifference:
    """How much higher `figure` is in the rows `results` of one chain than in those of another, `others`, seed by seed.

    An episode that several seeds were asked (`data_digest` is the same) is drawn for all of them at once: what makes it
    hard does so for each. Where every seed has its own data, its episodes are drawn as its own.
    Raises DataError where the two do not have the same seeds, or were not asked the same pairs with one of them.
    """
    if figure not in _OF_PAIRS:
        raise ConfigError(f"figure {figure!r}: compared over seeds are {', '.join(_OF_PAIRS)}")
    mine, theirs = _by_seed(results), _by_seed(others)
    if mine.keys() != theirs.keys():
        raise DataError(f"one chain has the seeds {list(mine)}, the other {list(theirs)}; run both with the same")
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for number, row in mine.items():
        parts, other_parts = _episodes(row, figure), _episodes(theirs[number], figure)
        asked, other_asked = (
            (_value(one, "data_digest"), {episode: n for episode, (_, n) in part.items()})
            for one, part in ((row, parts), (theirs[number], other_parts))
        )
        if asked != other_asked:
            raise DataError(f"seed {number}: the two chains were asked different pairs; evaluate both on the same data")
        for episode, (part, n) in parts.items():
            both = sums[asked[0], episode]
            both[0] += part - other_parts[episode][0]
            both[1] += n
    leads = [float(_value(row, figure)) - float(_value(theirs[number], figure)) for number, row in mine.items()]
    first, second = ({key: _value(next(iter(rows.values())), key) for key in same} for rows in (mine, theirs))
    return SeedsDifference(
        of=first,
        minus=second,
        figure=figure,
        seeds=tuple(mine),
        points=spread(leads, level),
        p_t=_paired_t(leads),
        p_flips=sign_flips(leads, seed=seed),
        episodes_interval=pooled_interval(sums, resamples, seed, level),
    )


def rows(found: Sequence[OverSeeds | SeedsDifference]) -> list[dict[str, Any]]:
    """`found` as it goes into JSON."""
    return [dataclasses.asdict(one) for one in found]


def _by_seed(group: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """seed -> row, sorted."""
    found: dict[int, Mapping[str, Any]] = {}
    for row in group:
        seed = _value(row, "seed")
        if seed in found:
            raise DataError(
                f"{row.get('name')}, {row.get('split')}: two results of seed {seed}; leave one out, or set `seed` in "
                "each to the seed of its training"
            )
        found[seed] = row
    if not found:
        raise DataError("no results: give the results.json of at least one seed")
    return {seed: found[seed] for seed in sorted(found)}


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise DataError(f"results of {row.get('name', 'a run without name')}: no {key!r}; run `stcr eval` again")
    return row[key]


def _episodes(row: Mapping[str, Any], figure: str) -> dict[str, tuple[float, int]]:
    """episode_id -> (how many of its pairs the figure counts, its pairs)."""
    # Rounding gives back the counts that the percentages were made of; the position bias has halves of a pair.
    return {
        one["episode_id"]: (round(2 * one[figure] * one["n_pairs"] / 100) / 2, one["n_pairs"])
        for one in _value(row, "per_episode")
    }


def spread(values: Sequence[float], level: float = 95) -> Spread:
    """Mean, deviation and t-interval of `values`, one a seed."""
    from scipy import stats

    if not 0 < level < 100:
        raise ConfigError(f"level {level}: need 0 < level < 100")
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Spread(tuple(values), mean, None, None)
    deviation = statistics.stdev(values)
    reach = float(stats.t.ppf(0.5 + level / 200, n - 1)) * deviation / n**0.5
    return Spread(tuple(values), mean, deviation, (mean - reach, mean + reach))


def _paired_t(leads: Sequence[float]) -> float | None:
    """None where there is nothing that the differences spread by."""
    from scipy import stats

    if max(leads) - min(leads) < 1e-9:
        return None
    return float(stats.ttest_1samp(leads, 0).pvalue)
