"""One toy build and model for all tests that evaluate, one tiny build and base for all that train."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from PIL import Image
from tiny_stage import Workshop
from toy_build import build_toy

from stcr_plugin import artefacts
from stcr_plugin.report import plots

_frozen_at = 0


def _freeze() -> None:
    """Take all objects out of the search for garbage: what imports and the collection of tests made is never any."""
    global _frozen_at
    gc.collect()
    gc.freeze()
    _frozen_at = len(sys.modules)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without searches for garbage, which take as long as all the imports."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _freeze()


def pytest_runtest_setup() -> None:
    """Every training searches for garbage among all objects, for a fifth of its time unless imports are left out."""
    if len(sys.modules) > _frozen_at + 200:
        _freeze()


@pytest.fixture(scope="session", autouse=True)
def unflushed(pytestconfig: pytest.Config) -> Iterator[None]:
    """Nothing waits for the disk: a killed process loses nothing that it wrote, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("markexpr") != "bench":
            patch.setattr(os, "fsync", lambda descriptor: None)
            patch.setattr(os, "sync", lambda: None)
        yield


@pytest.fixture(scope="session")
def shared_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    import datasets

    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    workshop.make_data()
    workshop.make_base()
    with pytest.MonkeyPatch.context() as patch:  # LLaMA-Factory caches tokenised data in the user's home otherwise
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", workshop.root / "datasets_cache")
        yield workshop


@pytest.fixture
def workshop(shared_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The shared workshop, with an environment in which a stage trains in this very process, on the CPU."""
    for variable in ("USE_V1", "FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "STCR_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return shared_workshop


@pytest.fixture
def empty(tmp_path: Path) -> Workshop:
    """A workshop in which nothing has been made."""
    return Workshop(tmp_path)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written into; a test that changes it takes a copy."""
    return build_toy(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real tiny model of random weights, not to be written into."""
    from stcr_plugin.embedded.architecture import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def drawn() -> None:
    """Asked for by a test that looks at plots in a file whose other tests are `undrawn`."""


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are small empty pictures: to draw them takes longer than all the rest of a small evaluation or report."""

    def draw_nothing(path: Path, *_: object) -> None:
        with artefacts.whole_file(path) as part:
            Image.new("L", (1, 1)).save(part, "png")

    if "drawn" not in request.fixturenames:
        for name in ("accuracies", "calibration", "contact_sheet", "progress", "correlations", "seeds"):
            monkeypatch.setattr(plots, name, draw_nothing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules come first: a long module that starts last leaves the other process without work."""
    seconds = Counter[Path]()
    for item in items:
        if marker := item.get_closest_marker("slow"):
            seconds[item.path] += marker.kwargs.get("seconds", 3)
    items.sort(key=lambda item: -seconds[item.path])
