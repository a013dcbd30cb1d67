"""A recipe that passes its preflight on the tiny data build and base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_stage import RECIPES, UNPREPARED, Workshop

from stcr_plugin.preflight.checks import preflight
from stcr_plugin.preflight.plan import Asked
from stcr_plugin.preflight.verdict import Report


@pytest.fixture(scope="session")
def shared(shared_workshop: Workshop) -> Workshop:
    return shared_workshop


@pytest.fixture
def check(shared: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Preflight of the stage 1 recipe on the tiny build and base; overrides come last, so they win."""
    for variable in ("USE_V1", "FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)

    def run(*more: str, recipe: str | Path = RECIPES / "stage1_cot.yaml", asked: Sequence[object] = ()) -> Report:
        where = (
            f"dataset_dir={shared.registry}",
            "dataset=tiny_dev",
            "stcr.evaluate.split=heldout",
            "stcr.evaluate.pairs=4",
            "per_device_train_batch_size=4",
            f"output_dir={tmp_path / 'out'}",
            f"model_name_or_path={shared.base}",
        )
        return preflight(str(recipe), [*UNPREPARED, *where, *more], Asked(**dict(asked)))  # type: ignore[arg-type]

    return run
