"""What the benchmarks share: the file that each leaves in runs/bench."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stage import REPOSITORY

from stcr_plugin import artefacts


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """A speed measured among other tests says nothing, so these run with `-m bench` alone, as `make bench` does."""
    return None if "bench" in config.getoption("markexpr") else True


@pytest.fixture
def report() -> Callable[..., None]:
    """Write runs/bench/NAME.json (STCR_BENCH names another folder) and print the line."""
    folder = Path(os.environ.get("STCR_BENCH", REPOSITORY / "runs" / "bench"))

    def write(name: str, value: float, unit: str, baseline: float | None) -> None:
        ratio = value / baseline if baseline else None
        figure = {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
        artefacts.write_json(folder / f"{name}.json", figure)
        against = f", baseline {baseline:.4g} {unit}, ratio {ratio:.4g}" if baseline and ratio else ""
        print(f"\n{name}: {value:.4g} {unit}{against}")

    return write
