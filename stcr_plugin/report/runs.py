"""Folders of runs -> the figures that lie in them, and what other commands have left there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation import controls, groups, progress, yesno
from stcr_plugin.evaluation.contamination import stage_of
from stcr_plugin.evaluation.metrics import RATES, figures, paired_rights
from stcr_plugin.evaluation.run import ANSWERS, RESULTS, read_answers
from stcr_plugin.types import Answer

Row = dict[str, Any]

_NEEDED = {
    RESULTS: ("name", "dataset", "split", "mode", *RATES, "n_pairs", "n_episodes", "n_queries"),
    controls.CONTROLS_JSON: ("of", "rows"),
    groups.GROUPS: ("name", "dataset", "split", "pictures", "ask", "accuracy", "intervals", "chance", "places"),
    yesno.GUARD: ("name", "questions", "n_pictures", "kinds"),
    progress.RANKING: ("words", "episode_id", "task", "frames"),
    progress.VOC: ("n_strips", "n_episodes", "intervals", "per_strip", *progress.MEANINGS),
}
"""File that a command leaves -> the keys that a report reads of it."""
_COMMANDS = {
    RESULTS: "stcr eval",
    controls.CONTROLS_JSON: "stcr controls",
    groups.GROUPS: "stcr eval --pictures",
    yesno.GUARD: "stcr guard",
    progress.RANKING: "stcr rank",
    progress.VOC: "stcr rank --voc",
}


@dataclass(frozen=True)
class Measured:
    """A row of chain.json, and where the answers lie that it was computed from."""

    row: Row
    answers: Path

    @property
    def name(self) -> str:
        return str(self.row["name"])


@dataclass(frozen=True)
class Left:
    """A file that a command left in a run's folder; `run` is what the run is called."""

    run: str
    path: Path
    row: Row


@dataclass(frozen=True)
class Runs:
    """What lies in the folders of some runs, in their order.

    chain: every evaluation of single pairs as they are; comparators: those that asked otherwise (`stcr eval
    --comparator`). left: file name -> those of that name.
    """

    chain: Sequence[Measured]
    comparators: Sequence[Measured]
    left: Mapping[str, Sequence[Left]]

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in (*self.chain, *self.comparators)]


def read(runs: Sequence[Path]) -> Runs:
    """Raises DataError for no runs, for one in which there is nothing to report, and for a file of another make."""
    if not runs:
        raise DataError("no runs: give at least one folder that `stcr eval` has written into")
    measured: list[Measured] = []
    left: dict[str, dict[Path, Left]] = {name: {} for name in _NEEDED if name != RESULTS}
    for run in map(Path, runs):
        stage = stage_of(run)
        paths = [run / RESULTS] if (run / RESULTS).exists() else sorted(run.glob(f"eval/*/{RESULTS}"))
        measured += [_measured(path, stage) for path in paths]
        found = [(name, path) for name in left for path in _places(run, name)]
        for name, path in found:
            left[name].setdefault(path.resolve(), Left(stage.get("name") or run.name, path, _read(path)))
        if not paths and not found:
            raise DataError(f"{run}: no {RESULTS} and no eval/*/{RESULTS} in it; run `stcr eval` on it first")
    chain = [one for one in measured if not one.row.get("comparator")]
    if not chain:
        raise DataError(
            f"{', '.join(map(str, runs))}: no {RESULTS} of a plain evaluation; run `stcr eval` without --comparator"
        )
    others = [one for one in measured if one.row.get("comparator")]
    return Runs(chain, others, {name: list(of.values()) for name, of in left.items() if of})


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


def _measured(path: Path, stage: Mapping[str, Any]) -> Measured:
    """A row of chain.json: results.json without its rows an episode, named and timed by stage.json."""
    results = _read(path)
    row = {"name": stage.get("name") or results["name"], "split": results["split"]}
    row |= {key: value for key, value in results.items() if key not in ("per_episode", *row)}
    known = {"parent": stage.get("parent_stage") or stage.get("parent")} | {
        key: stage.get(key) for key in ("steps", "seconds")
    }
    row |= {key: value for key, value in known.items() if value is not None}
    return Measured(row, path.with_name(ANSWERS))
