"""Lists by what the checks found, random samples of them, and how often a person agrees."""

from dataclasses import replace

import pytest
from annotated_rows import FAILURES, annotation, write_rows

from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.annotation.strata import agreement, failed, strata
from stcr_plugin.scoring.wilson import wilson


@pytest.fixture
def rows():
    return [
        annotation(number, **FAILURES[number % 5], accepted=not FAILURES[number % 5]) for number in range(100)
    ]  # fmt: skip


def test_every_row_is_accepted_or_rejected_by_its_first_failed_check(rows):
    found = strata(rows, 200, 0)
    assert {name: len(of.rows) for name, of in found.items()} == {
        "all": 100, "accepted": 40, "rejected": 60, "rejected by leak": 20, "rejected by claims": 20,
        "rejected by judged": 20, "suspect label": 20,
    }  # fmt: skip
    assert failed(rows[4]) == ("claims", "blind")
    parts = [at for name, of in found.items() if name.startswith("rejected by") for at in of.rows]
    assert sorted(parts) == list(found["rejected"].rows)


def test_sample_depends_on_the_seed_alone_and_grows(rows):
    small, large, other = (strata(rows, size, seed)["accepted"].sample for size, seed in ((10, 1), (20, 1), (10, 2)))
    assert large[:10] == small
    assert set(small) != set(other)
    shuffled = strata(rows[::-1], 10, 1)["accepted"].sample
    assert [rows[::-1][at] for at in shuffled] == [rows[at] for at in small]


def test_sample_is_drawn_evenly(rows):
    times = [0] * 100
    for seed in range(200):
        for at in strata(rows, 50, seed)["all"].sample:
            times[at] += 1
    assert 60 < min(times) <= max(times) < 140


def test_agreement_counts_the_sample_alone_and_an_edit_as_disagreement(rows, tmp_path):
    reviewed = ReviewedRows(write_rows(tmp_path / "annotations.jsonl", rows))
    stratum = strata(rows, 10, 0)["accepted"]
    outside = next(at for at in stratum.rows if at not in stratum.sample)
    first, second, third = stratum.sample[:3]
    for at, review, texts in (
        (first, "accept", None), (second, "reject", None), (third, "accept", ("x", "y")), (outside, "accept", None)
    ):  # fmt: skip
        reviewed.decide([reviewed.decision(at, review, texts=texts)])
    found = agreement(stratum, reviewed)
    assert (found.rows, found.sampled, found.reviewed, found.accepted, found.edited) == (40, 10, 3, 1, 1)
    assert found.share == pytest.approx(100 / 3)
    assert found.interval == wilson(1, 3)
    nothing = agreement(replace(stratum, sample=()), reviewed)
    assert (nothing.share, nothing.interval) == (None, None)
