"""Data configurations of many pairs without pictures, and commands whose seconds and memory are measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from stcr_plugin import artefacts
from stcr_plugin.registry import picture_store
from stcr_plugin.registry.data_config import FrameRules

PER_EPISODE = int(os.environ.get("STCR_BENCH_PER_EPISODE", "100"))
A_SHARD = 6400  # pairs
FRAMES = 60
CORES = 2
SAMPLED_EVERY_S = 0.1


def measured(*command: object, output: Path | None = None) -> tuple[int, float, float]:
    """Exit code, seconds and most resident memory (MiB) of a command of `stcr`, and of all its processes."""
    words = [sys.executable, "-m", "stcr_plugin.cli", *map(str, command)]
    began, peak = time.perf_counter(), 0.0
    with open(output or os.devnull, "wb") as file:
        process = subprocess.Popen(
            words,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES]),
        )
        while process.poll() is None:
            peak = max(peak, sum(_resident_mib(one) for one in _family(process.pid)))
            time.sleep(SAMPLED_EVERY_S)
    return process.returncode, time.perf_counter() - began, peak


def many_pairs(folder: Path, episodes: int, **frames: str) -> Path:
    """A data configuration, and a table of so many episodes, each with a folder of small pictures.

    frames: How pictures are stored; by default not at all.
    """
    names = [f"e{number:07d}" for number in range(episodes)]
    pictures = [
        picture_store.encode(np.full((8, 8, 3), number, dtype=np.uint8), FrameRules()) for number in range(FRAMES)
    ]
    for name in names:
        shown = folder / "recordings" / name
        shown.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            (shown / f"{number:04d}.png").write_bytes(picture)
    rows = ({"episode": name, "task": "put the cup on the shelf", "path": name} for name in names)
    artefacts.write_jsonl(folder / "recordings" / "episodes.jsonl", rows)
    values = {
        "name": "million",
        "source": {"kind": "frames", "root": str(folder / "recordings"), "table": "episodes.jsonl", "fps": 10},
        "frames": frames or {"format": "none"},
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": PER_EPISODE},
        "shard_episodes": A_SHARD // PER_EPISODE,
        "datasets": {"weak": {"split": "train", "kind": "weak", "format": "parquet"}},
    }
    config = folder / "million.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config


def cpu_seconds() -> float:
    """Of the processes that ended, and of those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> list[int]:
    """The process and all below it; those that end meanwhile are left out."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
