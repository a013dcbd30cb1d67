"""Processes of ours end with the one that started them, and one process at a time writes into a folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stcr_plugin import artefacts, children
from stcr_plugin.errors import StcrError

CHILD = "import os, time; os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
POLITE = f"""
import signal, sys
def leave(*_):
    sys.stderr.write("ended\\n")  # in one piece: two of them write at once
    raise SystemExit(3)
signal.signal(signal.SIGTERM, leave)
{CHILD}
"""
SEVERAL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from stcr_plugin import children
with children.passing_on("study toy"), ThreadPoolExecutor(2) as pool:
    codes = list(pool.map(children.run, [[sys.executable, "-c", code] for code in sys.argv[1:]]))
    print("codes", *codes, children.stopped(), flush=True)
print("went on")
"""
# A shell starts its background jobs with SIGINT ignored, and their children inherit that.
PARENT = """
import signal, sys
from stcr_plugin import children
signal.signal(signal.SIGINT, signal.default_int_handler)
children.run([sys.executable, "-c", sys.argv[1]])
"""


def started(code: str, *arguments: str, count: int = 1) -> tuple[subprocess.Popen[str], list[int]]:
    """A process of that code, and the ids that its children have printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(count)]


def is_gone(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until_gone(*pids: int) -> bool:
    for _ in range(100):
        if all(map(is_gone, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent_however_that_ends(number: signal.Signals) -> None:
    process, (pid,) = started(PARENT, CHILD)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert wait_until_gone(pid)


def test_a_signal_is_passed_on_and_waited_for() -> None:
    process, pids = started(SEVERAL, POLITE, POLITE, count=2)
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert process.returncode == children.INTERRUPTED
    assert out.split("\n")[0] == "codes 3 3 True"
    assert "went on" not in out
    assert err.splitlines() == ["ended", "ended", "stcr: study toy: SIGTERM came; the same command goes on"]
    assert all(map(is_gone, pids))


def test_an_interrupt_is_passed_on_too() -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process, pids = started(heard + SEVERAL, POLITE, POLITE, count=2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert out.split("\n")[0] == "codes 3 3 True"
    assert "went on" not in out
    assert err.splitlines()[:2] == ["ended", "ended"]
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert all(map(is_gone, pids))


def test_without_a_signal_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with children.passing_on("study toy"):
        assert children.run([sys.executable, "-c", "import sys; sys.exit(7)"]) == 7
        assert not children.stopped()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(StcrError), children.passing_on("study toy"):
        raise StcrError("a", "b")


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path: Path) -> None:
    command = children.bound(["touch", str(tmp_path / "there")])
    command[3] = "1" if os.getpid() != 1 else "2"
    assert subprocess.run(command).returncode == children.INTERRUPTED
    assert not (tmp_path / "there").exists()


# ---- one process at a time ----


def train(out: Path) -> None:
    from stcr_plugin.frameworks.recipe import Recipe
    from stcr_plugin.frameworks.stage_run import run_stage

    block = {"name": "stage1", "mode": "direct", "evaluate": None}
    keys = {"stage": "sft", "do_train": True, "template": "stcr_qwen2_vl", "dataset": "theirs"}
    where = {"model_name_or_path": "org/model", "output_dir": str(out), "dataset_dir": str(out.parent)}
    run_stage(Recipe.of({**where, **keys, "stcr": block}), None, lambda *_: pytest.fail("trains"))


def base(out: Path) -> None:
    from stcr_plugin.embedded.base import build

    config = out.parent / "base.yaml"
    config.write_text(f"out: {out}\nprior: prior.yaml\n", encoding="utf-8")
    build(str(config), [], "registry", train=lambda *_: pytest.fail("trains"))


def export(out: Path) -> None:
    from stcr_plugin.release.export import export as write

    run = out.parent / "run"
    artefacts.write_json(run / "stage.json", {"name": "stage1", "finished": True})
    write(run, out)


def study(out: Path) -> None:
    from toy_study import study as toy

    from stcr_plugin.study.runner import run_study

    run_study(toy(data=str(out.parent / "data.yaml"), splits=["dev"], equal="nothing"), out)


@pytest.mark.parametrize(
    ("command", "lock"),
    [(train, "out/.lock"), (base, "out/.base.lock"), (export, ".out.lock"), (study, "out/.lock")],
    ids=["train", "base", "export", "study"],
)
def test_a_second_process_in_a_folder_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], Any], lock: str
) -> None:
    monkeypatch.setattr("stcr_plugin.study.runner.check_names", lambda config: None)
    monkeypatch.delenv("RANK", raising=False)
    with artefacts.locked(tmp_path / lock), pytest.raises(StcrError) as caught:
        command(tmp_path / "out")
    line = (
        f"{tmp_path / 'out'}: another process is writing it now; wait until that one has ended, or name another folder"
    )
    assert str(caught.value) == line


def test_only_the_first_rank_takes_the_lock_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.frameworks.stage_run import _alone_in

    monkeypatch.setenv("RANK", "0")
    with _alone_in(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with _alone_in(tmp_path):
            pass


def test_torchrun_ends_once_what_started_it_has_ended() -> None:
    rank = "import os; from stcr_plugin import children; children._follow(os.getppid(), 0)"
    torchrun = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    assert children._parent_of(os.getpid()) == os.getppid()
    assert subprocess.run([sys.executable, "-c", torchrun], timeout=60).returncode == -signal.SIGTERM
