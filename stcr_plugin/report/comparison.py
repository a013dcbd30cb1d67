"""The end of a chain compared with every other run on the same pairs, with p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stcr_plugin.errors import DataError
from stcr_plugin.figures import Difference, Permutation
from stcr_plugin.report.chain import Chain
from stcr_plugin.report.document import Block, Bullets, Cell, Section, Table, Words, code
from stcr_plugin.report.runs import Measured, same_pairs
from stcr_plugin.report.tables import ONE_TRAINING, OVER_EPISODES, OVER_SEEDS, bounds, signed
from stcr_plugin.scoring import significance
from stcr_plugin.scoring.metrics import paired_difference


@dataclass(frozen=True)
class Comparison:
    """`one` against `other` on the same pairs.

    Attributes:
        asked: Data and settings.
        difference: Of pair accuracy, in points.
        by_episode: The permutation test that flips whole episodes.
        p_holm: Its p, adjusted for all comparisons of a report.
    """

    asked: str
    one: str
    other: str
    n_pairs: int
    difference: Difference
    by_episode: Permutation
    mcnemar: significance.McNemar
    p_holm: float


def comparisons(of: Sequence[Chain]) -> tuple[list[Comparison], list[str]]:
    """The comparisons, and the reason for each that cannot be made."""
    found: dict[str, tuple[Chain, Measured]] = {}
    made: dict[str, tuple[Difference, Permutation, significance.McNemar]] = {}
    without: list[str] = []
    for chain in of:
        for other in (one for one in chain.measured if one is not chain.after):
            name = f"{chain.title}: {other.name}"
            try:
                answers = same_pairs(chain.after, other)
            except DataError as error:
                without.append(f"{chain.title}: {code(chain.after.name)} and {code(other.name)}: {error}.")
                continue
            found[name] = (chain, other)
            made[name] = (
                paired_difference(*answers),
                significance.difference_p(*answers),
                significance.mcnemar(*answers),
            )
    adjusted = significance.holm({name: by_episode.p for name, (_, by_episode, _) in made.items()})
    rows = [
        Comparison(
            chain.title,
            chain.after.name,
            other.name,
            n_pairs=chain.after.of.figures.n_pairs,
            difference=made[name][0],
            by_episode=made[name][1],
            mcnemar=made[name][2],
            p_holm=adjusted[name],
        )
        for name, (chain, other) in found.items()
    ]
    return rows, without


def section(rows: Sequence[Comparison], without: Sequence[str]) -> list[Section]:
    """Empty where there is nothing to compare."""
    blocks: list[Block] = []
    if rows:
        blocks += [
            Words(
                "Pair accuracy on the same pairs. p by episode: how often a difference as large occurs when the two "
                "runs are exchanged in random episodes; adjusted: for all comparisons of this table (Holm). McNemar "
                "assumes independent pairs, which those of one episode are not, so its p is too small. Another "
                "training run may come out differently: no p here covers that."
            ),
            Table(
                ["data", "run", "against", "difference", OVER_EPISODES, OVER_SEEDS, "p by episode", "adjusted",
                 "right in one alone", "McNemar p, exact", "mid-p", "pairs"],
                [_cells(one) for one in rows],
                "Run against run",
            ),
        ]  # fmt: skip
    if without:
        blocks += [Words("Not compared:"), Bullets(tuple(without))]
    return [Section("Run against run", blocks)] if blocks else []


def _cells(one: Comparison) -> list[Cell]:
    only = one.mcnemar
    return [
        one.asked,
        one.one,
        one.other,
        signed(one.difference.points),
        bounds(one.difference.interval),
        ONE_TRAINING,
        f"{one.by_episode.p:.2g}",
        f"{one.p_holm:.2g}",
        f"{only.only_first} : {only.only_second}",
        f"{only.p_exact:.2g}",
        f"{only.p_mid:.2g}",
        str(one.n_pairs),
    ]
