import dataclasses
from types import SimpleNamespace

import pytest

from stcr_plugin.engines.prompts import content, conversation, names_of, prompt_row, prompts_for, renamed, written
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.questions import prompt as training_prompt
from stcr_plugin.scoring.parsing import choice
from stcr_plugin.types import ORDERS, Pair, Prompt, Query, Shown

PAIR = Pair(
    "p1", "e1", "test", "stack the cups", 0, 5, 1.0, earlier_image="toy/frames/0.png", later_image="toy/frames/5.png"
)
QUERIES = [Query(PAIR, order) for order in ORDERS]
STYLES = {
    "letters": {"en": ("A", "B"), "zh": ("A", "B")},
    "ordinals": {"en": ("first picture", "second picture"), "zh": ("第一张图", "第二张图")},
    "frames": {"en": ("frame 1", "frame 2"), "zh": ("帧1", "帧2")},
}
CASES = [(style, language, names) for style, by_language in STYLES.items() for language, names in by_language.items()]


def forward(settings, seed=0, ties=False):
    return prompts_for(QUERIES[:1], settings, seed, ties)[0]


@pytest.mark.parametrize("mode", ["cot", "direct"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("ties", [False, True])
def test_prompt_in_the_plain_style_is_the_training_prompt(mode, language, ties):
    settings = AskSettings(mode=mode, language=language)
    for query, prompt in zip(QUERIES, prompts_for(QUERIES, settings, seed=5, ties=ties), strict=True):
        assert "<image>" * 2 + prompt.question == training_prompt(query, mode, language, seed=5, ties=ties)
        assert (prompt.item, prompt.episode_id, prompt.order) == ("p1", "e1", query.order)
        assert prompt.shown == tuple(Shown(image) for image in query.images)
        assert prompt.labels == ("img1", "img2")
        assert prompt.names == (("img1", "img2", "neither") if ties else ("img1", "img2"))
        assert (prompt.answer, prompt.begin) == ("closer to completion: {name}", "")
        assert prompt.reasons == (mode == "cot")


def test_message_has_each_label_straight_before_its_picture():
    prompt = forward(AskSettings())
    assert content(prompt) == [
        {"type": "text", "text": "img1: "},
        {"type": "image"},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image"},
        {"type": "text", "text": f"\n{prompt.question}"},
    ]
    blind = dataclasses.replace(prompt, shown=())
    assert content(blind) == [{"type": "text", "text": prompt.question}]


def test_question_stands_before_the_numbered_pictures_where_it_comes_first():
    prompt = dataclasses.replace(forward(AskSettings()), question_first=True)
    assert content(prompt) == [
        {"type": "text", "text": f"{prompt.question}\nimg1: "},
        {"type": "image"},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image"},
    ]
    assert content(dataclasses.replace(prompt, shown=())) == [{"type": "text", "text": prompt.question}]


def test_digest_of_a_prompt_of_earlier_versions_is_as_it_was():
    prompt = forward(AskSettings())
    row = prompt_row(prompt)
    assert "question_first" not in row
    assert row["shown"] == [{"image": image, "change": ""} for image in QUERIES[0].images]
    assert prompt_row(dataclasses.replace(prompt, question_first=True)) == row | {"question_first": True}


@pytest.mark.parametrize(("style", "language", "names"), CASES)
@pytest.mark.parametrize("mode", ["cot", "direct"])
@pytest.mark.parametrize("part", ["train", "heldout"])
def test_style_renames_labels_question_and_names_alike(style, language, names, mode, part):
    for seed in range(10):  # several prompt variants
        plain = forward(AskSettings(mode=mode, language=language, part=part), seed, ties=True)
        styled = forward(AskSettings(mode=mode, language=language, part=part, style=style), seed, ties=True)
        assert styled.labels == names
        assert styled.names == (*names, "neither")
        assert styled.question == plain.question.replace("img1", names[0]).replace("img2", names[1])
        assert "img" not in styled.question
        assert all(name in styled.question for name in names)
        kept = ("item", "episode_id", "order", "shown", "answer", "reasons", "begin")
        assert all(getattr(styled, field) == getattr(plain, field) for field in kept)


@pytest.mark.parametrize("style", ["img", *STYLES])
def test_names_of_a_style_are_all_different_and_map_to_the_canonical_ones(style):
    for language in ("en", "zh"):
        eight = names_of(style, language, 8)
        assert len(set(eight)) == 8
        assert names_of(style, language, 3) == eight[:3]
        two = (*names_of(style, language, 2), "neither")
        assert [choice(name, two) for name in (*two, None)] == ["img1", "img2", "neither", None]


def test_renaming_leaves_names_that_are_not_shown():
    assert renamed("img1, img2 or img3; image 1", ("A", "B")) == "A, B or img3; image 1"
    assert renamed("img2 img1", ("first picture", "second picture")) == "second picture first picture"


@pytest.mark.parametrize("style", ["img", "letters"])
@pytest.mark.parametrize(("language", "warning"), [("en", "no particular order"), ("zh", "先后顺序是任意的")])
def test_warning_ends_the_question_and_changes_nothing_else(style, language, warning):
    plain = forward(AskSettings(language=language, style=style))
    warned = forward(AskSettings(language=language, style=style, warn=True))
    assert warned.question.startswith(plain.question)
    assert warning in warned.question.removeprefix(plain.question)
    assert dataclasses.replace(warned, question=plain.question) == plain


def test_both_orders_get_the_same_words():
    for settings in (AskSettings(), AskSettings(style="frames", warn=True, part="heldout")):
        one, two = prompts_for(QUERIES, settings, seed=2)
        assert one.question == two.question
        assert one.shown == two.shown[::-1]


def test_unknown_style_and_language_name_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown style 'leters'.*'letters'"):
        forward(AskSettings(style="leters"))
    with pytest.raises(ConfigError, match=r"'zn'.*'zh'"):
        names_of("letters", "zn", 2)
    with pytest.raises(ConfigError, match="names 8 pictures, 9 are shown"):
        names_of("letters", "en", 9)


class Letters:
    """A tokenizer of one token per letter, and of three special ones."""

    special = ("<|im_end|>", "[THINK]", "[/THINK]")

    @property
    def added_tokens_decoder(self):
        return {number: SimpleNamespace(content=text, special=True) for number, text in enumerate(self.special, 1000)}

    def decode(self, tokens, skip_special_tokens):
        shown = {} if skip_special_tokens else dict(enumerate(self.special, 1000))
        return "".join(shown.get(token, "") if token >= 1000 else chr(token) for token in tokens)


@pytest.mark.parametrize("opened", ["", "<think>\n"])
def test_written_keeps_the_marks_of_a_reasoning_and_adds_what_the_template_began(opened):
    """Special tokens are left out, and Magistral's marks are special tokens."""
    processor = SimpleNamespace(
        tokenizer=Letters(), apply_chat_template=lambda *_, **__: f"<|im_start|>assistant\n{opened}"
    )
    prompt = Prompt("p", "e", "forward", (), (), "which?")
    rows = [[1001, *map(ord, "img1?"), 1002, *map(ord, "img2"), 1000]]
    assert written(processor, [prompt], rows) == [f"{opened.strip()}[THINK]img1?[/THINK]img2"]
    begun = dataclasses.replace(prompt, begin="<think>img1?</think>")
    assert conversation(processor, begun) == "<|im_start|>assistant\n<think>img1?</think>"
