"""What a study trains, checked before it trains: the recipe of each stage, its steps and its supervised tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.errors import ConfigError
from stcr_plugin.result_files import encode
from stcr_plugin.study.study_config import BASE, SeedRun, StudyConfig

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import DataConfig

_IMPORTING = Lock()  # transformers is imported lazily, and two seeds at once would find it half imported


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One stage as it is run for one seed.

    Attributes:
        path: File of the recipe.
        recipe: The values that `stcr train` reads from `path` and `overrides`.
        tokens: Supervised tokens of the whole stage, approximately (see `supervised_tokens`).
    """

    name: str
    path: str
    overrides: tuple[str, ...]
    recipe: dict[str, Any]
    tokens: float

    @property
    def steps(self) -> int:
        return int(self.recipe["max_steps"])


def plans(run: SeedRun) -> list[Plan]:
    """The stages of a seed whose data and base exist, each after the one it starts from.

    Raises:
        ConfigError: Rows cannot be trained on as many supervised tokens.
    """
    config = run.config
    order = list(dict.fromkeys(name for end in config.stages for name in config.chain(end)))
    made = {name: plan(run, name) for name in order}
    if config.equal == "tokens":
        wanted = sum(made[name].tokens for name in config.chain(config.reference))
        for name in order:
            if name in config.compared and name != config.reference:
                before = sum(made[other].tokens for other in config.chain(name)[:-1])
                step = made[name].tokens / made[name].steps
                if wanted - before < step:
                    raise ConfigError(
                        f"study {config.name}",
                        f"equal: tokens, but {config.reference} is trained on {wanted:,.0f} and {name} on "
                        f"{before:,.0f} before its last stage, where one step takes {step:,.0f}",
                        f"set fewer max_steps in what {name} starts from, or take the longest row as the reference",
                    )
                made[name] = plan(run, name, (f"max_steps={round((wanted - before) / step)}",))
    return list(made.values())


def plan(run: SeedRun, name: str, more: tuple[str, ...] = ()) -> Plan:
    """The stage `name` with the overrides `more`."""
    stage, registry, out = run.config.stages[name], run.registry, run.out
    trained_on = run.config.trained_on(name, run.build)
    datasets = [f"{build}_{key}" for build, key in trained_on]
    measured = read_yaml(stage.recipe, stage.overrides, resolve=True).get("stcr", {}).get("evaluate")
    elsewhere = any(build != run.build for build, _ in trained_on)
    overrides = (
        f"model_name_or_path={out / stage.starts_from}",
        f"dataset={','.join(datasets)}",
        f"dataset_dir={registry}",
        f"output_dir={out / name}",
        f"seed={run.seed}",
        f"stcr.name={name}",
        "stcr.prepare.data=null",
        "stcr.prepare.base=null",
        # By default a stage is measured on the build that it trains on; here all are on the same.
        *([f"stcr.evaluate.dataset={run.build}"] if elsewhere and measured else []),
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
    mean = sum(
        share * supervised_tokens(registry, one, out / BASE) for one, share in zip(datasets, shares, strict=True)
    )
    return Plan(name=name, path=stage.recipe, overrides=overrides, recipe=recipe, tokens=samples * mean)


def _shares(recipe: Mapping[str, Any], registry: Path, datasets: Sequence[str]) -> list[float]:
    """The share of each dataset in the samples, as LLaMA-Factory mixes them; adds up to 1."""
    from stcr_plugin.registry.manifest import read_manifest

    if len(datasets) == 1:
        return [1.0]
    given = recipe.get("interleave_probs")
    if given is not None:
        parts = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
        if len(parts) != len(datasets):
            raise ConfigError("interleave_probs", f"got {given}", f"give a share for each of {', '.join(datasets)}")
    elif str(recipe.get("mix_strategy", "concat")).startswith("interleave"):
        parts = [1.0] * len(datasets)  # in turn
    else:
        most = recipe.get("max_samples") or sys.maxsize
        counts = [read_manifest(registry, name).counts.datasets[name].samples for name in datasets]
        parts = [float(min(count, most)) for count in counts]
    return [part / sum(parts) for part in parts]


@cache  # many stages train on the same datasets
def supervised_tokens(registry: Path, dataset: str, model: Path, *, rows: int = 1000) -> float:
    """Mean number of tokens of a sample's answer (a ranking row has two) and end of turn, over up to `rows` rows."""
    from itertools import islice

    from stcr_plugin.engines.loading import load_tokenizer
    from stcr_plugin.registry.manifest import dataset_rows, turns_of

    with _IMPORTING:
        tokenizer = load_tokenizer(model)
    found = list(islice(dataset_rows(registry, dataset), rows))
    turns = [turn for row in found for turn in (turns_of(row)[-1], row.get("rejected")) if turn]
    tokens = tokenizer([turn["content"] for turn in turns], add_special_tokens=False)["input_ids"]
    return (len(turns) + sum(map(len, tokens))) / len(found)


def recipe_of(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with its overrides, as `stcr train` reads it. Raises ConfigError without max_steps."""
    recipe = read_yaml(path, overrides, resolve=True)
    if not isinstance(recipe.get("max_steps"), int) or recipe["max_steps"] < 1:
        raise ConfigError(path, "has no max_steps", "set it: a study counts steps, not num_train_epochs")
    return recipe


def made_by(config: StudyConfig) -> dict[str, Any]:
    """All of a study that decides the figures of a seed, but the code: JSON-like, files by digests.

    Raises:
        ConfigError: A file is missing.
    """

    def values(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
        return read_yaml(path, overrides, resolve=True)

    base = values(config.base, config.base_overrides) if config.base else {}
    files = {
        "data": [values(config.data, config.data_overrides), *map(values, config.also)],
        "base": [base, values(base["prior"]) if base.get("prior") else None],
        **{
            f"stages.{name}": [recipe_of(stage.recipe, stage.overrides), stage.datasets, stage.starts_from]
            for name, stage in config.stages.items()
        },
    }
    return {
        **{key: artefacts.digest(part) for key, part in files.items()},
        "model": config.model and Path(config.model).name,
        "equal": [config.equal, *([config.reference] if config.equal == "tokens" else [])],
        "splits": list(config.splits),
        "pairs": config.pairs,
        "mode": config.mode,
        "controls": encode(config.controls),
        "guard": encode(config.guard),
    }


def check_steps(config: StudyConfig) -> None:
    """Raises ConfigError where rows do not take as many steps as the reference."""
    own = {name: recipe_of(one.recipe, one.overrides)["max_steps"] for name, one in config.stages.items()}
    steps = {row: sum(own[name] for name in config.chain(row)) for row in config.compared}
    if others := {row: count for row, count in steps.items() if count != steps[config.reference]}:
        raise ConfigError(
            f"study {config.name}",
            f"equal: steps, but {config.reference} takes {steps[config.reference]} and "
            f"{', '.join(f'{row} {count}' for row, count in others.items())}",
            "set max_steps in their overrides",
        )


def data_of(config: StudyConfig, seed: int) -> DataConfig:
    """The data config of one seed."""
    from stcr_plugin.registry.data_config import load_data_config

    return load_data_config(config.data, [*config.data_overrides, f"seed={seed}"])


def check_names(config: StudyConfig) -> None:
    """Raises ConfigError for a dataset or a split that is in none of the study's builds."""
    from stcr_plugin.evaluation.control_list import CONTROLS
    from stcr_plugin.evaluation.controls import other_data
    from stcr_plugin.registry.data_config import load_data_config

    data = data_of(config, config.seeds[0])
    builds = {build.name: build for build in (data, *map(load_data_config, config.also))}
    splits = [("splits", *one) for one in config.evaluated_on(data.name)]
    if config.controls:
        splits.append(("controls.split", data.name, config.controls.split))
        splits += [("controls.also", *one) for one in other_data(config.controls.also).values()]
        for name in config.controls.only:
            if name not in CONTROLS:
                raise ConfigError("controls.only", f"no control {name!r}", nearest(name, list(CONTROLS)))
    datasets = [(f"stages.{name}", *one) for name in config.stages for one in config.trained_on(name, data.name)]
    for named, kind in ((datasets, "dataset"), (splits, "split")):
        for key, build, part in named:
            if build not in builds:
                raise ConfigError(key, f"neither `data` nor `also` builds {build!r}", nearest(build, list(builds)))
            known = list(builds[build].datasets if kind == "dataset" else builds[build].splits)
            if part not in known:
                raise ConfigError(key, f"{build} has no {kind} {part!r}", nearest(part, known))


def placed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its folders relative to its own: the same however the study's folder was written."""
    folders = ("model_name_or_path", "dataset_dir", "output_dir")
    return {**recipe, **{key: os.path.relpath(recipe[key], recipe["output_dir"]) for key in folders}}
