"""`robo_dopamine`: the folders of Robo-Dopamine (arXiv 2512.23703), as raw recordings and as its benchmark has them.

Format, after https://github.com/FlagOpen/Robo-Dopamine. Raw: <root>/episode_*/ with cam_high, cam_left_wrist and
cam_right_wrist, each .mp4 or a folder of pictures, and annotated_keyframes.json, [{anotation, start_frame_id,
end_frame_id}]; <root>/task_instruction.json has the task in one or several texts. Benchmark: a JSON file with
sample_path_list, folders of such cameras relative to <root>, and sample_path_task, their tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stcr_plugin.artefacts import inside, read_json
from stcr_plugin.config import settings
from stcr_plugin.episodes.benchmark_rows import check_folder
from stcr_plugin.episodes.episode_table import Table
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.episodes.recordings import readable_id
from stcr_plugin.episodes.stage_spans import StageClaims
from stcr_plugin.episodes.stored_values import shown
from stcr_plugin.errors import DataError

KEYFRAMES, INSTRUCTION = "annotated_keyframes.json", "task_instruction.json"
_PATHS, _TASKS = "sample_path_list", "sample_path_task"


@settings
class RoboDopamineConfig:
    """Folders of three cameras.

    Attributes:
        root: Folder of the episodes' folders.
        file: A JSON file of the benchmark; "" takes the folders episode_* of `root`.
        task: What is being done; "" takes the first text of task_instruction.json. Not with `file`.
        camera: The camera that is shown.
        fps: Frames per second of cameras that are folders of pictures; a video says its own.
        stages: What to say of the annotated keyframes: a span of them is a stage, see `frames`.
        threads: Threads of the video decoder, 0 lets it choose.
    """

    root: str
    kind: Literal["robo_dopamine"] = "robo_dopamine"
    file: str = ""
    task: str = ""
    camera: Literal["cam_high", "cam_left_wrist", "cam_right_wrist"] = "cam_high"
    fps: float = 30.0
    stages: StageClaims | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be above 0, got {self.fps}")
        if self.file and self.task:
            raise ValueError("`file` has a task for each episode; remove `task`")


class RoboDopamineSource(FramesSource):
    """EpisodeSource of such folders: a table of episodes that the folders themselves make."""

    kind = "robo_dopamine"

    def __init__(self, config: RoboDopamineConfig) -> None:
        """Reads the list of episodes, and no picture. Raises DataError."""
        self._listing = Path(config.file or config.root)
        root = check_folder(config.root)
        named = list(_of_benchmark(self._listing) if config.file else _of_root(root, config.task))
        self._rows = [(number, _row(root, path, task, config=config)) for number, path, task in named]
        if not self._rows:
            raise DataError(
                root, "no folder episode_*", "set source.root to the one that holds them, or set source.file"
            )
        super().__init__(
            FramesConfig(config.root, tuple(row for _, row in self._rows), stages=config.stages, threads=config.threads)
        )

    def _listed(self) -> tuple[Path, Table]:
        columns = list(dict.fromkeys(name for _, row in self._rows for name in row))
        return self._listing, Table(columns, self._rows)


def _of_benchmark(file: Path) -> Iterator[tuple[int, Any, Any]]:
    """Number, folder and task of each episode that a benchmark's file lists."""
    found = read_json(file)
    for name in (_PATHS, _TASKS):
        if not isinstance(found, dict) or not isinstance(found.get(name), list):
            raise DataError(file, f"has no list {name!r}", "set source.file to a file of Robo-Dopamine-Bench")
    if len(found[_PATHS]) != len(found[_TASKS]):
        sizes = f"{len(found[_PATHS])} entries in {_PATHS!r}, {len(found[_TASKS])} in {_TASKS!r}"
        raise DataError(file, sizes, "give each episode its task")
    for number, (path, task) in enumerate(zip(found[_PATHS], found[_TASKS], strict=True), 1):
        if not isinstance(path, str):
            raise DataError(f"{file}, {_PATHS}, entry {number}", f"{shown(path)} is not a path")
        yield number, path, task


def _of_root(root: Path, task: str) -> Iterator[tuple[int, Any, Any]]:
    """Number, folder and task of each folder episode_*."""
    folders = sorted(path.name for path in root.glob("episode_*") if path.is_dir())
    if folders and not task:
        task = _instruction(root / INSTRUCTION)
    for number, name in enumerate(folders, 1):
        yield number, name, task


def _instruction(file: Path) -> str:
    if not file.is_file():
        raise DataError(file, "no such file, so it is not known what is being done", "set source.task")
    found = read_json(file)
    if isinstance(found, dict):
        found = found.get("instructions") or found.get("instruction")
    text = found[0] if isinstance(found, list) and found else found
    if not isinstance(text, str):
        problem = f"its instruction is {shown(text)}, not a text"
        raise DataError(file, problem, "write a list of texts, or set source.task")
    return text


def _row(root: Path, folder: str, task: Any, *, config: RoboDopamineConfig) -> dict[str, Any]:
    """The row of one episode in a table of `frames`."""
    video = f"{folder}/{config.camera}.mp4"
    stages = f"{folder}/{KEYFRAMES}"
    is_video = inside(root, video).is_file()
    row = {
        "episode": folder if "/" not in folder else readable_id(folder),
        "task": task,
        "path": video if is_video else f"{folder}/{config.camera}",
    }
    if not is_video:
        row["fps"] = config.fps
    if config.stages is not None and inside(root, stages).is_file():
        row["stages"] = stages
    return row
