"""One tiny data build and base for all tests that train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_stage import Workshop


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
