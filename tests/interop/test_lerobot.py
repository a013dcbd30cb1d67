"""The real LeRobot: it finds our reward model by its naming rule."""

import json
import math
import subprocess
from pathlib import Path

import pytest

from stcr_plugin.evaluation.judge import judge
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.release.export import export

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
