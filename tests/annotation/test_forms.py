"""The questions of each form: what they show and say, and that a cache of responses can distinguish them."""

from __future__ import annotations

import itertools
import re

import pytest

from stcr_plugin.annotation.forms import (
    FORMS,
    authors_prompt,
    blind_begun_prompt,
    blind_prompt,
    confirm_prompt,
    describe_both_prompt,
    describe_prompt,
    in_order,
    judge_prompt,
    stage_prompt,
)
from stcr_plugin.annotation.leak_check import leak
from stcr_plugin.annotation.question_texts import texts_in
from stcr_plugin.annotation.readings import read_halves, read_text
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.annotations import CHECKS, FALSE_CLAIM
from stcr_plugin.samples.questions import paraphrases
from stcr_plugin.scoring.parsing import named_in
from stcr_plugin.scoring.yes_no import label_in
from stcr_plugin.types import ORDERS, Pair, Query, Response, Shown

LANGUAGES = ("en", "zh")
TASK = "put the {cup} on the shelf."
PAIRS = [
    Pair(f"e{n}:1-9", f"e{n}", "train", TASK, 1, 9, 1.0, earlier_image=f"p/{n}a.png", later_image=f"p/{n}b.png")
    for n in range(12)
]
FORWARD, BACKWARD = (Query(PAIRS[0], order) for order in ORDERS)
HALVES = ("The cup is {red}.", "杯子在架子上。")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_question_names_the_task_and_leaves_no_slot_open(language):
    picture = Shown(PAIRS[0].earlier_image)
    texts = texts_in(language)
    asked = [
        *(describe_prompt(picture, TASK, language, episode_id="e0", variant=n) for n in range(len(texts.describe))),
        *(describe_both_prompt(FORWARD, language, variant=n) for n in range(len(texts.both))),
        *(judge_prompt(Query(pair, "forward"), HALVES, language) for pair in PAIRS),
        *(blind_prompt(Query(pair, "forward"), HALVES, language) for pair in PAIRS),
        authors_prompt(FORWARD, language),
        stage_prompt(FORWARD, language),
    ]
    for prompt in asked:
        assert prompt.question.count("put the {cup} on the shelf") == 1
        assert set(re.findall(r"\{.*?\}", prompt.question)) <= {"{cup}", "{red}"}
    assert len({prompt.question for prompt in asked}) == len(texts.describe) + len(texts.both) + 2 + 2 + 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_picture_alone_is_named_without_a_number_and_reasons_follow_the_question(language):
    picture = Shown("p/0a.png")
    first = describe_prompt(picture, TASK, language, episode_id="e0")
    again = describe_prompt(
        picture, TASK, language, episode_id="e0", reasons=["word of time: already", "odd", "word of time: already"]
    )
    assert (first.shown, first.episode_id, first.reasons) == ((picture,), "e0", True)
    assert not re.search(r"\d|img", first.labels[0])
    assert "img" not in first.question
    assert again.question.startswith(first.question)
    end = again.question.removeprefix(first.question)
    assert "already" in end
    assert "odd" in end
    assert end.count("already") == 1
    assert again.item != first.item


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_of_the_readings_and_the_checks_can_be_told(language):
    from stcr_plugin.annotation import readings

    reasons = [
        value
        for name, value in vars(readings).items()
        if name.isupper() and not name.startswith("_") and value != "passed"
    ]
    reasons += [FALSE_CLAIM, *(leak(text).partition(": ")[0] for text in ("now", "img1", "done"))]
    assert len(reasons) == 11
    assert set(reasons) <= set(texts_in(language).reasons)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("language", LANGUAGES)
def test_both_orders_are_judged_by_the_same_words_with_the_texts_beside_their_pictures(language, ties):
    one, two = (judge_prompt(query, in_order(query, HALVES), language, ties=ties) for query in (FORWARD, BACKWARD))
    assert (one.shown, one.item) == (two.shown[::-1], two.item)
    assert "img1: The cup is {red}. img2: 杯子在架子上." in one.question
    assert (
        one.question.replace("The cup is {red}", "X")
        .replace("杯子在架子上", "The cup is {red}")
        .replace("X", "杯子在架子上")
        == two.question
    )
    assert ("neither" in one.names, "neither" in one.question) == (ties, ties)
    blind = blind_prompt(FORWARD, HALVES, language, ties=ties)
    assert (blind.shown, blind.labels, blind.names) == ((), (), ("img1", "img2", "neither"))
    assert in_order(BACKWARD, in_order(BACKWARD, HALVES)) == HALVES


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_is_confirmed_by_yes_or_no_in_its_language(language):
    prompt = confirm_prompt(Shown("p/0a.png"), "The lid is off.", language, episode_id="e0")
    yes, no = prompt.names
    assert "The lid is off." in prompt.question
    assert prompt.answer.format(name=yes) == yes
    assert not prompt.reasons
    assert label_in(Response(f"{yes}."), prompt.names) == "yes"
    assert label_in(Response("", {yes: -2.0, no: -0.1}), prompt.names) == "no"
    assert label_in(Response("", {yes: -1.0, no: -1.0}), prompt.names) is None
    assert label_in(Response(yes, lost="refused"), prompt.names) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_stage_is_asked_as_in_training_in_every_variant(language):
    trained = prompts_for([BACKWARD], AskSettings(mode="cot", language=language), ties=True)[0]
    count = len(paraphrases("cot", language))
    asked = [stage_prompt(BACKWARD, language, variant=n, ties=True) for n in range(count + 1)]
    assert trained.question in [one.question for one in asked]
    assert len({one.question for one in asked}) == count
    assert {(one.shown, one.labels, one.names, one.reasons) for one in asked} == {
        (trained.shown, trained.labels, trained.names, True)
    }


def test_a_stage_judges_blind_with_its_turn_begun_as_in_training():
    prompt = blind_begun_prompt(BACKWARD, in_order(BACKWARD, HALVES), "en")
    assert prompt.begin == "spatial details: img1: 杯子在架子上. img2: The cup is {red}.\n"
    assert [(one.image, one.change) for one in prompt.shown] == [("p/0b.png", "blank"), ("p/0a.png", "blank")]
    assert not prompt.reasons


def test_the_table_says_in_which_orders_both_pictures_are_described():
    general, stage, authors = (FORMS[name] for name in ("general", "stage", "authors"))
    drawn = [general.described_in(pair) for pair in PAIRS]
    assert {len(orders) for orders in drawn} == {1}
    assert {order for orders in drawn for order in orders} == set(ORDERS)
    assert all(set(stage.described_in(pair)) == set(ORDERS) for pair in PAIRS)
    assert authors.described_in(PAIRS[0]) == ("backward",)
    assert authors.describe_both(BACKWARD, "en").shown[0] == Shown(PAIRS[0].later_image)
    assert authors.checks == ("described",)
    assert general.checks == stage.checks == CHECKS


def test_an_unknown_language_is_refused_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"language 'fr'.*known are: en, zh"):
        describe_both_prompt(FORWARD, "fr")


class Teacher:
    """Answers each kind of question as a chatty model does; it always judges the first picture as closer."""

    def identity(self):
        return {"engine": "teacher"}

    def respond(self, prompts):
        for number, prompt in enumerate(prompts):
            if len(prompt.shown) == 1 and prompt.reasons:
                yield number, Response("<think>hm</think>\n**Picture:** The image shows a red cup. It is open.")
            elif len(prompt.shown) == 1:
                yield number, Response(f"{prompt.names[0]}, it does.")
            elif prompt.reasons:
                yield (
                    number,
                    Response("img1: The cup is red. It is open.\nimg2: The lid is on.\ncloser to completion: img1"),
                )
            else:
                yield number, Response("closer to completion: img1")


def test_all_rounds_of_all_forms_can_be_asked_together_and_read(tmp_path):
    prompts, kinds = [], []
    for form, (pair, order) in itertools.product(FORMS.values(), itertools.product(PAIRS[:3], ORDERS)):
        query = Query(pair, order)
        rounds = {
            "both": [form.describe_both(query, "en", variant=n) for n in range(2)],
            "judge": [ask(query, in_order(query, (text, "B")), "en") for ask in (form.judge, form.blind) if ask
                      for text in ("A", "C")],
            "alone": [form.describe(Shown(query.images[0]), TASK, "en", episode_id=pair.episode_id, variant=n)
                      for n in range(3)] if form.describe else [],
            "confirm": [form.confirm(Shown(query.images[0]), text, "en", episode_id=pair.episode_id)
                        for text in ("A.", "B.")] if form.confirm else [],
        }  # fmt: skip
        prompts += itertools.chain.from_iterable(rounds.values())
        kinds += [kind for kind, asked in rounds.items() for _ in asked]
    asked = dict(zip(((one.item, one.order) for one in prompts), zip(prompts, kinds, strict=True), strict=True))
    assert len(set(prompts)) == len(asked)  # the same key only for the same question
    paths = {shown.image: "digest" for prompt in prompts for shown in prompt.shown}
    unique = [prompt for prompt, _ in asked.values()]
    responses = collect_responses(Teacher(), unique, tmp_path, asked={}, pictures=paths)
    for (prompt, kind), response in zip(asked.values(), responses, strict=True):
        if kind == "alone":
            assert read_text(response).text == "A red cup. It is open."
        elif kind == "both":
            assert [one.text for one in read_halves(response, prompt)] == [
                "The cup is red. It is open",
                "The lid is on",
            ]
            assert named_in(response, prompt.names) == "img1"
        elif kind == "confirm":
            assert label_in(response, prompt.names) == "yes"
        else:
            assert named_in(response, prompt.names) == "img1"
