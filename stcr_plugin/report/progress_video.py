"""An episode's pictures with its progress curve beside them, as a video for a person."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.report.plots import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from stcr_plugin.types import Picture

HEIGHT, PANEL = 360, 480  # pixels: of the video, and the width of the curve
_LEFT, _BOTTOM, _WIDE, _HIGH = 0.14, 0.16, 0.82, 0.68  # the axes, as shares of the panel
_CODECS = ("libx264", "mpeg4")


@dataclass(frozen=True)
class DrawnCurve:
    """What is drawn beside the pictures.

    Attributes:
        title: Episode and task.
        progress: Of every frame, 0..1; NaN where it is not known.
        anchors: Numbers of the frames that were compared.
        disagreement: Of each anchor, 0..1.
    """

    title: str
    fps: float
    progress: Sequence[float]
    anchors: Sequence[int]
    disagreement: Sequence[float]


def write_overlay(path: Path, pictures: Iterator[Picture], drawn: DrawnCurve) -> None:
    """Write an MP4 of the pictures at their own rate, the curve beside them with a mark at the time that is shown."""
    import av
    import numpy as np
    from PIL import Image

    panel = _panel(drawn)
    with artefacts.whole_file(path) as part, av.open(str(part), "w", format="mp4") as file:
        stream: Any = None
        for number, picture in enumerate(pictures):
            image = Image.fromarray(picture)
            width = max(2, round(image.width * HEIGHT / image.height / 2) * 2)
            whole = Image.new("RGB", (width + PANEL, HEIGHT), "white")
            whole.paste(image.resize((width, HEIGHT)), (0, 0))
            whole.paste(_marked(panel, drawn, number), (width, 0))
            if stream is None:
                rate = Fraction(drawn.fps).limit_denominator(1001)
                stream = file.add_stream(_codec(), rate=rate)
                stream.width, stream.height, stream.pix_fmt = whole.width, whole.height, "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(whole), format="rgb24")))
        if stream is not None:
            file.mux(stream.encode())


def _codec() -> str:
    from av.codec import codecs_available

    return next(name for name in _CODECS if name in codecs_available)


def _panel(drawn: DrawnCurve) -> Image:
    """The curve, with the share of disagreement below it as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(PANEL / 100, HEIGHT / 100), dpi=100)
    axis = figure.add_axes((_LEFT, _BOTTOM, _WIDE, _HIGH))
    seconds = [number / drawn.fps for number in range(len(drawn.progress))]
    at = [frame / drawn.fps for frame in drawn.anchors]
    axis.bar(at, drawn.disagreement, width=_step(at), color="#D55E00", alpha=0.25, label="orders disagree")
    axis.plot(seconds, drawn.progress, color="#0072B2", linewidth=1.6, label="progress")
    axis.plot(at, [drawn.progress[frame] for frame in drawn.anchors], ".", color="#0072B2", markersize=5)
    axis.set_xlim(0, _last(drawn))
    axis.set_ylim(0, 1)
    axis.set_xlabel("seconds", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axis.legend(fontsize=7, loc="upper left", frameon=False)
    title = axis.set_title(printable(drawn.title)[:90], fontsize=8, wrap=True)
    title.set_parse_math(False)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", metadata={"Software": None})
    return Image.open(data).convert("RGB")


def _marked(panel: Image, drawn: DrawnCurve, number: int) -> Image:
    """The panel with a line at the frame that is shown, and its value."""
    import math

    from PIL import ImageDraw

    marked = panel.copy()
    draw = ImageDraw.Draw(marked)
    x = round(PANEL * (_LEFT + _WIDE * (number / drawn.fps) / _last(drawn)))
    low, high = round(HEIGHT * (1 - _BOTTOM)), round(HEIGHT * (1 - _BOTTOM - _HIGH))
    draw.line([(x, high), (x, low)], fill=(0, 0, 0), width=1)
    value = drawn.progress[number] if number < len(drawn.progress) else math.nan
    if math.isfinite(value):
        y = round(low - (low - high) * value)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(0, 0, 0))
        draw.text((6, 4), f"{value:.2f}", fill=(0, 0, 0))
    return marked


def _last(drawn: DrawnCurve) -> float:
    return max(1, len(drawn.progress) - 1) / drawn.fps


def _step(at: Sequence[float]) -> float:
    return max(1e-6, (at[-1] - at[0]) / max(1, len(at) - 1)) if len(at) > 1 else 0.1
