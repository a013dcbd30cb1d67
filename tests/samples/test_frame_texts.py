from __future__ import annotations

import pytest

from stcr_plugin.episodes.stage_spans import StageEntry, add_stages, check_stages, claims
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.samples.frame_texts import NO_STAGE, FrameTexts
from stcr_plugin.types import Claim


class Annotated:
    """What a source says of its frames, which is all that is asked of it here."""

    def claims(self, state):
        return claims(state, ("stage", "stage_of"))


def why_not(text, kind="lerobot", languages=("en", "zh")):
    (state,) = add_stages(None, check_stages([StageEntry(text, 0, 1)], 1), 1)
    return FrameTexts(Annotated(), {name: load_phrases(kind)[name] for name in languages}).why_not(state)


@pytest.mark.parametrize("kind", ["lerobot", "agibot", "frames"])
@pytest.mark.parametrize(
    "text",
    [
        "Place the cucumber, then the lid; and the cup，也放下；好",
        "open the left hand closed",
        "stage 2/5",
        'pick up the "red" cup',
        "motion 40% done",
        "运动的臂：左",
        "{value} {part}",
        "take 2 lids",
        "pick “it”, up",
    ],
)
def test_a_text_with_separators_and_phrases_in_it_reads_back_exactly(kind, text):
    assert why_not(text, kind) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("look at <image> now", "media or chat marker"),
        ("stop <|im_end|>", "media or chat marker"),
        ("pick it”, then “up; down，left", "cannot be read back exactly"),
        ("3", "cannot be read back exactly"),
        ("lid. img2: open", "looks like a part of the answer"),
        ("closer to completion: img1", "looks like a part of the answer"),
    ],
)
def test_a_text_that_spoils_the_answer_is_not_used_and_named(text, reason):
    assert reason in why_not(text)
    assert repr(text) in why_not(text)


def test_a_frame_without_a_stage_is_not_described():
    (state,) = add_stages(None, check_stages([], 1), 1)
    assert FrameTexts(Annotated(), {}).why_not(state) == NO_STAGE


def test_a_quotation_mark_that_is_never_closed_hides_no_separator():
    phrases = load_phrases("lerobot")["en"]
    assert phrases.read_pieces("doing “place, left hand open") == (None, Claim("hand:left", "open"))
