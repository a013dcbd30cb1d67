"""Progress per frame of some cases -> a manifest with recorded traces, which PRM-as-a-Judge 1.5 evaluates.

Format: see episodes/prm_manifest.py; `prm-judge eval --manifest manifest.jsonl --prm recorded` reads it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.episodes.prm_manifest import LABELS, VIEWS, Case, PrmManifestConfig, PrmManifestSource
from stcr_plugin.episodes.recordings import readable_id
from stcr_plugin.errors import DataError
from stcr_plugin.rankings import Ranking

MANIFEST, TRACES = "manifest.jsonl", "traces"
_PATHS = (*VIEWS, "goal_image")
_REPLACED = ("progress", "progress_path", "videos", "id", "instruction")


@dataclass(frozen=True)
class RecordedCase:
    """A case and its progress.

    Attributes:
        case_id: Unique among the cases.
        task: What is being done, in words.
        video: The file that `progress` is of.
        progress: 0..1, of frames spread evenly from the first to the last.
        label: "success" or "failure", "" where it is not known.
        more: Further fields of its row, such as those of the manifest that it is from.
    """

    case_id: str
    task: str
    video: Path
    progress: tuple[float, ...]
    label: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenTraces:
    """The manifest that was written, how many cases it has, and which cases have no progress and are not in it."""

    manifest: Path
    cases: int
    without: tuple[str, ...] = ()


def write_traces(cases: Sequence[RecordedCase], out: Path) -> Path:
    """Write manifest.jsonl and a file traces/CASE.json for each case into the folder `out`; paths are relative to it.

    Raises:
        DataError: For no case, two cases of one id, an unknown label, and progress that is not 0..1.
    """
    if not cases:
        raise DataError(out, "no case has progress", "rank their episodes first")
    rows, seen = [], set[str]()
    for case in cases:
        where = f"case {case.case_id}"
        if case.case_id in seen:
            raise DataError(where, "there are two cases of that id", "give each its own")
        seen.add(case.case_id)
        if case.label and case.label not in LABELS.values():
            raise DataError(where, f"its label {case.label!r} is not success or failure")
        if len(case.progress) < 2 or any(not (math.isfinite(value) and 0 <= value <= 1) for value in case.progress):
            raise DataError(where, "its progress is not two or more numbers from 0 to 1")
        trace = f"{TRACES}/{readable_id(case.case_id)}.json"
        artefacts.write_json(out / trace, {"progress": list(case.progress)})
        row = {**case.more, "case_id": case.case_id, "task": case.task, "video": os.path.relpath(case.video, out)}
        rows.append(row | ({"label": case.label} if case.label else {}) | {"progress_path": trace})
    artefacts.write_jsonl(out / MANIFEST, rows)
    return out / MANIFEST


def traces_of_rankings(rankings: Sequence[Path], manifest: Path, out: Path) -> WrittenTraces:
    """Write the cases of a manifest with the progress that `stcr rank` gave them, as `write_traces` does.

    A ranking is of the case whose case_id is its episode. Cases without one are left out.

    Args:
        rankings: Folders that `stcr rank` wrote.
        manifest: The manifest of the cases; its fields stay as they are, but for progress and paths.
        out: Folder to write.

    Raises:
        DataError: For a manifest or a ranking that cannot be used, and a ranking that is of no case.
    """
    source = PrmManifestSource(PrmManifestConfig(file=str(manifest)))
    if source.unusable:
        first = source.unusable[0]
        raise DataError(first.where, first.reason, "fix the row, or remove it")
    progress: dict[str, tuple[float, ...]] = {}
    for folder in rankings:
        found = Ranking.read(folder / Ranking.file)
        frames = sorted(found.frames, key=lambda frame: frame.place)
        progress[found.episode_id] = tuple(frame.progress for frame in frames)
    for episode_id in progress:
        if episode_id not in source.cases:
            fix = nearest(episode_id, list(source.cases))
            raise DataError(manifest, f"has no case {episode_id!r}, of which a ranking is; {fix}", "name its manifest")
    cases = [
        _recorded(case, progress[episode_id], manifest.parent, out=out)
        for episode_id, case in source.cases.items()
        if episode_id in progress
    ]
    without = tuple(episode_id for episode_id in source.cases if episode_id not in progress)
    return WrittenTraces(write_traces(cases, out), len(cases), without)


def _recorded(case: Case, progress: tuple[float, ...], base: Path, *, out: Path) -> RecordedCase:
    """A case of a manifest in the folder `base` with other progress, its paths as seen from `out`."""
    more = {key: value for key, value in case.published.items() if key not in (*_REPLACED, "label")}
    for name in _PATHS:
        if isinstance(more.get(name), str):
            more[name] = os.path.relpath(base / more[name], out)
    row = case.row
    return RecordedCase(
        str(case.published.get("case_id") or case.published.get("id")),
        row["task"],
        base / row["path"],
        progress=progress,
        label=row.get("group", ""),
        more=more,
    )
