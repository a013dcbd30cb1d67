from itertools import cycle

import pytest
from benchmark_logs import WORDS

from stcr_plugin.benchmark.rows import benchmark


@pytest.fixture(scope="session")
def made(registry):
    return benchmark(registry, "toy", "heldout")


@pytest.fixture(scope="session")
def texts(made):
    """(pair_id, order) -> response of a model, every kind of text in both orders."""
    keys = [(row.pair.pair_id, row.order) for row in made.rows]
    return dict(zip(keys, cycle(WORDS), strict=False))
