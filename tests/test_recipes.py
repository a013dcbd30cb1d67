"""Every recipe is one that LLaMA-Factory and the plugin take, and says in its header what the formulas say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_only_models import MODELS, loaded_once

REPOSITORY = Path(__file__).parents[1]
RECIPES = REPOSITORY / "recipes"
REAL = sorted((RECIPES / "models").glob("*/*/*.yaml"))
STAGES = sorted([*RECIPES.glob("stage*.yaml"), RECIPES / "weak_only.yaml", *REAL])
GIB = 2**30
# What the figures in the headers are reckoned for: text tokens of a sample beside its pictures of 640x480.
TEXT = {"cot": 400, "direct": 170}
SIDE = (640, 480)
# GB of the GPU -> its name, and its peak in bf16 without sparsity, in floating-point operations a second:
# NVIDIA's data sheets of the A100, the L40S, and (Ada whitepaper, appendix A) the RTX 4090.
PEAK = {80: ("A100", 312e12), 48: ("L40S", 362e12), 24: ("RTX 4090", 165.2e12)}
USED = 0.35


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


@cache
def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@cache
def header(path: Path) -> dict[str, str]:
    """Field -> its text, lines joined."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()[1:]:
        field = line[2:17].strip()
        key = field or next(reversed(found))
        found[key] = f"{found.get(key, '')} {line[17:].strip()}".strip()
    return found


def gpus(path: Path) -> tuple[int, int]:
    """(how many, GB of each), as the header has it."""
    need = header(path)["Prerequisites"]
    machines, number, size = re.search(r"(?:(\d+) machines of )?(one|\d+) GPUs? of (\d+) GB", need).groups()  # type: ignore[union-attr]
    return int(machines or 1) * (1 if number == "one" else int(number)), int(size)


def args(path: Path) -> dict[str, Any]:
    """The recipe as LLaMA-Factory gets it, paths as seen from anywhere."""
    values = {key: value for key, value in read(path).items() if key != "stcr"}
    if "deepspeed" in values:
        values["deepspeed"] = str(REPOSITORY / values["deepspeed"])
    return values


@cache
def model_of(path: Path, folder: Path) -> tuple[Any, Any, Any]:
    """The recipe resolved on a model without weights, that model, and what one GPU computes at once."""
    from PIL import Image

    from stcr_plugin.engines.picture_loading import fit
    from stcr_plugin.frameworks.stcr_block import StcrSettings
    from stcr_plugin.preflight.memory import Batch
    from stcr_plugin.preflight.model import read_model
    from stcr_plugin.preflight.resolve import resolve

    values = args(path) | {"model_name_or_path": str(_folder(path.parts[-3], folder)), "adapter_name_or_path": None}
    resolved = resolve(values, gpus(path)[0])
    model = read_model(resolved, StcrSettings(name="stage", mode="direct"), folder)
    picture = fit(Image.new("RGB", SIDE), values["image_max_pixels"], 1024)
    pixels = model.processor.image_processor(images=[picture], return_tensors="pt")
    if "image_grid_thw" in pixels:
        patches = int(pixels["image_grid_thw"].prod())
        tokens = patches // model.merge
    else:
        patches = (448 // 14) ** 2 + 1
        tokens = model.config.image_seq_length
    samples = values["per_device_train_batch_size"] * (2 if ranks(path) else 1)
    text = TEXT[read(path)["stcr"]["mode"]]
    longest = 2 * tokens + text  # the answer stands behind the pictures
    return resolved, model, Batch(samples * longest, samples * 2 * patches, longest, tail=samples * text)


def ranks(path: Path) -> bool:
    """Whether a row is two answers, each of which the trained model and a reference read."""
    return bool(read(path)["stage"] == "dpo")


@cache
def _folder(model: str, folder: Path) -> Path:
    return MODELS[model](folder / model)


def estimated_memory(path: Path, folder: Path) -> Any:
    from stcr_plugin.preflight.memory import estimate

    return estimate(*model_of(path, folder))


def estimated_hours(path: Path, folder: Path) -> float:
    """For 100,000 samples.

    A row of a preference stage is two samples, each computed forward once more for the reference.

    A token and a matrix parameter cost 2 operations forward, 2 backward, 2 for the parameter's own gradient where it is
    trained (Kaplan et al., arXiv 2001.08361, section 2.1), and 2 for computing the forward pass again (gradient
    checkpointing). A frozen vision tower costs the forward pass alone. Attention's own products, 3 % at these lengths,
    and everything that is not arithmetic are left to USED.
    """
    resolved, model, batch = model_of(path, folder)
    full = resolved.finetuning.finetuning_type == "full"
    tower = full and not resolved.finetuning.freeze_vision_tower
    head = model.vocabulary * model.text.width
    embeddings = head if model.config.tie_word_embeddings else 2 * head
    text = (model.parameters - model.vision_parameters - embeddings) * batch.tokens + head * batch.tail
    more = 2 if ranks(path) else 0
    operations = ((8 if full else 6) + more) * text
    operations += ((8 if tower else 2) + more) * model.vision_parameters * batch.patches
    number, size = gpus(path)
    samples = resolved.training.per_device_train_batch_size
    return 100_000 * operations / samples / number / (USED * PEAK[size][1]) / 3600


@pytest.mark.parametrize("path", STAGES, ids=name)
def test_llamafactory_and_the_plugin_take_the_recipe(path: Path, tmp_path: Path) -> None:
    from stcr_plugin.frameworks.recipe import Recipe
    from stcr_plugin.frameworks.refusals import refuse_broken_streaming, refuse_what_cannot_work
    from stcr_plugin.frameworks.trl.keys import grpo_config, sorted_keys
    from stcr_plugin.preflight.resolve import resolve

    recipe = Recipe.of(read(path))
    if recipe.samples_answers:  # which TRL alone trains
        refuse_what_cannot_work(recipe, "trl")
        keys = sorted_keys(args(path))
        assert grpo_config(keys).generation_batch_size % keys.grpo.num_generations == 0  # type: ignore[union-attr]
        return
    refuse_what_cannot_work(recipe)
    refuse_broken_streaming(recipe)
    resolved = resolve(args(path) | {"output_dir": str(tmp_path)}, gpus(path)[0] if path in REAL else 1)
    assert resolved.training.report_to == ["tensorboard"]
    writes = any(kind in resolved.data.dataset[0] for kind in ("cot", "describe", "reflect", "prefer"))
    assert recipe.settings.mode == ("cot" if writes else "direct")


@pytest.mark.parametrize("path", REAL, ids=name)
def test_header_says_what_the_recipe_is(path: Path) -> None:
    fields, values = header(path), read(path)
    assert list(fields)[:6] == ["Purpose", "Prerequisites", "Command", "Data", "Memory", "Time"]
    file = str(path.relative_to(REPOSITORY))
    assert file in fields["Command"]
    launcher = "USE_RAY=1" if "ray_num_workers" in values else "FORCE_TORCHRUN=1" if "deepspeed" in values else ""
    assert [word for word in ("USE_RAY=1", "FORCE_TORCHRUN=1") if word in fields["Command"]] == [launcher][
        : len(launcher)
    ]
    assert values.get("ray_num_workers", gpus(path)[0]) == gpus(path)[0]
    assert ("stcr-plugin[qlora]" in fields["Prerequisites"]) == ("quantization_bit" in values)
    config = re.search(r"recipes/data/\w+\.yaml", fields["Data"])
    assert config
    data = yaml.safe_load((REPOSITORY / config[0]).read_text(encoding="utf-8"))
    assert values["dataset"] in {f"{data['name']}_{key}" for key in data["datasets"]}
    assert values["stcr"]["evaluate"]["split"] in data["splits"]
    told = re.search(r"gradient_accumulation_steps: \d+ +# (\d+) samples per step", path.read_text(encoding="utf-8"))
    if told:
        here = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * gpus(path)[0]
        assert int(told[1]) == here


@pytest.mark.parametrize("path", [path for path in REAL if path.stem != "stage1"], ids=name)
def test_stages_2_and_3_start_from_the_stage_1_beside_them(path: Path) -> None:
    from stcr_plugin.frameworks.recipe import Recipe

    first, second = read(path.with_name("stage1.yaml")), read(path)
    assert Recipe.of(second).starting_point == first["output_dir"] != second["output_dir"]
    assert second["stcr"]["starts_from"] == "stage"
    assert ("adapter" in second["stcr"]) == (second["finetuning_type"] == "lora")
    if ranks(path):
        merges = "quantization_bit" in second
        assert second["stcr"].get("adapter") in (None, "merge" if merges else "stack")
    same = ("template", "image_max_pixels", "finetuning_type", "lora_rank", "quantization_bit", "deepspeed")
    assert [first.get(key) for key in same] == [second.get(key) for key in same]


@pytest.fixture(scope="module", autouse=True)
def processors_are_loaded_once() -> Iterator[None]:
    with loaded_once():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("path", REAL, ids=name)
def test_memory_and_time_in_the_header_are_the_formulas(path: Path, models: Path) -> None:
    fields = header(path)
    found = estimated_memory(path, models)
    told = re.match(r"about (\d+) GiB", fields["Memory"])
    assert told
    assert int(told[1]) == pytest.approx(found.peak / GIB, rel=0.1, abs=0.6)
    assert found.peak / GIB + 1.5 < gpus(path)[1]  # what CUDA takes for itself
    hours = re.match(r"about ([\d.]+) hours for 100,000 samples at 35 % of an (.+)'s peak", fields["Time"])
    assert hours
    assert hours[2] == PEAK[gpus(path)[1]][0]
    assert float(hours[1]) == pytest.approx(estimated_hours(path, models), rel=0.1)


@pytest.mark.parametrize("path", sorted((RECIPES / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
def test_zero_does_not_overlap_communication(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]["overlap_comm"] is False


def test_the_table_of_all_recipes_agrees_with_their_headers() -> None:
    table = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    rows = {}
    for line in table.splitlines():
        if found := re.match(r"\| `models/([\w/]+)`", line):
            rows[found[1]] = [cell.strip() for cell in line.strip("|").split("|")]
    assert set(rows) == {str(path.parent.relative_to(RECIPES / "models")) for path in REAL}
    for path in REAL:
        _, _, cards, memory, time = rows[str(path.parent.relative_to(RECIPES / "models"))]
        number, size = gpus(path)
        assert cards == f"{number} x {size} GB"
        at = int(path.stem[-1]) - 1
        told = [re.match(r"about ([\d.]+)", header(path)[field])[1] for field in ("Memory", "Time")]  # type: ignore[index]
        assert [memory.split(" / ")[at].removesuffix(" GiB"), time.split(" / ")[at].removesuffix(" h")] == told
    for path in STAGES:
        if path not in REAL:
            assert f"`{path.name}`" in table


@pytest.mark.parametrize(
    ("model", "pixels", "tokens"),
    [("qwen2_5_vl_7b", 200704, 252), ("qwen2_5_vl_7b", 589824, 391), ("qwen3_vl_8b", 262144, 252)],
)
def test_a_robot_frame_is_as_many_tokens_as_the_table_of_sizes_says(
    model: str, pixels: int, tokens: int, models: Path
) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    from stcr_plugin.engines.picture_loading import fit

    processor = AutoImageProcessor.from_pretrained(_folder(model, models), local_files_only=True)
    grid = processor(images=[fit(Image.new("RGB", SIDE), pixels, 1024)], return_tensors="pt")["image_grid_thw"]
    assert int(grid.prod()) // 4 == tokens
    rows = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8").splitlines()
    assert any(str(pixels) in row and row.endswith(f"| {tokens} |") for row in rows)
