"""A dataset -> the progress of every frame, in LeRobot's form, with success, controls and what they rest on."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.progress_bar import progress
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.robotics.episode_labels import EpisodeLabels, LabelContext, piece, strip_of
from stcr_plugin.robotics.judged_progress import Scale
from stcr_plugin.robotics.label_files import (
    ANCHORS,
    FILES,
    LABEL,
    PROGRESS,
    SUCCESS,
    EpisodeProgress,
    LabelRecord,
    write_anchors,
    write_progress,
    write_success,
)
from stcr_plugin.robotics.label_settings import WORK, LabelRequest
from stcr_plugin.robotics.label_workers import LabelPlace, label_runner, threads_of
from stcr_plugin.robotics.labelled_data import UnusableError, parts
from stcr_plugin.robotics.progress_controls import FRAMES, progress_controls
from stcr_plugin.robotics.reference_frames import scale_of, scales
from stcr_plugin.scoring.progress_curve import interpolated
from stcr_plugin.scoring.progress_figures import ProgressControl, Trace, progress_figures
from stcr_plugin.types import Episode, Exclusion

_CODE = ("robotics", "robotics/judged_progress.py", "scoring/progress_curve.py", "scoring/bradley_terry.py")
_OF_CONTROLS = {"controls"}

Episodes = Sequence[tuple[int, Episode]]


def label(request: LabelRequest, pool: WorkerPool | None = None) -> LabelRecord:
    """Label every episode of a dataset, and write the files of `label_files` into the folder `request.out`.

    Frames at a fixed rate are compared with each other, and with reference frames where there are some, each pair in
    both orders (scoring/progress_curve.py); progress is linear between them. A run that was killed goes on with the
    episode at which it stopped, and ends in the same bytes. One episode is in memory at a time. An episode that cannot
    be used is skipped: its frames have NaN, and the record says why.

    Args:
        request: Dataset, judge, settings and folder.
        pool: Where to run (default: in this process).

    Returns:
        What stcr_label.json holds.

    Raises:
        DataError: The folder cannot be written into, or has labels already; not one episode can be labelled.
        ConfigError: A reference is not there, or the model cannot be asked in this way.
    """
    out, pool = request.out, pool or WorkerPool(1)
    try:
        with artefacts.locked(out / WORK / "lock", alone=out):
            try:
                return _labelled(request, pool)
            finally:
                left = (path for path in (out / WORK).glob("*") if path != request.simulated)
                if not any(path.is_dir() for path in left):  # nothing to go on with
                    shutil.rmtree(out / WORK, ignore_errors=True)
    except DataError as error:
        if Path(error.where) == out / WORK:
            raise DataError(out, error.problem, "name another folder with --out") from None
        raise


def _labelled(request: LabelRequest, pool: WorkerPool) -> LabelRecord:
    out, data = request.out, request.data.opened(request.simulated)
    episodes, excluded = data.listed()
    for _ in data.rows(episodes):  # damaged rows stop the run before anything is asked
        pass
    judge = request.judge.opened((out / WORK).resolve(), request.seed)
    digest = _digest(request, episodes, judge.identity)
    root = (out / WORK).resolve() / digest
    if not root.is_dir() and (done := _done(request, digest)):
        return done
    root.mkdir(exist_ok=True)
    found = scales(data, episodes, request.settings, judge=judge, root=root)
    context = LabelContext(data, judge, request.settings, root=root, scales=found)
    _run(pool, LabelPlace(request, root, found, threads_of(pool)), context, episodes=episodes)
    skipped = [*excluded, *(one.skipped for one in _pieces(root, episodes) if one.skipped)]
    usable = [(number, one) for number, one in episodes if not _piece(root, number).skipped]
    if not usable:
        shutil.rmtree(root)
        first = skipped[0] if skipped else Exclusion("dataset", str(request.data.given), "it lists no episode")
        raise DataError(first.where, f"not one episode can be labelled; {first.what}: {first.reason}")
    record = dataclasses.replace(
        _record(request, context, usable),
        controls=_controls(context, request, usable),
        skipped=tuple(skipped),
        digest=digest,
    )
    _write(request, context, episodes, record=record)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return record


def _done(request: LabelRequest, digest: str) -> LabelRecord | None:
    """The record of the same run that has ended; None where labels are to be written.

    Raises DataError for labels of another run that are not to be replaced.
    """
    present = [name for name in FILES if (request.out / name).exists()]
    if not present or request.overwrite:
        return None
    if (request.out / PROGRESS).is_file() and (request.out / LABEL).is_file():
        record = LabelRecord.read(request.out / LABEL)
        if record.digest == digest and record.settings.get("controls") == request.settings.controls:
            return record
    fix = "add --overwrite to replace it, or name another --out"
    raise DataError(request.out / present[0], "is already there", fix)


def _digest(request: LabelRequest, episodes: Episodes, identity: object) -> str:
    """Names the folder of a run's work by all that decides an episode's labels."""
    settings = dataclasses.asdict(request.settings)
    goal = [artefacts.sha256(goal)] if (goal := request.settings.goal) and Path(goal).is_file() else []
    return artefacts.digest(
        [
            {key: value for key, value in settings.items() if key not in _OF_CONTROLS},
            goal,
            request.judge.ask.decides,
            identity,
            request.seed,
            [dataclasses.asdict(episode) for _, episode in episodes],
            str(request.data),
            artefacts.code_digest(*_CODE),
        ]
    )[:12]


def _run(pool: WorkerPool, place: LabelPlace, context: LabelContext, *, episodes: Episodes) -> None:
    left = [(number, episode) for number, episode in episodes if not _is_labelled(place.root, number)]
    with progress(len(episodes), "label", "episodes") as bar, label_runner(
        pool, place, context, episodes=len(left)
    ) as run:  # fmt: skip
        bar.update(len(episodes) - len(left))
        for _ in run(left):
            bar.update()


def _is_labelled(root: Path, number: int) -> bool:
    """Whether it was labelled by a run that was killed; what that one skipped may have been repaired since."""
    return piece(root, number).is_file() and not _piece(root, number).skipped


def _piece(root: Path, number: int) -> EpisodeLabels:
    return EpisodeLabels.read(piece(root, number))


def _pieces(root: Path, episodes: Episodes) -> Iterator[EpisodeLabels]:
    for number, _ in episodes:
        yield _piece(root, number)


def _record(request: LabelRequest, context: LabelContext, usable: Episodes) -> LabelRecord:
    counts = {"episodes": len(usable), "frames": 0, "anchors": 0, "queries": 0, "all_pairs": 0}
    traces, of_references = list[Trace](), list[Trace]()
    for one in _pieces(context.root, usable):
        counts["frames"] += one.n_frames
        for part in one.parts:
            n = len(part.frames)
            counts["anchors"] += n
            counts["queries"] += part.queries
            beside = len(scale_of(context.scales, context.settings, part.task).images)
            counts["all_pairs"] += n * (n - 1) + 2 * n * beside
        is_reference = _is_reference(request, one.episode_index, one.episode_id)
        (of_references if is_reference else traces).append(one.trace)
    return LabelRecord(
        dataset=str(request.data.given),
        relative=request.settings.relative,
        seed=request.seed,
        settings=dataclasses.asdict(request.settings),
        ask=context.judge.settings.decides,
        engine=dict(context.judge.identity),
        counts=counts,
        figures=progress_figures(traces or of_references, seed=request.seed),  # a reference agrees with itself
        provenance=provenance(),
    )


def _is_reference(request: LabelRequest, number: int, name: str) -> bool:
    return not {name, str(number)}.isdisjoint(request.settings.reference)


def _controls(context: LabelContext, request: LabelRequest, usable: Episodes) -> tuple[ProgressControl, ...]:
    """On episodes drawn at random, the first part of each; on references where there is nothing else."""
    others = [one for one in usable if not _is_reference(request, one[0], one[1].episode_id)]
    drawn = sorted(others or usable, key=lambda one: artefacts.digest([request.seed, one[1].episode_id]))
    folder = context.root / "controls"
    strips, of = [], list[Scale]()
    for _, episode in drawn[: request.settings.controls]:
        part = parts(episode)[0]
        n = part.end - part.start
        if n < FRAMES:
            continue
        frames = [part.start + round(place * (n - 1) / (FRAMES - 1)) for place in range(FRAMES)]
        with suppress(UnusableError):  # a frame between the anchors
            pictures = folder / "pictures" / episode.episode_id
            strips.append(strip_of(context, episode, part, frames=frames, folder=pictures))
            of.append(scale_of(context.scales, context.settings, part.task))
    return progress_controls(context.judge, strips, folder / "asked", scales=of)


def _write(request: LabelRequest, context: LabelContext, episodes: Episodes, *, record: LabelRecord) -> None:
    """All files, that with the progress last: where it is, the others are."""
    out, root = request.out, context.root
    write_anchors(out / ANCHORS, (one.anchors for one in _pieces(root, episodes)))
    if request.settings.success:
        write_success(out / SUCCESS, (row for one in _pieces(root, episodes) for row in one.success))
    else:
        (out / SUCCESS).unlink(missing_ok=True)  # of an earlier run
    record.write(out / LABEL)
    write_progress(out / PROGRESS, _progress(context, episodes), request.judge.name)


def _progress(context: LabelContext, episodes: Episodes) -> Iterator[EpisodeProgress]:
    import numpy as np

    known = {number for number, _ in episodes}
    for number, index, frames in context.data.rows(episodes):
        labels = _piece(context.root, number) if number in known else None
        values = np.full(len(frames), np.nan, np.float32)
        if labels is not None and labels.parts:
            values = np.array(interpolated(labels.frames, labels.progress, frames.tolist()), np.float32)
        yield EpisodeProgress(number, index, frames, values)
