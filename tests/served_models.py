"""Real servers of an exported folder, each in a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START = 900.0  # seconds until a server must listen; vLLM compiles at its first start
# As many threads as the cores that are given, not bound to any; GiB of its cache.
VLLM_ON_A_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}


@contextmanager
def serving(command: Sequence[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server that `command` starts; it ends with its children."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def listening(port: int, log: Path) -> str:
    """The address of a server once it accepts connections."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}/v1"
        time.sleep(0.5)
    raise AssertionError(f"no server within {START:.0f} seconds: {log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def vllm(python: Path, line: str, folder: Path, log: Path) -> Iterator[str]:
    """The address of vLLM, started by the line of a model card as it stands but for its port, beside `folder`."""
    port = free_port()
    words = shlex.split(line.replace("\\\n", " "))
    assert words[0] == "python"
    words[words.index("--port") + 1] = str(port)
    words[words.index(folder.name)] = str(folder)
    with serving([str(python), *words[1:]], log, VLLM_ON_A_CPU):
        yield listening(port, log)


@contextmanager
def llamafactory(folder: Path, name: str, most: int, log: Path) -> Iterator[str]:
    """The address of `llamafactory-cli api`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "api", "--model_name_or_path", str(folder)]
    command += ["--template", "stcr_qwen2_vl", "--infer_dtype", "float32", "--image_max_pixels", str(most)]
    own = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "API_MODEL_NAME": name}
    with serving(command, log, own):
        yield listening(port, log)


def card_line(card: str, start: str) -> str:
    """The command of a model card that begins with `start`, with its continued lines."""
    found = re.search(rf"^{re.escape(start)}(?:.*\\\n)*.*$", card, re.MULTILINE)
    assert found, f"no line that starts with {start!r}"
    return found[0]
