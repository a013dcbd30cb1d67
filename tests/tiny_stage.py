"""A data build, a base and stages so small that a test may train them: eighteen episodes, a few steps."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import yaml

REPOSITORY = Path(__file__).parents[1]
RECIPES = REPOSITORY / "recipes"
DATA = {
    "name": "tiny",
    "source": {"kind": "tabletop", "seen": 14, "heldout": 4},
    "splits": {
        "train": {"episodes": 10, "group": "seen"},
        "dev": {"episodes": 4, "group": "seen"},
        "heldout": {"episodes": 4, "group": "heldout"},
    },
    "pairs": {"per_episode": 5, "min_seconds": 0.6, "max_seconds": 4.0},
    "datasets": {
        "cot": {"split": "train", "kind": "cot"},
        "weak": {"split": "train", "kind": "weak"},
        "forward": {"split": "train", "kind": "weak", "orders": "forward"},
        "dev": {"split": "dev", "kind": "weak", "pairs": 4},
    },
}
# What makes a stage of a recipe tiny; laid over every recipe.
TINY = (
    "max_steps=4",
    "per_device_train_batch_size=4",
    "logging_steps=1",
    "stcr.evaluate.pairs=4",
    "stcr.evaluate.max_new_tokens=12",
    "dataloader_num_workers=0",  # a worker takes longer to start than so few steps, and so does another process
    "preprocessing_num_workers=1",
)
# Libraries set more variables when they are imported or train, and commands must not get those.
_STARTED_WITH = dict(os.environ)
UNPREPARED = ("stcr.prepare.data=null", "stcr.prepare.base=null")


@dataclass(frozen=True)
class Workshop:
    """A folder with a data config and, once made, its registry and a base."""

    root: Path

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def data(self) -> Path:
        return self.root / "data.yaml"

    def overrides(self, dataset: str, out: str, model: str | Path, *more: str) -> list[str]:
        """What is laid over a recipe of the repository to make it a tiny stage in this folder."""
        where = (f"dataset_dir={self.registry}", f"dataset=tiny_{dataset}", f"output_dir={self.root / out}")
        return [*TINY, *UNPREPARED, *where, f"model_name_or_path={model}", *more]

    def train(self, dataset: str, out: str, *more: str, recipe: str = "weak_only", model: Path | None = None) -> Path:
        """One tiny stage in this process, from the base unless `model` says otherwise. Returns its folder."""
        from stcr_plugin.frameworks.llamafactory.experiment import train

        train(str(RECIPES / f"{recipe}.yaml"), self.overrides(dataset, out, model or self.base, *more))
        return self.root / out

    def run(
        self, command: Sequence[str | Path], timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of the environment's bin in a process of its own; `environment` is added to ours."""
        program, *arguments = map(str, command)
        path = Path(sys.executable).parent / program
        return subprocess.run(
            [str(path), *arguments],
            env=quiet_environment(self.root) | environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def fork(
        self, command: Sequence[str | Path], timeout: float = 300, ranks: int = 1
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, but forked (forked.py), or as many `ranks` forked, with what torchrun would give to each."""
        program, *arguments = map(str, command)
        words = [str(Path(sys.executable).with_name(program)), *arguments]
        if ranks > 1 and program == "llamafactory-cli":  # what it has torchrun start
            words = [str(Path(sysconfig.get_path("purelib")) / "llamafactory" / "launcher.py"), *arguments[1:]]
        logs = [(self.root / f"rank{rank}.out", self.root / f"rank{rank}.err") for rank in range(ranks)]
        port = str(free_port())
        processes = []
        for rank, (out, err) in enumerate(logs):
            told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            told |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
            environment = quiet_environment(self.root) | (told if ranks > 1 else {})
            with out.open("wb") as stdout, err.open("wb") as stderr:
                processes.append(forked.start(words, environment, self.root, stdout=stdout, stderr=stderr))
        until = time.monotonic() + timeout
        try:
            codes = [process.wait(max(0, until - time.monotonic())) for process in processes]
        finally:
            for process in processes:
                process.kill()
        said = ["".join(file.read_text(encoding="utf-8") for file in files) for files in zip(*logs, strict=True)]
        return subprocess.CompletedProcess(words, next(filter(None, codes), 0), *said)

    def make_data(self) -> None:
        from stcr_plugin.registry.build import build, load_data_config

        self.write_yaml(self.data, DATA)
        build(load_data_config(self.data), self.registry)

    def make_base(self) -> None:
        from stcr_plugin.embedded.architecture import write_checkpoint

        write_checkpoint(self.base)

    def write_yaml(self, path: Path, values: Mapping[str, Any]) -> Path:
        path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
        return path


def build_ranked(registry: Path) -> None:
    """Preferences about the tiny recordings, beside their own build: ranked_order, ranked_frame, ranked_verdict."""
    from stcr_plugin.config import from_mapping
    from stcr_plugin.registry.build import DataConfig, build

    kinds = {
        key: {"split": "train", "kind": "prefer", "against": key, "pairs": 12} for key in ("order", "frame", "verdict")
    }
    build(from_mapping(DataConfig, {**copy.deepcopy(DATA), "name": "ranked", "datasets": kinds}, "ranked"), registry)


def started(
    workshop: Workshop, *overrides: str, fork: bool = False, **environment: str
) -> subprocess.Popen[bytes] | forked.Forked:
    """`stcr train` of the baseline's recipe in a process of its own, forked or not; what it says goes to log.txt."""
    command = [Path(sys.executable).parent / "stcr", "train", RECIPES / "weak_only.yaml", *overrides]
    with open(workshop.root / "log.txt", "ab") as log:
        return (forked.start if fork else subprocess.Popen)(
            list(map(str, command)),
            env=quiet_environment(workshop.root) | environment,
            cwd=workshop.root,
            stdout=log,
            stderr=log,
        )


def step_of(run: Path) -> int:
    """The last step that a run has logged."""
    log = run / "trainer_log.jsonl"
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return max((json.loads(line)["current_steps"] for line in lines), default=0)


def wait_for_step(process: subprocess.Popen[bytes] | forked.Forked, run: Path, step: int) -> None:
    while process.poll() is None and step_of(run) < step:
        time.sleep(0.02)


def quiet_environment(root: Path) -> dict[str, str]:
    """Our environment with one thread a process, no network, caches below `root`, and torchrun on the path."""
    return {
        **{
            key: value
            for key, value in _STARTED_WITH.items()
            if not key.startswith(("STCR_", "USE_V1", "FORCE_TORCHRUN"))
        },
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{_STARTED_WITH.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "HF_DATASETS_CACHE": str(root / "datasets_cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def history(run: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of each row of trainer_state.json's log that has `key`."""
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    return [(row["step"], row[key]) for row in state["log_history"] if key in row]


def stage_row(run: str | Path) -> dict[str, Any]:
    """A run's stage.json as it is on disk; {} without one."""
    path = Path(run) / "stage.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def losses(run: Path) -> list[float]:
    return [value for _, value in history(run, "loss")]
