"""Small files of other people's benchmarks in the form in which they are published, with real pictures and videos.

A frame's red is 8 * its number, its green 8 * the number of its recording, so that a test sees which one it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import video_files
from PIL import Image

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
TASK = "Put the blue block next to the purple block."
WIDE, HIGH = 32, 24


def write_lines(file: Path, rows: Iterable[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def write_json(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def picture(file: Path, number: int, recording: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HIGH, WIDE, 3), (8 * number, 8 * recording, 128), np.uint8)).save(file)
    return file


def seen(pixels: Any) -> tuple[int, int]:
    """(number, recording) read off a picture."""
    red, green = (round(float(pixels[..., channel].mean()) / 8) for channel in (0, 1))
    return red, green


def clip(file: Path, frames: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return video_files.write(file, "h264", frames=frames)


# ---- Progress-Bench ----


def progress_row(recording: str, stage: str, score: str, **more: Any) -> dict[str, Any]:
    """A row with a text demonstration of two steps."""
    row = {
        "id": recording,
        "task_goal": TASK,
        "text_demo": ["reach for the block", "push it"],
        "total_steps": 2,
        "stage_to_estimate": stage,
        "closest_idx": 1,
        "progress_score": score,
        "data_source": "made",
    }
    return row | more


def visual(row: Mapping[str, Any], names: Sequence[str], **more: Any) -> dict[str, Any]:
    """The same row with a visual demonstration; numbers as texts and the stage in a list, as they are published."""
    kept = {key: value for key, value in row.items() if key != "text_demo"}
    stage = {"stage_to_estimate": [row["stage_to_estimate"]], "closest_idx": "1", "delta": "+7%"}
    return kept | {"visual_demo": list(names), "total_steps": str(len(names) - 1)} | stage | more


def progress_bench(root: Path, recordings: int = 6) -> Path:
    """Pictures of some recordings under `root`, and rows of three estimates each, with one that has no answer."""
    rows = []
    for number in range(recordings):
        name = f"robots/push/2024-09-{number:02d}"
        for frame in (2, 5, 10, 11):
            picture(root / name / f"camera_top_{frame:04d}.jpg", frame, number)
        rows += [
            progress_row(name, f"camera_top_{frame:04d}.jpg", score)
            for frame, score in ((10, "100%"), (2, "8%"), (5, "33%"), (11, "n/a"))
        ]
    return write_lines(root / "text-normal.jsonl", rows)


# ---- pairs BEFORE and AFTER ----


def hop(images: Sequence[str], change: str, **more: Any) -> dict[str, Any]:
    """A row as Robo-Dopamine's scripts write it."""
    dialogue = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"<score>{change}</score>"}]
    return {"id": "made", "task": TASK, "image": list(images), "conversations": dialogue} | more


def eight(recording: str, before: int, after: int, last: int = 9) -> list[str]:
    """The eight paths of a row: REFERENCE START, REFERENCE END, and three cameras of BEFORE and of AFTER."""

    def path(camera: str, frame: int) -> str:
        return f"{recording}/{camera}/frame_{frame:06d}.jpg"

    return [
        path("cam_high", 0),
        path("cam_high", last),
        *(path(camera, before) for camera in CAMERAS),
        *(path(camera, after) for camera in CAMERAS),
    ]


def before_after(root: Path, recordings: int = 6) -> Path:
    """Pictures of some recordings under `root`, and three rows of each: forward, backward and no change."""
    rows = []
    for number in range(recordings):
        name = f"images/episode_{number:03d}"
        for camera in CAMERAS:
            for frame in (0, 2, 4, 7, 9):
                picture(root / name / camera / f"frame_{frame:06d}.jpg", frame, number)
        rows += [
            hop(eight(name, 2, 7), "+55.6%"),
            hop(eight(name, 9, 4), "-50%"),
            hop(eight(name, 0, 2), "0%"),
        ]
    return write_json(root / "pairs.json", rows)


# ---- rated clips ----


def rated_clips(root: Path, tasks: int = 3) -> Path:
    """Clips of some tasks, the longest of which has not the best rating, with metadata.jsonl."""
    rows = []
    for number in range(tasks):
        for place, (frames, reward) in enumerate(((4, 1), (6, 3), (9, 5), (12, 3))):
            name = f"droid/{number}-{place}.mp4"
            clip(root / name, frames)
            rows.append({"file_name": name, "task": f"Put block {number} into the box.", "reward": reward})
    return write_lines(root / "metadata.jsonl", rows)


# ---- Robo-Dopamine ----


def keyframes(*spans: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"anotation": text, "start_frame_id": start, "end_frame_id": end} for text, start, end in spans]


def robo_dopamine(root: Path, episodes: int = 4) -> Path:
    """Raw recordings of three cameras each, with keyframes and the task in several texts."""
    for number in range(1, episodes + 1):
        folder = root / f"episode_{number:03d}"
        for camera in CAMERAS:
            clip(folder / f"{camera}.mp4", 12)
        write_json(folder / "annotated_keyframes.json", keyframes(("reach the cup", 0, 5), ("lift the cup", 5, 12)))
    write_json(root / "task_instruction.json", ["lift the cup", "pick up the cup"])
    return root


def robo_dopamine_bench(root: Path, episodes: int = 3) -> Path:
    """Folders of pictures as the benchmark has them, and the file that lists them with their tasks."""
    names = [f"agibotworld/{number}" for number in range(episodes)]
    for number, name in enumerate(names):
        for frame in range(8):
            picture(root / name / "cam_high" / f"frame_{frame:06d}.jpg", frame, number)
    lists = {"sample_path_list": names, "sample_path_task": [f"sort the box {name[-1]}" for name in names]}
    return write_json(root / "agibot_test_100.json", lists)


# ---- PRM-as-a-Judge ----


def prm_manifest(root: Path, cases: int = 4) -> Path:
    """Videos, and cases in all the ways to give a view and progress."""
    rows: list[dict[str, Any]] = []
    for number in range(cases):
        clip(root / f"videos/{number}.mp4", 12)
        progress = [round(min(1, (frame + number) / 11), 3) for frame in range(12)]
        views = {"video": f"videos/{number}.mp4"} if number % 2 else {"videos": {"high": f"videos/{number}.mp4"}}
        trace = {"progress": progress} if number % 2 else {"progress_path": f"traces/{number}.json"}
        if number % 2 == 0:
            write_json(root / f"traces/{number}.json", {"progress": progress} if number else progress)
        more = {"label": "success" if number else "Failure", "benchmark": "made", "model": "pi0"}
        rows.append({"case_id": f"case_{number}", "task": "Put the can away.", **views, **trace, **more})
    return write_lines(root / "cases.jsonl", rows)
