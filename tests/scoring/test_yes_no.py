import pytest

from stcr_plugin.result_files import encode
from stcr_plugin.samples.general import Question
from stcr_plugin.scoring.yes_no import Reply, figures, intervals, parse
from stcr_plugin.types import Response


def reply(picture, label, chosen):
    return Reply(Question(picture, f"{label} {chosen}", label, ("random",)), chosen, Response(""))


def test_figures_of_a_worked_example():
    """Of 6 things 4 are found, of 4 others 1 is imagined; one answer is none: by hand."""
    told = [("yes", "yes")] * 4 + [("yes", "no"), ("yes", None), ("no", "yes")] + [("no", "no")] * 3
    found = figures([reply("p", *one) for one in told])
    expected = {
        "accuracy": 70,
        "precision": 80,
        "recall": 100 * 4 / 6,
        "f1": 100 * 2 * 0.8 * (4 / 6) / (0.8 + 4 / 6),
        "yes_ratio": 50,
        "unparsed_rate": 10,
    }
    assert encode(found) == pytest.approx(expected)


def test_figures_where_nothing_is_answered_yes():
    found = figures([reply("p", "yes", "no"), reply("p", "no", "no")])
    assert (found.accuracy, found.precision, found.recall, found.f1) == (50, None, 0, 0)


def test_intervals_are_over_pictures():
    """Ten questions about one picture are no ten witnesses: right about one and wrong about the other says nothing."""
    right, wrong = [reply("a", "yes", "yes")] * 10, [reply("b", "yes", "no")] * 10
    assert intervals(right + wrong)["accuracy"] == (0, 100)
    assert "accuracy" not in intervals(right)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("**Yes**, there is.", "yes"),
        ("Yes, no doubt.", "yes"),
        ("\n- no\nyes", "no"),
        ("There is no red cube.", "no"),
        ("There isn’t one.", "no"),
        ("I would say yes", "yes"),
        ("yes or no", None),
        ("", None),
        ("nothing to note", None),
        ("a red cube", None),
        ("是的", "yes"),
        ("不是", "no"),
        ("没有。", "no"),
        ("有", "yes"),
        ("否", "no"),
        ("图中没有方块", "no"),
        ("ＹＥＳ", "yes"),
    ],
)
def test_answers_are_read(text, label):
    assert parse(text) == label
