"""A study as it runs: its commands in their order, and one run of a tiny one through real commands."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import forked
import pytest
from tiny_stage import DATA, Workshop, quiet_environment
from toy_study import seed_run, study, tiny_study

from stcr_plugin import children
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.study.outcomes import outcome_file, read_outcome, write_outcome
from stcr_plugin.study.runner import run_study
from stcr_plugin.study.study_config import StudyConfig, StudyControls


def test_every_seed_starts_from_links_to_the_model_that_is_there(tmp_path: Path) -> None:
    from stcr_plugin.study.runner import _link

    with pytest.raises(ConfigError, match="holds no model; run `hf download NAME --local-dir"):
        _link(tmp_path / "real", tmp_path / "seed1/base")
    (tmp_path / "real").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "real" / name).write_text(name, encoding="utf-8")
    for _ in range(2):  # a study that goes on finds them there
        _link(tmp_path / "real", tmp_path / "seed1/base")
    (tmp_path / "seed1/base/results.json").write_text("{}", encoding="utf-8")
    assert (tmp_path / "seed1/base/model.safetensors").read_text(encoding="utf-8") == "model.safetensors"
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.slow(seconds=85)
def test_tiny_study_is_run_once_and_a_finished_one_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 2 is trained elsewhere: its outcome is that of seed 1 under another number."""

    def run(command: Sequence[str], *, env: dict[str, str], stdout: IO[bytes], stderr: int) -> int:
        return forked.start(command, quiet_environment(tmp_path), Path.cwd(), stdout=stdout, stderr=stdout).wait()

    monkeypatch.setattr(children, "run", run)
    letters = StudyControls(rows=("stage2",), split="dev", pairs=2, only=("letters",))
    config = dataclasses.replace(tiny_study(tmp_path), controls=letters)
    run_study(dataclasses.replace(config, seeds=(1,)), tmp_path / "out", jobs=2)
    first = read_outcome(outcome_file(tmp_path / "out", 1))
    results = tuple(dataclasses.replace(one, seed=2) for one in first.results)
    write_outcome(outcome_file(tmp_path / "out", 2), dataclasses.replace(first, seed=2, results=results))
    report = run_study(config, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    assert {(row["of"]["name"], row["of"]["split"]) for row in table["rows"]} == {
        (name, split) for name in ("base", "stage2", "weak_only") for split in ("dev", "heldout")
    }
    assert all(row["seeds"] == [1, 2] for row in table["rows"])
    assert [(lead["of"]["name"], lead["of"]["split"]) for lead in table["differences"]] == [
        ("weak_only", "dev"),
        ("weak_only", "heldout"),
    ]
    assert {row: cost["steps"] for row, cost in table["costs"].items()} == {"stage2": 4, "weak_only": 4}
    assert table["costs"]["stage2"]["supervised_tokens"] > table["costs"]["weak_only"]["supervised_tokens"]
    assert {(one["row"], one["control"]) for one in table["controls"]} >= {("stage2", "plain"), ("stage2", "letters")}
    assert all(len(one["verdicts"]) == 2 for one in table["controls"])
    before, after = table["general_ability"]
    assert (before["row"], after["row"]) == ("base", "stage2")
    assert before["more"] is None
    assert after["more"]["mean"] == pytest.approx(
        after["figures"]["accuracy"]["mean"] - before["figures"]["accuracy"]["mean"]
    )
    assert before["questions"] == after["questions"] > 0
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000
    kept = [path for name in ("*.safetensors", "results.json") for path in (tmp_path / "out").rglob(name)]
    times = [path.stat().st_mtime_ns for path in kept]
    text = report.read_text()
    assert run_study(config, tmp_path / "out").read_text() == text
    assert [path.stat().st_mtime_ns for path in kept] == times

    config = dataclasses.replace(config, seeds=(1,))  # the other's file would be refused before
    retrained = dataclasses.replace(config, stages={**config.stages, "weak_only": config.stages["stage2"]})
    retrained = dataclasses.replace(retrained, equal="nothing")
    with pytest.raises(ConfigError, match="weak_only: was trained by another recipe"):
        run_study(retrained, tmp_path / "out")
    with pytest.raises(ConfigError, match="another `data_overrides`"):
        run_study(dataclasses.replace(config, data_overrides=("pairs.per_episode=4",)), tmp_path / "out")

    stage = tmp_path / "out" / "seed1" / "stage2" / "stage.json"
    record = stage.read_text()
    for there, then, how in (
        ("parent_digest", "0" * 64, "from other weights"),
        ("data", [{"build": "tiny", "config_digest": "0" * 64}], "on other data"),
    ):
        stage.write_text(json.dumps({**json.loads(record), there: then}))
        with pytest.raises(ConfigError, match=f"seed1/stage2: was trained {how}"):
            run_study(config, tmp_path / "out")


def faked(monkeypatch: pytest.MonkeyPatch, root: Path, run: Callable[[Path], None]) -> StudyConfig:
    """A study whose commands are calls of `run` with the path of their log."""
    from stcr_plugin.study import runner as module

    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    monkeypatch.setattr("stcr_plugin.study.grid.supervised_tokens", lambda *_: 8.0)
    monkeypatch.setattr("stcr_plugin.study.runner.write_study", lambda config, out, outcomes: out)
    for name in ("collect", "write_outcome"):
        monkeypatch.setattr(module, name, lambda *arguments: None)
    monkeypatch.setattr(module, "_run", lambda command, log, environment: run(log))
    monkeypatch.setattr("stcr_plugin.artefacts.model_digest", lambda folder: f"the weights in {folder}")
    workshop.write_yaml(root / "base.yaml", {"seed": 0})
    return study(data=str(workshop.data), base=str(root / "base.yaml"), splits=["dev"])


def test_jobs_of_one_seed_run_at_once_and_none_before_what_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most, begun, ended = set[Path](), 0, list[str](), list[str]()
    both, second_stage = threading.Barrier(2), threading.Event()

    def run(log: Path) -> None:
        nonlocal most
        under_way.add(log)
        most = max(most, len(under_way))
        begun.append(log.stem)
        if log.stem in ("stage1", "weak_only"):
            both.wait(30)  # passed only by two at once
        if log.stem == "stage2":
            assert "stage1" in ended
            second_stage.set()
        if log.stem == "weak_only":
            assert second_stage.wait(30)  # nothing waits for what it does not start from
        ended.append(log.stem)
        under_way.discard(log)

    config = dataclasses.replace(faked(monkeypatch, tmp_path, run), seeds=(1,))
    monkeypatch.setattr("stcr_plugin.study.runner.stamp", lambda *_: "")  # no command has written figures
    run_study(config, tmp_path / "out", jobs=2)
    assert most == 2
    assert begun[:2] == ["data", "base"]
    assert sorted(begun[2:5]) == ["stage1", "stage2", "weak_only"]
    assert sorted(begun[5:]) == ["base-dev", "stage2-dev", "weak_only-dev"]


@pytest.mark.slow
def test_results_that_are_up_to_date_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study.evaluations import evaluation_commands

    begun, weights, seed_folder = list[str](), {"stage2": "first"}, tmp_path / "out" / "seed1"
    registry = seed_folder / "data_registry"

    def run(log: Path) -> None:
        if log.stem == "data":
            (registry / "tiny").mkdir(parents=True, exist_ok=True)
            (registry / "tiny" / "manifest.json").write_text("{}", encoding="utf-8")
        for one in evaluation_commands(seed_run(config, seed_folder, build="tiny")):
            if one.name == log.stem:
                begun.append(log.stem)
                one.results.parent.mkdir(parents=True, exist_ok=True)
                one.results.write_text("figures", encoding="utf-8")

    def evaluated(of: StudyConfig) -> list[str]:
        begun.clear()
        run_study(of, tmp_path / "out")
        return sorted(begun)

    made = faked(monkeypatch, tmp_path, run)
    controls = from_mapping(StudyControls, {"rows": ["stage2"], "split": "dev"}, "test")
    config = dataclasses.replace(made, seeds=(1,), controls=controls)
    monkeypatch.setattr("stcr_plugin.artefacts.model_digest", lambda folder: weights.get(folder.name, folder.name))
    every = ["base-dev", "stage2-controls", "stage2-dev", "weak_only-dev"]
    assert evaluated(config) == every
    assert evaluated(config) == []
    weights["stage2"] = "second"
    assert evaluated(config) == ["stage2-controls", "stage2-dev"]
    assert evaluated(dataclasses.replace(config, pairs=7)) == ["base-dev", "stage2-dev", "weak_only-dev"]
    first = next(evaluation_commands(seed_run(config, seed_folder, build="tiny"))).results
    first.write_text("of other pairs, by hand", encoding="utf-8")
    assert evaluated(dataclasses.replace(config, pairs=7)) == ["base-dev"]
    first.unlink()
    assert evaluated(dataclasses.replace(config, pairs=7)) == ["base-dev"]
    (registry / "tiny" / "manifest.json").write_text('{"other": 1}', encoding="utf-8")
    monkeypatch.setattr(
        "stcr_plugin.study.runner._run", lambda command, log, environment: log.stem != "data" and run(log)
    )
    assert evaluated(dataclasses.replace(config, pairs=7)) == every


def test_nothing_is_started_after_a_failure_whose_error_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stcr_plugin.study import runner as module

    begun, commands = list[tuple[str, str]](), list[module._Commands]()
    both, first_base = threading.Barrier(2), threading.Event()

    def kept(*arguments: Any) -> module._Commands:
        commands.append(made(*arguments))
        return commands[-1]

    def run(log: Path) -> None:
        begun.append((log.parents[1].name, log.stem))
        if log.stem == "data":
            both.wait(30)
        elif log.parents[1].name == "seed2":
            first_base.wait(30)
            raise StcrError("the disk is full")
        else:
            first_base.set()
            commands[0]._failed.wait(30)

    made = module._Commands
    monkeypatch.setattr(module, "_Commands", kept)
    with pytest.raises(StcrError, match="the disk is full"):
        run_study(faked(monkeypatch, tmp_path, run), tmp_path / "out", jobs=2)
    assert sorted(begun) == [("seed1", "base"), ("seed1", "data"), ("seed2", "base"), ("seed2", "data")]


@pytest.mark.slow
def test_failed_command_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    config = tiny_study(tmp_path, data_overrides=["splits.train.episodes=999"])
    with pytest.raises(StcrError, match=r"data build.*ended with exit code 1; see the end of .*data\.log"):
        run_study(config, tmp_path / "out")


@pytest.mark.parametrize("set_by_user", [None, "3"])
def test_threads_of_the_user_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_user: str | None) -> None:
    threads: list[str] = []

    def run(command: list[str], log: Path, environment: dict[str, str]) -> None:
        threads.append(environment["OMP_NUM_THREADS"])
        raise StcrError("a command", "ends here")

    config = faked(monkeypatch, tmp_path, lambda log: None)
    monkeypatch.setattr("stcr_plugin.study.runner._run", run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    with pytest.raises(StcrError, match="ends here"):
        run_study(config, tmp_path / "out", jobs=2)
    assert set(threads) == {set_by_user or str(max(1, (os.cpu_count() or 1) // 2))}
