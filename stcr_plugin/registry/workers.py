"""Where the steps of a build run: in this process, on all cores of this machine, or on a Ray cluster.

All of them call the same functions of `shards` with the same arguments, and hand receipts back in the shards' order.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from stcr_plugin.episodes import open_source
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import shards
from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.registry.shards import Choice, Place, Receipt, Shard
from stcr_plugin.types import EpisodeSource

# A process takes a second to start: so many episodes must be its share.
_WORTH_A_PROCESS = 32


@dataclass(frozen=True)
class Job:
    """One step for one shard; `choices` are of the step `tell` alone."""

    step: str
    shard: Shard
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class WorkerPool:
    """How a build is spread: over `workers` processes (None: one a core), or over the Ray cluster at `ray`.

    ray "local" starts a cluster on this machine; any other text is an address that ray.init takes, such as "auto".
    """

    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers {self.workers}: must be at least 1")

    @property
    def processes(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


class Runner(Protocol):
    """Runs jobs, all of one step, and gives their receipts in the order of the jobs."""

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Receipt]: ...


class Worker:
    """One process's view of a build: its source is opened once."""

    def __init__(self, config: DataConfig, place: Place, source: EpisodeSource | None = None) -> None:
        self.config = config
        self.place = place
        self.source = source or open_source(config.source, config.seed)

    def __call__(self, job: Job) -> Receipt:
        if job.step == "tell":
            return shards.tell(self.config, self.source, self.place, job.shard, job.choices)
        step = {"draw": shards.draw, "picture": shards.picture}[job.step]
        return step(self.config, self.source, self.place, job.shard)


@contextmanager
def runner(
    hands: WorkerPool, config: DataConfig, place: Place, source: EpisodeSource, n_episodes: int
) -> Iterator[Runner]:
    """The runner for a build of `n_episodes` episodes; its processes end with the block."""
    processes = min(hands.processes, n_episodes // _WORTH_A_PROCESS)
    if hands.ray is not None:
        with _on_ray(hands.ray, config, place) as run:
            yield run
    elif processes > 1:
        with _on_cores(processes, config, place) as run:
            yield run
    else:
        worker = Worker(config, place, source)
        yield lambda jobs: map(worker, jobs)


@contextmanager
def _on_cores(processes: int, config: DataConfig, place: Place) -> Iterator[Runner]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Not fork: decoders and Arrow hold threads, whose locks a forked child would inherit as they stand.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(config, place)
    )

    def run(jobs: Sequence[Job]) -> Iterator[Receipt]:
        try:
            yield from pool.map(_do, jobs)
        except BrokenProcessPool:
            raise DataError(
                "a worker of the build died, most likely for want of memory; run the same command again, with fewer "
                "--workers or a smaller shard_episodes: what is done stays done"
            ) from None

    try:
        yield run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Worker | None = None


def _begin(config: DataConfig, place: Place) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(config, place)


def _end_with_parent() -> None:
    """A build that is killed must not go on in its workers, beside the one that is started in its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: Job) -> Receipt:
    if _worker is None:
        raise RuntimeError("a worker was given a job before it began")
    return _worker(job)


@contextmanager
def _on_ray(address: str, config: DataConfig, place: Place) -> Iterator[Runner]:
    """Ray Data over the shards; every machine must see the registry and the source under the same paths."""
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray needs Ray; pip install 'stcr-plugin[ray]'") from None
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
                yield _opened_row(waiting.pop(position))
                position += 1

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


class _RayWorker:
    """Ray's form of a Worker: rows in, rows out. A user's error travels as text, since Ray would wrap it."""

    def __init__(self, config: DataConfig, place: Place, jobs: Sequence[Job]) -> None:
        self.worker = Worker(config, place)
        self.jobs = jobs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            done = {"receipt": json.dumps(self.worker(self.jobs[int(row["job"])])), "error": "", "kind": ""}
        except (DataError, ConfigError) as error:
            done = {"receipt": "", "error": str(error), "kind": type(error).__name__}
        return {"job": row["job"], **done}


def _opened_row(row: dict[str, Any]) -> Receipt:
    if row["kind"]:
        raise {"DataError": DataError, "ConfigError": ConfigError}[row["kind"]](row["error"])
    receipt: Receipt = json.loads(row["receipt"])
    return receipt
