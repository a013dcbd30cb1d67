"""The part of a model card about serving: command lines, and how a server sees pictures."""

from __future__ import annotations

from dataclasses import dataclass

from stcr_plugin.report.document import Block, Code, Words

Size = tuple[int, int]
"""Width and height in pixels."""
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of attention heads that vLLM serves on a CPU (0.32: `CPUAttentionBackend.get_supported_head_sizes`)."""


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
    """Command lines and the question of training, see release.server_commands.

    Attributes:
        heads: Size of the language model's attention heads; None where its configuration does not say.
    """

    question: str
    task: str
    vllm: str
    sglang: str
    curl: str
    evaluation: str
    heads: int | None


def serving_words(serving: Serving, limits: Limits | None) -> list[Block]:
    """How to serve the model, and how servers see pictures."""
    return [
        Words("vLLM (0.9 and later; tested with 0.32 on a CPU) and SGLang (options as in its documentation, not run):"),
        Code(serving.vllm, "bash"),
        Code(serving.sglang, "bash"),
        Words(" ".join(filter(None, (_sizes(limits), refused_on_a_cpu(serving.heads))))),
        Words("`client.py` in this folder resizes pictures as training did and asks in both orders:"),
        Code(f'python client.py A.png B.png "{serving.task}"', "bash"),
        Code(serving.curl, "bash"),
        Words("To evaluate it behind the server with the same settings:"),
        Code(serving.evaluation, "bash"),
    ]


def refused_on_a_cpu(heads: int | None) -> str:
    """Why vLLM does not serve a model with heads of this size on a CPU; "" where it does or where that is unknown."""
    if heads is None or heads in CPU_HEADS:
        return ""
    return (
        f"vLLM refuses attention heads of {heads} on a CPU, where it takes {', '.join(map(str, CPU_HEADS))}: "
        "serve this model on a GPU, or by `llamafactory-cli api`."
    )


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
