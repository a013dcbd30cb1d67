from itertools import cycle

import pytest
from benchmark_logs import WORDS
from toy_build import build_toy

from stcr_plugin.benchmark.rows import benchmark


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def made(registry):
    return benchmark(registry, "toy", "heldout")


@pytest.fixture(scope="session")
def texts(made):
    """(pair_id, order) -> what a model said, every kind of text in both orders."""
    keys = [(row.pair.pair_id, row.order) for row in made.rows]
    return dict(zip(keys, cycle(WORDS), strict=False))
