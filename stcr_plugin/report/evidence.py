"""Sections about the results that other commands left in the runs' folders, each only where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcr_plugin.evaluation.rank import MEANINGS
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.report import plots, tables
from stcr_plugin.report.controls_table import control_counts, control_fixes, control_rules, control_table
from stcr_plugin.report.document import (
    Block,
    Bullets,
    Cell,
    Fold,
    Heading,
    Judged,
    Plot,
    Section,
    Table,
    Words,
    code,
    share,
)
from stcr_plugin.report.groups_table import group_figure
from stcr_plugin.report.guard_table import COLUMNS
from stcr_plugin.report.ranking_words import correlation
from stcr_plugin.report.runs import Found, Measured, Runs
from stcr_plugin.results import Controls, Guard, MultiImage
from stcr_plugin.scoring.group_figures import control_row

_GUARD = ("accuracy", "f1", "yes_ratio", "unparsed_rate")
_CURVES = 6  # progress curves that are drawn at most


def evidence(runs: Runs, out: Path) -> list[Section]:
    """Sections about all results but those of single pairs; their plots go into the folder `out`."""
    sections = [
        Section("Controls", _controls(runs.of(Controls))),
        Section("Three and more pictures", _groups(runs.of(MultiImage))),
        Section("Comparators: other prompts", _comparators(runs.comparators)),
        Section("Progress curves", _curves(runs.of(Ranking), out)),
        Section("Value-order correlation", _correlations(runs.of(ValueOrder), out)),
        Section("General ability", _guards(runs.of(Guard))),
    ]
    return [section for section in sections if section.blocks]


def counts_of_controls(runs: Runs) -> list[str]:
    """A line for each file of controls: how many hold, and which fail."""
    return [
        f"Controls of {code(found.run)} on {code(found.result.of.split)}: {control_counts(found.result.rows)}."
        for found in runs.of(Controls)
    ]


def _controls(found: Sequence[Found[Controls]]) -> list[Block]:
    blocks: list[Block] = []
    for one in found:
        of, rows = one.result.of, one.result.rows
        fixes = tuple(control_fixes(rows))
        advice: list[Block] = [Words("What would fix it:"), Bullets(fixes)] if fixes else []
        blocks += [
            Heading(", ".join((one.run, of.dataset, of.split))),
            Words(
                f"{of.n_pairs} pairs of {of.n_episodes} episodes, mode {code(of.mode)}: {control_counts(rows)}. "
                "Intervals: 95 %, bootstrap over episodes, paired with the plain run; each is computed separately, so "
                "one in twenty may miss at random. An informative control shows what the model uses; none of its "
                "outcomes is a fault."
            ),
            control_table(rows),
            *advice,
            Fold(
                "The rules of the verdicts, which are in the code and depend on no result",
                [Bullets(tuple(control_rules(rows)))],
            ),
        ]
    return blocks


def _groups(found: Sequence[Found[MultiImage]]) -> list[Block]:
    if not found:
        return []
    rows: list[list[Cell]] = []
    rules: dict[str, None] = {}
    for one in found:
        result, figures, chance = one.result, one.result.figures, one.result.chance
        judged = control_row(result)
        rules[f"{judged.name}: {judged.rule}."] = None
        rows.append(
            [
                one.run,
                f"{result.dataset}, {result.split}",
                f"{result.asked.pictures}, {result.asked.ask}",
                Judged(judged.verdict),
                share(result, "accuracy"),
                tables.number(chance["accuracy"]),
                share(result, "all_rotations"),
                tables.number(chance["all_rotations"]),
                share(result, "exact"),
                group_figure(result, "kendall_tau"),
                " / ".join(map(str, figures.places)),
                f"{figures.n_groups} of {figures.n_episodes}",
            ]
        )
    heads = ["name", "data", "pictures", "verdict", "closest named right %", "a coin gives"]
    heads += ["groups right in every arrangement %", "a coin gives", "whole order right %", "Kendall's tau"]
    heads += ["named by position", "groups of episodes"]
    return [Table(heads, rows, "Groups of pictures"), Bullets(tuple(rules))]


def _comparators(found: Sequence[Measured]) -> list[Block]:
    rows: list[list[Cell]] = []
    for one in found:
        account = one.of.comparator
        assert account
        plain = account.plain
        rows.append(
            [
                account.name,
                one.name,
                f"{one.of.dataset}, {one.of.split}",
                share(one.of),
                tables.number(account.mean_accuracy),
                tables.number(plain.pair_accuracy) if plain else "-",
                tables.difference(plain.difference) if plain else "-",
                str(one.of.figures.n_pairs),
                f"{account.does} ({account.source})",
            ]
        )
    heads = ["comparator", "name", "data", "pair accuracy %", "mean of the single orders %"]
    heads += ["plain prompt: pair accuracy %", "difference", "pairs", "what it does"]
    words = Words(
        "What to try before training: the model's weights are unchanged, and nothing was tuned on any split of this "
        "data. Judge by accuracy: an ensemble of both orders has no gap by construction."
    )
    return [words, Table(heads, rows, "Comparators")] if rows else []


def _curves(found: Sequence[Found[Ranking]], out: Path) -> list[Block]:
    blocks: list[Block] = []
    for number, one in enumerate(found[:_CURVES], 1):
        file, ranking = out / f"progress-{number}.png", one.result
        plots.progress(file, ranking)
        blocks += [
            Heading(f"{code(one.run)}: {ranking.episode_id}"),
            Words(ranking.words),
            Plot(file, f"Progress of each frame of {ranking.episode_id}: {ranking.words}"),
        ]
    if len(found) > _CURVES:
        blocks.append(Words(f"The runs' folders have {len(found) - _CURVES} more rankings."))
    return blocks


def _correlations(found: Sequence[Found[ValueOrder]], out: Path) -> list[Block]:
    if not found:
        return []
    rows = [
        [
            one.run if one.result.method == "pairs" else f"{one.run} ({one.result.method})",
            *(correlation(one.result, name) for name in MEANINGS),
            str(one.result.n_strips),
            str(one.result.n_episodes),
        ]
        for one in found
    ]
    heads = ["run", "VOC", "VROC", "VOC-F1", "VOC of both orders", "strips", "episodes"]
    blocks: list[Block] = [
        Table(heads, rows, "Value-order correlation"),
        Bullets(tuple(f"{head}: {meaning}." for head, meaning in zip(heads[1:5], MEANINGS.values(), strict=True))),
        Words(
            'Each is 1 for a judge that is always right and 0 for a coin; a judge that always says "the second is '
            'further" has +1, -1, 0, 0. With another method, named beside the run, the values that it gives are '
            "correlated, and the video itself is reversed."
        ),
    ]
    for number, one in enumerate(found[:_CURVES], 1):
        file = out / f"voc-{number}.png"
        plots.correlations(file, one.result)
        alt = ", ".join(f"{head} {value}" for head, value in zip(heads[1:5], rows[number - 1][1:5], strict=True))
        blocks.append(Plot(file, f"Value-order correlations of {one.run}: {alt}"))
    return blocks


def _guards(found: Sequence[Found[Guard]]) -> list[Block]:
    if not found:
        return []
    kinds = dict.fromkeys(kind for one in found for kind in one.result.kinds)
    rows: list[list[Cell]] = [
        [one.run, kind, *(share(of, name, clusters="pictures") for name in _GUARD), str(of.n)]
        for kind in kinds
        for one in found
        if (of := one.result.kinds.get(kind))
    ]
    silent = [
        code(one.run) for one in found if all(of.figures.yes_ratio in (0, 100) for of in one.result.kinds.values())
    ]
    same = f"{', '.join(silent)} gave one answer to all questions, which shows nothing about the cost of training."
    return [
        Words(
            "Yes/no questions about single pictures, as in POPE (arXiv 2305.10355), show what training cost. Always "
            '"yes", always "no" and a coin have 50 % accuracy; a coin says yes to 50 %. Intervals: 95 %, bootstrap '
            "over pictures. `stcr guard --compare` gives the difference of two runs with its interval."
        ),
        *([Words(same)] if silent else []),
        Table(["name", "negatives", *(COLUMNS[name][0] for name in _GUARD), "questions"], rows, "General ability"),
    ]
