"""Where the episodes of `stcr label` are labelled: in this process, in several on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin.errors import ConfigError, DataError, ServerError, StcrError
from stcr_plugin.registry.workers import WorkerPool, end_with_parent
from stcr_plugin.robotics.episode_labels import LabelContext, label_episode
from stcr_plugin.robotics.judged_progress import Scale
from stcr_plugin.robotics.label_settings import LabelRequest
from stcr_plugin.types import Episode

Jobs = Sequence[tuple[int, Episode]]
Run = Callable[[Jobs], Iterator[None]]


@dataclass(frozen=True)
class LabelPlace:
    """What a worker opens its data and its judge from; every machine must see the folders under the same paths.

    Attributes:
        root: As of LabelContext.
        scales: As of LabelContext.
        threads: Of the model in one process; None leaves them as they are.
    """

    request: LabelRequest
    root: Path
    scales: Mapping[str, Scale]
    threads: int | None = None

    def opened(self) -> LabelContext:
        request = self.request
        if self.threads is not None and not request.judge.oracle:
            import torch

            torch.set_num_threads(self.threads)
        judge = request.judge.opened(self.root.parent, request.seed)
        data = request.data.opened(request.simulated)
        return LabelContext(data, judge, request.settings, root=self.root, scales=self.scales)


@contextmanager
def label_runner(pool: WorkerPool, place: LabelPlace, context: LabelContext, *, episodes: int) -> Iterator[Run]:
    """Labels episodes, and gives None for each that is done, in any order; its processes end with the block.

    Args:
        pool: How many processes; each opens the model for itself.
        place: What they open.
        context: What this process has opened, for one process.
        episodes: How many there are to label.
    """
    processes = min(pool.processes, episodes)
    if pool.ray is not None:
        with _on_ray(pool, place) as run:
            yield run
    elif processes > 1:
        with _on_cores(processes, place) as run:
            yield run
    else:

        def one_by_one(jobs: Jobs) -> Iterator[None]:
            for job in jobs:
                label_episode(context, *job)
                yield

        yield one_by_one


@contextmanager
def _on_cores(processes: int, place: LabelPlace) -> Iterator[Run]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # Not fork: decoders and PyTorch hold threads, whose locks a forked child would inherit as they stand.
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(place,)
    )

    def run(jobs: Jobs) -> Iterator[None]:
        try:
            for done in as_completed([executor.submit(_label, *job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool:
            raise DataError(
                "label",
                "a worker process died, most likely for want of memory",
                "run the same command again with fewer --workers: what is done stays done",
            ) from None

    try:
        yield run
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_context: LabelContext | None = None  # of a worker process
_place: LabelPlace | None = None


def _begin(place: LabelPlace) -> None:
    global _place
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=end_with_parent, daemon=True).start()
    _place = place


def _label(number: int, episode: Episode) -> None:
    """Opens the data and the judge at the first episode, so that an error of theirs is the error of the run."""
    global _context
    if _place is None:
        raise RuntimeError("a worker was given an episode before it began")
    _context = _context or _place.opened()
    label_episode(_context, number, episode)


@contextmanager
def _on_ray(pool: WorkerPool, place: LabelPlace) -> Iterator[Run]:
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray", "Ray is not installed", "pip install 'stcr-plugin[ray]'") from None
    started = not ray.is_initialized()
    if started:
        address = None if pool.ray == "local" else pool.ray
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    count = pool.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(jobs: Jobs) -> Iterator[None]:
        actors = [ray.remote(_RayLabeller).remote(place) for _ in range(min(count, len(jobs)))]
        for row in ray.util.ActorPool(actors).map_unordered(lambda actor, job: actor.label.remote(*job), list(jobs)):
            if row:
                kind, *parts = row
                raise {"ConfigError": ConfigError, "ServerError": ServerError}.get(kind, DataError)(*parts)
            yield

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


class _RayLabeller:
    """An actor. A user's error travels by its fields, since Ray would wrap it."""

    def __init__(self, place: LabelPlace) -> None:
        _begin(place)

    def label(self, number: int, episode: Episode) -> tuple[str, ...]:
        try:
            _label(number, episode)
        except StcrError as error:
            return type(error).__name__, error.where, error.problem, error.fix
        return ()


def threads_of(pool: WorkerPool) -> int | None:
    """Threads of each process, so that together they have as many as this machine has cores."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // pool.processes) if pool.ray is None and pool.processes > 1 else None
