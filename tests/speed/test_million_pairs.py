"""A million weak pairs of ten thousand episodes through the real `stcr data build`, on two cores.

No picture is stored (frames.format: none), so what is measured is listing, drawing, samples, Parquet and counting.
STCR_BENCH_PAIRS sets the number of pairs, in thousands: 10000 for the growth to ten million, of 100,000 episodes; with
STCR_BENCH_PER_EPISODE=1000 too, of the same 10,000 episodes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from stcr_plugin import artefacts
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import picture_store
from stcr_plugin.registry.data_config import FrameRules

PER_EPISODE = int(os.environ.get("STCR_BENCH_PER_EPISODE", "100"))
A_SHARD = 6400  # pairs
FRAMES = 60
THOUSANDS = int(os.environ.get("STCR_BENCH_PAIRS", "1000"))
CORES = 2
LIMIT_S_PER_MILLION, LIMIT_MIB = 300, 1024  # twice what a slow machine takes
CHECK_LIMIT_MIB = 400  # however many pairs there are
SAMPLED_EVERY_S = 0.1
SMALL = 300  # pairs


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_million_pairs(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """million_pairs_seconds: from the start of the command to its end; million_pairs_cpu_seconds: of all its processes,
    which a busy machine lengthens less. million_pairs_mib: the most resident memory (MiB) of all its processes
    together, sampled; pages that they share count in each of them. Every pair is written in both orders.
    check_million_pairs_seconds and check_million_pairs_mib: of `stcr data check` of what was built.
    """
    pairs = THOUSANDS * 1000 if full else SMALL
    config = _data(tmp_path, pairs // PER_EPISODE)
    cpu = _cpu_seconds()
    code, seconds, peak = _run("build", config, "--registry", tmp_path / "out")
    cpu = _cpu_seconds() - cpu
    assert code == 0
    # No picture was stored, which is all that the check finds.
    code, check_seconds, check_peak = _run("check", "million", "--registry", tmp_path / "out", output=tmp_path / "said")
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert (code, said.count("million/"), "has no pictures (frames.format: none)" in said) == (1, 1, True)

    counts = manifests.read_manifest(tmp_path / "out", "million").counts.datasets["million_weak"]
    assert (counts.pairs, counts.samples) == (pairs, 2 * pairs)
    assert counts.answers == {"img1": pairs, "img2": pairs}
    million = "million_pairs" if THOUSANDS == 1000 else f"pairs_{THOUSANDS}_thousand"
    report(f"{million}_seconds", seconds, "s", None)
    report(f"{million}_cpu_seconds", cpu, "s", None)
    report(f"{million}_mib", peak, "MiB", None)
    report(f"check_{million}_seconds", check_seconds, "s", None)
    report(f"check_{million}_mib", check_peak, "MiB", None)
    if full and THOUSANDS <= 1000:
        assert peak < LIMIT_MIB
    if full:
        assert check_peak < CHECK_LIMIT_MIB
    if full and THOUSANDS >= 1000:  # the processes take seconds to start, whatever they do then
        assert seconds < LIMIT_S_PER_MILLION * pairs / 1e6


def _run(*command: object, output: Path | None = None) -> tuple[int, float, float]:
    """Exit code, seconds and most resident memory (MiB) of a command of `stcr data`, and of all its processes."""
    words = [sys.executable, "-m", "stcr_plugin.cli", "data", *map(str, command)]
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


def _data(folder: Path, episodes: int) -> Path:
    """A data configuration, and a table of so many episodes, each with a folder of small pictures."""
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
        "frames": {"format": "none"},
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": PER_EPISODE},
        "shard_episodes": A_SHARD // PER_EPISODE,
        "datasets": {"weak": {"split": "train", "kind": "weak", "format": "parquet"}},
    }
    config = folder / "million.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config


def _cpu_seconds() -> float:
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
