"""Could chance alone have done it? p-values, all of them two-sided.

A large p shows nothing: least of all that a gap is 0. How large it may still be is what the interval says.
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
"""Up to so many clusters all of their 2^n sign flips are looked at."""


@dataclass(frozen=True)
class McNemar:
    """Of the pairs that one of two models got right, how many `only_first` did and how many `only_second`."""

    only_first: int
    only_second: int
    p_exact: float
    p_mid: float


def gap_p(answers: Sequence[Answer], permutations: int = PERMUTATIONS, seed: int = 0) -> Permutation:
    """How often a gap at least as large comes about where forward and backward are alike.

    Were they alike, the right and wrong answers of a pair's two orders could change places. Those of one episode's
    pairs hang together, so they all change places at once: the sign of the episode's difference flips.
    Ties, which have no forward accuracy, are left out. Raises DataError as `metrics.figures`.
    """
    differences: dict[str, int] = defaultdict(int)
    for forward, backward in metrics.untied(metrics.by_pair(answers)).values():
        differences[forward.episode_id] += forward.right - backward.right
    return sign_flips([differences[episode] for episode in sorted(differences)], permutations, seed)


def difference_p(
    answers: Sequence[Answer], others: Sequence[Answer], permutations: int = PERMUTATIONS, seed: int = 0
) -> Permutation:
    """How often pair accuracies at least as far apart come about where two models, asked the same pairs, are alike.

    Were they alike, their answers to a pair could change places; those to one episode's pairs do so all at once.
    Ties are left out. Raises DataError where the pairs are not the same.
    """
    differences: dict[str, int] = defaultdict(int)
    for episode, right, other_right in metrics.paired_rights(answers, others).values():
        differences[episode] += right - other_right
    return sign_flips([differences[episode] for episode in sorted(differences)], permutations, seed)


def sign_flips(differences: Sequence[float], permutations: int = PERMUTATIONS, seed: int = 0) -> Permutation:
    """How often the sum of `differences`, one a cluster, is at least as far from 0 when their signs are random.

    Whole clusters flip, as exchangeability blocks do (Winkler et al. 2014, Permutation inference for the general
    linear model, NeuroImage 92, section "Exchangeability blocks"). All 2^n flips are looked at for up to 12 clusters;
    beyond, `permutations` are drawn, and p is (b + 1) / (permutations + 1) with b of them as far from 0, so that it is
    never 0 (Phipson & Smyth 2010, Permutation P-values should never be zero, Stat Appl Genet Mol Biol 9, art. 39).
    """
    import numpy as np

    if permutations < 1:
        raise ConfigError(f"permutations {permutations}: must be at least 1")
    values = np.array([value for value in differences if value], dtype=np.float64)
    n = len(values)
    # Sums of the same numbers in another order differ by rounding; they are as far from 0 all the same.
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
    """McNemar's test of two models asked the same pairs: is each pair right in BOTH orders, or not?

    Only pairs that one of the two got right decide; where the models are alike, either of them is as likely to be that
    one (McNemar 1947, Psychometrika 12). p_exact is the binomial's, p_mid its mid-p variant, which is less
    conservative: p_exact less the probability of what was found, half of it where both counts are alike (Fagerland,
    Lydersen & Laake 2013, BMC Med Res Methodol 13:91, and its supplement).
    The test takes pairs for independent. Those of one episode are not, which makes both p too small:
    `difference_p` is the one to go by. Ties are left out. Raises DataError where the pairs are not the same.
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
    """Each test's p, adjusted for having looked at all of `p_values`: below 5 % with a chance of 5 % for ANY of them.

    Holm 1979, A simple sequentially rejective multiple test procedure, Scand J Stat 6: the k-th smallest of m is
    multiplied by m - k + 1, and none falls below a smaller one's. Any dependence between the tests is allowed.
    """
    adjusted, floor = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda one: one[1])):
        if not 0 <= p <= 1:
            raise DataError(f"test {name}: p = {p} is no probability; leave out a test that gave none")
        floor = max(floor, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p_values}
