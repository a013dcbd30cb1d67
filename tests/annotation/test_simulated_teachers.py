"""Teachers whose every text is known to be true or not, behind a real server: what the checks let through.

The full table is made by `python tests/annotation_evidence.py`; here a few episodes of each kind of teacher.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from annotation_evidence import PUBLISHED, Run, accepted, bad, build_pairs, of_pairs, of_texts, run
from simulated_teacher import TEACHERS, World, teaching
from simulated_texts import LEAKS

from stcr_plugin.samples.annotations import fails

pytestmark = pytest.mark.slow
EPISODES = 5


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pairs(tmp_path_factory.mktemp("taught"), EPISODES)


def annotated(pairs: Path, out: Path, teacher: str, errs: float = 0.0, **settings: object) -> Run:
    kind = TEACHERS[teacher]
    with teaching(World(pairs, "taught", "train"), kind, errs) as (counts, model):
        return run(pairs, out, counts.url, model, settings)


def total(counts: dict[str, list[int]]) -> tuple[int, int]:
    return sum(part for part, _ in counts.values()), sum(whole for _, whole in counts.values())


@pytest.mark.parametrize("teacher", ["truthful", "truthful_phrases"])
def test_true_texts_are_accepted_unless_they_do_not_decide(pairs: Path, tmp_path: Path, teacher: str) -> None:
    found = annotated(pairs, tmp_path, teacher, tries=1)
    for row in found.rows:
        assert not any(fails(getattr(row, name)) for name in ("earlier_confirmed", "later_confirmed", "judged")), row
        assert row.accepted or fails(row.blind), row
    accepted_pairs, of = total(accepted(found, TEACHERS[teacher], False))
    assert accepted_pairs > 0.8 * of


def test_true_texts_of_a_teacher_that_always_names_the_second_picture_are_used(pairs: Path, tmp_path: Path) -> None:
    found = annotated(pairs, tmp_path, "biased", tries=1)
    assert {row.judged for row in found.rows} == {"unchecked: same position in both orders"}
    assert any(row.accepted for row in found.rows)


def test_texts_that_follow_the_position_are_not_confirmed(pairs: Path, tmp_path: Path) -> None:
    """With both pictures at once the biased teacher writes of the wrong picture in one of the orders."""
    found = annotated(pairs, tmp_path, "biased", tries=1, together=True, checks=["confirmed"])
    wrong = [row for row in found.rows if any(bad(TEACHERS["biased"], one) for one in found.spoken(row))]
    assert 0.2 * len(found.rows) < len(wrong) < 0.8 * len(found.rows)
    assert not any(row.accepted for row in wrong)


@pytest.mark.parametrize("teacher", ["lying", "believing"])
def test_a_verifier_that_looks_finds_false_claims_that_nothing_is_recorded_of(
    pairs: Path, tmp_path: Path, teacher: str
) -> None:
    found = annotated(pairs, tmp_path, teacher, tries=1)
    caught, of = total(of_pairs(found, TEACHERS[teacher], "all", True))
    assert caught == of > 0.5 * len(found.rows)


def test_the_recorded_state_finds_every_false_claim_in_its_own_phrases(pairs: Path, tmp_path: Path) -> None:
    found = annotated(pairs, tmp_path, "lying_phrases", tries=1, checks=["claims"])
    caught, of = total(of_texts(found, TEACHERS["lying_phrases"], "claims", True))
    assert caught == of > 0
    assert total(of_texts(found, TEACHERS["lying_phrases"], "claims", False))[0] == 0


def test_most_sentences_that_leak_are_found(pairs: Path, tmp_path: Path) -> None:
    found = annotated(pairs, tmp_path, "leaking", tries=1, checks=["leak"])
    caught, of = total(of_texts(found, TEACHERS["leaking"], "leak", True))
    assert caught > 0.5 * of > 0


def test_texts_that_say_nothing_are_not_accepted_but_by_luck(pairs: Path, tmp_path: Path) -> None:
    """A second model that guesses names the right picture in both orders for a quarter of the pairs."""
    found = annotated(pairs, tmp_path, "vacuous", tries=1)
    accepted_pairs, of = total(accepted(found, TEACHERS["vacuous"], False))
    assert accepted_pairs < 0.5 * of


def test_what_is_refused_or_cut_gives_no_text(pairs: Path, tmp_path: Path) -> None:
    found = annotated(pairs, tmp_path, "failing", tries=1, checks=["described"])
    for row in found.rows:
        for side, spoken in zip(("earlier", "later"), found.spoken(row), strict=True):
            assert fails(getattr(row, f"{side}_described")) == (spoken.cut or spoken.refused), row


def test_published_counts_are_of_all_teachers_and_a_thousand_texts() -> None:
    head, *lines = map(json.loads, PUBLISHED.read_text(encoding="utf-8").splitlines())
    assert head["command"] == "python tests/annotation_evidence.py"
    texts = {line["teacher"]: line["texts"] for line in lines if line["measure"] == "cost"}
    assert texts.keys() == TEACHERS.keys()
    assert min(texts.values()) >= 1000
    (missed,) = (line["sentences"] for line in lines if line["measure"] == "missed")
    assert len(missed) < sum(map(len, LEAKS.values()))
