"""Texts split into sentences, and a stage's text compared with another one's."""

import pytest

from stcr_plugin.samples.sentences import missing_in, sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The cup is red. It is on the plate!", ("The cup is red.", "It is on the plate!")),
        ("The gap is 2.5 cm. The lid is off", ("The gap is 2.5 cm.", "The lid is off")),
        ("It is approx. 3 cm wide.", ("It is approx. 3 cm wide.",)),
        (
            "Fruits, e.g. two pears, a plum, etc. lie in a bowl.",
            ("Fruits, e.g. two pears, a plum, etc. lie in a bowl.",),
        ),
        ("A cup, a plate, and a fork are there.", ("A cup, a plate, and a fork are there.",)),
        ("The box is 1,200 g; the lid is open.", ("The box is 1,200 g", "the lid is open.")),
        ('The label reads "Hot." The cup is full.', ('The label reads "Hot."', "The cup is full.")),
        ("1. The cup is red. 2. The lid is open.", ("1. The cup is red.", "2. The lid is open.")),
        ("杯子在盘子上。夹爪张开，距离2.5厘米！", ("杯子在盘子上。", "夹爪张开，距离2.5厘米！")),
        ("苹果、香蕉和梨在碗里；盖子打开。", ("苹果、香蕉和梨在碗里", "盖子打开。")),
        ("标签写着“热。”杯子满了", ("标签写着“热。”", "杯子满了")),
        ("One line\nAnother line", ("One line", "Another line")),
        ("The block is at point B. The arm is up.", ("The block is at point B.", "The arm is up.")),
        (" ... ", ()),
    ],
)
def test_a_text_is_split_at_its_sentences(text, parts):
    assert sentences(text) == parts


def test_a_stages_text_is_confirmed_part_by_part():
    first, second = "approach, gripper open, hand 12 cm off", "Approach, gripper  open, hand 10 cm off."
    assert missing_in(first, second) == ("hand 12 cm off",)
    assert missing_in("接近阶段，夹爪张开", "夹爪张开，接近阶段") == ()
    assert missing_in("高5，手距3", "高5，手距4") == ("手距3",)
    assert missing_in("goal 1,200 mm off", "goal 1,200 mm off") == ()
