"""Training in several processes: the command is run again under torchrun, as `llamafactory-cli train` does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from stcr_plugin import records
from stcr_plugin.children import INTERRUPTED, bound
from stcr_plugin.errors import StcrError
from stcr_plugin.frameworks.recipe import read_recipe


def under_torchrun(recipe: str, overrides: Sequence[str], ranks: int, *, options: Sequence[str] = ()) -> None:
    """`stcr train` with these arguments in `ranks` processes, or as many as NPROC_PER_NODE says.

    NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT mean what they mean to LLaMA-Factory. SIGTERM and SIGUSR1 are passed
    on to the ranks, as SIGUSR1, which torchrun leaves alone: SIGTERM it answers itself, with 30 seconds until SIGKILL.

    Raises:
        StcrError: A process failed.
        SystemExit: They ended by a signal (INTERRUPTED).
    """
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    launcher += ["--nproc_per_node", os.environ.get("NPROC_PER_NODE") or str(ranks)]
    for option, variable in (("--nnodes", "NNODES"), ("--node_rank", "NODE_RANK"), ("--master_addr", "MASTER_ADDR")):
        if variable in os.environ:
            launcher += [option, os.environ[variable]]
    launcher += ["--master_port", os.environ.get("MASTER_PORT") or str(_free_port())]
    code = _run([*launcher, "-m", "stcr_plugin.cli", "train", *options, recipe, *overrides])
    if not code:
        return
    record = records.read(read_recipe(recipe, overrides)["output_dir"])
    if record and record.ended and record.ended.how == "interrupted":
        raise SystemExit(INTERRUPTED)
    raise StcrError(recipe, f"training under torchrun ended with exit code {code}", "see its log above")


def _run(command: Sequence[str]) -> int:
    """The exit code of torchrun, whose ranks are sent SIGTERM and SIGUSR1."""
    before = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN)}  # which torchrun inherits
    process = subprocess.Popen(bound(command))

    def pass_on(*_: object) -> None:
        import psutil  # type: ignore[import-untyped]  # accelerate depends on it

        for rank in psutil.Process(process.pid).children():
            rank.send_signal(signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, pass_on)
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
