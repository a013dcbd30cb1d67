"""Counts how fuzzed calls end, and keeps one example of each way that is not allowed."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stcr_plugin.errors import StcrError

LIMIT = 20.0  # seconds for one call, of this process; five times as many of the clock, for a busy machine
_WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
_watch: dict[str, Any] = {"inside": None, "outside": []}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes each path outside the folder under test that is opened for writing, made, moved or deleted."""
    if _watch["inside"] is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if not (any(letter in str(mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
    elif event in _WRITING:
        path = arguments[0]
    else:
        return
    if isinstance(path, str | bytes | os.PathLike):
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith((*_watch["inside"], "/dev/", "/proc/")):
            _watch["outside"].append(full)


sys.addaudithook(_audit)


class Tally:
    """How the calls of one test ended."""

    def __init__(self, inside: Path) -> None:
        """`inside`: the only folder that may be written into, with its caches beside it."""
        self.inside = (str(inside),)
        self.ends: Counter[str] = Counter()
        self.wrong: dict[str, str] = {}

    def call(self, work: Callable[[], Any], example: Any) -> None:
        """Run `work`, and count its end."""
        _watch.update(inside=self.inside, outside=[])
        start, used = time.monotonic(), time.process_time()
        try:
            work()
            end = "done"
        except StcrError as error:
            end = "refused"
            if "\n" in str(error).strip():
                self._note(f"more than one line: {type(error).__name__} {_place(error)}", example)
        except SystemExit as error:
            end = "refused" if error.code else "done"
        except BaseException as error:
            end = "wrong"
            if isinstance(error, KeyboardInterrupt):
                raise
            self._note(f"{type(error).__name__} {_place(error)}", f"{str(error)[:100]} <- {example!r}")
        finally:
            _watch["inside"] = None
        self.ends[end] += 1
        if time.process_time() - used > LIMIT or time.monotonic() - start > 5 * LIMIT:
            self._note(f"took over {LIMIT} s", example)
        for path in _watch["outside"]:
            self._note(f"wrote outside: {path}", example)

    def _note(self, kind: str, example: Any) -> None:
        self.wrong.setdefault(kind, str(example)[:300].encode("utf-8", "backslashreplace").decode())

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {end}" for end, count in sorted(self.ends.items()))
        return f"{self.ends.total():,} examples: {counts}" + "".join(
            f"\n  {kind}\n    {example}" for kind, example in self.wrong.items()
        )


def _place(error: BaseException) -> str:
    """The last line of ours that the error passed."""
    ours = [one for one in traceback.extract_tb(error.__traceback__) if "stcr_plugin/" in one.filename]
    return f"at {ours[-1].filename.partition('stcr_plugin/')[2]}:{ours[-1].lineno}" if ours else "outside the package"
