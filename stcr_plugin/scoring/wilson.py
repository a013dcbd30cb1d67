"""How far a share that was counted on a sample may be from the share of all."""

from __future__ import annotations

from stcr_plugin.figures import Bounds


def wilson(hits: int, n: int) -> Bounds:
    """The 95 % score interval of a share, in percent (Wilson 1927, J Am Stat Assoc 22, p. 209).

    It holds for rows drawn at random from a file: the share of the whole file is in it. Unlike hits / n plus or minus
    1.96 standard errors, it has a width where hits is 0 or n.

    Args:
        hits: How many have the property.
        n: How many were drawn, at least 1.
    """
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)
