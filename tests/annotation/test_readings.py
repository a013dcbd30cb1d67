"""What a teacher's response says of a picture, or why it says nothing."""

import pytest

from stcr_plugin.annotation.forms import describe_both_prompt
from stcr_plugin.annotation.readings import read_halves, read_text
from stcr_plugin.types import Pair, Query, Response

PROMPT = describe_both_prompt(
    Query(Pair("e:1-2", "e", "train", "t", 1, 2, 1.0, earlier_image="a", later_image="b"), "forward"), "en"
)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("The cup is red.", "The cup is red."),
        ('"The cup is red."', "The cup is red."),
        ("**img1:** The cup is red. The *lid* is off.", "The cup is red. The lid is off."),
        ("The image shows a red cup on a tray.", "A red cup on a tray."),
        ("In the picture, we can see that the cup is red.", "The cup is red."),
        ("Here is a description of the picture:\n\nThe cup is red.", "The cup is red."),
        ("- The cup is red\n- The lid is off\n", "The cup is red. The lid is off"),
        ("1. The cup is red.\n2. The lid is off.", "The cup is red. The lid is off."),
        ("```\nThe cup is red.\n```", "The cup is red."),
        ("<think>img2 is later</think>The cup is red.", "The cup is red."),
        ("<answer>The cup is red.</answer>", "The cup is red."),
        ("图中显示，杯子是红色的。", "杯子是红色的。"),
        ("图片：杯子是红色的。", "杯子是红色的。"),
        ("- 杯子是红色的\n- 盖子打开", "杯子是红色的。 盖子打开"),
        ("The cup is 2.5 cm from the tray.", "The cup is 2.5 cm from the tray."),
        (
            "The image sensor and the picture frame lie on a desk.",
            "The image sensor and the picture frame lie on a desk.",
        ),
        ("The gripper cannot be seen.", "The gripper cannot be seen."),
    ],
)
def test_a_text_is_kept_without_what_surrounds_it(response, text):
    found = read_text(Response(response))
    assert (found.text, found.described) == (text, "passed")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Response(""), "empty"),
        (Response("  ** \n"), "empty"),
        (Response("The cup is", lost="cut"), "cut"),
        (Response("", lost="refused"), "refused"),
        (Response("A cup \ud83d"), "garbled"),
        (Response("<think>The cup is red."), "reasoning only"),
        (Response("<think>The cup is", lost="cut"), "reasoning only"),
        (Response("<think>The cup is red.</think>\n"), "reasoning only"),
        (Response("I'm sorry, but I can't help with that."), "refused"),
        (Response("I cannot see any image."), "refused"),
        (Response("抱歉，我无法查看图片。"), "refused"),
        (Response("The cup is <|im_end|> red."), "chat marker"),
    ],
)
def test_a_response_without_a_usable_text_says_why(response, reason):
    assert (read_text(response).text, read_text(response).described) == ("", reason)
    assert read_halves(response, PROMPT)[0].described in (reason, "one picture")


@pytest.mark.parametrize(
    "response",
    [
        "img1: The cup is red. It is open.\nimg2: The lid is on.",
        "**img1:** The cup is red. It is open.\n\n**img2:** The lid is on.\n\ncloser to completion: img2",
        '{"img1": "The cup is red. It is open.", "img2": "The lid is on."}',
        "spatial details: img1: The cup is red. It is open. img2: The lid is on.\ncloser to completion: img1",
        "### img1:\n- The cup is red\n- It is open\n### img2:\n- The lid is on",
    ],
)
def test_the_texts_of_both_pictures_are_read_behind_their_names(response):
    assert [one.text for one in read_halves(Response(response), PROMPT)] == [
        "The cup is red. It is open",
        "The lid is on",
    ]


def test_a_response_about_one_of_two_pictures_is_not_used():
    assert {one.described for one in read_halves(Response("img1: The cup is red."), PROMPT)} == {"one picture"}
