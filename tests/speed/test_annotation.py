"""How busy `stcr annotate` keeps a server, and how much memory it takes, with requests counted at the server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from answering_server import counts_at
from tiny_stage import REPOSITORY, quiet_environment

from stcr_plugin.registry import picture_store
from stcr_plugin.registry.data_config import FrameRules

AT_ONCE = 16
LATENCIES_S = {"annotate_saturation": (0.5, 1_500), "annotate_saturation_fast": (0.1, 10_000)}
"""Figure -> seconds of the server for each request, and pairs."""
MANY, FEW = 100_000, 1_000
SMALL = 100  # pairs
FRAMES, PER_EPISODE = 16, 50
LEAST_BUSY, GROWTH_MIB = 0.95, 150


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LATENCIES_S)
def test_a_run_keeps_a_server_busy(report: Callable[..., None], full: bool, tmp_path: Path, name: str) -> None:
    """annotate_saturation: share of what the server can answer at AT_ONCE requests at a time, while it is asked;
    ..._fast of a server that answers 160 requests per second, which is near what one core can send (no limit is set).
    annotate_cpu_ms: processor time of the whole command per request. Every picture is described; every pair is judged
    in both orders, with pictures and without.
    """
    if not full and name != next(iter(LATENCIES_S)):
        pytest.skip("the small size has no latency, and is run once")
    latency, pairs = LATENCIES_S[name] if full else (0.0, SMALL)
    registry = _pairs(tmp_path, pairs)
    with _served(tmp_path, latency) as url:
        used = _annotate(tmp_path, registry, url, checks="leak,judged,blind")
        counts = counts_at(url)
    pictures = -(-pairs // PER_EPISODE) * FRAMES
    assert counts["requests"]["judge"] == counts["requests"]["blind"] == 2 * pairs
    assert counts["requests"]["describe"] == pictures
    assert counts["most_at_once"] <= AT_ONCE
    report("annotate_cpu_ms", 1000 * (used.ru_utime + used.ru_stime) / counts["total"], "ms", None)
    if full:
        busy = counts["total"] * latency / AT_ONCE / (counts["last"] - counts["first"])
        report(name, 100 * busy, "%", None)
        assert busy >= LEAST_BUSY or name == "annotate_saturation_fast"


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_pairs(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """annotate_mib: the most resident memory of a run over MANY pairs; baseline: of one over FEW. Texts are described
    and checked by what asks nobody: the other checks hold no more than a chunk of pairs either.
    """
    peaks = {}
    for pairs in (FEW, MANY) if full else (SMALL, 2 * SMALL):
        root = tmp_path / str(pairs)
        root.mkdir()
        registry = _pairs(root, pairs)
        with _served(root, 0.0) as url:
            used = _annotate(root, registry, url, checks="leak,claims")
            counts = counts_at(url)
        assert counts["requests"].keys() == {"describe"}
        peaks[pairs] = used.ru_maxrss / 1024
    few, many = peaks.values()
    report("annotate_mib", many, "MiB", few)
    assert not full or many - few < GROWTH_MIB


def _pairs(root: Path, pairs: int) -> Path:
    """A registry with the build `many` of so many pairs, a few small pictures per episode."""
    rows = []
    for number in range(-(-pairs // PER_EPISODE)):
        name = f"e{number:06d}"
        shown = root / "recordings" / name
        shown.mkdir(parents=True)
        for frame in range(FRAMES):
            blocks = np.random.default_rng([number, frame]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = np.kron(blocks, np.ones((7, 7, 1), dtype=np.uint8))
            (shown / f"{frame:03}.png").write_bytes(picture_store.encode(picture, FrameRules()))
        rows.append(f"{name},lift the cup,{name},5\n")
    (root / "recordings" / "table.csv").write_text("episode,task,path,fps\n" + "".join(rows), encoding="utf-8")
    data: Mapping[str, Any] = {
        "name": "many",
        "source": {"kind": "frames", "root": str(root / "recordings"), "table": "table.csv"},
        "frames": {"width": 28, "height": 28, "store": "tar"},
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": PER_EPISODE, "min_frames": 1},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    (root / "data.yaml").write_text(yaml.safe_dump(dict(data)), encoding="utf-8")
    _run(root, ["data", "build", root / "data.yaml", "--registry", root / "registry"])
    return root / "registry"


@contextmanager
def _served(root: Path, latency: float) -> Iterator[str]:
    """A server in a process of its own that describes every picture in the same words and judges by the order."""
    command = [sys.executable, REPOSITORY / "tests/answering_server.py", str(latency)]
    process = subprocess.Popen(
        list(map(str, command)), env=quiet_environment(root), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        yield process.stdout.readline().strip()
        process.communicate()


def _annotate(root: Path, registry: Path, url: str, checks: str) -> Any:
    models = ["--engine", "server", "--url", url, "--server-model", "teacher", "--judge-model", "verifier"]
    own = ["--checks", checks, "--tries", "1", "--set", f"engine.concurrency={AT_ONCE}"]
    out = ["--registry", registry, "--out", root / "texts"]
    return _run(root, ["annotate", "many", "--split", "train", *models, *own, *out])


def _run(root: Path, command: Sequence[str | Path]) -> Any:
    """The resources that the command used."""
    with open(root / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stcr_plugin.cli", *map(str, command)],
            env=quiet_environment(root),
            cwd=root,
            stdout=log,
            stderr=log,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (root / "log.txt").read_text(encoding="utf-8")[-3000:]
    return used
