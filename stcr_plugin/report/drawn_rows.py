"""Rows of a build, drawn fairly: spread over datasets, shown orders, labels and phases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Stratum(NamedTuple):
    """Rows of one dataset (or split), shown order, label ("" where unreadable) and phase."""

    part: str
    order: str
    closer: str
    phase: str


class Row(NamedTuple):
    """One row as stored; `where` is a dataset or a file of pairs, and `number` counts from 1."""

    where: str
    number: int
    values: Any


class Draw(NamedTuple):
    """The drawn `rows` of each stratum, and `counts`, how many rows each has."""

    rows: Mapping[Stratum, Sequence[Row]]
    counts: Counter[Stratum]


def draw(rows: Iterable[tuple[Stratum, Row]], wanted: int, seed: int) -> Draw:
    """Draw `wanted` rows, or all where there are fewer, spread over the strata.

    Within a stratum every row is equally likely: reservoir sampling in one pass (J. Vitter, "Random Sampling with a
    Reservoir", ACM TOMS 11(1), 1985, algorithm R), which holds `wanted` rows per stratum.
    """
    rng = random.Random(seed)
    counts: Counter[Stratum] = Counter()
    kept: dict[Stratum, list[Row]] = {}
    for stratum, row in rows:
        reservoir = kept.setdefault(stratum, [])
        counts[stratum] += 1
        if len(reservoir) < wanted:
            reservoir.append(row)
        elif (position := rng.randrange(counts[stratum])) < wanted:
            reservoir[position] = row
    takes = _spread({stratum: len(kept[stratum]) for stratum in sorted(kept)}, wanted)
    return Draw({stratum: rng.sample(kept[stratum], take) for stratum, take in takes.items()}, counts)


def _spread(have: Mapping[Stratum, int], wanted: int) -> dict[Stratum, int]:
    """How many rows to take of each stratum: first those with a value that is not shown yet, then evenly.

    So every dataset, order, label and phase is on the sheet, even where there are more strata than rows.
    """
    takes = dict.fromkeys(have, 0)
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(min(wanted, sum(have.values()))):
        best = min(
            (stratum for stratum in have if takes[stratum] < have[stratum]),
            key=lambda stratum: (
                -sum(seen[value] == 0 for value in enumerate(stratum)),
                takes[stratum],
                sum(seen[value] for value in enumerate(stratum)),
            ),
        )
        takes[best] += 1
        seen.update(enumerate(best))
    return takes
