"""Progress of long work: a bar on a terminal, and a plain line now and then where standard error is a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar, overload

T = TypeVar("T")

_SHORT = 5.0  # seconds; shorter work writes no line
_EVERY = 15.0  # seconds between two lines


class Progress:
    """How far a piece of work is; use it in a `with` block and call `update`.

    Attributes:
        done: How many units are done.
    """

    def __init__(self, total: int | None, desc: str, unit: str, *, shown: bool = True) -> None:
        self.done = 0
        self._total, self._desc, self._unit, self._shown = total, desc, unit, shown
        self._start = self._printed = time.monotonic()
        self._last, self._note = -1, ""
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            scaled = {"unit": "B", "unit_scale": True} if unit == "bytes" else {"unit": f" {unit}"}
            self._bar = tqdm(total=total, desc=desc, **scaled)

    def update(self, count: int = 1, note: str = "") -> None:
        """Add `count` units; `note` is shown behind them, such as the loss so far."""
        self.done += count
        self._note = note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._printed >= _EVERY:
            self._print()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown and time.monotonic() - self._start >= _SHORT and self._last != self.done:
            self._print()

    def _print(self) -> None:
        self._printed, self._last = time.monotonic(), self.done
        scale, unit = (1_000_000, "MB") if self._unit == "bytes" else (1, self._unit)
        amounts = [str(amount // scale) for amount in (self.done, self._total) if amount is not None]
        parts = [f"{self._desc} {'/'.join(amounts)} {unit}", f"{self._printed - self._start:.0f} s", self._note]
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


@overload
def progress(work: int | None, desc: str, unit: str, *, shown: bool = True) -> Progress: ...
@overload
def progress(work: Iterable[T], desc: str, unit: str, *, total: int | None = None) -> Iterator[T]: ...
def progress(
    work: int | Iterable[T] | None, desc: str, unit: str, *, total: int | None = None, shown: bool = True
) -> Progress | Iterator[T]:
    """Show how far a loop or a piece of work is.

    On a terminal it is a tqdm bar. Elsewhere a line is written at most every 15 seconds, such as "base: reading
    pictures 400/1400 steps, 28 s", and one at the end; nothing where the work takes less than 5 seconds.

    Args:
        work: What to loop over, or how many units there are (None where that is not known).
        desc: What is being done.
        unit: What is counted, in the plural; "bytes" are shown in MB.
        total: How many items `work` yields, where it has no length.
        shown: False shows nothing.

    Returns:
        The items of `work`, or for a number a `Progress` to update in a `with` block.
    """
    if work is None or isinstance(work, int):
        return Progress(work, desc, unit, shown=shown)
    return _counted(work, Progress(len(work) if total is None and isinstance(work, Sized) else total, desc, unit))


def _counted(work: Iterable[T], bar: Progress) -> Iterator[T]:
    with bar:
        for item in work:
            yield item
            bar.update()
