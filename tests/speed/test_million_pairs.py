"""A million weak pairs of ten thousand episodes through the real `stcr data build`, on two cores.

No picture is stored (frames.format: none), so what is measured is listing, drawing, samples, Parquet and counting.
STCR_BENCH_PAIRS sets the number of pairs, in thousands: 10000 for the growth to ten million, of 100,000 episodes; with
STCR_BENCH_PER_EPISODE=1000 too, of the same 10,000 episodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from many_pairs import PER_EPISODE, cpu_seconds, many_pairs, measured

from stcr_plugin.registry import manifest as manifests

THOUSANDS = int(os.environ.get("STCR_BENCH_PAIRS", "1000"))
LIMIT_S_PER_MILLION, LIMIT_MIB = 300, 1024  # twice what a slow machine takes
CHECK_LIMIT_MIB = 400  # however many pairs there are
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
    config = many_pairs(tmp_path, pairs // PER_EPISODE)
    cpu = cpu_seconds()
    code, seconds, peak = measured("data", "build", config, "--registry", tmp_path / "out")
    cpu = cpu_seconds() - cpu
    assert code == 0
    # No picture was stored, which is all that the check finds.
    code, check_seconds, check_peak = measured(
        "data", "check", "million", "--registry", tmp_path / "out", output=tmp_path / "said"
    )
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
