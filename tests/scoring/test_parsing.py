import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stcr_plugin.engines.prompts import names_of
from stcr_plugin.scoring.parsing import named_in, parse, parse_order, why_lost
from stcr_plugin.types import Response

PAIR = ("img1", "img2")
TIES = (*PAIR, "neither")
STYLES = [(style, language) for style in ("img", "letters", "ordinals", "frames") for language in ("en", "zh")]
KEY = "closer to completion: "
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
    assert parse(text, TIES) == "neither"
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
    assert parse(text, TIES) is None


@pytest.mark.parametrize("names", [PAIR, TIES])
def test_offering_ties_changes_no_answer_that_names_an_image(names):
    assert parse("closer to completion: img1", names) == "img1"
    assert parse("img1: neither hand holds it. img2: held.\ncloser to completion: img2", names) == "img2"
    assert parse("closer to completion: img1 or img2", names) is None
    assert parse("closer to completion: img2, since neither the cup nor the lid moved", names) == "img2"


@pytest.mark.parametrize(
    ("text", "style", "language", "place"),
    [
        ("A", "letters", "en", 1),
        ("(B)", "letters", "en", 2),
        ("**b**.", "letters", "en", 2),
        ("picture A", "letters", "en", 1),
        ("image b", "letters", "en", 2),
        ("B, since a cup is held", "letters", "en", 2),
        ("B. A cup is held there.", "letters", "en", 2),
        ("A is closer", "letters", "en", 1),
        ("the second picture", "letters", "en", 2),
        ("图B", "letters", "zh", 2),
        ("选A", "letters", "zh", 1),
        ("B更接近", "letters", "zh", 2),
        ("Ｂ", "letters", "zh", 2),
        ("the first picture", "ordinals", "en", 1),
        ("Second image.", "ordinals", "en", 2),
        ("2nd picture", "ordinals", "en", 2),
        ("the first one", "ordinals", "en", 1),
        ("second", "ordinals", "en", 2),
        ("picture 2", "ordinals", "en", 2),
        ("第二张图", "ordinals", "zh", 2),
        ("第一张", "ordinals", "zh", 1),
        ("第2张图片", "ordinals", "zh", 2),
        ("图二", "ordinals", "zh", 2),
        ("图一。", "ordinals", "zh", 1),
        ("看图一下", "ordinals", "zh", None),
        ("Frame 2", "frames", "en", 2),
        ("frame one", "frames", "en", 1),
        ("the second frame", "frames", "en", 2),
        ("帧 2", "frames", "zh", 2),
        ("第1帧", "frames", "zh", 1),
        ("帧２", "frames", "zh", 2),
        ("第二张图", "img", "zh", 2),
        ("picture no 1", "img", "en", None),
        ("img2, since the first step is done", "img", "en", 2),
        ("img2, one cube is still on the table", "img", "en", 2),
    ],
)
def test_picture_goes_by_its_name_or_its_place(text, style, language, place):
    names = names_of(style, language, 2)
    assert parse(KEY + text, names) == (names[place - 1] if place else None)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("A cup is held", "letters"),
        ("a cup is held", "letters"),
        ("A or B", "letters"),
        ("b/A", "letters"),
        ("a, b", "letters"),
        ("pictures a and b", "letters"),
        ("A (the second picture)", "letters"),
        ("C", "letters"),
        ("plan-B", "letters"),
        ("A", "img"),
        ("images 1 and 2", "img"),
        ("image one or two", "img"),
        ("not img1", "img"),
        ("不是 img1", "img"),
        ("img99999999999999999999", "img"),
        ("the first step is done", "ordinals"),
        ("the third picture", "ordinals"),
        ("the first and second pictures", "ordinals"),
        ("第一和第二张图", "ordinals"),
        ("第一张桌子", "ordinals"),
        ("第一步", "ordinals"),
        ("第十一张图", "ordinals"),
        ("frame 1 than frame 2", "frames"),
        ("frame 3", "frames"),
    ],
)
def test_what_is_no_name_or_several_is_unparsed(text, style):
    names = names_of(style, "en", 2)
    assert parse(KEY + text, names) is None
    assert parse(text, names) is None


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("a", "letters"),
        ("It is in a.", "letters"),
        ("A. The gripper is open", "letters"),
        ("second", "img"),
        ("the second one", "img"),
        ("Image 1 shows an open gripper", "img"),
        ("In the second picture, the cup is held", "ordinals"),
        ("Frame 1 is not closer to completion", "frames"),
        ("Image 1 is further from completion", "img"),
        ("图1中杯子已被拿起", "img"),
        ("spatial details: img1", "img"),
    ],
)
def test_without_the_key_only_a_plain_choice_counts(text, style):
    assert parse(text, names_of(style, "en", 2)) is None


@pytest.mark.parametrize(("style", "language"), STYLES)
@pytest.mark.parametrize("size", [3, 8])
def test_more_pictures_have_their_names_and_no_others(style, language, size):
    names = names_of(style, language, size)
    for name in names_of(style, language, 8):
        assert parse(KEY + name, names) == (name if name in names else None)
    assert parse(f"{KEY}{names[0]}, {names[2]}", names) is None
    if size == 3:
        words = f"{KEY}neither {names[0]} nor {names[1]}"
        assert parse(f"{words} nor {names[2]}", (*names, "neither")) == "neither"
        assert parse(words, (*names, "neither")) is None  # the third is left


def test_names_of_anything_else_are_looked_for_as_they_are():
    assert parse("Yes, image 2 shows one.", ("yes", "no")) == "yes"
    assert parse("No, there is not a red cube.", ("yes", "no")) == "no"
    assert parse("closer to completion: not sure", ("sure", "not sure")) == "not sure"
    assert parse("yes or no", ("yes", "no")) is None
    assert parse("img1", ()) is None
    assert parse("img1", ("neither",)) is None


@pytest.mark.parametrize(
    "text",
    [
        "img3, img1, img2",
        "IMG3 > img 1 > Image 2.",
        "closest first: img3, img1 and then img2",
        "img1: open. img2: shut. img3: held.\norder: **img3**, `img1`, img2",
        '{"order": ["img3", "img1", "img2"]}',
        "1. img3\n2. img1\n3. img2",
        "Here it is:\n- img3\n- img1\n- img2\n",
        "images 3, 1, 2",
        "the third, first and second pictures",
        "img3、img1、img2",
        "从近到远：第三张图、第一张图、第二张图。",
        "顺序是ｉｍｇ３，ｉｍｇ１，ｉｍｇ２",
    ],
)
def test_order_lists_every_picture_once(text):
    assert parse_order(text, ("img1", "img2", "img3")) == ("img3", "img1", "img2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "img3, img1",
        "img3, img1, img3",
        "img3, img1, img2, img1",
        "img3, img1, img4",
        "img3, img1, img2, neither",
        "img3 < img1 < img2",
        "img3 = img1 > img2",
        "Comparing img1, img2 and img3",
        "img1: open. img2: shut. img3: held.",
        "img1: img3, img1, img2",
        "img3\nimg1",
        "img1\nimg2\nimg3\nimg1",
        "order: img3, img1, img2\nNo, img2",
    ],
)
def test_order_of_fewer_or_more_is_unparsed(text):
    assert parse_order(text, ("img1", "img2", "img3")) is None


@pytest.mark.parametrize(("style", "language"), STYLES)
def test_order_is_read_in_every_style_and_of_no_beginning(style, language):
    names = names_of(style, language, 4)
    for order in itertools.permutations(names):
        text = "order: " + ", ".join(order)
        assert parse_order(text, (*names, "neither")) == order
        assert {parse_order(text[:end], names) for end in range(len(text))} <= {None, order}


# Fuzzed. The same examples every time: what a change breaks, it breaks for everyone.

fuzz = settings(derandomize=True, database=None, deadline=None, max_examples=100)
styles = st.sampled_from(STYLES)
PIECES = (
    *(
        "img1",
        "img2",
        "Image 1",
        "A",
        "b",
        "(A)",
        "first",
        "second picture",
        "第一张图",
        "帧2",
        "图",
        "第",
        "neither",
        "都不",
    ),
    *(
        KEY.strip(),
        "closer to completion",
        "spatial details:",
        ":",
        "：",
        "\n",
        "\r",
        "\u2028",
        "*",
        "`",
        " ",
        "not ",
        "nor ",
    ),
    *("１", "²", "①", "\ud800", "\0", "\ue000", "\uf8ff", "İ", "ſ", "1" * 500),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4) | st.characters(), max_size=12).map("".join)


def wide(text):
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


CHANGES = {
    "as it is": str,
    "capitals": str.upper,
    "full-width": wide,
    "bold": "**{}**".format,
    "code": "`{}`.".format,
    "quoted": '"{}"'.format,
    "in brackets": "({})".format,
    "loose": lambda name: name.replace("1", " 1").replace("2", " 2"),
    "with a reason": "{}, since it is done".format,
}
changes = st.sampled_from(sorted(CHANGES)).map(CHANGES.__getitem__)
keys = st.sampled_from(
    [
        KEY,
        "Closer_to_Completion: ",
        "**closer to completion**：",
        '{"closer to completion": ',
        KEY + "\n\n> ",
        wide(KEY),
        "更接近完成的是：",
    ]
)
# Words of a description, none of which names a picture.
DESCRIBED = "the,a,A,cup,gripper,open,not,first,2,one,held.,夹爪,张开,不,第一步,neither,closer to completion,is"
described = st.lists(st.sampled_from(DESCRIBED.split(",")), min_size=1, max_size=6).map(" ".join)


@fuzz
@given(texts, styles, st.integers(1, 8), st.booleans())
def test_any_text_gives_one_of_the_names_or_none(text, style, size, ties):
    names = names_of(*style, size)
    assert parse(text, (*names, "neither") if ties else names) in {None, *names, *(["neither"] if ties else [])}
    order = parse_order(text, names)
    assert order is None or sorted(order) == sorted(names)


def test_pieces_of_the_fuzzing_are_answers_at_times():
    chosen = {parse(KEY + piece, (*names_of(*style, 2), "neither")) for piece in PIECES for style in STYLES}
    assert chosen >= {None, "neither", *(name for style in STYLES for name in names_of(*style, 2))}


@fuzz
@given(styles, st.integers(2, 8), st.data())
def test_picture_named_after_the_key_is_the_answer(style, size, data):
    names = names_of(*style, size)
    name, change = data.draw(st.sampled_from(names)), data.draw(changes)
    for offered in (names, (*names, "neither")):
        assert parse(data.draw(keys) + change(name), offered) == name


@fuzz
@given(styles, st.integers(2, 8), st.booleans(), st.data())
def test_two_pictures_after_the_key_are_always_unparsed(style, size, ties, data):
    names = names_of(*style, size)
    two = data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
    one, other = (data.draw(changes)(name) for name in two)
    between = data.draw(st.sampled_from([" ", ", ", " or ", " and ", "/", "、", "和", " > ", "; not ", " 比 "]))
    assert parse(f"{data.draw(keys)}{one}{between}{other}", (*names, "neither") if ties else names) is None


@fuzz
@given(styles, st.integers(2, 4), described, described, st.booleans(), st.data())
def test_answer_that_is_cut_never_becomes_another(style, size, first, rest, reasons, data):
    names = (*names_of(*style, size), "neither")
    answer = data.draw(st.sampled_from(names))
    details = " ".join(f"{name}: {words}." for name, words in zip(names, [first, *[rest] * size], strict=False))
    whole = (f"spatial details: {details}\n" if reasons else "") + KEY + answer
    assert parse(whole, names) == answer
    assert {parse(whole[:end], names) for end in range(len(whole))} <= {None, answer}


def test_long_hostile_text_is_read_in_seconds():
    started = time.process_time()
    assert parse("closer to " * 5000 + "closer" + " " * 50000 + "*" * 50000) is None
    assert parse("neither " * 5000 + "img1 和 " * 5000 + "nor " * 5000, TIES) is None
    for hostile in ("first and " * 5000, "images 1 and 2 or " * 5000, KEY * 5000, "第一、" * 5000, "A, B " * 5000):
        assert parse(hostile, ("A", "B")) is None
        assert parse_order(hostile, ("img1", "img2", "img3")) is None
    assert time.process_time() - started < 60  # where a pattern goes back over the text, it takes hours


QUOTED = "I should write closer to completion: img1, or 更接近完成：图1. "
# Of Qwen, GLM and DeepSeek; others; EXAONE; Seed-OSS; Magistral; Kimi-VL; OpenThinker; Command A; harmony with and
# without its tokens; Gemma; Granite; LLaVA-CoT; full-width signs.
REASONINGS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe see. ", "assistantfinal"),
    ("<|channel>thought\n", "<channel|>"),
    ("Here is my thought process:", "\nHere is my response:"),
    ("<REASONING>", "</REASONING>"),
    ("＜think＞", "＜/think＞"),
]
ANSWERS = [
    ("closer to completion: img2", "img2"),
    ("更接近完成：第二张图", "img2"),
    ("img2", "img2"),
    ("<answer>img2</answer>", "img2"),
    ("<answer>the second one</answer>", "img2"),
    ("<answer>closer to completion: img2</answer>", "img2"),
    ("closer to completion: <answer>图2</answer>", "img2"),
    ("<answer>img2", "img2"),
    ("<answer> img1 </answer>, no, <answer>img2</answer>", "img2"),
    ("<answer>img1</answer>\ncloser to completion: img2", "img2"),
    (r"It is img1 or img2: $\boxed{\text{img2}}$.", "img2"),
    ("img1? <|begin_of_box|>img2<|end_of_box|>", "img2"),
    ("<答案>第二张图</答案>", "img2"),
    ("closer to completion: img1\n<answer></answer>", None),
    ("<answer>img1 or img2</answer>", None),
    ("", None),
]


@pytest.mark.parametrize(("begin", "end"), REASONINGS)
@pytest.mark.parametrize(("text", "image"), ANSWERS)
def test_only_what_follows_the_reasoning_is_the_answer(begin, end, text, image):
    assert parse(f"{begin}{QUOTED}\n{QUOTED}{end}\n{text}") == image
    assert parse(f"{QUOTED}{end}{text}") == image or begin.startswith("analysis")  # the template wrote the first mark
    assert parse(f"{begin}a{end}{begin}{QUOTED}{end}{text}") == image


@pytest.mark.parametrize("begin", [begin for begin, _ in REASONINGS])
@pytest.mark.parametrize("text", [QUOTED, "\ncloser to completion: img1", "<answer>img1</answer>", "第一张图"])
def test_reasoning_that_was_not_ended_names_nothing_and_is_cut(begin, text):
    assert parse(begin + text) is None
    assert why_lost(Response(f"img2 {begin}{text}" if begin[0] == "<" else begin + text)) == "cut"
    assert parse(f"<think>a</think>img2{begin}{text}") is None or not begin.startswith("<")


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("closer to completion: img2", "img2"),
        ("spatial details: img1: open. img2: shut.\n**closer to completion:** img2\nspatial details: im", "img2"),
        ('{"spatial details": "img1: open", "closer to completion": "img2", "wh', "img2"),
        ("更接近完成：第二张图，因为", "img2"),
        ("img2", "img2"),
        ("**B**", None),
        ("**Final Answer:** img2", "img2"),
        ('{"answer": "img2', "img2"),
        ("Answer: image 1 shows", None),
        ("<answer>the second image</answer> since", "img2"),
        ("The form is `closer to completion: img2`. In the first", None),
        ("My answer has this form:\ncloser to completion: img2\nLet me look at", None),
        ("格式如下：\n更接近完成：第二张图\n先看", None),
        ("closer to completion: img2 or", None),
        ("closer to completion: 第二张图和", None),
        ("The gripper in image 2 is", None),
        ("img2 may be further along, but", None),
        ("closer to completion: the", None),
    ],
)
def test_text_that_was_cut_counts_only_with_a_name_in_its_place(text, image):
    assert parse(text, cut=True) == image


def test_neither_alone_counts_in_a_cut_text_too():
    assert parse("**Neither**.", TIES, cut=True) == "neither"
    assert parse("Neither of them", TIES, cut=True) is None


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("The gripper in img1 is open, in img2 it holds the cup.\n\n**Final Answer:** img2", "img2"),
        (QUOTED + "In the first, it is open.\nAnswer: img2", "img2"),
        ("img1 is open, img2 is shut. The answer is **img2**.", "img2"),
        ("图1中夹爪打开，图2中夹爪夹住。\n回答：图2", "img2"),
        ("图1中夹爪打开，图2中夹爪夹住。\n所以，答案是第二张图。", "img2"),
        ('{"reasoning": "img1 is open and img2 shut", "answer": "img2"}', "img2"),
        ('```json\n{"closer_to_completion": "img2", "reason": "img1 is open"}\n```', "img2"),
        (r"Not img1. \boxed{\text{img\_2}}", "img2"),
        ("Answer: In image 1 the gripper is open", None),
        ("Answer: image 1 shows an open gripper.", None),
        ("The answer is not img1", None),
        ("Final answer: img1 or img2", None),
        ("I must answer: img1 or img2. Let me look at img1.", None),
    ],
)
def test_last_line_of_an_answer_counts_without_the_words_that_were_asked_for(text, image):
    assert parse(text) == image


# Of models that mark no reasoning, such as QVQ: a reasoning that quotes the format, then the answer.
UNMARKED = [
    ("The response is one of:\n- closer to completion: img1\n- closer to completion: img2\n\nLet me look.\n", "img1"),
    ("Okay, the form is\n\ncloser to completion: img1\n\nNow the pictures. It is shut in the second.\n\n", "img2"),
    ("I have to end with a line.\ncloser to completion: img1\nLet me look. It is shut in the second.\n\n", "img2"),
    ("格式是\n更接近完成：图2\n或者\n更接近完成：图1\n先看第一张图。\n", "img2"),
    ('I should give {"closer to completion": "img1"} as output. Let me see.\n', "img2"),
    ('Form:\n```json\n{\n"closer to completion": "img1"\n}\n```\nIt is shut in the second.\n', "img2"),
    ("First I think\ncloser to completion: img1\nWait, the gripper in the second is shut.\n", "img2"),
    (QUOTED + "\nIt is open in img1.\n", "img2"),
]


@pytest.mark.parametrize(("reasoning", "image"), UNMARKED)
def test_format_that_an_unmarked_reasoning_quotes_is_no_answer_wherever_it_is_cut(reasoning, image):
    whole = f"{reasoning}closer to completion: {image}"
    assert parse(whole) == parse(whole, cut=True) == image
    quotes = [found.end() for found in re.finditer(r"img[12]|图[12]", reasoning)]
    behind = [end for end in range(len(whole)) if not any(0 <= end - quote <= 8 for quote in quotes)]
    assert {parse(whole[:end], cut=True) for end in behind} == {None}


def test_reasoning_is_no_order_and_a_cut_list_is_none():
    names = ("img1", "img2", "img3")
    assert parse_order("<think>img1, img2, img3</think>img3, img1, img2", names) == ("img3", "img1", "img2")
    assert parse_order("<answer>img3 > img1 > img2</answer>", names) == ("img3", "img1", "img2")
    assert parse_order("<think>img1, img2, img3", names) is None
    assert parse_order("img3, img1, img2", names, cut=True) == ("img3", "img1", "img2")
    assert parse_order("Such as:\nimg1, img2, img3\nFirst I look", names, cut=True) is None


def test_garbled_and_refused_texts_name_nothing_whatever_they_hold():
    response = Response("closer to completion: img2 \ud83d")
    assert (response.text, response.lost) == ("closer to completion: img2 \N{REPLACEMENT CHARACTER}", "garbled")
    assert named_in(response, PAIR) is None
    assert named_in(Response("img2", lost="refused"), PAIR) is None
    joined = Response("img2 \ud83d\ude00")  # both halves, as two escapes of JSON
    assert (joined.text, joined.lost, named_in(joined, PAIR)) == ("img2 \N{GRINNING FACE}", "", "img2")
    assert named_in(Response("img2 \N{REPLACEMENT CHARACTER}\x00"), PAIR) == "img2"


def test_log_probabilities_decide_whatever_the_text_says():
    response = Response("<think>img2", {"img1": -0.1, "img2": -3.0}, lost="cut")
    assert (named_in(response, PAIR), why_lost(Response("", {"img1": -1.0, "img2": -1.0}))) == ("img1", "")


@pytest.mark.parametrize(
    "unit",
    [
        "\nAnswer: ",
        ". the ",
        "答案",
        '{"answer":',
        "<think>",
        "</think>",
        "<answer>",
        r"\boxed{",
        "{",
        "\n",
        "<",
        "closer to completion: ",
    ],
)
def test_reasoning_marks_without_end_take_no_time(unit):
    started = time.process_time()
    parse(unit * (200_000 // len(unit)))
    assert time.process_time() - started < 2
