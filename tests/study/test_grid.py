"""What a study trains: equal steps or tokens, and wrong names that are refused before training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_stage import DATA, RECIPES, Workshop
from toy_study import seed_run, stages, study, two_datasets

from stcr_plugin.config import load
from stcr_plugin.errors import ConfigError
from stcr_plugin.study.grid import Plan, check_names, check_steps
from stcr_plugin.study.runner import run_study
from stcr_plugin.study.study_config import StudyConfig

STUDIES = sorted((RECIPES / "studies").glob("*.yaml"))


def test_rows_of_unequal_steps_are_named() -> None:
    longer = stages(weak_only={"overrides": ["max_steps=7"]}, stage1={"overrides": ["max_steps=3"]})
    longer["stage2"]["overrides"] = ["max_steps=4"]
    check_steps(study(stages=longer, equal="steps"))
    longer["weak_only"]["overrides"] = ["max_steps=8"]
    with pytest.raises(ConfigError, match="stage2 takes 7 and weak_only 8; set max_steps"):
        check_steps(study(stages=longer, equal="steps"))


def test_a_row_that_the_reference_starts_from_may_be_shorter() -> None:
    longer = stages(stage1={"row": True, "overrides": ["max_steps=3"]}, stage2={"overrides": ["max_steps=4"]})
    longer["weak_only"]["overrides"] = ["max_steps=7"]
    config = study(stages=longer, equal="steps")
    assert (config.rows, config.compared) == (("base", "stage1", "stage2", "weak_only"), ("stage2", "weak_only"))
    check_steps(config)
    assert study(stages=longer, equal="tokens").compared == config.compared  # though stage2 starts from a row


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_whole_and_equal_as_they_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    config = load(StudyConfig, path)
    check_names(config)
    if config.equal == "steps":
        check_steps(config)
    assert config.name == path.stem


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("waek", "stages.weak_only: tiny has no dataset 'waek'; did you mean 'weak'"),
        ("other:waek", "stages.weak_only: other has no dataset 'waek'; did you mean 'weak'"),
        ("ohter:weak", "stages.weak_only: neither `data` nor `also` builds 'ohter'; did you mean 'other'"),
    ],
)
def test_unknown_dataset_is_refused_before_anything_is_trained(tmp_path: Path, dataset: str, words: str) -> None:
    workshop = Workshop(tmp_path)
    workshop.write_yaml(workshop.data, DATA)
    workshop.write_yaml(tmp_path / "other.yaml", {**DATA, "name": "other"})
    also = [str(tmp_path / "other.yaml")]
    wrong = study(data=str(workshop.data), also=also, stages=stages(weak_only={"datasets": [dataset]}))
    with pytest.raises(ConfigError, match=words):
        run_study(wrong, tmp_path / "out")
    assert not (tmp_path / "out" / "seed1").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": ["dev", "helout"]}, "splits: tiny has no split 'helout'; did you mean 'heldout'"),
        ({"splits": ["tyni:dev"]}, "splits: neither `data` nor `also` builds 'tyni'; did you mean 'tiny'"),
        ({"controls": {"rows": ["stage2"], "split": "seen"}}, "controls.split: tiny has no split 'seen'"),
        ({"controls": {"rows": ["stage2"], "split": "dev", "also": ["tiny:dve=x"]}}, "controls.also: .*mean 'dev'"),
        ({"controls": {"rows": ["stage2"], "split": "dev", "also": ["tiny/dev"]}}, "NAME:SPLIT=label"),
        ({"controls": {"rows": ["stage2"], "split": "dev", "only": ["proposed_wrnog"]}}, "controls.only: no control"),
    ],
)
def test_unknown_split_is_refused_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    workshop = Workshop(tmp_path)
    workshop.write_yaml(workshop.data, DATA)
    with pytest.raises(ConfigError, match=words):
        run_study(study(**{"data": str(workshop.data), "splits": ["dev"], **changes}), tmp_path / "out")
    assert not (tmp_path / "out" / "seed1").exists()


def test_stage_trains_on_a_dataset_of_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study.grid import plans

    counted = list[str]()
    monkeypatch.setattr(
        "stcr_plugin.study.grid.supervised_tokens", lambda _, name, model: counted.append(name) or float(len(name))
    )
    config = study(also=["other.yaml"], stages=stages(weak_only={"datasets": ["other:weak"]}))
    found = {plan.name: plan for plan in plans(seed_run(config, tmp_path))}
    assert found["weak_only"].recipe["dataset"] == "other_weak"
    assert found["weak_only"].recipe["stcr"]["evaluate"]["dataset"] == "toy"  # as all stages are measured
    assert found["stage2"].recipe["dataset"] == "toy_weak"
    assert "dataset" not in found["stage2"].recipe["stcr"]["evaluate"]
    assert counted == ["toy_cot", "toy_weak", "other_weak"]
    unmeasured = {"datasets": ["other:weak"], "overrides": ["stcr.evaluate=null"]}
    config = study(also=["other.yaml"], stages=stages(weak_only=unmeasured))
    assert plans(seed_run(config, tmp_path))[-1].recipe["stcr"]["evaluate"] is None


def test_passive_video_is_made_of_the_pairs_that_the_chain_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    from stcr_plugin.registry.data_config import load_data_config

    whole, passive = (load_data_config(f"recipes/data/{name}.yaml") for name in ("tabletop", "tabletop_passive"))
    for key in ("seed", "frames", "pairs"):
        assert getattr(passive, key) == getattr(whole, key), key
    assert dataclasses.replace(whole.source, heldout=0) == passive.source
    assert passive.splits == {"train": whole.splits["train"]}
    assert passive.datasets == {"passive": dataclasses.replace(whole.datasets["weak"], orders="forward")}


def test_recipe_is_the_same_however_the_folder_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study.grid import placed, plan

    monkeypatch.setattr("stcr_plugin.study.grid.supervised_tokens", lambda *_: 8.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    plans = [plan(seed_run(study(), out / "seed1"), "stage2") for out in (Path("s"), tmp_path / "s", Path("link/s"))]
    assert len({plan.recipe["output_dir"] for plan in plans}) == 3
    assert placed(plans[0].recipe) == placed(plans[1].recipe) == placed(plans[2].recipe)
    others = [{"learning_rate": 0.5}, {"model_name_or_path": "s/seed1/base"}]
    assert all(placed({**plans[0].recipe, **other}) != placed(plans[0].recipe) for other in others)


def test_equal_tokens_sets_the_steps_of_the_last_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study import grid as module

    per_sample = {"cot": 40.0, "weak": 8.0}
    monkeypatch.setattr(module, "supervised_tokens", lambda _, name, model: per_sample[name.removeprefix("toy_")])
    found: list[Plan] = module.plans(seed_run(study(equal="tokens"), tmp_path))
    tokens = {plan.name: plan.tokens for plan in found}
    assert tokens["weak_only"] == pytest.approx(tokens["stage1"] + tokens["stage2"], rel=1e-3)
    assert {plan.name: plan.steps for plan in found}["weak_only"] > 3 * found[0].steps
    with pytest.raises(ConfigError, match=r"weak_only is trained on [\d,]+ and stage2 on [\d,]+ before its last stage"):
        module.plans(seed_run(study(equal="tokens", reference="weak_only"), tmp_path))


def test_equal_tokens_refuses_a_row_that_leads_to_another_but_not_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    for name in ("forgetting", "seeds", "ablation", "rationales"):
        assert load(StudyConfig, RECIPES / "studies" / f"{name}.yaml", ["equal=tokens"]).equal == "tokens"
    with pytest.raises(ConfigError, match="equal: tokens sets the steps of the row stage1"):
        load(StudyConfig, RECIPES / "studies/seeds.yaml", ["equal=tokens", "reference=weak_only"])


def test_tokens_of_a_stage_are_weighted_as_its_datasets_are_mixed(tmp_path: Path) -> None:
    from stcr_plugin.study.grid import plan

    _, (cot, weak), (long, short) = two_datasets(tmp_path)
    assert cot > 2 * weak
    assert long > short
    small = ["max_steps=10", "per_device_train_batch_size=4", "gradient_accumulation_steps=2"]

    def each(*overrides: str) -> float:
        stage = {"datasets": ["cot", "weak"], "overrides": [*small, *overrides]}
        return plan(seed_run(study(stages=stages(weak_only=stage)), tmp_path), "weak_only").tokens / 80

    assert each() == pytest.approx((long * cot + short * weak) / (long + short))
    assert each("max_samples=6") == pytest.approx((cot + weak) / 2)
    assert each("mix_strategy=interleave_under") == pytest.approx((cot + weak) / 2)
    given = ("mix_strategy=interleave_over", "interleave_probs='0.2,0.8'")
    assert each(*given) == pytest.approx(0.2 * cot + 0.8 * weak)
    with pytest.raises(ConfigError, match=r"interleave_probs: got 0\.5,0\.3,0\.2; give a share for each of toy_cot"):
        each("mix_strategy=interleave_over", "interleave_probs='0.5,0.3,0.2'")


@pytest.mark.parametrize(
    ("environment", "overrides", "ranks"),
    [
        ({}, [], 1),
        ({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "4"}, [], 4),
        ({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "4", "NNODES": "2"}, [], 8),
        ({"USE_RAY": "1"}, ["ray_num_workers=3"], 3),
    ],
)
def test_tokens_of_a_stage_are_those_of_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], overrides: list[str], ranks: int
) -> None:
    from llamafactory.extras import misc

    from stcr_plugin.study import grid as module

    for name in ("FORCE_TORCHRUN", "NPROC_PER_NODE", "NNODES", "USE_RAY", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(misc, "get_device_count", lambda: 0)
    monkeypatch.setattr(module, "supervised_tokens", lambda *_: 8.0)
    recipe = OmegaConf.load(RECIPES / "weak_only.yaml")
    del recipe["per_device_train_batch_size"]  # LLaMA-Factory then takes 8
    OmegaConf.save(recipe, tmp_path / "weak.yaml")
    stage = {"recipe": str(tmp_path / "weak.yaml"), "overrides": ["max_steps=10", *overrides]}
    found = module.plan(seed_run(study(stages=stages(weak_only=stage)), tmp_path), "weak_only")
    assert found.tokens == 10 * 8 * 8.0 * ranks
