"""The rule that recommends rows of a study: how many seeds' intervals against the reference lie above 0."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from stcr_plugin.figures import AnswerCauses, Factuality, Measure
from stcr_plugin.result_files import decode
from stcr_plugin.results import ClaimAccount, ControlRow
from stcr_plugin.scoring.metrics import RATES
from stcr_plugin.scoring.recommendation import Recommendation, recommendations
from stcr_plugin.scoring.seeds import RARE, SeedResult

SEEDS = (31, 32, 33)


def result(row: str, seed: int, shares: list[float], claims: float | None = None) -> SeedResult:
    """An evaluation on episodes of ten pairs each, with the share of each that is right in both orders."""
    mean = sum(shares) / len(shares)
    values: dict[str, Any] = {
        **{"seed": seed, "name": row, "dataset": "tiny", "split": "heldout", "data_digest": f"data of {seed}"},
        **{"n_pairs": 10 * len(shares), "n_episodes": len(shares), "intervals": None},
        **dict.fromkeys(RATES, mean),
        **dict.fromkeys(RARE),
        "per_episode": [
            {"episode_id": str(k), "n_pairs": 10, "pair_accuracy": share} for k, share in enumerate(shares)
        ],
    }
    found = decode(SeedResult, values)
    if claims is None:
        return found
    shares = (Measure(claims, (claims - 3, claims + 4)), *[Measure(0.0)] * 3)
    wrote = Factuality(*shares, {}, AnswerCauses(), n_claims=9, n_answers=9, n_undescribed=0)
    return dataclasses.replace(found, claims=ClaimAccount(wrote))


def control(name: str, kept: float) -> ControlRow:
    measures = {"still_right": Measure(kept, (kept - 5, kept + 5))}
    return ControlRow(name, "", "", "", "", "holds", "", measures=measures)


def of(found: list[Recommendation], row: str, figure: str, control: str = "") -> Recommendation:
    return next(one for one in found if (one.of.name, one.figure, one.control) == (row, figure, control))


LOW, HIGH = [40.0, 50.0, 60.0, 50.0] * 3, [70.0, 80.0, 90.0, 80.0] * 3


def test_a_row_is_recommended_where_enough_seeds_leave_out_0_above() -> None:
    better = {31: HIGH, 32: HIGH, 33: LOW}
    results = [result("more", seed, LOW) for seed in SEEDS]
    results += [result("twice", seed, better[seed]) for seed in SEEDS]
    results += [result("once", seed, HIGH if seed == 31 else LOW) for seed in SEEDS]
    results += [result("worse", seed, [0.0] * 12) for seed in SEEDS]
    found = recommendations(results, {}, ["more", "twice", "once", "worse"], reference="more", needed=2)
    assert {one.of.name for one in found} == {"twice", "once", "worse"}
    twice = of(found, "twice", "pair_accuracy")
    assert (twice.above, twice.below, twice.recommended) == (2, 0, True)
    assert [lead.points for lead in twice.leads] == [30, 30, 0]
    assert twice.leads[0].interval == (30, 30)  # paired by episode: each has 30 points more
    assert (of(found, "once", "pair_accuracy").above, of(found, "once", "pair_accuracy").recommended) == (1, False)
    worse = of(found, "worse", "pair_accuracy")
    assert (worse.above, worse.below, worse.recommended) == (0, 3, False)


def test_true_claims_and_kept_answers_are_compared_by_their_own_intervals() -> None:
    results = [result("more", seed, LOW, claims=60.0) for seed in SEEDS]
    results += [result("reflect", seed, LOW, claims=66.0 if seed < 33 else 63.0) for seed in SEEDS]
    kept = {"more": 50.0, "reflect": 58.0}
    controls = {
        seed: {row: (control("suggested_wrong", value), control("suggested_right", 0.0)) for row, value in kept.items()}
        for seed in SEEDS
    }
    found = recommendations(results, controls, ["more", "reflect"], reference="more", needed=2)
    claims = of(found, "reflect", "claims_true")
    # Down 3 and 4, up 4 and 3: the root of the sum of squares is 5.
    assert [lead.interval for lead in claims.leads] == [(1, 11), (1, 11), (-2, 8)]
    assert (claims.above, claims.recommended) == (2, True)
    steady = of(found, "reflect", "still_right", "suggested_wrong")
    assert steady.leads[0].interval == pytest.approx((8 - 50**0.5, 8 + 50**0.5))
    assert steady.recommended
    assert not [one for one in found if one.control not in ("", "suggested_wrong")]


def test_rows_without_reasons_have_no_share_of_claims() -> None:
    results = [result(row, seed, LOW) for row in ("more", "direct") for seed in SEEDS]
    found = recommendations(results, {}, ["more", "direct"], reference="more", needed=2)
    assert [one.figure for one in found] == ["pair_accuracy"]
