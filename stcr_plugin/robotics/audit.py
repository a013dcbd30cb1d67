"""What `stcr label` wrote -> the episodes in the order of suspicion, with their curves; the dataset is only read.

Which measures there are and what decides the order: scoring/suspicion.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.robotics.label_files import ANCHORS, LABEL, SUCCESS, Anchor, LabelRecord, read_anchors, read_success
from stcr_plugin.robotics.labelled_data import LabelledData
from stcr_plugin.scoring.suspicion import DROP, AuditedEpisode, Curve, DropRule, Suspect, audited
from stcr_plugin.types import Episode, EpisodeSource

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

ROWS = AuditedEpisode.file


@dataclass(frozen=True)
class Audit:
    """The episodes of a dataset in the order of suspicion.

    Attributes:
        folder: Where the labels are.
        rows: The most suspicious episode first.
        curves: Episode id -> the curve of each of its parts, by time.
        record: How the labels were made; None where the folder does not say it.
        recordings: Gives pictures of the episodes.
    """

    folder: Path
    rows: tuple[AuditedEpisode, ...]
    curves: Mapping[str, tuple[Curve, ...]]
    record: LabelRecord | None
    recordings: Recordings

    @property
    def dropped(self) -> list[int]:
        """Numbers of the episodes that a rule names, ascending."""
        return sorted({row.episode_index for row in self.rows if row.drop})


@dataclass(frozen=True)
class Recordings:
    """The labelled episodes as their source has them; without one, `problem` says why there are no pictures."""

    source: EpisodeSource | None = None
    problem: str = ""

    @cached_property
    def episodes(self) -> dict[str, Episode]:
        """Episode id -> the episode."""
        found = self.source.episodes() if self.source else ()
        return {one.episode_id: one for one in found if isinstance(one, Episode)}

    def pictures(self, episode_id: str, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending frames. Raises DataError where there are none."""
        if self.source is None or episode_id not in self.episodes:
            raise DataError(f"episode {episode_id}", self.problem or "its recording is not here")
        yield from self.source.frames(self.episodes[episode_id], frames)


def audit(folder: Path, out: Path, *, rules: Sequence[DropRule] = (DROP,)) -> Audit:
    """Rank the labelled episodes of `folder` by how suspicious they are, and write audit.jsonl into `out`.

    An episode of several tasks, one after the other, is judged part by part, since the progress of each begins again;
    where its recording is not here, it is judged as a whole.

    Args:
        folder: A dataset that was labelled, or the folder that `stcr label` was given as --out.
        out: Folder of the results, outside the dataset.
        rules: Which episodes are to be dropped: those that any of them names.

    Raises:
        DataError: The labels are missing or cannot be read.
        ConfigError: `out` is in the dataset.
    """
    folder, out = Path(folder), Path(out)
    if out.resolve().is_relative_to(folder.resolve()) and (folder / "meta").is_dir():
        raise ConfigError(f"--out {out}", f"is in the dataset {folder}", "name a folder elsewhere")
    record = LabelRecord.read(folder / LABEL) if (folder / LABEL).is_file() else None
    success: dict[str, float] = {}
    for row in read_success(folder / SUCCESS) if (folder / SUCCESS).is_file() else ():
        success[row.episode_id] = min(row.probability, success.get(row.episode_id, 1.0))
    recordings = opened(folder, record)
    suspects = []
    for episode_id, number, anchors in _by_episode(folder / ANCHORS):
        parts = tuple(_parts(anchors, recordings.episodes.get(episode_id)))
        suspects.append(Suspect(episode_id, number, parts, success.get(episode_id)))
    if not suspects:
        raise DataError(folder / ANCHORS, "has no episode", "label the dataset again (stcr label)")
    rows = audited(suspects, rules)
    artefacts.write_jsonl(out / ROWS, (row.row() for row in rows))
    return Audit(folder, tuple(rows), {one.episode_id: one.curves for one in suspects}, record, recordings)


def opened(folder: Path, record: LabelRecord | None) -> Recordings:
    """The recordings that were labelled: of the dataset in `folder`, else of what the record names."""
    given = folder if (folder / "meta").is_dir() else Path(record.dataset) if record else None
    camera = record.settings.get("camera") if record else None
    if given is None:
        return Recordings(problem=f"there is no {LABEL} that names the recordings")
    try:
        found = Recordings(LabelledData(given, camera).opened().source)
        _ = found.episodes
    except StcrError as error:
        return Recordings(problem=str(error))
    return found


def _by_episode(path: Path) -> Iterator[tuple[str, int, list[Anchor]]]:
    """(id, number, anchors in time order) of each episode. Raises DataError for an episode that comes twice."""
    seen: set[str] = set()
    known = (anchor for anchor in read_anchors(path) if math.isfinite(anchor.progress))
    for (episode_id, number), anchors in groupby(known, lambda anchor: (anchor.episode_id, anchor.episode_index)):
        if episode_id in seen:
            raise DataError(path, f"episode {episode_id} is not in one piece", "label the dataset again (stcr label)")
        seen.add(episode_id)
        yield episode_id, number, sorted(anchors, key=lambda anchor: anchor.frame_index)


def _parts(anchors: Sequence[Anchor], episode: Episode | None) -> Iterator[Curve]:
    """The curve of each segment that has anchors, where an episode has no task of its own; else one of all."""
    spans = [(one.start, one.end) for one in episode.segments] if episode and not episode.task else []
    found = [[one for one in anchors if start <= one.frame_index < end] for start, end in sorted(spans)]
    parts = [part for part in found if part]
    for part in parts if len(parts) > 1 else [anchors]:
        yield Curve(
            tuple(one.frame_index for one in part),
            tuple(one.progress for one in part),
            tuple(one.disagreement for one in part),
            tuple(one.comparisons for one in part),
        )
