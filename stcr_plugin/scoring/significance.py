"""Two-sided p-values of gaps and differences.

A large p shows nothing, least of all that a gap is 0. How large it may still be is what the interval says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import Permutation
from stcr_plugin.scoring import metrics
from stcr_plugin.types import Answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

PERMUTATIONS = 9999
_ENUMERATED = 12
"""Most clusters for which all 2^n sign flips are enumerated."""


@dataclass(frozen=True)
class McNemar:
    """Of the pairs that one of two models got right, how many `only_first` did and how many `only_second`."""

    only_first: int
    only_second: int
    p_exact: float
    p_mid: float


def gap_p(answers: Sequence[Answer], permutations: int = PERMUTATIONS, seed: int = 0) -> Permutation:
    """p-value of the gap between forward and backward accuracy.

    Under the null hypothesis the answers of a pair's two orders are exchangeable. Pairs of one episode depend on each
    other, so they are exchanged together: the sign of the episode's difference flips. Ties, which have no forward
    accuracy, are left out. Raises DataError as `metrics.figures`.
    """
    differences: dict[str, int] = defaultdict(int)
    for forward, backward in metrics.untied(metrics.by_pair(answers)).values():
        differences[forward.episode_id] += forward.right - backward.right
    return sign_flips([differences[episode] for episode in sorted(differences)], permutations, seed)


def difference_p(
    answers: Sequence[Answer], others: Sequence[Answer], permutations: int = PERMUTATIONS, seed: int = 0
) -> Permutation:
    """p-value of the difference in pair accuracy of two models evaluated on the same pairs.

    Under the null hypothesis their answers to a pair are exchangeable; those of one episode are exchanged together.
    Ties are left out. Raises DataError where the pairs are not the same.
    """
    differences: dict[str, int] = defaultdict(int)
    for episode, right, other_right in metrics.paired_rights(answers, others).values():
        differences[episode] += right - other_right
    return sign_flips([differences[episode] for episode in sorted(differences)], permutations, seed)


def sign_flips(differences: Sequence[float], permutations: int = PERMUTATIONS, seed: int = 0) -> Permutation:
    """p-value of the sum of `differences`, one per cluster, under random signs.

    Whole clusters flip, as exchangeability blocks do (Winkler et al. 2014, Permutation inference for the general
    linear model, NeuroImage 92, section "Exchangeability blocks"). All 2^n flips are enumerated for up to 12 clusters;
    for more, `permutations` are drawn, and p is (b + 1) / (permutations + 1) with b of them as far from 0, so that it
    is never 0 (Phipson & Smyth 2010, Permutation P-values should never be zero, Stat Appl Genet Mol Biol 9, art. 39).

    Hand-written: scipy.stats.permutation_test gives the same exact p (see the tests), but draws other permutations than
    those of the published p-values.
    """
    import numpy as np

    if permutations < 1:
        raise ConfigError(f"permutations {permutations}", "must be at least 1")
    values = np.array([value for value in differences if value], dtype=np.float64)
    n = len(values)
    # Sums of the same numbers in another order differ by rounding, and count as equally far from 0.
    bound = abs(values.sum()) - 1e-12 * np.abs(values).sum()

    def as_far(ones: Integers) -> int:
        return int(np.count_nonzero(np.abs((2 * ones - 1) @ values) >= bound))

    if n <= _ENUMERATED:
        every = 2**n
        return Permutation(as_far(np.arange(every)[:, None] >> np.arange(n) & 1) / every, "exact", every, n)
    random = np.random.default_rng(seed)
    # In blocks: all signs at once would be permutations x clusters numbers.
    found = sum(
        as_far(random.integers(0, 2, size=(min(100, permutations - start), n))) for start in range(0, permutations, 100)
    )
    return Permutation((found + 1) / (permutations + 1), "monte carlo", permutations, n)


def mcnemar(answers: Sequence[Answer], others: Sequence[Answer]) -> McNemar:
    """McNemar's test of two models evaluated on the same pairs, each right in BOTH orders or not.

    Only pairs that exactly one model got right count; under the null hypothesis it is either model with probability 1/2
    (McNemar 1947, Psychometrika 12). p_exact is the binomial's, p_mid its mid-p variant, which is less conservative:
    p_exact minus the probability of the observed counts, half of it where both are equal (Fagerland, Lydersen & Laake
    2013, BMC Med Res Methodol 13:91, and its supplement). The test assumes independent pairs. Those of one episode are
    not, which makes both p too small: use `difference_p`. Ties are left out. Raises DataError where the pairs are not
    the same.
    """
    from scipy import stats

    rights = metrics.paired_rights(answers, others).values()
    first = sum(right and not other_right for _, right, other_right in rights)
    second = sum(other_right and not right for _, right, other_right in rights)
    if not first + second:
        return McNemar(0, 0, 1.0, 1.0)
    exact = float(stats.binomtest(first, first + second, 0.5).pvalue)
    point = float(stats.binom.pmf(first, first + second, 0.5))
    return McNemar(first, second, exact, exact - (point / 2 if first == second else point))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for multiple tests, in the given order.

    Holm 1979, A simple sequentially rejective multiple test procedure, Scand J Stat 6: the k-th smallest of m is
    multiplied by m - k + 1, and none falls below a smaller one's. Any dependence between the tests is allowed.
    """
    adjusted, floor = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda one: one[1])):
        if not 0 <= p <= 1:
            raise DataError(f"test {name}", f"p = {p} is not a probability", "leave out a test without one")
        floor = max(floor, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p_values}
