"""A forked command ends as one in a process of its own: output, folder, variables, exit code, signals, hook."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from tiny_stage import quiet_environment

pytestmark = pytest.mark.slow

SCRIPT = """
import os, sys, time
print(sys.argv[1:], os.getcwd(), os.environ["SAID"], __name__, "torch" in sys.modules, flush=True)
finders = [getattr(one, "__name__", type(one).__name__) for one in sys.meta_path]
print("hooked", "StcrHook" in finders or "_Finder" in finders)
if sys.argv[1] == "wait":
    time.sleep(60)
if sys.argv[1] == "fail":
    raise ValueError("of the command")
sys.exit(int(sys.argv[1]))
"""


def started(folder: Path, word: str, **more: str) -> forked.Forked | subprocess.Popen[bytes]:
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(folder / "script.py"), word]
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        return forked.start(command, quiet_environment(folder) | {"SAID": "so"} | more, folder, stdout=out, stderr=err)


def test_exit_codes_and_what_is_printed_are_those_of_the_command(tmp_path: Path) -> None:
    assert started(tmp_path, "75").wait(60) == 75
    assert (tmp_path / "out").read_text() == f"['75'] {tmp_path} so __main__ True\nhooked True\n"
    assert started(tmp_path, "fail").wait(60) == 1
    assert (tmp_path / "err").read_text().endswith("ValueError: of the command\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    process = started(tmp_path, "wait")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    while not (tmp_path / "out").read_text():
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == process.poll() == -number


def test_where_the_hook_is_off_a_real_process_starts_without_it(tmp_path: Path) -> None:
    process = started(tmp_path, "0", STCR_AUTOLOAD="0")
    assert isinstance(process, subprocess.Popen)
    assert process.wait(60) == 0
    assert (tmp_path / "out").read_text().endswith("False\nhooked False\n")
