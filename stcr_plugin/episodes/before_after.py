"""`before_after`: pairs of pictures BEFORE and AFTER with the signed change of progress, as in RoboPulse and GRM.

Format, after https://github.com/FlagOpen/Robo-Dopamine: a list of {id, task, image, ...}. `image` has eight paths:
REFERENCE START, REFERENCE END, then BEFORE and AFTER, each from the front, the left wrist and the right wrist; or it
has two, BEFORE and AFTER. The change is "+33%" or "<score>+33%</score>", above 0 where AFTER is closer to completion.
Which field holds it differs by file: in GRM's, the last of its `conversations`; else `source.label` names it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin.config import settings
from stcr_plugin.episodes.benchmark_rows import (
    Row,
    check_folder,
    field_of,
    file_of,
    list_of,
    order_key,
    parse_rows,
    percent_of,
    read_rows,
    text_of,
)
from stcr_plugin.episodes.picture_files import decoded
from stcr_plugin.episodes.published_pairs import PictureFolder, PublishedRow, pair_up
from stcr_plugin.episodes.recordings import Unclaimed, check_indices, readable_id, record_of
from stcr_plugin.episodes.spatiallogic_rows import UnusableError
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, Exclusion, GivenPair, Segment

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

_CAMERAS = ("front", "left_wrist", "right_wrist")
_TWO, _EIGHT = 2, 2 + 2 * len(_CAMERAS)  # paths in a row
_DIALOGUE = "conversations"
_TAG = re.compile(r"\s*<score>(.*)</score>\s*", re.DOTALL)


@settings
class BeforeAfterConfig:
    """A file of BEFORE and AFTER pictures.

    Attributes:
        file: A .json or .jsonl.
        root: Folder that its paths are relative to.
        images: The field with the list of paths.
        label: The field with the signed change in percent; "" reads the last of `conversations`.
        camera: Which of three pictures is shown, where a row has eight.
    """

    file: str
    root: str
    kind: Literal["before_after"] = "before_after"
    images: str = "image"
    label: str = ""
    camera: Literal["front", "left_wrist", "right_wrist"] = "front"


class BeforeAfterSource(Unclaimed):
    """PairSource of one file, each pair in the order in which it was published, BEFORE first.

    Rows with the same REFERENCE START are of one recording, which is the episode; without references each pair is one.
    Frames are in the order of the numbers in their names where these differ in them alone, else as the file names them
    first. Rows that cannot be used come as an Exclusion that names the row and the field.
    """

    kind = "before_after"

    def __init__(self, config: BeforeAfterConfig) -> None:
        """Reads nothing yet but whether the folder is there. Raises DataError."""
        self.config = config
        self.file, self.root = Path(config.file), check_folder(config.root)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that are skipped, then the episodes in the order of their first rows.

        Raises DataError for a file that does not say in which field the change is.
        """
        excluded, recordings = self._contents
        yield from excluded
        for episode_id, one in recordings.items():
            count = len(one.names)
            tasks = list(dict.fromkeys(pair.task for pair in one.pairs))
            segments = tuple(Segment(task, 0, count) for task in tasks)
            yield Episode(self.kind, episode_id, "; ".join(tasks), fps=1.0, n_frames=count, segments=segments)

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """The pairs in published order, a row and its swap made one."""
        return self._of(episode).pairs

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at ascending `indices`, each uint8 [height, width, 3], sizes as they are stored."""
        check_indices(episode, indices)
        names = self._of(episode).names
        for index in indices:
            yield decoded(self.root / names[index])

    def states(self, episode: Episode) -> None:
        return None

    def _of(self, episode: Episode) -> PictureFolder:
        return record_of(self._contents[1], episode, self.file)

    @cached_property
    def _contents(self) -> tuple[list[Exclusion], dict[str, PictureFolder]]:
        """What is skipped, and episode id -> its pictures and pairs."""
        table = read_rows(self.file)
        if table.rows and not self.config.label and not any(_DIALOGUE in row for _, row in table.rows):
            number, row = table.rows[0]
            problem = f"no field {_DIALOGUE!r}, so it is not clear which of its fields has the signed change"
            names = ", ".join(str(name)[:40] for name in list(row)[:20])
            raise DataError(f"{self.file}, row {number}", problem, f"set source.label to one of {names}")
        used, excluded = parse_rows(self.file, table, self._row)
        of: dict[str, list[PublishedRow]] = defaultdict(list)
        for one in used:
            of[one.folder].append(one)
        found: dict[str, PictureFolder] = {}
        for name, rows in of.items():
            recording = PictureFolder(name, _in_time([image for row in rows for image in row.images]))
            for number, part, what, reason in pair_up(rows, recording):
                excluded.append(Exclusion(what, f"{self.file}, row {number}{part}", reason))
            if recording.pairs:
                found[readable_id(name)] = recording
        return excluded, found

    def _row(self, number: int, row: Row) -> PublishedRow:
        """Raises UnusableError."""
        name = self.config.images
        paths, task = list_of(row, name), text_of(row, "task")
        if len(paths) not in (_TWO, _EIGHT):
            raise UnusableError(f"its {name} has neither two nor eight paths", len(paths))
        first = 0 if len(paths) == _TWO else 2 + _CAMERAS.index(self.config.camera)
        second = first + (1 if len(paths) == _TWO else len(_CAMERAS))
        before, after = (self._relative(paths[place]) for place in (first, second))
        if before == after:
            raise UnusableError(f"its {name} has the same picture as BEFORE and as AFTER", before)
        change = self._change(row)
        folder = self._relative(paths[0]) if len(paths) == _EIGHT else " and ".join(sorted((before, after)))
        return PublishedRow(number, folder, (before, after), closer=int(change > 0) if change else None, task=task)

    def _relative(self, path: Any) -> str:
        return file_of(self.root, path, self.config.images).relative_to(self.root.resolve()).as_posix()

    def _change(self, row: Row) -> float:
        """-1..1. Raises UnusableError."""
        name = self.config.label or _DIALOGUE
        value: Any = field_of(row, name)
        if not self.config.label:
            last = value[-1] if isinstance(value, list) and value else None
            value = last.get("value") if isinstance(last, Mapping) else None
        if isinstance(value, str) and (tagged := _TAG.fullmatch(value)):
            value = tagged[1]
        return percent_of(value, name, least=-100)


def _in_time(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, by the last number in it where the names differ in that alone, else as they come first."""
    found = tuple(dict.fromkeys(names))
    alike = {re.sub(r"\d+(?=\D*$)", "0", Path(name).with_suffix("").as_posix()) for name in found}
    return tuple(sorted(found, key=lambda name: order_key(Path(name)))) if len(alike) == 1 else found
