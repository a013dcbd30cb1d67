"""How fast `stcr label` goes on simulated episodes with the embedded model, in memory that does not grow with them.

STCR_BENCH_MODEL names a trained stage; the speed of an untrained base is the same. STCR_BENCH_LABEL sets the most
episodes (default 1000).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.robotics.label_files import LABEL, LabelRecord

MODEL = os.environ.get("STCR_BENCH_MODEL")
MOST = int(os.environ.get("STCR_BENCH_LABEL", "1000"))
GROWTH_MIB = 60  # what nine hundred episodes more may take


@dataclass(frozen=True)
class Labelled:
    """What one command took: CPU seconds, the start of the process included, and the most resident memory, MiB."""

    frames: int
    queries: int
    cpu_seconds: float
    mib: float


def labelled(folder: Path, model: Path, episodes: int, every: float) -> Labelled:
    """Label so many simulated episodes in a process of its own."""
    folder.mkdir()
    source = {"kind": "tabletop", "seen": episodes, "heldout": 0}
    splits = {"train": {"episodes": episodes, "group": "seen"}}
    (folder / "data.yaml").write_text(yaml.safe_dump({"name": "many", "source": source, "splits": splits}))
    asked = ["label", folder / "data.yaml", "--model", model, "--mode", "direct", "--every", every, "--controls", "0"]
    command = [sys.executable, "-m", "stcr_plugin.cli", *map(str, asked), "--out", str(folder / "out")]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    counts = LabelRecord.read(folder / "out" / LABEL).counts
    assert counts["episodes"] == episodes
    return Labelled(counts["frames"], counts["queries"], used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MODEL:
        return Path(MODEL)
    folder = tmp_path_factory.mktemp("model") / "base"
    write_checkpoint(folder)
    return folder


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_label_speed(report: Callable[..., None], model: Path, tmp_path: Path) -> None:
    """label_frames_per_cpu_second and label_cpu_ms_per_query: of episodes that are compared every half second, by CPU
    time, which a busy machine lengthens less than the time on the clock, without that of one episode alone, which is
    mostly the start of the process. Every frame of an episode counts, as its progress file has them.
    """
    start, found = (labelled(tmp_path / str(size), model, size, every=0.5) for size in (1, 31))
    seconds = found.cpu_seconds - start.cpu_seconds
    report("label_frames_per_cpu_second", (found.frames - start.frames) / seconds, "frames/s", None)
    report("label_cpu_ms_per_query", 1000 * seconds / (found.queries - start.queries), "ms", None)


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_label_memory_is_flat(report: Callable[..., None], model: Path, tmp_path: Path) -> None:
    """value: the most resident memory with all episodes; baseline: with a tenth of them. Only the first and the last
    frame of each are compared, so that many episodes take minutes.
    """
    sizes = (MOST // 10, MOST * 3 // 10, MOST)
    found = [labelled(tmp_path / str(size), model, size, every=60.0) for size in sizes]
    for size, one in zip(sizes, found, strict=True):
        print(f"{size} episodes, {one.frames} frames: {one.cpu_seconds:.1f} s, {one.mib:.0f} MiB")
    report("label_mib", found[-1].mib, "MiB", found[0].mib)
    assert found[-1].mib - found[0].mib < GROWTH_MIB
