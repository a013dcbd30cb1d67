"""Signals by which a cluster's scheduler ends a job: the step is finished, a checkpoint saved, the process left.

SIGTERM, and SIGUSR1, which SLURM sends earlier on request (`#SBATCH --signal=USR1@600`). The exit code is INTERRUPTED,
75; the same command continues from the checkpoint.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from stcr_plugin.children import INTERRUPTED
from stcr_plugin.frameworks.ranks import totals

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interruption(TrainerCallback):  # type: ignore[misc]
    """Ends a training after the step in which a signal came to any of its ranks; before the first step, at once.

    A signal in the last step is ignored: the stage finishes. A measurement is finished first, as all ranks must take
    the same part in it.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._training = self._agreed = False
        self._saved: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals reach this callback inside, where this is the main thread; Python delivers them nowhere else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        os.register_at_fork(after_in_child=self._leave_be)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def words(self) -> str:
        """The signal, and where the same command continues."""
        where = f"checkpoint-{self._saved}" if self._saved else "the last checkpoint, where there is one"
        return f"{self.signal} came; the same command continues from {where}"

    def _leave_be(self) -> None:
        """In a forked process: a pool ends its workers by SIGTERM, which a handler may miss in a lock."""
        for number in SIGNALS:
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL)

    def _note(self, number: int, _: Any) -> None:
        first, self.signal = self.signal is None, self.signal or signal.Signals(number).name
        if first and not self._training:
            raise SystemExit(INTERRUPTED)

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        self._training = True
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        if getattr(loader, "num_workers", 0):
            loader.worker_init_fn = functools.partial(outlive_signals, loader.worker_init_fn)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (signals,) = totals(int(self.signal is not None), device=args.device)
        if signals and state.global_step < state.max_steps:
            self.signal = self.signal or "on another rank a signal"
            self._agreed = True
            args.save_only_model = False  # no training continues from weights alone
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The loop stops here, once all callbacks have had their part in the save.
        if self._agreed:
            raise SystemExit(INTERRUPTED)


def outlive_signals(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a dataloader worker that only ends at a signal of its parent.

    A scheduler signals every process of a job, and PyTorch's workers die of SIGTERM, which is an error in the training
    process before it has saved.
    """
    if init is not None:
        init(worker)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)
