"""What the rows of a study are asked: a command each, the file that its figures end in, and whether they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.controls import CONTROLS_JSON
from stcr_plugin.evaluation.evaluate import RESULTS
from stcr_plugin.evaluation.guard import GUARD
from stcr_plugin.records import RECORD
from stcr_plugin.registry.manifest import MANIFEST
from stcr_plugin.study.study_config import StudyConfig


@dataclass(frozen=True)
class Asking:
    """One evaluation of the row in the folder `model`: the `words` after `stcr`, which write `figures` last."""

    name: str
    model: Path
    words: tuple[str, ...]
    figures: Path


def askings(config: StudyConfig, seed: int, out: Path, build: str, registry: Path) -> Iterator[Asking]:
    """The evaluations of the rows of one seed, whose folders lie in `out`; `build` is the study's own data."""
    batch = ("--batch-size", str(config.batch_size))
    of_data = (*batch, "--registry", str(registry))
    for name in config.rows:
        for other, part in config.asked(build):
            words = ("eval", *_of(out, name), "--dataset", other, "--split", part, *of_data)
            options = (*_option("--limit", config.pairs), *_option("--mode", config.mode))
            figures = results_file(config, out / name, other, part)
            yield Asking(f"{name}-{part}", out / name, (*words, *options), figures)
    for name in config.controls.rows if config.controls else ():
        assert config.controls
        split, also = config.controls.split, (word for one in config.controls.also for word in ("--also", one))
        words = ("controls", *_of(out, name), "--dataset", build, "--split", split, *of_data)
        options = (*_option("--limit", config.controls.pairs), *also)
        yield Asking(f"{name}-controls", out / name, (*words, *options), controls_file(out / name, build, split))
    for name in config.guard.rows if config.guard else ():
        assert config.guard
        figures = guard_file(out / name)
        options = ("--episodes", str(config.guard.episodes), "--seed", str(seed), *batch)
        words = ("guard", *_of(out, name), "--out", str(figures.parent))
        yield Asking(f"{name}-guard", out / name, (*words, *options), figures)


def results_file(config: StudyConfig, model: Path, build: str, split: str) -> Path:
    """Where `stcr eval` writes the figures of a split, asked as the study asks."""
    return model / "eval" / AskSettings(mode=config.mode).folder(build, split) / RESULTS


def controls_file(model: Path, build: str, split: str) -> Path:
    """Where `stcr controls` writes the rows of a split."""
    return model / "controls" / AskSettings().folder(build, split) / CONTROLS_JSON


def guard_file(model: Path) -> Path:
    """Where the study has `stcr guard` write."""
    return model / "guard" / GUARD


def stamp(asking: Asking, model_digest: str, registry: Path) -> str:
    """A digest of the figures and of all that decided them: command, model by its digest, data, code and libraries."""
    record = asking.model / RECORD
    read = [asking.figures, *registry.glob(f"*/{MANIFEST}"), *([record] if record.is_file() else [])]
    sums = sorted(artefacts.sha256(path) for path in read)
    return artefacts.digest([asking.words, model_digest, sums, artefacts.code_digest("."), artefacts.provenance()])


def _of(out: Path, row: str) -> tuple[str, ...]:
    return ("--model", str(out / row), "--name", row)


def _option(name: str, value: object | None) -> tuple[str, ...]:
    return () if value is None else (name, str(value))
