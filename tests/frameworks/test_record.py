"""The record of a stage that was killed: how it goes on, and which seconds count."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_stage import RECIPES, Workshop, losses

from stcr_plugin import artefacts
from stcr_plugin.frameworks import record as record_module
from stcr_plugin.frameworks.record import Record, go_on
from stcr_plugin.frameworks.stage import read_record


class PowerCutError(Exception):
    pass


def cut(*_: Any) -> None:
    raise PowerCutError


def stage_json(run: Path, **values: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "stage.json").write_text(json.dumps({"name": "stage1", "finished": False, **values}), encoding="utf-8")
    return run


# ---- seconds and figures ----


class Clock:
    """Stands for the wall clock: it goes when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr(record_module.time, "perf_counter", lambda: self.now)


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=9)


def process(run: Path, step: int) -> Record:
    """A process that trains on from `step`."""
    record = Record(run, {"name": "stage1", "finished": False}, resumed=step > 0)
    record.start()
    record.on_train_begin(None, at(step), None)
    return record


def figures_at(step: int) -> dict[str, Any]:
    return {"when": f"step {step}", "step": step, "seconds": 0.5}


def test_seconds_add_up_over_processes_each_up_to_the_checkpoint_that_was_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first = process(tmp_path, 0)
    for now, step in ((10.0, 3), (18.0, 6)):
        clock.now = now
        first.add_figures(figures_at(step))
        first.on_save(None, at(step), None)
    clock.now = 1000.0  # it was killed meanwhile, and step 6's checkpoint with it
    second = process(tmp_path, 3)
    assert [row["step"] for row in second.values["figures"]] == [3]
    clock.now = 1005.0
    second.on_save(None, at(6), None)
    clock.now = 2000.0
    third = process(tmp_path, 6)
    clock.now = 2002.0
    third.on_save(None, at(9), None)
    artefacts.write_json(tmp_path / "trainer_state.json", {"global_step": 9})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    third.finish()
    done = read_record(tmp_path) or {}
    assert done["seconds"] == (10 + 5) + 2
    assert done["seconds_evaluating"] == 0.5
    assert done["seconds_at_checkpoints"] == {"3": 10.0, "6": 15.0}  # the last step's is no place to go on from
    assert done["model_digest"] == artefacts.model_digest(tmp_path)
    assert (done["steps"], done["finished"]) == (9, True)


def test_a_stage_that_starts_anew_keeps_nothing_of_the_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    killed = process(tmp_path, 0)
    clock.now = 10.0
    killed.add_figures(figures_at(0))
    killed.on_save(None, at(3), None)
    process(tmp_path, 0)
    assert (read_record(tmp_path) or {})["figures"] == []
    assert (read_record(tmp_path) or {})["seconds_at_checkpoints"] == {}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    record = process(tmp_path / "run", 0)
    record.add_figures(figures_at(0))
    record.on_save(None, at(3), None)
    record.finish()
    assert not (tmp_path / "run").exists()


# ---- how a killed stage goes on ----


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
        (run / name).mkdir()
    args = {"output_dir": str(run), **asked}
    go_on(args)
    told = {"resume_from_checkpoint": str(run / goes_on_from)} if goes_on_from else {"overwrite_output_dir": True}
    assert args == {"output_dir": str(run), **told}


@pytest.mark.parametrize(
    "said", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "elsewhere/checkpoint-9"}], ids=str
)
def test_what_the_recipe_says_stands(tmp_path: Path, said: dict[str, Any]) -> None:
    run = stage_json(tmp_path, seconds_at_checkpoints={"3": 1.0})
    (run / "checkpoint-3").mkdir()
    args = {"output_dir": str(run), **said}
    go_on(args)
    assert args == {"output_dir": str(run), **said}


def test_a_folder_without_a_record_is_left_to_llamafactory(tmp_path: Path) -> None:
    args = {"output_dir": str(tmp_path / "new")}
    go_on(args)
    assert args == {"output_dir": str(tmp_path / "new")}


# ---- real stages ----


def test_a_stage_killed_between_its_weights_and_its_record_is_trained_anew(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("max_steps=2", "stcr.evaluate=null")
    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", "cut", *settings)
    killed = artefacts.model_digest(workshop.root / "cut")
    assert not (read_record(workshop.root / "cut") or {})["finished"]
    again = workshop.train("weak", "cut", *settings)
    record = read_record(again) or {}
    assert (record["finished"], record["steps"], len(losses(again))) == (True, 2, 2)
    assert record["model_digest"] == killed
    assert "overwrite_output_dir" not in record["recipe"]


@pytest.mark.slow
def test_one_with_checkpoints_goes_on_from_the_last_but_that_of_its_end(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("max_steps=6", "stcr.evaluate=null", "stcr.augment=null", "save_strategy=steps", "save_steps=3")
    with monkeypatch.context() as patch:
        patch.setattr(Record, "finish", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", "cut_late", *settings)
    run = workshop.root / "cut_late"
    assert (run / "checkpoint-6").is_dir()  # from here transformers would train a seventh step
    killed, straight = artefacts.model_digest(run), losses(run)
    workshop.train("weak", "cut_late", *settings)
    record = read_record(run) or {}
    assert (record["finished"], record["steps"]) == (True, 6)
    assert losses(run) == straight
    assert record["model_digest"] == killed
    assert record["seconds"] > record["seconds_at_checkpoints"]["3"] > 0


@pytest.mark.slow
def test_a_base_killed_between_its_weights_and_its_record_is_built_by_the_next_call(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stcr_plugin.base import build
    from stcr_plugin.frameworks.llamafactory.training import train

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
    assert (read_record(tmp_path / "base") or {})["finished"]
