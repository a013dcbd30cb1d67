"""What people decide: kept on the disk at once, folded into the file of texts, and undone."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from annotated_rows import annotation, write_rows

from stcr_plugin.annotation.decisions import ReviewedRows, decisions_file
from stcr_plugin.errors import DataError
from stcr_plugin.samples.annotations import read_annotations


@pytest.fixture
def path(tmp_path):
    return write_rows(tmp_path / "annotations.jsonl", [annotation(number) for number in range(4)])


def decide(reviewed, position, review, **more):
    reviewed.decide([reviewed.decision(position, review, **more)])


def test_decision_is_folded_into_its_row_alone(path):
    before = list(read_annotations(path))
    reviewed = ReviewedRows(path)
    decide(reviewed, 1, "reject", note="wrong colour")
    assert list(read_annotations(path)) == before
    reviewed.fold()
    assert list(read_annotations(path)) == [
        before[0], replace(before[1], review="reject", note="wrong colour"), *before[2:]
    ]  # fmt: skip
    assert not list(read_annotations(path))[1].used


def test_latest_decision_counts_and_folding_twice_changes_nothing(path):
    reviewed = ReviewedRows(path)
    for review in ("reject", "accept", "reject"):
        decide(reviewed, 0, review)
    reviewed.fold()
    data = path.read_bytes()
    for _ in range(2):
        again = ReviewedRows(path)
        again.fold()
        assert path.read_bytes() == data
    assert again.rows[0].review == "reject"
    assert len(decisions_file(path).read_bytes().splitlines()) == 3


def test_edited_text_keeps_the_original_beside_it(path):
    original = next(read_annotations(path)).earlier_text
    for texts in (("One.", "Two."), ("Three.", "Four.")):
        reviewed = ReviewedRows(path)
        decide(reviewed, 0, "accept", texts=texts)
        reviewed.fold()
    again = ReviewedRows(path)
    assert (again.rows[0].earlier_text, again.rows[0].later_text) == ("Three.", "Four.")
    assert again.edited(0)
    assert not again.edited(1)
    assert again.originals[0][0] == original
    assert [json.loads(line)["earlier_original"] for line in decisions_file(path).read_text().splitlines()] == [
        original
    ] * 2


def test_undo_goes_back_one_decision_at_a_time_and_loses_none_of_the_file(path):
    first = next(read_annotations(path))
    reviewed = ReviewedRows(path)
    decide(reviewed, 0, "accept", texts=("A.", "B."))
    decide(reviewed, 2, "reject")
    decide(reviewed, 0, "reject")
    assert [reviewed.undo() for _ in range(4)] == [0, 2, 0, None]
    assert reviewed.rows[0] == first
    reviewed.fold()
    assert next(read_annotations(path)) == first
    assert len(decisions_file(path).read_bytes().splitlines()) == 6


def test_empty_text_cannot_be_accepted(path):
    reviewed = ReviewedRows(path)
    with pytest.raises(DataError, match="a text is empty; write it, or reject the row"):
        reviewed.decision(0, "accept", texts=("  ", "Two."))
    decide(reviewed, 0, "reject", texts=("", "Two."))
    assert reviewed.rows[0].earlier_text == ""


def test_killed_process_loses_no_decision_that_it_was_told_is_kept(path):
    code = (
        "import os, sys\n"
        "from stcr_plugin.annotation.decisions import ReviewedRows\n"
        "reviewed = ReviewedRows(sys.argv[1])\n"
        "for position, review in enumerate(('accept', 'reject', 'accept')):\n"
        "    reviewed.decide([reviewed.decision(position, review)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ | {"PYTHONPATH": _root()})
    assert done.returncode == -9
    with open(decisions_file(path), "ab") as file:  # and one that was being written
        file.write(b'{"pair_id": "e0:3')
    reviewed = ReviewedRows(path)
    assert [row.review for row in reviewed.rows] == ["accept", "reject", "accept", ""]
    decide(reviewed, 3, "reject")
    assert [row.review for row in ReviewedRows(path).rows] == ["accept", "reject", "accept", "reject"]


def _root():
    import stcr_plugin

    return os.path.dirname(os.path.dirname(stcr_plugin.__file__))


def test_decision_that_does_not_reach_the_disk_is_refused_and_leaves_no_trace(path, monkeypatch):
    reviewed = ReviewedRows(path)
    decide(reviewed, 0, "accept")
    kept = decisions_file(path).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="could not write a decision: No space left on device"):
        decide(reviewed, 1, "reject")
    assert decisions_file(path).read_bytes() == kept
    assert reviewed.rows[1].review == ""
    monkeypatch.undo()
    assert reviewed.undo() == 0


def test_decision_about_texts_that_were_written_again_has_no_effect(path):
    reviewed = ReviewedRows(path)
    decide(reviewed, 0, "reject")
    decide(reviewed, 1, "reject")
    rows = [annotation(number) for number in range(4)]
    write_rows(path, [replace(rows[0], earlier_text="A new text."), *rows[1:]])
    again = ReviewedRows(path)
    again.fold()
    assert [row.review for row in read_annotations(path)] == ["", "reject", "", ""]
    assert again.stale == 1
    write_rows(path, rows)
    assert [row.review for row in ReviewedRows(path).rows] == ["reject", "reject", "", ""]


def test_columns_of_a_later_version_are_kept(path):
    rows = [json.loads(line) | {"colour": "red"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reviewed = ReviewedRows(path)
    decide(reviewed, 0, "reject")
    reviewed.fold()
    assert [json.loads(line)["colour"] for line in path.read_text().splitlines()] == ["red"] * 4


def test_two_rows_of_one_candidate_and_a_broken_decision_are_named(path, tmp_path):
    double = write_rows(tmp_path / "double.jsonl", [annotation(0), annotation(0)])
    with pytest.raises(DataError, match=r"two rows are of pair 'e0:0-9', sample 0; delete one"):
        ReviewedRows(double)
    decisions_file(path).write_text('{"pair_id": 3}\n')
    with pytest.raises(DataError, match=r"decisions\.jsonl, row 1: not what `stcr annotate review` writes"):
        ReviewedRows(path)


def test_half_a_character_is_written_as_a_question_mark(path):
    reviewed = ReviewedRows(path)
    decide(reviewed, 0, "accept", note="\ud83d")
    reviewed.fold()
    assert next(read_annotations(path)).note == "?"
