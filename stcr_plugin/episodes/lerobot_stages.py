"""The stages of a LeRobot episode, in each of the ways in which such datasets store them.

language       `language_persistent` in the rows, entries of style `subtask`, each lasts until the next one starts:
               https://github.com/huggingface/lerobot/blob/main/docs/source/language_and_recipes.mdx
subtask_index  the rows' `subtask_index`, with meta/subtasks.parquet; dropped in later versions of LeRobot
sparse, dense  `{sparse,dense}_subtask_{names,start_frames,end_frames}` in the entry of the episode, as SARM reads them
               (lerobot/rewards/sarm): a frame is in the first stage with start <= frame <= end
action_config  `{start_frame, end_frame, action_text}` in the entry of the episode, half-open, as AgiBot World has it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from stcr_plugin.config import settings
from stcr_plugin.episodes.lerobot_records import Record
from stcr_plugin.episodes.lerobot_rows import Rows
from stcr_plugin.episodes.lerobot_tasks import Texts, runs
from stcr_plugin.episodes.stage_spans import Said, StageEntry, StageSpans, check_said, check_stages, mapped_entries
from stcr_plugin.episodes.stored_values import finite, is_empty, shown, single, whole

_STYLE = "subtask"
_EARLY = 0.25  # frames by which a stage may start before the frame that it is taken to start at


@settings
class LeRobotStages:
    """Which annotated stages are read, and what is said of them.

    Attributes:
        read: Where they are stored, see lerobot_stages.py.
        say: As of other sources: `stage`, what is being done, and `stage_of`, its number, as in 2/5, which is close to
            the label in other words.
    """

    read: Literal["language", "subtask_index", "sparse", "dense", "action_config"]
    say: tuple[Said, ...] = ("stage",)

    def __post_init__(self) -> None:
        check_said(self.say)


def read_stages(record: Record, rows: Rows, read: str, *, subtasks: Texts, fps: float) -> StageSpans:
    """The stages of an episode. What cannot be used, up to the whole annotation, is named in `problems`."""
    readers: dict[str, Callable[[], list[StageEntry]]] = {
        "language": lambda: _of_language(rows, record.length, fps),
        "subtask_index": lambda: _of_indices(rows, subtasks),
        "action_config": lambda: mapped_entries(record.actions, ["action_text"], start="start_frame", end="end_frame"),
    }
    try:
        entries = readers[read]() if read in readers else _of_entry(record.stages, read, record.length)
    except ValueError as error:
        return StageSpans(problems=(str(error),))
    return check_stages(entries, record.length)


def _of_language(rows: Rows, length: int, fps: float) -> list[StageEntry]:
    """Raises ValueError for a column of another kind."""
    listed = rows.persistent
    if is_empty(listed):
        return []
    if not isinstance(listed, list):
        raise ValueError(f"its language_persistent is {shown(listed)}, not a list")
    stamps = rows.timestamps
    if stamps is None:
        stamps = np.arange(length) / fps
    found: list[StageEntry] = []
    starts: dict[tuple[int, str], Any] = {}
    for entry in listed:
        if not isinstance(entry, Mapping):
            raise ValueError(f"an entry of its language_persistent is {shown(entry)}, not a mapping")
        if entry.get("style") != _STYLE:
            continue
        second = finite(single(entry.get("timestamp")))
        if math.isnan(second):
            found.append(StageEntry(problem="a stage of its language_persistent has no timestamp"))
        else:
            starts[_frame_at(second, stamps, fps), repr(entry.get("content"))] = entry.get("content")
    ordered = sorted(starts, key=lambda key: key[0])
    for start, text in ordered:
        end = next((later for later, _ in ordered if later > start), length)
        found.append(StageEntry(starts[start, text], start, min(end, length) if start < length else start + 1))
    return found


def _frame_at(second: float, stamps: Any, fps: float) -> int:
    """The first frame that is not before `second`; outside of the episode, where it would be."""
    if stamps[0] - 0.5 / fps <= second <= stamps[-1] + _EARLY / fps:
        return int(np.searchsorted(stamps, second - _EARLY / fps))
    return math.floor((second - float(stamps[0])) * fps + 0.5)


def _of_indices(rows: Rows, subtasks: Texts) -> list[StageEntry]:
    """Raises ValueError for an index that is not a whole number; one below 0 marks frames without a stage."""
    indices = rows.subtask_indices
    found = []
    for index, start, end in runs(indices) if indices is not None else ():
        if index in subtasks.texts:
            found.append(StageEntry(subtasks.texts[index], start, end))
        elif index >= 0:
            missing = f"subtask_index {index} is not in meta/subtasks"
            found.append(StageEntry(problem=f"{missing} ({subtasks.problem})" if subtasks.problem else missing))
    return found


def _of_entry(columns: Mapping[str, Any], read: str, length: int) -> list[StageEntry]:
    """Raises ValueError for columns that are not lists of one length."""
    names = [f"{read}_subtask_{part}" for part in ("names", "start_frames", "end_frames")]
    if all(is_empty(columns.get(name)) for name in names):
        return []
    lists: list[Any] = [columns.get(name) for name in names]
    for name, values in zip(names, lists, strict=True):
        if not isinstance(values, list):
            raise ValueError(f"its {name} is {shown(values)}, not a list")
    texts, firsts, lasts = lists
    if not len(texts) == len(firsts) == len(lasts):
        raise ValueError(f"its {names[0]}, start_frames and end_frames have {len(texts)}, {len(firsts)}, {len(lasts)}")
    found: list[StageEntry] = []
    shared = -1  # the last frame of the stage before
    for text, first, last in zip(texts, firsts, lasts, strict=True):
        try:
            start, end = whole("start frame", first, least=-length), whole("end frame", last, least=-length)
        except ValueError as error:
            found.append(StageEntry(problem=f"a stage has no span: {error}"))
            continue
        # Ends are inclusive, and most annotators write the next stage's start there; the last may be the length.
        start = start + 1 if start == shared < end else start
        shared = end
        found.append(StageEntry(text, start, end if end == length else end + 1))
    return found
