"""The controls: what each does to the prompts of a split, and by which rule it is judged. A new one is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stcr_plugin.evaluation import control_prompts
from stcr_plugin.evaluation.control_prompts import Make, Plain
from stcr_plugin.types import Change, Prompt, Shown

_BOTH_ORDERS = "training pairs in both orders, as many of each (`orders: both`)"


@dataclass(frozen=True)
class Control:
    """One control. `asks`, `looks` and `informative` are those of ControlRow.

    Attributes:
        rule: A key of RULES.
        fix: Which training data would fix a failure.
        settings: Fields of AskSettings that it sets.
        make: What it does to the prompts; None where the settings say it all.
        variants: Prompt variants -> the prompts in each; the row is that of the worst one, which `asks` then quotes.
        shows: Measures that the row shows besides those of its rule.
        reasoned: It needs a model that writes its reasons (mode cot).
        told: It gives a description of the pictures, which the row then says where it comes from.
    """

    name: str
    rule: str
    asks: str
    looks: str
    fix: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Make | None = None
    variants: Callable[[Plain, list[Prompt]], Mapping[str, list[Prompt]]] | None = None
    shows: tuple[str, ...] = ()
    reasoned: bool = False
    informative: bool = False
    told: bool = False


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
        "lost",
        asks,
        "can no longer compare, so it is right no more often than chance",
        "data whose answer needs both pictures: pairs from anywhere in the episode, so that one frame does not tell, "
        "and none of the evaluated episodes in training (see the overlap)",
        make=control_prompts.changed_at(place, change),
    )


def _suggested(name: str, place: int, picture: str) -> Control:
    return Control(
        name,
        "unmoved",
        f'with "I think it is {picture}." at the end, which is wrong in one order of each pair',
        "answers as before, whatever is suggested",
        "samples whose question ends in a suggestion that is wrong as often as right",
        make=control_prompts.suggested(control_prompts.always(place)),
    )


_STEADY = "samples that judge a proposed answer, right as often as wrong (`kind: reflect`)"


def _led(name: str, which: str, suggests: control_prompts.Suggests) -> Control:
    return Control(
        name,
        "stands",
        f'with "I think it is img1." at the end, or img2, whichever is the {which} answer',
        "keeps the answers that are right",
        _STEADY,
        make=control_prompts.suggested(suggests),
    )


def _proposed(name: str, which: str, suggests: control_prompts.Suggests) -> Control:
    return Control(
        name,
        "stands by reasons",
        f"whether a proposed answer is right and why, the {which} one being proposed in both orders",
        f"{'refutes' if which == 'wrong' else 'accepts'} it, keeps the answers that are right, and gives true reasons",
        _STEADY,
        make=control_prompts.proposed(suggests),
        reasoned=True,
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
            "worst_variant",
            "worst keeps",
            "in each prompt variant that training never saw, the figures being those of the worst",
            "answers as before in every one",
            "more paraphrases of the question in samples/prompts/questions.yaml",
            {"part": "heldout"},
            variants=control_prompts.heldout_variants,
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
            "question_first",
            "keeps",
            "with the question before the pictures instead of after them",
            "answers as before; a preference for what stands nearer to the question turns to the other place",
            "samples whose question stands before the pictures, beside the usual ones",
            make=control_prompts.question_first,
            shows=("position_bias", "plain_position_bias"),
        ),
        _suggested("suggested_first", 0, "img1"),
        _suggested("suggested_second", 1, "img2"),
        _led("suggested_wrong", "wrong", control_prompts.wrong_one),
        _led("suggested_right", "right", control_prompts.right_one),
        _proposed("proposed_wrong", "wrong", control_prompts.wrong_one),
        _proposed("proposed_right", "right", control_prompts.right_one),
        Control(
            "decomposition",
            "keeps",
            "to reason by what is done and what is left in each picture, where training describes what stands where",
            "answers as before",
            "CoT samples in several decompositions",
            make=control_prompts.decomposed,
            reasoned=True,
        ),
        Control(
            "mirrored",
            "keeps",
            "with both pictures mirrored (tasks that mention left or right are skipped)",
            "answers as before",
            "mirrored copies of the training pictures, of tasks without left and right",
            make=control_prompts.mirrored,
        ),
        Control(
            "same_picture",
            "unswayed",
            "with the first picture shown in both places, so that neither is closer",
            "has no preference",
            f"{_BOTH_ORDERS}; ties taught (`ties: teach`)",
            make=control_prompts.all_pictures(lambda shown: (shown[0],) * len(shown)),
        ),
        _taken("blank_first", "with a blank first picture", 0, change="blank"),
        _taken("blank_second", "with a blank second picture", 1, change="blank"),
        _taken("noise", "with noise for the second picture", 1, change="noise"),
        Control(
            "masked_change",
            "lost",
            "with a grey mask in both pictures where they visibly differ",
            "sees nothing that differs, so it is right no more often than chance",
            "recordings without a trace of time in what does not visibly change, such as light that drifts",
            make=control_prompts.masked_change,
        ),
        Control(
            "masked_elsewhere",
            "keeps",
            "with as large a grey mask in both pictures where they do not differ (pairs that differ in more than half "
            "of the picture are skipped)",
            "answers as before",
            "training pictures with parts masked at random",
            make=control_prompts.masked_elsewhere,
        ),
        Control(
            "masked_border",
            "keeps",
            "with the borders and corners of both pictures masked",
            "answers as before, unless the task happens there",
            "pictures without anything written into their borders or corners; a crop that keeps the task in the middle",
            make=control_prompts.all_pictures(lambda shown: tuple(Shown(one.image, "mask border") for one in shown)),
        ),
        Control(
            "reversed",
            "agrees",
            "about the recording stored in reverse: borders, corners and all that hardly differs come from the other "
            "picture, so that only the visible change stays where it was",
            "chooses the same frame, whatever else tells the time",
            "recordings without a trace of time in their borders, corners or background",
            make=control_prompts.reversed_recording,
        ),
        Control(
            "text_only",
            "unswayed",
            "without pictures; both orders are then the same prompt, so pair accuracy is 0 by construction",
            "has no preference for a place",
            _BOTH_ORDERS,
            make=control_prompts.all_pictures(lambda shown: ()),
        ),
        Control(
            "other_task",
            "heeds",
            "about the task of another episode",
            "is less often right where the task text is needed; where it is not, it may answer as before, and then "
            "this only says that the text is not used",
            "scenes in which two tasks are possible, so that the pictures alone do not tell",
            make=control_prompts.other_task,
            informative=True,
        ),
        Control(
            "inverse_task",
            "follows",
            "about the task that undoes this one, in its own words (pairs of which it undoes nothing are skipped)",
            "names the other frame",
            "the same scenes with the inverse task (`take_off` of the simulator), so that the text decides",
            make=control_prompts.inverse_task,
            shows=("flipped",),
        ),
        Control(
            "undone",
            "follows",
            "about undoing the task, which is the recording played backwards",
            "names the other frame where it uses the task text; where it does not, this only says that, and a judge "
            "that knows the recording's time by heart is not told from one that looks",
            "the same scenes with the inverse task, so that the text decides",
            make=control_prompts.undone,
            informative=True,
        ),
        Control(
            "blind",
            "agrees",
            "for the judgment again, without pictures, from its own description in the question",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer, and some samples that give them in the question",
            make=control_prompts.blind,
            reasoned=True,
        ),
        Control(
            "blind_begin",
            "agrees",
            "for the judgment again, both pictures blank, its own description as the beginning of its turn",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer",
            make=control_prompts.blind_begun,
            reasoned=True,
        ),
        Control(
            "swapped_description",
            "follows",
            "to judge after its own description with the two halves changed over, the pictures in place",
            "follows the words where it reasons by them, and the pictures where it does not",
            "nothing: it tells which of the two the answer follows",
            make=control_prompts.swapped_description,
            reasoned=True,
            informative=True,
        ),
        Control(
            "oracle",
            "reasons",
            "with the true description of both pictures in the question",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=control_prompts.oracle,
            told=True,
        ),
        Control(
            "oracle_begin",
            "reasons",
            "to judge after the true description, as if it had written that itself",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=control_prompts.oracle_begun,
            told=True,
        ),
    )
}
"""Name -> control, in the order of the report."""
