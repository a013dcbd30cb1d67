"""Claims that a text states, held against the recorded state of its frame."""

from __future__ import annotations

import itertools

import pytest

from stcr_plugin.annotation.claim_check import claims, phrases_of
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.samples.annotations import PASSED, UNCHECKED
from stcr_plugin.types import Claim

SOURCE = TabletopSource(TabletopConfig(seen=2, heldout=0), 3)
STATES = [state for episode in SOURCE.episodes() for state in SOURCE.states(episode)][::9]
OPEN = next(state for state in STATES if Claim("gripper", "open") in SOURCE.claims(state))
CLOSED = next(state for state in STATES if Claim("gripper", "closed") in SOURCE.claims(state))


def check(text, state, language="en"):
    return claims(text, state, SOURCE, phrases_of("tabletop", language))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_sources_own_texts_pass_and_any_false_claim_in_them_is_named(language):
    phrases = phrases_of("tabletop", language)
    end = {"en": ".", "zh": "。"}[language]
    for state in STATES:
        true = SOURCE.claims(state)
        text = phrases.say(true)
        assert check(text[:1].upper() + text[1:] + end, state, language) == PASSED
        for number, claim in enumerate(true):
            value = claim.value + 30 if isinstance(claim.value, int) else None
            value = value or {"open": "closed", "closed": "open", "lift": "move"}.get(claim.value, "lift")
            lie = Claim(claim.name, value)
            said = phrases.say([*true[:number], lie, *true[number + 1 :]])
            assert check(said + end, state, language) == f"false claim: {claim.name} = {value}"


@pytest.mark.parametrize(
    ("text", "of_open", "of_closed"),
    [
        ("The gripper is open. A red cube lies on the table.", PASSED, "false claim: gripper = open"),
        ("The robot's gripper is closed.", "false claim: gripper = closed", PASSED),
        ("夹爪是张开的。方块在桌上。", PASSED, "false claim: gripper = open"),
        ("夹爪处于闭合状态。", "false claim: gripper = closed", PASSED),
    ],
)
def test_a_plain_sentence_about_a_claim_is_read(text, of_open, of_closed):
    language = "en" if text.isascii() else "zh"
    assert check(text, OPEN, language) == of_open
    assert check(text, CLOSED, language) == of_closed


@pytest.mark.parametrize("text", [
    "The gripper is not open.", "The gripper is above the cube.", "Gripper open wide over the cube",
    "The left gripper is open.", "A drawer is open, and the gripper, too, is open.", "The cube is red.",
    "The gripper is open or closed.", "An open gripper, lift", "The jar, open, is on the table.", "Open.",
    "12 cm off", "",
])  # fmt: skip
def test_other_words_are_left_unchecked(text):
    found = {check(text, state) for state in STATES}
    assert UNCHECKED in found
    assert not any(verdict.startswith("false claim: gripper") for verdict in found)


def test_nothing_is_checked_without_a_state_or_claim_texts():
    text = "gripper open"
    assert claims(text, None, SOURCE, phrases_of("tabletop", "en")) == UNCHECKED
    assert claims(text, OPEN, SOURCE, None) == UNCHECKED
    assert phrases_of("spatiallogic", "en") is None
    assert phrases_of("tabletop", "fr") is None


def test_values_of_other_frames_are_read_too():
    known = list(itertools.chain.from_iterable(SOURCE.claims(state) for state in STATES))
    verdict = claims("lift, gripper open", OPEN, SOURCE, phrases_of("tabletop", "en"), known=known)
    assert verdict == "false claim: phase = lift"
