"""The results of rows trained with several seeds -> means, how far they spread, and how two rows differ.

They show how another training run would come out. The intervals of one evaluation do not: they show what other
episodes would have given for the same model. Five seeds, the usual number, show little: the sign-flip test of n seeds
has no p below 2 / 2^n, two-sided, so five that all agree give 1/16 = 0.0625, and six are the fewest that can fall below
5 %. The t-test may give less, but assumes that differences are normally distributed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import Bounds, Intervals, Permutation
from stcr_plugin.result_files import Inline, Omitted
from stcr_plugin.results import ClaimAccount
from stcr_plugin.scoring.metrics import RATES, pooled_interval
from stcr_plugin.scoring.significance import sign_flips

RARE = (
    "tie_accuracy",
    "neither_rate",
    "earlier_closer_accuracy",
    "later_closer_accuracy",
    "clock_accuracy",
    "both_texts_accuracy",
)
"""The figures that only some pairs have."""


@dataclass(frozen=True)
class RowKey:
    """Which row of a study on which split."""

    name: str
    dataset: str
    split: str


@dataclass(frozen=True)
class SeedFigures:
    """The part of `figures.Figures` that is compared over seeds."""

    n_pairs: int
    n_episodes: int
    forward_accuracy: float
    backward_accuracy: float
    gap_points: float
    pair_accuracy: float
    order_consistency: float
    position_bias: float
    unparsed_rate: float
    tie_accuracy: float | None = None
    neither_rate: float | None = None
    earlier_closer_accuracy: float | None = None
    later_closer_accuracy: Omitted[float | None] = None
    clock_accuracy: Omitted[float | None] = None
    both_texts_accuracy: Omitted[float | None] = None


@dataclass(frozen=True)
class PartFigures:
    """Pair accuracy of some of the pairs, in percent."""

    n_pairs: int
    pair_accuracy: float


@dataclass(frozen=True)
class WindowPart:
    steps: str
    figures: Inline[PartFigures]


@dataclass(frozen=True)
class EpisodePart:
    episode_id: str
    figures: Inline[PartFigures]


@dataclass(frozen=True)
class DistanceParts:
    windows: tuple[WindowPart, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """The part of one evaluation (results.json) that is compared over seeds.

    Attributes:
        seed: That of the training.
        claims: What its answers say of the pictures; None where none of them gives reasons.
    """

    seed: int
    row: Inline[RowKey]
    mode: str = ""
    data_digest: str | None = None
    model_digest: str | None = None
    figures: Inline[SeedFigures]
    intervals: Intervals | None = None
    by_phase: Mapping[str, PartFigures] = field(default_factory=dict)
    by_distance: DistanceParts = DistanceParts()
    per_episode: tuple[EpisodePart, ...]
    claims: Omitted[ClaimAccount | None] = None


@dataclass(frozen=True)
class Spread:
    """A figure over seeds, in its own unit.

    Attributes:
        values: One per seed.
        deviation: Standard deviation (n - 1); None with one seed.
        interval: t-interval of the mean (Student 1908, Biometrika 6), which may reach beyond 0 or 100 %; None with one
            seed.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: Bounds | None


@dataclass(frozen=True)
class OverSeeds:
    """The figures of one row on one split over `seeds`."""

    of: RowKey
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class SeedsDifference:
    """Pair accuracy of one row minus that of another, seed by seed, in points.

    Attributes:
        p_t: Of the paired t-test; None with one seed or where all differences are equal.
        p_flips: Of the sign-flip test: how often a mean as large occurs when the sign of each seed's difference is
            random; all 2^n signs are tried for up to 12 seeds.
        episodes_interval: Of the mean over all pairs of all seeds, by bootstrap over episodes: what other episodes
            would have given for the same runs.
    """

    of: RowKey
    minus: RowKey
    figure: str
    seeds: tuple[int, ...]
    points: Spread
    p_t: float | None
    p_flips: Permutation
    episodes_interval: Bounds | None


def over_seeds(results: Sequence[SeedResult], level: float = 95) -> list[OverSeeds]:
    """The results of each row and split, put together; in order of first appearance.

    Raises:
        DataError: A seed occurs twice.
    """
    groups: dict[RowKey, list[SeedResult]] = defaultdict(list)
    for one in results:
        groups[one.row].append(one)
    found = []
    for key, group in groups.items():
        by_seed = _by_seed(group)
        parts = [one.figures for one in by_seed.values()]
        names = [*RATES, *(name for name in RARE if all(getattr(one, name) is not None for one in parts))]
        figures = {name: spread([float(getattr(one, name)) for one in parts], level) for name in names}
        found.append(OverSeeds(key, tuple(by_seed), figures))
    return found


def difference(
    results: Sequence[SeedResult], others: Sequence[SeedResult], *, resamples: int = 2000, seed: int = 0
) -> SeedsDifference:
    """How much higher the pair accuracy is in `results` of one row than in `others` of another, seed by seed.

    An episode that several seeds were evaluated on (`data_digest` is the same) is drawn for all of them at once, since
    what makes it hard does so for each. Where every seed has its own data, its episodes are drawn separately.

    Raises:
        DataError: The two do not have the same seeds, or not the same pairs under one of them.
    """
    mine, theirs = _by_seed(results), _by_seed(others)
    first, second = (next(iter(rows.values())).row for rows in (mine, theirs))
    if mine.keys() != theirs.keys():
        problem = f"has the seeds {list(mine)}, {second.name} has {list(theirs)}"
        raise DataError(first.name, problem, "run both with the same")
    sums: dict[tuple[str | None, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for number, one in mine.items():
        other = theirs[number]
        if _pairs(one) != _pairs(other):
            problem = f"{first.name} and {second.name} were evaluated on different pairs"
            raise DataError(f"seed {number}", problem, "evaluate both on the same data")
        right = {part.episode_id: _right(part) for part in other.per_episode}
        for part in one.per_episode:
            both = sums[one.data_digest, part.episode_id]
            both[0] += _right(part) - right[part.episode_id]
            both[1] += part.figures.n_pairs
    points = [float(one.figures.pair_accuracy) - float(theirs[n].figures.pair_accuracy) for n, one in mine.items()]
    return SeedsDifference(
        of=first,
        minus=second,
        figure="pair_accuracy",
        seeds=tuple(mine),
        points=spread(points),
        p_t=_paired_t(points),
        p_flips=sign_flips(points, seed=seed),
        episodes_interval=pooled_interval(sums, resamples, seed),
    )


def _by_seed(group: Sequence[SeedResult]) -> dict[int, SeedResult]:
    """seed -> result, sorted."""
    found: dict[int, SeedResult] = {}
    for one in group:
        if one.seed in found:
            where = f"{one.row.name}, {one.row.split}"
            raise DataError(where, f"two results of seed {one.seed}", "leave one out, or give each its training seed")
        found[one.seed] = one
    if not found:
        raise DataError("results", "none given", "give the results of at least one seed")
    return {seed: found[seed] for seed in sorted(found)}


def _pairs(one: SeedResult) -> tuple[str | None, dict[str, int]]:
    return one.data_digest, {part.episode_id: part.figures.n_pairs for part in one.per_episode}


def _right(part: EpisodePart) -> int:
    """How many pairs of an episode are right in both orders: the count that the percentage was made of."""
    return round(part.figures.pair_accuracy * part.figures.n_pairs / 100)


def spread(values: Sequence[float], level: float = 95) -> Spread:
    """Mean, deviation and t-interval of `values`, one per seed."""
    from scipy import stats

    if not 0 < level < 100:
        raise ConfigError("level", f"must be above 0 and below 100, got {level}")
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Spread(tuple(values), mean, None, None)
    deviation = statistics.stdev(values)
    reach = float(stats.t.ppf(0.5 + level / 200, n - 1)) * deviation / n**0.5
    return Spread(tuple(values), mean, deviation, (mean - reach, mean + reach))


def _paired_t(points: Sequence[float]) -> float | None:
    """None where the differences do not vary."""
    from scipy import stats

    if max(points) - min(points) < 1e-9:
        return None
    return float(stats.ttest_1samp(points, 0).pvalue)
