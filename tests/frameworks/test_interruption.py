"""A signal of a cluster's scheduler: the step is finished, a checkpoint saved, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import psutil
import pytest
from tiny_stage import RECIPES, Workshop, history, losses, stage_row, started, wait_for_step

from stcr_plugin.artefacts import model_digest
from stcr_plugin.frameworks.checkpoints import checkpoints
from stcr_plugin.frameworks.interruption import Interruption
from stcr_plugin.frameworks.launch import INTERRUPTED
from stcr_plugin.frameworks.stage_record import Record
from stcr_plugin.records import is_finished

MEASURED = ("stcr.evaluate.every_steps=2", "stcr.evaluate.before=false")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers", "evaluate"),
    [
        (signal.SIGTERM, 1, ["stcr.evaluate=null"]),
        (signal.SIGTERM, 1, MEASURED),
        (signal.SIGUSR1, 0, MEASURED),
    ],
)
def test_a_signal_ends_the_stage_after_its_step_and_the_same_command_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, workers: int, evaluate: Sequence[str]
) -> None:
    def signalled(self: Record, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3 and not sent:
            sent.append(os.getpid())
            sent.extend(child.pid for child in psutil.Process().children() if child.name() == "pt_data_worker")
            # As a scheduler does: from a process of its own, to all of a job's.
            subprocess.run(["kill", f"-{number.value}", *map(str, sent)], check=True)

    sent: list[int] = []
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)]
    settings = ("max_steps=6", *evaluate, f"dataloader_num_workers={workers}")
    name = f"{number.name}{workers}{len(evaluate)}"
    straight = workshop.train("weak", f"straight_{name}", *settings)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "on_step_begin", signalled)
        with pytest.raises(SystemExit) as caught:
            workshop.train("weak", name, *settings)
    run = workshop.root / name
    assert len(sent) == 1 + workers
    assert caught.value.code == INTERRUPTED == os.EX_TEMPFAIL
    record = stage_row(run)
    assert not record["finished"]
    assert record["ended"] == {
        "how": "interrupted",
        "step": 4,
        "why": f"{number.name} came; the same command continues from checkpoint-4",
    }
    assert checkpoints(run) == [4]
    assert not (run / "model.safetensors").exists()
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    workshop.train("weak", name, *settings)
    record, other = stage_row(run), stage_row(straight)
    assert (record["finished"], record["ended"]) == (True, {"how": "finished"})
    assert record["model_digest"] == other["model_digest"]
    assert losses(run) == losses(straight)
    assert history(run, "stcr_gap_points") == history(straight, "stcr_gap_points")


def test_a_process_that_was_forked_dies_of_a_signal_as_ever() -> None:
    interruption = Interruption()
    with interruption.listening():
        forked, tell = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(tell, b"here")
                time.sleep(60)
            finally:
                os._exit(0)
        os.read(forked, 4)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert interruption.signal is None


@pytest.mark.slow(seconds=1)
def test_before_the_first_step_a_signal_ends_the_process_at_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("stcr_plugin.frameworks.llamafactory.experiment._set_template", signalled)
    with pytest.raises(SystemExit) as caught:
        workshop.train("weak", "early")
    assert caught.value.code == INTERRUPTED
    ended = stage_row(workshop.root / "early")["ended"]
    assert (ended["how"], ended["step"]) == ("interrupted", None)


@pytest.mark.parametrize(
    "place",
    [
        "stcr_plugin.frameworks.llamafactory.experiment._set_template",
        pytest.param("stcr_plugin.frameworks.stage_record.Record.on_step_begin", marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_while_the_record_is_written_loses_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def signalled(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def end(self: Record, how: str, why: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # as torchrun sends it to a rank that is slower to leave than another
        original(self, how, why)

    original = Record.end
    monkeypatch.setattr(place, signalled)
    monkeypatch.setattr(Record, "end", end)
    name = f"twice_{place.rpartition('.')[2]}"
    with pytest.raises(SystemExit) as caught:
        workshop.train("weak", name, "stcr.evaluate=null")
    assert caught.value.code == INTERRUPTED
    ended = stage_row(workshop.root / name)["ended"]
    assert (ended["how"], ended["why"].split()[0]) == ("interrupted", "SIGUSR1")


@pytest.mark.slow
def test_in_the_last_step_a_signal_changes_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(self: Record, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Record, "on_step_begin", signalled)
    run = workshop.train("weak", "late", "stcr.evaluate=null")
    assert is_finished(run)
    assert checkpoints(run) == []


# ---- processes ----


@pytest.mark.slow(seconds=32)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_command_exits_with_75_whatever_the_number_of_its_ranks(workshop: Workshop, ranks: int) -> None:
    name = f"command{ranks}"
    run = workshop.root / name
    environment = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"} if ranks == 2 else {}
    overrides = workshop.overrides("weak", name, workshop.base, "max_steps=12", "stcr.evaluate=null")
    process = started(workshop, *overrides, fork=ranks == 1, **environment)
    wait_for_step(process, run, 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == INTERRUPTED, (workshop.root / "log.txt").read_text()[-5000:]
    record = stage_row(run)
    (step,) = checkpoints(run)
    assert 4 <= step == record["ended"]["step"] < 12
    assert record["ended"]["how"] == "interrupted"
    more = workshop.overrides("weak", f"{name}s", workshop.base, *overrides[-2:])
    for words in (overrides, more):
        done = workshop.fork(["stcr", "train", RECIPES / "weak_only.yaml", *words], ranks=ranks)
        assert done.returncode == 0, done.stderr[-5000:]
    assert losses(run) == losses(workshop.root / f"{name}s")
    assert stage_row(run)["model_digest"] == model_digest(workshop.root / f"{name}s")
