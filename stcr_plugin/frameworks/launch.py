"""Several processes: a training started again under torchrun, as `llamafactory-cli train` does it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from stcr_plugin.errors import StcrError


def under_torchrun(recipe: str, overrides: Sequence[str], ranks: int) -> None:
    """`stcr train` with these arguments in `ranks` processes, or as many as NPROC_PER_NODE says.

    NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT mean what they mean to LLaMA-Factory. Raises StcrError where a
    process failed.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    launcher += ["--nproc_per_node", os.environ.get("NPROC_PER_NODE") or str(ranks)]
    for option, variable in (("--nnodes", "NNODES"), ("--node_rank", "NODE_RANK"), ("--master_addr", "MASTER_ADDR")):
        if variable in os.environ:
            launcher += [option, os.environ[variable]]
    launcher += ["--master_port", os.environ.get("MASTER_PORT") or str(_free_port())]
    done = subprocess.run([*launcher, "-m", "stcr_plugin.cli", "train", recipe, *overrides])
    if done.returncode:
        raise StcrError(
            f"{recipe}: training under torchrun ended with exit code {done.returncode}; its log stands above"
        )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
