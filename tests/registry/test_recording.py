"""The real recordings, from the config in the repository to checked training sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stcr_plugin.registry.build import build, load_data_config
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.report.check_words import check_text

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("STCR_REAL_DATA", REPOSITORY.parent / "shared/real")) / "g1_pick_bottle"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not at {REAL} (set STCR_REAL_DATA)")


@pytest.mark.slow
def test_recordings_become_checked_training_sets_with_a_split_that_covers_the_drift(tmp_path: Path) -> None:
    few = ["pairs.per_episode=6", "datasets.cot.pairs=90", "datasets.weak.pairs=90", "datasets.forward.pairs=40"]
    config = load_data_config(REPOSITORY / "recipes/data/g1_pick_bottle.yaml", [f"source.root={REAL}", *few])
    build(config, tmp_path)
    report = check("g1", tmp_path)
    assert report.ok, check_text(report)

    manifest = read_manifest(tmp_path, "g1")
    assert manifest.claims_checked == 90 * 2 * 2  # pairs, orders, pictures; one claim each
    assert len(manifest.excluded) == 76  # the episodes that the download lacks
    assert len(read_pairs(tmp_path, "g1", "heldout")) == 6 * 6
    train, heldout = (sorted(map(int, manifest.splits[name])) for name in ("train", "heldout"))
    assert len(train) == 17
    assert not set(train) & set(heldout)
    assert min(train) < min(heldout) < 10
    assert max(train) > max(heldout) > 50
