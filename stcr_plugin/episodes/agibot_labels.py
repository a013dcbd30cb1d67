"""task_info/task_<id>.json of AgiBot World: the episodes of a task, their segments and their failures.

Format: the dataset cards, https://huggingface.co/datasets/agibot-world/AgiBotWorld-Alpha and -Beta. An entry is
`{episode_id, task_name, label_info}` (`lable_info` in some files); `label_info.action_config` lists
`{start_frame, end_frame, action_text}`, half-open, in frames of the 30 Hz video.

`label_info.key_frame` lists `{start, end, comment}`, in the same frames; a comment says that something failed or that
the robot recovered ("Failure recovery"). The publishers have taken the field out of the present files
(https://github.com/OpenDriveLab/AgiBot-World/issues/76), so it is read where a copy has it. See `_in_doubt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.artefacts import read_json
from stcr_plugin.episodes.recordings import check_text
from stcr_plugin.episodes.stored_values import is_empty, shown, single, whole
from stcr_plugin.errors import DataError
from stcr_plugin.types import Exclusion

_FAILURE = re.compile(r"fail|error|mistake|失败|错误", re.I)
_RECOVERY = re.compile(r"recover|恢复", re.I)


@dataclass(frozen=True)
class Record:
    """What task_info says of one episode.

    Attributes:
        task: Id of its task, whose text is `name`.
        number: Its `episode_id`.
        actions: Entries of `action_config`, as they are.
        doubts: Frames [start, end) whose progress is unknown; end None for the episode's end.
        where: File and entry, from 1.
    """

    task: str
    number: str
    name: str
    actions: tuple[Any, ...]
    doubts: tuple[tuple[int, int | None], ...]
    where: str = field(compare=False)

    @property
    def episode_id(self) -> str:
        return f"{self.task}-{self.number}"


@dataclass(frozen=True)
class TaskInfo:
    """The episodes of one task by number, and its entries that cannot be used."""

    records: Mapping[str, Record]
    excluded: tuple[Exclusion, ...]


def read_task(path: Path, task: str) -> TaskInfo:
    """Raises DataError for a file that is not a list of entries."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(path, f"expected a list of episodes, found {type(entries).__name__}", "download it again")
    records: dict[str, Record] = {}
    excluded: list[Exclusion] = []
    contradicted: set[str] = set()
    for position, entry in enumerate(entries, 1):
        where = f"{path}, entry {position}"
        try:
            record = _read_record(entry, task, where)
        except ValueError as error:
            excluded.append(Exclusion("episode", where, str(error)))
            continue
        first, what = records.get(record.number), f"episode {record.episode_id}"
        if first == record:
            excluded.append(Exclusion(what, where, "listed twice with the same facts; it is taken once"))
        elif first is None and record.number not in contradicted:
            records[record.number] = record
        else:
            contradicted.add(record.number)
            twice = [one.where for one in (records.pop(record.number, None), record) if one is not None]
            reason = "listed twice with different facts; keep the right entry"
            excluded += [Exclusion(what, place, reason) for place in twice]
    return TaskInfo(records, tuple(excluded))


def _read_record(entry: Any, task: str, where: str) -> Record:
    """Raises ValueError for an entry that cannot be used."""
    named = single(entry.get("episode_id")) if isinstance(entry, Mapping) else None
    if is_empty(named):
        raise ValueError("the entry has no episode_id")
    number = named if isinstance(named, str) else str(whole("episode_id", named))
    if not re.fullmatch(r"\w[\w-]*", number):
        raise ValueError(f"the episode_id {number[:40]!r} is not a number")
    labels = single(entry.get("label_info", entry.get("lable_info"))) or {}
    if not isinstance(labels, Mapping):
        raise ValueError(f"episode {number}: label_info is not a mapping")
    actions, marks = labels.get("action_config") or [], labels.get("key_frame") or []
    if not isinstance(actions, list) or not isinstance(marks, list):
        raise ValueError(f"episode {number}: action_config and key_frame must be lists")
    try:
        name = check_text("task_name", entry.get("task_name") or "")
        return Record(task=task, number=number, name=name, actions=tuple(actions), doubts=_in_doubt(marks), where=where)
    except ValueError as error:
        raise ValueError(f"episode {number}: {error}") from None


def _in_doubt(marks: Sequence[Any]) -> tuple[tuple[int, int | None], ...]:
    """Frames [start, end) from a failure to the end of its recovery, of label_info.key_frame.

    A mark whose comment speaks of recovery ("Failure recovery") covers itself, its last frame included; one that
    speaks of a failure alone lasts to the end of the next mark of recovery, and to the episode's end where there is
    none. Other marks say nothing of progress. Raises ValueError for a mark without a start and an end: where the
    failure is would be unknown.
    """
    read = []
    for mark in marks:
        try:
            if not isinstance(mark, Mapping):
                raise ValueError(f"it is {shown(mark)}")
            start, end = (whole(key, mark.get(key), least=-1) for key in ("start", "end"))
            comment = str(single(mark.get("comment")) or "")
        except ValueError as error:
            raise ValueError(f"a key_frame cannot be read ({error}), so where it fails is unknown") from None
        if not 0 <= start <= end:
            raise ValueError(f"a key_frame runs from {start} to {end}, so where it fails is unknown")
        read.append((start, end, comment))
    doubts: list[tuple[int, int | None]] = []
    failed: int | None = None
    for start, end, comment in sorted(read):
        if _RECOVERY.search(comment):
            doubts.append((start if failed is None else failed, end + 1))
            failed = None
        elif failed is None and _FAILURE.search(comment):
            failed = start
    return tuple(doubts) if failed is None else (*doubts, (failed, None))
