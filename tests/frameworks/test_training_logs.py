"""The stages of a chain are one picture in TensorBoard, W&B and SwanLab: their names, and the axis they share."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stage import Workshop, history, stage_row

from stcr_plugin.frameworks import training_logs
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_record import Record
from stcr_plugin.frameworks.training_logs import CHAIN_STEP, tracked, with_run_names
from stcr_plugin.records import StageRecord


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def recipe(name: str, **keys: Any) -> Recipe:
    return Recipe.of({"output_dir": f"runs/demo/{name}", **keys, "stcr": {"name": name, "mode": "cot"}})


def test_a_stage_is_named_after_its_chain_and_names_in_the_recipe_are_kept() -> None:
    plain = recipe("stage1")
    assert with_run_names(plain) == plain.changed({"run_name": "demo/stage1"})
    mine = with_run_names(recipe("stage2", run_name="mine", use_swanlab=True, swanlab_project="p")).keys
    assert (mine["run_name"], mine["swanlab_run_name"], mine["swanlab_project"]) == ("mine", "demo/stage2", "p")


def test_trackers_find_the_run_in_the_environment_while_it_trains_and_yours_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in [key for key in os.environ if key.startswith(("WANDB_", "SWANLAB_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with tracked(recipe("stage1"), "0123456789abcdef01234"):
        seen = {key: value for key, value in os.environ.items() if key.startswith(("WANDB_", "SWANLAB_"))}
    assert seen == {
        "WANDB_PROJECT": "mine",
        "WANDB_RUN_GROUP": "demo",
        "WANDB_RUN_ID": "0123456789abcdef01234",
        "WANDB_RESUME": "allow",
        "SWANLAB_PROJECT": "stcr",
        "SWANLAB_RUN_ID": "0123456789abcdef01234",
        "SWANLAB_RESUME": "allow",
    }
    assert [key for key in os.environ if key.startswith(("WANDB_", "SWANLAB_"))] == ["WANDB_PROJECT"]


def test_a_resumed_stage_keeps_its_id_in_trackers_and_one_trained_anew_gets_another(tmp_path: Path) -> None:
    def run_id(resumed: bool) -> Any:
        record = Record(tmp_path, StageRecord(name="stage1"), resumed)
        record.start()
        return record.now.log_run_id

    first = run_id(False)
    assert len(first) == 21
    assert run_id(True) == first
    assert run_id(False) != first


TINY = ("max_steps=2", "stcr.evaluate.after=false")


@pytest.mark.slow
def test_stages_are_runs_of_one_chart_and_their_steps_go_on_along_the_chain(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    keep = training_logs.keep_names
    monkeypatch.setattr(
        training_logs,
        "keep_names",
        lambda trainer, before: (names.append(trainer.args.run_name), keep(trainer, before)),
    )
    first = workshop.train("cot", "demo/stage1", *TINY, recipe="stage1_cot")
    second = workshop.train("weak", "demo/stage2", *TINY, recipe="stage2_weak", model=first)
    assert names == ["demo/stage1", "demo/stage2"]
    # TensorBoard calls a run by the folder of its event files, below --logdir.
    demo = workshop.root / "demo"
    assert {str(file.parent.relative_to(demo)) for file in demo.rglob("events.out.*")} == {"stage1", "stage2"}
    one, two = (events_of(stage) for stage in (first, second))
    shared = {tag for tag in one.Tags()["scalars"] if tag.startswith(("train/stcr_", "train/loss"))}
    assert {"train/stcr_pair_accuracy", "train/loss", f"train/{CHAIN_STEP}"} <= shared
    assert shared <= set(two.Tags()["scalars"])
    axis = [[(event.step, event.value) for event in events.Scalars(f"train/{CHAIN_STEP}")] for events in (one, two)]
    assert sorted(set(axis[0])) == [(0, 0), (1, 1), (2, 2)]
    assert sorted(set(axis[1])) == [(0, 2), (1, 3), (2, 4)]
    assert stage_row(second)["chain_step_at_start"] == 2
    assert history(second, "loss")[0][0] == 1


def test_what_was_logged_behind_the_checkpoint_is_struck_out(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    from stcr_plugin.artefacts import write_json

    with SummaryWriter(str(tmp_path)) as lost:
        for step in (1, 2, 3, 4):
            lost.add_scalar("train/loss", 1.0, step)
    (file,) = tmp_path.glob("events*")  # files of one second are read in the order of a counter, "10" before "9"
    file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0", 1)))
    write_json(tmp_path / "checkpoint-2" / "trainer_state.json", {"global_step": 2})
    callback = TensorBoardCallback()
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            report_to=["tensorboard"],
            output_dir=str(tmp_path),
            resume_from_checkpoint=str(tmp_path / "checkpoint-2"),
        ),
        log=lambda row: None,
        callback_handler=SimpleNamespace(callbacks=[callback]),
        is_world_process_zero=lambda: True,
    )
    training_logs.keep_names(trainer, 0)
    callback.tb_writer.add_scalar("train/loss", 5.0, 3)
    callback.tb_writer.close()
    assert [(event.step, event.value) for event in events_of(tmp_path).Scalars("train/loss")] == [
        (1, 1),
        (2, 1),
        (3, 5),
    ]
