"""The results of a study -> study.json, study.md and a picture: a row a chain, its figures over the seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.evaluation import plots, seeds, tables
from stcr_plugin.evaluation.run import RESULTS
from stcr_plugin.frameworks.stage import read_record

if TYPE_CHECKING:
    from stcr_plugin.study import Plan, StudyConfig

REPORT, TABLE, PLOT = "study.md", "study.json", "study.png"
_SHOWN = ("pair_accuracy", "forward_accuracy", "backward_accuracy", "gap_points", "order_consistency")


@dataclass(frozen=True)
class Cost:
    """What a row took from the base on, all its stages together, for one seed."""

    stages: tuple[str, ...]
    steps: int
    supervised_tokens: int
    seconds: float


def write_study(config: StudyConfig, rows: Sequence[str], out: Path, plans: Mapping[int, Sequence[Plan]]) -> Path:
    """Write the table of a study whose stages have finished; returns the path of study.md.

    `plans` are those of each seed. Raises DataError where a row lacks results or was asked other pairs.
    """
    results = [
        {**artefacts.read_json(path), "name": row, "seed": seed}
        for row in rows
        for seed in config.seeds
        for path in sorted((out / f"seed{seed}" / row).glob(f"eval/*/{RESULTS}"))
    ]
    costs = {row: _cost(config, row, out, plans) for row in rows if row in config.stages}
    spreads = seeds.over_seeds(results)
    leads = [
        seeds.difference(_of(results, row, split), _of(results, config.reference, split))
        for split in _splits(results)
        for row in rows
        if row in config.stages and row != config.reference
    ]
    table = {
        "study": config.name,
        "asks": config.asks,
        "config": dataclasses.asdict(config),
        "costs": {row: dataclasses.asdict(cost) for row, cost in costs.items()},
        "rows": seeds.rows(spreads),
        "differences": seeds.rows(leads),
        "provenance": artefacts.provenance(),
    }
    parts = [
        f"# Study: {config.name}",
        config.asks,
        _how(config),
        f"![Pair accuracy of every row, a point a seed]({PLOT})",
        *(line for split in _splits(results) for line in _section(config, split, spreads, leads)),
        "## What it took",
        tables.markdown(
            ["row", "stages from the base on", "steps", "supervised tokens", "seconds, on average"],
            [
                [row, " > ".join(cost.stages), str(cost.steps), f"{cost.supervised_tokens:,}", f"{cost.seconds:.0f}"]
                for row, cost in costs.items()
            ],
        ),
        "Seconds are those of this machine, with the callback's measurements, "
        "and say nothing where other work ran beside.",
    ]
    panels = {
        f"{dataset}, {split}": [
            (str(one.of["name"]), one.figures["pair_accuracy"].values)
            for one in spreads
            if (one.of["dataset"], one.of["split"]) == (dataset, split)
        ]
        for dataset, split in _splits(results)
    }
    plots.seeds(out / PLOT, panels, "pair accuracy, percent")
    artefacts.write_json(out / TABLE, table)
    artefacts.write_text(out / REPORT, "\n\n".join(parts) + "\n")
    return out / REPORT


def _splits(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["dataset"], row["split"]) for row in results))


def _of(results: Sequence[dict[str, Any]], name: str, split: tuple[str, str]) -> list[dict[str, Any]]:
    return [row for row in results if row["name"] == name and (row["dataset"], row["split"]) == split]


def _cost(config: StudyConfig, row: str, out: Path, plans: Mapping[int, Sequence[Plan]]) -> Cost:
    chain = config.chain(row)
    planned = {plan.name: plan for plan in next(iter(plans.values()))}
    seconds = [
        sum((read_record(out / f"seed{seed}" / name) or {}).get("seconds", 0.0) for name in chain)
        for seed in config.seeds
    ]
    return Cost(
        tuple(chain),
        sum(planned[name].steps for name in chain),
        round(sum(planned[name].tokens for name in chain)),
        sum(seconds) / len(seconds),
    )


def _how(config: StudyConfig) -> str:
    equal = {
        "nothing": "The rows take the steps that the table of costs says.",
        "steps": "All rows take equally many steps from the base on.",
        "tokens": "All rows are trained on about equally many supervised tokens from the base on.",
    }[config.equal]
    return (
        f"Seeds {', '.join(map(str, config.seeds))}; each has data, a base and stages of its own. {equal} Figures are "
        "means over seeds, ± one standard deviation of a single run. Differences are paired, seed by seed: their "
        "interval is a t-interval over seeds, p that of the sign-flip test "
        f"(its smallest value with {len(config.seeds)} seeds is {2 / 2 ** len(config.seeds):.3g})."
    )


def _section(
    config: StudyConfig,
    split: tuple[str, str],
    spreads: Sequence[seeds.OverSeeds],
    leads: Sequence[seeds.SeedsDifference],
) -> list[str]:
    heads = ["row", *(tables.COLUMNS[name].heading for name in _SHOWN), f"minus {config.reference}", "95 %", "p"]
    lines = []
    for one in spreads:
        if (one.of["dataset"], one.of["split"]) != split:
            continue
        lead = next((lead for lead in leads if lead.of == one.of), None)
        lines.append(
            [tables.cell(one.of["name"]), *(_spread(one.figures[name], name) for name in _SHOWN), *_lead(lead)]
        )
    return [f"## {tables.cell(', '.join(split))}", tables.markdown(heads, lines)]


def _spread(found: seeds.Spread, name: str) -> str:
    mean = tables.figure({name: found.mean}, name)
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.1f}"


def _lead(lead: seeds.SeedsDifference | None) -> list[str]:
    if lead is None:
        return ["", "", ""]
    points = lead.points
    interval = "-" if points.interval is None else " to ".join(f"{bound:+.1f}" for bound in points.interval)
    return [f"{points.mean:+.1f}", interval, f"{lead.p_flips.p:.3f}"]
