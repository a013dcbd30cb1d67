"""The commands of a study's evaluations: which controls run, in which mode, and where their results are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES
from toy_study import seed_run, study

from stcr_plugin.config import load
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.control_list import CONTROLS
from stcr_plugin.result_files import encode
from stcr_plugin.study.evaluations import EvaluationCommand, controls_file, evaluation_commands
from stcr_plugin.study.study_config import StudyConfig, StudyControls


def command(out: Path, **changes: Any) -> EvaluationCommand:
    """That of the controls of the row stage2."""
    config = study(**changes)
    (found,) = [one for one in evaluation_commands(seed_run(config, out)) if one.arguments[0] == "controls"]
    return found


def option(of: EvaluationCommand, name: str) -> str | None:
    return of.arguments[of.arguments.index(name) + 1] if name in of.arguments else None


def test_controls_run_in_the_mode_of_the_study_and_only_those_that_are_named(tmp_path: Path) -> None:
    plain = command(tmp_path, controls={"rows": ["stage2"]})
    assert (option(plain, "--only"), option(plain, "--mode")) == (None, None)
    chosen = command(tmp_path, mode="cot", controls={"rows": ["stage2"], "only": ["proposed_wrong", "proposed_right"]})
    assert (option(chosen, "--only"), option(chosen, "--mode")) == ("proposed_wrong,proposed_right", "cot")
    assert chosen.results.parent.name == AskSettings(mode="cot").folder("toy", "heldout")
    assert plain.results != chosen.results


def test_controls_that_name_none_are_as_they_were_in_published_outcomes() -> None:
    assert "only" not in encode(StudyControls(rows=("stage2",)))
    assert encode(StudyControls(rows=("stage2",), only=("wording",)))["only"] == ["wording"]


@pytest.mark.parametrize("mode", ["cot", "direct"])
def test_study_of_rationales_measures_steadiness_in_both_modes(tmp_path: Path, mode: str) -> None:
    config = load(StudyConfig, RECIPES / "studies/rationales.yaml", [f"mode={mode}"])
    assert config.controls
    assert {CONTROLS[name].rule for name in config.controls.only} == {"stands", "stands by reasons"}
    assert config.control_rows == config.rows[1:]
    run = seed_run(config, tmp_path)
    files = {controls_file(run, row) for row in config.control_rows}
    assert {one.results for one in evaluation_commands(run) if one.arguments[0] == "controls"} == files
