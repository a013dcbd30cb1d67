"""What a model wrote of its pictures, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from stcr_plugin.figures import AnswerCauses, Factuality, Measure
from stcr_plugin.report import tables
from stcr_plugin.report.document import Block, Cell, Table, Words
from stcr_plugin.results import ClaimAccount, Evaluation

HEADS = ("claims", "number", "true %", "numbers are off by, on average")
CLAIM_HEADS = ("true %", "false %", "unreadable %", "missing %")
CAUSES = (
    "Claims in the answers against the recorded states. A wrong answer is a seeing error where a claim that decides is "
    "false, and a judging error where all of those are true; a claim decides where it is about something in which the "
    "two pictures differ."
)


def share(found: Measure) -> str:
    """A share in percent with its interval, "-" where there is none."""
    bounds = f" ({tables.number(found.low)} to {tables.number(found.high)})" if found.interval else ""
    return f"{tables.number(found.value)}{bounds}"


def claim_words(account: ClaimAccount) -> str:
    """One paragraph: how much of what was written is true, and what wrong answers come from."""
    found = account.found
    if found is None:
        return f"What the model wrote was not checked: {account.unknown}."
    if not found.n_claims:
        return f"None of {found.n_answers} answers describes its pictures, so nothing that was written can be checked."
    return (
        f"Of {found.n_claims} claims in {found.n_answers} answers, {share(found.claims_true)} % are true of their "
        f"picture's recorded state, {share(found.claims_false)} % false and {share(found.claims_unreadable)} % cannot "
        f"be read; {found.n_undescribed} answers describe no picture, and {share(found.claims_missing)} % of what a "
        f"true description says is missing. {_wrong(found)}"
    )


def _wrong(found: Factuality) -> str:
    wrong, right = found.wrong, found.right
    total = wrong.seeing + wrong.judging + wrong.unknown
    if not total:
        return "No answer that names a picture is wrong."
    return (
        f"Of {total} wrong answers, {wrong.seeing} are seeing errors (a claim that decides is false), {wrong.judging} "
        f"judging errors (all claims that decide are true) and {wrong.unknown} say nothing readable that decides. A "
        "claim decides where it is about something in which the two pictures differ."
    ) + _compared(right)


def _compared(right: AnswerCauses | None) -> str:
    """What a sceptic asks next: whether right answers have false claims as well."""
    total = right.seeing + right.judging + right.unknown if right else 0
    if right is None or not total:
        return ""
    return f" Of {total} right answers, {right.seeing} have a false claim that decides as well."


def family_cells(found: Factuality) -> list[list[str]]:
    """A line per family of claims, as HEADS names the cells."""
    return [[family, str(one.n), share(one.true), tables.number(one.off)] for family, one in found.families.items()]


def claims_of(named: Sequence[tuple[str, Evaluation]]) -> list[Block]:
    """What answers say of their pictures: a line per named evaluation whose answers were held against the truth."""
    lines: list[list[Cell]] = [
        [name, one.dataset, one.split, *_cells(one.claims.found)]
        for name, one in named
        if one.claims and one.claims.found
    ]
    heads = ["name", "dataset", "split", *CLAIM_HEADS, "seeing errors", "judging errors", "unknown"]
    return [Words(CAUSES), Table(heads, lines, "Claims in the answers")] if lines else []


def _cells(found: Factuality) -> list[str]:
    wrong = found.wrong
    shares = (found.claims_true, found.claims_false, found.claims_unreadable, found.claims_missing)
    return [*map(share, shares), *map(str, (wrong.seeing, wrong.judging, wrong.unknown))]
