import re

import pytest

from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.samples.group_texts import (
    check_group_target,
    fill_group,
    group_answer,
    group_paraphrases,
    group_question,
    group_target,
)
from stcr_plugin.samples.questions import questions
from stcr_plugin.scoring.parsing import parse, parse_order
from stcr_plugin.types import Group

GROUP = Group("e:3-5-9", "e", "stack {two} cups.", (3, 5, 9), ("3", "5", "9"))
ALL = [
    (ask, kind, language)
    for ask in ("closest", "order")
    for kind in ("cot", "direct")
    for language in ("en", "zh")
]  # fmt: skip


@pytest.mark.parametrize(("ask", "kind", "language"), ALL)
def test_variants_are_enough_name_no_time_and_show_the_form_of_the_answer(ask, kind, language):
    train, heldout = (group_paraphrases(ask, kind, language, part=part) for part in ("train", "heldout"))
    assert (len(set(train)), len(set(heldout))) == (4, 2)
    for text in train + heldout:
        assert "closer to completion: " in text
        assert ("<" in text, text.count("{")) == (False, 2)
        if kind == "direct" or text in train:
            assert ("spatial details: img1: ..." in text) == (kind == "cot")
        assert not {"earlier", "later", "first", "second", "before", "after"} & set(re.findall("[a-z]+", text.lower()))


def test_every_language_of_pairs_has_group_questions():
    assert all(group_paraphrases("order", "direct", language) for language in questions())
    with pytest.raises(ConfigError, match="known are: en, zh"):
        group_paraphrases("order", "direct", "fr")


def test_question_names_all_pictures_and_the_task_as_it_is():
    text = fill_group(group_paraphrases("closest", "direct", "en")[0], "stack {two} cups.", 3)
    assert text.startswith("img1, img2, img3 show the same task: stack {two} cups. Which")


def test_a_group_has_one_variant_and_groups_have_different_ones():
    def asked(number, part="train"):
        group = Group(f"e:{number}-9-12", "e", "{task}", (number, 9, 12), ("a", "b", "c"))
        return group_question(group, "order", "direct", language="en", seed=0, part=part)

    assert asked(1) == asked(1)
    assert len({asked(number) for number in range(100)}) == 4
    assert len({asked(number, "heldout") for number in range(100)}) == 2


@pytest.mark.parametrize("shown", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_answers_are_read_back_by_the_parsers(shown):
    names = ("img1", "img2", "img3")
    closest, order = (group_target(shown, ask, ["open", "shut", "gone"]) for ask in ("closest", "order"))
    assert parse(closest, names) == f"img{shown.index(2) + 1}"
    assert parse_order(order, names) == tuple(f"img{shown.index(frame) + 1}" for frame in (2, 1, 0))
    assert group_target(shown, "order") == group_answer(shown, "order") == order.rpartition("\n")[2]
    assert closest.startswith("spatial details: img1: open. img2: shut. img3: gone.\n")


@pytest.fixture(scope="module")
def told():
    """A simulated episode's states at three frames, their source, and the English phrases."""
    source = TabletopSource(TabletopConfig(seen=1, heldout=0), 0)
    (episode,) = source.episodes()
    states = source.states(episode)
    return source, load_phrases("tabletop")["en"], [states[at] for at in (0, len(states) // 2, len(states) - 1)]


def test_every_claim_and_the_judgment_are_held_against_the_truth(told):
    source, phrases, states = told
    texts = [phrases.say(source.claims(state)) for state in states]
    how = {"ask": "order", "source": source, "phrases": phrases, "where": "group e:0-1-2"}
    target = group_target((0, 1, 2), "order", texts)
    assert check_group_target(target, (0, 1, 2), states, **how) == sum(len(source.claims(state)) for state in states)
    with pytest.raises(DataError, match=r"group e:0-1-2, img1: the text states .* which is false"):
        check_group_target(group_target((0, 1, 2), "order", texts[::-1]), (0, 1, 2), states, **how)
    with pytest.raises(DataError, match="'closer to completion: img3, img2, img1' is true"):
        check_group_target(group_target((2, 1, 0), "order", texts), (0, 1, 2), states, **how)
    with pytest.raises(DataError, match="does not describe 3 pictures"):
        check_group_target(group_target((0, 1, 2), "order", texts[:2]), (0, 1, 2), states, **how)
