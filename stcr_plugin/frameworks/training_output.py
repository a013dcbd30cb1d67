"""What a training prints: progress bars on a terminal, a short line now and then anywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from stcr_plugin.frameworks.recipe import Recipe

SECONDS = 15  # between two lines


def log_line(text: str) -> None:
    """Print to stderr, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def without_bars(recipe: Recipe) -> Recipe:
    """The recipe with `disable_tqdm: true` where stderr is not a terminal and the recipe does not say otherwise."""
    if sys.stderr.isatty() or "disable_tqdm" in recipe.keys:
        return recipe
    return recipe.changed({"disable_tqdm": True})


@contextmanager
def short_output() -> Iterator[None]:
    """Where stderr is not a terminal, keep other libraries from printing bars, and from logging more than warnings.

    LLAMAFACTORY_VERBOSITY, LLaMA-Factory's own setting, brings its log lines and those of transformers back.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    if sys.stderr.isatty():
        yield
        return
    bars = not datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("llamafactory")
    level, verbosity = logger.level, os.environ.get("LLAMAFACTORY_VERBOSITY")
    if verbosity is None:
        os.environ["LLAMAFACTORY_VERBOSITY"] = "WARNING"  # else it sets transformers to INFO
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*pin_memory.*no accelerator")  # once per epoch on a CPU
            yield
    finally:
        if verbosity is None:
            del os.environ["LLAMAFACTORY_VERBOSITY"]
            logger.setLevel(level)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()


class ProgressLines(TrainerCallback):  # type: ignore[misc]
    """Prints step, loss and seconds per step at logging steps, at most once in SECONDS, where no bar shows them."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.trainer: Any = None
        self._last: tuple[float, int] = (0.0, 0)  # time and step of the last line
        self._printed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.disable_tqdm:
            self.trainer.remove_callback(PrinterCallback)  # prints a dict for each logging step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._last[0]:
            self._last = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not (args.disable_tqdm and state.is_world_process_zero and logs and "loss" in logs):
            return
        now, (then, step) = time.perf_counter(), self._last
        if self._printed and now - then < SECONDS and state.global_step < state.max_steps:
            return
        pace = (now - then) / max(1, state.global_step - step)
        log_line(
            f"{self.stage}  step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.3f}  "
            f"{pace:.2f} s/step"
        )
        self._last, self._printed = (now, state.global_step), True
