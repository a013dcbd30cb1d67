"""The file of figures agrees with the published studies, and README and docs agree with the file of figures."""

from __future__ import annotations

import dataclasses
import json
import runpy
import statistics
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from describer import Describer
from script_modules import loaded
from tiny_stage import REPOSITORY

from stcr_plugin.config import read_yaml
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest

FIELDS = ("name", "value", "low", "high", "n", "unit", "split", "source", "command", "revision")


@cache
def script() -> ModuleType:
    return loaded(REPOSITORY / "docs/make_tables.py")


@cache
def published() -> dict[str, dict[str, Any]]:
    rows = json.loads((REPOSITORY / "docs/results/figures.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in rows}


@pytest.mark.slow(seconds=8)
def test_pages_and_file_of_figures_are_up_to_date() -> None:
    """Otherwise run `python docs/make_tables.py`."""
    made, wrong = script().make()
    assert wrong == []
    assert [str(path) for path, text in made.items() if path.read_text(encoding="utf-8") != text] == []


OTHER_NUMBERS = REPOSITORY / "tests/docs/other_numbers.yaml"


def test_a_new_number_in_a_page_is_bound_to_a_figure_or_listed_as_none() -> None:
    """A number that is a result is bound to its figure; one that is not is listed, so that a new one is looked at."""
    listed = read_yaml(OTHER_NUMBERS)
    found = {
        str(path.relative_to(REPOSITORY)): script().other_numbers(path.read_text(encoding="utf-8"))
        for path in script().pages()
        if path.name != "architecture.md"
    }
    new = {page: sorted(numbers - set(listed.get(page, []))) for page, numbers in found.items()}
    assert {page: numbers for page, numbers in new.items() if numbers} == {}
    gone = {page: sorted(set(numbers) - found.get(page, set())) for page, numbers in listed.items()}
    assert {page: numbers for page, numbers in gone.items() if numbers} == {}


def test_an_accuracy_comes_from_published_answers() -> None:
    """Times, rates and estimates are measured by a command; what a model got right is computed from its answers."""
    for row in published().values():
        if row["unit"] in ("%", "points", "p"):
            assert row["source"] != "docs/results/measured.yaml", row["name"]


def test_every_row_has_the_same_fields_and_a_source_that_is_published() -> None:
    assert {tuple(row) for row in published().values()} == {FIELDS}
    for row in published().values():
        assert (REPOSITORY / row["source"]).is_file(), row
        assert row["source"].startswith("docs/")
        assert row["unit"]
        assert (row["low"] is None) == (row["high"] is None)
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize(
    ("name", "unit", "low", "high"),
    [
        ("seen_pair_accuracy", "%", 0, 100),
        ("heldout_pair_accuracy", "%", 0, 100),
        ("baseline_seen_pair_accuracy", "%", 0, 100),
        ("baseline_heldout_pair_accuracy", "%", 0, 100),
        ("gap_abs_max", "points", 0, 100),
        ("demo_minutes", "minutes", 1, 60),
    ],
)
def test_named_figures_are_there(name: str, unit: str, low: float, high: float) -> None:
    assert published()[name]["unit"] == unit
    assert low <= published()[name]["value"] <= high


@pytest.mark.parametrize(
    ("name", "row", "split"),
    [
        ("seen_pair_accuracy", "stage2", "seen"),
        ("heldout_pair_accuracy", "stage2", "heldout"),
        ("baseline_seen_pair_accuracy", "weak_only", "seen"),
        ("baseline_heldout_pair_accuracy", "weak_only", "heldout"),
    ],
)
def test_means_are_those_of_the_episodes_on_disk(name: str, row: str, split: str) -> None:
    values, pairs = [], 0
    for path in sorted((REPOSITORY / "docs/results/seeds").glob("seed*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line).get("result", {})
            if (found.get("name"), found.get("split")) == (row, split):
                right = sum(one["pair_accuracy"] * one["n_pairs"] for one in found["per_episode"])
                values.append(right / found["n_pairs"])
                pairs += found["n_pairs"]
    assert len(values) == 5
    assert published()[name]["value"] == pytest.approx(statistics.mean(values), abs=1e-9)
    assert published()[name]["n"] == pairs == 4200


def test_the_largest_gap_is_that_of_a_seed() -> None:
    gaps = []
    for path in sorted((REPOSITORY / "docs/results/seeds").glob("seed*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line).get("result", {})
            if found.get("name") == "stage2" and found["split"] in ("seen", "heldout"):
                gaps.append(abs(found["gap_points"]))
    assert len(gaps) == 10
    assert published()["gap_abs_max"]["value"] == max(gaps)


def test_packed_claims_give_the_figures_of_the_evaluation(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published counts say what `stcr eval` says, with its intervals."""
    folder, out = tmp_path / "stage1", tmp_path / "seed3.jsonl"
    request = EvalRequest(
        engine=Describer(registry, lies=0.1), dataset="toy", registry=registry, settings=AskSettings(mode="cot")
    )
    found = dataclasses.replace(evaluate(request, folder), name="stage1")
    found.write(folder / "results.json")
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    runpy.run_path(str(REPOSITORY / "docs/pack_claims.py"))["main"](
        [str(out), "make demo", "3", "1", str(registry), str(folder)]
    )
    monkeypatch.setattr(script(), "REPOSITORY", tmp_path)
    figures = {one.name: one for one in script()._of_claims("factuality", [out])}

    def figure(name: str) -> Any:
        return figures[f"factuality_stage1_heldout_{name}_seed3"]

    claims = found.claims.found if found.claims else None
    assert claims is not None
    for name in ("claims_true", "claims_false", "claims_missing"):
        measure = getattr(claims, name)
        assert figure(name).value == pytest.approx(measure.value)
        assert (figure(name).low, figure(name).high) == pytest.approx(measure.interval)
    for family, of in claims.families.items():
        assert figure(f"{family}_true").value == pytest.approx(of.true.value)
        assert of.off is None or figure(f"{family}_off").value == pytest.approx(of.off)
    assert figure("pair_accuracy").value == found.figures.pair_accuracy == 100
    assert figure("deciding_true").value < 100
    assert figure("right_where_false").value == 100
    assert figure("wrong_seeing_count").value == 0


# ---- the script ----


@pytest.fixture
def figures() -> Any:
    figure = script().Figure
    return {one.name: one for one in (figure("a", 12.34, low=11.0, high=13.96), figure("b", -0.55))}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("It is 12.3 % (11.0 to 14.0).\n\n<!-- figures: 12.3=a 11.0=a 14.0=a -->", 0),
        ("It is 0.6 points below.\n<!-- figures: 0.6=b -->", 0),
        ("It is 12.4 %.\n<!-- figures: 12.4=a -->", 1),  # rounds to 12.3
        ("It is 12.3 %.", 1),  # bound to nothing
        ("It is 12.3 %.\n\nAnother.\n<!-- figures: 12.3=a -->", 2),  # bound in another paragraph
        ("It is 12.3 %.\n<!-- figures: 12.3=c -->", 1),  # no such figure
        ("A rate of 1.5 was tried.\n<!-- figures: 1.5=- -->", 0),
        ("Seeds 17 to 21, 95 % intervals, `7.5`, Qwen2.5-VL-7B, [x](a-2.5.md), 640x480, arXiv 2604.10506.", 0),
        ("From 70 to 7 %.", 2),
        ("It has 95 % and 95 % over episodes.", 1),
        ("```\n12.5 %\n```", 0),
    ],
)
def test_numbers_in_text_are_compared_with_their_figures(figures: Any, text: str, problems: int) -> None:
    assert len(script().wrong_numbers(text, figures)) == problems


def test_only_the_tables_of_a_page_are_written(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script(), "TABLES", {"one": "| {a:.1fi} |", "two": "| {b:+.2f} |"})
    page = "before\n<!-- table: one -->\n<!-- end -->\nbetween\n<!-- table: two -->\n| old |\n<!-- end -->\nafter\n"
    made = script().filled(page, figures)
    assert made == page.replace("one -->\n", "one -->\n| 12.3 (11.0 to 14.0) |\n").replace("| old |", "| -0.55 |")
    assert script().filled(made, figures) == made


@pytest.mark.slow(seconds=0)  # the figures are those of the first test
def test_figures_that_no_page_uses_are_left_out() -> None:
    assert len(published()) < len(script().all_figures())
    assert {field.name for field in dataclasses.fields(script().Figure)} == set(FIELDS)
