"""Three and more pictures of one task: which is closest to completion, or what is the order of all?

A model that was trained on pairs alone may have learned a rule for two positions ("the second"). Here each group of
frames is shown in several arrangements, so that each of its frames is once in each position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from stcr_plugin import artefacts
from stcr_plugin.config import read_yaml
from stcr_plugin.engines.cache import collect_responses, picture_digests, write_answers
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, names_of, renamed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import StcrError
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import GroupSettings
from stcr_plugin.groups import arranged, by_time, draw_groups
from stcr_plugin.pairs import PairRules, evenly
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.ground_truth import config_of, true_progress
from stcr_plugin.results import MultiImage
from stcr_plugin.samples.group_texts import group_question
from stcr_plugin.scoring import group_figures
from stcr_plugin.scoring.group_figures import GroupAnswer
from stcr_plugin.scoring.parsing import named_in, order_in, why_lost
from stcr_plugin.scoring.verdicts import NotApplicableError
from stcr_plugin.types import Group, Pair, Prompt, Response, Shown

GROUPS, ANSWERS = MultiImage.file, "answers.jsonl"


def evaluate_groups(request: EvalRequest, out: Path, asked: GroupSettings | None = None) -> MultiImage:
    """Evaluate a model on groups of the frames that a split has pictures of, and write groups.json into `out`.

    Writes also said.jsonl and asked.json (see engines/cache.py) and answers.jsonl; a killed run goes on. An order is
    always written and parsed, never compared. Questions are those of training (kind group), or its held-out ones.

    Args:
        request: Model, data and settings; `limit` is the number of groups, the seed draws groups, arrangements and
            prompt variants too.
        out: Folder of the results.
        asked: Groups and question; by default of three pictures, the closest.

    Raises:
        NotApplicableError: The data hold no such group, or do not say what is right.
        DataError: The model cannot be used.
    """
    out, asked, seed = Path(out), asked or GroupSettings(), request.seed
    subject = request.subject()
    settings, engine = subject.settings, subject.engine
    drawn = spread(_of_split(request, asked), request.limit, seed)
    arrangements = [(group, shown) for group in drawn for shown in arranged(group, asked, seed)]
    prompts = [prompt(group, shown, asked, settings=settings, seed=seed) for group, shown in arrangements]
    shown_of = {image: f"group {group.group_id}" for group in drawn for image in group.images}
    sums = picture_digests(request.registry, shown_of)
    data_digest = artefacts.digest([[dataclasses.asdict(group) for group in drawn], sums])
    with artefacts.locked(out / ".lock"):
        header = {"data_digest": data_digest, "settings": settings.decides, "seed": seed}
        responses = collect_responses(engine, prompts, out, asked=header, pictures=sums)
        answers = [
            answered(group, shown, one, response=response, ask=asked.ask)
            for (group, shown), one, response in zip(arrangements, prompts, responses, strict=True)
        ]
        write_answers(out / ANSWERS, answers)
        identity = engine.identity()
        result = MultiImage(
            **subject.names(request.name),
            dataset=request.dataset,
            split=request.split,
            mode=settings.mode or "direct",
            asked=asked,
            figures=group_figures.figures(answers, asked),
            intervals=group_figures.intervals(answers, asked, resamples=request.resamples, seed=seed),
            chance=group_figures.chance(asked),
            settings=dataclasses.asdict(settings),
            seed=seed,
            resamples=request.resamples,
            limit=request.limit,
            engine=dict(identity),
            model_digest=identity.get("model_digest"),
            data_digest=data_digest,
            questions_digest=artefacts.digest([one.question for one in prompts]),
            provenance=provenance(),
        )
        result.write(out / GROUPS)
    return result


def spread(groups: Sequence[Group], limit: int | None, seed: int) -> list[Group]:
    """`limit` of `groups` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    chosen = {group.group_id for group in evenly(groups, limit, seed)}
    return [group for group in groups if group.group_id in chosen]


def prompt(group: Group, shown: Sequence[int], asked: GroupSettings, *, settings: AskSettings, seed: int) -> Prompt:
    """The prompt of one arrangement; the seed draws the variant of the question, as it does that of a pair.

    Raises ConfigError for an unknown language or style.
    """
    names = names_of(settings.style, settings.language, asked.pictures)
    mode = settings.mode or "direct"
    question = group_question(group, asked.ask, mode, language=settings.language, seed=seed, part=settings.part)
    return Prompt(
        item=group.group_id,
        episode_id=group.episode_id,
        order="-".join(str(frame) for frame in shown),
        shown=tuple(Shown(group.images[frame]) for frame in shown),
        labels=names,
        question=renamed(question, names) + (_warning(settings.language) if settings.warn else ""),
        names=names,
        answer="closer to completion: {names}" if asked.ask == "order" else Prompt.answer,
        reasons=mode == "cot" or asked.ask == "order",
    )


def answered(
    group: Group, shown: Sequence[int], prompt: Prompt, *, response: Response, ask: Literal["closest", "order"]
) -> GroupAnswer:
    """What `response` names: the likeliest position where names were compared, else what the text says."""
    listed = order_in(response, prompt.names) if ask == "order" else None
    if ask == "order":
        named = listed[0] if listed else None
    else:
        named = named_in(response, prompt.names)
    return GroupAnswer(
        group.group_id,
        group.episode_id,
        tuple(shown),
        chosen=None if named is None else prompt.names.index(named),
        ranking=None if listed is None else tuple(prompt.names.index(name) for name in listed),
        text=response.text,
        prompt_tokens=response.prompt_tokens,
        completion_tokens=response.completion_tokens,
        lost=why_lost(response) if named is None else "",
    )


def _warning(language: str) -> str:
    return str(read_yaml(PROMPT_VARIANTS / "groups.yaml")[language])


def _of_split(request: EvalRequest, asked: GroupSettings) -> list[Group]:
    """The groups drawn from a split. Raises NotApplicableError for none, or where nothing says what is right."""
    from stcr_plugin.registry.manifest import frame_rows, read_manifest, read_pairs

    registry, dataset, split = request.registry, request.dataset, request.split
    manifest = read_manifest(registry, dataset)
    rules, pairs = config_of(manifest).pairs, read_pairs(registry, dataset, split)
    truth = _truth(registry, dataset, rules, pairs=pairs)
    contents = {row["image"]: row["sha256"] for row in frame_rows(registry, manifest, split) if row["bytes"]}
    found = draw_groups(pairs, rules, asked, seed=request.seed, truth=truth, contents=contents)
    if not found:
        raise NotApplicableError(
            f"{dataset}, {split}",
            f"no {asked.pictures} frames of one segment that lie far enough apart have pictures",
            "use fewer pictures, or build with more pairs per episode",
        )
    return found


def _truth(
    registry: Path, dataset: str, rules: PairRules, *, pairs: Sequence[Pair]
) -> dict[tuple[str, str], list[float | None]] | None:
    """(episode_id, task) -> the true progress of its frames, from the source; None where time says which is closer.

    Rows know of two frames at a time which is closer, which orders no three. Raises NotApplicableError where the source
    does not say it, or has changed since.
    """
    if by_time(pairs, rules):
        return None
    try:
        found = true_progress(registry, dataset, {(pair.episode_id, pair.task) for pair in pairs})
    except StcrError as error:
        raise NotApplicableError(str(error)) from error
    known = {key: progress for key, progress in found.items() if progress is not None}
    if unknown := sorted(found.keys() - known.keys()):
        raise NotApplicableError(
            f"{dataset}: episode {unknown[0][0]}",
            "its source has no state 'progress', and by its pairs the later frame is not always closer, so that "
            "groups of it have no known answer",
        )
    return known
