import random

import pytest

from stcr_plugin.evaluation.answers import parse

REASONED = "spatial details: img1: the gripper is open. img2: the gripper holds the cube.\n"


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("closer to completion: img1", "img1"),
        ("closer to completion: img2", "img2"),
        (REASONED + "closer to completion: img1", "img1"),
        (REASONED + "closer_to_completion: img2<|im_end|>", "img2"),
        ("Closer To Completion：IMG１", "img1"),
        ("**closer to completion:** **img2**", "img2"),
        ("**closer to completion**: `img 1`.", "img1"),
        ("closer to completion: 'Image 2'", "img2"),
        ("closer to completion:\n\n> img2", "img2"),
        ('{"spatial details": "img1: open. img2: shut", "closer to completion": "img1"}', "img1"),
        ("closer to completion: img1, since it is done", "img1"),
        ("closer to completion: img2是", "img2"),
    ],
)
def test_answer_line_names_the_image(text, image):
    assert parse(text) == image


def test_last_answer_line_decides():
    assert parse("closer to completion: img1\nNo.\ncloser to completion: img2") == "img2"
    assert parse("closer to completion: img1\ncloser to completion:") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "closer to completion:",
        "closer to completion: img1 or img2",
        "closer to completion: img2 and img1",
        "closer to completion: both",
        "closer to completion: img3",
        "closer to completion: img12",
        "closer to completion: img1 img3",
        "closer to completion: myimg1",
        REASONED,
    ],
)
def test_no_image_or_both_is_unparsed(text):
    assert parse(text) is None


def test_text_without_answer_line_counts_when_it_names_one_image():
    assert parse("I would say img2.") == "img2"
    assert parse("Image 1 is further along than the other") == "img1"
    assert parse("img1 is further along than img2") is None


def test_reasoning_cut_before_its_judgment_is_unparsed():
    assert parse("spatial details: img1: the gripper is open and") is None
    assert parse("spatial details: **img1**: the gripper is open and") is None


def test_any_string_parses_to_an_image_or_none():
    random_ = random.Random(0)
    pieces = [
        "img1",
        "img2",
        "closer to completion",
        ":",
        "：",
        "\n",
        "\r",
        "*",
        "`",
        "１",
        "²",
        "\ud800",
        "\0",
        "图",
        " ",
    ]
    seen = set()
    for _ in range(3000):
        signs = [random_.choice([*pieces, chr(random_.randrange(0x110000))]) for _ in range(random_.randrange(12))]
        seen.add(parse("".join(signs)))
    assert seen == {"img1", "img2", None}


def test_long_hostile_text_is_quick():
    assert parse("closer to " * 20000 + "closer" + " " * 50000 + "*" * 50000) is None
