"""What is labelled: a LeRobot folder or the source of a data configuration -> its episodes, pictures and rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.episodes.lerobot_tables import column_wholes, parquet_columns, read_parquet
from stcr_plugin.episodes.source_table import SourceSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.data_config import FrameRules, load_data_config
from stcr_plugin.registry.picture_store import SUFFIX, encode
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.types import Episode, EpisodeSource, Exclusion, Segment, under

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]


class UnusableError(DataError):
    """An episode that cannot be labelled; the others are."""


@dataclass(frozen=True)
class LabelledData:
    """A dataset to label.

    Attributes:
        given: What was named: a LeRobot folder, or a data configuration.
        camera: Of a LeRobot folder, its key; None takes the first that shows colour.
    """

    given: Path
    camera: str | None = None

    def __post_init__(self) -> None:
        if not self.given.exists():
            raise DataError(self.given, "no such file or folder", "give a LeRobot folder or a data configuration")
        if self.camera is not None and not self.given.is_dir():
            raise ConfigError("--camera", "is for a LeRobot folder", "set source.camera in the configuration")

    @property
    def settings(self) -> tuple[SourceSettings, int, FrameRules]:
        """Source, seed, and how its pictures are written."""
        if self.given.is_dir():
            return LeRobotConfig(root=str(self.given), camera=self.camera), 0, FrameRules()
        config = load_data_config(self.given)
        rules = config.frames if config.frames.format != "none" else dataclasses.replace(config.frames, format="png")
        return config.source, config.seed, rules

    def opened(self, keep: Path | None = None) -> OpenedData:
        """Raises DataError and ConfigError as the source does; `keep` as for `open_source`."""
        settings, seed, rules = self.settings
        return OpenedData(open_source(settings, seed, keep), rules)


class OpenedData:
    """The source, opened.

    Attributes:
        source: Gives episodes and pictures.
        rules: How pictures are written for the model: as a build of the same configuration writes them.
    """

    def __init__(self, source: EpisodeSource, rules: FrameRules) -> None:
        self.source, self.rules = source, rules

    def listed(self) -> tuple[list[tuple[int, Episode]], list[Exclusion]]:
        """(episode_index, episode) of each that can be used, and what cannot."""
        usable: list[tuple[int, Episode]] = []
        excluded: list[Exclusion] = []
        for one in self.source.episodes():
            if isinstance(one, Exclusion):
                excluded.append(one)
            else:
                number = int(one.episode_id) if isinstance(self.source, LeRobotSource) else len(usable)
                usable.append((number, one))
        return usable, excluded

    def write_frames(self, episode: Episode, frames: Sequence[int], folder: Path) -> list[Path]:
        """The pictures of some frames as files in `folder`, decoded one at a time.

        Raises:
            UnusableError: A picture cannot be read.
        """
        paths = [folder / f"{frame:06d}{SUFFIX[self.rules.format]}" for frame in frames]
        pictures = self.source.frames(episode, frames)
        for path in paths:
            try:
                picture = next(pictures)
            except DataError as error:
                raise UnusableError(error.where, error.problem, error.fix) from None
            artefacts.write_bytes(path, encode(picture, self.rules), durable=False)
        return paths

    def truth(self, episode: Episode, task: str, frames: Sequence[int]) -> tuple[float, ...]:
        """The true progress of some frames, as the source records it for a task; () where it does not of all.

        Raises:
            UnusableError: The states cannot be read.
        """
        try:
            states = self.source.states(episode)
        except DataError as error:
            raise UnusableError(error.where, error.problem, error.fix) from None
        if states is None or len(states) != episode.n_frames:
            return ()
        found = [under(states[frame], task).get("progress") for frame in frames]
        known = tuple(float(value) for value in found if value is not None)
        return known if len(known) == len(found) else ()

    def rows(self, episodes: Sequence[tuple[int, Episode]]) -> Iterator[tuple[int, Ints, Ints]]:
        """(episode_index, index, frame_index) of every row of the dataset, episode by episode.

        Of a LeRobot dataset these are all rows in its data files, also of episodes that cannot be used; of another
        source the frames of `episodes`, numbered one after the other.
        """
        import numpy as np

        if isinstance(self.source, LeRobotSource):
            yield from _lerobot_rows(self.source.meta.root)
            return
        first = 0
        for number, episode in episodes:
            frames = np.arange(episode.n_frames)
            yield number, first + frames, frames
            first += episode.n_frames


def parts(episode: Episode) -> tuple[Segment, ...]:
    """What of an episode is judged by which task text: all of it by its task, or each of its segments by its own.

    Raises:
        UnusableError: Its tasks overlap, or a text cannot be in a question.
    """
    found = (Segment(episode.task, 0, episode.n_frames),) if episode.task else episode.segments
    found = tuple(sorted(found, key=lambda segment: segment.start))
    where = f"episode {episode.episode_id}"
    for before, after in pairwise(found):
        if after.start < before.end:
            problem = f"its tasks {before.task!r} and {after.task!r} overlap"
            raise UnusableError(where, problem, "give it one task, or tasks one after the other")
    for segment in found:
        if reason := why_unusable(segment.task):
            raise UnusableError(where, reason, "correct its text")
    return found


def wanted(episodes: Sequence[tuple[int, Episode]], names: Sequence[str], option: str) -> list[tuple[int, Episode]]:
    """The episodes of these ids, or of these numbers. Raises ConfigError for one that is not there."""
    known = {episode.episode_id: (number, episode) for number, episode in episodes}
    numbers = {str(number): found for found in known.values() for number in (found[0],)}
    for name in names:
        if name not in known and name not in numbers:
            near = nearest(name, list(known))
            raise ConfigError(option, f"no episode {name!r} that can be used, {near}")
    return [known.get(name) or numbers[name] for name in names]


def _lerobot_rows(root: Path) -> Iterator[tuple[int, Ints, Ints]]:
    """Of every data file, one file in memory at a time. Raises DataError for a column that is not whole numbers."""
    import numpy as np

    files = sorted(path for path in (root / "data").rglob("*.parquet") if not path.name.startswith("."))
    seen: dict[int, Path] = {}
    count = 0
    for path in files:
        present = parquet_columns(path)
        table = read_parquet(path, ["episode_index", *(one for one in ("index", "frame_index") if one in present)])
        try:
            columns: dict[str, Any] = {name: column_wholes(table[name], name) for name in table.column_names}
        except ValueError as error:
            raise DataError(path, str(error), "download it again") from None
        numbers = columns["episode_index"]
        index = columns.get("index", count + np.arange(len(numbers)))
        count += len(numbers)
        for number in dict.fromkeys(int(one) for one in numbers):
            if number in seen:
                raise DataError(path, f"has rows of episode {number}, as {seen[number]} has", "keep one of them")
            seen[number] = path
            own = np.flatnonzero(numbers == number)
            frames = columns["frame_index"][own] if "frame_index" in columns else np.arange(len(own))
            order = np.argsort(frames, kind="stable")
            yield number, index[own][order].astype(np.int64), frames[order].astype(np.int64)
