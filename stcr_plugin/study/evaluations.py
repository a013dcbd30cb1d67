"""The evaluations of a study's rows: a command for each, the file that it writes last, and whether it is up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.provenance import provenance
from stcr_plugin.records import RECORD
from stcr_plugin.registry.manifest import MANIFEST
from stcr_plugin.results import Controls, Evaluation, Guard
from stcr_plugin.study.study_config import SeedRun


@dataclass(frozen=True)
class EvaluationCommand:
    """One evaluation of the row in the folder `model`.

    Attributes:
        arguments: What follows `stcr`.
        results: The file that the command writes last.
    """

    name: str
    model: Path
    arguments: tuple[str, ...]
    results: Path


def evaluation_commands(run: SeedRun) -> Iterator[EvaluationCommand]:
    """The evaluations of all rows of one seed."""
    config, batch = run.config, ("--batch-size", str(run.config.batch_size))

    def command(kind: str, row: str, label: str, results: Path, *options: str) -> EvaluationCommand:
        arguments = (kind, "--model", str(run.out / row), "--name", row, *options)
        return EvaluationCommand(f"{row}-{label}", run.out / row, arguments, results)

    def on(dataset: str, split: str, limit: int | None) -> tuple[str, ...]:
        data = ("--dataset", dataset, "--split", split, *batch, "--registry", str(run.registry))
        return (*data, *_option("--limit", limit))

    for row in config.rows:
        for dataset, split in run.splits:
            options = (*on(dataset, split, config.pairs), *_option("--mode", config.mode))
            yield command("eval", row, split, results_file(run, row, (dataset, split)), *options)
    if controls := config.controls:
        also = [word for one in controls.also for word in ("--also", one)]
        for row in controls.rows:
            only = ("--only", ",".join(controls.only)) if controls.only else ()
            mode = _option("--mode", config.mode)
            options = (*on(run.build, controls.split, controls.pairs), *also, *only, *mode)
            yield command("controls", row, "controls", controls_file(run, row), *options)
    if config.guard:
        for row in config.guard.rows:
            results = guard_file(run, row)
            options = ("--out", str(results.parent), "--episodes", str(config.guard.episodes))
            yield command("guard", row, "guard", results, *options, "--seed", str(run.seed), *batch)


def results_file(run: SeedRun, row: str, data: tuple[str, str]) -> Path:
    """Where `stcr eval` writes the results of a row on (dataset, split), with the study's settings."""
    return run.out / row / "eval" / AskSettings(mode=run.config.mode).folder(*data) / Evaluation.file


def controls_file(run: SeedRun, row: str) -> Path:
    """Where `stcr controls` writes the controls of a row; the study has controls."""
    assert run.config.controls
    settings = AskSettings(mode=run.config.mode)
    return run.out / row / "controls" / settings.folder(run.build, run.config.controls.split) / Controls.file


def guard_file(run: SeedRun, row: str) -> Path:
    """Where `stcr guard` writes the results of a row."""
    return run.out / row / "guard" / Guard.file


def stamp(command: EvaluationCommand, model_digest: str, registry: Path) -> str:
    """A digest of the results and of all that decided them: command, model, data, code and libraries."""
    record = command.model / RECORD
    files = [command.results, *registry.glob(f"*/{MANIFEST}"), *([record] if record.is_file() else [])]
    sums = sorted(artefacts.sha256(path) for path in files)
    return artefacts.digest([command.arguments, model_digest, sums, artefacts.code_digest("."), provenance()])


def _option(name: str, value: object | None) -> tuple[str, ...]:
    return () if value is None else (name, str(value))
