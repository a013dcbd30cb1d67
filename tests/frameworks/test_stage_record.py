"""The record of a stage that was killed: how it goes on, and which seconds count."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_stage import RECIPES, Workshop, losses

from stcr_plugin import artefacts, records
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks import stage_record as record_module
from stcr_plugin.frameworks.checkpoints import PART, checkpoints, flaw
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_record import Record, resumed
from stcr_plugin.records import Measurement, StageRecord


class PowerCutError(Exception):
    pass


def cut(*_: Any) -> None:
    raise PowerCutError


def stage_json(run: Path, **values: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "stage.json").write_text(json.dumps({"name": "stage1", "finished": False, **values}), encoding="utf-8")
    return run


def recorded(run: Path) -> StageRecord:
    record = records.read(run)
    assert record is not None
    return record


def after(run: Path, **keys: Any) -> dict[str, Any]:
    """The framework's keys of a recipe with that output_dir once `resumed` has changed them."""
    block = {"name": "stage1", "mode": "cot"}
    recipe = Recipe.of({"output_dir": str(run), "dataset_dir": "data", **keys, "stcr": block})
    return {key: value for key, value in resumed(recipe).keys.items() if key != "dataset_dir"}


# ---- seconds and figures ----


class Clock:
    """Stands for the wall clock: it goes when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr(record_module.time, "perf_counter", lambda: self.now)


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=9, best_model_checkpoint=None)


SAVES = SimpleNamespace(save_total_limit=None)


def process(run: Path, step: int) -> Record:
    """A process that trains on from `step`."""
    record = Record(run, StageRecord(name="stage1"), resumed=step > 0)
    record.trainer = SimpleNamespace(_total_loss_scalar=0.0)
    record.start()
    record.on_train_begin(None, at(step), None)
    return record


def figures_at(step: int) -> Measurement:
    return Measurement(f"step {step}", step, 0.5)


def test_seconds_add_up_over_processes_each_up_to_the_checkpoint_that_was_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first = process(tmp_path, 0)
    for now, step in ((10.0, 3), (18.0, 6)):
        clock.now = now
        first.add(figures_at(step))
        first.on_save(SAVES, at(step), None)
    clock.now = 1000.0  # it was killed meanwhile, and step 6's checkpoint with it
    second = process(tmp_path, 3)
    assert [row.step for row in second.now.figures] == [3]
    clock.now = 1005.0
    second.on_save(SAVES, at(6), None)
    clock.now = 2000.0
    third = process(tmp_path, 6)
    clock.now = 2002.0
    third.on_save(SAVES, at(9), None)
    artefacts.write_json(tmp_path / "trainer_state.json", {"global_step": 9})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    third.finish()
    done = recorded(tmp_path)
    assert done.seconds == (10 + 5) + 2
    assert done.seconds_evaluating == 0.5
    assert done.seconds_at_checkpoints == {"3": 10.0, "6": 15.0}  # the last step's is no place to go on from
    assert done.model_digest == artefacts.model_digest(tmp_path)
    assert (done.steps, done.finished) == (9, True)


def test_a_stage_that_starts_anew_keeps_nothing_of_the_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    killed = process(tmp_path, 0)
    clock.now = 10.0
    killed.add(figures_at(0))
    killed.on_save(SAVES, at(3), None)
    process(tmp_path, 0)
    assert recorded(tmp_path).figures == ()
    assert recorded(tmp_path).seconds_at_checkpoints == {}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    record = process(tmp_path / "run", 0)
    record.add(figures_at(0))
    record.on_save(SAVES, at(3), None)
    record.finish()
    assert not (tmp_path / "run").exists()


def test_the_sum_of_losses_goes_on_from_the_checkpoint_so_that_the_mean_is_of_all_steps(tmp_path: Path) -> None:
    first = process(tmp_path, 0)
    first.trainer._total_loss_scalar = 7.5
    first.on_save(SAVES, at(3), None)
    assert process(tmp_path, 3).trainer._total_loss_scalar == 7.5


@pytest.mark.parametrize(("saving", "logs"), [(True, True), (False, False)])
def test_a_checkpoint_writes_the_loss_line_so_that_a_resumed_run_begins_a_new_one(
    tmp_path: Path, saving: bool, logs: bool
) -> None:
    control = SimpleNamespace(should_save=saving, should_log=False)
    process(tmp_path, 0).on_step_end(None, at(3), control)
    assert control.should_log is logs


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [2, 4, 6, 8]),
        (3, None, [4, 6, 8]),
        (1, None, [8]),
        (1, "checkpoint-2", [2, 8]),
        (2, "checkpoint-4", [4, 8]),
    ],
)
def test_old_checkpoints_go_when_the_record_knows_the_new_one_and_the_best_stays(
    tmp_path: Path, limit: int | None, best: str | None, left: list[int]
) -> None:
    for step in (2, 4, 6, 8, 50):  # the last is of a training before
        checkpoint(tmp_path / f"checkpoint-{step}")
    record = process(tmp_path, 0)
    for step in (2, 4, 6):
        record.on_save(SAVES, at(step), None)
    state = at(8)
    state.best_model_checkpoint = best and str(tmp_path / best)
    record.on_save(SimpleNamespace(save_total_limit=limit), state, None)
    assert checkpoints(tmp_path) == [*left, 50]
    assert "8" in recorded(tmp_path).seconds_at_checkpoints
    assert not (tmp_path / PART).exists()


# ---- how a killed stage goes on ----


def checkpoint(folder: Path) -> Path:
    """What training needs to go on, in files that are whole."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    torch.save({"step": torch.zeros(1)}, folder / "optimizer.pt")
    artefacts.write_json(folder / "trainer_state.json", {"global_step": 3})
    return folder


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


CUTS = {
    "model.safetensors is cut": lambda folder: cut_off(folder / "model.safetensors"),
    "optimizer.pt is cut": lambda folder: cut_off(folder / "optimizer.pt"),
    "trainer_state.json is missing or cut": lambda folder: cut_off(folder / "trainer_state.json"),
    "the model is missing": lambda folder: (folder / "model.safetensors").unlink(),
    "the optimizer is missing": lambda folder: (folder / "optimizer.pt").unlink(),
}


@pytest.mark.parametrize("found", CUTS)
def test_a_cut_checkpoint_is_passed_over_and_refused_where_the_recipe_names_it(
    tmp_path: Path, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, last = checkpoint(tmp_path / "checkpoint-3"), checkpoint(tmp_path / "checkpoint-6")
    assert flaw(last) is None
    CUTS[found](last)
    assert flaw(last) == found
    stage_json(tmp_path, seconds_at_checkpoints={"3": 1.0, "6": 2.0})
    assert after(tmp_path)["resume_from_checkpoint"] == str(whole)
    assert f"checkpoint-6: {found}" in caplog.text
    with pytest.raises(ConfigError, match=rf"checkpoint-6: {found}, so no training can continue"):
        after(tmp_path, resume_from_checkpoint=str(last))


def test_without_a_record_true_means_the_last_whole_checkpoint_and_none_is_an_error(tmp_path: Path) -> None:
    whole, last = checkpoint(tmp_path / "checkpoint-3"), checkpoint(tmp_path / "checkpoint-12")
    cut_off(last / "optimizer.pt")
    assert after(tmp_path, resume_from_checkpoint=True)["resume_from_checkpoint"] == str(whole)
    cut_off(whole / "optimizer.pt")
    with pytest.raises(ConfigError, match=r"no whole checkpoint \(checkpoint-3: optimizer.pt is cut; checkpoint-12"):
        after(tmp_path, resume_from_checkpoint=True)


@pytest.mark.parametrize("asked", [{}, {"resume_from_checkpoint": True}], ids=["not said", "asked to go on"])
@pytest.mark.parametrize(
    ("saved", "folders", "goes_on_from"),
    [
        ({"3": 1.0, "12": 4.0}, ["checkpoint-3", "checkpoint-12", "checkpoint-15"], "checkpoint-12"),
        ({"3": 1.0, "12": 4.0}, ["checkpoint-3"], "checkpoint-3"),
        ({}, ["checkpoint-3"], None),
        ({}, [], None),
    ],
    ids=["a later one was cut", "the last was deleted", "the only one was cut", "none"],
)
def test_it_goes_on_from_the_last_checkpoint_that_its_record_knows_else_anew(
    tmp_path: Path, asked: dict[str, Any], saved: dict[str, float], folders: list[str], goes_on_from: str | None
) -> None:
    run = stage_json(tmp_path, seconds_at_checkpoints=saved)
    for name in folders:
        checkpoint(run / name)
    told = {"resume_from_checkpoint": str(run / goes_on_from)} if goes_on_from else {"overwrite_output_dir": True}
    assert after(run, **asked) == {"output_dir": str(run), **told}


@pytest.mark.parametrize("says", ["overwrite_output_dir", "resume_from_checkpoint"])
def test_what_the_recipe_says_stands(tmp_path: Path, says: str) -> None:
    run = stage_json(tmp_path / "run", seconds_at_checkpoints={"3": 1.0})
    checkpoint(run / "checkpoint-3")
    elsewhere = str(checkpoint(tmp_path / "elsewhere" / "checkpoint-9"))
    said: dict[str, Any] = {says: True if says == "overwrite_output_dir" else elsewhere}
    assert after(run, **said) == {"output_dir": str(run), **said}


def test_a_folder_without_a_record_is_left_to_llamafactory(tmp_path: Path) -> None:
    assert after(tmp_path / "new") == {"output_dir": str(tmp_path / "new")}


# ---- real stages ----


@pytest.mark.slow
def test_a_stage_killed_between_its_weights_and_its_record_is_trained_anew(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("max_steps=2", "stcr.evaluate=null")
    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", "cut", *settings)
    killed = artefacts.model_digest(workshop.root / "cut")
    assert not records.is_finished(workshop.root / "cut")
    again = workshop.train("weak", "cut", *settings)
    record = recorded(again)
    assert (record.finished, record.steps, len(losses(again))) == (True, 2, 2)
    assert record.model_digest == killed
    assert "overwrite_output_dir" not in record.recipe


@pytest.mark.slow
def test_one_with_checkpoints_goes_on_from_the_last_but_that_of_its_end(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("max_steps=6", "stcr.evaluate=null", "save_strategy=steps", "save_steps=3")
    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", "cut_late", *settings)
    run = workshop.root / "cut_late"
    assert (run / "checkpoint-6").is_dir()  # from here transformers would train a seventh step
    killed, straight = artefacts.model_digest(run), losses(run)
    workshop.train("weak", "cut_late", *settings)
    record = recorded(run)
    assert (record.finished, record.steps) == (True, 6)
    assert losses(run) == straight
    assert record.model_digest == killed
    assert record.seconds is not None
    assert record.seconds > record.seconds_at_checkpoints["3"] > 0


@pytest.mark.slow
def test_a_base_killed_between_its_weights_and_its_record_is_built_by_the_next_call(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stcr_plugin.embedded.base import build
    from stcr_plugin.frameworks.llamafactory.experiment import train

    prior: dict[str, Any] = yaml.safe_load((RECIPES / "stage0_prior.yaml").read_text(encoding="utf-8"))
    prior |= {"max_steps": 2, "per_device_train_batch_size": 4, "dataset": "tiny_forward"}
    prior["stcr"] |= {"prepare": {}, "evaluate": {"split": "dev", "pairs": 2}}
    recipe = workshop.write_yaml(tmp_path / "prior.yaml", prior)
    values = {"out": str(tmp_path / "base"), "prior": str(recipe), "gap_over": -101.0, "pretraining": None}
    config = str(workshop.write_yaml(tmp_path / "base.yaml", values))
    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", cut)
        with pytest.raises(PowerCutError):
            build(config, [], str(workshop.registry), train)
    assert (tmp_path / "base" / "model.safetensors").is_file()
    assert build(config, [], str(workshop.registry), train) == tmp_path / "base"
    assert records.is_finished(tmp_path / "base")
