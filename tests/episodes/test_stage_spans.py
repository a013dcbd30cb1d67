from __future__ import annotations

import math

import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.stage_spans import (
    StageClaims,
    StageEntry,
    StageSpan,
    StageSpans,
    add_stages,
    check_stages,
    claims,
    exclusions,
    holds,
)
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Claim

BOTH = ("stage", "stage_of")


def entries(*stages):
    return [StageEntry(*stage) for stage in stages]


SOUND = check_stages(entries(("open the jar", 0, 4), ("take a lid", 4, 6), ("place the lid", 8, 10)), 10)


def test_sound_stages_are_numbered_in_order_of_time_and_may_have_gaps():
    later_first = check_stages(entries(("place the lid", 8, 10), ("open the jar", 0, 4), ("take a lid", 4, 6)), 10)
    assert later_first == SOUND
    assert (
        StageSpans(
            (
                StageSpan("open the jar", 0, 4, 1),
                StageSpan("take a lid", 4, 6, 2),
                StageSpan("place the lid", 8, 10, 3),
            ),
            3,
        )
        == SOUND
    )


def test_a_text_is_one_line_without_its_full_stop_and_numbers_are_read_however_they_are_spelled():
    (span,) = check_stages(entries((["Place the cucumber\n  in the cart. "], "2", [4.0])), 9).spans
    assert span == StageSpan("Place the cucumber in the cart", 2, 4, 1)


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        (("x", 4, 12), r"frames \[4, 12\) of an episode of 10"),
        (("x", -1, 3), r"frames \[-1, 3\) of an episode of 10"),
        (("x", 5, 3), "starts at frame 5 and ends before frame 3, so it has no frame"),
        (("x", 5, 5), "so it has no frame"),
        (("x", None, 5), "a stage has no span: its start is empty"),
        (("x", 1.5, 5), "its start 1.5 is not a whole number"),
        (("x", 1, "late"), "its end 'late' is not a number"),
        (("x", 1, math.nan), "its end is empty"),
        (("x", 1, {"frame": 5}), r"its end \(a dict\) is not a number"),
        (("x", 10**30, 5), "not a whole number"),
    ],
)
def test_a_stage_with_a_wrong_span_is_left_out_and_no_stage_has_a_number(stage, problem):
    found = check_stages(entries(stage, ("place the lid", 8, 10)), 10)
    assert found.spans == (StageSpan("place the lid", 8, 10, 0),)
    assert found.count == 0
    (excluded,) = exclusions(found, "episode 7")
    assert excluded.what == "stage"
    assert excluded.where == "episode 7"
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(excluded.reason)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no text"),
        ("  ", "no text"),
        (" . ", "no text"),
        (7, "its text '7' is not text"),
        ("lid \udcff", "is not UTF-8"),
        ("lid\0", "holds a NUL"),
        ({"text": "x"}, "is not text"),
    ],
)
def test_a_stage_with_a_wrong_text_is_left_out_and_keeps_its_number(text, problem):
    found = check_stages(entries((text, 0, 4), ("place the lid", 4, 10)), 10)
    assert found.spans == (StageSpan("place the lid", 4, 10, 2),)
    assert found.count == 2
    assert problem in found.problems[0]


def test_of_stages_that_overlap_none_is_used_and_they_are_named():
    found = check_stages(entries(("open", 0, 5), ("take", 4, 6), ("place", 6, 8)), 10)
    assert [span.text for span in found.spans] == ["place"]
    assert found.problems == ("the stages 'open' and 'take' overlap in frames [4, 5)",)
    inside = check_stages(entries(("all", 0, 10), ("a", 1, 2), ("b", 3, 4)), 10)
    assert inside.spans == ()
    assert len(inside.problems) == 2


def test_every_frame_claims_what_its_span_says_and_that_alone_holds():
    states = add_stages(None, SOUND, 10)
    said = [claims(state, BOTH) for state in states]
    assert said[3] == (Claim("stage", "open the jar"), Claim("stage_of", "1/3"))
    assert said[4] == (Claim("stage", "take a lid"), Claim("stage_of", "2/3"))
    assert said[6] == said[7] == ()
    for state, own in zip(states, said, strict=True):
        for claim in {claim for one in said for claim in one}:
            assert holds(claim, state) == (claim in own)
    assert claims(states[3], ("stage",)) == said[3][:1]
    assert not holds(Claim("hand:left", "open"), states[3])
    assert not holds(Claim("stage", "open the jar"), {"stage": "open the jar"})


def test_what_holds_is_read_from_the_spans_and_not_from_what_is_claimed():
    state = {**add_stages(None, SOUND, 10)[3], "stage": "place the lid", "stage_number": 3}
    assert claims(state, BOTH) == (Claim("stage", "place the lid"), Claim("stage_of", "3/3"))
    assert not any(holds(claim, state) for claim in claims(state, BOTH))


def test_a_number_that_is_not_certain_is_not_said():
    found = check_stages(entries(("x", 0, 99), ("place the lid", 4, 10)), 10)
    assert claims(add_stages(None, found, 10)[5], BOTH) == (Claim("stage", "place the lid"),)


def test_a_stage_is_the_phase_of_a_state_that_has_none_and_other_keys_stay():
    states = add_stages([{"motion": 0.5}] * 10, SOUND, 10)
    assert (states[0]["phase"], states[0]["motion"]) == ("open the jar", 0.5)
    assert (states[7]["phase"], states[7]["stage"]) == ("", None)
    assert add_stages([{"phase": "reach"}] * 10, SOUND, 10)[0]["phase"] == "reach"


@pytest.mark.parametrize("say", [[], ["stage", "stage"], ["number"]])
def test_a_wrong_choice_of_claims_is_refused(say):
    with pytest.raises(ConfigError, match="say"):
        from_mapping(StageClaims, {"say": say}, "source.stages")
