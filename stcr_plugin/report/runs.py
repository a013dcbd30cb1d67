"""Folders of runs -> the figures that lie in them, and what other commands have left there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation import controls, guard, multi_image, rank
from stcr_plugin.evaluation.evaluate import ANSWERS, RESULTS, read_answers
from stcr_plugin.records import StageRecord
from stcr_plugin.scoring.metrics import RATES, figures, paired_rights
from stcr_plugin.types import Answer

Row = dict[str, Any]

_NEEDED = {
    RESULTS: ("name", "dataset", "split", "mode", *RATES, "n_pairs", "n_episodes", "n_queries"),
    controls.CONTROLS_JSON: ("of", "rows"),
    multi_image.GROUPS: ("name", "dataset", "split", "pictures", "ask", "intervals", "chance", *multi_image.FIGURES),
    guard.GUARD: ("name", "questions", "n_pictures", "kinds"),
    rank.RANKING: ("words", "episode_id", "task", "frames"),
    rank.VOC: ("n_strips", "n_episodes", "intervals", "per_strip", *rank.MEANINGS),
}
"""File that a command leaves -> the keys that a report reads of it."""
_COMMANDS = {
    RESULTS: "stcr eval",
    controls.CONTROLS_JSON: "stcr controls",
    multi_image.GROUPS: "stcr multi-image",
    guard.GUARD: "stcr guard",
    rank.RANKING: "stcr rank",
    rank.VOC: "stcr rank --voc",
}


@dataclass(frozen=True)
class Measured:
    """A row of chain.json, and where the answers lie that it was computed from; `run` is the folder of its run.

    called: its name in results.json; `name` is told apart from those of the other rows that were asked the same.
    otherwise: how it was asked, where that is not by the defaults.
    """

    row: Row
    answers: Path
    run: Path
    called: str
    otherwise: Sequence[str]

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def folder(self) -> Path:
        return self.answers.parent.resolve()

    @property
    def asked(self) -> str:
        """What was asked, and how. The mode, which rightly differs between stages, is no part of it."""
        return ", ".join((self.row["dataset"], self.row["split"], *self.otherwise))


@dataclass(frozen=True)
class Left:
    """A file that a command left in the folder `folder` of a run; `run` is what the run is called."""

    run: str
    path: Path
    row: Row
    folder: Path


@dataclass(frozen=True)
class Runs:
    """What lies in the folders of some runs, in their order.

    chain: every evaluation of single pairs as they are; comparators: those with another method (`stcr
    comparator`). left: file name -> those of that name.
    """

    chain: Sequence[Measured]
    comparators: Sequence[Measured]
    left: Mapping[str, Sequence[Left]]

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in (*self.chain, *self.comparators)]


def read(runs: Sequence[Path]) -> Runs:
    """What lies in `runs`, each file once; a name that several of them have gets the folder behind it.

    Raises DataError for no runs, for one in which there is nothing to report, and for a file of another make.
    """
    if not runs:
        raise DataError("no runs: give at least one folder that `stcr eval` has written into")
    measured: dict[Path, Measured] = {}
    left: dict[Path, Left] = {}
    for run in map(Path, runs):
        stage, folder = records.read(run) or StageRecord(), run.resolve()
        paths = [run / RESULTS] if (run / RESULTS).exists() else sorted(run.glob(f"eval/*/{RESULTS}"))
        for path in paths:
            measured.setdefault(path.resolve(), _measured(path, stage, folder))
        found = [path for name in _NEEDED if name != RESULTS for path in _places(run, name)]
        for path in found:
            left.setdefault(path.resolve(), _left(path, stage, folder))
        if not paths and not found:
            raise DataError(f"{run}: no {RESULTS} and no eval/*/{RESULTS} in it; run `stcr eval` on it first")
    every, rest = _told_apart(list(measured.values()), list(left.values()))
    chain = [one for one in every if not one.row.get("comparator")]
    if not chain:
        raise DataError(f"{', '.join(map(str, runs))}: no {RESULTS} of a plain evaluation; run `stcr eval` on it")
    others = [one for one in every if one.row.get("comparator")]
    files = {name: [one for one in rest if one.path.name == name] for name in _NEEDED}
    return Runs(chain, others, {name: of for name, of in files.items() if of})


def answers_of(measured: Measured) -> list[Answer]:
    """Raises DataError where they are missing, or are not those that the row was computed from."""
    if not measured.answers.is_file():
        raise DataError(f"{ANSWERS} of {measured.row['name']} is not beside its {RESULTS}")
    answers = read_answers(measured.answers)
    if figures(answers).pair_accuracy != measured.row["pair_accuracy"]:
        raise DataError(f"{ANSWERS} of {measured.row['name']} does not give the figures of its {RESULTS}")
    return answers


def same_pairs(one: Measured, other: Measured) -> tuple[list[Answer], list[Answer]]:
    """The answers of both. Raises DataError where they were not asked the same pairs, or their answers are missing."""
    if one.row.get("data_digest") != other.row.get("data_digest"):
        raise DataError("they were asked about other pictures")
    answers, others = answers_of(one), answers_of(other)
    paired_rights(answers, others)
    return answers, others


def _told_apart(measured: Sequence[Measured], left: Sequence[Left]) -> tuple[list[Measured], list[Left]]:
    """The same under names that no two runs share, nor two evaluations of one run that were asked the same."""
    of_run = _apart([*((one.name, one.run) for one in measured), *((one.run, one.folder) for one in left)])
    named = [_renamed(one, of_run[one.name, one.run]) for one in measured]
    alike: dict[tuple[str, str | None], list[tuple[str, Path]]] = {}
    for one in named:
        alike.setdefault(_question(one), []).append((one.name, one.folder))
    of_eval = {asked: _apart(of) for asked, of in alike.items()}
    return (
        [_renamed(one, of_eval[_question(one)][one.name, one.folder]) for one in named],
        [replace(one, run=of_run[one.run, one.folder]) for one in left],
    )


def _question(one: Measured) -> tuple[str, str | None]:
    return one.asked, (one.row.get("comparator") or {}).get("name")


def _apart(named: Sequence[tuple[str, Path]]) -> dict[tuple[str, Path], str]:
    """(name, folder) -> the name, with the folder behind it, from where they part, where several folders have it."""
    folders: dict[str, list[Path]] = {}
    for name, folder in named:
        folders.setdefault(name, []).append(folder)
    apart = {}
    for name, of in folders.items():
        above = os.path.commonpath([folder.parent for folder in of])
        for folder in of:
            behind = f" ({folder.relative_to(above).as_posix()})" if len(set(of)) > 1 else ""
            apart[name, folder] = f"{name}{behind}"
    return apart


def _renamed(one: Measured, name: str) -> Measured:
    return replace(one, row=one.row | {"name": name})


def _places(run: Path, name: str) -> list[Path]:
    """Where commands leave a file of this name: in the folder they are given, or in one a room and a data set."""
    return sorted(path for depth in ("", "*/", "*/*/") for path in run.glob(f"{depth}{name}"))


def _read(path: Path) -> Row:
    found = artefacts.read_json(path)
    absent = [key for key in _NEEDED[path.name] if not isinstance(found, dict) or key not in found]
    if absent:
        raise DataError(f"{path}: not what `{_COMMANDS[path.name]}` writes ({absent[0]!r} is missing); run it again")
    row: Row = found
    return row


def _left(path: Path, stage: StageRecord, folder: Path) -> Left:
    """Called as the command did, where that is a name and no path; else as the run's stage or folder."""
    row = _read(path)
    named = {controls.CONTROLS_JSON: row.get("of"), multi_image.GROUPS: row, guard.GUARD: row}.get(path.name) or {}
    return Left(str(named.get("name") or stage.name or folder.name), path, row, folder)


def _measured(path: Path, stage: StageRecord, run: Path) -> Measured:
    """A row of chain.json: results.json without its rows an episode, timed by stage.json."""
    results = _read(path)
    row = {key: results[key] for key in ("name", "split")}
    row |= {key: value for key, value in results.items() if key not in ("per_episode", *row)}
    known = {"parent": stage.parent_stage or stage.parent, "steps": stage.steps, "seconds": stage.seconds}
    row |= {key: value for key, value in known.items() if value is not None}
    return Measured(row, path.with_name(ANSWERS), run, str(row["name"]), _otherwise(row, stage))


def _otherwise(row: Row, stage: StageRecord) -> list[str]:
    """How it was asked, in the words of a title, where that is not by the defaults.

    A stage's own size of pictures is its default; a model without one has none, since it is shown pictures of whatever
    size a chain is trained with. A server can do nothing but write.
    """
    asked = row.get("settings") or {}
    compares = row["mode"] == "direct" and (row.get("engine") or {}).get("engine") != "server"
    sizes = {key: asked.get(key) for key in ("image_min_pixels", "image_max_pixels")}
    resized = any(size is not None and getattr(stage, key) not in (None, size) for key, size in sizes.items())
    found = [
        (asked.get("part") == "heldout", "wordings never trained on"),
        (asked.get("language", "en") != "en", asked.get("language")),
        (asked.get("style", "img") != "img", f"pictures named by {asked.get('style')}"),
        (asked.get("warn"), "warned of the order"),
        (asked.get("generate") and compares, "left to write"),
        (resized, f"pictures of {' to '.join(map(str, sizes.values()))} pixels"),
    ]
    return [str(words) for holds, words in found if holds]
