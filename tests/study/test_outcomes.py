"""The outcome of a seed, in one file: seeds that were trained elsewhere join a study by it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import DATA, RECIPES, Workshop
from toy_study import seed_run, stages, study, two_datasets

from stcr_plugin.config import load
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import AnswerCauses, ClaimFigures, Factuality, Measure, Verdict
from stcr_plugin.provenance import provenance
from stcr_plugin.result_files import decode
from stcr_plugin.results import ClaimAccount, ControlRow, ControlsOf, Evaluation
from stcr_plugin.scoring.metrics import RATES
from stcr_plugin.scoring.seeds import RARE, SeedResult
from stcr_plugin.scoring.verdicts import RULES
from stcr_plugin.study.evaluations import results_file
from stcr_plugin.study.grid import made_by, plans
from stcr_plugin.study.outcomes import (
    Cost,
    Outcome,
    collect,
    outcome_file,
    read_outcome,
    write_outcome,
    write_study,
)
from stcr_plugin.study.runner import run_study
from stcr_plugin.study.study_config import StudyConfig

pytestmark = pytest.mark.usefixtures("undrawn")


def result(row: str, seed: int, right: int, claims: ClaimAccount | None = None) -> SeedResult:
    accuracy = 100 * right / 4
    values = {
        "seed": seed,
        "name": row,
        "dataset": "tiny",
        "split": "dev",
        "mode": "direct",
        "data_digest": f"data of {seed}",
        "model_digest": "x",
        "n_pairs": 8,
        "n_episodes": 2,
        **dict.fromkeys(RATES, accuracy),
        **dict.fromkeys(RARE),
        "intervals": None,
        "by_phase": {},
        "by_distance": {"windows": []},
        "per_episode": [{"episode_id": name, "n_pairs": 4, "pair_accuracy": accuracy} for name in ("a", "b")],
    }
    return dataclasses.replace(decode(SeedResult, values), claims=claims)


def two_seeds(root: Path, claims: Sequence[ClaimAccount | None] = (None, None), **changes: Any) -> StudyConfig:
    """A study of seeds 1 and 2, and in the folder `out` the outcome of each, trained elsewhere."""
    root.mkdir(exist_ok=True)
    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    workshop.write_yaml(root / "base.yaml", {"seed": 0})
    config = study(data=str(workshop.data), base=str(root / "base.yaml"), splits=["dev"], **changes)
    made = made_by(config)
    for seed, right, account in zip((1, 2), (3, 2), claims, strict=True):
        outcome = Outcome(
            study="toy",
            seed=seed,
            made_by=made,
            revisions=("abc",),
            costs={row: Cost((row,), 2, supervised_tokens=100, seconds=60.0 * seed) for row in ("stage2", "weak_only")},
            results=(result("base", seed, 0), result("stage2", seed, 4, account), result("weak_only", seed, right)),
            controls={},
            ability={},
        )
        write_outcome(outcome_file(root / "out", seed), outcome)
    return config


def test_table_of_seeds_trained_elsewhere_is_written_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stcr_plugin.study.runner._run", lambda *_: pytest.fail("nothing was to be run"))
    text = run_study(two_seeds(tmp_path), tmp_path / "out").read_text()
    assert (
        "| row | dev |\n| --- | --- |\n| base | 0.0 ± 0.0 |\n| stage2 | 100.0 ± 0.0 |\n| weak_only | 62.5 ± 17.7 |"
        in text
    )
    assert "| dev | weak_only | -37.5 | -50.0 to -25.0 | -196.3 to +121.3 | 0.500 |" in text
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    accuracies = {one["of"]["name"]: one["figures"]["pair_accuracy"]["values"] for one in table["rows"]}
    assert accuracies == {"base": [0.0, 0.0], "stage2": [100.0, 100.0], "weak_only": [75.0, 50.0]}
    (baseline,) = table["differences"]
    assert baseline["points"]["mean"] == -37.5
    assert table["costs"]["weak_only"]["seconds"] == 90.0


def test_rule_that_the_study_states_is_shown_with_each_seed(tmp_path: Path) -> None:
    text = run_study(two_seeds(tmp_path, needed_seeds=2), tmp_path / "out").read_text()
    part = text.partition("## What the rule recommends")[2]
    assert "against stage2 lies above 0 in at least 2 of 2 seeds" in part
    (line,) = [one for one in part.splitlines() if one.startswith("| weak_only | pair accuracy %, dev |")]
    assert "-25.0 (" in line
    assert "-50.0 (" in line
    assert line.endswith("| 0 | 2 | no |")
    (found,) = json.loads((tmp_path / "out" / "study.json").read_text())["recommendations"]
    assert [(lead["seed"], lead["points"]) for lead in found["leads"]] == [(1, -25.0), (2, -50.0)]
    assert "What the rule" not in run_study(two_seeds(tmp_path / "no"), tmp_path / "no" / "out").read_text()


def wrote() -> Factuality:
    shares = (Measure(90.0, (85.0, 95.0)), Measure(8.0), Measure(2.0), Measure(0.0))
    goal = {"goal": ClaimFigures(7, Measure(80.0), off=1.5)}
    return Factuality(*shares, goal, AnswerCauses(3, 1), n_claims=14, n_answers=8, n_undescribed=0)


def test_outcome_has_what_the_evaluation_of_a_row_says_of_its_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = outcome_of_oracles(tmp_path, monkeypatch)
    run, account = seed_run(config, tmp_path / "seed1"), ClaimAccount(wrote())
    path = results_file(run, "stage2", ("toy", "heldout"))
    dataclasses.replace(Evaluation.read(path), claims=account).write(path)
    claims = {one.row.name: one.claims for one in collect(run, [], {}).results}
    assert claims == {"base": None, "stage2": account, "weak_only": None}


def test_what_models_wrote_goes_from_the_files_of_the_seeds_into_the_table(tmp_path: Path) -> None:
    accounts = [ClaimAccount(wrote()), ClaimAccount(unknown="the source records no states")]
    text = run_study(two_seeds(tmp_path, claims=accounts), tmp_path / "out").read_text()
    assert "## What they wrote" in text
    assert "| tiny, dev | stage2 | 1 | 90.0 | 8.0 | 2.0 | 0.0 | 37.5 | 12.5 | 0.0 |" in text
    (found,) = json.loads((tmp_path / "out" / "study.json").read_text())["claims"]
    assert (found["of"]["name"], found["seeds"]) == ("stage2", [1])
    assert found["unknown"] == {"2": "the source records no states"}
    assert found["families"]["goal"]["values"] == [80.0]
    outcomes = [read_outcome(outcome_file(tmp_path / "out", seed)) for seed in (1, 2)]
    assert [one.results[1].claims for one in outcomes] == accounts


def test_study_without_reasons_has_no_claims(tmp_path: Path) -> None:
    assert "What they wrote" not in run_study(two_seeds(tmp_path), tmp_path / "out").read_text()
    assert json.loads((tmp_path / "out" / "study.json").read_text())["claims"] == []


def test_seed_with_a_folder_is_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = two_seeds(tmp_path)
    (tmp_path / "out" / "seed2").mkdir()

    def run(command: list[str], log: Path, environment: object) -> None:
        raise DataError(f"ran {log.parents[1].name}")

    monkeypatch.setattr("stcr_plugin.study.runner._run", run)
    with pytest.raises(DataError, match="ran seed2"):
        run_study(config, tmp_path / "out")


def test_seed_without_a_file_is_named_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, printed = two_seeds(tmp_path), list[str]()
    outcome_file(tmp_path / "out", 2).unlink()

    def run(*_: object) -> None:
        printed.append(capsys.readouterr().out)
        raise DataError("ran")

    monkeypatch.setattr("stcr_plugin.study.runner._run", run)
    with pytest.raises(DataError, match="ran"):
        run_study(config, tmp_path / "out")
    assert printed == [f"train seed 2: no seed2.jsonl in {tmp_path / 'out'}\n"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"pairs": 7}, "pairs"),
        ({"mode": "cot"}, "mode"),
        ({"data_overrides": ("pairs.per_episode=4",)}, "data"),
        ({"base_overrides": ("gap_over=50",)}, "base"),
        ({"controls": {"rows": ["stage2"], "split": "dev"}}, "controls"),
        ({"stages": stages(weak_only={"overrides": ["learning_rate=0.5"]})}, r"stages\.weak_only"),
        ({"stages": {**stages(), "third": stages()["weak_only"]}}, r"stages\.third"),
    ],
)
def test_seed_of_another_study_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    two_seeds(tmp_path)
    other = two_seeds(tmp_path / "other", **changes)
    for seed in (1, 2):
        outcome_file(tmp_path / "out", seed).rename(outcome_file(tmp_path / "other" / "out", seed))
    with pytest.raises(
        ConfigError, match=rf"seed1\.jsonl: was made with another `{key}` .*; delete it to train the seed"
    ):
        run_study(other, tmp_path / "other" / "out")
    assert not (tmp_path / "other" / "out" / "study.config.json").exists()


def test_study_may_have_fewer_rows_and_another_question_than_the_file(tmp_path: Path) -> None:
    config = two_seeds(tmp_path)
    fewer = {name: stage for name, stage in config.stages.items() if name != "weak_only"}
    run_study(dataclasses.replace(config, stages=fewer, asks="What else?"), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [one["of"]["name"] for one in table["rows"]] == ["base", "stage2"]


def test_file_of_another_seed_or_study_is_refused(tmp_path: Path) -> None:
    config = two_seeds(tmp_path)
    outcome_file(tmp_path / "out", 1).replace(outcome_file(tmp_path / "out", 2))
    with pytest.raises(ConfigError, match=r"seed2\.jsonl: is seed 1 of the study 'toy'"):
        run_study(dataclasses.replace(config, seeds=(2,)), tmp_path / "out")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace('"study"', '"stduy"', 1),
        lambda text: text.replace('"revisions": ["abc"]', '"revisions": 5'),
        lambda text: text + "[1]\n",
        lambda text: text + '{"control": 5, "row": "stage2"}\n',
        lambda text: text + '{"control": {}}\n',
        lambda text: text + "null\n",
    ],
)
def test_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    two_seeds(tmp_path)
    path = outcome_file(tmp_path / "out", 1)
    path.write_text(damage(path.read_text()), encoding="utf-8")
    with pytest.raises(DataError, match=r"seed1\.jsonl: not the outcome of a seed .*copy it again"):
        read_outcome(path)


def test_file_without_a_row_of_the_study_is_named(tmp_path: Path) -> None:
    config = two_seeds(tmp_path)
    path = outcome_file(tmp_path / "out", 2)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match=r"seed2\.jsonl: lacks results of weak_only; copy it again"):
        run_study(config, tmp_path / "out")


def outcome_of_oracles(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> tuple[StudyConfig, Outcome]:
    """A study whose rows all are the oracle "right" on `heldout`, and the outcome of its only seed.

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
    run = seed_run(config, folder, seed)
    return config, collect(run, plans(run), made_by(config))


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
    assert "| +0.0 | +0.0 to +0.0 | unknown: one training each | - |" in text
    assert "In weak_only the loss also covers the end of the prompt and its image tokens" in text
    assert f"at code revision {provenance()['code_revision']}." in text
    (tmp_path / "seed1" / "base" / "eval" / "toy-heldout" / "results.json").unlink()
    with pytest.raises(DataError, match=r"base/eval/toy-heldout/results\.json: no such file"):
        collect(seed_run(config, tmp_path / "seed1"), [], {})


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: None, name: str
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    published = Path("docs/results") / name
    paths = sorted(published.glob("seed*.jsonl"))
    outcomes = [read_outcome(path) for path in paths]
    for path, outcome in zip(paths, outcomes, strict=True):
        write_outcome(tmp_path / path.name, outcome)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    config = load(StudyConfig, RECIPES / f"studies/{name}.yaml", [f"seeds={[one.seed for one in outcomes]}"])
    text = write_study(config, tmp_path, outcomes).read_text(encoding="utf-8")
    assert text == (published / "study.md").read_text(encoding="utf-8")
    tables = [json.loads((folder / "study.json").read_text()) for folder in (published, tmp_path)]
    for key in ("costs", "rows", "differences", "kinds_of_pairs", "controls", "general_ability"):
        assert tables[0][key] == tables[1][key]
