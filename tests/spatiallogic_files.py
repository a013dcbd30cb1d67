"""Small files as STCR's authors publish them, in every spelling, with clips whose every picture shows its own number.

A picture's red is 8 * its number, its green 8 * the number of its clip, so that a test sees which one it was given.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PLACE = "327/648642/Place the held corn into the bag."
RETRIEVE = "327/648642/Retrieve corn from the shelf."
OTHER = "351/7/Pour water"
CLIPS = (PLACE, RETRIEVE, OTHER)
FIRST = {PLACE: 96, RETRIEVE: 8, OTHER: 0}  # number of a clip's first picture; one passes from 9 to 10
FRAMES = 12

QUESTIONS = {
    "zh": "你是一位空间感知专家。\n任务名称: {task}\n描述要点:\n1.对img1 和 img2 进行详细的描述。",
    "en": "You see two pictures of one task.\nTask name: {task}\nSay which is closer to completion.",
    "quoted": "1. 请你观察两个图片\n2. 图中机械臂在完成“{task}”任务, 请分析并判断图像img1和img2中哪个更接近任务完成。",
    "first": "一个人机器人在完成任务:{task},请对比这两张图片哪个更接近任务完成。",
}


def write_clips(root: Path) -> Path:
    """The pictures of all CLIPS under `root`, named as the authors' scripts name them."""
    for number, clip in enumerate(CLIPS):
        folder = root / clip
        folder.mkdir(parents=True)
        for frame in range(FRAMES):
            pixels = np.full((16, 24, 3), (8 * frame, 8 * number, 0), np.uint8)
            Image.fromarray(pixels).save(folder / Path(name(clip, frame)).with_suffix(".png"))
    return root


def name(clip: str, frame: int) -> str:
    """File name of a clip's picture; one clip is numbered without leading zeros."""
    number = FIRST[clip] + frame
    return f"{number}.png" if clip == RETRIEVE else f"{number:05d}.png"


def path(clip: str, frame: int) -> str:
    return f"{clip}/{name(clip, frame)}"


def seen(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[str, int]:
    """(clip, frame) read off a picture."""
    red, green, _ = (int(channel) for channel in picture[0, 0])
    return CLIPS[green // 8], red // 8


def underscored(path: str) -> str:
    return path.replace("./", "_/")


def backslashed(path: str) -> str:
    return "testset\\" + path.replace("/", "\\")


def absolute(path: str) -> str:
    return "/apdcephfs/someone/data/clips/" + path


def row(
    one: str, two: str, target: Any, task: str = "Place the held corn into the bag.", question: str = "zh"
) -> dict[str, Any]:
    """A JSON row of two image paths; `question` is a key of QUESTIONS or a text."""
    text = QUESTIONS.get(question, question).format(task=task)
    images = [
        {"type": "image", "image": image, "image_id": image_id} for image, image_id in ((one, "img1"), (two, "img2"))
    ]
    return {"messages": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}], "target": target}


def weak(closer: str) -> dict[str, str]:
    return {"closer to completion": closer}


def cot(one: str, two: str, closer: str) -> dict[str, str]:
    return {"spatial details": f"img1: {one} img2: {two}", "closer to completion": closer}


def write_json(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    return file


def write_csv(file: Path, rows: Sequence[Mapping[str, str]], encoding: str = "utf-8") -> Path:
    with open(file, "w", newline="", encoding=encoding) as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file
