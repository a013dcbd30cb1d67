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


@pytest.mark.parametrize(
    "text",
    [
        "closer to completion: neither",
        REASONED + "closer to completion: neither",
        "Closer_To_Completion：**Neither**.",
        "closer to completion:\n\n> neither",
        '{"spatial details": "img1: open. img2: open", "closer to completion": "neither"}',
        "closer to completion: neither img1 nor img2",
        "closer to completion: neither of `image 1` and `image 2`",
        "closer to completion: neither is closer",
        "closer to completion: 都不",
        "closer to completion: img1 和 img2 都不更接近",
        "closer to completion: 两者都不",
        "closer to completion: img1\nNo.\ncloser to completion: neither",
        "Neither is further along.",
        "Neither img2 nor img1 is further along.",
        "都不",
    ],
)
def test_neither_is_an_answer_only_where_ties_are_offered(text):
    assert parse(text, ties=True) == "neither"
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "closer to completion: img1 or neither",
        "closer to completion: neither, img2",
        "closer to completion: img1 都不",
        "closer to completion: neither img1",
        "closer to completion: neither img1 nor img3",
        "closer to completion: neither img1 nor img2 but img2",
        "Neither, or rather image 1",
        "spatial details: img1: the cup is in neither bowl",
        "spatial details: neither the cup nor the bowl has moved",
        "closer to completion: neithers",
    ],
)
def test_neither_beside_an_image_or_of_things_is_unparsed(text):
    assert parse(text, ties=True) is None


@pytest.mark.parametrize("ties", [False, True])
def test_offering_ties_changes_no_answer_that_names_an_image(ties):
    assert parse("closer to completion: img1", ties) == "img1"
    assert parse("img1: neither hand holds it. img2: held.\ncloser to completion: img2", ties) == "img2"
    assert parse("closer to completion: img1 or img2", ties) is None
    assert parse("closer to completion: img2, since neither the cup nor the lid moved", ties) == "img2"


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
        "neither",
        "都不",
    ]
    seen, seen_with_ties = set(), set()
    for _ in range(3000):
        signs = [random_.choice([*pieces, chr(random_.randrange(0x110000))]) for _ in range(random_.randrange(12))]
        seen.add(parse("".join(signs)))
        seen_with_ties.add(parse("".join(signs), ties=True))
    assert seen == {"img1", "img2", None}
    assert seen_with_ties == {"img1", "img2", "neither", None}


def test_long_hostile_text_is_quick():
    assert parse("closer to " * 20000 + "closer" + " " * 50000 + "*" * 50000) is None
    assert parse("neither " * 20000 + "img1 和 " * 20000 + "nor " * 20000, ties=True) is None
