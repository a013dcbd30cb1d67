"""Every result is the file that earlier versions wrote; tests/result_rows.jsonl holds [file name, its values]."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from stcr_plugin.errors import DataError
from stcr_plugin.figures import Figures, GroupPart, PairFigures
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.results import (
    Controls,
    Evaluation,
    Guard,
    GuardComparison,
    MultiImage,
    Overlap,
    TrainingOverlap,
)

KINDS = {
    kind.file: kind for kind in (Evaluation, Controls, MultiImage, Guard, GuardComparison, Ranking, ValueOrder, Overlap)
}
ROWS = [json.loads(line) for line in Path(__file__).with_name("result_rows.jsonl").read_text("utf-8").splitlines()]


def row_of(file, number=0):
    return json.loads(json.dumps([row for name, row in ROWS if name == file][number]))


def read(folder, file, row):
    (folder / file).write_text(json.dumps(row, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return KINDS[file].read(folder / file)


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[f"{number}-{file}" for number, (file, _) in enumerate(ROWS)])
def test_a_file_of_an_earlier_version_comes_back_byte_for_byte(tmp_path, file, row):
    read(tmp_path, file, row).write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / file).read_bytes()


def test_all_results_are_among_the_files():
    assert {file for file, _ in ROWS} == set(KINDS)


def test_values_are_typed(tmp_path):
    found = read(tmp_path, "results.json", row_of("results.json"))
    assert isinstance(found.figures, Figures)
    assert (found.figures.n_pairs, found.parts.by_task.tasks[0].figures.n_pairs) == (12, 4)
    assert found.overlap == TrainingOverlap(unknown=found.overlap.unknown)
    assert read(tmp_path, "results.json", row_of("results.json", 2)).overlap.leaks
    rows = {row.name: row.figures for row in read(tmp_path, "controls.json", row_of("controls.json")).rows}
    assert isinstance(rows["plain"], PairFigures)
    assert isinstance(rows["three pictures in order"], GroupPart)
    assert rows["decomposition"] is None
    assert read(tmp_path, "groups.json", row_of("groups.json")).asked.ask == "order"


NEEDED = {
    "results.json": ("name", "dataset", "split", "mode", *(f.name for f in dataclasses.fields(Figures)[:10])),
    "controls.json": ("of", "rows"),
    "guard.json": ("name", "questions", "n_pictures", "kinds"),
    "ranking.json": ("words", "episode_id", "task", "frames"),
    "voc.json": ("voc", "vroc", "voc_f1", "voc_both", "n_strips", "n_episodes", "intervals", "per_strip"),
}


@pytest.mark.parametrize("file", NEEDED)
def test_a_file_without_newer_keys_is_read_and_unknown_ones_are_ignored(tmp_path, file):
    row = row_of(file)
    found = read(tmp_path, file, {key: row[key] for key in NEEDED[file]} | {"gone": [1]})
    again = found.row()
    assert {key: again[key] for key in NEEDED[file]} == {key: row[key] for key in NEEDED[file]}


@pytest.mark.parametrize("file", NEEDED)
def test_a_missing_key_is_named_with_the_command_that_writes_it(tmp_path, file):
    row = row_of(file)
    del row[NEEDED[file][-1]]
    with pytest.raises(DataError, match=rf"{file}: not what `stcr .*` writes \('{NEEDED[file][-1]}' is missing\); run"):
        read(tmp_path, file, row)


@pytest.mark.parametrize(
    ("file", "path", "value", "problem"),
    [
        ("results.json", ["n_pairs"], 1.5, "n_pairs: expected a whole number, got 1.5"),
        ("results.json", ["pair_accuracy"], True, "pair_accuracy: expected a number, got True"),
        ("results.json", ["pair_accuracy"], math.inf, "pair_accuracy: expected a finite number, got inf"),
        ("results.json", ["gap_points"], math.nan, "gap_points: expected a finite number, got nan"),
        ("results.json", ["n_pairs"], 10**400, "n_pairs: expected a finite number, got 1000.*"),
        ("results.json", ["mode"], "loud", "mode: expected one of cot, direct, got 'loud'"),
        ("results.json", ["by_task", "tasks", 0, "task"], 3, r"by_task.tasks.0.task: expected text, got 3"),
        ("results.json", ["intervals"], {"gap_points": [1]}, r"intervals.gap_points: expected a list of 2, got \[1\]"),
        ("controls.json", ["rows", 1, "verdict"], "maybe", "rows.1.verdict: expected one of holds, .* got 'maybe'"),
        ("controls.json", ["rows"], {}, "rows: expected a list, got {}"),
        ("groups.json", ["pictures"], 9, "pictures must be 3 to 8, got 9"),
        ("guard.json", ["kinds"], None, "kinds: expected an object, got None"),
        ("overlap.json", ["near", "reach"], None, "near.reach: expected a whole number, got None"),
    ],
)
def test_a_wrong_type_names_the_file_and_the_field(tmp_path, file, path, value, problem):
    row = row_of(file)
    *above, last = path
    part = row
    for key in above:
        part = part[key]
    part[last] = value
    with pytest.raises(DataError, match=rf"{file}: not what .*\({problem}\); run it again"):
        read(tmp_path, file, row)


def test_a_file_that_is_no_object_and_one_that_is_missing_are_refused(tmp_path):
    with pytest.raises(DataError, match="the file: expected an object, got"):
        read(tmp_path, "results.json", [1])
    with pytest.raises(DataError, match=r"absent\.json"):
        Evaluation.read(tmp_path / "absent.json")
