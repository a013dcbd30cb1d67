"""Which code, libraries and processor made an artefact: another kind of processor may train other weights."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from stcr_plugin import __version__

_STACK = ("llamafactory", "torch", "transformers", "peft", "trl", "deepspeed", "datasets", "av", "pyarrow", "numpy")
# By these git would read another repository, such as one whose hook runs us.
_OTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
_WIDEST = ("amx_tile", "avx512f", "avx2", "sve", "asimd")  # instructions by which PyTorch chooses its kernels


def provenance() -> dict[str, Any]:
    """What makes the artefacts of this process. No time stamp: the same run gives the same bytes."""
    return {
        "stcr_plugin": __version__,
        "code_revision": _code_revision(Path(__file__).parent),
        "python": platform.python_version(),
        "processor": processor(),
        "versions": {name: version for name in _STACK if (version := _version(name))},
    }


@cache
def processor() -> str:
    """Its name and the widest of its vector instructions, which decide in which order numbers are added."""
    found = ""
    with suppress(OSError):
        found = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)$", found, re.MULTILINE)
    words = {*found.split()}
    widest = next((one for one in _WIDEST if one in words), "")
    return ", ".join(filter(None, (name[1].strip() if name else platform.processor() or platform.machine(), widest)))


@cache
def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


@cache  # the code that this process has loaded stays what it was
def _code_revision(here: Path) -> str:
    """The git commit of a source checkout, with "+changes" where the tree differs; the version otherwise."""
    if not (here.parent / ".git").exists():
        return f"release {__version__}"
    try:
        run = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        own = {key: value for key, value in os.environ.items() if key not in _OTHER_REPOSITORY}
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10, env=own).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
