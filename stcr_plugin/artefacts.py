"""Files that are written whole or not at all, their checksums, and the provenance that each carries."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from stcr_plugin import __version__
from stcr_plugin.errors import DataError

_STACK = ("llamafactory", "torch", "transformers", "peft", "trl", "deepspeed", "datasets", "av", "pyarrow", "numpy")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, then rename. A full disk leaves no part of it.

    Raises DataError (which file, how much was needed) when the disk is full or the folder is not writable.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # where the folder is none, nothing was written either
            part.unlink()
        raise DataError(
            f"{path}: could not write {len(data)} bytes: {error.strerror}; free space, then run again"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Indented UTF-8 JSON with keys in the order given, so that the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: str | Path) -> Any:
    """Raises DataError for a missing file or one that is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None


def read_jsonl(path: str | Path) -> Iterator[Any]:
    """Raises DataError naming the row (from 1) that is not JSON."""
    try:
        # Not splitlines: a text inside a row may hold U+2028 or U+0085, at which it would cut.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, row {number}: not readable as JSON ({error})") from None


def inside(root: str | Path, relative: str) -> Path:
    """The path of `relative` under `root`. Raises DataError for one that leaves it, by `..`, absolute or symlink."""
    base = Path(root).resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise DataError(f"{relative}: leaves its folder {root}; paths in data files must stay inside it")
    return path


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-like value, the same for the same value whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code_digest(*rooms: str) -> str:
    """SHA-256 over the package's own sources in these folders or files, for what must be made anew when they change."""
    root = Path(__file__).parent
    sources = sorted(
        path for room in rooms for path in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    return digest([[str(path.relative_to(root)), sha256(path)] for path in sources])


def provenance() -> dict[str, Any]:
    """Which code and which libraries made an artefact. No time stamp: the same run gives the same bytes."""
    return {
        "stcr_plugin": __version__,
        "code_revision": _code_revision(),
        "python": platform.python_version(),
        "versions": {name: version for name in _STACK if (version := _version(name))},
    }


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold an advisory lock on the file `path`; a second process waits until the first is done (POSIX flock)."""
    import fcntl

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _code_revision() -> str:
    """The git commit of a source checkout, with "+changes" where the tree differs; the version otherwise."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return f"release {__version__}"
    try:
        run = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
