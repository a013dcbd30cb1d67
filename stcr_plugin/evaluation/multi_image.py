"""Three and more pictures of one task: which is closest to completion, or what is the order of all?

A model that was trained on pairs alone may have learned a rule for two positions ("the second"). Here each group of
frames is shown in several arrangements, so that each of its frames is once in each position.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.engines.cache import collect_responses, picture_digests, write_answers
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, names_of
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import GroupSettings
from stcr_plugin.pairs import PairRules, evenly
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.ground_truth import config_of, true_progress
from stcr_plugin.results import MultiImage
from stcr_plugin.samples.questions import fill_task
from stcr_plugin.scoring import group_figures
from stcr_plugin.scoring.group_figures import GroupAnswer
from stcr_plugin.scoring.parsing import named_in, order_in, why_lost
from stcr_plugin.scoring.verdicts import NotApplicableError
from stcr_plugin.types import Pair, Prompt, Response, Shown

if TYPE_CHECKING:
    import numpy as np

GROUPS, ANSWERS = MultiImage.file, "answers.jsonl"
_TRIES = 40  # random draws of a group's frames before a segment is taken to hold no further group


@dataclass(frozen=True)
class Group:
    """Frames of one segment, the farthest from completion first; `images` are theirs, relative to the registry."""

    group_id: str
    episode_id: str
    task: str
    frames: tuple[int, ...]
    images: tuple[str, ...]


def evaluate_groups(request: EvalRequest, out: Path, asked: GroupSettings | None = None) -> MultiImage:
    """Evaluate a model on groups of the frames that a split has pictures of, and write groups.json into `out`.

    Writes also said.jsonl and asked.json (see engines/cache.py) and answers.jsonl; a killed run goes on. An order is
    always written and parsed, never compared. `settings.part` changes nothing: no such question was trained on.

    Args:
        request: Model, data and settings; `limit` is the number of groups, the seed draws groups and arrangements too.
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
    prompts = [prompt(group, shown, asked, settings=settings) for group, shown in arrangements]
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


def draw_groups(
    pairs: Sequence[Pair],
    rules: PairRules,
    asked: GroupSettings,
    *,
    seed: int,
    truth: Mapping[str, Sequence[float | None]] | None = None,
) -> list[Group]:
    """Up to `per_episode` groups of each episode, drawn by `seed` and the episode's id alone, none twice.

    Any two frames of a group are at least as far apart as `rules` ask of a pair (`min_seconds`, `min_frames`); there is
    no longest distance. truth: episode_id -> progress of each frame; a frame of unknown progress is in no group,
    nor do two that `rules` call a tie. Without it the later of two frames is the closer one.
    """

    episodes: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        episodes[pair.episode_id].append(pair)
    groups = []
    for episode_id, own in episodes.items():
        random = artefacts.rng(seed, episode_id, asked.pictures)
        closeness = None if truth is None else truth[episode_id]
        apart = rules.distances(own[0].distance / own[0].seconds)[0]
        segments = [part for part in _segments(own) if len(part[1]) >= asked.pictures]
        found: dict[tuple[int, ...], Group] = {}
        for number in range(_TRIES * asked.per_episode if segments else 0):
            task, images = segments[number % len(segments)]
            frames = _drawn(
                list(images), asked.pictures, apart, closeness=closeness, tie=rules.tie_within, random=random
            )
            if frames and len(found) < asked.per_episode:
                group_id = f"{episode_id}:{'-'.join(str(frame) for frame in frames)}"
                group = Group(group_id, episode_id, task, frames, tuple(images[frame] for frame in frames))
                found.setdefault(frames, group)
        groups += list(found.values())
    return groups


def spread(groups: Sequence[Group], limit: int | None, seed: int) -> list[Group]:
    """`limit` of `groups` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    chosen = {group.group_id for group in evenly(groups, limit, seed)}
    return [group for group in groups if group.group_id in chosen]


def arranged(group: Group, asked: GroupSettings, seed: int) -> list[tuple[int, ...]]:
    """The arrangements of a group: rotations of a random one, so that none needs to be in time order.

    Each entry is the frame (of `group.frames`) in each place. All rotations put each frame once in each place.
    """

    random = artefacts.rng(seed, group.group_id, "arrangement")
    first = [int(frame) for frame in random.permutation(asked.pictures)]
    return [(*first[turn:], *first[:turn]) for turn in range(asked.rotations or asked.pictures)]


def prompt(group: Group, shown: Sequence[int], asked: GroupSettings, *, settings: AskSettings) -> Prompt:
    """The prompt of one arrangement. Raises ConfigError for an unknown language or style."""
    variants = read_yaml(PROMPT_VARIANTS / "groups.yaml")
    if settings.language not in variants:
        raise ConfigError(
            f"language {settings.language!r}", "has no group question", nearest(settings.language, list(variants))
        )
    words = variants[settings.language]
    names = names_of(settings.style, settings.language, asked.pictures)
    mode = settings.mode or "direct"
    template = words[asked.ask][mode].replace("{names}", ", ".join(names))
    return Prompt(
        item=group.group_id,
        episode_id=group.episode_id,
        order="-".join(str(frame) for frame in shown),
        shown=tuple(Shown(group.images[frame]) for frame in shown),
        labels=names,
        question=fill_task(template, group.task) + (words["warning"] if settings.warn else ""),
        names=names,
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


def _segments(pairs: Sequence[Pair]) -> list[tuple[str, dict[int, str]]]:
    """The segments of one episode's pairs: task text, and frame -> picture.

    Rows name no segment; pairs of one task text whose spans overlap lie in the same one.
    """
    found: list[tuple[str, dict[int, str]]] = []
    for task in dict.fromkeys(pair.task for pair in pairs):
        end = -1
        for pair in sorted((pair for pair in pairs if pair.task == task), key=lambda pair: pair.earlier):
            if pair.earlier > end:
                found.append((task, {}))
            end = max(end, pair.later)
            found[-1][1].update({pair.earlier: pair.earlier_image, pair.later: pair.later_image})
    return found


def _drawn(
    frames: Sequence[int],
    count: int,
    apart: int,
    *,
    closeness: Sequence[float | None] | None,
    tie: float,
    random: np.random.Generator,
) -> tuple[int, ...] | None:
    """`count` of `frames`, the farthest from completion first; None where this draw finds fewer."""
    chosen: list[int] = []
    values: dict[int, float] = {}
    for frame in (frames[at] for at in random.permutation(len(frames))):
        value = float(frame) if closeness is None else closeness[frame]
        if value is None or any(abs(frame - other) < apart for other in chosen):
            continue
        if closeness is not None and any(value == other or abs(value - other) < tie for other in values.values()):
            continue
        chosen.append(frame)
        values[frame] = value
        if len(chosen) == count:
            return tuple(sorted(chosen, key=values.__getitem__))
    return None


def _of_split(request: EvalRequest, asked: GroupSettings) -> list[Group]:
    """The groups drawn from a split. Raises NotApplicableError for none, or where nothing says what is right."""
    from stcr_plugin.registry.manifest import read_manifest, read_pairs

    registry, dataset, split = request.registry, request.dataset, request.split
    rules, pairs = config_of(read_manifest(registry, dataset)).pairs, read_pairs(registry, dataset, split)
    truth = _truth(registry, dataset, rules, pairs=pairs)
    found = draw_groups(pairs, rules, asked, seed=request.seed, truth=truth)
    if not found:
        raise NotApplicableError(
            f"{dataset}, {split}",
            f"no {asked.pictures} frames of one segment that lie far enough apart have pictures",
            "use fewer pictures, or build with more pairs per episode",
        )
    return found


def _truth(
    registry: Path, dataset: str, rules: PairRules, *, pairs: Sequence[Pair]
) -> dict[str, list[float | None]] | None:
    """episode_id -> the true progress of its frames, from the build's source; None where time says which is closer.

    Rows know of two frames at a time which is closer, which orders no three. Raises NotApplicableError where the source
    does not say it, or has changed since.
    """
    if rules.label == "order" and all(pair.closer == "later" for pair in pairs):
        return None
    try:
        found = true_progress(registry, dataset, {pair.episode_id for pair in pairs})
    except StcrError as error:
        raise NotApplicableError(str(error)) from error
    known = {episode_id: progress for episode_id, progress in found.items() if progress is not None}
    if unknown := sorted(found.keys() - known.keys()):
        raise NotApplicableError(
            f"{dataset}: episode {unknown[0]}",
            "its source has no state 'progress', and by its pairs the later frame is not always closer, so that "
            "groups of it have no known answer",
        )
    return known
