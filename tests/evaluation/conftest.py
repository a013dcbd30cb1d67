import pytest
from toy_build import build_toy

from stcr_plugin.evaluation import plots


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """Not to be written into; a test that changes it takes a copy."""
    return build_toy(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a real tiny model of random weights, not to be written into."""
    from stcr_plugin.architecture import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def drawn():
    """Asked for by a test that looks at plots in a file whose other tests are `undrawn`."""


@pytest.fixture
def undrawn(request, monkeypatch):
    """Without plots, which take longer than all the rest of a small evaluation."""
    if "drawn" not in request.fixturenames:
        for name in ("accuracies", "contact_sheet", "progress", "correlations"):
            monkeypatch.setattr(plots, name, lambda *arguments: None)
