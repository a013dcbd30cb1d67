"""The outcome of one seed of a study in one file, which has all that the table needs and is small enough to publish.

`seedN.jsonl` is beside the folder of the seed. A seed that was trained on another machine joins a study by its file
alone, and the files of all seeds are enough to make the table again.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.records import StageRecord
from stcr_plugin.results import ControlRow, Controls
from stcr_plugin.scoring.metrics import RATES
from stcr_plugin.scoring.seeds import RARE, SAME
from stcr_plugin.scoring.study_figures import Cost
from stcr_plugin.study.evaluations import controls_file, guard_file, results_file
from stcr_plugin.study.study_config import Plan, StudyConfig

_KEPT = ("seed", *SAME, "mode", "data_digest", "model_digest", "n_pairs", "n_episodes", *RATES, *RARE, "intervals")
"""Of a results.json; beside these, pair accuracy by episode, phase and window of distance."""


@dataclass(frozen=True)
class Outcome:
    """One seed's figures.

    made_by: see `plans.made_by`. revisions: of the code that trained and asked.
    costs: of each row but the base. results: rows of results.json, their episodes with pair accuracy alone, of every
    row and split. controls: row -> its controls. ability: row -> what it says to yes/no questions, as in guard.json.
    """

    study: str
    seed: int
    made_by: Mapping[str, Any]
    revisions: tuple[str, ...]
    costs: Mapping[str, Cost]
    results: tuple[Mapping[str, Any], ...]
    controls: Mapping[str, tuple[ControlRow, ...]]
    ability: Mapping[str, Mapping[str, Any]]


def outcome_file(out: Path, seed: int) -> Path:
    return out / f"seed{seed}.jsonl"


def collect(
    config: StudyConfig, seed: int, folder: Path, plans: Sequence[Plan], build: str, made_by: Mapping[str, Any]
) -> Outcome:
    """What the finished seed in `folder` came to; `build` is the name of the study's data.

    Whatever else lies in the folders of its rows, such as an evaluation by a comparator or controls of another split,
    is no part of it. Raises DataError where a row lacks figures.
    """
    results = [
        {**artefacts.read_json(results_file(config, folder / row, data, split)), "name": row, "seed": seed}
        for row in config.rows
        for data, split in config.asked(build)
    ]
    controls = config.controls
    return Outcome(
        study=config.name,
        seed=seed,
        made_by=made_by,
        revisions=tuple(sorted({_revision(one) for one in (*_records(folder, plans), *results)})),
        costs={row: _cost(config, row, folder, plans) for row in config.rows if row in config.stages},
        results=tuple(_trimmed(one) for one in results),
        controls={
            row: tuple(
                dataclasses.replace(one, looks="", mends="", figures=None, folder="")
                for one in Controls.read(controls_file(folder / row, build, controls.split)).rows
            )
            for row in (controls.rows if controls else ())
            if controls
        },
        ability={
            row: artefacts.read_json(guard_file(folder / row))["kinds"]["all"]
            for row in (config.guard.rows if config.guard else ())
        },
    )


def _trimmed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A row of results.json without what no table needs."""

    def part(one: Mapping[str, Any], *keys: str) -> dict[str, Any]:
        return {key: one[key] for key in (*keys, "n_pairs", "pair_accuracy")}

    phases, distances = result["by_phase"] or {}, result["by_distance"] or {}
    return {
        **{key: result[key] for key in _KEPT},
        "by_phase": {kind: part(one) for kind, one in phases.items()},
        "by_distance": {"windows": [part(one, "steps") for one in distances.get("windows", ())]},
        "per_episode": [part(one, "episode_id") for one in result["per_episode"]],
    }


def _records(folder: Path, plans: Sequence[Plan]) -> list[Mapping[str, Any]]:
    return [record.row for plan in plans if (record := records.read(folder / plan.name))]


def _revision(artefact: Mapping[str, Any]) -> str:
    return str(artefact["provenance"]["code_revision"])


def _cost(config: StudyConfig, row: str, folder: Path, plans: Sequence[Plan]) -> Cost:
    chain, planned = config.chain(row), {plan.name: plan for plan in plans}
    return Cost(
        tuple(chain),
        sum(planned[name].steps for name in chain),
        round(sum(planned[name].tokens for name in chain)),
        sum((records.read(folder / name) or StageRecord()).seconds or 0.0 for name in chain),
    )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """A head, then a line for each result and each control."""
    head = {
        field.name: getattr(outcome, field.name)
        for field in dataclasses.fields(outcome)
        if field.name not in ("results", "controls", "costs")
    }
    costs = {row: dataclasses.asdict(cost) for row, cost in outcome.costs.items()}
    controls = [
        {"row": row, "control": dataclasses.asdict(one)} for row, found in outcome.controls.items() for one in found
    ]
    artefacts.write_jsonl(path, [{**head, "costs": costs}, *({"result": one} for one in outcome.results), *controls])


def read_outcome(path: Path) -> Outcome:
    """Raises DataError where the file is no outcome of a seed."""
    import pydantic

    head, *lines = artefacts.read_jsonl(path) if path.stat().st_size else [{}]
    results, controls = [], defaultdict(list)
    try:
        for line in lines:
            if line.keys() == {"result"}:
                results.append(line["result"])
            else:
                controls[line["row"]].append(line["control"])
        values = {**head, "results": results, "controls": controls}
        return pydantic.TypeAdapter(Outcome).validate_python(values)
    except (pydantic.ValidationError, TypeError, KeyError, AttributeError) as error:
        said = error.errors()[0] if isinstance(error, pydantic.ValidationError) else None
        why = f"{'.'.join(map(str, said['loc']))}: {said['msg']}" if said else str(error)
        raise DataError(
            f"{path}: no outcome of a seed ({why}); copy it again, or delete it to train the seed"
        ) from None


def check_outcome(path: Path, outcome: Outcome, config: StudyConfig, seed: int, made: Mapping[str, Any]) -> None:
    """Whether `outcome`, read from `path`, is what the study would come to with `seed`; it may have more rows.

    made: `plans.made_by` of the study. Raises ConfigError where another study made it, DataError where a part lacks.
    """
    mend = "delete it to train the seed here, or run the study as it was then"
    if (outcome.study, outcome.seed) != (config.name, seed):
        raise ConfigError(f"{path}: is seed {outcome.seed} of the study {outcome.study!r}; {mend}")
    for key, now in made.items():
        if outcome.made_by.get(key) != now:
            raise ConfigError(f"{path}: was made with another `{key}` than the study's now; {mend}")
    asked = [one["name"] for one in outcome.results]
    parts = {
        "results": [row for row in config.rows if asked.count(row) != len(config.splits)],
        "costs": [row for row in config.rows[1:] if row not in outcome.costs],
        "controls": [row for row in (config.controls.rows if config.controls else ()) if row not in outcome.controls],
        "ability": [row for row in (config.guard.rows if config.guard else ()) if row not in outcome.ability],
    }
    for part, rows in parts.items():
        if rows:
            raise DataError(f"{path}: lacks {part} of {', '.join(rows)}; copy it again, or delete it to train the seed")
