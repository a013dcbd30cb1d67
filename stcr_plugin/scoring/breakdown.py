"""The figures of one evaluation, split: by task, by distance and by phase."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from stcr_plugin.report import tables
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
Row = dict[str, Any]


def breakdowns(pairs: Sequence[Pair], answers: Sequence[Answer], resamples: int = 2000, seed: int = 0) -> Row:
    """What results.json says of the parts of an evaluation: by_task, by_distance, by_phase and phase_cells.

    Each row has the figures of its pairs, `unit` as in results.json, with intervals from the same drawn episodes as
    those of the whole (`metrics.group_intervals`). A part of ties alone has no figures and no row.

    by_task: `tasks`, most pairs first; where there are more than 50 tasks, those of a single episode are left out, as
    many as `left_out` counts.
    by_distance: `windows` are those of SpatialLogic-Bench, 5..11 and >= 12 steps of one frame in ten. Its source,
    AgiBot World, has 30 frames a second, so a step is a third of a second, whatever the rate of a pair's own source:
    5..11 are [5/3, 4) s, what lies between 11 and 12 steps among them. "<5" holds pairs that the benchmark has none of.
    `quarters` have equally many pairs, as far as pairs of the same distance allow, for data of other distances;
    `seconds` is the smallest and the largest distance in each.
    by_phase: `within` one phase, and `crossing` from one to another. phase_cells: the same pairs for each phase of the
    earlier and of the later frame, most pairs first. Both are empty where no phase is known.
    """
    every = _rows(_groups(pairs), answers, resamples, seed)

    def of(kind: str) -> dict[Any, Row]:
        return {label: row for (one, label), row in every.items() if one == kind}

    return {
        "by_task": _tasks(of("task"), pairs),
        "by_distance": {
            "windows": [
                {"steps": steps, "seconds": [low, high], **of("window")[steps]}
                for steps, low, high in WINDOWS
                if steps in of("window")
            ],
            "quarters": [{"seconds": list(bounds), **row} for bounds, row in sorted(of("quarter").items())],
        },
        "by_phase": {kind: of("phase")[kind] for kind in ("within", "crossing") if kind in of("phase")},
        "phase_cells": [
            {"earlier": earlier, "later": later, **row} for (earlier, later), row in _most_first(of("cell").items())
        ],
    }


def sections(row: Mapping[str, Any]) -> list[str]:
    """Markdown of a results.json's distances and phases, of the latter where any is known."""
    distances, cells = row["by_distance"], row["phase_cells"]
    windows = [{**one, "seconds": _span(*one["seconds"])} for one in distances["windows"]]
    quarters = [{**one, "seconds": _span(*one["seconds"])} for one in distances["quarters"]]
    parts = [
        "## By distance",
        STEP,
        tables.figures_table(windows, ["steps", "seconds"]),
        "The same pairs in quarters of about equal size:",
        tables.figures_table(quarters, ["seconds"]),
    ]
    if cells:
        parts += [
            "## By phase",
            "The phases of the earlier and of the later frame. The more rows, the more of their intervals miss the "
            "truth by chance: one of 95 % in twenty.",
            tables.figures_table(cells, ["earlier", "later"]),
        ]
    return parts


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


def _rows(
    groups: Mapping[tuple[str, Hashable], set[str]], answers: Sequence[Answer], resamples: int, seed: int
) -> dict[tuple[str, Hashable], Row]:
    """The figures of each group that has any, with intervals."""
    of_pair: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        of_pair[answer.pair_id].append(answer)
    parts = {key: [answer for one in sorted(ids) for answer in of_pair[one]] for key, ids in groups.items()}
    parts = {key: part for key, part in parts.items() if not metrics.only_ties(part)}
    intervals = metrics.group_intervals(parts, {answer.episode_id for answer in answers}, resamples, seed)
    return {
        key: {**dataclasses.asdict(metrics.figures(part)), "intervals": intervals[key]} for key, part in parts.items()
    }


def _tasks(rows: Mapping[str, Row], pairs: Sequence[Pair]) -> Row:
    many = len({pair.task for pair in pairs}) > _MOST_TASKS
    kept = {task: row for task, row in rows.items() if row["n_episodes"] > 1 or not many}
    rest = [pair for pair in pairs if pair.task not in kept]
    return {
        "tasks": [{"task": task, **row} for task, row in _most_first(kept.items())],
        "left_out": {"tasks": len({pair.task for pair in rest}), "pairs": len(rest)},
    }


def _most_first(rows: Iterable[tuple[Any, Row]]) -> list[tuple[Any, Row]]:
    return sorted(rows, key=lambda one: (-one[1]["n_pairs"], one[0]))


def _span(low: float, high: float | None) -> str:
    return f"{low:.1f} and more" if high is None else f"{low:.1f} to {high:.1f}"


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
