"""A study: a grid of chains over several seeds, from data to one table. What was done is not done again.

Every stage is a process of its own, as a user would start it, and its log lies beside its folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from threading import Event, Lock, Semaphore
from typing import TYPE_CHECKING, Any, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks.stage import read_record
from stcr_plugin.study.askings import Asking, askings, stamp
from stcr_plugin.study.rules import BASE, Plan, StudyConfig

if TYPE_CHECKING:
    from stcr_plugin.registry.rules import DataConfig

Result = TypeVar("Result")


def run_study(config: StudyConfig, out: Path, jobs: int = 1) -> Path:
    """Train and evaluate every stage for every seed, and write the table; returns the path of study.md.

    `jobs` commands at a time, each with its share of the cores, of `jobs` seeds at most. A stage that has finished as
    it is asked for is left alone, and a killed one goes on, so the same command goes on with a killed study. Raises
    ConfigError for rows that are not equal as asked or a folder of another study, StcrError with the last words of a
    command that failed.
    """
    from tqdm import tqdm

    from stcr_plugin.study.table import write_study

    if jobs < 1:
        raise ConfigError(f"jobs {jobs}: must be at least 1")
    check_names(config)
    if config.equal == "steps":
        check_steps(config)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config)
    apart = [row for asked in (config.controls, config.guard) if asked for row in asked.rows]
    asked = len(config.rows) * len(config.splits) + len(apart)
    total = len(config.seeds) * (2 + len(config.also) + len(config.stages) + asked)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    with tqdm(total=total, desc=f"study {config.name}", unit="step") as bar:
        commands = _Commands(environment, jobs, bar)
        of_seeds = [partial(_run_seed, config, seed, out / f"seed{seed}", commands) for seed in config.seeds]
        planned = dict(zip(config.seeds, commands.at_once(of_seeds), strict=True))
    return write_study(config, out, planned, _data(config, config.seeds[0]).name)


def _claim(out: Path, config: StudyConfig) -> None:
    """Keep the configuration in the folder, and refuse another study's. More seeds or rows may join."""
    path = out / "study.config.json"
    fixed = ("name", "data", "base", "model", "data_overrides", "base_overrides")
    values = asdict(config)
    if path.exists():
        other = artefacts.read_json(path)
        for key in fixed:
            if artefacts.digest(other.get(key)) != artefacts.digest(values[key]):
                raise ConfigError(
                    f"{out}: holds a study with another `{key}`; give another --out, or delete the folder"
                )
    artefacts.write_json(path, values)


class _Commands:
    """Runs `stcr` commands as processes, `jobs` at a time, and begins none once something has failed."""

    def __init__(self, environment: Mapping[str, str], jobs: int, bar: Any) -> None:
        self.environment = environment
        self.jobs = jobs
        self.bar = bar
        self._slots = Semaphore(jobs)
        self._failed = Event()

    def run(self, log: Path, *arguments: str) -> None:
        with self._slots:
            if self._failed.is_set():
                raise _NotBegunError
            _run([sys.executable, "-m", "stcr_plugin.cli", *arguments], log, self.environment)
        self.bar.update()

    def at_once(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """What each of `calls` returns; what is under way when one fails is let end, then its error is raised."""

        def watched(call: Callable[[], Result]) -> Result:
            try:
                return call()
            except BaseException:
                self._failed.set()
                raise

        with ThreadPoolExecutor(self.jobs) as pool:
            running = [pool.submit(watched, call) for call in calls]
        errors = [error for one in running if (error := one.exception())]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, _NotBegunError))
        return [one.result() for one in running]


class _NotBegunError(Exception):
    """Another command has failed, whose error is the one to tell."""


def _run_seed(config: StudyConfig, seed: int, out: Path, commands: _Commands) -> list[Plan]:
    registry, logs = out / "data_registry", out / "logs"
    data = _data(config, seed)

    def stcr(log: str, *arguments: str) -> None:
        commands.run(logs / f"{log}.log", *arguments)

    stcr("data", "data", "build", config.data, *config.data_overrides, f"seed={seed}", "--registry", str(registry))
    for number, other in enumerate(config.also):
        stcr(f"data{number + 2}", "data", "build", other, f"seed={seed}", "--registry", str(registry))
    if config.model:
        _link(Path(config.model), out / BASE)
        commands.bar.update()
    else:
        assert config.base
        stcr(
            BASE, "base", "build", config.base, *config.base_overrides, f"out={out / BASE}", f"seed={seed}",
            f"dataset={data.name}_forward", "--registry", str(registry),
        )  # fmt: skip
    planned = plans(config, seed, out, data.name)
    missing = [plan for plan in planned if not _is_trained(plan, out / plan.name, registry)]
    commands.bar.update(len(planned) - len(missing))
    depths = {plan.name: len(config.chain(plan.name)) for plan in missing}
    for depth in sorted(set(depths.values())):  # what a stage starts from is trained when its turn comes
        ready = sorted((plan for plan in missing if depths[plan.name] == depth), key=lambda plan: -plan.steps)
        commands.at_once([partial(stcr, plan.name, "train", plan.path, *plan.overrides) for plan in ready])
    digest_of = cache(artefacts.model_digest)
    asked = askings(config, seed, out, data.name, registry)
    commands.at_once([partial(_ask, one, digest_of, registry, logs, commands) for one in asked])
    return planned


def _is_trained(plan: Plan, folder: Path, registry: Path) -> bool:
    """Raises ConfigError where the stage was trained by another recipe, on other data or from other weights."""
    from stcr_plugin.registry.manifest import read_manifest

    record = read_record(folder) or {}
    if not record.get("finished"):
        return False
    builds = [read_manifest(registry, name) for name in record["datasets"]]
    data_then = {one["build"]: one["config_digest"] for one in record["data"]}
    parent = read_record(Path(plan.recipe["model_name_or_path"])) or {}
    another = {
        "by another recipe": _placed(record["recipe"]) != _placed(plan.recipe),
        "on other data": data_then != {one["name"]: one["config_digest"] for one in builds},
        "from other weights": parent.get("model_digest") not in (None, record["parent_digest"]),
    }
    for how in (how for how, unlike in another.items() if unlike):
        raise ConfigError(
            f"{folder}: was trained {how} than the study's now; delete that folder and those of the stages that start "
            "from it, or give another --out"
        )
    return True


def _ask(asking: Asking, digest_of: Callable[[Path], str], registry: Path, logs: Path, commands: _Commands) -> None:
    """Run one evaluation, unless its figures stand and all that decided them is as it was."""
    done, now = logs / f"{asking.name}.done", stamp(asking, digest_of(asking.model), registry)
    if asking.figures.is_file() and done.is_file() and done.read_text(encoding="utf-8") == now:
        commands.bar.update()
        return
    commands.run(logs / f"{asking.name}.log", *asking.words)
    artefacts.write_text(done, now)


def _placed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its folders as seen from its own: the same however the study's was spelt."""
    folders = ("model_name_or_path", "dataset_dir", "output_dir")
    return {**recipe, **{key: os.path.relpath(recipe[key], recipe["output_dir"]) for key in folders}}


def _link(model: Path, out: Path) -> None:
    """`out` with links to the files of `model`: evaluations write beside them, and that folder is not the study's."""
    if not (model / "config.json").is_file():
        raise ConfigError(f"model: {model} holds no model; `hf download NAME --local-dir {model}` puts one there")
    out.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and not (out / file.name).exists():
            (out / file.name).symlink_to(file.resolve())


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
    datasets = [f"{build}_{key}" for key in stage.datasets]
    overrides = (
        f"model_name_or_path={out / stage.starts_from}",
        f"dataset={','.join(datasets)}",
        f"dataset_dir={registry}",
        f"output_dir={out / name}",
        f"seed={seed}",
        f"stcr.name={name}",
        "stcr.prepare.data=null",
        "stcr.prepare.base=null",
        *stage.overrides,
        *more,
    )
    recipe = _recipe(stage.recipe, overrides)
    with _IMPORTING:
        from stcr_plugin.frameworks.llamafactory.training import processes

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
        counts = [read_manifest(registry, name)["counts"]["datasets"][name]["samples"] for name in datasets]
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


def _recipe(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with its overrides, merged as `stcr train` merges them. Raises ConfigError without max_steps."""
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such recipe; a study names its recipes as seen from where it is started")
    recipe = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))))
    assert isinstance(recipe, dict)
    if not isinstance(recipe.get("max_steps"), int) or recipe["max_steps"] < 1:
        raise ConfigError(f"{path}: a study counts steps, so set max_steps (num_train_epochs alone does not say them)")
    return {str(key): value for key, value in recipe.items()}


def check_steps(config: StudyConfig) -> None:
    """Raises ConfigError where rows that shall take equal steps do not."""
    steps = {
        row: sum(
            _recipe(config.stages[name].recipe, config.stages[name].overrides)["max_steps"]
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


def _data(config: StudyConfig, seed: int) -> DataConfig:
    from stcr_plugin.registry.rules import load_data_config

    return load_data_config(config.data, [*config.data_overrides, f"seed={seed}"])


def check_names(config: StudyConfig) -> None:
    """Raises ConfigError for a dataset or a split that no build of the study has, before hours of training."""
    from stcr_plugin.evaluation.controls import other_data
    from stcr_plugin.registry.rules import load_data_config

    data = _data(config, config.seeds[0])
    for name, stage in config.stages.items():
        for key in stage.datasets:
            if key not in data.datasets:
                raise ConfigError(
                    f"stages.{name}: {config.data} has no dataset {key!r}, {nearest(key, list(data.datasets))}"
                )
    builds = {build.name: build for build in (data, *map(load_data_config, config.also))}
    asked = [("splits", *one) for one in config.asked(data.name)]
    if config.controls:
        asked.append(("controls.split", data.name, config.controls.split))
        asked += [("controls.also", *one) for one in other_data(config.controls.also).values()]
    for key, build, part in asked:
        if build not in builds:
            raise ConfigError(f"{key}: neither `data` nor `also` builds {build!r}, {nearest(build, list(builds))}")
        if part not in (splits := list(builds[build].splits)):
            raise ConfigError(f"{key}: {build} has no split {part!r}, {nearest(part, splits)}")


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment))
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().split("\n")[-8:]
        raise StcrError(
            f"{' '.join(command[2:])}: ended with exit code {done.returncode}; the end of {log}:\n" + "\n".join(last)
        )
