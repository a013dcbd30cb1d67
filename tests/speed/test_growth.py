"""How the cost of each command grows with the pairs: seconds of processor time of all its processes, start included.

STCR_BENCH_SIZES names the sizes, in pairs. Draws runs/bench/growth.png, and writes runs/bench/growth.json.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from many_pairs import PER_EPISODE, cpu_seconds, many_pairs, measured
from tiny_stage import REPOSITORY

from stcr_plugin import artefacts
from stcr_plugin.report import plots

SIZES = os.environ.get("STCR_BENCH_SIZES", "1000,10000,100000")
SMALL = "100,200"


@pytest.mark.bench
@pytest.mark.slow(seconds=15)
@pytest.mark.timeout(7200)
def test_growth(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """growth_COMMAND: exponent of the pairs between the two largest sizes, 1 where cost grows as the pairs do.

    `evaluate` asks an oracle about all pairs in both orders, so it is what an evaluation costs beside its model.
    """
    sizes = [int(size) for size in (SIZES if full else SMALL).split(",")]
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for size in sizes:
        folder = tmp_path / str(size)
        folder.mkdir()
        config = many_pairs(folder, size // PER_EPISODE, format="png", store="tar")
        registry, run = folder / "registry", folder / "run"
        split = ("--dataset", "million", "--split", "train", "--limit", str(size), "--registry", registry)
        commands = {
            "build": ("data", "build", config, "--registry", registry),
            "check": ("data", "check", "million", "--registry", registry),
            "evaluate": ("eval", "--oracle", "right", *split, "--out", run),
            "report": ("report", run, "--out", folder / "report", "--registry", registry),
        }
        for name, command in commands.items() if full else [("build", commands["build"])]:
            before = cpu_seconds()
            code, _, peak = measured(*command, output=folder / f"{name}.log")
            said = (folder / f"{name}.log").read_text(encoding="utf-8")
            assert code == 0, said[-2000:]
            seconds.setdefault(name, []).append(cpu_seconds() - before)
            memory.setdefault(name, []).append(peak)
            print(f"{name}, {size:,} pairs: {seconds[name][-1]:.1f} s of processor time, {peak:.0f} MiB", flush=True)
    out = Path(os.environ.get("STCR_BENCH", REPOSITORY / "runs" / "bench")) if full else tmp_path
    artefacts.write_json(out / "growth.json", {"pairs": sizes, "seconds": seconds, "mib": memory})
    plots.growth(out / "growth.png", sizes, seconds)
    assert (out / "growth.png").stat().st_size > 1000
    for name, values in seconds.items():
        exponent = math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])
        report(f"growth_{name}", exponent, "exponent", None)
