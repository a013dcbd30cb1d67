"""The outcome of one seed of a study, in one file, and the outcomes of all seeds -> study.json and study.md.

`seedN.jsonl` is beside the folder of the seed. It is small enough to publish or to send: a seed that was trained on
another machine joins a study by its file alone, and the files of all seeds are enough to make the tables.
Figures are computed in `scoring.study_figures` and rendered in `report.study_report`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stcr_plugin import artefacts, records
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.control_list import CONTROLS
from stcr_plugin.figures import GuardKind
from stcr_plugin.provenance import provenance
from stcr_plugin.records import StageRecord
from stcr_plugin.report import study_report
from stcr_plugin.result_files import Result, decode
from stcr_plugin.results import ControlRow, Controls, Evaluation, Guard
from stcr_plugin.scoring import study_figures
from stcr_plugin.scoring.recommendation import recommendations
from stcr_plugin.scoring.seeds import SeedResult, over_seeds
from stcr_plugin.scoring.study_figures import Cost, StudyFigures
from stcr_plugin.study.evaluations import controls_file, guard_file, results_file
from stcr_plugin.study.grid import Plan, recipe_of
from stcr_plugin.study.study_config import SeedRun, StudyConfig


@dataclass(frozen=True, kw_only=True)
class Outcome(Result):
    """The figures of one seed. The file has a line of its own for each result and each control.

    Attributes:
        made_by: See `grid.made_by`.
        revisions: Of the code that trained and evaluated.
        ability: Row -> its yes/no questions.
        costs: Of each row but the base.
        results: Of every row and split.
        controls: Row -> its controls.
    """

    command: ClassVar = "stcr study"

    study: str
    seed: int
    made_by: Mapping[str, Any]
    revisions: tuple[str, ...]
    ability: Mapping[str, GuardKind]
    costs: Mapping[str, Cost]
    results: tuple[SeedResult, ...]
    controls: Mapping[str, tuple[ControlRow, ...]]


def outcome_file(out: Path, seed: int) -> Path:
    """Where the outcome of a seed is."""
    return out / f"seed{seed}.jsonl"


def collect(run: SeedRun, plans: Sequence[Plan], made_by: Mapping[str, Any]) -> Outcome:
    """The outcome of a finished seed, without other evaluations in the folders of its rows.

    Raises:
        DataError: A row lacks figures.
    """
    config = run.config
    found = {(row, on): Evaluation.read(results_file(run, row, on)) for row in config.rows for on in run.splits}
    stages = {one.name: record for one in plans if (record := records.read(run.out / one.name))}
    provenances = [*(one.provenance for one in stages.values()), *(one.provenance for one in found.values())]
    return Outcome(
        study=config.name,
        seed=run.seed,
        made_by=made_by,
        revisions=tuple(sorted({str(one["code_revision"]) for one in provenances})),
        ability={row: Guard.read(guard_file(run, row)).kinds["all"] for row in config.guard_rows},
        costs={row: _cost(config.chain(row), plans, stages) for row in config.rows if row in config.stages},
        results=tuple(_seed_result(one, row, run.seed) for (row, _), one in found.items()),
        controls={
            row: tuple(
                dataclasses.replace(one, looks="", fix="", figures=None, folder="")
                for one in Controls.read(controls_file(run, row)).rows
            )
            for row in config.control_rows
        },
    )


def _seed_result(found: Evaluation, row: str, seed: int) -> SeedResult:
    values = found.row() | {"name": row, "seed": seed}
    return decode(SeedResult, {key: value for key, value in values.items() if value is not None})


def _cost(chain: Sequence[str], plans: Sequence[Plan], stages: Mapping[str, StageRecord]) -> Cost:
    planned = [one for name in chain for one in plans if one.name == name]
    return Cost(
        tuple(chain),
        steps=sum(one.steps for one in planned),
        supervised_tokens=round(sum(one.tokens for one in planned)),
        seconds=sum(stages[name].seconds or 0.0 for name in chain if name in stages),
    )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """A head, then a line for each result and each control."""
    head = outcome.row()
    results, controls = head.pop("results"), head.pop("controls")
    lines = [{"row": row, "control": one} for row, found in controls.items() for one in found]
    artefacts.write_jsonl(path, [head, *({"result": one} for one in results), *lines])


def read_outcome(path: Path) -> Outcome:
    """Raises DataError where the file is not the outcome of a seed."""
    results, controls = [], defaultdict(list)
    try:
        head, *lines = artefacts.read_jsonl(path) if path.stat().st_size else [{}]
        for line in lines:
            if line.keys() == {"result"}:
                results.append(line["result"])
            else:
                controls[line["row"]].append(line["control"])
        return Outcome.from_row({**head, "results": results, "controls": controls}, path)
    except (DataError, TypeError, KeyError, AttributeError) as error:
        why = error.problem if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(path, f"not the outcome of a seed ({why})", _FIX) from None


_FIX = "copy it again, or delete it to train the seed"


def check_outcome(path: Path, outcome: Outcome, config: StudyConfig, *, seed: int, made_by: Mapping[str, Any]) -> None:
    """Check that `outcome`, read from `path`, is that of this study and seed; it may have more rows.

    Raises:
        ConfigError: Another study made it, or the study has changed since (`made_by`).
        DataError: A part of it is missing.
    """
    fix = "delete it to train the seed here, or run the study as it was then"
    if (outcome.study, outcome.seed) != (config.name, seed):
        raise ConfigError(path, f"is seed {outcome.seed} of the study {outcome.study!r}", fix)
    for key, now in made_by.items():
        if outcome.made_by.get(key) != now:
            raise ConfigError(path, f"was made with another `{key}` than the study's now", fix)
    names = [one.row.name for one in outcome.results]
    parts = {
        "results": [row for row in config.rows if names.count(row) != len(config.splits)],
        "costs": [row for row in config.rows[1:] if row not in outcome.costs],
        "controls": [row for row in config.control_rows if row not in outcome.controls],
        "ability": [row for row in config.guard_rows if row not in outcome.ability],
    }
    for part, rows in parts.items():
        if rows:
            raise DataError(path, f"lacks {part} of {', '.join(rows)}", _FIX)


def write_study(config: StudyConfig, out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write study.json, study.md and study.png into `out`, from one outcome per seed.

    Returns:
        The path of study.md.

    Raises:
        DataError: Two rows were not evaluated on the same pairs.
    """
    found = figures_of(config, outcomes)
    shown = dataclasses.asdict(found)
    table = {
        "study": config.name,
        "asks": config.asks,
        "config": dataclasses.asdict(config),
        "costs": shown["costs"],
        "rows": shown["spreads"],
        "differences": shown["leads"],
        "kinds_of_pairs": shown["kinds"],
        "claims": shown["claims"],
        "controls": shown["controls"],
        "general_ability": shown["ability"],
        **({"recommendations": shown["recommendations"]} if config.needed_seeds else {}),
        "provenance": provenance(),
    }
    artefacts.write_json(out / "study.json", table)
    return study_report.write(out, found)


def figures_of(config: StudyConfig, outcomes: Sequence[Outcome]) -> StudyFigures:
    """The figures of a study, from one outcome per seed."""
    results = [one for outcome in outcomes for one in outcome.results if one.row.name in config.rows]
    results.sort(key=lambda one: config.rows.index(one.row.name))
    stages = config.rows[1:]
    return StudyFigures(
        name=config.name,
        asks=config.asks,
        seeds=config.seeds,
        rows=config.rows,
        reference=config.reference,
        equal=config.equal,
        modes={one.row.name: one.mode for one in results},
        revisions=tuple(sorted({one for outcome in outcomes for one in outcome.revisions})),
        masked=_masked(config),
        spreads=over_seeds(results),
        leads=study_figures.differences(results, stages, config.reference),
        kinds=study_figures.kinds_of_pairs(results, config.reference),
        claims=study_figures.claims_over_seeds(results),
        controls=study_figures.controls_over_seeds(
            [{row: one.controls[row] for row in config.control_rows} for one in outcomes],
            {name: control.rule for name, control in CONTROLS.items()},
        ),
        ability=study_figures.ability_over_seeds(
            [{row: one.ability[row] for row in config.guard_rows} for one in outcomes]
        ),
        costs={row: _mean_cost([outcome.costs[row] for outcome in outcomes]) for row in stages},
        needed_seeds=config.needed_seeds,
        recommendations=recommendations(
            results,
            {one.seed: one.controls for one in outcomes},
            config.compared,
            reference=config.reference,
            needed=config.needed_seeds,
        )
        if config.needed_seeds
        else (),
    )


def _mean_cost(by_seed: Sequence[Cost]) -> Cost:
    """That of the first seed, with the mean of all seconds."""
    return dataclasses.replace(by_seed[0], seconds=sum(one.seconds for one in by_seed) / len(by_seed))


def _masked(config: StudyConfig) -> tuple[str, ...]:
    """Rows with a stage that is trained with the authors' mask."""
    recipes = {name: recipe_of(stage.recipe, stage.overrides) for name, stage in config.stages.items()}
    masked = {name for name, recipe in recipes.items() if "authors" in str((recipe.get("stcr") or {}).get("mask"))}
    return tuple(row for row in config.rows[1:] if masked & {*config.chain(row)})
