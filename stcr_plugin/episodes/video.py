"""Frame-exact reading of single pictures from a video, whatever its container and codec.

The frames of a video are those that decoding it from its start gives, in that order; their times are seconds from the
first one, also where a file starts late. Two ways lead to them. Where packets carry the true times of their frames, a
picture is found by its time: only packets from its key frame on are decoded. Everywhere else (AVI, MPEG-TS, raw
streams, ...) all frames are decoded and counted, which is slower and as exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stcr_plugin.episodes.archive import Slice
from stcr_plugin.episodes.video_file import AGAIN, Video, VideoFile, ffmpeg_error, opened
from stcr_plugin.episodes.video_picture import picture_of, warn_of_hdr
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from stcr_plugin.types import Picture

    Times = npt.NDArray[np.float64]

UNEVEN = 0.25  # seconds by which a frame may miss an even clock before its video counts as one of variable rate
_HEAD = 64  # packets at the start that tell whether frames are reordered
_SKIPPED = 10  # bytes; a smaller packet of MPEG-4 Part 2 may say "no new frame"


@dataclass(frozen=True)
class VideoFacts:
    """What can be said of a video without its pictures.

    Attributes:
        frames: How many a decoder shows.
        last_seconds: Where the last one starts, from the first one on.
        rate: Frames per second as the file states them, 0 where it does not.
        timed: False for a raw stream, whose times and rate are made up (25 fps), and where frames were left out of a
            container that does not say which.
    """

    frames: int
    last_seconds: float
    rate: float = 0.0
    timed: bool = True


@dataclass(frozen=True)
class _Timeline:
    """All frames of a video.

    Attributes:
        times: Seconds of each from the first one on, ascending [frames].
        stamps: Of each, in units of the stream, where packets carry them truly; None where frames must be counted.
        held: Seconds that the last one is shown, 0 where that is not stored.
    """

    times: Times
    stamps: npt.NDArray[np.int64] | None
    timed: bool
    held: float = 0.0


def probe(path: Video) -> VideoFacts:
    """The facts of a video, decoding it only where its container leaves no other way (see above).

    Raises DataError for a file that is not a video, has no frame, or whose data end before its index does.
    """
    with opened(path) as file:
        stream, origin = file.stream, _origin(file)
        rate = float(stream.average_rate or 0)
        if origin is not None and stream.duration is not None and stream.frames:
            last = _last(file)
            # An index also counts frames that were trimmed away and are never shown.
            if last is not None and abs((last - origin) * file.unit * rate - (stream.frames - 1)) <= 0.5:
                return VideoFacts(stream.frames, (last - origin) * file.unit, rate)
    line = _timeline(path)
    return VideoFacts(len(line.times), float(line.times[-1]), rate, line.timed)


def count_and_rate(path: Path, fps: float | None) -> tuple[int, float]:
    """Number of frames and frames per second of a video: `fps` if given, else the file's own rate.

    Raises DataError as `probe` does, and where the rate is unknown, or there are less than two frames.
    """
    facts = probe(path)
    if fps is not None:
        return facts.frames, fps
    if not facts.timed:
        raise DataError(str(path), "does not say how fast its frames were taken", "give `fps`, or convert it to MP4")
    if facts.frames < 2 or facts.last_seconds <= 0:
        raise DataError(str(path), f"{facts.frames} frame(s) in {facts.last_seconds:.2f} s; a pair needs two")
    own = (facts.frames - 1) / facts.last_seconds
    # Some containers round times to milliseconds: where the stated rate agrees, it is the exact one.
    return facts.frames, facts.rate if abs(facts.rate - own) < 0.01 * own else own


def frame_times(path: Video) -> Times:
    """When each frame is shown, in seconds from the first one on, ascending [frames]."""
    return _timeline(path).times


def number_at(path: Video, seconds: float) -> int:
    """Number of the frame that is shown at `seconds` after the first one: the last that has started by then.

    Raises DataError for a time after the last frame, and for a file without times, such as a raw stream.
    """
    line = _timeline(path)
    if not line.timed:
        raise DataError(str(path), "does not say when its frames are shown", "convert it to MP4")
    times = line.times
    last = float(times[-1])
    if seconds > last + max(line.held, last / max(1, len(times) - 1)):
        raise DataError(str(path), f"has no frame at {seconds:g} s, its last one is shown at {last:.2f} s")
    return int(np.searchsorted(times, seconds + 0.0005, side="right")) - 1  # times may be rounded to milliseconds


def check_even(path: Path, times: Times) -> None:
    """Raises DataError for a video of variable frame rate, whose frames do not follow an even clock."""
    off = float(np.abs(times - np.linspace(times[0], times[-1], len(times))).max())
    if off > UNEVEN:
        raise DataError(
            str(path),
            f"of variable frame rate, a frame is {off:.2f} s off the even clock",
            "convert it to a constant rate, or give `fps` if its frames are evenly spaced in truth",
        )


def frames_numbered(path: Video, numbers: Sequence[int], *, threads: int = 0) -> Iterator[Picture]:
    """The pictures of some frames, by their ascending numbers from 0. Otherwise as `frames_at`."""
    if not numbers:
        return
    line = _timeline(path)
    seconds = [float(line.times[number]) for number in numbers]
    if line.stamps is None:
        yield from _of_one_size(_counted(path, numbers, seconds=seconds, threads=threads), str(path))
        return
    wanted = [int(line.stamps[number]) for number in numbers]
    with opened(path) as file:
        packets = _window(file, wanted[0], wanted[-1])
        yield from _of_one_size(_found(file, packets, wanted, seconds=seconds, threads=threads), str(path))


def frames_at(path: Video, seconds: Sequence[float], fps: float, *, threads: int = 0) -> Iterator[Picture]:
    """The pictures shown at some times, each within half a frame of `fps` of its time.

    Where packets carry true times, those from the key frame before the first time to the last time are read once; of
    them only the ones go to the decoder that a wanted frame depends on, that is from its key frame on. Damage inside
    the data is found by the decoder; only for a video with open groups of pictures (rare) may it be concealed.

    Args:
        path: The video.
        seconds: Times, ascending, from the first frame of the video on.
        fps: Frames per second of the video.
        threads: Threads of the decoder; 0 lets it choose.

    Yields:
        A picture for each time, uint8 [height, width, 3], RGB, turned as it is stored to be shown.

    Raises:
        DataError: Naming the file and the time that fails, after the pictures before it were given.
    """
    if not seconds:
        return
    tolerance = 0.5 / fps
    with opened(path) as file:
        origin = _origin(file)
        if origin is None:
            line = _timeline(path)
            origin = None if line.stamps is None else int(line.stamps[0])
        if origin is not None:
            first, last = (seconds[0] - tolerance) / file.unit, (seconds[-1] + tolerance) / file.unit
            packets = _window(file, origin + first, origin + last)
            stamps = np.array(sorted(packet.pts for packet in packets if not packet.is_discard), dtype=np.int64)
            places, problem = _match(np.multiply(stamps - origin, file.unit), seconds, tolerance=tolerance)
            wanted = [int(stamps[place]) for place in places]
            yield from _of_one_size(_found(file, packets, wanted, seconds=seconds, threads=threads), str(path))
    if origin is None:
        times = line.times if line.timed else np.arange(len(line.times)) / fps
        places, problem = _match(times, seconds, tolerance=tolerance)
        yield from _of_one_size(_counted(path, places, seconds=seconds, threads=threads), str(path))
    if problem:
        raise DataError(str(path), problem)


def _match(times: Times, seconds: Sequence[float], *, tolerance: float) -> tuple[list[int], str]:
    """The place in `times` that is nearest to each of `seconds`, strictly ascending.

    Stops at the first one that no frame, or the frame of the one before, is near to; the second value says why.
    """
    if not len(times):
        return [], f"no frame can be read at {seconds[0]:.3f} s, the video is truncated"
    places: list[int] = []
    for second in seconds:
        nearest = int(np.abs(times - second).argmin())
        if abs(times[nearest] - second) > tolerance:
            end = f"the last that can be read is at {times[-1]:.3f} s"
            return places, f"no frame at {second:.3f} s, {end}; the video is truncated or of another episode"
        if places and nearest <= places[-1]:
            return places, f"two frames of the data fall on the one at {second:.3f} s; fps in the meta data is wrong"
        places.append(nearest)
    return places, ""


# ---- the frames of a video ----


def _origin(file: VideoFile) -> int | None:
    """The stamp of the first frame, where a video's first packets show that stamps are true; None if they do not."""
    if not file.indexed or file.stream.codec_context.name == "mpeg4":
        return None
    head: list[Any] = []
    for packet in file.packets():
        head.append(packet)
        if len(head) == _HEAD or not (file.stream.codec_context.has_b_frames or packet.is_discard):
            break
    if not _truly_stamped(file, head):
        return None
    return min((packet.pts for packet in head if not packet.is_discard), default=None)


def _truly_stamped(file: VideoFile, packets: Sequence[Any]) -> bool:
    """Whether each packet carries the time at which its own frame, and no other, is shown."""
    stamps = [packet.pts for packet in packets]
    if not stamps or None in stamps or len(set(stamps)) < len(stamps):
        return False
    if not packets[0].is_keyframe or min(stamps) < stamps[0]:  # these frames lack the key frame that they need
        return False
    codec = file.stream.codec_context
    if codec.name == "mpeg4" and any(packet.size < _SKIPPED for packet in packets):
        return False
    # A codec that reorders frames, but stamps that ascend: the stamps may be times of decoding. Not where key frames
    # are so dense that there is nothing to reorder.
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    longest = max(stop - start for start, stop in itertools.pairwise([*keys, len(packets)]))
    return longest <= 2 or not codec.has_b_frames or stamps != sorted(stamps)


def _last(file: VideoFile) -> int | None:
    """The stamp of the last frame of a video that has an index; None where frames at its end are never shown."""
    stream = file.stream
    file.seek(round((stream.start_time or 0) + stream.duration * (1 - 1 / stream.frames)))
    packets = list(file.packets())
    if any(packet.is_discard for packet in packets):
        return None
    last = max((packet.pts for packet in packets), default=None)
    _check_end(file, last)
    return last


def _check_end(file: VideoFile, last: int | None) -> None:
    """Raises DataError where the last frame that is there, at the stamp `last`, is not the last of the index."""
    stream = file.stream
    if stream.duration is not None and stream.frames:
        end, frame = (stream.start_time or 0) + stream.duration, stream.duration / stream.frames
        if stream.average_rate:  # of a trimmed video, the index also counts frames that are never shown
            frame = max(frame, 1 / (float(stream.average_rate) * file.unit))
        if last is None or last < end - 1.5 * frame:
            with opened(file.path) as again:  # the last frame may be shown for long
                if sum(1 for _ in again.packets()) < stream.frames:
                    raise DataError(str(file.path), f"truncated: its index promises {stream.frames} frames", AGAIN)


def _timeline(path: Video) -> _Timeline:
    """Of a video; the last few are remembered, as one is asked for again and again."""
    file = path.path if isinstance(path, Slice) else path
    facts = file.stat() if file.is_file() else None
    return _read_timeline(path, facts and (facts.st_size, facts.st_mtime_ns))


@lru_cache(4)
def _read_timeline(path: Video, _state: tuple[int, int] | None) -> _Timeline:
    with opened(path) as file:
        if not file.indexed:
            return _decoded_timeline(file, ())
        packets = list(file.packets())
        if not packets:
            _check_end(file, None)
            raise DataError(str(path), "a video without a frame", AGAIN)
        shown = sorted(packet.pts for packet in packets if not packet.is_discard and packet.pts is not None)
        if shown and _truly_stamped(file, packets):
            stamps = np.array(shown, dtype=np.int64)
            held = max((packet.duration or 0 for packet in packets if packet.pts == shown[-1]), default=0)
            return _Timeline((stamps - stamps[0]) * file.unit, stamps, timed=True, held=held * file.unit)
    with opened(path) as file:
        return _decoded_timeline(file, shown)


def _decoded_timeline(file: VideoFile, shown: Sequence[int]) -> _Timeline:
    """By decoding. Where that confirms the stamps of the packets, `shown`, frames can be found by them after all."""
    stamps = [frame.pts for frame in _all_frames(file, threads=0)]
    if not stamps:
        raise DataError(str(file.path), "a video without a frame", AGAIN)
    count, rate = len(stamps), float(file.stream.average_rate or 0)
    if stamps == list(shown):
        known = np.array(stamps, dtype=np.int64)
        return _Timeline((known - known[0]) * file.unit, known, timed=True)
    gaps = _has_gaps(file)
    told_apart = None not in stamps and len(set(stamps)) == count
    if file.timed and told_apart and not (gaps and file.stream.codec_context.has_b_frames):
        times = np.array(sorted(stamps), dtype=np.int64)  # they may be in the order of decoding
        _check_end(file, int(times[-1]))
        return _Timeline((times - times[0]) * file.unit, None, timed=True)
    return _Timeline(np.arange(count) / (rate or 25.0), None, timed=file.timed and rate > 0 and not gaps)


def _has_gaps(file: VideoFile) -> bool:
    """Whether frames were left out of an AVI. It only says where they are missing in the order of decoding."""
    if file.container.format.name != "avi":
        return False
    with opened(file.path) as again:
        steps = np.diff([packet.dts for packet in again.packets() if packet.dts is not None])
    return len(steps) > 0 and bool(steps.max() > 1.5 * np.median(steps))


def _all_frames(file: VideoFile, threads: int) -> Iterator[Any]:
    """PyAV's frames by decoding everything, in the order in which they are shown."""
    codec = file.stream.codec_context
    codec.thread_type, codec.thread_count = "AUTO", threads
    count = 0
    for packet in itertools.chain(file.packets(whole=True), [None]):
        try:
            frames = codec.decode(packet)
        except ffmpeg_error() as error:
            if not count:  # a recording may start in the middle, what comes before its first key frame is not shown
                continue
            problem = f"what follows its first {count} frames cannot be decoded ({error.strerror})"
            raise DataError(str(file.path), problem, AGAIN) from None
        count += len(frames)
        yield from frames


# ---- pictures ----


def _of_one_size(pictures: Iterator[Picture], where: str) -> Iterator[Picture]:
    """Raises DataError where they change size within a video, as a stream joined or recorded from a call does."""
    shape = None
    for picture in pictures:
        if picture.shape != (shape := shape or picture.shape):
            raise DataError(where, "its pictures change size", "convert it to one size")
        yield picture


def _counted(path: Video, numbers: Sequence[int], *, seconds: Sequence[float], threads: int) -> Iterator[Picture]:
    """The pictures of the frames `numbers`, by decoding up to the last of them; `seconds` names them in errors."""
    given = 0
    with opened(path) as file:
        warn_of_hdr(file.stream.codec_context.color_trc, str(path))
        frames = enumerate(_all_frames(file, threads))
        while given < len(numbers):
            number, frame = next(frames, (-1, None))
            if frame is None or (number == numbers[given] and frame.is_corrupt):
                problem = f"the frame at {seconds[given]:.3f} s cannot be decoded, the file is damaged"
                raise DataError(str(path), problem, AGAIN)
            if number == numbers[given]:
                yield picture_of(frame, str(path))
                given += 1


def _found(
    file: VideoFile, packets: Sequence[Any], wanted: Sequence[int], *, seconds: Sequence[float], threads: int
) -> Iterator[Picture]:
    """The pictures of the stamps `wanted`, from the `packets` of a window; `seconds` names them in errors."""
    path, codec = str(file.path), file.stream.codec_context
    codec.thread_type, codec.thread_count = "AUTO", threads
    warn_of_hdr(codec.color_trc, path)
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
                        found[frame.pts] = picture_of(frame, path)
                # Decoders give frames in order of time, so a picture is handed on as soon as it is its turn.
                while given < len(wanted) and wanted[given] in found:
                    yield found.pop(wanted[given])
                    given += 1
        except ffmpeg_error() as error:
            problem = f"the frame at {seconds[given]:.3f} s or soon after cannot be decoded ({error.strerror})"
            raise DataError(path, problem, AGAIN) from None
        if given < len(wanted) and any(packet.pts == wanted[given] for packet in packets[start:stop]):
            problem = f"the frame at {seconds[given]:.3f} s cannot be decoded, the file is damaged or has no key frames"
            raise DataError(path, problem, f"{AGAIN}, or encode it again")
    if given < len(wanted):
        raise DataError(path, f"no frame can be read at {seconds[given]:.3f} s, the video is truncated")


def _window(file: VideoFile, first: float, last: float) -> list[Any]:
    """Every packet, in decoding order, from a key frame shown at or before the stamp `first` until past `last`."""
    begins = file.stream.start_time or 0
    for target in (round(first), None):
        if target is not None and target <= begins:
            continue
        file.seek(begins if target is None else target)
        packets = []
        for packet in file.packets():
            if packet.dts is not None and packet.dts > last:  # a frame is never shown before it is decoded
                break
            if packet.pts is not None:
                packets.append(packet)
        if packets and packets[0].is_keyframe and packets[0].pts <= first:
            break
    return packets


def _jobs(packets: Sequence[Any], wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of `packets` to decode, in order; those that touch are one, so a scan stays a scan."""
    position = {packet.pts: index for index, packet in enumerate(packets)}
    ranges = []
    for index in (position[pts] for pts in wanted if pts in position):
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
