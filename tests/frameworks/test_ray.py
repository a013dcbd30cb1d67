"""A stage on Ray: each of its workers prepares, trains, measures and keeps the record, as a rank of torchrun does."""

from __future__ import annotations

import json

import pytest
from tiny_stage import RECIPES, Workshop, losses

# LLaMA-Factory 0.9.5 asks for ten CPUs to each device of the cluster; without a GPU its devices are the CPUs
# themselves, so no machine has enough. Here one worker with ten CPUs, which need not be there, is what it asks for.
DRIVER = """\
import sys, ray
from llamafactory.train import tuner
bundles = tuner.get_placement_group
tuner.get_placement_group = lambda devices: bundles(1)
sys.argv.append(f"master_addr={ray.util.get_node_ip_address()}")
tuner.run_exp()
"""


@pytest.mark.slow(seconds=30)
def test_a_ray_worker_runs_the_whole_stage(shared_workshop: Workshop) -> None:
    pytest.importorskip("ray")
    (shared_workshop.root / "driver.py").write_text(DRIVER, encoding="utf-8")
    cluster = ("ray_num_workers=1", "ray_init_kwargs={num_cpus: 10, include_dashboard: false}")
    overrides = shared_workshop.overrides("weak", "ray", shared_workshop.base, *cluster)
    done = shared_workshop.run(
        ["python", "driver.py", RECIPES / "weak_only.yaml", *overrides], USE_RAY="1", RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((shared_workshop.root / "ray" / "stage.json").read_text(encoding="utf-8"))
    assert record["finished"]
    assert [one["when"] for one in record["figures"]] == ["before", "after"]
    assert len(losses(shared_workshop.root / "ray")) == 4
