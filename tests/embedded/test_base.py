"""`stcr base build`: the prior is trained once, and a base without it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from stcr_plugin.config import from_mapping, load, read_yaml
from stcr_plugin.embedded.architecture import Architecture, write_checkpoint
from stcr_plugin.embedded.base import BaseConfig, build
from stcr_plugin.errors import ChainError, ConfigError

RECIPES = Path(__file__).parents[2] / "recipes"


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


@pytest.mark.parametrize("name", ["base_tabletop", "base_tasks"])
def test_recipes_of_embedded_bases_load(name):
    assert load(BaseConfig, RECIPES / f"{name}.yaml").gap_over >= 70


def test_wider_base_has_heads_that_servers_take():
    wide = load(BaseConfig, RECIPES / "base_tasks.yaml").architecture
    assert wide.hidden / wide.heads == 32
    assert 2 * sum(wide.mrope_section) == 32
    assert load(BaseConfig, RECIPES / "base_tabletop.yaml").architecture == Architecture()


def test_base_that_was_made_before_a_setting_was_added_is_kept(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(f"out: {tmp_path / 'base'}\nprior: prior.yaml\npretraining: {{steps: 1, episodes: 1, frames: 2}}\n")
    calls = []
    shutil.copytree(write_checkpoint(tmp_path / "made"), tmp_path / "base")
    train = trained(95.0, calls)
    train("prior.yaml", [f"output_dir={tmp_path / 'base'}", f"model_name_or_path={tmp_path / 'made'}"])
    made = {"prior": "prior.yaml", "seed": 0, "pretraining": {"steps": 1, "episodes": 1, "frames": 2}}
    (tmp_path / "base" / "base.json").write_text(json.dumps(made))
    build(str(path), [], "sets", train)
    assert len(calls) == 1
    with pytest.raises(ChainError, match="made with another pretraining"):
        build(str(path), ["pretraining.shared=3"], "sets", train)


@pytest.mark.slow
def test_base_for_several_tasks_is_built_and_read_from_the_recipe(tmp_path):
    """A few steps of what `stcr base build recipes/base_tasks.yaml` does; so short, it has no prior yet."""
    from stcr_plugin.frameworks.llamafactory.experiment import train
    from stcr_plugin.registry.build import DataConfig
    from stcr_plugin.registry.build import build as build_data

    values = read_yaml(RECIPES / "data" / "tabletop_tasks.yaml")
    values["source"] = {"kind": "tabletop", "tasks": 4, "naming": 4, "seen": 14, "heldout": 0}
    counts = {"train": 6, "dev": 2, "passive": 6}
    values["splits"] = {name: values["splits"][name] | {"episodes": count} for name, count in counts.items()}
    values["datasets"] = {"forward": values["datasets"]["forward"] | {"pairs": 20}}
    build_data(from_mapping(DataConfig, values, "few"), tmp_path / "registry")
    short = ["max_steps=2", "per_device_train_batch_size=2", "stcr.evaluate.pairs=4", "dataloader_num_workers=0"]

    def stage(recipe, overrides):
        train(recipe, [*overrides, *short])

    changes = [f"out={tmp_path / 'base'}", f"prior={RECIPES / 'stage0_prior.yaml'}", "gap_over=-101"]
    changes += ["pretraining.episodes=2", "pretraining.shared=2", "pretraining.steps=3", "pretraining.batch_size=4"]
    changes.append("pretraining.seeing=3")
    out = build(str(RECIPES / "base_tasks.yaml"), changes, str(tmp_path / "registry"), stage)
    text = json.loads((out / "config.json").read_text())["text_config"]
    assert text["hidden_size"] // text["num_attention_heads"] == 32
