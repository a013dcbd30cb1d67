"""Commands in processes forked from one that has imported PyTorch, transformers and LLaMA-Factory already.

A real process imports them for about ten seconds. A forked one has the arguments, environment, folder and files that
it is given, imports that were made with the start-up file active and under the same variables, and an interpreter that
ends as ever. Start-up itself and torchrun are shown by real processes; `start` takes one too under other variables.

    forked.py PATH      serves on a socket at PATH, until standard input is closed
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# Variables that are read at an import; where they have other values than in the server, a real process is started.
AT_IMPORT = ("OMP_", "MKL_", "HF_", "TRANSFORMERS_", "TORCH_", "TOKENIZERS_", "CUDA_", "PYTHON", "STCR_", "USE_", "LD_",
             "DISABLE_VERSION_CHECK")  # fmt: skip
PACKAGES = (
    *("llamafactory.cli", "llamafactory.train.tuner", "trl.trainer.sft_trainer", "deepspeed", "stcr_plugin.cli"),
    # What a stage and an evaluation import when they come to it.
    *("torch.utils.tensorboard", "torchdata.stateful_dataloader", "matplotlib.backends.backend_agg", "scipy.stats"),
    *("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "transformers.models.qwen2_5_vl.processing_qwen2_5_vl"),
    *("transformers.models.qwen2_vl.image_processing_qwen2_vl", "transformers.models.qwen2.tokenization_qwen2"),
    *("transformers.models.qwen2_vl.video_processing_qwen2_vl", "stcr_plugin.registry.build"),
    *("stcr_plugin.frameworks.callback", "stcr_plugin.frameworks.stage_record", "stcr_plugin.frameworks.batches"),
    *("stcr_plugin.engines.open", "stcr_plugin.evaluation.controls", "stcr_plugin.report.evaluation_page"),
)


class Forked:
    """A forked command, with what tests ask of a Popen."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = int(connection.recv(64))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(64))
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from error
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that has imported; it ends with this one. Made once, whatever the first command's environment is."""

    def __init__(self) -> None:
        from tiny_stage import quiet_environment

        self._folder = tempfile.TemporaryDirectory()
        environment = quiet_environment(Path(self._folder.name))
        self.environment = _at_import(environment)
        self.path = f"{self._folder.name}/socket"
        command = [sys.executable, __file__, self.path]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert b"ready\n" in iter(self._process.stdout.readline, b"")


_SERVERS: list[_Server] = []
_LOCK = threading.Lock()


def _at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(AT_IMPORT) and name != "HF_DATASETS_CACHE"  # which is set again in each forked process
    }


def start(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, stdout: IO[Any], stderr: IO[Any]
) -> Forked | subprocess.Popen[bytes]:
    """A command as Popen takes it: a Python script, or our Python with a script or with `-m` and a module."""
    with _LOCK:
        if sys.platform == "linux" and not _SERVERS:
            _SERVERS.append(_Server())
    if not _SERVERS or _SERVERS[0].environment != _at_import(env):
        return subprocess.Popen(command, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_SERVERS[0].path)
    with open(os.devnull) as nothing:
        files = [file.fileno() for file in (nothing, stdout, stderr)]
        socket.send_fds(connection, [json.dumps([list(command), dict(env), str(cwd)]).encode()], files)
    return Forked(connection)


def _serve(path: str) -> list[str]:
    """Fork a process for each command, and return it there. The server itself ends here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        os.write(1, b"ready\n")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that attend to a command end by themselves
        while True:
            if listener not in select.select([listener, sys.stdin], [], [])[0]:
                os._exit(0)
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    listener.close()
                    return _attend(connection)


def _attend(connection: socket.socket) -> list[str]:
    """Fork the command and tell how it ended. Returns in the forked process alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    command, environment, folder = json.loads(said)
    child = os.fork()
    if child:
        with suppress(OSError):  # nobody listens any more
            connection.send(str(child).encode())
            connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(command)


def _become(command: Sequence[str]) -> None:
    """Run a command as its own process would, caches where its environment says."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(os.environ.get("HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE))
    words = command[Path(command[0]).name.startswith("python") :]
    if words[0] == "-m":
        sys.argv, sys.path[0] = ["-m", *words[2:]], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(words), str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    for name in PACKAGES:
        __import__(name)
    # The ranks talk through gloo; DeepSpeed would compile its own way through shared memory for a minute.
    sys.modules["deepspeed"].ops.__compatible_ops__["deepspeed_shm_comm"] = False
    assert threading.active_count() == 1, "a fork would lose a thread"
    os.fsync, os.sync = lambda descriptor: None, lambda: None  # as in conftest.py
    gc.collect()
    gc.freeze()  # a search for garbage would copy all that was imported into each forked process
    _become(_serve(sys.argv[1]))
