"""The results of a study -> study.json, study.md and a picture: a row a chain, its figures over the seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.report import plots, tables
from stcr_plugin.scoring import seeds
from stcr_plugin.scoring.breakdown import PHASE_KINDS, STEP
from stcr_plugin.scoring.verdicts import MEANINGS, RULES
from stcr_plugin.study.grid import recipe_of
from stcr_plugin.study.outcomes import Cost, Outcome
from stcr_plugin.study.study_config import StudyConfig

REPORT, TABLE, PLOT = "study.md", "study.json", "study.png"
_SHOWN = ("pair_accuracy", "forward_accuracy", "backward_accuracy", "gap_points", "order_consistency", "unparsed_rate")


def write_study(config: StudyConfig, out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write the table of `outcomes`, one of each seed of the study; returns the path of study.md.

    Raises DataError where two rows were asked different pairs.
    """
    results = [one for outcome in outcomes for one in outcome.results if one["name"] in config.rows]
    results.sort(key=lambda one: config.rows.index(one["name"]))
    modes = {str(one["name"]): str(one["mode"]) for one in results}
    costs = {row: _cost([outcome.costs[row] for outcome in outcomes]) for row in config.rows if row in config.stages}
    spreads = seeds.over_seeds(results)
    leads = [
        seeds.difference(_of(results, row, split), _of(results, config.reference, split))
        for split in _splits(results)
        for row in config.rows
        if row in config.stages and row != config.reference
    ]
    kinds = _kinds_of_pairs(results, config.reference)
    controls = _controls(config, outcomes)
    ability = _ability(config, outcomes)
    table = {
        "study": config.name,
        "asks": config.asks,
        "config": dataclasses.asdict(config),
        "costs": {row: dataclasses.asdict(cost) for row, cost in costs.items()},
        "rows": seeds.rows(spreads),
        "differences": seeds.rows(leads),
        "kinds_of_pairs": [dataclasses.asdict(one) for one in kinds],
        "controls": [dataclasses.asdict(one) for one in controls],
        "general_ability": [dataclasses.asdict(one) for one in ability],
        "provenance": artefacts.provenance(),
    }
    parts = [
        f"# Study: {config.name}",
        config.asks,
        _how(config, len(leads), modes, sorted({one for outcome in outcomes for one in outcome.revisions})),
        f"![Pair accuracy of every row, a point a seed]({PLOT})",
        *_overview(config, spreads, leads, _splits(results)),
        *(line for split in _splits(results) for line in _section(config, split, spreads, leads, modes)),
        *_kinds_section(kinds, config.reference),
        *_controls_section(controls),
        *_ability_section(ability),
        "## What it took",
        tables.markdown(
            ["row", "stages from the base on", "steps", "supervised tokens", "seconds, on average"],
            [
                [row, " > ".join(cost.stages), str(cost.steps), f"{cost.supervised_tokens:,}", f"{cost.seconds:.0f}"]
                for row, cost in costs.items()
            ],
        ),
        _counted(config),
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


@dataclass(frozen=True)
class KindOfPairs:
    """One row's pair accuracy on one kind of a split's pairs, over the seeds, in percent; `pairs` of all seeds.

    `more`: that minus the reference's, seed by seed, on the same pairs; None for the reference.
    """

    dataset: str
    split: str
    kind: str
    row: str
    pairs: int
    pair_accuracy: seeds.Spread
    more: seeds.Spread | None


def _kinds_of_pairs(results: Sequence[Mapping[str, Any]], reference: str) -> list[KindOfPairs]:
    """Kinds that every seed has pairs of: within and across phases, and SpatialLogic-Bench's windows of distance."""
    found = []
    for split in _splits(results):
        parts = {
            row: [_parts(one) for one in _of(results, row, split)] for row in dict.fromkeys(r["name"] for r in results)
        }
        for kind in parts[reference][0]:
            if not all(kind in one for of_seeds in parts.values() for one in of_seeds):
                continue
            values = {row: [one[kind]["pair_accuracy"] for one in of_seeds] for row, of_seeds in parts.items()}
            for row, mine in values.items():
                pairs = sum(one[kind]["n_pairs"] for one in parts[row])
                more = [value - other for value, other in zip(mine, values[reference], strict=True)]
                spreads = seeds.spread(mine), seeds.spread(more) if row != reference else None
                found.append(KindOfPairs(*split, kind, row, pairs, *spreads))
    return found


def _parts(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    phases, windows = result["by_phase"] or {}, (result["by_distance"] or {}).get("windows", ())
    return {PHASE_KINDS[kind]: part for kind, part in phases.items()} | {
        f"{one['steps']} steps": one for one in windows
    }


def _kinds_section(kinds: Sequence[KindOfPairs], reference: str) -> list[str]:
    if not kinds:
        return []
    lines = [
        [
            tables.cell(f"{one.dataset}, {one.split}"),
            one.kind,
            tables.cell(one.row),
            _spread(one.pair_accuracy, "pair_accuracy"),
            _spread(one.more, "gap_points") if one.more else "",
            str(one.pairs),
        ]
        for one in kinds
    ]
    heads = [
        "split",
        "pairs",
        "row",
        tables.COLUMNS["pair_accuracy"].heading,
        f"minus {reference}",
        "pairs of all seeds",
    ]
    return [
        "## Kinds of pairs",
        STEP,
        tables.markdown(heads, lines),
    ]


@dataclass(frozen=True)
class ControlOverSeeds:
    """A control of one row over the seeds: verdicts, seed by seed, and measures; `judged` are those they go by."""

    row: str
    control: str
    asks: str
    informative: bool
    verdicts: tuple[str, ...]
    judged: tuple[str, ...]
    measures: Mapping[str, seeds.Spread]


def _controls(config: StudyConfig, outcomes: Sequence[Outcome]) -> list[ControlOverSeeds]:
    found: list[ControlOverSeeds] = []
    judged = {rule.words: rule.judged for rule in RULES.values()}
    for row in config.controls.rows if config.controls else ():
        by_seed = [{one.name: one for one in outcome.controls[row]} for outcome in outcomes]
        for name, first in by_seed[0].items():
            same = [rows[name] for rows in by_seed if name in rows]
            measured = {
                key: [value for one in same if key in one.measures and (value := one.measures[key].value) is not None]
                for key in first.measures
            }
            spreads = {key: seeds.spread(values) for key, values in measured.items() if values}
            verdicts = tuple(one.verdict for one in same)
            by = tuple(key for key in judged.get(first.rule, tuple(spreads)) if key in spreads)
            found.append(ControlOverSeeds(row, name, first.asks, first.informative, verdicts, by, spreads))
    return found


def _controls_section(controls: Sequence[ControlOverSeeds]) -> list[str]:
    """A line a control and row: how many seeds hold, and the figures that this goes by, mean and deviation."""
    if not controls:
        return []
    lines = [
        [
            f"`{tables.cell(one.control)}`" + (" (informative)" if one.informative else ""),
            one.row,
            ", ".join(f"{one.verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(one.verdicts))),
            "; ".join(
                f"{MEANINGS[key][0]} {_spread(one.measures[key], 'gap_points' if key == 'difference' else key)}"
                for key in one.judged
            ),
        ]
        for one in sorted(controls, key=lambda one: [other.control for other in controls].index(one.control))
    ]
    return [
        "## Controls",
        "What each asks, and the rule of its verdict: docs/evaluation.md, and controls.md in the folder of each row. "
        "Here stand the figures that the rule goes by; study.json has all.",
        tables.markdown(["control", "row", "seeds", "figures, mean and deviation over seeds"], lines),
    ]


@dataclass(frozen=True)
class Ability:
    """What a row says to yes/no questions, over the seeds, in percent; `more`: accuracy minus that of the first row."""

    row: str
    questions: int
    figures: Mapping[str, seeds.Spread]
    more: seeds.Spread | None


_ABILITY = {"accuracy": "accuracy %", "f1": "F1 %", "yes_ratio": "yes %"}


def _ability(config: StudyConfig, outcomes: Sequence[Outcome]) -> list[Ability]:
    found: list[Ability] = []
    first: list[float] = []
    for row in config.guard.rows if config.guard else ():
        by_seed = [outcome.ability[row] for outcome in outcomes]
        figures = {key: seeds.spread([one[key] for one in by_seed]) for key in _ABILITY}
        values = [one["accuracy"] for one in by_seed]
        more = seeds.spread([value - start for value, start in zip(values, first, strict=True)]) if first else None
        first = first or values
        found.append(Ability(row, sum(one["n"] for one in by_seed), figures, more))
    return found


def _ability_section(ability: Sequence[Ability]) -> list[str]:
    if not ability:
        return []
    lines = [
        [
            tables.cell(one.row),
            *(_spread(one.figures[key], key) for key in _ABILITY),
            f"{one.more.mean:+.1f}" + (f" ± {one.more.deviation:.1f}" if one.more.deviation is not None else "")
            if one.more
            else "",
            str(one.questions),
        ]
        for one in ability
    ]
    return [
        "## General ability",
        "Yes/no questions about single pictures, in the manner of POPE (`stcr guard`). Always yes, always no and a "
        f"coin have 50 % accuracy. The difference is to {tables.cell(ability[0].row)}, on the same questions.",
        tables.markdown(["row", *_ABILITY.values(), "difference of accuracy", "questions"], lines),
    ]


def _splits(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["dataset"], row["split"]) for row in results))


def _of(results: Sequence[Mapping[str, Any]], name: str, split: tuple[str, str]) -> list[Mapping[str, Any]]:
    return [row for row in results if row["name"] == name and (row["dataset"], row["split"]) == split]


def _cost(by_seed: Sequence[Cost]) -> Cost:
    """That of the first seed, with the seconds of all on average."""
    return dataclasses.replace(by_seed[0], seconds=sum(one.seconds for one in by_seed) / len(by_seed))


def _counted(config: StudyConfig) -> str:
    """What the figures of the table of costs are of, and of which rows they are not all that the loss covers."""
    recipes = {name: recipe_of(stage.recipe, stage.overrides) for name, stage in config.stages.items()}
    masked = {name for name, recipe in recipes.items() if "authors" in str((recipe.get("stcr") or {}).get("mask"))}
    rows = [row for row in config.stages if row in config.rows and masked & {*config.chain(row)}]
    more = (
        f" In {', '.join(rows)} the loss also covers the end of the prompt and its image tokens (`stcr.mask=authors`), "
        "which are not counted."
        if rows
        else ""
    )
    return (
        "Supervised tokens are those of the answers, with their end of turn, in all processes together, about."
        f"{more} Seconds are those of this machine, with the callback's measurements, and say nothing where other work "
        "ran beside."
    )


def _how(config: StudyConfig, comparisons: int, modes: Mapping[str, str], revisions: Sequence[str]) -> str:
    equal = {
        "nothing": "The rows take the steps that the table of costs says.",
        "steps": "All rows take equally many steps from the base on.",
        "tokens": "All rows are trained on about equally many supervised tokens from the base on.",
    }[config.equal]
    several = len(config.seeds) > 1
    seeds_words = (
        "Figures are means over seeds, ± one standard deviation of a single run. Differences are paired, seed by seed: "
        "their interval over seeds is a t-interval, p that of the sign-flip test (its smallest value with "
        f"{len(config.seeds)} seeds is {2 / 2 ** len(config.seeds):.3g}). "
        if several
        else "One seed cannot say whether another training would come out alike. "
    )
    asked = (
        " Rows are asked in the mode that they were trained in: in mode cot a model writes, and may be cut or say "
        "nothing that can be read (unparsed, which counts as wrong); in mode direct the likelier answer counts. A "
        "difference between the two modes is one of the asking too."
        if len(set(modes.values())) > 1
        else ""
    )
    return (
        f"Seeds {', '.join(map(str, config.seeds))}; each has data, a base and stages of its own. {equal} {seeds_words}"
        "The interval over episodes says what other episodes would have given of the same runs. "
        f"{comparisons} differences stand below, and none is adjusted for their number.{asked} "
        f"Trained and asked at code revision {', '.join(revisions)}."
    )


def _overview(
    config: StudyConfig,
    spreads: Sequence[seeds.OverSeeds],
    leads: Sequence[seeds.SeedsDifference],
    splits: Sequence[tuple[str, str]],
) -> list[str]:
    """All rows and splits at a glance: pair accuracy, and how far it is from the reference's."""
    accuracies = {_where(one.of): _spread(one.figures["pair_accuracy"], "pair_accuracy") for one in spreads}
    differences = {_where(one.of): f"{one.points.mean:+.1f} ({_lead(one)[-1]})" for one in leads}
    names = [split for _, split in splits]
    heads = ["row", *(tables.cell(split if names.count(split) == 1 else f"{data}, {split}") for data, split in splits)]

    def table(cells: Mapping[tuple[str, str, str], str], rows: Sequence[str]) -> str:
        return tables.markdown(heads, [[tables.cell(row), *(cells[row, *split] for split in splits)] for row in rows])

    parts = [
        "## At a glance",
        tables.COLUMNS["pair_accuracy"].heading.capitalize() + ":",
        table(accuracies, config.rows),
    ]
    if leads:
        parts += [f"Minus {config.reference}, in points, with the 95 % interval over episodes:"]
        parts += [table(differences, list(dict.fromkeys(str(one.of["name"]) for one in leads)))]
    return parts


def _where(of: Mapping[str, Any]) -> tuple[str, str, str]:
    return of["name"], of["dataset"], of["split"]


def _section(
    config: StudyConfig,
    split: tuple[str, str],
    spreads: Sequence[seeds.OverSeeds],
    leads: Sequence[seeds.SeedsDifference],
    modes: Mapping[str, str],
) -> list[str]:
    heads = ["row", "mode", *(tables.COLUMNS[name].heading for name in _SHOWN), f"minus {config.reference}"]
    heads += ["95 % over seeds", "p", "95 % over episodes"]
    lines = []
    for one in spreads:
        if (one.of["dataset"], one.of["split"]) != split:
            continue
        lead = next((lead for lead in leads if lead.of == one.of), None)
        lines.append(
            [
                tables.cell(one.of["name"]),
                modes[one.of["name"]],
                *(_spread(one.figures[name], name) for name in _SHOWN),
                *_lead(lead),
            ]
        )
    return [f"## {tables.cell(', '.join(split))}", tables.markdown(heads, lines)]


def _spread(found: seeds.Spread, name: str) -> str:
    mean = tables.figure({name: found.mean}, name)
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.1f}"


def _lead(lead: seeds.SeedsDifference | None) -> list[str]:
    if lead is None:
        return [""] * 4
    of_seeds, of_episodes = (
        "-" if bounds is None else " to ".join(f"{bound:+.1f}" for bound in bounds)
        for bounds in (lead.points.interval, lead.episodes_interval)
    )
    p = f"{lead.p_flips.p:.3f}" if len(lead.seeds) > 1 else "-"
    return [f"{lead.points.mean:+.1f}", of_seeds, p, of_episodes]
