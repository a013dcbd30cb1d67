"""Frame-exact reading of single pictures from a video file, whatever its codec, by presentation time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture


@dataclass(frozen=True)
class VideoFacts:
    """What a container says of its first video stream: number of frames and the time (s) where the last one starts."""

    frames: int
    last_seconds: float


def probe(path: Path) -> VideoFacts:
    """Open `path` without decoding. Raises DataError for a file that is no video or whose data end before its index."""
    with _opened(path) as (container, stream):
        length = stream.duration
        if length is None or not stream.frames:  # a fragmented file has no index: look at every packet
            times = [packet.pts for packet in _packets(container, stream, path)]
            return VideoFacts(len(times), float(max(times) * stream.time_base))
        end = (stream.start_time or 0) + length
        frame = length / stream.frames
        container.seek(round(end - frame), stream=stream)
        last = max((packet.pts for packet in _packets(container, stream, path)), default=None)
        if last is None or last < end - 1.5 * frame:
            raise DataError(f"{path}: truncated: its index promises {stream.frames} frames; download it again")
        return VideoFacts(stream.frames, float(last * stream.time_base))


def frames_at(path: Path, seconds: Sequence[float], fps: float, threads: int = 0) -> Iterator[Picture]:
    """The pictures shown at the ascending presentation times `seconds`, each uint8 [height, width, 3] RGB.

    A picture is found by its time stamp (within half a frame of `fps`), never by counting, so reordered frames
    and seeks cannot shift it. The compressed packets from the key frame before the first time to the last time
    are read once; of those only the ones go to the decoder that a wanted frame depends on, that is from its key
    frame on. `threads` 0 lets the decoder choose. Raises DataError naming the file and the time that fails.
    """
    if not seconds:
        return
    with _opened(path) as (container, stream):
        codec = stream.codec_context
        codec.thread_type, codec.thread_count = "AUTO", threads
        tolerance = 0.5 / fps
        packets = _window(container, stream, path, seconds[0] - tolerance, seconds[-1] + tolerance)
        wanted = _match(packets, seconds, float(stream.time_base), tolerance, path)
        jobs = _jobs(packets, wanted)
        found: dict[int, Picture] = {}
        given = 0
        for start, stop in jobs:
            codec.flush_buffers()  # a jump: forget references to frames that are left out
            try:
                for packet in [*packets[start:stop], None]:
                    for frame in codec.decode(packet):
                        if frame.pts in wanted and not frame.is_corrupt:
                            found[frame.pts] = frame.to_ndarray(format="rgb24")
                    # Decoders give frames in order of time, so a picture is handed on as soon as it is its turn.
                    while given < len(wanted) and wanted[given] in found:
                        yield found.pop(wanted[given])
                        given += 1
            except _ffmpeg_error() as error:
                raise DataError(f"{path}: the frame at {seconds[given]:.3f} s cannot be decoded ({error})") from None
            if given < len(wanted) and any(packet.pts == wanted[given] for packet in packets[start:stop]):
                raise DataError(f"{path}: the frame at {seconds[given]:.3f} s cannot be decoded; the file is damaged")


def _jobs(packets: Sequence[Any], wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of `packets` to decode, in order; those that touch are one, so a scan stays a scan."""
    position = {packet.pts: index for index, packet in enumerate(packets)}
    jobs: list[tuple[int, int]] = []
    for index in sorted(position[pts] for pts in wanted):
        start = index
        # A frame shown before its own key frame (open group of pictures) needs the key frame before that one.
        while start > 0 and not (packets[start].is_keyframe and packets[start].pts <= packets[index].pts):
            start -= 1
        if jobs and start <= jobs[-1][1]:
            jobs[-1] = (jobs[-1][0], max(jobs[-1][1], index + 1))
        else:
            jobs.append((start, index + 1))
    return jobs


def _window(container: Any, stream: Any, path: Path, start: float, end: float) -> list[Any]:
    """Every packet, in decoding order, from a key frame shown at or before `start` (s) until past `end` (s)."""
    first, last = start / stream.time_base, end / stream.time_base
    for target in (max(round(first), 0), None):
        if target is None:
            container.seek(stream.start_time or 0, stream=stream)
        elif target > (stream.start_time or 0):
            container.seek(target, stream=stream)
        packets = []
        for packet in _packets(container, stream, path):
            if packet.dts is not None and packet.dts > last:  # a frame is never shown before it is decoded
                break
            packets.append(packet)
        if packets and packets[0].is_keyframe and packets[0].pts <= first:
            break
    return packets


def _match(packets: Sequence[Any], seconds: Sequence[float], unit: float, tolerance: float, path: Path) -> list[int]:
    """The time stamp (in stream units) of the frame nearest to each of `seconds`, strictly ascending."""
    stamps = np.array(sorted(packet.pts for packet in packets), dtype=np.int64)
    wanted: list[int] = []
    for second in seconds:
        nearest = int(np.abs(stamps * unit - second).argmin()) if len(stamps) else 0
        if not len(stamps) or abs(stamps[nearest] * unit - second) > tolerance:
            until = f"its frames end at {stamps[-1] * unit:.3f} s" if len(stamps) else "no frame can be read there"
            raise DataError(f"{path}: no frame at {second:.3f} s, {until}; the video is truncated or not this episode's")
        wanted.append(int(stamps[nearest]))
    if any(later <= earlier for earlier, later in zip(wanted, wanted[1:], strict=False)):
        raise DataError(f"{path}: two time stamps of the data fall on one frame of the video; check fps in the meta data")
    return wanted


def _packets(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """The packets of `stream` from where the container stands; a cut-off one ends them."""
    try:
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                if packet.is_corrupt:
                    return
                yield packet
    except _ffmpeg_error() as error:
        raise DataError(f"{path}: cannot be read as a video ({error}); download it again") from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    if not path.is_file():
        raise DataError(f"{path}: no such video file; download it")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: an empty file (0 bytes); download it again")
    try:
        container = av.open(str(path))
    except _ffmpeg_error() as error:
        raise DataError(f"{path}: cannot be opened as a video ({error}); download it again") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: holds no video stream")
        yield container, container.streams.video[0]


def _ffmpeg_error() -> type[Exception]:
    from av.error import FFmpegError

    return FFmpegError
