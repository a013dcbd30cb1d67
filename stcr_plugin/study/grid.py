"""What a study trains, before it trains: each stage's recipe as it will be seen, its steps and supervised tokens."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.errors import ConfigError
from stcr_plugin.study.study_config import BASE, Plan, StudyConfig

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import DataConfig


def plans(config: StudyConfig, seed: int, out: Path, build: str) -> list[Plan]:
    """The stages in the order to run them, each after the one it starts from; their data and base exist.

    Raises ConfigError where rows cannot be trained on as many supervised tokens.
    """
    order = list(dict.fromkeys(name for end in config.stages for name in config.chain(end)))
    made = {name: _plan(config, name, seed, out, build) for name in order}
    if config.equal == "tokens":
        wanted = sum(made[name].tokens for name in config.chain(config.reference))
        for name in order:
            if config.stages[name].row and name != config.reference:
                before = sum(made[other].tokens for other in config.chain(name)[:-1])
                step = made[name].tokens / made[name].steps
                if wanted - before < step:
                    raise ConfigError(
                        f"study {config.name}: equal: tokens, but {config.reference} is trained on {wanted:,.0f} and "
                        f"{name} on {before:,.0f} before its last stage, where one step takes {step:,.0f}; set fewer "
                        f"max_steps in what {name} starts from, or take the longest row as the reference"
                    )
                made[name] = _plan(config, name, seed, out, build, (f"max_steps={round((wanted - before) / step)}",))
    return list(made.values())


def _plan(config: StudyConfig, name: str, seed: int, out: Path, build: str, more: tuple[str, ...] = ()) -> Plan:
    stage, registry = config.stages[name], out / "data_registry"
    trained_on = config.trained_on(name, build)
    datasets = [f"{of}_{key}" for of, key in trained_on]
    measured = read_yaml(stage.recipe, stage.overrides, resolve=True).get("stcr", {}).get("evaluate")
    elsewhere = any(of != build for of, _ in trained_on)
    overrides = (
        f"model_name_or_path={out / stage.starts_from}",
        f"dataset={','.join(datasets)}",
        f"dataset_dir={registry}",
        f"output_dir={out / name}",
        f"seed={seed}",
        f"stcr.name={name}",
        "stcr.prepare.data=null",
        "stcr.prepare.base=null",
        # A stage is measured on the build that it trains on, unless told: on that of all stages then.
        *([f"stcr.evaluate.dataset={build}"] if elsewhere and measured else []),
        *stage.overrides,
        *more,
    )
    recipe = recipe_of(stage.recipe, overrides)
    with _IMPORTING:
        from stcr_plugin.frameworks.llamafactory.experiment import processes

        ranks = processes(recipe)
    per_device = recipe.get("per_device_train_batch_size", 8) * recipe.get("gradient_accumulation_steps", 1)
    samples = recipe["max_steps"] * per_device * ranks
    shares = _shares(recipe, registry, datasets)
    each = sum(
        share * supervised_tokens(registry, one, out / BASE) for one, share in zip(datasets, shares, strict=True)
    )
    return Plan(name, stage.recipe, overrides, recipe, recipe["max_steps"], samples * each)


def _shares(recipe: Mapping[str, Any], registry: Path, datasets: Sequence[str]) -> list[float]:
    """How large a part of the samples is of each dataset, as LLaMA-Factory mixes them: adds up to 1."""
    from stcr_plugin.registry.manifest import read_manifest

    if len(datasets) == 1:
        return [1.0]
    given = recipe.get("interleave_probs")
    if given is not None:
        parts = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
        if len(parts) != len(datasets):
            raise ConfigError(f"interleave_probs {given}: must be a share for each of {', '.join(datasets)}")
    elif str(recipe.get("mix_strategy", "concat")).startswith("interleave"):
        parts = [1.0] * len(datasets)  # in turn
    else:
        most = recipe.get("max_samples") or sys.maxsize
        counts = [read_manifest(registry, name).counts.datasets[name].samples for name in datasets]
        parts = [float(min(count, most)) for count in counts]
    return [part / sum(parts) for part in parts]


_IMPORTING = Lock()  # transformers fills its module as names are asked for, and two seeds at once find it half full


@cache  # many stages train on the same datasets, and their answers are tokenised for it
def supervised_tokens(registry: Path, dataset: str, model: Path, rows: int = 1000) -> float:
    """Tokens of a sample's answer and end of turn, on average over up to `rows` rows of a dataset."""
    from itertools import islice

    with _IMPORTING:
        from transformers import AutoTokenizer

    from stcr_plugin.registry.manifest import dataset_rows

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    targets = [row["messages"][-1]["content"] for row in islice(dataset_rows(registry, dataset), rows)]
    return 1 + sum(map(len, tokenizer(targets, add_special_tokens=False)["input_ids"])) / len(targets)


def recipe_of(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with its overrides, merged as `stcr train` merges them. Raises ConfigError without max_steps."""
    recipe = read_yaml(path, overrides, resolve=True)
    if not isinstance(recipe.get("max_steps"), int) or recipe["max_steps"] < 1:
        raise ConfigError(f"{path}: a study counts steps, so set max_steps (num_train_epochs alone does not say them)")
    return recipe


def made_by(config: StudyConfig) -> dict[str, Any]:
    """All of a study that decides what a seed of it comes to, but the code: JSON-like, files by digests.

    Raises ConfigError for a file that is not there.
    """
    base = read_yaml(config.base, config.base_overrides, resolve=True) if config.base else {}
    prior = read_yaml(base["prior"], resolve=True) if base.get("prior") else None
    files = {
        "data": [
            read_yaml(config.data, config.data_overrides, resolve=True),
            *(read_yaml(path, resolve=True) for path in config.also),
        ],
        "base": [base, prior],
        **{
            f"stages.{name}": [recipe_of(stage.recipe, stage.overrides), stage.datasets, stage.starts_from]
            for name, stage in config.stages.items()
        },
    }
    return {
        **{key: artefacts.digest(values) for key, values in files.items()},
        "model": config.model and Path(config.model).name,
        "equal": [config.equal, *([config.reference] if config.equal == "tokens" else [])],
        "splits": list(config.splits),
        "pairs": config.pairs,
        "mode": config.mode,
        "controls": _plain(config.controls),
        "guard": _plain(config.guard),
    }


def _plain(settings: Any) -> Any:
    """As it is read back from JSON."""
    return settings and json.loads(json.dumps(dataclasses.asdict(settings)))


def check_steps(config: StudyConfig) -> None:
    """Raises ConfigError where rows that shall take equal steps do not."""
    steps = {
        row: sum(
            recipe_of(config.stages[name].recipe, config.stages[name].overrides)["max_steps"]
            for name in config.chain(row)
        )
        for row, stage in config.stages.items()
        if stage.row
    }
    unlike = {row: count for row, count in steps.items() if count != steps.get(config.reference)}
    if unlike:
        raise ConfigError(
            f"study {config.name}: equal: steps, but {config.reference} takes {steps[config.reference]} and "
            f"{', '.join(f'{row} {count}' for row, count in unlike.items())}; set max_steps in their overrides"
        )


def data_of(config: StudyConfig, seed: int) -> DataConfig:
    """The configuration of the study's own data for one seed."""
    from stcr_plugin.registry.data_config import load_data_config

    return load_data_config(config.data, [*config.data_overrides, f"seed={seed}"])


def check_names(config: StudyConfig) -> None:
    """Raises ConfigError for a dataset or a split that no build of the study has, before hours of training."""
    from stcr_plugin.evaluation.controls import other_data
    from stcr_plugin.registry.data_config import load_data_config

    data = data_of(config, config.seeds[0])
    builds = {build.name: build for build in (data, *map(load_data_config, config.also))}
    asked = [("splits", *one) for one in config.asked(data.name)]
    if config.controls:
        asked.append(("controls.split", data.name, config.controls.split))
        asked += [("controls.also", *one) for one in other_data(config.controls.also).values()]
    trained = [(f"stages.{name}", *one) for name in config.stages for one in config.trained_on(name, data.name)]
    for named, kind in ((trained, "dataset"), (asked, "split")):
        for key, build, part in named:
            if build not in builds:
                raise ConfigError(f"{key}: neither `data` nor `also` builds {build!r}, {nearest(build, list(builds))}")
            known = list(builds[build].datasets if kind == "dataset" else builds[build].splits)
            if part not in known:
                raise ConfigError(f"{key}: {build} has no {kind} {part!r}, {nearest(part, known)}")


def placed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its folders as seen from its own: the same however the study's was spelt."""
    folders = ("model_name_or_path", "dataset_dir", "output_dir")
    return {**recipe, **{key: os.path.relpath(recipe[key], recipe["output_dir"]) for key in folders}}
