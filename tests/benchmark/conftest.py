from itertools import cycle

import pytest
from benchmark_logs import WORDS

from stcr_plugin.benchmark.rows import benchmark
from stcr_plugin.config import from_mapping

DATA = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 2, "heldout": 3, "size": 56},
    "frames": {"width": 56, "height": 56},
    "splits": {"train": {"episodes": 2, "group": "seen"}, "heldout": {"episodes": 3, "group": "heldout"}},
    "pairs": {"per_episode": 4, "min_seconds": 0.5, "within_phase": 0.5},
    "datasets": {"weak": {"split": "train", "kind": "weak"}},
}


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    from stcr_plugin.registry.build import DataConfig, build

    folder = tmp_path_factory.mktemp("registry")
    build(from_mapping(DataConfig, DATA, "test"), folder)
    return folder


@pytest.fixture(scope="session")
def made(registry):
    return benchmark(registry, "toy", "heldout")


@pytest.fixture(scope="session")
def texts(made):
    """(pair_id, order) -> what a model said, every kind of text in both orders."""
    keys = [(row.pair.pair_id, row.order) for row in made.rows]
    return dict(zip(keys, cycle(WORDS), strict=False))
