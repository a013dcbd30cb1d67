"""Where the steps of a build run: in this process, on all cores of this machine, or on a Ray cluster.

All of them call the functions of `shards` with the same arguments, and give receipts in the order of the jobs.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import shards
from stcr_plugin.registry.annotated_texts import staged_texts
from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.registry.receipts import RECEIPTS, Choice, Context, Drawn, Pictured, Place, Receipt, Shard
from stcr_plugin.registry.refined_pairs import staged_decisions

# A process takes a second to start, so it needs this many episodes.
_WORTH_A_PROCESS = 32


@dataclass(frozen=True)
class Job:
    """One step for one shard; `choices` are of the step `sample` alone, `drop` of the step `picture`."""

    step: str
    shard: Shard
    choices: tuple[Choice, ...] = ()
    drop: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerPool:
    """Where a build runs.

    Attributes:
        workers: Number of processes; None: one per core.
        ray: Address of a Ray cluster, as ray.init takes it, such as "auto"; "local" starts one on this machine.
    """

    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers {self.workers}", "must be at least 1")

    @property
    def processes(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


class Runner(Protocol):
    """Runs jobs, all of one step, and gives their receipts in the order of the jobs."""

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Receipt]: ...


def do(context: Context, job: Job) -> Receipt:
    """Run one job in this process."""
    if job.step == Drawn.step:
        return shards.draw(context, job.shard)
    if job.step == Pictured.step:
        return shards.picture(context, job.shard, job.drop)
    return shards.sample(context, job.shard, job.choices)


@contextmanager
def runner(pool: WorkerPool, context: Context, n_episodes: int) -> Iterator[Runner]:
    """The runner for a build of `n_episodes` episodes; its processes end with the block."""
    processes = min(pool.processes, n_episodes // _WORTH_A_PROCESS)
    if pool.ray is not None:
        with _on_ray(pool.ray, context.config, context.place) as run:
            yield run
    elif processes > 1:
        with _on_cores(processes, context.config, context.place) as run:
            yield run
    else:
        yield lambda jobs: (do(context, job) for job in jobs)


@contextmanager
def _on_cores(processes: int, config: DataConfig, place: Place) -> Iterator[Runner]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Not fork: decoders and Arrow hold threads, whose locks a forked child would inherit as they stand.
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(config, place)
    )

    def run(jobs: Sequence[Job]) -> Iterator[Receipt]:
        try:
            yield from executor.map(_do, jobs)
        except BrokenProcessPool:
            raise DataError(
                "build",
                "a worker process died, most likely for want of memory",
                "run the same command again with fewer --workers or a smaller shard_episodes: what is done stays done",
            ) from None

    try:
        yield run
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_context: Context | None = None  # of a worker process, whose source is opened once


def _begin(config: DataConfig, place: Place) -> None:
    global _context
    threading.Thread(target=end_with_parent, daemon=True).start()
    _context = _opened(config, place)


def _opened(config: DataConfig, place: Place) -> Context:
    source, staging = open_source(config.source, config.seed, place.simulated), place.staging
    return Context(
        config, source, place, texts=staged_texts(config, staging), decisions=staged_decisions(config, staging)
    )


def end_with_parent() -> None:
    """A killed run must not go on in its workers, beside the run that is started after it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: Job) -> Receipt:
    if _context is None:
        raise RuntimeError("a worker was given a job before it began")
    return do(_context, job)


@contextmanager
def _on_ray(address: str, config: DataConfig, place: Place) -> Iterator[Runner]:
    """Ray Data over the shards; every machine must see the registry and the source under the same paths."""
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray", "Ray is not installed", "pip install 'stcr-plugin[ray]'") from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(jobs: Sequence[Job]) -> Iterator[Receipt]:
        numbered = ray.data.from_items([{"job": number} for number in range(len(jobs))], override_num_blocks=len(jobs))
        done = numbered.map(_RayWorker, fn_constructor_args=(config, place, tuple(jobs)), concurrency=(1, len(jobs)))
        waiting: dict[int, dict[str, Any]] = {}
        position = 0
        for row in done.iter_rows():  # in any order, as they finish
            waiting[int(row["job"])] = row
            while position in waiting:
                yield _receipt(jobs[position].step, waiting.pop(position))
                position += 1

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


class _RayWorker:
    """Ray's form of a worker: rows in, rows out. A user's error travels by its fields, since Ray would wrap it."""

    def __init__(self, config: DataConfig, place: Place, jobs: Sequence[Job]) -> None:
        self.context = _opened(config, place)
        self.jobs = jobs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            receipt = do(self.context, self.jobs[int(row["job"])])
            return {"job": row["job"], "kind": "", "values": json.dumps(dataclasses.asdict(receipt))}
        except (DataError, ConfigError) as error:
            kind = "ConfigError" if isinstance(error, ConfigError) else "DataError"
            return {"job": row["job"], "kind": kind, "values": json.dumps([error.where, error.problem, error.fix])}


def _receipt(step: str, row: dict[str, Any]) -> Receipt:
    values = json.loads(row["values"])
    if row["kind"]:
        raise {"DataError": DataError, "ConfigError": ConfigError}[row["kind"]](*values)
    return from_mapping(RECEIPTS[step], values, step)
