"""The file of successes and a table of labels -> a threshold of success per task, thresholds.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import Thresholds
from stcr_plugin.config import nearest
from stcr_plugin.episodes.episode_table import as_frame, as_text, read_table
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.provenance import provenance
from stcr_plugin.robotics.label_files import EpisodeSuccess, read_success
from stcr_plugin.scoring.thresholds import LabelledEpisode, fewest, task_threshold

PRECISION = 0.8
FIT, HELDOUT = "dev", "heldout"
"""Values of the column `split`: episodes to fit on, and to report on."""
_COLUMNS = ("episode_id", "episode_index", "task", "success", "split")
_Key = tuple[str, str]  # episode_id, task


@dataclass(frozen=True)
class _Label:
    """What the table says of an episode; `split` is "" where it does not say."""

    row: int
    success: bool
    split: str


def fit_thresholds(
    success: Path, labels: Path, out: Path, *, precision: float = PRECISION, seed: int = 0
) -> Thresholds:
    """Fit a threshold per task and write thresholds.json into the folder `out`, see `scoring.thresholds`.

    Where the table has no column `split`, half of the episodes are fitted on: those whose hash of seed and episode_id
    is even, so that an episode stays in its part when others are added.

    Args:
        success: The stcr_success.jsonl of `stcr label --success`.
        labels: Table (.csv, .jsonl or .parquet) with the columns success (0 or 1), episode_id or episode_index, and
            where episodes have several tasks task; optionally split (dev or heldout).
        out: Folder of the result.
        precision: Share 0..1 of the predicted successes that must be successes.
        seed: Of the hash.

    Raises:
        ConfigError: For a precision that is not between 0 and 1.
        DataError: The file or the table cannot be used, or no task gets a threshold; then nothing is written.
    """
    if not 0 < precision < 1:
        raise ConfigError("precision", f"{precision:g} is not between 0 and 1", "give a share, such as 0.8")
    known = _known(success)
    found = _labels(labels, known)
    given = any(label.split for label in found.values())
    parts: dict[str, dict[str, list[LabelledEpisode]]] = defaultdict(lambda: {FIT: [], HELDOUT: []})
    for key, label in found.items():
        part = label.split if given else _part(key[0], seed)
        parts[key[1]][part].append(LabelledEpisode(known[key].probability, label.success))
    tasks = tuple(
        task_threshold(task, of[FIT], heldout=of[HELDOUT], precision=precision) for task, of in sorted(parts.items())
    )
    if all(task.threshold is None for task in tasks):
        more = f" (and {len(tasks) - 1} more tasks)" if len(tasks) > 1 else ""
        raise DataError(
            f"{labels}, task {tasks[0].task!r}{more}",
            f"no threshold can be given: {tasks[0].why}",
            "label more episodes, or demand less with --precision",
        )
    by: Literal["table", "hash"] = "table" if given else "hash"
    result = Thresholds(
        success=str(success),
        labels=str(labels),
        precision=precision,
        fewest=fewest(precision),
        parts=by,
        seed=seed,
        unlabelled=len(known) - len(found),
        tasks=tasks,
        success_digest=artefacts.sha256(success),
        labels_digest=artefacts.sha256(labels),
        provenance=provenance(),
    )
    result.write(Path(out) / Thresholds.file)
    return result


def _part(episode_id: str, seed: int) -> str:
    return (FIT, HELDOUT)[int(artefacts.digest([seed, episode_id])[:16], 16) % 2]


def _known(path: Path) -> dict[_Key, EpisodeSuccess]:
    found: dict[_Key, EpisodeSuccess] = {}
    for number, row in enumerate(read_success(path), 1):
        where = f"{path}, episode {row.episode_id!r}"
        if not 0 <= row.probability <= 1:
            raise DataError(where, f"its probability {row.probability} is not between 0 and 1", "label it again")
        if (row.episode_id, row.task) in found:
            raise DataError(where, f"is there twice, again in row {number}", "delete one of the rows")
        found[row.episode_id, row.task] = row
    if not found:
        raise DataError(path, "holds no episode", "run `stcr label --success`")
    return found


def _labels(path: Path, known: Mapping[_Key, EpisodeSuccess]) -> dict[_Key, _Label]:
    """The label of each (episode_id, task). Raises DataError for the first row that cannot be used."""
    table = read_table(path)
    if table.bad:
        number, why = table.bad[0]
        raise DataError(f"{path}, row {number}", why)
    for name in table.columns:
        if name not in _COLUMNS:
            raise DataError(path, f"unknown column {name!r}, {nearest(name, _COLUMNS)}", "rename or delete it")
    if "success" not in table.columns or not {"episode_id", "episode_index"} & {*table.columns}:
        raise DataError(
            path, f"has the columns {', '.join(table.columns)}", "give success, and episode_id or episode_index"
        )
    keys = _Keys(known)
    found: dict[_Key, _Label] = {}
    for number, values in table.rows:
        try:
            key = keys.of(values)
            label = _Label(number, _flag(values.get("success")), _split(values, table.columns))
            if key in found:
                before = found[key]
                alike = "twice" if before.success == label.success else "as a success and as a failure"
                raise ValueError(f"labels episode {key[0]!r} {alike}, see row {before.row}")
        except ValueError as error:
            raise DataError(f"{path}, row {number}", str(error), "correct or delete the row") from None
        found[key] = label
    return found


class _Keys:
    """Finds the row of stcr_success.jsonl that a row of the table is about."""

    def __init__(self, known: Mapping[_Key, EpisodeSuccess]) -> None:
        self._tasks: dict[str, list[str]] = defaultdict(list)
        self._index: dict[int, str] = {}
        for episode, task in known:
            self._tasks[episode].append(task)
            self._index[known[episode, task].episode_index] = episode

    def of(self, values: Mapping[str, Any]) -> _Key:
        """Raises ValueError where there is none, or several."""
        named = _cell(values, "episode_id")
        index = as_frame("episode_index", values["episode_index"]) if _cell(values, "episode_index") else None
        episode = self._index.get(index) if index is not None and not named else named
        if episode not in self._tasks:
            which = f"episode {named!r}" if named or index is None else f"episode_index {index}"
            raise ValueError(f"{which} is not in the file of probabilities")
        if index is not None and self._index.get(index) != episode:
            raise ValueError(f"episode_index {index} is not that of episode {episode!r}")
        tasks, task = self._tasks[episode], _cell(values, "task")
        if task and task not in tasks:
            raise ValueError(f"episode {episode!r} has no task {task!r}, {nearest(task, tasks)}")
        if not task and len(tasks) > 1:
            raise ValueError(f"episode {episode!r} has {len(tasks)} tasks; name one in a column task")
        return episode, task or tasks[0]


def _cell(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "" if value is None else as_text(name, value)


def _flag(value: Any) -> bool:
    text = str(int(value)) if isinstance(value, bool) else "" if value is None else as_text("success", value)
    if text not in ("0", "1"):
        raise ValueError(f"its success {text!r} is not 0 or 1")
    return text == "1"


def _split(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    if "split" not in columns:
        return ""
    text = _cell(values, "split")
    if text not in (FIT, HELDOUT):
        raise ValueError(f"its split {text!r} is not {FIT} or {HELDOUT}")
    return text
