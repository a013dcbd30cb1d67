"""`stcr annotate review` as a process of its own, which serves its page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import stcr_plugin


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    @property
    def token(self) -> str:
        return self.address.split("/")[3]

    def end(self, how: signal.Signals = signal.SIGINT) -> str:
        """End it; the rest of what it printed."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=60)[0]


@contextmanager
def served(path: Path, registry: Path, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "stcr_plugin.cli", "annotate", "review", path, "--registry", registry, *options]
    environment = os.environ | {"PYTHONPATH": str(Path(stcr_plugin.__file__).parents[1])}
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("review: http://127.0.0.1:"), line
        yield Served(process, line.split()[1])
    finally:
        process.kill()
        process.communicate()
