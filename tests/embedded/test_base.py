"""`stcr base build`: the prior is trained once, and a base without it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from stcr_plugin.config import from_mapping, load
from stcr_plugin.embedded.base import BaseConfig, build
from stcr_plugin.errors import ChainError, ConfigError


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(f"out: {tmp_path / 'base'}\nprior: prior.yaml\ngap_over: 70\npretraining: null\n")
    return str(path)


def trained(gap, calls, when="after"):
    """A stand-in for `stcr train` that leaves the record of a stage with this gap."""

    def train(recipe, overrides):
        calls.append((recipe, list(overrides)))
        values = dict(text.split("=", 1) for text in overrides)
        out, start = values["output_dir"], values["model_name_or_path"]
        shutil.copytree(start, out, dirs_exist_ok=True)
        figures = [{"when": "before", "gap_points": 99.0}, {"when": when, "gap_points": gap}]
        with open(f"{out}/stage.json", "w") as file:
            json.dump({"name": "base", "finished": True, "figures": figures}, file)

    return train


def test_prior_is_trained_into_the_random_checkpoint_once(config, tmp_path):
    calls = []
    assert build(config, ["seed=3"], "sets", trained(95.0, calls)) == tmp_path / "base"
    ((recipe, overrides),) = calls
    assert recipe == "prior.yaml"
    assert {"seed=3", "dataset_dir=sets", f"output_dir={tmp_path / 'base'}"} <= set(overrides)
    assert (tmp_path / "base_random" / "model.safetensors").is_file()
    build(config, ["seed=3"], "sets", trained(95.0, calls))
    assert len(calls) == 1, "a finished base was trained again"


def test_base_of_another_configuration_is_refused(config):
    build(config, ["seed=3"], "sets", trained(95.0, []))
    with pytest.raises(
        ChainError, match=r"made with another seed and architecture; delete that folder and .*_random to make it again"
    ):
        build(config, ["seed=4", "architecture.layers=5"], "sets", trained(95.0, []))
    assert build(config, ["seed=3", "gap_over=80"], "sets", trained(95.0, []))


@pytest.mark.parametrize("gap", [70.0, 12.5, -95.0])
def test_base_without_the_order_bias_is_refused(config, gap):
    with pytest.raises(
        ChainError, match=rf"the prior's gap is {gap} points, not over 70; raise max_steps.* and delete that folder"
    ):
        build(config, [], "sets", trained(gap, []))


def test_base_whose_gap_was_not_measured_is_refused(config):
    with pytest.raises(ChainError, match=r"no gap was measured.*evaluate.after.* and delete that folder"):
        build(config, [], "sets", trained(95.0, [], when="step 10"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"out": "x"}, "'prior' is missing"),
        ({"out": "x", "prior": "y", "sed": 1}, "unknown key 'sed', did you mean 'seed'"),
        ({"out": "x", "prior": "y", "architecture": {"layer": 2}}, "'architecture.layer', did you mean 'layers'"),
        ({"out": "x", "prior": "y", "architecture": {"mrope_section": [4, 4]}}, "architecture.mrope_section"),
    ],
)
def test_bad_configuration_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(BaseConfig, values, "test")


def test_recipe_of_the_embedded_base_loads():
    path = Path(__file__).parents[2] / "recipes" / "base_tabletop.yaml"
    assert load(BaseConfig, path).gap_over >= 70
