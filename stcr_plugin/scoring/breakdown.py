"""The figures of one evaluation, split: by task, by distance and by phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from stcr_plugin.figures import (
    Breakdowns,
    ByDistance,
    ByTask,
    LeftOut,
    PairFigures,
    PhaseCell,
    QuarterFigures,
    TaskFigures,
    WindowFigures,
)
from stcr_plugin.scoring import metrics
from stcr_plugin.types import Answer, Pair

WINDOWS: tuple[tuple[str, float, float | None], ...] = (
    ("<5", 0, 50 / 30),
    ("5..11", 50 / 30, 120 / 30),
    (">=12", 120 / 30, None),
)
"""(steps, seconds from, seconds below). A step is one frame in ten of 30 a second, as SpatialLogic-Bench counts."""
_QUARTERS = 4
STEP = "A step is one frame in ten of 30 a second, the unit of SpatialLogic-Bench's windows."
PHASE_KINDS = {"within": "within one phase", "crossing": "crossing phases"}
"""The kinds of pairs that `by_phase` tells apart, in words."""
_MOST_TASKS = 50


def breakdowns(pairs: Sequence[Pair], answers: Sequence[Answer], *, resamples: int = 2000, seed: int = 0) -> Breakdowns:
    """The figures of the parts of an evaluation: by task, by distance and by phase.

    Each part has the figures of its pairs, with intervals from the same drawn episodes as those of the whole
    (`metrics.group_intervals`). A part of ties alone has no figures and no row.

    Tasks: where there are more than 50, those of a single episode are left out, as many as `left_out` counts.
    Windows: those of SpatialLogic-Bench, 5..11 and >= 12 steps of one frame in ten. Its source, AgiBot World, has 30
    frames per second, so a step is a third of a second, whatever the rate of a pair's own source: 5..11 are [5/3, 4) s,
    what lies between 11 and 12 steps among them. "<5" holds pairs that the benchmark has none of.
    Quarters: equally many pairs, as far as pairs of the same distance allow, for data of other distances.
    """
    every = _figures(_groups(pairs), answers, resamples, seed=seed)

    def of(kind: str) -> dict[Any, PairFigures]:
        return {label: part for (one, label), part in every.items() if one == kind}

    windows, quarters, phases = of("window"), of("quarter"), of("phase")
    return Breakdowns(
        by_task=_tasks(of("task"), pairs),
        by_distance=ByDistance(
            tuple(
                WindowFigures(steps, (low, high), part.figures, part.intervals)
                for steps, low, high in WINDOWS
                if (part := windows.get(steps))
            ),
            tuple(QuarterFigures(bounds, part.figures, part.intervals) for bounds, part in sorted(quarters.items())),
        ),
        by_phase={kind: phases[kind] for kind in ("within", "crossing") if kind in phases},
        phase_cells=tuple(
            PhaseCell(earlier, later, part.figures, part.intervals)
            for (earlier, later), part in _most_first(of("cell").items())
        ),
    )


def _groups(pairs: Sequence[Pair]) -> dict[tuple[str, Hashable], set[str]]:
    """(kind of breakdown, label) -> ids of its pairs."""
    found: dict[tuple[str, Hashable], set[str]] = defaultdict(set)
    quarters = _quarters([pair.seconds for pair in pairs])
    for pair in pairs:
        found["task", pair.task].add(pair.pair_id)
        found["window", _window(pair.seconds)].add(pair.pair_id)
        found["quarter", quarters[pair.seconds]].add(pair.pair_id)
        if pair.phase:
            earlier, crosses, later = pair.phase.partition(">")
            found["phase", "crossing" if crosses else "within"].add(pair.pair_id)
            found["cell", (earlier, later or earlier)].add(pair.pair_id)
    return found


def _figures(
    groups: Mapping[tuple[str, Hashable], set[str]], answers: Sequence[Answer], resamples: int, seed: int
) -> dict[tuple[str, Hashable], PairFigures]:
    """The figures of each group that has any, with intervals."""
    of_pair: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        of_pair[answer.pair_id].append(answer)
    parts = {key: [answer for one in sorted(ids) for answer in of_pair[one]] for key, ids in groups.items()}
    parts = {key: part for key, part in parts.items() if not metrics.only_ties(part)}
    episodes = {answer.episode_id for answer in answers}
    intervals = metrics.group_intervals(parts, episodes, resamples=resamples, seed=seed)
    return {key: PairFigures(metrics.figures(part), intervals[key]) for key, part in parts.items()}


def _tasks(found: Mapping[str, PairFigures], pairs: Sequence[Pair]) -> ByTask:
    many = len({pair.task for pair in pairs}) > _MOST_TASKS
    kept = {task: part for task, part in found.items() if part.figures.n_episodes > 1 or not many}
    rest = [pair for pair in pairs if pair.task not in kept]
    return ByTask(
        tuple(TaskFigures(task, part.figures, part.intervals) for task, part in _most_first(kept.items())),
        LeftOut(len({pair.task for pair in rest}), len(rest)),
    )


def _most_first(found: Iterable[tuple[Any, PairFigures]]) -> list[tuple[Any, PairFigures]]:
    return sorted(found, key=lambda one: (-one[1].figures.n_pairs, one[0]))


def _window(seconds: float) -> str:
    # The small constant keeps 5 steps at 30 frames a second in its window, whatever the rounding.
    return [steps for steps, low, _ in WINDOWS if seconds + 1e-9 >= low][-1]


def _quarters(seconds: Sequence[float]) -> dict[float, tuple[float, float]]:
    """Each of `seconds` -> (smallest, largest) of its quarter."""
    ranked = sorted(seconds)
    first = {one: rank for rank, one in reversed(list(enumerate(ranked)))}
    members: dict[int, list[float]] = defaultdict(list)
    for one in sorted(first):
        members[first[one] * _QUARTERS // len(ranked)].append(one)
    return {one: (group[0], group[-1]) for group in members.values() for one in group}
