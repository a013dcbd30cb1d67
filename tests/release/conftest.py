"""A real tiny model as a finished stage, and a toy build that its figures are measured on."""

import shutil

import pytest
from release_stage import finished


@pytest.fixture
def stage(model, registry, tmp_path):
    """A stage that was trained from the Hub's model, of which nothing is here."""
    return finished(shutil.copytree(model, tmp_path / "stage2"), registry)
