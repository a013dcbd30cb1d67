"""Members of a tar archive, read inside it: nothing is ever unpacked, so nothing can be written elsewhere.

An archive's list of members is made once, for which every header in it is read, and kept beside it as
`.<name>.index.json`. Where that folder may not be written, each process makes its own.
"""

from __future__ import annotations

import io
import os
import tarfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError

_FORMAT = 1  # of the kept list; one with another number is made again
_BLOCK = 512  # bytes; a tar consists of such blocks and ends with blocks of zeros


@dataclass(frozen=True)
class Slice:
    """Bytes [offset, offset + size) of the archive `path`, which are its member `name`."""

    path: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}!{self.name}"


@dataclass(frozen=True)
class Index:
    """What an archive holds.

    Attributes:
        refused: Name and reason of members that must not be used.
        problem: Why nothing can be read after the last member, "" where the archive ends as it should.
    """

    members: Mapping[str, Slice]
    refused: tuple[tuple[str, str], ...]
    problem: str


def index(path: Path, suffixes: tuple[str, ...]) -> Index:
    """The members of the tar `path` whose names end in one of `suffixes`, in the archive's order.

    A member is refused that is absolute or leaves its folder by `..`, that is a link, a device or stored sparsely,
    whose name is not UTF-8, and the second one of a name. Raises DataError for a file that is not an uncompressed tar.
    """
    size, changed = _state(path)
    return _index(path, suffixes, size=size, changed=changed)


def opened(part: Slice) -> io.RawIOBase:
    """`part` as a file to read and to seek in. The parts of one archive share one open file of the process.

    Raises DataError where the archive cannot be read, also later while reading.
    """
    return _SliceFile(_shared(part.path, *_state(part.path)), part)


@lru_cache(256)
def _index(path: Path, suffixes: tuple[str, ...], *, size: int, changed: int) -> Index:
    kept, key = path.with_name(f".{path.name}.index.json"), [_FORMAT, size, changed, list(suffixes)]
    # Whatever is wrong with the kept list, a new one replaces it.
    with suppress(DataError, ValueError, TypeError, KeyError, RecursionError):
        values = artefacts.read_json(kept)
        if values["key"] == key:
            parts = [
                Slice(path=path, name=str(name), offset=int(offset), size=int(length))
                for name, offset, length in values["members"]
            ]
            if all(part.offset >= 0 and 0 <= part.size <= size - part.offset for part in parts):
                refused = tuple((str(name), str(reason)) for name, reason in values["refused"])
                return Index({part.name: part for part in parts}, refused, str(values["problem"]))
    found = _scan(path, suffixes, size)
    members = [[part.name, part.offset, part.size] for part in found.members.values()]
    with suppress(DataError):  # a folder that may not be written
        values = {"key": key, "members": members, "refused": found.refused, "problem": found.problem}
        artefacts.write_json(kept, values)
    return found


def _scan(path: Path, suffixes: tuple[str, ...], size: int) -> Index:
    """The index from the archive itself; the contents of its members are jumped over."""
    from stcr_plugin.progress_bar import progress

    members: dict[str, Slice] = {}
    refused: list[tuple[str, str]] = []
    problem = ""
    file = opened(Slice(path=path, name=path.name, offset=0, size=size))
    artefacts.refuse_lfs_pointer(path, file.read(_BLOCK))
    file.seek(0)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it holds nothing that needs closing
    except tarfile.TarError as error:
        problem = f"cannot be read as an uncompressed tar ({error})"
        raise DataError(path, problem, "download it again, or unpack it") from None
    with file, progress(size, f"{path.name}: indexing", "bytes") as bar:
        try:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep each, and there may be a million
                if member.size < 0 or archive.offset <= bar.done:
                    raise tarfile.ReadError(f"a header at byte {member.offset} points backwards")
                bar.update(archive.offset - bar.done)
                if not member.name.endswith(suffixes):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{_printable(member.name)} ends after the end of the file")
                if reason := _refusal(member, members):
                    refused.append((_printable(member.name), reason))
                else:
                    members[member.name] = Slice(
                        path=path, name=member.name, offset=member.offset_data, size=member.size
                    )
            file.seek(archive.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                # tarfile stops without an error at a header that it cannot read.
                raise tarfile.ReadError(f"no end mark at byte {archive.offset}")
        except (DataError, ValueError, tarfile.TarError) as error:
            problem = f"damaged or truncated ({error}); what comes before that is used; download it again"
    return Index(members, tuple(refused), problem)


def _refusal(member: tarfile.TarInfo, known: Mapping[str, Slice]) -> str:
    """Why a member must not be used, or ""."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return "its path leaves the archive's folder"
    if member.issym() or member.islnk():
        return f"a link, to {_printable(member.linkname)}; links in archives are not followed"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    if _printable(member.name) != member.name:
        return "its name is not UTF-8"
    return "the archive holds this name twice; the first is used" if member.name in known else ""


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _state(path: Path) -> tuple[int, int]:
    """Size (bytes) and time of the last change (ns), which show that an archive was replaced."""
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror})", "download it") from None
    return facts.st_size, facts.st_mtime_ns


class _SharedFile:
    """A file that is open as long as anything refers to it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


@lru_cache(16)
def _shared(path: Path, _size: int, _changed: int) -> _SharedFile:
    try:
        return _SharedFile(path)
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror})") from None


class _SliceFile(io.RawIOBase):
    """A part of a shared file. It keeps its own position and reads by pread, so others do not disturb it."""

    def __init__(self, shared: _SharedFile, part: Slice) -> None:
        self._shared = shared
        self._part = part
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.size}[whence]
        if base + offset < 0:
            raise ValueError(f"{self._part}: cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(self._part.size - self._position, 0))
        try:
            data = os.pread(self._shared.descriptor, wanted, self._part.offset + self._position)
        except OSError as error:
            raise DataError(str(self._part), f"cannot be read ({error.strerror})") from None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
