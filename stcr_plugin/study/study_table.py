"""The outcomes of a study's seeds -> study.json, study.md and a plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.evaluation.control_list import CONTROLS
from stcr_plugin.report import study_report
from stcr_plugin.scoring import seeds
from stcr_plugin.scoring.group_figures import ROWS
from stcr_plugin.scoring.study_figures import (
    Cost,
    StudyFigures,
    ability_over_seeds,
    controls_over_seeds,
    differences,
    kinds_of_pairs,
)
from stcr_plugin.scoring.verdicts import RULES
from stcr_plugin.study.grid import recipe_of
from stcr_plugin.study.outcomes import Outcome
from stcr_plugin.study.study_config import StudyConfig

TABLE = "study.json"


def write_study(config: StudyConfig, out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write the table of a study.

    Args:
        config: The study.
        out: Folder of study.json, study.md and study.png.
        outcomes: One for each seed of the study.

    Returns:
        The path of study.md.

    Raises:
        DataError: Two rows were not evaluated on the same pairs.
    """
    found = figures_of(config, outcomes)
    table = {
        "study": config.name,
        "asks": config.asks,
        "config": dataclasses.asdict(config),
        "costs": {row: dataclasses.asdict(cost) for row, cost in found.costs.items()},
        "rows": seeds.rows(found.spreads),
        "differences": seeds.rows(found.leads),
        "kinds_of_pairs": [dataclasses.asdict(one) for one in found.kinds],
        "controls": [dataclasses.asdict(one) for one in found.controls],
        "general_ability": [dataclasses.asdict(one) for one in found.ability],
        "provenance": artefacts.provenance(),
    }
    artefacts.write_json(out / TABLE, table)
    return study_report.write(out, found)


def figures_of(config: StudyConfig, outcomes: Sequence[Outcome]) -> StudyFigures:
    """The figures of a study, from one outcome for each of its seeds."""
    results = [one for outcome in outcomes for one in outcome.results if one["name"] in config.rows]
    results.sort(key=lambda one: config.rows.index(one["name"]))
    stages = [row for row in config.rows if row in config.stages]
    controlled, guarded = (asked.rows if asked else () for asked in (config.controls, config.guard))
    return StudyFigures(
        name=config.name,
        asks=config.asks,
        seeds=config.seeds,
        rows=config.rows,
        reference=config.reference,
        equal=config.equal,
        modes={str(one["name"]): str(one["mode"]) for one in results},
        revisions=tuple(sorted({one for outcome in outcomes for one in outcome.revisions})),
        masked=_masked(config),
        spreads=seeds.over_seeds(results),
        leads=differences(results, stages, config.reference),
        kinds=kinds_of_pairs(results, config.reference),
        controls=controls_over_seeds([{row: one.controls[row] for row in controlled} for one in outcomes], _judged),
        ability=ability_over_seeds([{row: one.ability[row] for row in guarded} for one in outcomes]),
        costs={row: _cost([outcome.costs[row] for outcome in outcomes]) for row in stages},
    )


def _cost(by_seed: Sequence[Cost]) -> Cost:
    """That of the first seed, with the mean of all seconds."""
    return dataclasses.replace(by_seed[0], seconds=sum(one.seconds for one in by_seed) / len(by_seed))


def _masked(config: StudyConfig) -> tuple[str, ...]:
    """Rows of which a stage is trained with the authors' mask."""
    recipes = {name: recipe_of(stage.recipe, stage.overrides) for name, stage in config.stages.items()}
    masked = {name for name, recipe in recipes.items() if "authors" in str((recipe.get("stcr") or {}).get("mask"))}
    return tuple(row for row in config.stages if row in config.rows and masked & {*config.chain(row)})


def _judged(name: str) -> tuple[str, ...]:
    """The measures that the verdict of a control depends on; () for those of groups of pictures, which show all."""
    if name in CONTROLS:
        return RULES[CONTROLS[name].rule].judged
    return () if name in ROWS.values() else RULES["knows"].judged
