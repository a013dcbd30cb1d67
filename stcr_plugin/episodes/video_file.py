"""An open video file: its stream of pictures and its packets.

A video is a file or a slice of an archive, which is read without unpacking it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.artefacts import refuse_lfs_pointer
from stcr_plugin.episodes import archive
from stcr_plugin.episodes.archive import Slice
from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from av.error import FFmpegError

Video = Path | Slice
AGAIN = "download it again"
_HEAD = 200  # bytes at the start of a file that tell what it is
_SEGMENT = bytes.fromhex("18538067")  # of Matroska and WebM: holds everything behind the header


@dataclass(frozen=True)
class VideoFile:
    """An open video; `container` and `stream` are PyAV's. Stamps are times in units of the stream."""

    path: Video
    container: Any
    stream: Any

    @property
    def unit(self) -> float:
        """Seconds of a unit of the stamps."""
        return float(self.stream.time_base)

    @property
    def indexed(self) -> bool:
        """Whether the container (MP4, MOV, Matroska, WebM) knows its key frames and stamps what is shown when.

        VP8 is left out: it also packs frames that are never shown.
        """
        names = self.container.format.name.split(",")
        return bool({"mov", "matroska"} & set(names)) and self.stream.codec_context.name != "vp8"

    @property
    def timed(self) -> bool:
        """Whether the container has times at all. A raw stream (.h264, .hevc) has none, PyAV makes up 25 fps for it."""
        from av.format import Flags

        return not self.container.format.flags & Flags.no_timestamps.value

    def seek(self, stamp: int) -> None:
        """To the key frame at or before `stamp`."""
        try:
            self.container.seek(stamp, stream=self.stream)
        except ffmpeg_error() as error:
            raise DataError(str(self.path), f"cannot be read as a video ({error.strerror})", AGAIN) from None

    def packets(self, whole: bool = False) -> Iterator[Any]:
        """The packets from the current position on that hold something.

        A damaged or cut-off one ends them; where the `whole` file is needed, it is a DataError.
        """
        try:
            for number, packet in enumerate(self.container.demux(self.stream)):
                if packet.is_corrupt:
                    if whole:
                        problem = f"damaged, joined or cut off after its first {number} frames"
                        raise DataError(str(self.path), problem, f"{AGAIN}, or convert it to MP4")
                    return
                if packet.size:
                    yield packet
        except ffmpeg_error() as error:
            raise DataError(str(self.path), f"cannot be read as a video ({error.strerror})", AGAIN) from None


@contextmanager
def opened(path: Video) -> Iterator[VideoFile]:
    """Open a video at its start. Raises DataError for a file that is not one."""
    import av

    if isinstance(path, Path) and not path.is_file():
        raise DataError(path, "no such video file", "download it")
    size = path.size if isinstance(path, Slice) else path.stat().st_size
    if size == 0:
        raise DataError(str(path), "an empty file (0 bytes)", AGAIN)
    with ExitStack() as stack:
        file = stack.enter_context(archive.opened(path) if isinstance(path, Slice) else path.open("rb"))
        head = file.read(_HEAD)
        file.seek(0)
        refuse_lfs_pointer(str(path), head)
        _refuse_cut_matroska(path, head, size)
        source = file if isinstance(path, Slice) else str(path)  # PyAV reads a named file faster
        try:
            # Cameras write their metadata in any encoding.
            container = stack.enter_context(av.open(source, metadata_errors="ignore"))
        except ffmpeg_error() as error:
            raise DataError(str(path), f"cannot be opened as a video ({error.strerror})", AGAIN) from None
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise DataError(str(path), "holds no video stream", "give a video file")
        if streams[0].codec_context is None:
            raise DataError(str(path), "coded in a way that cannot be decoded", "convert it to MP4 (H.264)")
        yield VideoFile(path, container, streams[0])


def _refuse_cut_matroska(path: Video, head: bytes, size: int) -> None:
    """Raises DataError for a file that ends before it says it would; FFmpeg takes it for a shorter video."""
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if head.startswith(b"\x1aE\xdf\xa3") and start >= len(_SEGMENT) and len(head) > start:
        width = 9 - head[start].bit_length()  # of the number, which its leading zeros tell
        value = int.from_bytes(head[start : start + width]) - (1 << 7 * width)
        if value != (1 << 7 * width) - 1 and start + width + value > size:  # all ones: not known, as of a live stream
            raise DataError(str(path), f"truncated: {size} of its {start + width + value} bytes", AGAIN)


def ffmpeg_error() -> type[FFmpegError]:
    from av.error import FFmpegError

    return FFmpegError
