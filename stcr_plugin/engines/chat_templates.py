"""The chat template of a model's folder: a program of somebody else, which may be broken or never end.

It runs in Jinja's sandbox, which transformers sets up, so it reaches neither files nor code. It is tried once with
bounded time and memory when its model is loaded.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stcr_plugin.errors import DataError, StcrError

SECONDS = 5
BYTES = 1 << 30
LONGEST = 100_000  # characters of a conversation of two pictures and a word; a template adds some hundred
_FIX = "copy chat_template.jinja (or tokenizer_config.json) of the original model there"


def rendered(processor: Any, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The conversation in the model's chat template.

    Raises:
        DataError: There is no template, or it fails.
    """
    try:
        text: str = processor.apply_chat_template(list(turns), tokenize=False, **options)
    except (StcrError, _TooLongError):
        raise
    except Exception as error:  # whatever a template raises in Jinja or in what it calls
        what = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError("the model's chat template", what, _FIX) from error
    return text


def try_template(processor: Any, folder: str | Path) -> None:
    """Render a short conversation. Raises DataError, naming the folder, for a template that fails or does not end."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "?"}]}
    try:
        with _bounded():
            size = len(rendered(processor, [turn], add_generation_prompt=True))
    except _TooLongError:
        raise DataError(folder, f"its chat template takes longer than {SECONDS} s", _FIX) from None
    except MemoryError:
        raise DataError(folder, "its chat template takes more than 1 GiB of memory", _FIX) from None
    except DataError as error:
        if isinstance(error.__cause__, MemoryError):
            raise DataError(folder, "its chat template takes more than 1 GiB of memory", _FIX) from None
        raise DataError(folder, f"its chat template {error.problem}", error.fix) from error.__cause__
    if size > LONGEST:
        raise DataError(folder, f"its chat template makes {size} characters of a question of one", _FIX)


class _TooLongError(BaseException):
    """The time is over. Not an Exception, which a library could catch."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Bound time (in the main thread, where Python delivers signals) and further memory (on Linux)."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if main:
        before = signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with _bounded_memory():
            yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _stop(*_: object) -> None:
    raise _TooLongError


@contextmanager
def _bounded_memory() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + BYTES
    if limits[0] != resource.RLIM_INFINITY:
        most = min(most, limits[0])
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
