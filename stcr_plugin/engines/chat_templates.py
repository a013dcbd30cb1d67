"""The chat template of a model's folder: a program of somebody else, which may be broken or never end.

It runs in Jinja's sandbox, which transformers sets up, so it reaches neither files nor code. It is tried once with
bounded time and memory when its model is loaded, and its text is turned into a model's inputs.
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
    """Render a short conversation about two pictures, and make a model's inputs of it.

    Raises:
        DataError: For a template that fails, does not end or has no place for the pictures (naming the folder), and for
            a tokenizer or picture processor that fails (naming the file of its settings).
    """
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "?"}]}
    try:
        with _bounded():
            text = rendered(processor, [turn], add_generation_prompt=True)
    except _TooLongError:
        raise DataError(folder, f"its chat template takes longer than {SECONDS} s", _FIX) from None
    except MemoryError:
        raise DataError(folder, "its chat template takes more than 1 GiB of memory", _FIX) from None
    except DataError as error:
        if isinstance(error.__cause__, MemoryError):
            raise DataError(folder, "its chat template takes more than 1 GiB of memory", _FIX) from None
        raise DataError(folder, f"its chat template {error.problem}", error.fix) from error.__cause__
    if len(text) > LONGEST:
        raise DataError(folder, f"its chat template makes {len(text)} characters of a question of one", _FIX)
    # Gemma's template writes the token by which a picture begins.
    marks = [one for name in ("image_token", "boi_token") if isinstance(one := getattr(processor, name, None), str)]
    if marks and all(text.count(mark) != 2 for mark in marks):
        what = f"its chat template writes {text.count(marks[0])} marks ({marks[0]}) for two pictures"
        raise DataError(folder, what, _FIX)
    _try_inputs(processor, Path(folder), text)


def _try_inputs(processor: Any, folder: Path, text: str) -> None:
    """Make the inputs of two texts and of a picture. Raises DataError, naming the file that is wrong."""
    from PIL import Image

    tokenizer = folder / "tokenizer_config.json"
    pictures = next(
        (path for path in (folder / "processor_config.json", *folder.glob("pre*")) if path.is_file()), folder
    )
    if not all(hasattr(processor, part) for part in ("tokenizer", "image_processor")):
        what = f"makes no processor of texts and pictures, but a {type(processor).__name__}"
        raise DataError(pictures, what, "copy it from the original model")
    ends = getattr(processor.tokenizer, "eos_token_id", None)
    if not isinstance(ends, int):
        what = f"its eos_token {processor.tokenizer.eos_token!r:.60} is not a token"
        raise DataError(tokenizer, what, "copy it from the original model")
    with _reading(tokenizer):
        processor.tokenizer([text, 2 * text], add_special_tokens=False, padding=True, return_tensors="pt")
    with _reading(pictures):
        processor.image_processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever a library makes of wrong values in `file` into a DataError."""
    try:
        yield
    except Exception as error:  # a value of another type can raise anything
        what = f"cannot be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(file, what, "copy it from the original model") from error


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
