"""A model and a split -> answers on disk, figures, plot and examples. A killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import picture_sums, put, write_answers
from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings, Engine, Priced
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import comparators
from stcr_plugin.evaluation.comparators import Comparator
from stcr_plugin.evaluation.leakage import contamination, overlap_words
from stcr_plugin.report import plots, tables
from stcr_plugin.scoring import breakdown, metrics, significance
from stcr_plugin.scoring.metrics import Figures
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Answer, Pair, Prompt, Query

RESULTS, ANSWERS, REPORT = "results.json", "answers.jsonl", "report.md"
PLOT, SHEET = "accuracies.png", "examples.png"
_VERDICTS = (
    ((True, True), "right in both orders"),
    ((True, False), "right forward only"),
    ((False, True), "right backward only"),
    ((False, False), "wrong in both orders"),
)


@dataclass(frozen=True)
class Results:
    """One evaluation: the figures of `figures`, and `row`, all of results.json, which lies in `out`."""

    out: Path
    figures: Figures
    row: Mapping[str, Any]


def evaluate(
    model_dir: Path | None,
    dataset: str,
    split: str,
    out: Path,
    registry: Path = Path("data_registry"),
    settings: AskSettings | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    name: str | None = None,
    engine: Engine | None = None,
    change: Callable[[list[Prompt]], list[Prompt]] | None = None,
    comparator: Comparator | None = None,
) -> Results:
    """Put every pair of `split` to the model in both orders, and write the figures into the folder `out`.

    Writes said.jsonl and asked.json (see asking.put), answers.jsonl, results.json, report.md and its pictures.
    `limit` takes that many pairs, spread evenly over episodes, the same for the same seed; the seed also draws the
    wordings and the bootstrap. `engine` is asked instead of the model in the folder `model_dir`, which may then be
    None. `change` makes other prompts of those that would be put, item and order kept; pairs that it leaves out are not
    asked. `comparator` asks otherwise and combines what is said, into folders of its own inside `out` (see
    comparators). What an earlier run was told is used again, prompt by prompt, where model and settings, words and
    pictures are the same. `overlap` in results.json says what the pairs share with the training of the model and of the
    stages before it.
    Raises DataError for data or a model that cannot be used.
    """
    from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

    out = Path(out)
    who = subject(model_dir, registry, settings, engine, **(comparator.settings if comparator else {}))
    settings, engine = who.settings, who.engine
    pairs = spread(read_pairs(registry, dataset, split), limit, seed)
    queries = [Query(pair, order) for pair in pairs for order in ORDERS]
    ties = teaches_ties(read_manifest(registry, dataset))
    prompts = prompts_for(queries, settings, seed, ties)
    if change:
        prompts = change(prompts)
        kept = {prompt.item for prompt in prompts}
        pairs = [pair for pair in pairs if pair.pair_id in kept]
        queries = [query for query in queries if query.pair.pair_id in kept]
    sums = _pictures_of(pairs, registry)
    data_digest = artefacts.digest([[dataclasses.asdict(pair) for pair in pairs], sums])
    shared = contamination(who.model_dir, registry, dataset, split, pairs, [one.question for one in prompts], seed)
    with artefacts.locked(out / ".lock"):
        asked = {"data_digest": data_digest, "settings": settings.decides, "seed": seed}
        if comparator:
            said, plain = comparators.ask(comparator, engine, prompts, out, asked, sums)
        else:
            said, plain = put(engine, prompts, out, asked, sums), None
        answers = [answered(*one) for one in zip(queries, prompts, said, strict=True)]
        write_answers(out / ANSWERS, answers)
        figures = metrics.figures(answers)
        identity = engine.identity()
        row = {
            **who.names(name),
            "dataset": dataset,
            "split": split,
            "mode": settings.mode,
            "ties": ties,
            "unit": "percent",
            **dataclasses.asdict(figures),
            "intervals": metrics.intervals(answers, resamples, seed),
            **breakdown.breakdowns(pairs, answers, resamples, seed),
            "p_gap": dataclasses.asdict(significance.gap_p(answers, seed=seed)),
            "per_episode": metrics.per_episode(answers),
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "resamples": resamples,
            "limit": limit,
            "comparator": comparator
            and comparators.account(
                comparator,
                answers,
                [answered(*one) for one in zip(queries, prompts, plain, strict=True)] if plain else None,
                resamples,
                seed,
            ),
            "tokens": _tokens(answers),
            "cost": _cost(engine, answers),
            "overlap": shared,
            "engine": dict(identity),
            "model_digest": identity.get("model_digest"),
            "data_digest": data_digest,
            "questions_digest": artefacts.digest([one.question for one in prompts]),
            "provenance": artefacts.provenance(),
        }
        _write_report(out, row, pairs, answers, registry)
        artefacts.write_json(out / RESULTS, row)
    return Results(out, figures, row)


def _tokens(answers: Sequence[Answer]) -> dict[str, int] | None:
    """Sums over the answers that were counted; None where none was."""
    counted = [
        (one.prompt_tokens, one.completion_tokens)
        for one in answers
        if one.prompt_tokens is not None and one.completion_tokens is not None
    ]
    if not counted:
        return None
    return {"prompt": sum(one for one, _ in counted), "completion": sum(one for _, one in counted)}


def _cost(engine: Engine, answers: Sequence[Answer]) -> float | None:
    """What the answers cost; None without prices, or where the tokens of some were not counted.

    Requests that brought no answer are not in it, though a server may have charged for them.
    """
    tokens = _tokens(answers)
    if tokens is None or not isinstance(engine, Priced) or any(one.prompt_tokens is None for one in answers):
        return None
    return engine.cost(tokens["prompt"], tokens["completion"])


def read_answers(path: Path) -> list[Answer]:
    """The answers in an answers.jsonl. Raises DataError where it holds anything else."""
    try:
        return [Answer(**row) for row in artefacts.read_jsonl(path)]
    except (DataError, TypeError) as error:
        raise DataError(f"{path}: not the answers of an evaluation ({error}); delete the file, run again") from error


def spread(pairs: Sequence[Pair], limit: int | None, seed: int = 0) -> list[Pair]:
    """`limit` of `pairs` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    drawn = sorted(pairs, key=lambda pair: artefacts.digest([seed, pair.pair_id]))
    chosen = {pair.pair_id for pair in evenly(drawn, limit, seed)}
    return [pair for pair in pairs if pair.pair_id in chosen]


class OfEpisode(Protocol):
    """Whatever is of one episode."""

    @property
    def episode_id(self) -> str: ...


T = TypeVar("T", bound=OfEpisode)


def evenly(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of `items`: the first of each episode before any second, and so on; all without a limit."""
    if limit is None:
        return list(items)
    if limit < 1:
        raise ConfigError(f"limit {limit}: must be at least 1")
    taken: dict[str, int] = defaultdict(int)
    ranked = []
    for number, item in enumerate(items):
        ranked.append((taken[item.episode_id], artefacts.digest([seed, item.episode_id]), number))
        taken[item.episode_id] += 1
    return [items[number] for _, _, number in sorted(ranked)[:limit]]


def digest_of_data(pairs: Sequence[Pair], registry: Path) -> str:
    """SHA-256 over the pairs and the contents of their pictures, which may be replaced under the same path."""
    return artefacts.digest([[dataclasses.asdict(pair) for pair in pairs], _pictures_of(pairs, registry)])


def _pictures_of(pairs: Sequence[Pair], registry: Path) -> dict[str, str]:
    shown = {image: f"pair {pair.pair_id}" for pair in pairs for image in (pair.earlier_image, pair.later_image)}
    return picture_sums(registry, shown)


def _write_report(
    out: Path, row: Mapping[str, Any], pairs: Sequence[Pair], answers: Sequence[Answer], registry: Path
) -> None:
    groups = [("all pairs", row)]
    groups += [(breakdown.PHASE_KINDS[kind], figures) for kind, figures in row["by_phase"].items()]
    title = f"{row['name']}: {row['dataset']}, {row['split']}"
    plots.accuracies(out / PLOT, {title: groups})
    chosen = _examples(pairs, answers)
    plots.contact_sheet(out / SHEET, [_example(registry, *shown) for shown in chosen])
    interval = (
        f"Intervals: 95 %, bootstrap over {row['n_episodes']} episodes, {row['resamples']} resamples."
        if row["intervals"]
        else "No intervals: with a single episode nothing can be said of others."
    )
    how = (
        "The answers were generated and parsed."
        if row["settings"]["generate"] or row["mode"] == "cot"
        else "The model was not left to write: "
        f"the {'likeliest of the three' if row['ties'] else 'likelier of the two'} answers counts, "
        "so that none is unparsed, unless they are equally likely."
    )
    words = [
        [
            verdict,
            *(tables.cell(text) for text in (pair.task, f"{pair.earlier} / {pair.later}", first.text, second.text)),
        ]
        for verdict, pair, first, second in chosen
    ]
    parts = [
        f"# Evaluation of {tables.cell(title)}",
        f"Mode `{row['mode']}`, model `{tables.cell(row['model'])}`, {row['n_queries']} queries. {how} {interval}",
        *([tables.cell(comparators.words(row))] if row["comparator"] else []),
        tables.cell(overlap_words(row["overlap"])),
        tables.figures_table([{"pairs of": label, **figures} for label, figures in groups], ["pairs of"]),
        _gap_words(row),
        f"![Forward, backward and pair accuracy]({PLOT})",
        "## What the figures mean",
        tables.meanings_table([figures for _, figures in groups]),
        *breakdown.sections(row),
        "## Right and wrong examples",
        "Forward shows the earlier frame as img1, backward shows it as img2.",
        f"![Examples]({SHEET})",
        tables.markdown(["verdict", "task", "frames", "said forward", "said backward"], words),
    ]
    artefacts.write_text(out / REPORT, "\n\n".join(parts) + "\n")


def _gap_words(row: Mapping[str, Any]) -> str:
    found = row["p_gap"]
    how = "all" if found["method"] == "exact" else "drawn"
    return (
        f"Were both orders alike, a gap of {tables.figure(row, 'gap_points').lstrip('+-')} points or more would come "
        f"about with p = {found['p']:.2g} ({found['permutations']} {how} sign flips of whole episodes). "
        "A large p is no proof that there is no gap."
    )


def _examples(
    pairs: Sequence[Pair], answers: Sequence[Answer], each: int = 2
) -> list[tuple[str, Pair, Answer, Answer]]:
    """Up to `each` pairs of every verdict that occurs, evenly spaced over the split; ties have none, as in figures."""
    both = metrics.untied(metrics.by_pair(answers))
    chosen = []
    for right, verdict in _VERDICTS:
        found = [pair for pair in pairs if tuple(answer.right for answer in both.get(pair.pair_id, ())) == right]
        step = max(1, len(found) // each)
        chosen += [(verdict, pair, *both[pair.pair_id]) for pair in found[::step][:each]]
    return chosen


def _example(registry: Path, verdict: str, pair: Pair, forward: Answer, backward: Answer) -> plots.Example:
    colour = {True: "#006644", False: "#A03000"}
    return plots.Example(
        open_picture(registry, pair.earlier_image, pair.pair_id),
        open_picture(registry, pair.later_image, pair.pair_id),
        (
            (f"{verdict.upper()}  ({pair.pair_id}, frames {pair.earlier} and {pair.later})", "#000000"),
            (f"task: {pair.task}", "#000000"),
            *(
                (
                    f"{answer.order}: expected {answer.expected}, got {answer.chosen or 'unparsed'}: {answer.text}",
                    colour[answer.right],
                )
                for answer in (forward, backward)
            ),
        ),
    )
