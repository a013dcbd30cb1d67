"""The real LeRobot: it finds our reward model by its naming rule, and trains a policy with our progress file."""

import json
import math
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rabc_weights import rabc_weights

from stcr_plugin.cli import main
from stcr_plugin.evaluation.judge import judge
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.release.export import export

REAL = Path("/work/shared/real/g1_pick_bottle")
EPISODES = (1, 8, 11)  # 8 is done in the opposite direction
CHUNK = 10  # frames, one second
pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(chain, tmp_path_factory):
    return export(chain / "stage2", tmp_path_factory.mktemp("out") / "stage2", registry=chain / "data_registry").out


def rewards(python, **asked):
    script = Path(__file__).with_name("lerobot_reward.py")
    done = subprocess.run([str(python), str(script), json.dumps(asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_rewards_by_lerobots_factory_are_the_probabilities_of_our_judge(python, chain, folder):
    pairs = read_pairs(chain / "data_registry", "stcr", "seen")[:3]
    root = chain / "data_registry"
    for pair in pairs:
        reference, frames = root / pair.earlier_image, [root / pair.later_image, root / pair.earlier_image]
        found = rewards(
            python("lerobot"),
            config={"folder": str(folder), "references": [str(reference)]},
            frames=[str(frame) for frame in frames],
            task=pair.task,
        )
        ours = judge(folder, [reference, frames[0]], pair.task).probabilities[1]
        assert found["rewards"] == pytest.approx([ours, 0.5], abs=1e-3)  # a picture is as far as itself
        assert found["again"] == found["rewards"]
        assert all(math.isfinite(one) for one in found["rewards"])
        assert not found["trainable"]


def by_lerobot(python, script, **asked):
    """What a script prints that LeRobot's Python runs, without a network."""
    command = [str(python("lerobot")), str(Path(__file__).with_name(script)), json.dumps(asked)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(asked["out"]).parent / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_a_policy_trains_with_the_weights_of_our_file(python, chain, tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    recorded = tmp_path / "recorded"
    by_lerobot(python, "lerobot_recording.py", source=str(REAL), episodes=EPISODES, out=str(recorded))
    label = ["label", str(recorded), "--model", str(chain / "stage2"), "--reference", "0", "--every", "1"]
    assert main([*label, "--controls", "0"]) == 0
    progress = recorded / "stcr_progress.parquet"
    rows = pq.read_table(sorted(recorded.glob("data/**/*.parquet")), columns=["index"], partitioning=None)
    assert pq.read_table(progress, columns=["index"]).equals(rows)

    asked = {"dataset": str(recorded), "progress": str(progress), "chunk": CHUNK, "out": str(tmp_path / "trained")}
    steps = json.loads(by_lerobot(python, "lerobot_training.py", **asked)[-1])
    expected = rabc_weights(progress, CHUNK)
    assert len(steps) == 5
    for step in steps:
        own = [expected[index] for index in step["index"]]
        assert step["weights"] == pytest.approx([len(own) * one / (sum(own) + 1e-6) for one in own], abs=1e-4)
        assert math.isfinite(step["loss"])
    assert len({round(one, 3) for step in steps for one in step["weights"]}) > 1  # not every frame counts alike


def test_what_is_missing_is_named(python, folder, tmp_path):
    script = Path(__file__).with_name("lerobot_reward.py")
    for config, words in (
        ({"folder": str(tmp_path)}, "stcr export"),
        ({"folder": str(folder)}, "name the pictures of a demonstration"),
        ({"folder": str(folder), "references": ["/nowhere.png"]}, "no such file"),
    ):
        asked = json.dumps({"config": config, "frames": [], "task": "t"})
        done = subprocess.run([str(python("lerobot")), str(script), asked], capture_output=True, text=True)
        assert done.returncode != 0
        assert words in done.stderr.splitlines()[-1]
