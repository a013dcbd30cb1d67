"""Small real videos in many containers and codecs, whose every picture shows its own number, see lerobot_dataset."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import lerobot_dataset as made
import numpy as np

FRAMES, RATE = 30, 10
_B = {"g": "12", "bf": "3", "b_strategy": "0", "sc_threshold": "0"}
_MPEG = {"g": "12", "bf": "2", "b_strategy": "0"}
_VPX = {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8"}
CODECS: dict[str, tuple[str, Mapping[str, str], str]] = {
    "h264": ("libx264", _B, "yuv420p"),  # frames are reordered
    "h264 open": ("libx264", {**_B, "x264-params": "open-gop=1:scenecut=0"}, "yuv420p"),
    "h264 plain": ("libx264", {"g": "12", "bf": "0"}, "yuv420p"),
    "h264 pairs": ("libx264", {"g": "2"}, "yuv420p"),
    "hevc": ("libx265", {"x265-params": "keyint=12:bframes=3:b-adapt=0:log-level=none"}, "yuv420p"),
    "mpeg4": ("mpeg4", _MPEG, "yuv420p"),
    "mpeg2": ("mpeg2video", _MPEG, "yuv420p"),
    "vp8": ("libvpx", _VPX, "yuv420p"),
    "vp9": ("libvpx-vp9", _VPX, "yuv420p"),
    "av1": ("libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}, "yuv420p"),
    "mjpeg": ("mjpeg", {}, "yuvj420p"),
    "ffv1": ("ffv1", {"g": "12"}, "yuv420p"),
    "prores": ("prores_ks", {}, "yuv422p10le"),
    "huffyuv": ("huffyuv", {}, "yuv422p"),
    "gif": ("gif", {}, "rgb8"),
    "apng": ("apng", {}, "rgb24"),
    "wmv": ("wmv2", {"g": "12"}, "yuv420p"),
}


def write(
    path: Path,
    codec: str,
    *,
    times: Sequence[int] | None = None,
    frames: int = FRAMES,
    size: tuple[int, int] = (made.WIDTH, made.HEIGHT),
    options: Mapping[str, str] | None = None,
    unit: Fraction = Fraction(1, 1000),
) -> Path:
    """A video of `codec`, a key of CODECS; `times` of its frames in `unit`s (s) where they are not even."""
    name, settings, pixels = CODECS[codec]
    with av.open(str(path), "w", options=dict(options or {})) as container:
        stream = container.add_stream(name, rate=RATE, options=dict(settings))
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = unit
        for number in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(made.picture(1, number), format="rgb24").reformat(*size, pixels)
            if times is not None:
                frame.pts, frame.time_base = times[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source: Path, target: Path, skip: int = 0, held: int = 0) -> Path:
    """The packets of `source` in another container, without the first `skip`; nothing is encoded again.

    The last frame is shown for `held` seconds where that is given.
    """
    with av.open(str(source)) as read, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(read.streams.video[0])
        packets = list(read.demux(video=0))
        last = max(packet.pts for packet in packets if packet.pts is not None) if held else None
        for number, packet in enumerate(packets):
            if number >= skip and packet.size:
                if held and packet.pts == last:
                    packet.duration = round(held / packet.time_base)
                packet.stream = stream
                container.mux(packet)
    return target


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Store the display matrix (a, b, c, d) in an mp4, as a phone does: (x, y) is shown at (a x + c y, b x + d y)."""
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def sequential(path: Path) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Every picture by plain decoding from the start."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# Weights of red and blue in the brightness, by the number that ITU-T H.273 gives to a matrix.
MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
MATRICES[9] = (0.2627, 0.0593)


def write_colours(
    path: Path, codec: str, pixels: str, colours: Sequence[tuple[int, int, int]], *, matrix: int, full: bool
) -> Path:
    """One flat frame per colour, its planes computed by the textbook formula, tagged; `pixels` ends in 10le for 10 bit.

    A `matrix` that is not in MATRICES is only a tag, and the planes are those of BT.601.
    """
    red, blue = MATRICES.get(matrix, MATRICES[6])
    bits, kind = (10, np.dtype("<u2")) if pixels.endswith("10le") else (8, np.dtype("u1"))
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    with av.open(str(path), "w") as container:
        options = {"x265-params": "qp=4:log-level=none"} if codec == "libx265" else {"qp": "1"}
        stream = container.add_stream(codec, rate=RATE, options=options if codec.startswith("libx") else {})
        stream.width, stream.height, stream.pix_fmt = 64, 32, pixels
        context = stream.codec_context
        context.thread_count, context.colorspace, context.color_range = 1, matrix, 2 if full else 1
        for number, colour in enumerate(colours):
            r, g, b = (value / 255 for value in colour)
            y = red * r + (1 - red - blue) * g + blue * b
            u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
            if pixels.startswith("gbrp"):
                planes = [g * top, b * top, r * top]
            elif full:
                planes = [y * top, u * top + 128 * scale, v * top + 128 * scale]
            else:
                planes = [(16 + 219 * y) * scale, (128 + 224 * u) * scale, (128 + 224 * v) * scale]
            frame = av.VideoFrame(64, 32, pixels)
            for plane, value in zip(frame.planes, planes, strict=False):
                count = plane.buffer_size // kind.itemsize
                plane.update(np.full(count, min(max(round(value), 0), top), kind).tobytes())
            frame.pts, frame.colorspace, frame.color_range = number, matrix, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def trim(path: Path, start: int, length: int) -> Path:
    """Show only `length` ms from `start` ms on of an mp4, as a phone trims: by its edit list, nothing is cut off."""
    data = bytearray(path.read_bytes())
    entry, header = data.index(b"elst") + 12, data.index(b"mdhd") + 16
    _, first = struct.unpack_from(">Ii", data, entry)
    (unit,) = struct.unpack_from(">I", data, header)
    struct.pack_into(">Ii", data, entry, length, first + start * unit // 1000)
    path.write_bytes(data)
    return path
