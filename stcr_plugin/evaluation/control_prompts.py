"""What the controls do to the prompts of the plain run: each maker gives both orders of each pair, or neither."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml
from stcr_plugin.engines.picture_changes import visibly_different
from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, prompts_for, renamed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation import descriptions
from stcr_plugin.registry.ground_truth import config_of
from stcr_plugin.samples.questions import Part, fill_task, paraphrases, question_text
from stcr_plugin.samples.reflections import PROPOSALS, reflect_question
from stcr_plugin.scoring.factuality import Halves, named_halves, own_halves
from stcr_plugin.scoring.verdicts import NotApplicableError
from stcr_plugin.types import ORDERS, Change, Pair, Prompt, Query, Shown

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDES = re.compile(r"\b(?:left|right)\b|左|右", re.IGNORECASE)


@dataclass(frozen=True)
class Plain:
    """The plain run: its queries, settings and responses. Controls make their prompts of it.

    Attributes:
        texts: (pair_id, order) -> what the model wrote.
    """

    registry: Path
    dataset: str
    queries: tuple[Query, ...]
    settings: AskSettings
    seed: int
    ties: bool
    texts: Mapping[tuple[str, str], str]

    def prompts(self, queries: Sequence[Query] | None = None, ties: bool | None = None, **changes: Any) -> list[Prompt]:
        settings = from_mapping(AskSettings, dataclasses.asdict(self.settings) | changes, "the control's settings")
        offered = self.ties if ties is None else ties
        return prompts_for(self.queries if queries is None else queries, settings, self.seed, ties=offered)

    @cached_property
    def changed_share(self) -> dict[str, float]:
        """pair_id -> the share of the picture in which its two pictures visibly differ."""

        def opened(pair: Pair) -> list[Image]:
            paths = (pair.earlier_image, pair.later_image)
            return [open_picture(self.registry, path, pair.pair_id) for path in paths]

        pairs = {query.pair.pair_id: query.pair for query in self.queries}
        return {name: float(visibly_different(*opened(pair)).mean()) for name, pair in pairs.items()}

    @cached_property
    def true(self) -> descriptions.Told:
        """What the pictures show. Raises what `descriptions.true` raises."""
        return descriptions.true(self.registry, self.dataset, self.queries, language=self.settings.language)

    @property
    def inverse_tasks(self) -> InverseTasks:
        """Which tasks undo each other, as the build's configuration and its kind of source say.

        Raises ConfigError or DataError where the configuration cannot be read.
        """
        from stcr_plugin.episodes.source_table import find_kind
        from stcr_plugin.registry.manifest import read_manifest

        config = config_of(read_manifest(self.registry, self.dataset))
        return find_kind(config.source.kind).inverse.after(config.inverse_tasks)


Make = Callable[[Plain, list[Prompt]], list[Prompt]]
"""(the plain run, its prompts with the control's settings) -> its own prompts: both orders of each pair, or neither."""


def _query_of(plain: Plain) -> dict[tuple[str, str], Query]:
    return {(query.pair.pair_id, query.order): query for query in plain.queries}


def all_pictures(change: Callable[[tuple[Shown, ...]], tuple[Shown, ...]]) -> Make:
    """Every prompt with its pictures changed; without pictures there are no labels either."""

    def make(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
        changed = [(prompt, change(prompt.shown)) for prompt in prompts]
        return [
            dataclasses.replace(prompt, shown=shown, labels=prompt.labels[: len(shown)]) for prompt, shown in changed
        ]

    return make


def changed_at(place: int, change: Change) -> Make:
    """The picture at `place` blank or noise."""

    def one(shown: tuple[Shown, ...]) -> tuple[Shown, ...]:
        return tuple(Shown(each.image, change) if at == place else each for at, each in enumerate(shown))

    return all_pictures(one)


def compared(change: Change) -> Make:
    """Both pictures changed by how they differ from each other."""

    def both(shown: tuple[Shown, ...]) -> tuple[Shown, ...]:
        first, second = (one.image for one in shown)
        return Shown(first, change, second), Shown(second, change, first)

    return all_pictures(both)


def masked_change(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return compared("mask change")(plain, _differing(plain, prompts))


def masked_elsewhere(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """Pairs that differ in more than half of the picture have no area as large that does not."""
    return compared("mask elsewhere")(plain, _differing(plain, prompts, most=1 / 2))


def reversed_recording(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The recording stored in reverse: what is shown as forward is its backward order, and all but the change swaps."""
    other_order: dict[str, str] = dict(zip(ORDERS, reversed(ORDERS), strict=True))
    changed = compared("swap rest")(plain, _differing(plain, prompts))
    return [dataclasses.replace(prompt, order=other_order[prompt.order]) for prompt in changed]


def _differing(plain: Plain, prompts: Sequence[Prompt], most: float = 1.0) -> list[Prompt]:
    """The prompts of pairs that visibly differ, in a share of the picture up to `most`."""
    kept = [prompt for prompt in prompts if 0 < plain.changed_share[prompt.item] <= most]
    if not kept:
        raise NotApplicableError(f"no pair visibly differs in {most:.0%} of its pictures or less")
    return kept


def undone(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The same question about undoing the task, in the same words."""
    (template,) = _prompt_variant("undone", plain.settings.language)
    return _about(plain, prompts, lambda pair: fill_task(template, pair.task))


def inverse_task(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The same question about the task that undoes the pair's, of the pairs that show something it undoes."""
    known = plain.inverse_tasks
    tasks = {query.pair.task for query in plain.queries}
    if not any(known.inverse(task) for task in tasks):
        raise NotApplicableError(
            f"nothing says which task undoes {min(tasks)!r}; name it in the data configuration (`inverse_tasks`), and "
            "build again"
        )
    return _about(plain, prompts, lambda pair: known.inverse(pair.task) if known.shown(pair.phase) else None)


def _about(plain: Plain, prompts: Sequence[Prompt], task_of: Callable[[Pair], str | None]) -> list[Prompt]:
    """The prompts with the question about another task; without those of pairs that have no other."""
    queries = [
        Query(dataclasses.replace(query.pair, task=task), query.order)
        for query in plain.queries
        if (task := task_of(query.pair)) is not None
    ]
    questions = {(one.item, one.order): one.question for one in plain.prompts(queries)}
    return [
        dataclasses.replace(prompt, question=questions[prompt.item, prompt.order])
        for prompt in prompts
        if (prompt.item, prompt.order) in questions
    ]


def question_first(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [dataclasses.replace(prompt, question_first=True) for prompt in prompts]


Suggests = Callable[[Query], int | None]
"""A query -> the place of the picture that is suggested to the model, 0 or 1; None leaves its pair out."""


def always(place: int) -> Suggests:
    """The same place, whichever is right."""
    return lambda query: place


def right_one(query: Query) -> int | None:
    return {"img1": 0, "img2": 1}.get(query.answer)


def wrong_one(query: Query) -> int | None:
    return {"img1": 1, "img2": 0}.get(query.answer)


def suggested(which: Suggests) -> Make:
    """The question with a sentence at its end that suggests a picture."""

    def make(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
        (sentence,) = _prompt_variant("suggestion", plain.settings.language)
        return [
            dataclasses.replace(prompt, question=prompt.question + sentence.replace("{name}", prompt.names[place]))
            for prompt, _, place in _suggestions(plain, prompts, which)
        ]

    return make


def proposed(which: Suggests) -> Make:
    """Another question: is a proposed answer right, and why? In prompt variants that training never uses."""

    def make(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
        def question(prompt: Prompt, query: Query, place: int) -> str:
            language, seed = plain.settings.language, plain.seed
            text = reflect_question(query, PROPOSALS[place], language, seed=seed, part="heldout")
            return renamed(text, prompt.names)

        return [
            dataclasses.replace(prompt, question=question(prompt, query, place), names=prompt.names[:2])
            for prompt, query, place in _suggestions(plain, prompts, which)
        ]

    return make


def _suggestions(plain: Plain, prompts: Sequence[Prompt], which: Suggests) -> Iterator[tuple[Prompt, Query, int]]:
    queries = _query_of(plain)
    for prompt in prompts:
        query = queries[prompt.item, prompt.order]
        if (place := which(query)) is not None:
            yield prompt, query, place


def heldout_variants(plain: Plain, prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Each held-out prompt variant -> the prompts of all pairs in it; `prompts` are drawn from these variants."""
    texts = paraphrases(plain.settings.mode or "direct", plain.settings.language, "heldout")
    queries = _query_of(plain)

    def asked(text: str, prompt: Prompt) -> Prompt:
        query = queries[prompt.item, prompt.order]
        question = renamed(fill_task(text, query.pair.task), prompt.names)
        return dataclasses.replace(prompt, question=question + _ending(plain, query, prompt, part="heldout"))

    return {text: [asked(text, prompt) for prompt in prompts] for text in texts}


def _ending(plain: Plain, query: Query, prompt: Prompt, *, part: Part) -> str:
    """What the question of `prompt` ends with after its variant: neither, a warning."""
    settings = plain.settings
    variant = question_text(query, settings.mode or "direct", settings.language, seed=plain.seed, part=part)
    return prompt.question.removeprefix(renamed(variant, prompt.names))


def mirrored(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """Tasks that mention left or right are skipped, since a mirrored picture would be of another task."""
    sided = {query.pair.pair_id for query in plain.queries if _SIDES.search(query.pair.task)}
    if len(sided) == len({query.pair.pair_id for query in plain.queries}):
        raise NotApplicableError("every task text mentions left or right")
    mirror = all_pictures(lambda shown: tuple(Shown(one.image, "mirror") for one in shown))
    return mirror(plain, [prompt for prompt in prompts if prompt.item not in sided])


def other_task(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The same question about the task of another episode of the split, drawn by pair and seed."""
    tasks = sorted({query.pair.task for query in plain.queries})
    if len(tasks) < 2:
        raise NotApplicableError("all pairs have the same task text, so there is no other to use instead")

    def other(pair: Pair) -> str:
        others = [task for task in tasks if task != pair.task]
        return others[_drawn([plain.seed, pair.pair_id, "other_task"], len(others))]

    return _about(plain, prompts, other)


def decomposed(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    texts = _prompt_variant("decomposition", plain.settings.language)

    def question(query: Query, prompt: Prompt) -> str:
        template = texts[_drawn([plain.seed, query.pair.pair_id, "decomposition"], len(texts))]
        return _filled(template, query, prompt) + _ending(plain, query, prompt, part=plain.settings.part)

    queries = _query_of(plain)
    return [
        dataclasses.replace(prompt, question=question(queries[prompt.item, prompt.order], prompt)) for prompt in prompts
    ]


def _own(plain: Plain, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Halves]]:
    """The prompts of pairs that the model itself described in both orders, with its description."""
    found = {
        (prompt.item, prompt.order): own_halves(plain.texts[prompt.item, prompt.order], prompt.names)
        for prompt in prompts
    }
    kept = []
    for prompt in prompts:
        halves = found[prompt.item, prompt.order]
        if halves and all(found[prompt.item, order] for order in ORDERS):
            kept.append((prompt, halves))
    if not kept:
        raise NotApplicableError("in no pair do the model's words describe both pictures in both orders")
    return kept


def _begun(prompt: Prompt, halves: Halves, **changes: Any) -> Prompt:
    """The description as the beginning of the model's own turn, as its training writes it; what is left is to judge."""
    begin = f"spatial details: {named_halves(halves, prompt.names)}\n"
    return dataclasses.replace(prompt, begin=begin, reasons=False, **changes)


def blind(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    template = _prompt_variant("described", plain.settings.language)[0]
    queries = _query_of(plain)
    return [
        dataclasses.replace(
            prompt,
            shown=(),
            labels=(),
            reasons=False,
            question=_filled(template, queries[prompt.item, prompt.order], prompt, halves=halves),
        )
        for prompt, halves in _own(plain, prompts)
    ]


def blind_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [
        _begun(prompt, halves, shown=tuple(Shown(one.image, "blank") for one in prompt.shown))
        for prompt, halves in _own(plain, prompts)
    ]


def swapped_description(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, (second, first)) for prompt, (first, second) in _own(plain, prompts)]


def _true(plain: Plain, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Halves]]:
    found = plain.true.halves
    return [(prompt, found[prompt.item, prompt.order]) for prompt in prompts if (prompt.item, prompt.order) in found]


def oracle(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    template = _prompt_variant("told", plain.settings.language)[0]
    queries = _query_of(plain)
    return [
        dataclasses.replace(
            prompt,
            question=prompt.question + _filled(template, queries[prompt.item, prompt.order], prompt, halves=halves),
        )
        for prompt, halves in _true(plain, prompts)
    ]


def oracle_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, halves) for prompt, halves in _true(plain, prompts)]


def _filled(template: str, query: Query, prompt: Prompt, halves: Halves | None = None) -> str:
    """A prompt variant of controls.yaml with the pictures' names, the task and the description in it."""
    values = {"task": query.pair.task.strip().rstrip(".。")}
    if halves:
        values["description"] = named_halves(halves, prompt.names)
    return re.sub(r"\{(task|description)\}", lambda found: values[found[1]], renamed(template, prompt.names))


def _drawn(seed: list[Any], count: int) -> int:
    return int(artefacts.digest(seed)[:16], 16) % count


def _prompt_variant(key: str, language: str) -> list[str]:
    texts = _prompt_variants()[key]
    if language not in texts:
        raise ConfigError(f"language {language!r}", f"has no prompt variant {key!r}", nearest(language, list(texts)))
    found = texts[language]
    return [found] if isinstance(found, str) else list(found)


@cache
def _prompt_variants() -> dict[str, Any]:
    return read_yaml(PROMPT_VARIANTS / "controls.yaml")
