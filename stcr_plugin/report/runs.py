"""The results in the folders of some runs, and the names that a report gives to them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from stcr_plugin import records
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.records import StageRecord
from stcr_plugin.result_files import Result
from stcr_plugin.results import Controls, Evaluation, Guard, MultiImage
from stcr_plugin.scoring.metrics import figures, paired_rights
from stcr_plugin.types import Answer

R = TypeVar("R", bound=Result)
KINDS: tuple[type[Result], ...] = (Controls, MultiImage, Guard, Ranking, ValueOrder)
"""The results beside those of single pairs, in the order of evidence.json."""


@dataclass(frozen=True)
class Found(Generic[R]):
    """A result in the folder `folder` of a run; `run` is the name of the run in the report."""

    run: str
    path: Path
    result: R
    folder: Path


@dataclass(frozen=True)
class Measured:
    """An evaluation of single pairs.

    Attributes:
        name: In the report: its name in results.json, and its folder where another has the same name.
        of: The result.
        answers: The file with the answers.
        run: Folder of its run.
        settings: In words, those that are not the defaults.
        stage: Parent, steps and seconds of its stage, where they are known.
    """

    name: str
    of: Evaluation
    answers: Path
    run: Path
    settings: Sequence[str]
    stage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.answers.parent.resolve()

    @property
    def title(self) -> str:
        """Data and settings. The mode is not among them: stages of one chain rightly differ in it."""
        return ", ".join((self.of.dataset, self.of.split, *self.settings))

    @property
    def row(self) -> dict[str, Any]:
        """The row of chain.json: results.json without its episodes, with the times of the stage."""
        row = self.of.row() | {"name": self.name}
        del row["per_episode"]
        return {key: row.pop(key) for key in ("name", "split")} | row | dict(self.stage)


@dataclass(frozen=True)
class Runs:
    """The results of some runs, in their order.

    Attributes:
        chain: The evaluations of single pairs.
        comparators: Those by a comparator.
        others: Every other result.
    """

    chain: Sequence[Measured]
    comparators: Sequence[Measured]
    others: Sequence[Found[Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [one.row for one in (*self.chain, *self.comparators)]

    def of(self, kind: type[R]) -> list[Found[R]]:
        """The results of one kind."""
        return [one for one in self.others if isinstance(one.result, kind)]


def read(runs: Sequence[Path]) -> Runs:
    """Read the results in the folders `runs`, each file once.

    Raises:
        DataError: There are no runs, one has no results, or a file has an unexpected format.
    """
    if not runs:
        raise DataError("runs", "no runs", "give at least one folder that `stcr eval` has written to")
    measured: dict[Path, Measured] = {}
    others: dict[Path, Found[Any]] = {}
    for run in map(Path, runs):
        stage, file = records.read(run) or StageRecord(), Evaluation.file
        paths = [run / file] if (run / file).exists() else sorted(run.glob(f"eval/*/{file}"))
        for path in paths:
            measured.setdefault(path.resolve(), _measured(path, stage, run.resolve()))
        rest = [(kind, path) for kind in KINDS for path in _paths(run, kind.file)]
        for kind, path in rest:
            others.setdefault(path.resolve(), _found(kind.read(path), path, stage=stage, folder=run.resolve()))
        if not paths and not rest:
            raise DataError(run, f"no {file} and no eval/*/{file} in it", "run `stcr eval` on it first")
    every, named = _with_unique_names(list(measured.values()), list(others.values()))
    chain = [one for one in every if not one.of.comparator]
    if not chain:
        where = ", ".join(map(str, runs))
        raise DataError(where, f"no {Evaluation.file} of a plain evaluation", "run `stcr eval` on it")
    return Runs(chain, [one for one in every if one.of.comparator], named)


def answers_of(measured: Measured) -> list[Answer]:
    """The answers of an evaluation.

    Raises:
        DataError: They are missing, or do not give the figures of the evaluation.
    """
    where = f"{ANSWERS} of {measured.name}"
    if not measured.answers.is_file():
        raise DataError(where, f"missing beside its {Evaluation.file}")
    answers = read_answers(measured.answers)
    if figures(answers).pair_accuracy != measured.of.figures.pair_accuracy:
        raise DataError(where, f"does not give the figures of its {Evaluation.file}")
    return answers


def same_pairs(one: Measured, other: Measured) -> tuple[list[Answer], list[Answer]]:
    """The answers of both.

    Raises:
        DataError: They were not evaluated on the same pairs, or answers are missing.
    """
    if one.of.data_digest != other.of.data_digest:
        raise DataError("they were evaluated on other pictures")
    answers, others = answers_of(one), answers_of(other)
    paired_rights(answers, others)
    return answers, others


# ---- names ----


def _with_unique_names(
    measured: Sequence[Measured], others: Sequence[Found[Any]]
) -> tuple[list[Measured], list[Found[Any]]]:
    """No two runs share a name, and no two evaluations of one run with the same data and settings do."""
    of_run = _unique([*((one.name, one.run) for one in measured), *((one.run, one.folder) for one in others)])
    named = [replace(one, name=of_run[one.name, one.run]) for one in measured]
    alike: dict[tuple[str, str | None], list[tuple[str, Path]]] = {}
    for one in named:
        alike.setdefault(_compared(one), []).append((one.name, one.folder))
    of_evaluation = {key: _unique(same) for key, same in alike.items()}
    return (
        [replace(one, name=of_evaluation[_compared(one)][one.name, one.folder]) for one in named],
        [replace(one, run=of_run[one.run, one.folder]) for one in others],
    )


def _compared(one: Measured) -> tuple[str, str | None]:
    return one.title, one.of.comparator.name if one.of.comparator else None


def _unique(named: Sequence[tuple[str, Path]]) -> dict[tuple[str, Path], str]:
    """(name, folder) -> the name, followed by the differing part of the folder where several folders have it."""
    folders: dict[str, list[Path]] = {}
    for name, folder in named:
        folders.setdefault(name, []).append(folder)
    unique = {}
    for name, same in folders.items():
        above = os.path.commonpath([folder.parent for folder in same])
        for folder in same:
            behind = f" ({folder.relative_to(above).as_posix()})" if len(set(same)) > 1 else ""
            unique[name, folder] = f"{name}{behind}"
    return unique


# ---- files ----


def _paths(run: Path, name: str) -> list[Path]:
    """The files of this name in the run's folder and up to two folders below."""
    return sorted(path for depth in ("", "*/", "*/*/") for path in run.glob(f"{depth}{name}"))


def _found(result: Result, path: Path, *, stage: StageRecord, folder: Path) -> Found[Any]:
    """Its name is the one that the command gave it, or else that of the stage or the folder."""
    match result:
        case Controls():
            given = result.of.name
        case MultiImage() | Guard():
            given = result.name
        case _:  # a path, of rankings
            given = ""
    return Found(str(given or stage.name or folder.name), path, result=result, folder=folder)


def _measured(path: Path, stage: StageRecord, run: Path) -> Measured:
    of = Evaluation.read(path)
    known = {"parent": stage.parent_stage or stage.parent, "steps": stage.steps, "seconds": stage.seconds}
    known = {key: value for key, value in known.items() if value is not None}
    answers = path.with_name(ANSWERS)
    return Measured(of.name, of, answers, run=run, settings=_settings(of, stage), stage=known)


def _settings(of: Evaluation, stage: StageRecord) -> list[str]:
    """The settings of an evaluation that are not the defaults, in the words of a title.

    A stage's own size of pictures is its default; a model without a stage has none, since it is shown pictures of the
    size that a chain is trained with. A server generates its answers by default.
    """
    given = of.settings
    compares = of.mode == "direct" and of.engine.get("engine") != "server"
    sizes = {key: given.get(key) for key in ("image_min_pixels", "image_max_pixels")}
    resized = any(size is not None and getattr(stage, key) not in (None, size) for key, size in sizes.items())
    found = [
        (given.get("part") == "heldout", "prompt variants not used in training"),
        (given.get("language", "en") != "en", given.get("language")),
        (given.get("style", "img") != "img", f"pictures named by {given.get('style')}"),
        (given.get("warn"), "with a warning about order"),
        (given.get("generate") and compares, "generated answers"),
        (resized, f"pictures of {' to '.join(map(str, sizes.values()))} pixels"),
    ]
    return [str(words) for holds, words in found if holds]
