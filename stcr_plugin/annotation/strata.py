"""Annotated texts by what the checks found, a random sample of each kind, and how often a person agrees there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stcr_plugin import artefacts
from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.figures import Bounds
from stcr_plugin.samples.annotations import CHECKS, COLUMNS, Annotation, fails
from stcr_plugin.scoring.wilson import wilson

ALL, ACCEPTED, REJECTED, SUSPECT = "all", "accepted", "rejected", "suspect label"
"""The checks, in the order in which they are made."""


@dataclass(frozen=True)
class Stratum:
    """Some rows, as positions in the file.

    Attributes:
        name: ALL, ACCEPTED, REJECTED, SUSPECT, or "rejected by CHECK".
        rows: In the order of the file.
        sample: Some of them at random, in the order drawn.
    """

    name: str
    rows: tuple[int, ...]
    sample: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """What a person decided about the sample of a stratum.

    Attributes:
        rows: In the stratum.
        sampled: In its sample.
        reviewed: Of the sample, accepted or rejected by a person.
        accepted: Of these, accepted as the model wrote them. Accepted after an edit, the texts were not right.
        edited: Of these, accepted after an edit.
        share: `accepted` of `reviewed` in percent, None without any.
        interval: Of that share among all rows of the stratum.
    """

    stratum: str
    rows: int
    sampled: int
    reviewed: int
    accepted: int
    edited: int
    share: float | None
    interval: Bounds | None


def failed(row: Annotation) -> tuple[str, ...]:
    """The checks that a row fails, in the order in which they are made."""
    return tuple(check for check, columns in COLUMNS.items() if any(fails(getattr(row, name)) for name in columns))


def strata(rows: Sequence[Annotation], size: int, seed: int) -> dict[str, Stratum]:
    """The strata that have rows, by name. A row that fails several checks is in the stratum of the first.

    Every row has a random number by seed, pair and sample, and a sample is the rows with the smallest: a larger sample
    holds the smaller one, so that a review can go on with more rows.
    """
    members: dict[str, list[int]] = {name: [] for name in (ALL, ACCEPTED, REJECTED, *map(_by, CHECKS), SUSPECT)}
    for at, row in enumerate(rows):
        checks = failed(row)
        names = [ALL, ACCEPTED if row.accepted else REJECTED]
        names += [_by(checks[0])] if checks and not row.accepted else []
        for name in [*names, *([SUSPECT] if row.suspect_label else [])]:
            members[name].append(at)
    rank = [artefacts.digest([seed, row.pair_id, row.sample]) for row in rows]
    return {
        name: Stratum(name, tuple(of), tuple(sorted(of, key=rank.__getitem__)[:size]))
        for name, of in members.items()
        if of
    }


def agreement(stratum: Stratum, reviewed: ReviewedRows) -> Agreement:
    """How often a person accepts the rows of a stratum's sample.

    Rows outside the sample do not count: somebody chose to look at them, so their share says nothing about the others.
    """
    decided = [at for at in stratum.sample if reviewed.rows[at].review]
    kept = [at for at in decided if reviewed.rows[at].review == "accept"]
    edited = sum(map(reviewed.edited, kept))
    accepted = len(kept) - edited
    return Agreement(
        stratum.name,
        rows=len(stratum.rows),
        sampled=len(stratum.sample),
        reviewed=len(decided),
        accepted=accepted,
        edited=edited,
        share=100 * accepted / len(decided) if decided else None,
        interval=wilson(accepted, len(decided)) if decided else None,
    )


def _by(check: str) -> str:
    return f"{REJECTED} by {check}"
