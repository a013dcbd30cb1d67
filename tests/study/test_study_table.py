"""The table of a study: what it reads, counts and compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES
from toy_study import stages, study, two_datasets

from stcr_plugin.artefacts import provenance
from stcr_plugin.config import load
from stcr_plugin.errors import DataError
from stcr_plugin.figures import Measure, Verdict
from stcr_plugin.report import study_report
from stcr_plugin.report.document import Document, Section, markdown
from stcr_plugin.results import ControlRow, ControlsOf
from stcr_plugin.scoring.study_figures import StudyFigures, ability_over_seeds, kinds_of_pairs
from stcr_plugin.scoring.verdicts import RULES
from stcr_plugin.study.grid import made_by, plans
from stcr_plugin.study.outcomes import Outcome, collect, read_outcome, write_outcome
from stcr_plugin.study.study_config import StudyConfig
from stcr_plugin.study.study_table import write_study


def figures(**parts: Any) -> StudyFigures:
    """The figures of a study with `parts` alone."""
    of = {"name": "toy", "asks": "", "seeds": (1, 2), "rows": (), "reference": "stage2", "equal": "nothing"}
    empty: dict[str, Any] = {
        "modes": {}, "revisions": ("a",), "masked": (), "spreads": (), "leads": (), "kinds": (), "controls": (),
        "ability": (), "costs": {},
    }  # fmt: skip
    return StudyFigures(**{**of, **empty, **parts})


def outcome_of_oracles(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> tuple[StudyConfig, Outcome]:
    """A study whose rows all are the oracle "right" on `heldout`, and what its only seed came to.

    Beside it lie, in the same folders, a comparator's results and the controls of another split.
    """
    from stcr_plugin.engines.oracles import Oracle
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.evaluation.controls import write
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.request import EvalRequest
    from stcr_plugin.registry.manifest import read_pairs

    masked = stages(
        weak_only={"overrides": ["stcr.mask=authors", "max_steps=4"]}, stage2={"overrides": ["max_steps=2"]}
    )
    controls, data, base = {"rows": ["stage2"], "split": "heldout"}, root / "data.yaml", root / "base.yaml"
    data.write_text("name: toy\n", encoding="utf-8")
    base.write_text("seed: 0\n", encoding="utf-8")
    config = study(data=str(data), base=str(base), stages=masked, splits=["heldout"], seeds=[seed], controls=controls)
    folder = root / f"seed{seed}"
    registry, _, _ = two_datasets(folder)
    header = ControlsOf(name="x", dataset="toy", split="x", n_pairs=1, n_episodes=1, mode="direct")
    pairs = read_pairs(registry, "toy", "heldout")
    for oracle, where in (("right", "toy-heldout"), ("coin", "toy-heldout-swap_ensemble")):
        engine, direct = Oracle(oracle, pairs), AskSettings(mode="direct")
        request = EvalRequest(engine=engine, dataset="toy", registry=registry, settings=direct, resamples=20)
        found = evaluate(request, root / oracle)
        for name in config.rows:
            found.write(folder / name / "eval" / where / "results.json")
    verdicts: dict[str, Verdict] = {"heldout": "holds", "dev": "fails"}
    for split, verdict in verdicts.items():
        measures = {"pair_accuracy": Measure(90.0), "difference": Measure(-2.0), "unparsed_rate": Measure(1.0)}
        row = ControlRow("wording", "", "", "", RULES["keeps"].words, verdict, "", measures=measures)
        write(folder / "stage2" / "controls" / f"toy-{split}", header, [row])
    return config, collect(config, seed, folder, plans(config, seed, folder, "toy"), "toy", made_by(config))


def test_table_has_the_rows_of_the_study_and_says_what_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, outcome = outcome_of_oracles(tmp_path, monkeypatch)
    text = write_study(config, tmp_path, [outcome]).read_text()
    table = json.loads((tmp_path / "study.json").read_text())
    assert [(row["of"]["name"], row["of"]["split"]) for row in table["rows"]] == [
        (name, "heldout") for name in config.rows
    ]
    assert all(row["figures"]["pair_accuracy"]["values"] == [100.0] for row in table["rows"])
    assert [one["verdicts"] for one in table["controls"]] == [["holds"]]
    assert set(table["controls"][0]["measures"]) == {"pair_accuracy", "difference", "unparsed_rate"}
    assert "| `wording` | stage2 | 1 holds | pair accuracy % 90.0; difference -2.0 |" in text
    assert "One seed does not show how another training run would come out." in text
    assert "| weak_only | direct | 100.0 |" in text
    assert "| +0.0 | - | - | +0.0 to +0.0 |" in text
    assert "In weak_only the loss also covers the end of the prompt and its image tokens" in text
    assert f"at code revision {provenance()['code_revision']}." in text
    (tmp_path / "seed1" / "base" / "eval" / "toy-heldout" / "results.json").unlink()
    with pytest.raises(DataError, match=r"base/eval/toy-heldout/results\.json: no such file"):
        collect(config, 1, tmp_path / "seed1", [], "toy", {})


def test_outcome_file_has_all_that_the_table_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, outcome = outcome_of_oracles(tmp_path, monkeypatch)
    text = write_study(config, tmp_path / "first", [outcome]).read_text()
    write_outcome(tmp_path / "seed1.jsonl", outcome)
    again = read_outcome(tmp_path / "seed1.jsonl")
    assert write_study(config, tmp_path / "second", [again]).read_text() == text
    assert (tmp_path / "second" / "study.json").read_text() == (tmp_path / "first" / "study.json").read_text()
    write_outcome(tmp_path / "again.jsonl", again)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "seed1.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["seeds", "ablation", "few_labels"])
def test_published_table_is_made_of_the_published_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    published = Path("docs/results") / name
    outcomes = [read_outcome(path) for path in sorted(published.glob("seed*.jsonl"))]
    config = load(StudyConfig, RECIPES / f"studies/{name}.yaml", [f"seeds={[one.seed for one in outcomes]}"])
    text = write_study(config, tmp_path, outcomes).read_text(encoding="utf-8")
    assert text == (published / "study.md").read_text(encoding="utf-8")


def test_rows_of_two_modes_are_named() -> None:
    two, one = (figures(modes={"stage1": "cot", "stage2": mode}) for mode in ("direct", "cot"))
    assert "a difference between rows of two modes is also one of how they are evaluated." in study_report.method(two)
    assert "two modes" not in study_report.method(one)


def test_kinds_of_pairs_are_compared_with_the_reference_seed_by_seed() -> None:
    def result(name: str, seed: int, within: float | None, near: float) -> dict[str, Any]:
        phases = {} if within is None else {"within": {"pair_accuracy": within, "n_pairs": 20}}
        windows = [{"steps": "5..11", "pair_accuracy": near, "n_pairs": 30}]
        parts = {"by_phase": phases, "by_distance": {"windows": windows}}
        return {"name": name, "seed": seed, "dataset": "toy", "split": "heldout", **parts}

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
    assert "| toy, heldout | within one phase | weak_only | 62.0 ± 2.8 | -13.0 ± 9.9 | 40 |" in text
    without = [result("stage2", 1, None, 90.0), *results[1:]]  # no such pairs under one seed
    assert {one.kind for one in kinds_of_pairs(without, "stage2")} == {"5..11 steps"}


def test_general_ability_is_compared_with_the_first_row_seed_by_seed() -> None:
    accuracies = {"base": (80.0, 70.0), "stage2": (60.0, 56.0)}
    by_seed = [
        {
            row: {"n": 10, "accuracy": values[number], "f1": values[number], "yes_ratio": 50.0}
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
    assert "-17.0 ± 4.2" in text
    assert study_report.ability(figures(ability=ability_over_seeds([{}, {}]))) == []
