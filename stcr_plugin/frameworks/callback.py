"""The callback that measures the forward/backward gap before, during and after a stage.

It changes nothing of the training: random states, train/eval mode, padding side and pending logs are restored.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import TrainerCallback

from stcr_plugin.engines.local import respond
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.figures import Figures
from stcr_plugin.frameworks.ranks import of_every_rank, rank_and_world
from stcr_plugin.frameworks.training_output import log_line
from stcr_plugin.records import Measurement, MissingMeasurement
from stcr_plugin.result_files import encode
from stcr_plugin.scoring.metrics import figures
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Answer, Pair, Query

Result = TypeVar("Result")

# What is logged: `metric_for_best_model: eval_stcr_pair_accuracy` works with these.
LOGGED = ("forward_accuracy", "backward_accuracy", "gap_points", "pair_accuracy", "order_consistency",
          "position_bias", "unparsed_rate", "n_pairs")  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """When the gap is measured: before and after training, and every few steps (0: never)."""

    before: bool = True
    after: bool = True
    every_steps: int = 0


class GapCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates the live model on `pairs` and reports the figures to every log that the trainer has.

    Under distributed training each rank takes a share of the queries, padded so that all ranks make the same number of
    calls. A measurement that fails, on any rank, is logged and recorded as missing; training continues. Under ZeRO-3
    alone, where ranks compute together and the others would wait forever, it ends the run.

    Args:
        pairs: What the model is evaluated on, each in both orders.
        registry: The folder of the pictures.
        ask: How the model is queried.
        record: Receives each measurement, or what is known of one that failed, on rank 0.
        schedule: When to measure.
        ties: Offer "neither" as an answer, as is needed where the training data does.
        name: The stage's name in log lines.

    Attributes:
        trainer: Must be set before training starts.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        registry: str | Path,
        ask: AskSettings,
        *,
        record: Callable[[Measurement | MissingMeasurement], object] = lambda measured: None,
        schedule: Schedule = Schedule(),
        ties: bool = False,
        name: str = "stcr",
    ) -> None:
        self.queries = [Query(pair, order) for pair in pairs for order in ORDERS]
        self.registry = Path(registry)
        self.ask = ask
        self.record = record
        self.schedule = schedule
        self.ties = ties
        self.name = name
        self.trainer: Any = None
        self.final: Figures | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.schedule.before and state.global_step == 0:
            self._measure("before", state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.schedule.every_steps
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self._measure(f"step {state.global_step}", state, control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        # LLaMA-Factory evaluates once more when training has ended; that model was measured.
        found = self.final or self._measure(f"step {state.global_step}", state, control)
        if metrics is not None:  # the trainer chooses its best model from this very mapping; NaN is never best
            metrics.update({f"eval_stcr_{name}": getattr(found, name, math.nan) for name in LOGGED})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.schedule.after:
            self.final = self._measure("after", state, control)

    def _measure(self, when: str, state: Any, control: Any) -> Figures | None:
        started = time.perf_counter()
        answers, failure = self._tried(self._share)
        # The one place where ranks wait for each other: each comes here, whether its share failed or not.
        shares = of_every_rank((answers or [], failure))
        failures = {rank: failed for rank, (_, failed) in enumerate(shares) if failed}
        found = None
        if not failures:
            found, failure = self._tried(lambda: figures([answer for share, _ in shares for answer in share]))
            if found:
                seconds, measured = time.perf_counter() - started, found
                _, failure = self._tried(lambda: self._report(when, measured, seconds, state=state, control=control))
            failures = {rank_and_world()[0]: failure} if failure else {}
        if failures and state.is_world_process_zero:
            why = "; ".join(f"rank {rank}: {failed}" for rank, failed in failures.items())
            log_line(
                f"!! {self.name}: FIGURES ARE MISSING: the measurement {when!r} failed; training continues.\n"
                f"!! {why}\n"
                "!! Fix it for the next run (stcr.evaluate), or measure later: stcr eval --model FOLDER --dataset NAME"
            )
            self.record(MissingMeasurement(when, state.global_step, why))
        return None if failures else found

    def _tried(self, work: Callable[[], Result]) -> tuple[Result | None, str | None]:
        """The result of `work`, or why it failed."""
        try:
            return work(), None
        except Exception as error:
            if rank_and_world()[1] > 1 and _is_zero3():
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # so that the next training step has the memory that ran out
            return None, f"{type(error).__name__}: {error}"

    def _share(self) -> list[Answer]:
        model, processor = self.trainer.model, processor_of(self.trainer)
        with undisturbed(model, processor):
            return self._answers(model, processor)

    def _report(self, when: str, found: Figures, seconds: float, *, state: Any, control: Any) -> None:
        should_log = control.should_log
        try:
            self.trainer.log({f"stcr_{name}": getattr(found, name) for name in LOGGED})
        finally:
            control.should_log = should_log  # trainer.log clears it, and the step's loss line would be lost
        if state.is_world_process_zero:
            self.record(Measurement(when, state.global_step, seconds, figures=encode(found)))
            log_line(
                f"{self.name}  {when}  {self.queries[0].pair.split}  forward {found.forward_accuracy:.1f} %  "
                f"backward {found.backward_accuracy:.1f} %  gap {found.gap_points:+.1f} points  "
                f"pair accuracy {found.pair_accuracy:.1f} %  {found.n_pairs} pairs"
            )

    def _answers(self, model: Any, processor: Any) -> list[Answer]:
        rank, world = rank_and_world()
        share = self.queries[rank::world]
        padded = share + self.queries[: -(-len(self.queries) // world) - len(share)]
        prompts = prompts_for(padded, self.ask, ties=self.ties)
        responses = dict(
            respond(
                model,
                processor,
                prompts,
                registry=self.registry,
                settings=self.ask,
                synced_gpus=world > 1 and _is_zero3(),
                progress=rank == 0,
            )
        )
        return [answered(query, prompts[number], responses[number]) for number, query in enumerate(share)]


@contextmanager
def undisturbed(model: Any, processor: Any) -> Iterator[None]:
    """Restore, whatever happens inside: random states, training mode of every module, padding side."""
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
    """The processor is on LLaMA-Factory's collator; the trainer itself knows the tokenizer alone."""
    return getattr(trainer.data_collator, "processor", None) or trainer.processing_class


def _is_zero3() -> bool:
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())
