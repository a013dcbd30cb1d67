"""Claims in an answer are held against the truth one by one, and a wrong answer gets its cause."""

from __future__ import annotations

import pytest

from stcr_plugin.figures import AnswerCauses
from stcr_plugin.scoring.factuality import Described, Truth, described, factuality, own_halves
from stcr_plugin.types import Answer, Choice, Claim

NEAR, FAR = (Claim("gripper", "closed"), Claim("goal", 1)), (Claim("gripper", "closed"), Claim("goal", 9))


def read(text: str) -> list[Claim | None]:
    """`gripper=closed` and `goal=1`; anything else cannot be read."""
    found: list[Claim | None] = []
    for piece in text.split(", "):
        name, equals, value = piece.partition("=")
        found.append(Claim(name, int(value) if value.isdecimal() else value) if equals else None)
    return found


def held(first: str, second: str, chosen: Choice | None = "img2", episode: str = "e") -> Described:
    """An answer about a far and a near picture, of which the second is closer."""
    text = f"spatial details: img1: {first}. img2: {second}.\ncloser to completion: {chosen}"
    answer = Answer(f"{episode}:0-1", episode, "forward", "img2", chosen, text)
    truths = (Truth(FAR, lambda claim: claim in FAR), Truth(NEAR, lambda claim: claim in NEAR))
    return described(answer, ("img1", "img2"), truths, read=read)


TRUE = ("gripper=closed, goal=9", "gripper=closed, goal=1")


def test_true_descriptions_are_all_true_and_miss_nothing() -> None:
    found = factuality([held(*TRUE)])
    assert (found.claims_true.value, found.claims_false.value, found.claims_unreadable.value) == (100, 0, 0)
    assert (found.claims_missing.value, found.n_claims, found.n_undescribed) == (0, 4, 0)
    assert {family: (one.n, one.true.value, one.off) for family, one in found.families.items()} == {
        "goal": (2, 100, 0),
        "gripper": (2, 100, None),
    }


def test_numbers_are_off_by_their_mean_distance_from_a_true_description() -> None:
    found = factuality([held("gripper=closed, goal=5", TRUE[1]), held("goal=9, size=4", "goal=three", episode="f")])
    assert found.families["goal"].off == pytest.approx((4 + 0 + 0) / 3)
    assert found.families["size"].off is None  # a true description says nothing of it


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (*TRUE, "judging"),
        ("gripper=closed, goal=1", "gripper=closed, goal=9", "seeing"),
        ("gripper=closed, goal=9", "gripper=closed, goal=2", "seeing"),  # one detail of what differs
        ("gripper=open, goal=9", "gripper=open, goal=1", "judging"),  # false of both alike: it decides nothing
        ("gripper=open, goal=9", "gripper=closed, goal=1", "seeing"),  # a difference that is not there
        ("gripper=closed, goal=9", "gripper=closed, something", "unknown"),
        ("gripper=closed", "gripper=closed", "unknown"),  # nothing that decides
    ],
)
def test_a_wrong_answer_is_a_seeing_or_a_judging_error(first: str, second: str, cause: str) -> None:
    found = factuality([held(first, second, "img1"), held(first, second, "img2", episode="right"), held(*TRUE, None)])
    assert found.wrong == AnswerCauses(**{cause: 1})
    assert found.right == found.wrong  # the same words: such a cause explains nothing


def test_shares_count_claims_and_omissions_over_all_answers() -> None:
    found = factuality([held("gripper=closed, goal=8", "a cup"), held("", "", episode="f"), held(*TRUE, episode="g")])
    assert found.claims_true.value == pytest.approx(100 * 5 / 7)
    assert found.claims_false.value == pytest.approx(100 / 7)
    assert found.claims_unreadable.value == pytest.approx(100 / 7)
    assert found.claims_missing.value == pytest.approx(100 * (2 + 4) / 12)
    assert found.n_undescribed == 1
    assert found.claims_true.interval is not None
    assert found.claims_true.low < found.claims_true.value < found.claims_true.high


def test_halves_are_found_in_the_words_of_other_models_too() -> None:
    text = "**img1**: the cup is up.\n**img2**： the cup is down.\nCloser to completion: img2"
    assert own_halves(text, ("img1", "img2")) == ("the cup is up", "the cup is down")
    assert own_halves("closer to completion: img1: img2: x", ("img1", "img2")) is None


def test_a_reasoning_is_not_read_as_the_description() -> None:
    text = "<think>img1: a? img2: b?</think>spatial details: img1: x. img2: y.\ncloser to completion: img2"
    assert own_halves(text, ("img1", "img2")) == ("x", "y")
    assert own_halves("<think>spatial details: img1: x. img2: y.", ("img1", "img2")) is None
