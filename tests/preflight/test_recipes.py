"""Every recipe passes its preflight on a model without weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_only_models import MODELS, loaded_once
from tiny_stage import RECIPES, UNPREPARED, Workshop, build_ranked

from stcr_plugin import artefacts
from stcr_plugin.preflight.checks import preflight
from stcr_plugin.preflight.plan import Asked
from stcr_plugin.preflight.verdict import Report

REPOSITORY = RECIPES.parent
GRPO = RECIPES / "stage3_grpo.yaml"
STAGES = sorted([*RECIPES.glob("stage*.yaml"), RECIPES / "weak_only.yaml", *(RECIPES / "models").glob("*/*/*.yaml")])
STAGES.remove(GRPO)
# What the tiny build has in place of each recipe's own data, by the end of that one's name.
TINY = {
    "cot": "tiny_cot",
    "describe": "tiny_cot",
    "reflect": "tiny_dev",
    "weak": "tiny_weak",
    "forward": "tiny_forward",
    "general": "tiny_dev",
    "order": "ranked_order",
    "frame": "ranked_frame",
}


@pytest.fixture(scope="module", autouse=True)
def ranked(shared: Workshop) -> None:
    build_ranked(shared.registry)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", autouse=True)
def processors_are_loaded_once() -> Iterator[None]:
    with loaded_once():
        yield


def machines(path: Path) -> tuple[int, float | None]:
    """(how many GPUs, GB of each), as the recipe's header has it; None where it names none."""
    found = re.search(r"(?:(\d+) machines of )?(one|\d+) GPUs? of (\d+) GB", path.read_text(encoding="utf-8"))
    if found is None:
        return 1, None
    return int(found[1] or 1) * (1 if found[2] == "one" else int(found[2])), float(found[3])


def stage_1(folder: Path, model: Path, recipe: dict[str, Any]) -> Path:
    """What a finished stage 1 leaves, without the weights: the model's own files, or an adapter on it."""
    folder.mkdir(parents=True)
    if recipe.get("finetuning_type") == "lora":
        adapter = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(model),
            "r": recipe["lora_rank"],
            "lora_alpha": recipe.get("lora_alpha", 2 * recipe["lora_rank"]),
            "lora_dropout": recipe.get("lora_dropout", 0.0),
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        }
        (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    else:
        for file in model.iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
    record = {
        "name": "stage1",
        "mode": "cot",
        "template": recipe["template"],
        "finished": True,
        "base": str(model),
        "base_digest": artefacts.model_digest(model),
        "model_digest": artefacts.model_digest(folder),
        "image_max_pixels": recipe["image_max_pixels"],
        "datasets": ["tiny_cot"],
        "recipe": {},
    }
    (folder / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def checked(path: Path, shared: Workshop, models: Path, out: Path, *more: str) -> Report:
    """The recipe on the tiny build, with its own model where that is a real one, else with the tiny base."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    real = path.parts[-3] if path.parts[-4] == "models" else None
    model = shared.base
    if real:
        model = models / real
        if not model.is_dir():
            MODELS[real](model)
    named = ",".join(TINY[name.strip().rpartition("_")[2]] for name in recipe["dataset"].split(","))
    overrides = [
        *UNPREPARED,
        f"dataset_dir={shared.registry}",
        f"dataset={named}",
        "stcr.evaluate.dataset=tiny",
        "stcr.evaluate.split=heldout",
        "stcr.evaluate.pairs=4",
        f"output_dir={out / 'out'}",
    ]
    if recipe["stcr"].get("starts_from") == "stage":
        parent = stage_1(out / "stage1", model, recipe)
        adapter = recipe.get("finetuning_type") == "lora"
        overrides += [f"{'adapter' if adapter else 'model'}_name_or_path={parent}"]
        overrides += [f"model_name_or_path={model}"] if adapter else []
    else:
        overrides += [f"model_name_or_path={model}"]
    if "deepspeed" in recipe:
        overrides += [f"deepspeed={REPOSITORY / recipe['deepspeed']}"]
    gpus, memory = machines(path)
    return preflight(str(path), [*overrides, *more], Asked(gpus=gpus, gpu_memory=memory))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("path", STAGES, ids=lambda path: str(path.relative_to(RECIPES).with_suffix("")))
def test_recipe_passes(path: Path, shared: Workshop, models: Path, tmp_path: Path) -> None:
    report = checked(path, shared, models, tmp_path)
    assert report.passes(), str(report)
    assert "not checked" not in {verdict.check for verdict in report.verdicts}, str(report)


@pytest.mark.slow
def test_recipe_of_a_real_model_is_told_of_a_wrong_template(shared: Workshop, models: Path, tmp_path: Path) -> None:
    path = RECIPES / "models" / "qwen2_5_vl_3b" / "lora_24gb" / "stage1.yaml"
    report = checked(path, shared, models, tmp_path, "template=stcr_intern_vl")
    found = [str(verdict) for verdict in report.verdicts if verdict.level == "error" and verdict.check == "template"]
    assert len(found) == 1
    assert "set template to the one of this model: stcr_qwen2_vl" in found[0]


def test_a_stage_that_the_check_does_not_know_is_refused_by_name(
    shared: Workshop, models: Path, tmp_path: Path
) -> None:
    report = checked(GRPO, shared, models, tmp_path)
    assert not report.passes()
    assert report.verdicts[0].problem == "grpo: LLaMA-Factory has no trainer for it, and `stcr check` does not know it"
    assert report.verdicts[0].fix == "train with --backend trl"
