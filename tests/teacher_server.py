"""A teacher on loopback that knows what each picture shows: it describes, confirms and judges by the question alone."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from misbehaving_server import Desk, Reply, answer, serving
from PIL import Image

from stcr_plugin.annotation.annotate import AnnotateRequest
from stcr_plugin.annotation.annotation_settings import AnnotateSettings
from stcr_plugin.annotation.teachers import Teacher
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.samples.annotations import read_annotations

ASK = AskSettings(mode="cot", generate=True, max_new_tokens=256, image_max_pixels=768 * 768, image_min_pixels=1024)


def kind_of(body: dict[str, Any]) -> str:
    """Which question of the form `general` in English a request asks."""
    text = body["messages"][0]["content"][-1]["text"]
    pictures = len(pictures_of(body))
    if "yes" in text and pictures == 1 and "tatement" in text:
        return "confirm"
    if "Analyze where the objects" in text:
        return "authors"
    if "closer to completion" in text:
        return "judge" if pictures else "blind"
    return "describe" if pictures == 1 else "both"


def pictures_of(body: dict[str, Any]) -> list[bytes]:
    """The pixels of each picture that a request shows."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return [_pixels(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def _pixels(file: Any) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def frames_by_pixels(registry: Path, name: str) -> dict[bytes, int]:
    """Pixels of a picture of a build -> its frame."""
    found = {}
    for split in read_manifest(registry, name).splits:
        for pair in read_pairs(registry, name, split):
            for image, frame in ((pair.earlier_image, pair.earlier), (pair.later_image, pair.later)):
                found[_pixels(registry / image)] = frame
    return found


def text_about(frame: int) -> str:
    return f"The block lies {frame} mm from the left edge. The gripper is open."


def said(kind: str, body: dict[str, Any], frames: dict[bytes, int]) -> str:
    """What a teacher without a fault replies."""
    text = body["messages"][0]["content"][-1]["text"]
    if kind == "confirm":
        return "yes"
    if kind in ("judge", "blind"):
        first, second = [*map(int, re.findall(r"lies (\d+) mm", text)), 0, 0][:2]
        return f"closer to completion: {'img1' if first > second else 'img2'}"
    written = [text_about(frames[pixels]) for pixels in pictures_of(body)]
    return written[0] if kind == "describe" else "\n".join(f"img{n}: {one}" for n, one in enumerate(written, 1))


Change = Callable[[str, dict[str, Any], str], "str | Reply"]
"""Kind of a question, request and the faultless reply -> what is sent instead."""


@contextmanager
def teaching(frames: dict[bytes, int], change: Change = lambda kind, body, text: text) -> Iterator[Desk]:
    """A teacher's server; every request of it is in `Desk.bodies`."""
    held: list[Desk] = []

    def script(asked: str, tries: int) -> Reply:
        body = held[0].bodies[-1]
        kind = kind_of(body)
        reply = change(kind, body, said(kind, body, frames))
        return reply if isinstance(reply, Reply) else answer(reply)

    with serving(script) as desk:
        held.append(desk)
        yield desk


def teacher(registry, desk, model="teacher", **more):
    settings = {"url": desk.url, "model": model, "back_off": 0.01, "timeout": 5, "tries": 2, **more}
    return Teacher(model, ServerEngine(registry, ASK, from_mapping(ServerSettings, settings, "test")), ASK)


def request(registry, desk, second=True, limit=None, split="train", **settings):
    settings = {"checks": ("leak", "confirmed", "judged", "blind"), **settings}
    return AnnotateRequest(
        registry=registry,
        dataset="toy",
        split=split,
        describer=teacher(registry, desk),
        second=teacher(registry, desk, "second") if second else None,
        settings=from_mapping(AnnotateSettings, settings, "test"),
        limit=limit,
    )


def rows_of(out):
    return list(read_annotations(out / "annotations.jsonl"))


def asked(body):
    return body["messages"][0]["content"][-1]["text"]
