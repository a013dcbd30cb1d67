"""What the benchmarks share: their two sizes, and the file that each leaves in runs/bench."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stage import REPOSITORY

from stcr_plugin import artefacts

HERE = Path(__file__).parent


def is_full(config: pytest.Config) -> bool:
    """Whether benchmarks run at full size and measure: with `-m bench`, as `make bench` does.

    A speed measured among other tests says nothing, so there they run at the smallest size, to see that they still do.
    """
    return "bench" in config.getoption("markexpr").replace("not bench", "").split()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among other tests a benchmark without a small size is left out, and the others are slow: they run commands."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.slow(seconds=1))
    if not is_full(config):
        items[:] = [
            item
            for item in items
            if HERE not in item.path.parents
            or (isinstance(item, pytest.Function) and "full" in inspect.signature(item.function).parameters)
        ]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full size; a benchmark that asks for this has a small one too, and asserts no time in it."""
    return is_full(request.config)


@pytest.fixture
def report(full: bool, tmp_path: Path) -> Callable[..., None]:
    """Write runs/bench/NAME.json (STCR_BENCH names another folder; a small size writes none) and print the line."""
    folder = Path(os.environ.get("STCR_BENCH", REPOSITORY / "runs" / "bench")) if full else tmp_path / "figures"

    def write(name: str, value: float, unit: str, baseline: float | None) -> None:
        ratio = value / baseline if baseline else None
        figure = {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
        artefacts.write_json(folder / f"{name}.json", figure)
        against = f", baseline {baseline:.4g} {unit}, ratio {ratio:.4g}" if baseline and ratio else ""
        print(f"\n{name}: {value:.4g} {unit}{against}")

    return write
