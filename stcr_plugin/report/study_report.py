"""The figures of a study in words: study.md, with a table for each split, and a plot."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.report import plots
from stcr_plugin.report.document import Block, Bullets, Cell, Document, Marked, Plot, Section, Table, Words, markdown
from stcr_plugin.report.factuality_words import CAUSES, CLAIM_HEADS
from stcr_plugin.report.guard_table import COLUMNS as COLUMNS_OF_GUARD
from stcr_plugin.report.tables import COLUMNS, ONE_TRAINING, OVER_EPISODES, OVER_SEEDS, bounds, number, signed
from stcr_plugin.scoring import seeds
from stcr_plugin.scoring.breakdown import STEP
from stcr_plugin.scoring.study_figures import ABILITY, CLAIMS, ClaimsOverSeeds, Split, StudyFigures
from stcr_plugin.scoring.verdicts import MEANINGS, SIGNED

REPORT, PLOT = "study.md", "study.png"
_SHOWN = ("pair_accuracy", "forward_accuracy", "backward_accuracy", "gap_points", "order_consistency", "unparsed_rate")
_BY_DIRECTION = ("earlier_closer_accuracy", "later_closer_accuracy", "clock_accuracy")
_INTERVALS = (OVER_EPISODES, OVER_SEEDS, "p over seeds")
_NO_EPISODES = "These differences have no interval over episodes: the file of a seed does not hold them by episode."
_EQUAL = {
    "nothing": "The rows take the steps given in the table of costs.",
    "steps": "All rows take equally many steps from the base on.",
    "tokens": "All rows are trained on about equally many supervised tokens from the base on.",
}


def write(out: Path, study: StudyFigures) -> Path:
    """Write study.md and study.png into the folder `out`, and return the path of study.md."""
    panels = {
        ", ".join(split): [(one.of.name, one.figures["pair_accuracy"].values) for one in study.on(split)]
        for split in study.splits
    }
    plots.seeds(out / PLOT, panels, "pair accuracy, percent")
    artefacts.write_text(out / REPORT, markdown(document(study, out)))
    return out / REPORT


def document(study: StudyFigures, out: Path) -> Document:
    """The report of a study, whose plot is in the folder `out`."""
    plot = Plot(out / PLOT, "Pair accuracy of every row, one point per seed")
    sections = [
        Section("At a glance", _overview(study)),
        *(Section(", ".join(split), [_of_split(study, split)]) for split in study.splits),
        Section("What the rule recommends", ruled(study)),
        Section("Kinds of pairs", kinds(study)),
        Section("What they wrote", claims(study)),
        Section("Controls", _controls(study)),
        Section("General ability", ability(study)),
        Section("Cost", _costs(study)),
    ]
    return Document(
        f"Study: {study.name}",
        [section for section in sections if section.blocks],
        [Words(study.asks), Words(method(study)), plot],
    )


def method(study: StudyFigures) -> str:
    """How the study was made, and how its figures are to be read."""
    several = (
        "Figures are means over seeds, ± one standard deviation of a single run. Differences are paired by seed: their "
        "interval over seeds is a t-interval, and p is that of the sign-flip test (its smallest value with "
        f"{len(study.seeds)} seeds is {2 / 2 ** len(study.seeds):.3g}). "
    )
    cost = study.costs.get(study.reference)
    before = [row for row in study.rows if cost and row in cost.stages[:-1]]
    shorter = (
        f" {', '.join(before)} is shorter: {study.reference} starts from it."
        if before and study.equal != "nothing"
        else ""
    )
    modes = (
        " Each row is evaluated in the mode that it was trained in. In mode cot a model writes its answer, which may "
        "be cut or unreadable (unparsed, which counts as wrong); in mode direct the likelier answer counts. So a "
        "difference between rows of two modes is also one of how they are evaluated."
    )
    return (
        f"Seeds {', '.join(map(str, study.seeds))}; each has its own data, base and stages. {_EQUAL[study.equal]}"
        f"{shorter} "
        f"{several if len(study.seeds) > 1 else 'One seed does not show how another training run would come out. '}"
        "The interval over episodes shows what other episodes would have given for the same runs; a difference of "
        "methods is shown only where the interval over seeds leaves out 0 as well. "
        f"The tables below have {len(study.leads)} differences, none adjusted for their number."
        f"{modes if len(set(study.modes.values())) > 1 else ''} "
        f"Trained and evaluated at code revision {', '.join(study.revisions)}."
    )


def _overview(study: StudyFigures) -> list[Block]:
    """Pair accuracy of all rows and splits, and its difference from the reference's with both intervals."""
    names = [split for _, split in study.splits]
    splits = {split: split[1] if names.count(split[1]) == 1 else f"{split[0]}, {split[1]}" for split in study.splits}
    accuracies = {_key(one): _spread(one.figures["pair_accuracy"], "pair_accuracy") for one in study.spreads}
    rows = [row for row in study.rows if any(row == name for name, *_ in accuracies)]
    heading = f"{COLUMNS['pair_accuracy'].heading.capitalize()}:"
    lines = [[row, *(accuracies[row, *split] for split in study.splits)] for row in rows]
    blocks: list[Block] = [Words(heading), Table(["row", *splits.values()], lines, heading)] if lines else []
    leads = [[splits[one.of.dataset, one.of.split], one.of.name, *_lead(one)] for one in study.leads]
    if leads:
        words = f"Minus {study.reference}, in points, with both intervals:"
        heads = ["split", "row", f"minus {study.reference}", *_INTERVALS]
        blocks += [Words(words), Table(heads, leads, words)]
    return blocks


def _of_split(study: StudyFigures, split: Split) -> Table:
    shown = [*_SHOWN, *(_BY_DIRECTION if any("clock_accuracy" in one.figures for one in study.on(split)) else ())]
    heads = ["row", "mode", *(COLUMNS[name].heading for name in shown), f"minus {study.reference}"]
    heads += _INTERVALS
    leads = {_key(one): one for one in study.leads}
    lines = [
        [
            one.of.name,
            study.modes[one.of.name],
            *(_spread(one.figures[name], name) if name in one.figures else "-" for name in shown),
            *_lead(leads.get(_key(one))),
        ]
        for one in study.on(split)
    ]
    return Table(heads, lines, ", ".join(split))


def ruled(study: StudyFigures) -> list[Block]:
    """The rule that was stated before the results, and what it says of each row."""
    if not study.recommendations:
        return []
    heads = ["row", "figure", *(f"seed {seed}" for seed in study.seeds), "above 0", "below 0", "recommended"]
    lines: list[list[Cell]] = []
    for one in study.recommendations:
        leads = {lead.seed: f"{signed(lead.points)} ({bounds(lead.interval)})" for lead in one.leads}
        figure = MEANINGS[one.figure][0] + (f", `{one.control}`" if one.control else f", {one.of.split}")
        lines.append([
            one.of.name,
            Marked(figure),
            *(leads.get(seed, "-") for seed in study.seeds),
            str(one.above),
            str(one.below),
            "yes" if one.recommended else "no",
        ])  # fmt: skip
    words = Words(
        f"The rule, stated before any result: a row is recommended for a figure only where its interval over episodes "
        f"against {study.reference} lies above 0 in at least {study.needed_seeds} of {len(study.seeds)} seeds. Points "
        f"of difference with that interval, seed by seed. That of pair accuracy is paired by episode. The others are "
        "made of the intervals of the two rows (MOVER), as if their episodes were not the same, so they are rather too "
        "wide. None is adjusted for their number."
    )
    return [words, Table(heads, lines, "What the rule recommends")]


def kinds(study: StudyFigures) -> list[Block]:
    """Pair accuracy by the distance of a pair's frames, and within and across phases."""
    lines = [
        [
            f"{one.dataset}, {one.split}",
            one.kind,
            one.row,
            _spread(one.pair_accuracy, "pair_accuracy"),
            *_more(one.more),
            str(one.pairs),
        ]
        for one in study.kinds
    ]
    heads = ["split", "pairs", "row", COLUMNS["pair_accuracy"].heading, f"minus {study.reference}", OVER_SEEDS]
    words = Words(f"{STEP} {_NO_EPISODES}")
    return [words, Table([*heads, "pairs of all seeds"], lines, "Kinds of pairs")] if lines else []


def claims(study: StudyFigures) -> list[Block]:
    """What the answers say of the pictures: a line per seed, then mean and deviation."""
    lines = [line for one in study.claims for line in _claim_lines(one)]
    if not lines:
        return []
    words = Words(f"{CAUSES} Errors are in percent of all answers; what is left of them is right or names no picture.")
    errors = [f"{cause} errors %" for cause in ("seeing", "judging", "unknown")]
    table = Table(["split", "row", "seed", *CLAIM_HEADS, *errors], lines, "What they wrote")
    unchecked = [
        f"{one.of.dataset}, {one.of.split}, {one.of.name}, seed {seed} was not checked: {why}"
        for one in study.claims
        for seed, why in one.unknown.items()
    ]
    return [words, table, *([Bullets(tuple(unchecked))] if unchecked else [])]


def _claim_lines(found: ClaimsOverSeeds) -> list[list[str]]:
    of = [f"{found.of.dataset}, {found.of.split}", found.of.name]
    spreads = [*(found.shares.get(name) for name in CLAIMS), *found.wrong.values()]
    by_seed = [
        [*of, str(seed), *("-" if one is None else number(one.values[at]) for one in spreads)]
        for at, seed in enumerate(found.seeds)
    ]
    mean = [*of, "mean", *("-" if one is None else _spread(one, "claims") for one in spreads)]
    return [*by_seed, mean] if len(by_seed) > 1 else by_seed


def _controls(study: StudyFigures) -> list[Block]:
    """A line per control and row: the verdicts over the seeds, and the figures that they depend on."""
    order = [one.control for one in study.controls]
    lines: list[list[Cell]] = [
        [
            Marked(f"`{one.control}`" + (" (informative)" if one.informative else "")),
            one.row,
            ", ".join(f"{one.verdicts.count(verdict)} {verdict}" for verdict in sorted(set(one.verdicts))),
            "; ".join(
                f"{MEANINGS[key][0]} {_spread(one.measures[key], 'gap_points' if key in SIGNED else key)}"
                for key in one.judged
            ),
        ]
        for one in sorted(study.controls, key=lambda one: order.index(one.control))
    ]
    words = Words(
        "What each control does, and the rule of its verdict: docs/evaluation.md, and controls.md in the folder of "
        "each row. The table has the figures that the rule depends on; study.json has all."
    )
    heads = ["control", "row", "seeds", "figures, mean and deviation over seeds"]
    return [words, Table(heads, lines, "Controls")] if lines else []


def ability(study: StudyFigures) -> list[Block]:
    """Yes/no questions about single pictures."""
    lines = [
        [
            one.row,
            *(_spread(one.figures[key], key) for key in ABILITY),
            *_more(one.more),
            str(one.questions),
        ]
        for one in study.ability
    ]
    if not lines:
        return []
    words = Words(
        "Yes/no questions about single pictures, as in POPE (`stcr guard`). A model that always says yes or no, and a "
        f"coin, have 50 % accuracy. The difference is from {study.ability[0].row}, on the same questions. "
        f"{_NO_EPISODES}"
    )
    heads = ["row", *(COLUMNS_OF_GUARD[key][0] for key in ABILITY), "difference of accuracy", OVER_SEEDS, "questions"]
    return [words, Table(heads, lines, "General ability")]


def _costs(study: StudyFigures) -> list[Block]:
    lines = [
        [row, " > ".join(cost.stages), str(cost.steps), f"{cost.supervised_tokens:,}", f"{cost.seconds:.0f}"]
        for row, cost in study.costs.items()
    ]
    more = (
        f" In {', '.join(study.masked)} the loss also covers the end of the prompt and its image tokens "
        "(`stcr.mask=authors`), which are not counted."
        if study.masked
        else ""
    )
    words = Words(
        "Supervised tokens are those of the answers, with their end of turn, in all processes together, approximately."
        f"{more} Seconds are those of this machine, with the callback's measurements; they mean nothing where other "
        "work ran at the same time."
    )
    heads = ["row", "stages from the base on", "steps", "supervised tokens", "seconds, on average"]
    return [Table(heads, lines, "Cost"), words]


def _key(one: seeds.OverSeeds | seeds.SeedsDifference) -> tuple[str, str, str]:
    return one.of.name, one.of.dataset, one.of.split


def _spread(found: seeds.Spread, name: str) -> str:
    mean = signed(found.mean) if name == "gap_points" else number(found.mean)
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.1f}"


def _lead(lead: seeds.SeedsDifference | None) -> list[str]:
    if lead is None:
        return [""] * 4
    p = f"{lead.p_flips.p:.3f}" if len(lead.seeds) > 1 else "-"
    return [signed(lead.points.mean), bounds(lead.episodes_interval), _over_seeds(lead.points), p]


def _more(found: seeds.Spread | None) -> list[str]:
    """A difference without episodes of its own, and its interval over seeds."""
    return ["", ""] if found is None else [signed(found.mean), _over_seeds(found)]


def _over_seeds(found: seeds.Spread) -> str:
    return bounds(found.interval) if found.interval else ONE_TRAINING
