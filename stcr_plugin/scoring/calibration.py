"""Probabilities against what came true: Brier score, reliability, accuracy by coverage, and temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stcr_plugin.calibration_results import Calibration, ProbabilityFigures, ReliabilityBin
from stcr_plugin.errors import DataError
from stcr_plugin.figures import Bounds, Measure
from stcr_plugin.scoring.bradley_terry import log_odds
from stcr_plugin.scoring.metrics import by_pair, cluster_bounds
from stcr_plugin.types import Answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

BINS, PER_BIN = 10, 20
"""Most bins, and the fewest predictions that are wanted in each."""
_LEAST, _MOST = 0.01, 100.0  # temperatures that are searched
_SUREST = 100.0  # log-odds, where a server gave a name no probability at all
_UNDECIDED = 1e-9  # log-odds of two answers that cancel out do so but for rounding


@dataclass(frozen=True)
class Margins:
    """Log-odds of the right answer against the wrong one, each with the episode of its pair.

    Attributes:
        both_orders: Of each pair, the mean of its two orders.
        one_order: Of each answer.
        episodes: Of the pairs, in the same order.
    """

    both_orders: Floats
    one_order: Floats
    episodes: tuple[str, ...]


def margins(answers: Sequence[Answer]) -> Margins | None:
    """The margins of all pairs that are not ties; None where some answers were not compared, or all pairs are ties.

    Raises DataError as `metrics.figures`.
    """
    import numpy as np

    one: list[list[float]] = []
    episodes: list[str] = []
    for pair in by_pair(answers).values():
        if pair[0].expected == "neither":
            continue
        sign = 1.0 if pair[0].expected == "img2" else -1.0  # forward, img2 is the later frame
        odds = [log_odds([answer]) for answer in pair]
        if odds[0] is None or odds[1] is None:
            return None
        one.append([sign * odds[0], sign * odds[1]])
        episodes.append(pair[0].episode_id)
    if not one:
        return None
    of_answers = np.clip(np.array(one), -_SUREST, _SUREST)
    return Margins(of_answers.mean(axis=1), of_answers.ravel(), tuple(episodes))


def calibration(
    answers: Sequence[Answer], temperature: float = 1.0, *, resamples: int = 2000, seed: int = 0
) -> Calibration | None:
    """Figures of the probabilities of compared answers, their log-odds divided by `temperature`; None as of `margins`.

    A judgment predicts that its own choice is right, so that its probability is 50 % and more, and it does not matter
    which frame was recorded first.
    """
    found = margins(answers)
    if found is None:
        return None
    of_answers = [episode for episode in found.episodes for _ in range(2)]
    return Calibration(
        *(
            judgments(values / temperature, episodes, resamples=resamples, seed=seed)
            for values, episodes in ((found.both_orders, found.episodes), (found.one_order, of_answers))
        )
    )


def judgments(of: Floats, episodes: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> ProbabilityFigures:
    """Figures of judgments by their margins."""
    import numpy as np
    from scipy.special import expit

    sizes = np.where(np.abs(of) < _UNDECIDED, 0.0, np.abs(of))
    right = np.where(sizes == 0, 0.5, of > 0)
    return probability_figures(expit(sizes), right, episodes, resamples=resamples, seed=seed)


def probability_figures(
    predicted: Floats, came_true: Floats, clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> ProbabilityFigures:
    """Figures of probabilities `predicted`, 0..1, of what did (1) or did not (0) come true, both [n].

    Bins are drawn once, by the quantiles of all predictions, and the intervals are the bootstrap of `metrics.intervals`
    over `clusters`. With k even outcomes in a bin the observed share is off by sqrt(2 p (1 - p) / (pi k)) on average
    (the mean of a half-normal distribution), which makes up `error_by_noise`; outcomes of one cluster are alike, so
    that the noise is rather larger.
    """
    import numpy as np

    n, place = len(predicted), _bins(predicted)
    bins = int(place.max()) + 1
    rows, episodes = _rows(clusters)
    # An outcome of 1/2 is an undecided judgment, whose probability is 1/2 whichever frame is taken as its choice.
    squares = np.where(came_true == 0.5, 0.25, (predicted - came_true) ** 2)
    cells = rows * bins + place
    sums = np.concatenate(
        [
            np.bincount(rows, squares)[:, None],
            *(
                np.bincount(cells, values, minlength=episodes * bins).reshape(episodes, bins)
                for values in (np.ones(n), predicted, came_true)
            ),
        ],
        axis=1,
    )
    rates = _rates(sums.sum(axis=0)).tolist()
    bounds = cluster_bounds(sums[None], _rates, resamples=resamples, seed=seed, level=95)[0]
    names_of = ("brier", "calibration_error", "predicted", "observed")
    counts, means = np.bincount(place), np.bincount(place, predicted)
    spread = np.bincount(place, predicted * (1 - predicted))
    return ProbabilityFigures(
        **dict(zip(names_of, rates, strict=False)),
        error_by_noise=100 * float(np.sqrt(2 * spread / np.pi).sum()) / n,
        n=n,
        n_episodes=episodes,
        intervals={name: pair for name, pair in zip(names_of, bounds, strict=False) if pair},
        bins=tuple(
            ReliabilityBin(
                n=int(counts[number]),
                predicted=100 * float(means[number] / counts[number]),
                observed=rates[4 + number],
                interval=bounds[4 + number],
                coverage=100 * float(counts[number:].sum()) / n,
                observed_above=rates[4 + bins + number],
                interval_above=bounds[4 + bins + number],
                least=100 * float(predicted[place == number].min()),
            )
            for number in range(bins)
        ),
    )


def temperature_of(found: Margins, *, resamples: int = 2000, seed: int = 0) -> tuple[float, Bounds]:
    """The temperature that makes the outcomes of pairs likeliest, with its interval over episodes.

    One number for the log-odds of both orders together (Guo et al. 2017, On Calibration of Modern Neural Networks,
    ICML, section 4.2, Platt scaling with a slope alone): the likelihood of a margin m is 1 / (1 + exp(-m / T)), whose
    logarithm has one maximum in 1 / T. It changes no choice, and so no accuracy.

    Raises:
        DataError: There is no such maximum, or none in over one of forty draws of episodes: too few pairs are wrong, or
            as many as of a coin.
    """
    import numpy as np

    values, (rows, episodes) = found.both_orders, _rows(found.episodes)
    wrong = len(np.unique(rows[values < _UNDECIDED]))
    value = _fitted(values, np.ones(len(values)))

    def fitted(drawn: Floats) -> Floats:
        """[..., how often each episode was drawn] -> [..., the temperature]."""
        each = [_fitted(values, times[rows]) for times in drawn.reshape(-1, episodes)]
        return np.array(each).reshape(*drawn.shape[:-1], 1)

    bounds = cluster_bounds(np.eye(episodes)[None], fitted, resamples=resamples, seed=seed, level=95)[0][0]
    if value >= _MOST or (bounds is not None and bounds[1] >= _MOST):
        problem = "the judge is not shown to be better than a coin, which no temperature cures"
        raise DataError("temperature", problem, "evaluate on more episodes, or use another model")
    if value <= _LEAST or bounds is None or bounds[0] <= _LEAST:
        raise DataError(
            "temperature",
            f"only {wrong} of {episodes} episodes have a pair that is judged wrong, too few to fit it",
            "evaluate on more pairs or episodes of the split it is fitted on",
        )
    return value, bounds


def brier_change(found: Margins, temperature: float, *, resamples: int = 2000, seed: int = 0) -> Measure:
    """Brier score of pairs with `temperature` minus that without; both are from the same drawn episodes."""
    import numpy as np
    from scipy.special import expit

    squares = [expit(-found.both_orders / one) ** 2 for one in (temperature, 1.0)]
    rows, _ = _rows(found.episodes)
    sums = np.array([np.bincount(rows, squares[0] - squares[1]), np.bincount(rows)], dtype=np.float64).T

    def change(totals: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return totals[..., :1] / totals[..., 1:]

    bounds = cluster_bounds(sums[None], change, resamples=resamples, seed=seed, level=95)[0][0]
    return Measure(float(change(sums.sum(axis=0))[0]), bounds)


def _rows(clusters: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """The number of each cluster, sorted by name so that a seed means one draw, and how many there are."""
    import numpy as np

    names, rows = np.unique(np.array(clusters, dtype=str), return_inverse=True)
    return rows, len(names)


def _bins(predicted: Floats) -> npt.NDArray[np.int64]:
    """The bin of each prediction: of about equal size, equal predictions in one."""
    import numpy as np

    n = len(predicted)
    wanted = max(1, min(BINS, n // PER_BIN))
    _, which, counts = np.unique(np.round(predicted, 12), return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # mean rank of equal predictions, from 0
    return np.unique((middle * wanted / n).astype(np.int64)[which], return_inverse=True)[1]


def _rates(totals: Floats) -> Floats:
    """[..., squares, then n, predicted and observed of each bin] -> [..., the four figures, bins, bins and above]."""
    import numpy as np

    n, predicted, observed = np.split(totals[..., 1:], 3, axis=-1)
    with np.errstate(invalid="ignore"):
        whole = n.sum(axis=-1)
        four = (
            totals[..., 0],
            100 * np.abs(predicted - observed).sum(axis=-1),
            100 * predicted.sum(axis=-1),
            100 * observed.sum(axis=-1),
        )
        above = [np.cumsum(one[..., ::-1], axis=-1)[..., ::-1] for one in (observed, n)]
        parts = [np.stack(four, axis=-1) / whole[..., None], 100 * observed / n, 100 * above[0] / above[1]]
    return np.concatenate(parts, axis=-1)


def _fitted(values: Floats, weights: Floats) -> float:
    """The likeliest temperature of margins that count `weights` times each; a limit where there is none within."""
    from scipy.optimize import brentq
    from scipy.special import expit

    kept = weights > 0
    values, weights = values[kept], weights[kept]

    def slope(scale: float) -> float:
        """Of the log-likelihood in 1 / T, which falls."""
        return float(weights @ (values * expit(-scale * values)))

    if slope(1 / _MOST) <= 0:
        return _MOST
    if slope(1 / _LEAST) >= 0:
        return _LEAST
    return 1 / float(brentq(slope, 1 / _MOST, 1 / _LEAST, xtol=1e-10))
