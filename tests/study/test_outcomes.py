"""What a seed came to, in one file: seeds that were trained elsewhere join a study by it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import DATA, Workshop
from toy_study import stages, study

from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.scoring.metrics import RATES
from stcr_plugin.scoring.seeds import RARE
from stcr_plugin.study.grid import made_by
from stcr_plugin.study.outcomes import Cost, Outcome, outcome_file, read_outcome, write_outcome
from stcr_plugin.study.runner import run_study
from stcr_plugin.study.study_config import StudyConfig


def result(row: str, seed: int, right: int) -> dict[str, Any]:
    accuracy = 100 * right / 4
    return {
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


def two_seeds(root: Path, **changes: Any) -> StudyConfig:
    """A study of seeds 1 and 2, and in the folder `out` what each came to elsewhere."""
    root.mkdir(exist_ok=True)
    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    workshop.write_yaml(root / "base.yaml", {"seed": 0})
    config = study(data=str(workshop.data), base=str(root / "base.yaml"), splits=["dev"], **changes)
    for seed, right in ((1, 3), (2, 2)):
        outcome = Outcome(
            study="toy",
            seed=seed,
            made_by=made_by(config),
            revisions=("abc",),
            costs={row: Cost((row,), 2, 100, 60.0 * seed) for row in ("stage2", "weak_only")},
            results=(result("base", seed, 0), result("stage2", seed, 4), result("weak_only", seed, right)),
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
    assert "| row | dev |\n| --- | --- |\n| weak_only | -37.5 (-50.0 to -25.0) |" in text
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    accuracies = {one["of"]["name"]: one["figures"]["pair_accuracy"]["values"] for one in table["rows"]}
    assert accuracies == {"base": [0.0, 0.0], "stage2": [100.0, 100.0], "weak_only": [75.0, 50.0]}
    (rival,) = table["differences"]
    assert rival["points"]["mean"] == -37.5
    assert table["costs"]["weak_only"]["seconds"] == 90.0


def test_seed_with_a_folder_is_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = two_seeds(tmp_path)
    (tmp_path / "out" / "seed2").mkdir()

    def run(command: list[str], log: Path, environment: object) -> None:
        raise DataError(f"ran {log.parents[1].name}")

    monkeypatch.setattr("stcr_plugin.study.runner._run", run)
    with pytest.raises(DataError, match="ran seed2"):
        run_study(config, tmp_path / "out")


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
        ConfigError, match=rf"seed1\.jsonl: was made with another `{key}` .* delete it to train the seed"
    ):
        run_study(other, tmp_path / "other" / "out")
    assert not (tmp_path / "other" / "out" / "study.config.json").exists()


def test_rows_and_words_may_be_fewer_and_others_than_then(tmp_path: Path) -> None:
    config = two_seeds(tmp_path)
    fewer = {name: stage for name, stage in config.stages.items() if name != "weak_only"}
    run_study(dataclasses.replace(config, stages=fewer, asks="What else?"), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [one["of"]["name"] for one in table["rows"]] == ["base", "stage2"]


def test_file_of_another_seed_or_study_is_told_by_its_name(tmp_path: Path) -> None:
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
def test_damaged_file_is_told(tmp_path: Path, damage: Any) -> None:
    two_seeds(tmp_path)
    path = outcome_file(tmp_path / "out", 1)
    path.write_text(damage(path.read_text()), encoding="utf-8")
    with pytest.raises(DataError, match=r"seed1\.jsonl: no outcome of a seed .*copy it again"):
        read_outcome(path)


def test_file_without_a_row_of_the_study_is_told(tmp_path: Path) -> None:
    config = two_seeds(tmp_path)
    path = outcome_file(tmp_path / "out", 2)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match=r"seed2\.jsonl: lacks results of weak_only; copy it again"):
        run_study(config, tmp_path / "out")
