"""Two pictures and a task -> the log-odds that the second one is closer to completion, from a folder or a server.

The question, the labels and the sizes are those of training, which `stcr export` writes into stcr_chain.json.
"""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

Asked = tuple[Image.Image, Image.Image, str]
_TIMEOUT = 120.0  # seconds


@dataclass(frozen=True)
class Asking:
    """How the model is asked.

    Attributes:
        question: With {task} in it.
        labels: The text before each picture, which is its name too.
        answer: The line of the answer, with {name} in it.
        least: Fewest pixels of a picture.
        most: Most pixels of a picture.
    """

    question: str
    labels: tuple[str, str]
    answer: str
    least: int
    most: int

    @classmethod
    def read(cls, folder: Path) -> Asking:
        """Of an exported folder.

        Raises:
            ValueError: The folder was exported by an older stcr_plugin, or the model reasons before it answers.
        """
        found = json.loads((folder / "stcr_chain.json").read_text(encoding="utf-8"))["export"].get("asking")
        if found is None:
            raise ValueError(f"{folder}: stcr_chain.json does not say how the model is asked; export the stage again")
        if found["mode"] != "direct":
            raise ValueError(f"{folder}: this stage reasons before it answers; export one that answers directly")
        first, second = found["labels"]
        return cls(found["question"], (first, second), found["answer"], found["least"], found["most"])

    @property
    def begun(self) -> str:
        """The start of the answer up to where the two names differ."""
        one, two = (self.answer.format(name=name) for name in self.labels)
        same = next(place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
        return one[:same]

    @property
    def ends(self) -> tuple[str, str]:
        """The rests of the two answers."""
        one, two = (self.answer.format(name=name)[len(self.begun) :] for name in self.labels)
        return one, two

    def content(self, task: str, pictures: Sequence[Any]) -> list[dict[str, Any]]:
        """The parts of the message: label, picture, newline, label, picture, newline, question."""
        first, second = self.labels
        return [
            {"type": "text", "text": f"{first}: "},
            pictures[0],
            {"type": "text", "text": f"\n{second}: "},
            pictures[1],
            {"type": "text", "text": "\n" + self.question.replace("{task}", task)},
        ]

    def sized(self, picture: Image.Image) -> Image.Image:
        """The picture in the size of training."""
        picture = picture.convert("RGB")
        for limit, over in ((self.most, True), (self.least, False)):
            pixels = picture.width * picture.height
            if pixels > limit if over else pixels < limit:
                scale = math.sqrt(limit / pixels)
                picture = picture.resize((int(picture.width * scale), int(picture.height * scale)))
        return picture


class FolderJudge:
    """The model in an exported folder, in this process."""

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.asking = Asking.read(folder)
        self.processor = AutoProcessor.from_pretrained(folder, **own)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", **own).eval().to(device)
        ends = [self._tokens(self.asking.begun + end) for end in self.asking.ends]
        begun = self._tokens(self.asking.begun)
        if any(tokens[:-1] != begun for tokens in ends):
            raise ValueError(f"{folder}: to its tokenizer the two answers differ in more than one token")
        self.ends = [tokens[-1] for tokens in ends]

    def _tokens(self, text: str) -> list[int]:
        return list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def log_odds(self, asked: Sequence[Asked]) -> list[float]:
        """Of each (first, second, task) that the second picture is closer."""
        texts, pictures = [], []
        for first, second, task in asked:
            message = {"role": "user", "content": self.asking.content(task, [{"type": "image"}] * 2)}
            text = self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
            texts.append(text + self.asking.begun)
            pictures.append([self.asking.sized(first), self.asking.sized(second)])
        inputs = self.processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt").to(
            self.model.device
        )
        with torch.no_grad():
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        found: list[float] = (logits[:, self.ends[1]] - logits[:, self.ends[0]]).tolist()
        return found


class ServerJudge:
    """The model behind a server that continues a begun answer and gives log-probabilities, as vLLM does."""

    def __init__(self, folder: Path, url: str, model: str) -> None:
        self.asking, self.url, self.model = Asking.read(folder), url.rstrip("/"), model

    def log_odds(self, asked: Sequence[Asked]) -> list[float]:
        """As FolderJudge's."""
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(self._one, asked))

    def _one(self, asked: Asked) -> float:
        *pictures, task = asked
        urls = [{"type": "image_url", "image_url": {"url": self._data_url(picture)}} for picture in pictures]
        body = {
            "model": self.model,
            "messages": [
                {"role": "user", "content": self.asking.content(task, urls)},
                {"role": "assistant", "content": self.asking.begun},
            ],
            "continue_final_message": True,
            "add_generation_prompt": False,
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": 20,
        }
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            choice = json.load(reply)["choices"][0]
        rows = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
        known = {row["token"]: float(row["logprob"]) for row in rows}
        if not known.keys() & {*self.asking.ends}:
            raise ValueError(f"{self.url}: the server gives no log-probabilities of the two answers")
        one, two = (known.get(end, min(known.values())) for end in self.asking.ends)
        return two - one

    def _data_url(self, picture: Image.Image) -> str:
        data = io.BytesIO()
        self.asking.sized(picture).save(data, "PNG")
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
