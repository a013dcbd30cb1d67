"""Environments of other people's software below .interop, made by `make interop`, and the chain that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import served_models
from served_models import Folder


@pytest.fixture(scope="session")
def python() -> Callable[[str], Path]:
    """The interpreter of an environment; skips where `make interop` could not make it."""
    return served_models.environment


@pytest.fixture(scope="session")
def chain() -> Path:
    """The finished chain in runs/interop."""
    return served_models.trained_chain()


@pytest.fixture(scope="session")
def exported(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folder]:
    out, made = tmp_path_factory.mktemp("exported"), dict[str, Folder]()

    def of(stage: str) -> Folder:
        if stage not in made:
            made[stage] = served_models.exported(chain / stage, out / stage, chain / "data_registry")
        return made[stage]

    return of


@pytest.fixture(scope="session")
def vllm(python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Printed line -> the address of vLLM started by it. Only one runs: another line ends the one before.

    Two would share the memory and the cores that vLLM takes for itself.
    """
    with ExitStack() as running:
        started: dict[str, str] = {}

        def at(line: str) -> str:
            if line not in started:
                started.clear()
                running.close()
                log = tmp_path_factory.mktemp("vllm") / "log.txt"
                started[line] = running.enter_context(served_models.vllm(python("vllm"), line, log))
            return started[line]

        yield at


@pytest.fixture
def by_vllm(exported: Callable[[str], Folder], vllm: Callable[[str], str]) -> str:
    """The address of vLLM with stage 2, started by the printed line."""
    return vllm(exported("stage2").line)
