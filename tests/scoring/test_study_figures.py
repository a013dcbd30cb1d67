"""The figures of a study over its seeds, and their tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stcr_plugin.figures import AnswerCauses, ClaimFigures, Factuality, GuardKind, Measure
from stcr_plugin.report import study_report
from stcr_plugin.report.document import Document, Section, markdown
from stcr_plugin.result_files import decode
from stcr_plugin.results import ClaimAccount
from stcr_plugin.scoring.metrics import RATES
from stcr_plugin.scoring.seeds import SeedResult, over_seeds
from stcr_plugin.scoring.study_figures import (
    StudyFigures,
    ability_over_seeds,
    claims_over_seeds,
    differences,
    kinds_of_pairs,
)


def figures(**parts: Any) -> StudyFigures:
    """The figures of a study with `parts` alone."""
    of = {"name": "toy", "asks": "", "seeds": (1, 2), "rows": (), "reference": "stage2", "equal": "nothing"}
    empty: dict[str, Any] = {
        "modes": {}, "revisions": ("a",), "masked": (), "spreads": (), "leads": (), "kinds": (), "claims": (),
        "controls": (), "ability": (), "costs": {},
    }  # fmt: skip
    return StudyFigures(**{**of, **empty, **parts})


def test_rows_of_two_modes_are_named() -> None:
    two, one = (figures(modes={"stage1": "cot", "stage2": mode}) for mode in ("direct", "cot"))
    assert "a difference between rows of two modes is also one of how they are evaluated." in study_report.method(two)
    assert "two modes" not in study_report.method(one)


@pytest.mark.parametrize(
    ("accuracies", "shown"),
    [
        ({1: (90.0, 60.0), 2: (50.0, 60.0)}, "| heldout | b | -10.0 | -10.0 to -10.0 | -264.1 to +244.1 | 1.000 |"),
        ({1: (90.0, 60.0)}, "| heldout | b | -30.0 | -30.0 to -30.0 | unknown: one training each | - |"),
    ],
)
def test_every_difference_has_its_interval_over_episodes_and_over_seeds(
    accuracies: dict[int, tuple[float, float]], shown: str, tmp_path: Path
) -> None:
    """Few episodes that agree and trainings that do not: the interval over episodes alone would be a mistake."""

    def result(name: str, seed: int, accuracy: float) -> SeedResult:
        parts = [{"episode_id": f"e{n}", "pair_accuracy": accuracy, "n_pairs": 10} for n in range(4)]
        of = {"name": name, "seed": seed, "dataset": "toy", "split": "heldout", "per_episode": parts}
        return decode(
            SeedResult, {**of, **dict.fromkeys(("n_pairs", "n_episodes", *RATES), 0), "pair_accuracy": accuracy}
        )

    results = [result(n, seed, of[at]) for seed, of in accuracies.items() for at, n in enumerate("ab")]
    study = figures(
        seeds=tuple(accuracies), rows=("a", "b"), reference="a", modes={"a": "direct", "b": "direct"},
        spreads=over_seeds(results), leads=differences(results, ["a", "b"], "a"),
    )  # fmt: skip
    text = markdown(study_report.document(study, tmp_path))
    assert "| split | row | minus a | 95 % over episodes | 95 % over seeds | p over seeds |" in text
    assert shown in text


def test_kinds_of_pairs_are_compared_with_the_reference_seed_by_seed() -> None:
    def result(name: str, seed: int, within: float | None, near: float) -> SeedResult:
        phases = {} if within is None else {"within": {"pair_accuracy": within, "n_pairs": 20}}
        windows = [{"steps": "5..11", "pair_accuracy": near, "n_pairs": 30}]
        parts = {"by_phase": phases, "by_distance": {"windows": windows}}
        of = {"name": name, "seed": seed, "dataset": "toy", "split": "heldout", "per_episode": []}
        return decode(SeedResult, {**of, **dict.fromkeys(("n_pairs", "n_episodes", *RATES), 0), **parts})

    results = [result("stage2", 1, 80.0, 90.0), result("stage2", 2, 70.0, 94.0)]
    results += [result("weak_only", 1, 60.0, 91.0), result("weak_only", 2, 64.0, 93.0)]
    chain, baseline, *near = kinds_of_pairs(results, "stage2")
    assert (chain.kind, chain.row, chain.more) == ("within one phase", "stage2", None)
    assert (baseline.row, baseline.pairs, baseline.pair_accuracy.mean) == ("weak_only", 40, 62.0)
    assert baseline.more is not None
    assert baseline.more.values == (-20.0, -6.0)
    assert [(one.kind, one.row, one.pairs) for one in near] == [
        ("5..11 steps", "stage2", 60),
        ("5..11 steps", "weak_only", 60),
    ]
    text = markdown(Document("", [Section("", study_report.kinds(figures(kinds=[baseline])))]))
    assert "| toy, heldout | within one phase | weak_only | 62.0 ± 2.8 | -13.0 | -101.9 to +75.9 | 40 |" in text
    without = [result("stage2", 1, None, 90.0), *results[1:]]  # no such pairs under one seed
    assert {one.kind for one in kinds_of_pairs(without, "stage2")} == {"5..11 steps"}


def wrote(seed: int, account: ClaimAccount | None, row: str = "stage1") -> SeedResult:
    of = {"name": row, "seed": seed, "dataset": "toy", "split": "heldout", "per_episode": []}
    plain = decode(SeedResult, {**of, **dict.fromkeys(("n_pairs", "n_episodes", *RATES), 0)})
    return dataclasses.replace(plain, claims=account)


def account(true: float | None, families: dict[str, float], wrong: AnswerCauses) -> ClaimAccount:
    false = None if true is None else 100 - true
    of_families = {name: ClaimFigures(5, Measure(value)) for name, value in families.items()}
    shares = (Measure(true), Measure(false), Measure(None if true is None else 0.0), Measure(10.0))
    return ClaimAccount(
        Factuality(*shares, of_families, wrong, n_claims=0 if true is None else 50, n_answers=20, n_undescribed=0)
    )


def test_claims_have_a_line_per_seed_and_their_mean() -> None:
    high = account(90.0, {"goal": 80.0, "reach": 70.0}, AnswerCauses(seeing=4, judging=1))
    low = account(60.0, {"goal": 50.0}, AnswerCauses(seeing=8, unknown=1))
    (found,) = claims_over_seeds([wrote(2, low), wrote(1, high), wrote(1, None, "stage2")])
    assert (found.of.name, found.seeds, found.unknown) == ("stage1", (1, 2), {})
    assert found.shares["claims_true"].values == (90.0, 60.0)
    assert {name: one.values for name, one in found.families.items()} == {"goal": (80.0, 50.0)}
    assert {cause: one.values for cause, one in found.wrong.items()} == {
        "seeing": (20.0, 40.0),
        "judging": (5.0, 0.0),
        "unknown": (0.0, 5.0),
    }
    text = markdown(Document("", [Section("", study_report.claims(figures(claims=[found])))]))
    assert "| toy, heldout | stage1 | 1 | 90.0 | 10.0 | 0.0 | 10.0 | 20.0 | 5.0 | 0.0 |" in text
    assert "| toy, heldout | stage1 | mean | 75.0 ± 21.2 | 25.0 ± 21.2 | 0.0 ± 0.0 | 10.0 ± 0.0 | 30.0 ± 14.1 |" in text
    assert study_report.claims(figures(claims=claims_over_seeds([wrote(1, None)]))) == []


def test_seeds_without_claims_or_truth_are_named_and_not_averaged() -> None:
    silent = account(None, {}, AnswerCauses())
    unchecked = ClaimAccount(unknown="the source records no states")
    results = [wrote(1, account(90.0, {"goal": 80.0}, AnswerCauses(2))), wrote(2, silent), wrote(3, unchecked)]
    (found,) = claims_over_seeds(results)
    assert (found.seeds, found.unknown) == ((1, 2), {3: "the source records no states"})
    assert set(found.shares) == {"claims_missing"}
    text = markdown(Document("", [Section("", study_report.claims(figures(claims=[found])))]))
    assert "| toy, heldout | stage1 | 2 | - | - | - | 10.0 | 0.0 | 0.0 | 0.0 |" in text
    assert "- toy, heldout, stage1, seed 3 was not checked: the source records no states" in text


def test_general_ability_is_compared_with_the_first_row_seed_by_seed() -> None:
    rates = ("accuracy", "precision", "recall", "f1", "unparsed_rate")
    accuracies = {"base": (80.0, 70.0), "stage2": (60.0, 56.0)}
    by_seed = [
        {
            row: decode(GuardKind, {"n": 10, **dict.fromkeys(rates, values[number]), "yes_ratio": 50.0})
            for row, values in accuracies.items()
        }
        for number in range(2)
    ]
    first, second = ability_over_seeds(by_seed)
    assert first.more is None
    assert second.more is not None
    assert second.more.mean == pytest.approx(-17.0)
    assert second.questions == 20
    text = markdown(Document("", [Section("", study_report.ability(figures(ability=[first, second])))]))
    assert "| -17.0 | -55.1 to +21.1 | 20 |" in text
    assert study_report.ability(figures(ability=ability_over_seeds([{}, {}]))) == []
