"""The callback that measures the forward/backward gap before, during and after a stage.

It changes nothing of the training: random states, train/eval mode, padding side and pending logs are put back.
"""

from __future__ import annotations

import math
import random
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import TrainerCallback

from stcr_plugin.engines.local import say
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.frameworks.ranks import of_every_rank, rank_and_world
from stcr_plugin.report import console_table
from stcr_plugin.scoring.metrics import Figures, figures
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Answer, Pair, Query

Result = TypeVar("Result")

# What is logged: `metric_for_best_model: eval_stcr_pair_accuracy` works with these.
LOGGED = ("forward_accuracy", "backward_accuracy", "gap_points", "pair_accuracy", "order_consistency",
          "position_bias", "unparsed_rate", "n_pairs")  # fmt: skip


class GapCallback(TrainerCallback):  # type: ignore[misc]
    """Asks the live model about `pairs` and reports the figures to every log that the trainer has.

    `ties` offers "neither" as an answer, as it must where the training data does.
    `trainer` must be set before training starts. `record` receives each measurement on rank 0 as a mapping of
    when, step, seconds and the fields of Figures. Under distributed training each rank asks a share of the
    queries, padded so that all ranks make the same number of calls.

    A measurement that fails, on whichever rank, is said on stderr and given to `missing` on rank 0 as a mapping of
    when, step and why; training goes on as if nothing had been. Under ZeRO-3 alone, where ranks compute together and
    the others would wait for ever, it ends the run.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        registry: Path,
        ask: AskSettings,
        record: Callable[[dict[str, Any]], None],
        *,
        before: bool = True,
        after: bool = True,
        every_steps: int = 0,
        ties: bool = False,
        missing: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.queries = [Query(pair, order) for pair in pairs for order in ORDERS]
        self.registry = registry
        self.ask = ask
        self.record = record
        self.before = before
        self.after = after
        self.every_steps = every_steps
        self.ties = ties
        self.missing = missing
        self.trainer: Any = None
        self.measured: list[tuple[str, Figures]] = []
        self.final: Figures | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.before and state.global_step == 0:
            self._measure("before", state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.every_steps and state.global_step % self.every_steps == 0 and state.global_step < state.max_steps:
            self._measure(f"step {state.global_step}", state, control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        # LLaMA-Factory evaluates once more when training has ended; that model was measured.
        found = self.final or self._measure(f"step {state.global_step}", state, control)
        if metrics is not None:  # the trainer chooses its best model from this very mapping; no number is never best
            metrics.update({f"eval_stcr_{name}": getattr(found, name, math.nan) for name in LOGGED})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.after:
            self.final = self._measure("after", state, control)

    def _measure(self, when: str, state: Any, control: Any) -> Figures | None:
        started = time.perf_counter()
        answers, failure = self._tried(self._asked)
        # The one place where ranks wait for each other: each comes here, whatever has become of its share.
        shares = of_every_rank((answers or [], failure))
        failures = {rank: failed for rank, (_, failed) in enumerate(shares) if failed}
        found = None
        if not failures:
            gathered = [answer for share, _ in shares for answer in share]
            found, failure = self._tried(lambda: self._reported(when, gathered, started, state, control))
            failures = {rank_and_world()[0]: failure} if failure else {}
        if failures and state.is_world_process_zero:
            why = "; ".join(f"rank {rank}: {failed}" for rank, failed in failures.items())
            print(_framed(when, why), file=sys.stderr, flush=True)
            self.missing({"when": when, "step": state.global_step, "why": why})
        return found

    def _tried(self, work: Callable[[], Result]) -> tuple[Result | None, str | None]:
        """What `work` gives, or in words why it failed."""
        try:
            return work(), None
        except Exception as error:
            if rank_and_world()[1] > 1 and _is_zero3():
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what ran out of memory is not to cost the next step its own
            return None, f"{type(error).__name__}: {error}"

    def _asked(self) -> list[Answer]:
        model, processor = self.trainer.model, processor_of(self.trainer)
        with undisturbed(model, processor):
            return self._answers(model, processor)

    def _reported(self, when: str, answers: list[Answer], started: float, state: Any, control: Any) -> Figures:
        found = figures(answers)
        seconds = time.perf_counter() - started
        should_log = control.should_log
        try:
            self.trainer.log({f"stcr_{name}": getattr(found, name) for name in LOGGED})
        finally:
            control.should_log = should_log  # trainer.log clears it, and the step's loss line would be lost
        self.measured.append((when, found))
        if state.is_world_process_zero:
            self.record({"when": when, "step": state.global_step, "seconds": seconds, **asdict(found)})
            print("\n" + console_table(self.measured), file=sys.stderr, flush=True)
        return found

    def _answers(self, model: Any, processor: Any) -> list[Answer]:
        rank, world = rank_and_world()
        share = self.queries[rank::world]
        padded = share + self.queries[: -(-len(self.queries) // world) - len(share)]
        prompts = prompts_for(padded, self.ask, ties=self.ties)
        said = dict(
            say(
                model,
                processor,
                prompts,
                registry=self.registry,
                settings=self.ask,
                synced_gpus=world > 1 and _is_zero3(),
                progress=rank == 0,
            )
        )
        return [answered(query, prompts[number], said[number]) for number, query in enumerate(share)]


def _framed(when: str, why: str) -> str:
    lines = [
        f"stcr: FIGURES ARE MISSING: the measurement {when!r} failed; the training goes on without it.",
        *textwrap.wrap(why, 110),
        "Mend it for the next run (stcr.evaluate), or measure later: stcr eval --model FOLDER --dataset NAME",
    ]
    frame = "!" * 118
    return "\n".join(["", frame, *(f"!! {line}" for line in lines), frame])


@contextmanager
def undisturbed(model: Any, processor: Any) -> Iterator[None]:
    """Put back, whatever happens inside: random states, training mode of every module, padding side."""
    tokenizer = getattr(processor, "tokenizer", processor)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    training = {name: module.training for name, module in model.named_modules()}
    padding_side = tokenizer.padding_side
    model.eval()
    try:
        yield
    finally:
        tokenizer.padding_side = padding_side
        for name, module in model.named_modules():
            module.training = training[name]
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def processor_of(trainer: Any) -> Any:
    """The processor stands on LLaMA-Factory's collator; the trainer itself knows the tokenizer alone."""
    return getattr(trainer.data_collator, "processor", None) or trainer.processing_class


def _is_zero3() -> bool:
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())
