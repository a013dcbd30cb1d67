"""`spatiallogic`: the pairs that STCR's authors published, see spatiallogic_rows.py.

Paths may have backslashes, and `_` for the final `.` of a folder.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from stcr_plugin.artefacts import inside
from stcr_plugin.config import settings
from stcr_plugin.episodes.picture_files import SUFFIXES, decoded
from stcr_plugin.episodes.published_pairs import PictureFolder, PublishedRow, UnusablePart, pair_up
from stcr_plugin.episodes.recordings import Unclaimed, check_indices, readable_id, record_of
from stcr_plugin.episodes.spatiallogic_rows import READERS, Published, UnusableError, closer_image, split_details
from stcr_plugin.errors import DataError, NoPathError
from stcr_plugin.types import Episode, Exclusion, GivenPair, Segment

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

TASK_PATTERN = r"(?i)(?:(?:任务名称|完成任务|task name)\s*[::]\s*|完成“)(.+?)\s*(?:\n|”任务|[,,]\s*请|$)"


@settings
class SpatialLogicConfig:
    """A published file and the folder of its pictures.

    Attributes:
        file: A .json or .csv of the authors.
        root: Folder of the pictures.
        strip: What to cut from the front of its paths, a folder or several, such as the absolute one of the authors'
            machine.
        fps: Frames per second of the picture folders, which the files do not say; 3.0 is one in ten of AgiBot World's
            30.
        task_pattern: A regular expression whose one group finds the task in a row's question; the default knows the
            published prompts.
        task: The task where that finds none.
        descriptions: False reads labels alone, for files whose texts cannot be split into one of img1 and one of img2.
    """

    file: str
    root: str
    kind: Literal["spatiallogic"] = "spatiallogic"
    strip: str | tuple[str, ...] = ()
    fps: float = 3.0
    task_pattern: str = TASK_PATTERN
    task: str = ""
    descriptions: bool = True

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")
        if Path(self.file).suffix.lower() not in READERS:
            raise ValueError(f"`file` must end in {' or '.join(READERS)}, got {self.file!r}")
        try:
            groups = re.compile(self.task_pattern).groups
        except re.error as error:
            raise ValueError(f"`task_pattern` is not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"`task_pattern` must have one group, the task; it has {groups}")


class SpatialLogicSource(Unclaimed):
    """PairSource of one published file. Rows that cannot be used come as an Exclusion that names the row.

    The folder of a pair is its episode, so a frame's index is its place among the folder's pictures. Rows are counted
    from 1; a CSV's first row is its header.
    """

    kind = "spatiallogic"

    def __init__(self, config: SpatialLogicConfig) -> None:
        """Opens nothing yet. Raises DataError where the file or the folder is missing."""
        self.config = config
        self.file, self.root = Path(config.file), Path(config.root)
        if not self.file.is_file():
            raise DataError(self.file, "no such file", "download it, or set source.file")
        if not self.root.is_dir():
            raise DataError(self.root, "no such folder", "set source.root to the one that holds the pictures")
        self._base = self.root.resolve()
        prefixes = (config.strip,) if isinstance(config.strip, str) else config.strip
        self._prefixes = [_slashes(prefix).rstrip("/") + "/" for prefix in prefixes if prefix]
        # Rows of one folder mostly follow each other, or the folders are few: look at each of them once.
        self._find_folder = lru_cache(None)(self._look_for_folder)
        self._names = lru_cache(None)(self._list_names)

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that are skipped, in the order of the file, then one episode per folder, in natural order.

        Every distinct task of a folder is a segment over all of it. Raises DataError for a file that is cut off, and
        where not one row can be used.
        """
        excluded, folders = self._contents
        if not folders:
            first = f"; {excluded[0].where}: {excluded[0].reason}" if excluded else ""
            fix = "set source.root to the folder that its paths start from, and source.strip to what to cut from them"
            raise DataError(self.file, f"not one row can be used{first}", fix)
        yield from excluded
        for episode_id, folder in folders.items():
            tasks = list(dict.fromkeys(pair.task for pair in folder.pairs))
            count = len(folder.names)
            segments = tuple(Segment(task, 0, count) for task in tasks)
            group = PurePosixPath(folder.path).parts[0] if "/" in folder.path else ""
            task, fps = "; ".join(tasks), self.config.fps
            yield Episode(self.kind, episode_id, task, fps=fps, n_frames=count, segments=segments, group=group)

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """The folder's pairs in published order, a row and its swap made one."""
        return tuple(self._folder(episode).pairs)

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The folder's pictures at ascending `indices`, each uint8 [height, width, 3], turned by its EXIF mark.

        Raises DataError naming the picture that cannot be decoded whole, or the folder where it has changed.
        """
        folder = self._folder(episode)
        if len(folder.names) != episode.n_frames:
            listed = f"{episode.n_frames} were listed for episode {episode.episode_id}"
            raise DataError(self._base / folder.path, f"{len(folder.names)} pictures, {listed}", "build again")
        check_indices(episode, indices)
        for index in indices:
            yield decoded(self._base / folder.path / folder.names[index])

    def picture_path(self, episode: Episode, index: int) -> str:
        """The path of one picture relative to root, with forward slashes and the folder's name as it is on disk."""
        folder = self._folder(episode)
        return str(PurePosixPath(folder.path, folder.names[index]))

    def states(self, episode: Episode) -> None:
        """None: the files say nothing of single frames that a machine could check."""

    def _folder(self, episode: Episode) -> PictureFolder:
        return record_of(self._contents[1], episode, self.file)

    # ---- the file ----

    @cached_property
    def _contents(self) -> tuple[list[Exclusion], dict[str, PictureFolder]]:
        """The exclusions, and episode id -> folder in natural order. Read once, at first need."""
        from stcr_plugin.progress_bar import progress

        bad: list[UnusablePart] = []
        rows: dict[str, list[PublishedRow]] = {}
        read, parse = READERS[self.file.suffix.lower()]
        for number, values in progress(read(self.file), f"{self.file.name}: reading", "rows"):
            try:
                row = self._row(number, parse(values))
                rows.setdefault(row.folder, []).append(row)
            except UnusableError as error:
                bad.append((number, error.detail, "row", error.reason))
        folders = {}
        for path in sorted(rows, key=_natural):
            folder = PictureFolder(path, self._names(path))
            bad += pair_up(rows[path], folder)
            if folder.pairs:
                folders[readable_id(path)] = folder
        excluded = [
            Exclusion(what, f"{self.file}, row {number}{detail}", reason)
            for number, detail, what, reason in sorted(bad)
        ]
        return excluded, folders

    def _row(self, number: int, published: Published) -> PublishedRow:
        """Raises UnusableError."""
        plain = [self._plain(image) for image in published.images]
        (folder, one), (other, two) = (self._locate(path) for path in plain)
        if folder != other:
            raise UnusableError("its pictures are of two folders", f"{folder!r} and {other!r}")
        if one == two:
            raise UnusableError("img1 and img2 are the same picture")
        closer = {closer_image(label, plain, self._plain) for label in published.labels}
        if len(closer) != 1:
            raise UnusableError("it has two labels that disagree" if closer else "it has no label")
        found = re.search(self.config.task_pattern, published.question)
        task = (published.task or (found[1] if found else "") or self.config.task).strip()
        if not task:
            raise UnusableError("no task text was found in it; set source.task_pattern or source.task")
        details = split_details(published.details) if self.config.descriptions else ("", "")
        return PublishedRow(number, folder, (one, two), closer=closer.pop(), task=task, details=details)

    # ---- paths ----

    def _plain(self, path: str) -> str:
        """A published path with forward slashes and without the configured prefix."""
        path = _slashes(path.strip())
        prefix = next((prefix for prefix in self._prefixes if path.startswith(prefix)), "")
        return path[len(prefix) :]

    def _locate(self, path: str) -> tuple[str, str]:
        """The folder (relative to root, links followed) and the file name of a picture. Raises UnusableError."""
        head, slash, name = path.rpartition("/")
        try:
            folder = self._find_folder(head + slash)
            if name in self._names(folder):
                return folder, name
            inside(self.root, f"{folder}/{name}")  # a link that leaves root is reported as one
        except (NoPathError, OSError, ValueError):  # the latter two of a name that is looked up
            raise UnusableError("a path that no system can follow", repr(path)) from None
        except DataError:
            raise UnusableError("a path that leaves source.root", path) from None
        raise UnusableError("no such picture under source.root", path)

    def _look_for_folder(self, folder: str) -> str:
        """Follow `folder` part by part, each in the other spelling of its end where the written one does not exist."""
        here = self._base
        for part in PurePosixPath(folder).parts:
            spellings = (part, *_other_spelling(part))
            here /= next((spelling for spelling in spellings if os.path.isdir(here / spelling)), part)
        return inside(self.root, str(here)).relative_to(self._base).as_posix()

    def _list_names(self, folder: str) -> tuple[str, ...]:
        """A folder's pictures in natural order, without links that leave root; none where there is no such folder."""
        path = self._base / folder
        if not path.is_dir():
            return ()
        with os.scandir(path) as entries:
            names = [
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES
                and not entry.name.startswith(".")
                and entry.is_file()
                and (not entry.is_symlink() or Path(entry).resolve().is_relative_to(self._base))
            ]
        return tuple(sorted(names, key=_natural))


# ---- names ----


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _other_spelling(part: str) -> tuple[str, ...]:
    """`bag_` for `bag.` and the other way round, since not every file system keeps a final full stop."""
    if part.endswith("_"):
        return (part[:-1] + ".",)
    return (part[:-1] + "_",) if part.endswith(".") and part not in (".", "..") else ()


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sorts 2.jpg before 10.jpg; names of the same numbers by their spelling."""
    return [(text, int(number or -1)) for text, number in re.findall(r"([^0-9]*)([0-9]*)", name)], name
