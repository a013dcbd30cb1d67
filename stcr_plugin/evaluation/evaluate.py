"""A model and a split -> answers and figures on disk. A killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import collect_responses, picture_digests, write_answers
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import Engine, Priced
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation import comparators, descriptions
from stcr_plugin.evaluation.comparators import Comparator
from stcr_plugin.evaluation.leakage import contamination
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import Figures, Intervals, Tokens
from stcr_plugin.pairs import spread
from stcr_plugin.provenance import provenance
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring import breakdown, calibration, metrics, significance
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Answer, Pair, Prompt, Query, Response

RESULTS, ANSWERS = Evaluation.file, "answers.jsonl"


def evaluate(
    request: EvalRequest,
    out: Path,
    *,
    change: Callable[[list[Prompt]], list[Prompt]] | None = None,
    comparator: Comparator | None = None,
) -> Evaluation:
    """Evaluate a model on every pair of a split in both orders, and write results.json into the folder `out`.

    Writes also said.jsonl and asked.json (see engines/cache.py) and answers.jsonl. Responses of an earlier run are used
    again, prompt by prompt, where model, settings, words and pictures are the same, so a killed run goes on.

    Args:
        request: Model, data and settings.
        out: Folder of the results.
        change: Makes other prompts of those of the split, items and orders kept; pairs that it leaves out are skipped.
        comparator: Evaluates with other settings and combines the responses, see `comparators`.

    Raises:
        DataError: The data or the model cannot be used.
    """
    from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

    out, registry, dataset, split = Path(out), request.registry, request.dataset, request.split
    resamples, seed = request.resamples, request.seed
    subject = request.subject(**(comparator.settings if comparator else {}))
    settings, engine = subject.settings, subject.engine
    pairs = spread(read_pairs(registry, dataset, split), request.limit, seed)
    queries = [Query(pair, order) for pair in pairs for order in ORDERS]
    ties = teaches_ties(read_manifest(registry, dataset))
    prompts = prompts_for(queries, settings, seed, ties=ties)
    if change:
        prompts = change(prompts)
        kept = {prompt.item for prompt in prompts}
        pairs = [pair for pair in pairs if pair.pair_id in kept]
        queries = [query for query in queries if query.pair.pair_id in kept]
    sums = _pictures_of(pairs, registry)
    data_digest = artefacts.digest([[dataclasses.asdict(pair) for pair in pairs], sums])
    questions = [one.question for one in prompts]
    shared = contamination(
        subject.model_dir, registry, dataset=dataset, split=split, pairs=pairs, questions=questions, seed=seed
    )
    with artefacts.locked(out / ".lock"):
        header = {"data_digest": data_digest, "settings": settings.decides, "seed": seed}
        if comparator:
            responses, plain = comparators.ask(comparator, engine, prompts, out=out, asked=header, pictures=sums)
        else:
            responses, plain = collect_responses(engine, prompts, out, asked=header, pictures=sums), None
        answers = [answered(*one) for one in zip(queries, prompts, responses, strict=True)]
        of_plain = [answered(*one) for one in zip(queries, prompts, plain, strict=True)] if plain else None
        write_answers(out / ANSWERS, answers)
        identity = engine.identity()
        found, bounds = _figures(pairs, answers, resamples=resamples, seed=seed)
        result = Evaluation(
            **subject.names(request.name),
            dataset=dataset,
            split=split,
            mode=settings.mode or "direct",
            ties=ties,
            figures=found,
            intervals=bounds,
            parts=breakdown.breakdowns(pairs, answers, resamples=resamples, seed=seed),
            p_gap=significance.gap_p(answers, seed=seed),
            per_episode=metrics.per_episode(answers),
            settings=dataclasses.asdict(settings),
            seed=seed,
            resamples=resamples,
            limit=request.limit,
            comparator=comparators.account(comparator, answers, of_plain, resamples=resamples, seed=seed)
            if comparator
            else None,
            tokens=tokens_of(answers),
            cost=cost_of(engine, answers),
            overlap=shared,
            calibration=calibration.calibration(answers, resamples=resamples, seed=seed),
            claims=descriptions.claim_account(
                request, list(zip(queries, prompts, answers, strict=True)), settings.language
            )
            if settings.mode == "cot"
            else None,
            engine=dict(identity),
            model_digest=identity.get("model_digest"),
            data_digest=data_digest,
            questions_digest=artefacts.digest(questions),
            provenance=provenance(),
        )
        result.write(out / RESULTS)
    return result


def _figures(
    pairs: Sequence[Pair], answers: Sequence[Answer], *, resamples: int, seed: int
) -> tuple[Figures, Intervals | None]:
    """The figures of all pairs and their intervals, with those of the published order and of two task texts."""
    figures, bounds = metrics.figures(answers), metrics.intervals(answers, resamples, seed)
    orders = {pair.pair_id: pair.orders for pair in pairs}
    if published := metrics.in_published_order(answers, orders, resamples=resamples, seed=seed):
        figures = dataclasses.replace(figures, published_accuracy=published[0])
        bounds = {**(bounds or {}), "published_accuracy": published[1]} if published[1] else bounds
    if texts := metrics.under_both_texts(pairs, answers, resamples=resamples, seed=seed):
        figures = dataclasses.replace(figures, both_texts_accuracy=texts[0], n_both_texts=texts[2])
        bounds = {**(bounds or {}), "both_texts_accuracy": texts[1]} if texts[1] else bounds
    return figures, bounds


def tokens_of(answers: Sequence[Answer | Response]) -> Tokens | None:
    """Sums over the answers that were counted; None where none was."""
    counted = [
        (one.prompt_tokens, one.completion_tokens)
        for one in answers
        if one.prompt_tokens is not None and one.completion_tokens is not None
    ]
    if not counted:
        return None
    return Tokens(sum(one for one, _ in counted), sum(one for _, one in counted))


def cost_of(engine: Engine, answers: Sequence[Answer | Response]) -> float | None:
    """What the answers cost; None without prices, or where the tokens of some were not counted.

    Requests that brought no answer are not in it, though a server may have charged for them.
    """
    tokens = tokens_of(answers)
    if tokens is None or not isinstance(engine, Priced) or any(one.prompt_tokens is None for one in answers):
        return None
    return engine.cost(tokens.prompt, tokens.completion)


def read_answers(path: Path) -> list[Answer]:
    """The answers in an answers.jsonl. Raises DataError where it holds anything else."""
    try:
        return [Answer(**row) for row in artefacts.read_jsonl(path)]
    except (DataError, TypeError) as error:
        raise DataError(path, f"not the answers of an evaluation ({error})", "delete the file, run again") from error


def digest_of_data(pairs: Sequence[Pair], registry: Path) -> str:
    """SHA-256 over the pairs and the contents of their pictures, which may be replaced under the same path."""
    return artefacts.digest([[dataclasses.asdict(pair) for pair in pairs], _pictures_of(pairs, registry)])


def _pictures_of(pairs: Sequence[Pair], registry: Path) -> dict[str, str]:
    shown = {image: f"pair {pair.pair_id}" for pair in pairs for image in (pair.earlier_image, pair.later_image)}
    return picture_digests(registry, shown)
