"""The part of a model card about serving: command lines, and how a server sees pictures."""

from __future__ import annotations

from dataclasses import dataclass

from stcr_plugin.report.document import Block, Code, Words

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Limits:
    """Fewest and most pixels of a picture at a server.

    Attributes:
        sizes: (a picture as it comes, as it was trained, as a server sees it).
        known: The sizes are those of training pictures, else common ones. A picture that the sender has sized first,
            as our clients do, is always seen as it was trained.
    """

    least: int
    most: int
    sizes: tuple[tuple[Size, Size, Size], ...]
    known: bool


@dataclass(frozen=True)
class Serving:
    """Command lines and the question of training, see release.server_commands."""

    question: str
    task: str
    vllm: str
    sglang: str
    curl: str
    evaluation: str


def serving_words(serving: Serving, limits: Limits | None) -> list[Block]:
    """How to serve the model, and how servers see pictures."""
    return [
        Words("vLLM (options as in its documentation, 0.9 and later) and SGLang (0.5); we ran neither:"),
        Code(serving.vllm, "bash"),
        Code(serving.sglang, "bash"),
        Words(_sizes(limits)),
        Words("`client.py` in this folder resizes pictures as training did and asks in both orders:"),
        Code(f'python client.py A.png B.png "{serving.task}"', "bash"),
        Code(serving.curl, "bash"),
        Words("To evaluate it behind the server with the same settings:"),
        Code(serving.evaluation, "bash"),
    ]


def _sizes(limits: Limits | None) -> str:
    if limits is None:
        return "Its image processor has no limits on pixels, so none were written: resize pictures before sending them."
    seen = [
        f"{_size(size)} is seen as {_size(served)}" + ("" if served == trained else f", trained as {_size(trained)}")
        for size, trained, served in limits.sizes
    ]
    of = "Training pictures" if limits.known else "Common sizes (no training picture was found to measure)"
    return (
        f"`preprocessor_config.json` limits pictures to {limits.least:,} to {limits.most:,} pixels. A picture that was "
        f"resized first, as client.py does, is seen as in training. {of}, sent as they come: {'; '.join(seen)}."
    )


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
