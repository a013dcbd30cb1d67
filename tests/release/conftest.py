"""A real tiny model as a finished stage, and a toy build that its figures are measured on."""

import shutil

import pytest
from release_stage import finished
from toy_build import build_toy

from stcr_plugin.evaluation import plots


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """Not to be written into."""
    return build_toy(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Not to be written into."""
    from stcr_plugin.architecture import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    for name in ("accuracies", "contact_sheet"):
        monkeypatch.setattr(plots, name, lambda *arguments: None)


@pytest.fixture
def stage(model, registry, tmp_path):
    """A stage that was trained from the Hub's model, of which nothing is here."""
    return finished(shutil.copytree(model, tmp_path / "stage2"), registry)
