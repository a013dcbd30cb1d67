"""Results of one chain trained with several seeds -> means, their spread, and differences between two chains.

The question is whether another training run would give the same. The intervals of one evaluation do not answer it: they
say what other episodes would have given the same model. Five seeds, the usual number, show little at best: the
two-sided sign-flip test of n seeds has no p below 2 / 2^n, so five seeds that all agree give 1/16 = 0.0625, and six are
the fewest that can fall below 5 %. The t-test may give less, assuming that differences are normally distributed.
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
"""Keys of results.json that are the same in all rows of one chain."""
RARE = ("tie_accuracy", "neither_rate", "earlier_closer_accuracy")
"""Figures of results.json that not every evaluation has."""
_OF_PAIRS = tuple(name for name in RATES if name != "unparsed_rate")
"""Shares of n_pairs, which can be summed over episodes."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds, in its own unit.

    Attributes:
        values: One per seed, in the order of the seeds.
        mean: Of the values.
        deviation: Standard deviation (n - 1); None with one seed.
        interval: t-interval of the mean (Student 1908, Biometrika 6), not cut at 0 or 100 %; None with one seed.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class OverSeeds:
    """The figures of one chain over `seeds`; `of` says which chain: the keys that are the same in its rows."""

    of: Mapping[str, Any]
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class SeedsDifference:
    """One chain's `figure` minus another's, per seed, in points.

    Attributes:
        points: The differences.
        p_t: p-value of the paired t-test; None with one seed or where all differences are the same.
        p_flips: Sign-flip test of the mean difference, exact for up to 12 seeds.
        episodes_interval: Of the mean over all pairs of all seeds, by bootstrap over episodes: what other episodes
            would give for the same runs.
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
    """The figures of each chain over its seeds, in order of first appearance.

    Args:
        results: Rows of results.json. `seed` of a row must be the seed of its chain's training, not the evaluation's.
        same: Keys that are the same in all rows of a chain.
        level: Of the intervals, in percent.

    Raises:
        DataError: For a missing key, and for two rows of one seed.
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
    *,
    figure: str = "pair_accuracy",
    resamples: int = 2000,
    seed: int = 0,
    level: float = 95,
    same: Sequence[str] = SAME,
) -> SeedsDifference:
    """How much higher `figure` is in the rows `results` of one chain than in `others` of another, per seed.

    An episode that several seeds were evaluated on (`data_digest` is the same) is drawn for all of them together, since
    what makes it hard does so for each. Where every seed has its own data, its episodes are drawn on their own.

    Args:
        results: Rows of results.json of one chain, one per seed.
        others: Those of the other chain.
        figure: Name of a figure that is a share of pairs.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of the intervals, in percent.
        same: Keys that are the same in all rows of a chain.

    Raises:
        DataError: Where the two have other seeds, or one seed was evaluated on other pairs.
    """
    if figure not in _OF_PAIRS:
        raise ConfigError(f"figure {figure!r}", "cannot be compared over seeds", f"use one of {', '.join(_OF_PAIRS)}")
    mine, theirs = _by_seed(results), _by_seed(others)
    if mine.keys() != theirs.keys():
        raise DataError(
            "seeds", f"one chain has {list(mine)}, the other {list(theirs)}", "run both with the same seeds"
        )
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for number, row in mine.items():
        parts, other_parts = _episodes(row, figure), _episodes(theirs[number], figure)
        asked, other_asked = (
            (_value(one, "data_digest"), {episode: n for episode, (_, n) in part.items()})
            for one, part in ((row, parts), (theirs[number], other_parts))
        )
        if asked != other_asked:
            raise DataError(
                f"seed {number}", "the two chains were evaluated on different pairs", "evaluate both on the same data"
            )
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
        episodes_interval=pooled_interval(sums, resamples, seed, level=level),
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
                f"{row.get('name')}, {row.get('split')}",
                f"two results of seed {seed}",
                "leave one out, or set `seed` in each to the seed of its training",
            )
        found[seed] = row
    if not found:
        raise DataError("results", "there are none", "give the results.json of at least one seed")
    return {seed: found[seed] for seed in sorted(found)}


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise DataError(f"results of {row.get('name', 'a run without name')}", f"no {key!r}", "run `stcr eval` again")
    return row[key]


def _episodes(row: Mapping[str, Any], figure: str) -> dict[str, tuple[float, int]]:
    """episode_id -> (how many of its pairs the figure counts, its pairs)."""
    # Rounding gives back the counts behind the percentages; the position bias has halves of a pair.
    return {
        one["episode_id"]: (round(2 * one[figure] * one["n_pairs"] / 100) / 2, one["n_pairs"])
        for one in _value(row, "per_episode")
    }


def spread(values: Sequence[float], level: float = 95) -> Spread:
    """Mean, deviation and t-interval of `values`, one per seed."""
    from scipy import stats

    if not 0 < level < 100:
        raise ConfigError("level", f"{level} is out of range", "use a level between 0 and 100")
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Spread(tuple(values), mean, None, None)
    deviation = statistics.stdev(values)
    reach = float(stats.t.ppf(0.5 + level / 200, n - 1)) * deviation / n**0.5
    return Spread(tuple(values), mean, deviation, (mean - reach, mean + reach))


def _paired_t(leads: Sequence[float]) -> float | None:
    """None where all differences are the same."""
    from scipy import stats

    if max(leads) - min(leads) < 1e-9:
        return None
    return float(stats.ttest_1samp(leads, 0).pvalue)
