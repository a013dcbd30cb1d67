"""Real servers of an exported folder, each in a process of its own, on a free port of this machine."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_stage import REPOSITORY

from stcr_plugin.cli import main

CHAIN = REPOSITORY / "runs/interop"
SPLIT = "seen"  # of the chain's build; its episodes are in no training set
COMPARED = ("--set", "engine.logprobs=true")
START = 900.0  # seconds until a server must listen; vLLM compiles at its first start


def environment(name: str) -> Path:
    """The interpreter of an environment of `make interop`; skips where it could not be made."""
    path = REPOSITORY / ".interop" / name / "bin/python"
    if not path.with_name(".ready").exists():
        pytest.skip(f"the environment .interop/{name} is not here; `make interop` makes it, and says where it cannot")
    return path


def versions(python: Path, *names: str) -> dict[str, str]:
    """Distribution -> its version in the environment of `python`."""
    code = f"from importlib import metadata; print(*(metadata.version(one) for one in {names}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def trained_chain() -> Path:
    """The chain in runs/interop; skips where it is not finished."""
    if not (CHAIN / "stage2/stage.json").is_file():
        pytest.skip("no chain in runs/interop; `make interop` trains it")
    return CHAIN


@contextmanager
def serving(command: Sequence[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of the server that `command` starts, once it accepts connections; it ends with its children."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
        )
    try:
        yield _listening(process, port, log)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _listening(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    end = time.monotonic() + START
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}/v1"
        assert process.poll() is None, f"the server ended before it listened: {log.read_text()[-3000:]}"
        time.sleep(0.5)
    raise AssertionError(f"no server within {START:.0f} seconds: {log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def build_of(chain: Path) -> str:
    """The name of the build that a chain was trained on."""
    (manifest,) = (chain / "data_registry").glob("*/manifest.json")
    return manifest.parent.name


@dataclass(frozen=True)
class Folder:
    """An exported stage, and the line that the export printed for vLLM."""

    path: Path
    line: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def pixels(self) -> int:
        return int(json.loads((self.path / "stage.json").read_text())["image_max_pixels"])

    def at(self, url: str, *more: str) -> list[str]:
        """The options of a command for this folder behind a server."""
        return ["--engine", "server", "--url", url, "--server-model", self.name, *more]


def exported(stage: Path, out: Path, registry: Path) -> Folder:
    """Export a stage by the command that users run."""
    said = io.StringIO()
    with redirect_stdout(said):
        code = main(["export", str(stage), "--out", str(out), "--registry", str(registry)])
    assert code == 0, said.getvalue()
    return Folder(out, said.getvalue().partition("serve: ")[2].rstrip("\n"))


@contextmanager
def vllm(python: Path, line: str, log: Path) -> Iterator[str]:
    """The address of vLLM, started by a shell in its environment from a printed `line` as it is but for the port."""
    port = free_port()
    assert line.count("--port 8000") == 1
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-c", line.replace("--port 8000", f"--port {port}")]
    with serving(command, port, log, {"PATH": path, "PYTHONPATH": ""}) as url:
        yield url


@contextmanager
def llamafactory(folder: Path, name: str, most: int, log: Path) -> Iterator[str]:
    """The address of `llamafactory-cli api`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "api", "--model_name_or_path", str(folder)]
    command += ["--template", "stcr_qwen2_vl", "--infer_dtype", "float32", "--image_max_pixels", str(most)]
    own = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "API_MODEL_NAME": name}
    with serving(command, port, log, own) as url:
        yield url


def card_line(card: str, start: str) -> str:
    """The command of a model card that begins with `start`, with its continued lines."""
    found = re.search(rf"^{re.escape(start)}(?:.*\\\n)*.*$", card, re.MULTILINE)
    assert found, f"no line that starts with {start!r}"
    return found[0]
