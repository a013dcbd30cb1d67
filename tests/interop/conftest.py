"""Environments of other people's software below .interop, made by `make interop`, and the chain that they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHAIN = REPOSITORY / "runs/interop"


@pytest.fixture(scope="session")
def python() -> Callable[[str], Path]:
    """The interpreter of an environment; skips where `make interop` could not make it."""

    def found(name: str) -> Path:
        path = REPOSITORY / ".interop" / name / "bin/python"
        if not path.with_name(".ready").exists():
            pytest.skip(
                f"the environment .interop/{name} is not here; `make interop` makes it, and says where it cannot"
            )
        return path

    return found


@pytest.fixture(scope="session")
def chain() -> Path:
    """The finished chain in runs/interop."""
    if not (CHAIN / "stage2/stage.json").is_file():
        pytest.skip("no chain in runs/interop; `make interop` trains it")
    return CHAIN
