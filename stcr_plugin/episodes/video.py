"""Frame-exact reading of single pictures from a video, whatever its codec, by presentation time.

A video is a file of its own or a slice of an archive, which is read where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stcr_plugin.episodes import archive
from stcr_plugin.episodes.archive import Slice
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

Video = Path | Slice


@dataclass(frozen=True)
class VideoFacts:
    """What a container says of its first video stream: number of frames and the time (s) where the last one starts."""

    frames: int
    last_seconds: float


def probe(path: Video) -> VideoFacts:
    """Open `path` without decoding.

    Raises DataError for a file that is no video, that has no frame, or whose data end before its index.
    """
    with _opened(path) as (container, stream):
        length = stream.duration
        if length is None or not stream.frames:  # a fragmented file has no index: look at every packet
            times = [packet.pts for packet in _packets(container, stream, path)]
            if not times:
                raise DataError(f"{path}: a video without a frame; download it again")
            return VideoFacts(len(times), float(max(times) * stream.time_base))
        end = (stream.start_time or 0) + length
        frame = length / stream.frames
        _seek(container, stream, round(end - frame), path)
        last = max((packet.pts for packet in _packets(container, stream, path)), default=None)
        if last is None or last < end - 1.5 * frame:
            raise DataError(f"{path}: truncated: its index promises {stream.frames} frames; download it again")
        return VideoFacts(stream.frames, float(last * stream.time_base))


def frames_at(path: Video, seconds: Sequence[float], fps: float, threads: int = 0) -> Iterator[Picture]:
    """The pictures shown at the ascending presentation times `seconds`, each uint8 [height, width, 3] RGB.

    A picture is found by its time stamp (within half a frame of `fps`), never by counting, so reordered frames
    and seeks cannot shift it. The compressed packets from the key frame before the first time to the last time
    are read once; of those only the ones go to the decoder that a wanted frame depends on, that is from its key
    frame on. `threads` 0 lets the decoder choose. Raises DataError naming the file and the time that fails, after
    the pictures before it were given. Damage inside the data is found by the decoder; only for a video with open
    groups of pictures (rare) may it be concealed.
    """
    if not seconds:
        return
    with _opened(path) as (container, stream):
        codec = stream.codec_context
        codec.thread_type, codec.thread_count = "AUTO", threads
        tolerance = 0.5 / fps
        packets = _window(container, stream, path, seconds[0] - tolerance, seconds[-1] + tolerance)
        wanted, problem = _match(packets, seconds, float(stream.time_base), tolerance)
        if not _open_groups(packets):
            codec.options = {"err_detect": "explode"}  # damaged data is an error then, not a guess
        found: dict[int, Picture] = {}
        stamps = set(wanted)
        given = 0
        for start, stop in _jobs(packets, wanted):
            codec.flush_buffers()  # a jump: forget references to frames that are left out
            try:
                for packet in [*packets[start:stop], None]:
                    for frame in codec.decode(packet):
                        if frame.pts in stamps and not frame.is_corrupt:
                            found[frame.pts] = frame.to_ndarray(format="rgb24")
                    # Decoders give frames in order of time, so a picture is handed on as soon as it is its turn.
                    while given < len(wanted) and wanted[given] in found:
                        yield found.pop(wanted[given])
                        given += 1
            except _ffmpeg_error() as error:
                raise DataError(
                    f"{path}: the frame at {seconds[given]:.3f} s or soon after cannot be decoded ({error})"
                ) from None
            if given < len(wanted) and any(packet.pts == wanted[given] for packet in packets[start:stop]):
                raise DataError(f"{path}: the frame at {seconds[given]:.3f} s cannot be decoded; the file is damaged")
        if problem:
            raise DataError(f"{path}: {problem}")


def _jobs(packets: Sequence[Any], wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of `packets` to decode, in order; those that touch are one, so a scan stays a scan."""
    position = {packet.pts: index for index, packet in enumerate(packets)}
    ranges = []
    for index in (position[pts] for pts in wanted):
        start = index
        # A frame shown before its own key frame (open group of pictures) needs the key frame before that one.
        while start > 0 and not (packets[start].is_keyframe and packets[start].pts <= packets[index].pts):
            start -= 1
        ranges.append((start, index + 1))
    jobs: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if jobs and start <= jobs[-1][1]:
            jobs[-1] = (jobs[-1][0], max(jobs[-1][1], stop))
        else:
            jobs.append((start, stop))
    return jobs


def _open_groups(packets: Sequence[Any]) -> bool:
    """Whether frames are shown before the key frame that they follow. After a jump to that one they are broken;
    nobody asks for them then, but a strict decoder would stop at them."""
    key = packets[0].pts if packets else 0
    for packet in packets:
        key = packet.pts if packet.is_keyframe else key
        if packet.pts < key:
            return True
    return False


def _window(container: Any, stream: Any, path: Video, start: float, end: float) -> list[Any]:
    """Every packet, in decoding order, from a key frame shown at or before `start` (s) until past `end` (s)."""
    first, last = start / stream.time_base, end / stream.time_base
    for target in (max(round(first), 0), None):
        if target is None:
            _seek(container, stream, stream.start_time or 0, path)
        elif target > (stream.start_time or 0):
            _seek(container, stream, target, path)
        packets = []
        for packet in _packets(container, stream, path):
            if packet.dts is not None and packet.dts > last:  # a frame is never shown before it is decoded
                break
            packets.append(packet)
        if packets and packets[0].is_keyframe and packets[0].pts <= first:
            break
    return packets


def _match(packets: Sequence[Any], seconds: Sequence[float], unit: float, tolerance: float) -> tuple[list[int], str]:
    """The time stamp (in stream units) of the frame nearest to each of `seconds`, strictly ascending.

    Stops at the first one that no frame, or the frame of the one before, is near to; the second value says why.
    """
    stamps = np.array(sorted(packet.pts for packet in packets), dtype=np.int64)
    if not len(stamps):
        return [], f"no frame can be read at {seconds[0]:.3f} s; the video is truncated"
    wanted: list[int] = []
    for second in seconds:
        nearest = int(stamps[np.abs(stamps * unit - second).argmin()])
        if abs(nearest * unit - second) > tolerance:
            end = f"the last that can be read is at {stamps[-1] * unit:.3f} s"
            return wanted, f"no frame at {second:.3f} s, {end}; the video is truncated or of another episode"
        if wanted and nearest <= wanted[-1]:
            return wanted, f"two frames of the data fall on the one at {second:.3f} s; fps in the meta data is wrong"
        wanted.append(nearest)
    return wanted, ""


def _seek(container: Any, stream: Any, time: int, path: Video) -> None:
    """To the key frame at or before `time`, in stream units."""
    try:
        container.seek(time, stream=stream)
    except _ffmpeg_error() as error:
        raise DataError(f"{path}: cannot be read as a video ({error}); download it again") from None


def _packets(container: Any, stream: Any, path: Video) -> Iterator[Any]:
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
def _opened(path: Video) -> Iterator[tuple[Any, Any]]:
    import av

    if isinstance(path, Path) and not path.is_file():
        raise DataError(f"{path}: no such video file; download it")
    if (path.size if isinstance(path, Slice) else path.stat().st_size) == 0:
        raise DataError(f"{path}: an empty file (0 bytes); download it again")
    with ExitStack() as stack:
        file = stack.enter_context(archive.opened(path)) if isinstance(path, Slice) else str(path)
        try:
            container = stack.enter_context(av.open(file))
        except _ffmpeg_error() as error:
            raise DataError(f"{path}: cannot be opened as a video ({error}); download it again") from None
        if not container.streams.video:
            raise DataError(f"{path}: holds no video stream")
        yield container, container.streams.video[0]


def _ffmpeg_error() -> type[Exception]:
    from av.error import FFmpegError

    return FFmpegError
