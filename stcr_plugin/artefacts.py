"""Files and folders that are written whole or not at all, locks, checksums, random generators, and provenance."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin.errors import DataError, NoPathError, StcrError

if TYPE_CHECKING:
    import numpy as np

ADAPTER_CONFIG = "adapter_config.json"
PROCESSOR_FILES = (
    "*processor_config.json",
    "chat_template*",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_MODEL_FILES = (
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_model*.bin",
    "config.json",
    ADAPTER_CONFIG,
    "generation_config.json",
    *PROCESSOR_FILES,
)
_LFS = b"version https://git-lfs.github.com/spec/"
LFS_START = len(_LFS)
"""How many bytes of a file `refuse_lfs_pointer` needs."""
_NOT_JSON = (ValueError, RecursionError)  # ValueError: not JSON, or a number that never ends
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_KINDS = {"file": stat.S_ISREG, "folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
# How libraries written in Rust and C++ (safetensors, torch.save) say that the disk is full: they give no errno.
_FULL = ("No space left on device", "Disk quota exceeded", "inline_container.cc")


def destination(path: str | Path, kind: Literal["file", "folder"] = "file") -> Path:
    """Where something is to be written: the path, or what a link at it leads to, so that the link stays.

    Raises:
        DataError: for a path where no `kind` can be: it is a device, a pipe or the other kind, too long, in a ring of
            links, or not UTF-8.
    """
    try:
        str(path).encode("utf-8")
        mode = os.lstat(path).st_mode
        target = Path(os.path.realpath(path) if stat.S_ISLNK(mode) else path)
        mode = target.stat().st_mode  # of a link that leads to itself: an OSError
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path) if os.path.islink(path) else path)
    except UnicodeEncodeError:
        raise DataError(_shown(path), "its name is not UTF-8", "name another path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(_shown(path), f"cannot be written to ({reason})", "name another path") from None
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        found = next((name for name, test in _KINDS.items() if test(mode)), "device")
        raise DataError(path, f"is a {found}, not a {kind}, and stays as it is", f"name a {kind}")
    return target


def _shown(path: str | Path) -> str:
    """A path on one line, its end where it is long."""
    text = str(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= 200 else f"...{text[-200:]}"


def _part(path: Path, more: str = "") -> Path:
    """The name beside `path` under which it is written."""
    name = path.name if len(os.fsencode(path.name)) < 200 else sha256_of(os.fsencode(path.name))
    return path.with_name(f".{name}{more}.part")


@contextmanager
def whole_file(path: str | Path, size: str = "") -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it at the end of the block. Nothing is left where that fails.

    Args:
        size: How much is written, for the error: "12 bytes".

    Raises:
        DataError: for any OSError of the block, such as a full disk, and as `destination` does.
    """
    path = destination(path)
    part = _part(path, f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        what = f"could not write {size}".strip()
        fix = "free space, then run again" if error.errno in _NO_SPACE else "name another path, or repair that one"
        raise DataError(_shown(path), f"{what}: {error.strerror or error}", fix) from error
    finally:
        with suppress(OSError):  # nothing was written where the folder cannot be made
            part.unlink()


@contextmanager
def whole_folder(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """A folder beside `path` to write into, renamed to it at the end of the block. Nothing is left where that fails.

    Args:
        replace: Delete a folder that is already at `path`; otherwise it has to be empty.

    Raises:
        DataError: as `destination` does, and where no folder can be made.
    """
    path = destination(path, "folder")
    part = _part(path)
    shutil.rmtree(part, ignore_errors=True)  # of a killed process
    try:
        try:
            part.mkdir(parents=True)
        except OSError as error:
            problem = f"cannot be made ({error.strerror or error})"
            raise DataError(_shown(path), problem, "name another folder") from error
        yield part
        if path.is_dir():
            (shutil.rmtree if replace else os.rmdir)(path)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Write a whole file and flush it to the disk.

    Args:
        durable: False skips the flush: the file is whole after a killed process, but not after a loss of power.

    Raises:
        DataError: where the disk is full or the folder is not writable.
    """
    with whole_file(path, f"{len(data)} bytes") as part, open(part, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def room_for(
    folder: str | Path, need: Callable[[], int] | None = None, *, or_in: str | Path | None = None
) -> Iterator[None]:
    """Name the folder and the bytes needed where another library fills the disk while it writes into `folder`.

    Args:
        need: Roughly how many bytes are written; called only for the error.
        or_in: Another folder that may be written into. Of two the one whose disk has less space is named, unless the
            error itself names a file.

    Raises:
        DataError: for a full disk or an exhausted quota. Every other error passes.
    """
    try:
        yield
    except StcrError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in _NO_SPACE
        if not full and not any(words in str(error) for words in _FULL):
            raise
        folders = [Path(one).absolute() for one in (folder, or_in) if one is not None]
        where = min(folders, key=_free)
        if isinstance(named := getattr(error, "filename", None), str) and not any(
            Path(named).absolute().is_relative_to(one) for one in folders
        ):
            where = Path(named).absolute()
        wanted = f"about {need() / 1e6:.1f} MB are to be written, " if need and where == folders[0] else ""
        raise DataError(
            folder if where == folders[0] else where,
            f"no space is left for it: {wanted}{_free(where) / 1e6:.1f} MB are free",
            "free space or name another folder, then run again",
        ) from error


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def write_text(path: str | Path, text: str) -> None:
    """UTF-8; half of a surrogate pair, as in a cut emoji, becomes `?`."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: str | Path, value: Any) -> None:
    """Indented UTF-8 JSON with keys in the order given, so that the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: str | Path) -> Any:
    """Raises DataError for a missing file or one that is not JSON."""
    try:
        return json.loads(_text(path, "not readable as JSON"))
    except _NOT_JSON as error:
        raise DataError(path, f"not readable as JSON ({error})") from None


def read_jsonl(path: str | Path) -> Iterator[Any]:
    """Raises DataError naming the row (from 1) that is not JSON."""
    for _, value in numbered_jsonl(path):
        if isinstance(value, DataError):
            raise value
        yield value


def numbered_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and value of each row that is not blank; the value of one that is not JSON is its DataError.

    Raises DataError for a file that cannot be read at all.
    """
    # Not splitlines: a text inside a row may hold U+2028 or U+0085, at which it would cut.
    data = _bytes(path, "not readable").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8"))
            except _NOT_JSON as error:
                yield number, DataError(f"{path}, row {number}", f"not readable as JSON ({error})")


def _text(path: str | Path, problem: str) -> str:
    try:
        return _bytes(path, problem).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(path, f"{problem} ({error})") from None


def _bytes(path: str | Path, problem: str) -> bytes:
    try:
        data = file_bytes(path)
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(_shown(path), f"{problem} ({error})") from None
    refuse_lfs_pointer(path, data)
    return data.removeprefix(codecs.BOM_UTF8)  # which editors on Windows write


def file_bytes(path: str | Path) -> bytes:
    """The contents of a file that a user names. Raises DataError for a device, which may never end, else OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise DataError(path, "is a device", "name a file")
    return Path(path).read_bytes()


def refuse_lfs_pointer(path: str | Path, start: bytes) -> None:
    """Raises DataError where a file that starts with `start` is only the text that Git LFS keeps in its place."""
    if start.startswith(_LFS):
        raise DataError(path, "a Git LFS pointer, not the file itself", "run `git lfs pull` in its folder")


def inside(root: str | Path, relative: str) -> Path:
    """The path of `relative` under `root`. Raises DataError for one that leaves it, or that no file can have."""
    try:
        base = os.path.realpath(root)
        path = os.path.realpath(os.path.join(base, relative))
        _refuse_ring(path)
    except (OSError, ValueError) as error:
        raise NoPathError(_shown(relative), f"not a path that can be followed ({error})") from None
    if path != base and not path.startswith(base.rstrip("/") + "/"):
        raise DataError(relative, f"leaves its folder {root}", "keep the paths in data files inside it")
    return Path(path)


def _refuse_ring(path: str) -> None:
    """Raises OSError where links lead to each other."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-like value, the same for the same value whatever the order of its keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    ).hexdigest()


def rng(*key: Any) -> np.random.Generator:
    """The random generator of a key: JSON-like values, such as the seed and the name of what is drawn.

    Each key has its own generator, so more draws from one do not change those of another.
    """
    import numpy

    return numpy.random.default_rng(int(digest(list(key))[:16], 16))


def model_files(folder: str | Path) -> list[Path]:
    """The files that decide a model's answers. Raises DataError where the folder holds none."""
    files = sorted({path for pattern in _MODEL_FILES for path in Path(folder).glob(pattern) if path.is_file()})
    if not files:
        raise DataError(
            folder,
            "no model there",
            "give a folder with config.json and *.safetensors (for a model of the Hub: `hf download NAME --local-dir "
            "FOLDER`)",
        )
    return files


def model_digest(folder: str | Path, moved_base: str | None = None) -> str:
    """SHA-256 over the names and contents of the files that decide a model's answers, an adapter's base included.

    A base that is not a folder here, such as a model of the Hub, counts by its name.

    Args:
        moved_base: Where the base is, if an adapter names a folder that is not there.

    Raises:
        DataError: where the folder holds no model, or an adapter is its own base.
    """
    files = model_files(folder)
    base = adapter_base_name(folder)
    below: list[str] = []
    if base is not None:
        refuse_ring(folder)
        there = base if Path(base).is_dir() else moved_base
        below = [model_digest(there, moved_base) if there and Path(there).is_dir() else base]
    return digest([*([path.name, sha256(path)] for path in files), *below])


def adapter_base_name(folder: str | Path) -> str | None:
    """What the adapter in `folder` was trained on, as its configuration names it; None without an adapter or a name.

    Raises:
        DataError: where the name is not a text, or the configuration is not a mapping.
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        return None
    config = read_json(path)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else config
    if base is not None and (not isinstance(base, str) or "\0" in base):
        raise DataError(path, f"its base is {base!r:.80}", "set base_model_name_or_path to the folder of its base")
    return base or None


def adapter_stack(folder: str | Path) -> Iterator[str]:
    """The folder, what its adapter was trained on, and so on down to the model at the bottom.

    Raises:
        DataError: for an adapter that is its own base, be it over others.
    """
    seen: set[Path] = set()
    at: str | None = str(folder)
    while at is not None:
        if (here := Path(at).resolve()) in seen:
            fix = "set base_model_name_or_path to the model that the adapter was trained on"
            raise DataError(Path(at) / ADAPTER_CONFIG, "the adapter is its own base", fix)
        seen.add(here)
        yield at
        at = adapter_base_name(at)


def refuse_ring(folder: str | Path) -> None:
    """Raises DataError as `adapter_stack` does."""
    list(adapter_stack(folder))


@cache
def code_digest(*rooms: str) -> str:
    """SHA-256 over the package's own sources in these folders or files; what they make depends on it."""
    root = Path(__file__).parent
    sources = sorted(
        path for room in rooms for path in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    return digest([[str(path.relative_to(root)), sha256(path)] for path in sources])


@contextmanager
def locked(path: str | Path, alone: str | Path | None = None) -> Iterator[None]:
    """Hold a lock on the file `path`, which the holder may delete: filelock takes none on a deleted file.

    A second process waits until the first is done; a killed one leaves the lock free.

    Args:
        alone: What is written meanwhile; a second process is refused it.

    Raises:
        DataError: where its folder cannot be made or written into.
        StcrError: another process has `alone`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=alone is None)
    except Timeout:
        fix = "wait until that one has ended, or name another folder"
        raise StcrError(alone or path, "another process is writing it now", fix) from None
    except OSError as error:
        problem = f"cannot be written into ({error.strerror or error})"
        raise DataError(Path(path).parent, problem, "name a folder that can, or one that does not exist yet") from error
    try:
        yield
    finally:
        lock.release()
