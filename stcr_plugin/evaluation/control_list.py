"""The controls: what each does to the prompts of a split, and by which rule it is judged. A new one is a row here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, prompts_for, renamed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation import descriptions
from stcr_plugin.samples.questions import question_text
from stcr_plugin.scoring.factuality import Halves, own_halves
from stcr_plugin.scoring.verdicts import NotApplicableError
from stcr_plugin.types import ORDERS, Change, Prompt, Query, Shown

_SIDES = re.compile(r"\b(?:left|right)\b|左|右", re.IGNORECASE)
_BOTH_ORDERS = "training pairs in both orders, as many of each (`orders: both`)"


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


Make = Callable[[Plain, list[Prompt]], list[Prompt]]
"""(the plain run, its prompts with the control's settings) -> its own prompts: both orders of each pair, or neither."""


@dataclass(frozen=True)
class Control:
    """One control. `asks`, `looks` and `informative` are those of ControlRow.

    Attributes:
        rule: A key of RULES.
        fix: Which training data would fix a failure.
        settings: Fields of AskSettings that it sets.
        make: What it does to the prompts; None where the settings say it all.
        reasoned: It needs a model that writes its reasons (mode cot).
    """

    name: str
    rule: str
    asks: str
    looks: str
    fix: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Make | None = None
    reasoned: bool = False
    informative: bool = False


# ---- what controls do to prompts ----


def _query_of(plain: Plain) -> dict[tuple[str, str], Query]:
    return {(query.pair.pair_id, query.order): query for query in plain.queries}


def _pictures(change: Callable[[tuple[Shown, ...]], tuple[Shown, ...]]) -> Make:
    """Every prompt with its pictures changed; without pictures there are no labels either."""

    def make(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
        changed = [(prompt, change(prompt.shown)) for prompt in prompts]
        return [
            dataclasses.replace(prompt, shown=shown, labels=prompt.labels[: len(shown)]) for prompt, shown in changed
        ]

    return make


def _changed(place: int, change: Change) -> Make:
    """The picture at `place` blank or noise."""

    def one(shown: tuple[Shown, ...]) -> tuple[Shown, ...]:
        return tuple(Shown(each.image, change) if at == place else each for at, each in enumerate(shown))

    return _pictures(one)


def _mirrored(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """Tasks that mention left or right are skipped, since a mirrored picture would be of another task."""
    sided = {query.pair.pair_id for query in plain.queries if _SIDES.search(query.pair.task)}
    if len(sided) == len({query.pair.pair_id for query in plain.queries}):
        raise NotApplicableError("every task text mentions left or right")
    mirror = _pictures(lambda shown: tuple(Shown(one.image, "mirror") for one in shown))
    return mirror(plain, [prompt for prompt in prompts if prompt.item not in sided])


def _other_task(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The same question about the task of another episode of the split, drawn by pair and seed."""
    tasks = sorted({query.pair.task for query in plain.queries})
    if len(tasks) < 2:
        raise NotApplicableError("all pairs have the same task text, so there is no other to use instead")

    def swapped(query: Query) -> Query:
        others = [task for task in tasks if task != query.pair.task]
        task = others[_drawn([plain.seed, query.pair.pair_id, "other_task"], len(others))]
        return Query(dataclasses.replace(query.pair, task=task), query.order)

    asked = plain.prompts([swapped(query) for query in plain.queries])
    return [dataclasses.replace(prompt, question=one.question) for prompt, one in zip(prompts, asked, strict=True)]


def _decomposed(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    texts = _prompt_variant("decomposition", plain.settings.language)

    def question(query: Query, prompt: Prompt) -> str:
        # What the usual question ends with (neither, a warning) stays: it is not part of the decomposition.
        settings = plain.settings
        usual = renamed(
            question_text(query, "cot", settings.language, seed=plain.seed, part=settings.part), prompt.names
        )
        template = texts[_drawn([plain.seed, query.pair.pair_id, "decomposition"], len(texts))]
        return _filled(template, query, prompt) + prompt.question.removeprefix(usual)

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
    begin = f"spatial details: {descriptions.described(halves, prompt.names)}\n"
    return dataclasses.replace(prompt, begin=begin, reasons=False, **changes)


def _blind(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
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


def _blind_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [
        _begun(prompt, halves, shown=tuple(Shown(one.image, "blank") for one in prompt.shown))
        for prompt, halves in _own(plain, prompts)
    ]


def _swapped_description(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, (second, first)) for prompt, (first, second) in _own(plain, prompts)]


def _true(plain: Plain, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Halves]]:
    found = descriptions.true(plain.registry, plain.dataset, plain.queries, language=plain.settings.language)
    return [(prompt, found[prompt.item, prompt.order]) for prompt in prompts if (prompt.item, prompt.order) in found]


def _oracle(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    template = _prompt_variant("told", plain.settings.language)[0]
    queries = _query_of(plain)
    return [
        dataclasses.replace(
            prompt,
            question=prompt.question + _filled(template, queries[prompt.item, prompt.order], prompt, halves=halves),
        )
        for prompt, halves in _true(plain, prompts)
    ]


def _oracle_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, halves) for prompt, halves in _true(plain, prompts)]


def _filled(template: str, query: Query, prompt: Prompt, halves: Halves | None = None) -> str:
    """A prompt variant of controls.yaml with the pictures' names, the task and the description in it."""
    values = {"task": query.pair.task.strip().rstrip(".。")}
    if halves:
        values["description"] = descriptions.described(halves, prompt.names)
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


_TRUTH_UNUSED = (
    "more CoT samples, since it cannot judge even by the truth: reasoning is the limit, not sight; where it does worse "
    "than in the plain run, it is the unfamiliar prompt that it cannot use, and samples that give a description fix it"
)


def _styled(name: str, style: str, words: str) -> Control:
    return Control(
        name,
        "keeps",
        f"the pictures are called {words}",
        "answers as before, by the other name",
        f"training in several styles of naming pictures ({style} among them), drawn for each pair separately",
        {"style": style},
    )


def _taken(name: str, asks: str, place: int, change: Change) -> Control:
    return Control(
        name,
        "falls",
        asks,
        "can no longer compare, so its accuracy falls",
        "data whose answer needs both pictures: pairs from anywhere in the episode, so that one frame does not tell, "
        "and none of the evaluated episodes in training (see the overlap)",
        make=_changed(place, change),
    )


CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control(
            "wording",
            "keeps",
            "in prompt variants that training never saw",
            "answers as before",
            "more paraphrases of the question in samples/prompts/questions.yaml",
            {"part": "heldout"},
        ),
        Control(
            "language",
            "keeps",
            "in Chinese",
            "answers as before, where it knows the language",
            "training samples in both languages (`languages: [en, zh]` of a dataset)",
            {"language": "zh"},
        ),
        _styled("letters", "letters", "A and B"),
        _styled("ordinals", "ordinals", "first picture and second picture"),
        _styled("frames", "frames", "frame 1 and frame 2"),
        Control(
            "decomposition",
            "keeps",
            "to reason by what is done and what is left in each picture, where training describes what stands where",
            "answers as before",
            "CoT samples in several decompositions",
            make=_decomposed,
            reasoned=True,
        ),
        Control(
            "mirrored",
            "keeps",
            "with both pictures mirrored (tasks that mention left or right are skipped)",
            "answers as before",
            "mirrored copies of the training pictures, of tasks without left and right",
            make=_mirrored,
        ),
        Control(
            "same_picture",
            "unswayed",
            "with the first picture shown in both places, so that neither is closer",
            "has no preference",
            f"{_BOTH_ORDERS}; ties taught (`ties: teach`)",
            make=_pictures(lambda shown: (shown[0],) * len(shown)),
        ),
        _taken("blank_first", "with a blank first picture", 0, change="blank"),
        _taken("blank_second", "with a blank second picture", 1, change="blank"),
        _taken("noise", "with noise for the second picture", 1, change="noise"),
        Control(
            "text_only",
            "unswayed",
            "without pictures; both orders are then the same prompt, so pair accuracy is 0 by construction",
            "has no preference for a place",
            _BOTH_ORDERS,
            make=_pictures(lambda shown: ()),
        ),
        Control(
            "other_task",
            "heeds",
            "about the task of another episode",
            "is less often right where the task text is needed; where it is not, it may answer as before, and then "
            "this only says that the text is not used",
            "scenes in which two tasks are possible, so that the pictures alone do not tell",
            make=_other_task,
            informative=True,
        ),
        Control(
            "blind",
            "agrees",
            "for the judgment again, without pictures, from its own description in the question",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer, and some samples that give them in the question",
            make=_blind,
            reasoned=True,
        ),
        Control(
            "blind_begin",
            "agrees",
            "for the judgment again, both pictures blank, its own description as the beginning of its turn",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer",
            make=_blind_begun,
            reasoned=True,
        ),
        Control(
            "swapped_description",
            "follows",
            "to judge after its own description with the two halves changed over, the pictures in place",
            "follows the words where it reasons by them, and the pictures where it does not",
            "nothing: it tells which of the two the answer follows",
            make=_swapped_description,
            reasoned=True,
            informative=True,
        ),
        Control(
            "oracle",
            "reasons",
            "with the true description of both pictures in the question",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=_oracle,
        ),
        Control(
            "oracle_begin",
            "reasons",
            "to judge after the true description, as if it had written that itself",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=_oracle_begun,
        ),
    )
}
"""Name -> control, in the order of the report."""
