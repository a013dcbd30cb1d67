"""`prm_manifest`: the manifests of PRM-as-a-Judge 1.5 (arXiv 2608.14284), videos with recorded progress.

Format, after https://github.com/YuyangLiu2003/PRM-as-a-Judge (eval/README.md): JSONL of {case_id, task, video, ...},
paths relative to the manifest. `instruction` counts before `task`. Further cameras are wrist_video, or left_wrist_video
and right_wrist_video; older files have `videos`, {high, left, right}. `progress` is a list, `progress_path` a JSON file
with a list or {progress: list}, and an entry may be {progress: number}. `label` says whether the case succeeded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stcr_plugin.artefacts import read_json
from stcr_plugin.config import settings
from stcr_plugin.episodes.benchmark_rows import Row, check_folder, field_of, file_of, parse_rows, read_rows, text_of
from stcr_plugin.episodes.episode_table import Table
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.episodes.recordings import readable_id, reason_of
from stcr_plugin.episodes.spatiallogic_rows import UnusableError
from stcr_plugin.episodes.stored_values import finite, is_empty, shown
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, Exclusion, State

VIEWS = {
    "video": ("video", "high", "front", "cam_high"),
    "wrist_video": ("wrist_video", "wrist"),
    "left_wrist_video": ("left_wrist_video", "left_wrist", "left", "cam_left_wrist"),
    "right_wrist_video": ("right_wrist_video", "right_wrist", "right", "cam_right_wrist"),
}
"""Camera -> its names in `videos`."""
_PLAIN = re.compile(r"[\w+=@-][\w.+=@-]*")
LABELS = {
    **dict.fromkeys(("success", "succeeded", "true", "1"), "success"),
    **dict.fromkeys(("failure", "failed", "false", "0"), "failure"),
}


@settings
class PrmManifestConfig:
    """A manifest of cases.

    Attributes:
        file: The manifest, a .jsonl.
        root: Folder that its paths, which are relative to the manifest, must stay in; "" is the manifest's own.
        view: The camera that is shown.
        trace: frames: a case has one value of progress per frame of its video. even: its values are spread evenly from
            the first frame to the last, and the progress of the frames between is not known.
        scale: The progress of a finished task, 1 or 100.
        threads: Threads of the video decoder, 0 lets it choose.
    """

    file: str
    root: str = ""
    kind: Literal["prm_manifest"] = "prm_manifest"
    view: Literal["video", "wrist_video", "left_wrist_video", "right_wrist_video"] = "video"
    trace: Literal["frames", "even"] = "frames"
    scale: float = 1.0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.scale not in (1, 100):
            raise ValueError(f"`scale` must be 1 or 100, got {self.scale}")


@dataclass(frozen=True)
class Case:
    """A row as it is published and as one of a table of `frames`, and its progress, 0..1; () where it has none."""

    number: int
    published: Row
    row: dict[str, Any]
    progress: tuple[float, ...]


class PrmManifestSource(FramesSource):
    """EpisodeSource of one manifest. A case is an episode; its label, "success" or "failure", is the episode's group.

    Attributes:
        cases: Episode id -> its case.
        unusable: The rows that cannot be used, each names the row and the field.
    """

    kind = "prm_manifest"

    def __init__(self, config: PrmManifestConfig) -> None:
        """Reads the manifest and the progress of its cases, and no picture. Raises DataError."""
        self._own, self._manifest = config, Path(config.file)
        self._base = check_folder(config.root or str(self._manifest.parent))
        self.cases: dict[str, Case] = {}
        _, self.unusable = parse_rows(self._manifest, read_rows(self._manifest), self._add_case)
        rows = tuple(case.row for case in self.cases.values())
        super().__init__(FramesConfig(str(self._base), rows, threads=config.threads))

    def _listed(self) -> tuple[Path, Table]:
        columns = list(dict.fromkeys(name for case in self.cases.values() for name in case.row))
        return self._manifest, Table(columns, [(case.number, case.row) for case in self.cases.values()])

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """First the rows that cannot be used, then the cases in the order of the manifest. Raises DataError."""
        yield from self.unusable
        for item in super().episodes():
            if not isinstance(item, Episode) or not (reason := self._why_unclear(item)):
                yield item
                continue
            case = self.cases[item.episode_id]
            sizes = f"{len(case.progress)} values for {item.n_frames} frames"
            yield Exclusion("episode", f"{self._manifest}, row {case.number}, {sizes}", reason)

    def states(self, episode: Episode) -> Sequence[State] | None:
        """The progress of each frame, None where the manifest does not say it; None where it has no progress at all."""
        if not any(case.progress for case in self.cases.values()):
            return None
        progress = self.cases[episode.episode_id].progress
        known = dict(zip(_places(len(progress), episode.n_frames), progress, strict=True))
        return [{"progress": known.get(frame)} for frame in range(episode.n_frames)]

    def _why_unclear(self, episode: Episode) -> str:
        """Why it is not clear which frames the progress of a case is of; "" where it is."""
        values = len(self.cases[episode.episode_id].progress)
        if self._own.trace == "frames" and values not in (0, episode.n_frames):
            return (
                "its progress has not one value per frame, and nothing says which frames it is of; set source.trace: "
                "even where it is spread evenly from the first frame to the last"
            )
        return "its progress has one value, or more than frames" if values == 1 or values > episode.n_frames else ""

    def _add_case(self, number: int, row: Row) -> None:
        """Raises UnusableError."""
        case_id = text_of(row, "case_id" if not is_empty(row.get("case_id")) or "id" not in row else "id")
        task = text_of(row, "task" if is_empty(row.get("instruction")) else "instruction")
        path = self._video(row)
        found: dict[str, Any] = {"episode": case_id if _PLAIN.fullmatch(case_id) else readable_id(case_id)}
        if known := self.cases.get(found["episode"]):
            raise UnusableError("its case_id is that of another row", f"row {known.number}")
        found |= {"task": task, "path": path.relative_to(self._base.resolve()).as_posix()}
        if not is_empty(row.get("label")):
            label = str(row["label"]).strip().lower()
            if label not in LABELS:
                raise UnusableError("its label is not success or failure", shown(row["label"]))
            found["group"] = LABELS[label]
        self.cases[found["episode"]] = Case(number, row, found, progress=self._progress(row))

    def _video(self, row: Row) -> Path:
        """Raises UnusableError."""
        view = self._own.view
        if "videos" not in row:
            return self._file(field_of(row, view), view)
        videos = row["videos"]
        if not isinstance(videos, Mapping):
            raise UnusableError("its videos is not an object of cameras", shown(videos))
        names = [name for name in VIEWS[view] if name in videos]
        if len(names) != 1:
            raise UnusableError(f"its videos has {len(names)} of {', '.join(VIEWS[view])}")
        return self._file(videos[names[0]], f"videos.{names[0]}")

    def _file(self, value: Any, name: str) -> Path:
        return file_of(self._base, value, name, folder=str(self._manifest.parent.resolve()))

    def _progress(self, row: Row) -> tuple[float, ...]:
        """The recorded values, 0..1. Raises UnusableError."""
        given = [name for name in ("progress", "progress_path") if row.get(name) is not None]
        if not given:
            return ()
        if len(given) == 2:
            raise UnusableError("it has both progress and progress_path")
        name, values = given[0], row[given[0]]
        if name == "progress_path":
            try:
                values = read_json(self._file(values, name))
            except DataError as error:
                raise UnusableError(f"its progress_path names a file that cannot be read: {reason_of(error)}") from None
            values = values.get("progress") if isinstance(values, Mapping) else values
        if not isinstance(values, list) or not values:
            raise UnusableError(f"its {name} has no list of values", shown(values))
        read = [finite(one.get("progress") if isinstance(one, Mapping) else one) for one in values]
        for place, number in enumerate(read, 1):
            if not 0 <= number <= self._own.scale:
                problem = f"its {name} has a value that is not from 0 to source.scale, {self._own.scale:g}"
                raise UnusableError(problem, f"value {place}")
        return tuple(number / self._own.scale for number in read)


def _places(values: int, n_frames: int) -> list[int]:
    """The frames that evenly spread values are of, the first and the last among them."""
    return [round(place * (n_frames - 1) / (values - 1)) for place in range(values)] if values > 1 else []
