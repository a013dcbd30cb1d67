"""A study: a grid of chains over several seeds, from data to one table. What is finished is not done again.

Every stage is a process of its own, as a user would start it; its log is beside its folder.
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
from threading import Event, Semaphore
from typing import Any, TypeVar

from stcr_plugin import artefacts, children, records
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.progress_bar import Progress, progress
from stcr_plugin.records import StageRecord
from stcr_plugin.study.evaluations import EvaluationCommand, evaluation_commands, stamp
from stcr_plugin.study.grid import Plan, check_names, check_steps, data_of, made_by, placed, plans
from stcr_plugin.study.outcomes import (
    Outcome,
    check_outcome,
    collect,
    outcome_file,
    read_outcome,
    write_outcome,
    write_study,
)
from stcr_plugin.study.study_config import BASE, SeedRun, StudyConfig

Result = TypeVar("Result")


def run_study(config: StudyConfig, out: Path, jobs: int = 1) -> Path:
    """Train and evaluate every stage for every seed, and write the table.

    A finished stage is left alone and a killed one goes on, so the same command goes on with a killed study. A seed
    with an outcome in `out` (`outcomes.outcome_file`) but without a folder was trained elsewhere; it is taken from the
    file. A line is printed for each seed that is trained because its outcome is missing.

    Args:
        config: The study.
        out: Folder of the results.
        jobs: Commands at a time; also the most seeds at a time. Each gets its share of the cores, unless
            OMP_NUM_THREADS is set.

    Returns:
        The path of study.md.

    Raises:
        ConfigError: The rows are not equal as `equal` demands, or the folder or an outcome is of another study.
        StcrError: A command failed; it has the end of its log. Or another process runs this study.
        SystemExit: A signal came and was passed on to the commands (INTERRUPTED); KeyboardInterrupt for SIGINT.
    """
    if jobs < 1:
        raise ConfigError("jobs", f"must be at least 1, got {jobs}")
    check_names(config)
    if config.equal == "steps":
        check_steps(config)
    with artefacts.locked(out / ".lock", alone=out), children.passing_on(f"study {config.name}"):
        return _run_alone(config, out, jobs)


def _run_alone(config: StudyConfig, out: Path, jobs: int) -> Path:
    made = made_by(config)
    done = {seed: outcome for seed in config.seeds if (outcome := _from_elsewhere(config, seed, out, made=made))}
    _claim(out, config)
    here = [seed for seed in config.seeds if seed not in done]
    for path in (outcome_file(out, seed) for seed in here):
        if not path.is_file():
            print(f"train seed {path.stem.removeprefix('seed')}: no {path.name} in {out}", flush=True)
    evaluations = len(config.rows) * len(config.splits) + len(config.control_rows) + len(config.guard_rows)
    total = len(here) * (2 + len(config.also) + len(config.stages) + evaluations)
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ}
    with progress(total, f"study {config.name}:", "steps") as bar:
        commands = _Commands(environment, jobs, bar)
        of_seeds = [partial(_run_seed, config, seed, out, commands=commands, made=made) for seed in here]
        done |= zip(here, commands.at_once(of_seeds), strict=True)
    return write_study(config, out, [done[seed] for seed in config.seeds])


def _from_elsewhere(config: StudyConfig, seed: int, out: Path, *, made: Mapping[str, Any]) -> Outcome | None:
    path = outcome_file(out, seed)
    if not path.is_file() or (out / f"seed{seed}").exists():
        return None
    found = read_outcome(path)
    check_outcome(path, found, config, seed=seed, made_by=made)
    return found


def _claim(out: Path, config: StudyConfig) -> None:
    """Keep the configuration in the folder, and refuse another study's. Seeds or rows may be added."""
    path = out / "study.config.json"
    fixed = ("name", "data", "base", "model", "data_overrides", "base_overrides")
    values = asdict(config)
    if path.exists():
        other = artefacts.read_json(path)
        for key in fixed:
            if artefacts.digest(other.get(key)) != artefacts.digest(values[key]):
                problem = f"holds a study with another `{key}`"
                raise ConfigError(out, problem, "give another --out, or delete the folder")
    artefacts.write_json(path, values)


class _Commands:
    """Runs `stcr` commands as processes, `jobs` at a time, and starts none once one has failed."""

    def __init__(self, environment: Mapping[str, str], jobs: int, bar: Progress) -> None:
        self.environment = environment
        self.jobs = jobs
        self.bar = bar
        self._slots = Semaphore(jobs)
        self._failed = Event()

    def run(self, log: Path, *arguments: str) -> None:
        with self._slots:
            if self._failed.is_set() or children.stopped():
                raise _NotStartedError
            _run([sys.executable, "-m", "stcr_plugin.cli", *arguments], log, self.environment)
        self.bar.update()

    def at_once(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """What each of `calls` returns. Where one fails, the running ones end first, then its error is raised."""

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
            raise min(errors, key=lambda error: isinstance(error, _NotStartedError))
        return [one.result() for one in running]


class _NotStartedError(Exception):
    """Another command has failed, and its error is the one to raise."""


def _run_seed(config: StudyConfig, seed: int, study: Path, *, commands: _Commands, made: Mapping[str, Any]) -> Outcome:
    run = SeedRun(config=config, seed=seed, out=study / f"seed{seed}", build=data_of(config, seed).name)
    out, logs, registry = run.out, run.out / "logs", ("--registry", str(run.registry))

    def stcr(log: str, *arguments: str) -> None:
        commands.run(logs / f"{log}.log", *arguments)

    stcr("data", "data", "build", config.data, *config.data_overrides, f"seed={seed}", *registry)
    for number, other in enumerate(config.also):
        stcr(f"data{number + 2}", "data", "build", other, f"seed={seed}", *registry)
    if config.model:
        _link(Path(config.model), out / BASE)
        commands.bar.update()
    else:
        assert config.base
        own = (f"out={out / BASE}", f"seed={seed}", f"dataset={run.build}_forward")
        stcr(BASE, "base", "build", config.base, *config.base_overrides, *own, *registry)
    planned = plans(run)
    missing = {plan.name for plan in planned if not _is_trained(plan, out / plan.name, run.registry)}
    commands.bar.update(len(planned) - len(missing))

    def train_from(parent: str) -> None:
        starting = [plan for plan in planned if config.stages[plan.name].starts_from == parent]
        commands.at_once([partial(train, plan) for plan in sorted(starting, key=lambda plan: -plan.steps)])

    def train(plan: Plan) -> None:
        if plan.name in missing:
            stcr(plan.name, "train", plan.path, *plan.overrides)
        train_from(plan.name)

    digest_of = cache(artefacts.model_digest)

    def evaluate(command: EvaluationCommand) -> None:
        """Run one evaluation, unless its results are up to date."""
        done = logs / f"{command.name}.done"
        stands = command.results.is_file() and done.is_file()
        if stands and done.read_text(encoding="utf-8") == stamp(command, digest_of(command.model), run.registry):
            commands.bar.update()
            return
        commands.run(logs / f"{command.name}.log", *command.arguments)
        artefacts.write_text(done, stamp(command, digest_of(command.model), run.registry))

    train_from(BASE)
    commands.at_once([partial(evaluate, one) for one in evaluation_commands(run)])
    outcome = collect(run, planned, made)
    write_outcome(outcome_file(study, seed), outcome)
    return outcome


def _is_trained(plan: Plan, folder: Path, registry: Path) -> bool:
    """Raises ConfigError where the stage was trained by another recipe, on other data or from other weights."""
    from stcr_plugin.registry.manifest import read_manifest

    record = records.read(folder)
    if record is None or not record.finished:
        return False
    builds = [read_manifest(registry, name) for name in record.datasets]
    data_then = {one.build: one.config_digest for one in record.data}
    parent = records.read(plan.recipe["model_name_or_path"]) or StageRecord()
    another = {
        "by another recipe": placed(record.recipe) != placed(plan.recipe),
        "on other data": data_then != {one.name: one.config_digest for one in builds},
        "from other weights": parent.model_digest not in (None, record.parent_digest),
    }
    for how in (how for how, differs in another.items() if differs):
        fix = "delete that folder and those of the stages that start from it, or give another --out"
        raise ConfigError(folder, f"was trained {how} than the study's now", fix)
    return True


def _link(model: Path, out: Path) -> None:
    """`out` with links to the files of `model`: evaluations write beside them, and that folder is not the study's."""
    if not (model / "config.json").is_file():
        raise ConfigError("model", f"{model} holds no model", f"run `hf download NAME --local-dir {model}`")
    out.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and not (out / file.name).exists():
            (out / file.name).symlink_to(file.resolve())


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        code = children.run(command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment))
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().split("\n")[-8:]
        problem = f"ended with exit code {code}"
        raise StcrError(" ".join(command[2:]), problem, f"see the end of {log}:\n" + "\n".join(last))
