"""A model and a split -> answers on disk, figures, plot and examples. A killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.evaluation import engine, metrics, plots, tables
from stcr_plugin.evaluation.engine import AskSettings
from stcr_plugin.evaluation.metrics import Figures
from stcr_plugin.types import ORDERS, Answer, Pair, Query

if TYPE_CHECKING:
    from stcr_plugin.registry.overlap import Side

RESULTS, ANSWERS, ASKED, REPORT = "results.json", "answers.jsonl", "asked.json", "report.md"
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
    model_dir: Path,
    dataset: str,
    split: str,
    out: Path,
    registry: Path = Path("data_registry"),
    settings: AskSettings | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    name: str | None = None,
) -> Results:
    """Put every pair of `split` to the model in both orders, and write the figures into the folder `out`.

    Writes answers.jsonl (as they come), asked.json (what they answer), results.json, report.md and its pictures.
    `limit` takes that many pairs, spread evenly over episodes, the same for the same seed; the seed also draws the
    wordings and the bootstrap. Answers of an earlier run are used again where the model, the data and the settings
    are the same; otherwise the run starts anew. `overlap` in results.json says what the pairs share with the training
    of the model and of the stages before it. Raises DataError for data or a model that cannot be used.
    """
    from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

    model_dir, out = Path(model_dir), Path(out)
    stage = stage_of(model_dir)
    settings = _completed(settings or AskSettings(), stage)
    pairs = spread(read_pairs(registry, dataset, split), limit, seed)
    queries = [Query(pair, order) for pair in pairs for order in ORDERS]
    ties = teaches_ties(read_manifest(registry, dataset))
    questions = engine.questions_for(queries, settings, seed, ties)
    asked = {
        "model_digest": artefacts.model_digest(model_dir),
        "data_digest": _data_digest(pairs, registry),
        "questions_digest": artefacts.digest(questions),
        "code_digest": artefacts.code_digest("evaluation/engine.py", "evaluation/answers.py"),
        # batch_size changes no answer, and lowering it is how one goes on after running out of memory.
        "settings": {key: value for key, value in dataclasses.asdict(settings).items() if key != "batch_size"},
        "seed": seed,
    }
    shared = _overlap(model_dir, registry, dataset, split, pairs, questions, seed)
    with artefacts.locked(out / ".lock"):
        answers = _ask(model_dir, queries, questions, registry, settings, out, asked, ties)
        figures = metrics.figures(answers)
        row = {
            "name": name or stage.get("name") or model_dir.resolve().name,
            "model": str(model_dir),
            "dataset": dataset,
            "split": split,
            "mode": settings.mode,
            "ties": ties,
            "unit": "percent",
            **dataclasses.asdict(figures),
            "intervals": metrics.intervals(answers, resamples, seed),
            "by_phase": _by_phase(pairs, answers, resamples, seed),
            "per_episode": metrics.per_episode(answers),
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "resamples": resamples,
            "limit": limit,
            "overlap": shared,
            "model_digest": asked["model_digest"],
            "data_digest": asked["data_digest"],
            "questions_digest": asked["questions_digest"],
            "provenance": artefacts.provenance(),
        }
        _write_report(out, row, pairs, answers, registry)
        artefacts.write_json(out / RESULTS, row)
    return Results(out, figures, row)


def stage_of(model_dir: Path) -> dict[str, Any]:
    """The model's stage.json, {} without one. Raises DataError where its mode is none that can be asked in."""
    path = Path(model_dir) / "stage.json"
    stage = artefacts.read_json(path) if path.exists() else {}
    if not isinstance(stage, dict) or stage.get("mode") not in (None, "cot", "direct"):
        raise DataError(f'{path}: expected an object whose "mode" is "cot" or "direct"; set it, or name the mode')
    return stage


def overlap_words(row: Mapping[str, Any]) -> str:
    """One sentence or two about `overlap` of a results.json: Overlap.row(), or `unknown`, or both."""
    unknown = str(row.get("unknown") or "")
    if "episodes" not in row:
        return f"Overlap with the training data is unknown: {unknown}."
    episodes, pictures, near = row["episodes"], row["pictures"], row["near"]
    if episodes["shared"] or pictures["shared"]:
        text = (
            f"WARNING: the model was trained on what it is evaluated on: {episodes['shared']} of "
            f"{episodes['evaluated']} episodes and {pictures['shared']} of {pictures['evaluated']} pictures are in "
            "its training data"
        )
    else:
        text = "No evaluated episode or picture is in the training data"
    text += f" ({row['trained']})."
    if near and near["share"] is not None:
        within = near["share_within"]
        beside = "" if within is None else f", against {within:.1f} % between training episodes"
        text += (
            f" Of {near['sampled']} evaluated pictures {near['share']:.1f} % are nearer to a training picture than "
            f"neighbouring frames of one episode are to each other{beside}."
        )
    return f"{text} Not all of the training is known: {unknown}." if unknown else text


def read_answers(path: Path) -> list[Answer]:
    """The answers in an answers.jsonl. Raises DataError where it holds anything else."""
    try:
        return [Answer(**row) for row in artefacts.read_jsonl(path)]
    except (DataError, TypeError) as error:
        raise DataError(f"{path}: not the answers of an evaluation ({error}); delete the file, run again") from error


def _completed(settings: AskSettings, stage: Mapping[str, Any]) -> AskSettings:
    """`settings` with what they leave open taken from the model's stage: pictures are sized as in its training."""
    where, given = "the settings, completed by the model's stage.json", dataclasses.asdict(settings)
    trained = {key: stage.get(key) for key in ("mode", "image_max_pixels", "image_min_pixels") if given[key] is None}
    taken = from_mapping(AskSettings, given | trained, where)
    most, least = taken.pixels
    rest = {"mode": taken.mode or "direct", "image_max_pixels": most, "image_min_pixels": least}
    return from_mapping(AskSettings, given | rest, where)


def spread(pairs: Sequence[Pair], limit: int | None, seed: int = 0) -> list[Pair]:
    """`limit` of `pairs` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    if limit is None:
        return list(pairs)
    if limit < 1:
        raise ConfigError(f"limit {limit}: must be at least 1")
    taken: dict[str, int] = defaultdict(int)
    ranked = []
    for pair in sorted(pairs, key=lambda pair: artefacts.digest([seed, pair.pair_id])):
        ranked.append((taken[pair.episode_id], artefacts.digest([seed, pair.episode_id]), pair.pair_id))
        taken[pair.episode_id] += 1
    chosen = {pair_id for _, _, pair_id in sorted(ranked)[:limit]}
    return [pair for pair in pairs if pair.pair_id in chosen]


def _ask(
    model_dir: Path,
    queries: Sequence[Query],
    questions: Sequence[str],
    registry: Path,
    settings: AskSettings,
    out: Path,
    asked: Mapping[str, Any],
    ties: bool,
) -> list[Answer]:
    """All answers, in the order of `queries`; those that `out` holds already are not asked again."""
    path = out / ANSWERS
    known = {(answer.pair_id, answer.order): answer for answer in _earlier_answers(out, asked)}
    left = [
        (query, question)
        for query, question in zip(queries, questions, strict=True)
        if (query.pair.pair_id, query.order) not in known
    ]
    if left:
        model, processor = engine.load(model_dir)
        left_queries, left_questions = zip(*left, strict=True)
        with open(path, "a", encoding="utf-8") as file:

            def keep(answers: list[Answer]) -> None:
                for answer in answers:
                    known[answer.pair_id, answer.order] = answer
                    file.write(json.dumps(dataclasses.asdict(answer), ensure_ascii=False) + "\n")
                file.flush()

            engine.answer(
                model, processor, left_queries, left_questions, registry, settings, ties=ties, on_answers=keep
            )
    return [known[query.pair.pair_id, query.order] for query in queries]


def _earlier_answers(out: Path, asked: Mapping[str, Any]) -> list[Answer]:
    """The whole lines of an earlier run that asked the same; a line that was cut is dropped from the file."""
    path, header = out / ANSWERS, out / ASKED
    if path.exists() and header.exists() and artefacts.read_json(header) == asked:
        data = path.read_bytes()
        artefacts.write_bytes(path, data[: data.rfind(b"\n") + 1])
        return read_answers(path)
    if path.exists():
        logging.getLogger(__name__).warning(
            "%s: answers of another model, data or settings; asking anew and replacing them", out
        )
    artefacts.write_bytes(path, b"")  # before the header, so that no header ever stands above others' answers
    artefacts.write_json(header, asked)
    return []


def _data_digest(pairs: Sequence[Pair], registry: Path) -> str:
    """SHA-256 over the pairs and the contents of their pictures, which may be replaced under the same path."""
    from stcr_plugin.registry.pictures import read

    shown = {name: pair for pair in pairs for name in (pair.earlier_image, pair.later_image)}
    sums = {}
    for name in sorted(shown):
        try:
            sums[name] = artefacts.sha256_of(read(registry, name))
        except DataError as error:
            reason = str(error).removeprefix(f"{name}: ")
            raise DataError(
                f"{Path(registry) / name}: picture of pair {shown[name].pair_id} is not readable "
                f"({reason}); write the dataset anew"
            ) from error
    return artefacts.digest([[dataclasses.asdict(pair) for pair in pairs], sums])


def _overlap(
    model_dir: Path,
    registry: Path,
    dataset: str,
    split: str,
    pairs: Sequence[Pair],
    questions: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """What the evaluation shares with all that the model's chain was trained on: key `overlap` of results.json.

    Overlap.row(), with `unknown` beside it where a part of the chain cannot be looked at; `unknown` alone where no
    part can. Trouble with another's data is no reason to fail an evaluation.
    """
    from stcr_plugin.registry.overlap import asked_side, compare, merged, wording

    trained, unknown = _trained_on(model_dir, registry)
    row: dict[str, Any] = {}
    if trained:
        tasks = (pair.task for pair in pairs for _ in ORDERS)
        wordings = [wording(question, task) for question, task in zip(questions, tasks, strict=True)]
        row = compare(merged(trained), asked_side(registry, dataset, split, pairs, wordings), seed).row()
    row |= {"unknown": "; ".join(unknown)} if unknown else {}
    if row.get("episodes", {}).get("shared") or row.get("pictures", {}).get("shared"):
        logging.getLogger(__name__).warning("%s", overlap_words(row))
    return row


def _trained_on(model_dir: Path, registry: Path) -> tuple[list[Side], list[str]]:
    """The training sets of a model's stage and of those before it, and why some are not known."""
    from stcr_plugin.registry.overlap import side

    sides: dict[tuple[Path, str], Side] = {}
    unknown: list[str] = []
    run, stage = model_dir, stage_of(model_dir)
    if not stage:
        unknown.append(f"{run} holds no stage.json")
    seen = {run.resolve()}
    while stage:
        name = stage.get("name")
        if not stage.get("datasets"):
            unknown.append(f"stage {name} does not say what it was trained on")
        for dataset in stage.get("datasets") or ():
            try:
                place = _where(stage, dataset, registry)
                if (place.resolve(), dataset) not in sides:
                    sides[place.resolve(), dataset] = side(dataset, place)
            except StcrError as error:
                unknown.append(f"stage {name}: {error}")
        above: dict[str, Any] = {}
        run = Path(str(stage.get("parent") or ""))
        if stage.get("parent") and run.resolve() not in seen:
            seen.add(run.resolve())
            try:
                above = stage_of(run)
            except DataError as error:
                unknown.append(str(error))
        if stage.get("parent_stage") and not above:
            unknown.append(f"stage {stage['parent_stage']}: {run} holds no stage.json any more")
        elif above.get("model_digest") and above["model_digest"] != stage.get("parent_digest"):
            unknown.append(f"stage {above.get('name')}: {run} was trained anew since {name} started from it")
            above = {}
        stage = above
    return list(sides.values()), unknown


def _where(stage: Mapping[str, Any], dataset: str, registry: Path) -> Path:
    """The registry folder that holds a stage's dataset still: its own or that of the evaluation.

    Raises DataError where neither holds the data that it was trained on.
    """
    from stcr_plugin.registry.manifest import read_manifest

    own = Path(str((stage.get("recipe") or {}).get("dataset_dir") or "data_registry"))
    data = stage.get("data") or []
    digests = {entry["build"]: entry["config_digest"] for entry in ([data] if isinstance(data, dict) else data)}
    reasons = []
    for place in dict.fromkeys((own, registry)):
        try:
            manifest = read_manifest(place, dataset)
        except StcrError as error:
            reasons.append(str(error))
            continue
        if digests.get(manifest["name"], manifest["config_digest"]) == manifest["config_digest"]:
            return place
        reasons.append(f"{place}: {manifest['name']} was built anew since, by another configuration or other code")
    raise DataError(f"its dataset {dataset} cannot be looked at ({'; '.join(reasons)})")


def _by_phase(pairs: Sequence[Pair], answers: Sequence[Answer], resamples: int, seed: int) -> dict[str, Any]:
    """Figures of the pairs within one phase and of those crossing from one to another; {} where no phase is known."""
    kinds = {pair.pair_id: "crossing" if ">" in pair.phase else "within" for pair in pairs if pair.phase}
    groups = {
        kind: [answer for answer in answers if kinds.get(answer.pair_id) == kind] for kind in ("within", "crossing")
    }
    return {
        kind: {**dataclasses.asdict(metrics.figures(group)), "intervals": metrics.intervals(group, resamples, seed)}
        for kind, group in groups.items()
        if not metrics.only_ties(group)
    }


def _write_report(
    out: Path, row: Mapping[str, Any], pairs: Sequence[Pair], answers: Sequence[Answer], registry: Path
) -> None:
    groups = [("all pairs", row)]
    names = {"within": "within one phase", "crossing": "crossing phases"}
    groups += [(names[kind], figures) for kind, figures in row["by_phase"].items()]
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
        "so none can be unparsed."
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
        tables.cell(overlap_words(row["overlap"])),
        tables.figures_table([{"pairs of": label, **figures} for label, figures in groups], ["pairs of"]),
        f"![Forward, backward and pair accuracy]({PLOT})",
        "## What the figures mean",
        tables.meanings_table([figures for _, figures in groups]),
        "## Right and wrong examples",
        "Forward shows the earlier frame as img1, backward shows it as img2.",
        f"![Examples]({SHEET})",
        tables.markdown(["verdict", "task", "frames", "said forward", "said backward"], words),
    ]
    artefacts.write_text(out / REPORT, "\n\n".join(parts) + "\n")


def _examples(
    pairs: Sequence[Pair], answers: Sequence[Answer], each: int = 2
) -> list[tuple[str, Pair, Answer, Answer]]:
    """Up to `each` pairs of every verdict that occurs, evenly spaced over the split."""
    both = metrics.by_pair(answers)
    chosen = []
    for right, verdict in _VERDICTS:
        found = [pair for pair in pairs if tuple(answer.right for answer in both[pair.pair_id]) == right]
        step = max(1, len(found) // each)
        chosen += [(verdict, pair, *both[pair.pair_id]) for pair in found[::step][:each]]
    return chosen


def _example(registry: Path, verdict: str, pair: Pair, forward: Answer, backward: Answer) -> plots.Example:
    colour = {True: "#006644", False: "#A03000"}
    return plots.Example(
        engine.open_picture(registry, pair.earlier_image, pair.pair_id),
        engine.open_picture(registry, pair.later_image, pair.pair_id),
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
