"""The figures of a study: each row over the seeds, and how it differs from the reference row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from stcr_plugin.figures import Factuality, GuardKind
from stcr_plugin.results import ClaimAccount, ControlRow
from stcr_plugin.scoring.breakdown import PHASE_KINDS
from stcr_plugin.scoring.group_figures import ROWS
from stcr_plugin.scoring.recommendation import Recommendation
from stcr_plugin.scoring.seeds import (
    OverSeeds,
    PartFigures,
    RowKey,
    SeedResult,
    SeedsDifference,
    Spread,
    difference,
    spread,
)
from stcr_plugin.scoring.verdicts import RULES

Split = tuple[str, str]
"""A dataset and one of its splits."""


@dataclass(frozen=True)
class Cost:
    """What a row took from the base on, all its stages together, for one seed."""

    stages: tuple[str, ...]
    steps: int
    supervised_tokens: int
    seconds: float


@dataclass(frozen=True)
class KindOfPairs:
    """One row's pair accuracy on one kind of a split's pairs, over the seeds, in percent.

    Attributes:
        pairs: Sum over the seeds.
        more: Pair accuracy minus the reference's, seed by seed, on the same pairs; None for the reference.
    """

    dataset: str
    split: str
    kind: str
    row: str
    pairs: int
    pair_accuracy: Spread
    more: Spread | None


@dataclass(frozen=True)
class ClaimsOverSeeds:
    """What one row's answers say of a split's pictures against their true states, over the seeds, in percent.

    Attributes:
        seeds: Those whose answers were held against the truth.
        unknown: Of the other seeds, why they were not.
        shares: CLAIMS of the claims; one is left out where a seed has no claims.
        families: Family of claims that every seed has -> the share of it that is true.
        wrong: Cause of a wrong answer (`figures.AnswerCauses`) -> its share of all answers.
    """

    of: RowKey
    seeds: tuple[int, ...]
    unknown: Mapping[int, str]
    shares: Mapping[str, Spread]
    families: Mapping[str, Spread]
    wrong: Mapping[str, Spread]


@dataclass(frozen=True)
class ControlOverSeeds:
    """A control of one row over the seeds.

    Attributes:
        verdicts: One per seed.
        judged: Names of the measures that the verdicts depend on.
        measures: All measures of the control.
    """

    row: str
    control: str
    asks: str
    informative: bool
    verdicts: tuple[str, ...]
    judged: tuple[str, ...]
    measures: Mapping[str, Spread]


@dataclass(frozen=True)
class Ability:
    """A row's figures on yes/no questions, over the seeds, in percent; `more`: accuracy minus that of the first row."""

    row: str
    questions: int
    figures: Mapping[str, Spread]
    more: Spread | None


@dataclass(frozen=True, kw_only=True)
class StudyFigures:
    """All that the table of a study shows.

    Attributes:
        name: The study's.
        asks: The question of the study, in a sentence.
        seeds: Seeds of the training runs.
        rows: Names of the rows, the base first.
        reference: The row that the others are compared with.
        equal: What all rows have in common, as in the study's configuration.
        modes: Row -> the mode that it is evaluated in.
        revisions: Of the code that trained and evaluated.
        masked: Rows whose loss covers more than the answers (`stcr.mask=authors`).
        spreads: The figures of each row on each split.
        leads: Their difference from the reference's.
        claims: Of the rows that are evaluated in mode cot.
        costs: Of each row but the base.
        needed_seeds: Of the rule that recommends rows; None where the study states none.
        recommendations: What that rule says.
    """

    name: str
    asks: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    reference: str
    equal: str
    modes: Mapping[str, str]
    revisions: tuple[str, ...]
    masked: tuple[str, ...]
    spreads: Sequence[OverSeeds]
    leads: Sequence[SeedsDifference]
    kinds: Sequence[KindOfPairs]
    claims: Sequence[ClaimsOverSeeds]
    controls: Sequence[ControlOverSeeds]
    ability: Sequence[Ability]
    costs: Mapping[str, Cost]
    needed_seeds: int | None = None
    recommendations: Sequence[Recommendation] = ()

    @property
    def splits(self) -> list[Split]:
        return list(dict.fromkeys((one.of.dataset, one.of.split) for one in self.spreads))

    def on(self, split: Split) -> list[OverSeeds]:
        """The rows on one split."""
        return [one for one in self.spreads if (one.of.dataset, one.of.split) == split]


def differences(results: Sequence[SeedResult], rows: Sequence[str], reference: str) -> list[SeedsDifference]:
    """Pair accuracy of `rows` minus that of the reference, on every split of the results.

    Raises:
        DataError: Two rows were not evaluated on the same pairs.
    """
    return [
        difference(_of(results, row, split), _of(results, reference, split))
        for split in _splits(results)
        for row in rows
        if row != reference
    ]


def kinds_of_pairs(results: Sequence[SeedResult], reference: str) -> list[KindOfPairs]:
    """Kinds of pairs that occur under every seed: within and across phases, and windows of distance."""
    found = []
    rows = list(dict.fromkeys(one.row.name for one in results))
    for split in _splits(results):
        parts = {row: [_parts(one) for one in _of(results, row, split)] for row in rows}
        for kind in parts[reference][0]:
            if not all(kind in one for of_seeds in parts.values() for one in of_seeds):
                continue
            values = {row: [one[kind].pair_accuracy for one in of_seeds] for row, of_seeds in parts.items()}
            for row, mine in values.items():
                more = [value - other for value, other in zip(mine, values[reference], strict=True)]
                found.append(
                    KindOfPairs(
                        *split,
                        kind,
                        row=row,
                        pairs=sum(one[kind].n_pairs for one in parts[row]),
                        pair_accuracy=spread(mine),
                        more=spread(more) if row != reference else None,
                    )
                )
    return found


CLAIMS = ("claims_true", "claims_false", "claims_unreadable", "claims_missing")


def claims_over_seeds(results: Sequence[SeedResult]) -> list[ClaimsOverSeeds]:
    """What the answers of each row and split say of their pictures; rows that give no reasons are left out."""
    accounts: dict[RowKey, dict[int, ClaimAccount]] = defaultdict(dict)
    for one in sorted(results, key=lambda one: one.seed):
        if one.claims:
            accounts[one.row][one.seed] = one.claims
    found = []
    for row, by_seed in accounts.items():
        known = {seed: account.found for seed, account in by_seed.items() if account.found}
        shares, families, wrong = zip(*map(_claim_values, known.values()), strict=True) if known else ((), (), ())
        found.append(
            ClaimsOverSeeds(
                row,
                seeds=tuple(known),
                unknown={seed: account.unknown for seed, account in by_seed.items() if seed not in known},
                shares=_spreads(shares),
                families=_spreads(families),
                wrong=_spreads(wrong),
            )
        )
    return found


def _claim_values(of: Factuality) -> tuple[dict[str, float | None], ...]:
    """The figures of one seed by name: shares of claims, of families, and of wrong answers."""
    return (
        {name: getattr(of, name).value for name in CLAIMS},
        {family: one.true.value for family, one in of.families.items()},
        {cause: 100 * count / of.n_answers for cause, count in asdict(of.wrong).items()},
    )


def _spreads(by_seed: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """The figures that every seed has."""
    values = {name: [one.get(name) for one in by_seed] for name in (by_seed[0] if by_seed else ())}
    return {
        name: spread([value for value in of_seeds if value is not None])
        for name, of_seeds in values.items()
        if None not in of_seeds
    }


def controls_over_seeds(
    by_seed: Sequence[Mapping[str, Sequence[ControlRow]]], rules: Mapping[str, str]
) -> list[ControlOverSeeds]:
    """The controls of the first seed over all seeds.

    Args:
        by_seed: For each seed, row -> its controls.
        rules: Control -> key of its rule in RULES. The plain run and other data have the rule "knows".
    """
    found: list[ControlOverSeeds] = []
    for row in by_seed[0]:
        of_seeds = [{one.name: one for one in controls[row]} for controls in by_seed]
        for name, first in of_seeds[0].items():
            same = [rows[name] for rows in of_seeds if name in rows]
            measured = {
                key: [value for one in same if key in one.measures and (value := one.measures[key].value) is not None]
                for key in first.measures
            }
            spreads = {key: spread(values) for key, values in measured.items() if values}
            verdicts = tuple(one.verdict for one in same)
            judged = tuple(spreads) if name in ROWS.values() else RULES[rules.get(name, "knows")].judged
            by = tuple(key for key in judged if key in spreads)
            found.append(
                ControlOverSeeds(
                    row,
                    name,
                    asks=first.asks,
                    informative=first.informative,
                    verdicts=verdicts,
                    judged=by,
                    measures=spreads,
                )
            )
    return found


ABILITY = ("accuracy", "f1", "yes_ratio")


def ability_over_seeds(by_seed: Sequence[Mapping[str, GuardKind]]) -> list[Ability]:
    """The yes/no questions of every seed (row -> figures), put together; rows are compared with the first."""
    found: list[Ability] = []
    first: list[float] = []
    for row in by_seed[0]:
        same = [one[row] for one in by_seed]
        figures = {key: spread([getattr(one.figures, key) for one in same]) for key in ABILITY}
        values = list(figures["accuracy"].values)
        more = spread([value - start for value, start in zip(values, first, strict=True)]) if first else None
        first = first or values
        found.append(Ability(row, sum(one.n for one in same), figures=figures, more=more))
    return found


def _parts(result: SeedResult) -> dict[str, PartFigures]:
    phases = {PHASE_KINDS[kind]: part for kind, part in result.by_phase.items()}
    return phases | {f"{one.steps} steps": one.figures for one in result.by_distance.windows}


def _splits(results: Sequence[SeedResult]) -> list[Split]:
    return list(dict.fromkeys((one.row.dataset, one.row.split) for one in results))


def _of(results: Sequence[SeedResult], name: str, split: Split) -> list[SeedResult]:
    return [one for one in results if one.row.name == name and (one.row.dataset, one.row.split) == split]
