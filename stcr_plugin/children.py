"""Commands that run as processes of their own, and end when the process that started them does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERRUPTED = 75  # the exit code of a command that a signal ended: EX_TEMPFAIL of sysexits.h, not done, try again
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass
class _State:
    """The children that run, and the signal that ended this process's work."""

    running: set[subprocess.Popen[Any]] = field(default_factory=set)
    signal: str | None = None


_STATE = _State()


def bound(command: Sequence[str]) -> list[str]:
    """`command` as a process that gets SIGTERM when the thread that starts it ends, even by SIGKILL (on Linux)."""
    return [sys.executable, "-m", "stcr_plugin.children", str(os.getpid()), *command]


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent ends. Does nothing where there is no Linux."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_with_launcher() -> None:
    """Have torchrun end when `llamafactory-cli`, which started it and this process's siblings, does.

    LLaMA-Factory waits for torchrun, but passes no signal on to it. Does nothing where there is no Linux, or where
    another program started torchrun.
    """
    torchrun = os.getppid()
    launcher = _parent_of(torchrun)
    with suppress(OSError):
        if launcher and b"llamafactory-cli" in Path(f"/proc/{launcher}/cmdline").read_bytes():
            threading.Thread(target=_follow, args=(torchrun, launcher), daemon=True).start()


def _follow(torchrun: int, launcher: int) -> None:
    while os.getppid() == torchrun:
        if _parent_of(torchrun) != launcher:
            os.kill(torchrun, signal.SIGTERM)  # it passes that on to all ranks
            return
        time.sleep(1)


def _parent_of(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def run(command: Sequence[str], **options: Any) -> int:
    """The exit code of `command`, whose process ends with this one. `options` are those of Popen."""
    process = subprocess.Popen(bound(command), **options)
    _STATE.running.add(process)
    try:
        if _STATE.signal:  # it came while the process was being started
            process.terminate()
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        _STATE.running.discard(process)


def stopped() -> bool:
    """Whether a signal came inside `passing_on`, so that nothing more is to be started."""
    return _STATE.signal is not None


@contextmanager
def passing_on(what: str) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGINT go to all children as SIGTERM; once they have ended, so does this process.

    Python delivers signals to the main thread alone; in another one nothing changes. A SIGINT that is ignored, as by a
    shell's background jobs, stays ignored.

    Args:
        what: What is interrupted, for the line that says so.

    Raises:
        SystemExit: A signal came (INTERRUPTED).
        KeyboardInterrupt: It was SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _: object) -> None:
        _STATE.signal = _STATE.signal or signal.Signals(number).name
        for process in list(_STATE.running):
            process.terminate()

    heard = [signal.SIGTERM, signal.SIGUSR1]
    heard += [signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else []
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        yield
    except Exception:
        if _STATE.signal is None:
            raise
    finally:
        came, _STATE.signal = _STATE.signal, None
        for number, handler in before.items():
            signal.signal(number, handler)
        if came == "SIGINT":
            raise KeyboardInterrupt
        if came:
            print(f"stcr: {what}: {came} came; the same command goes on", file=sys.stderr)
            raise SystemExit(INTERRUPTED)


def _become(parent: int, command: Sequence[str]) -> None:
    """Turn this process into `command`, bound to its parent."""
    end_with_parent()
    if os.getppid() != parent:  # it ended before
        sys.exit(INTERRUPTED)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
