import pytest

from stcr_plugin.scoring.percentages import percentages

NAMES = ("img1", "img2", "img10")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("img1: arm at home, 0 %\nimg2: holds the cup, 62.5%\nimg10: done, 100 %", [0, 62.5, 100]),
        ("img10: 3 %", [None, None, 3]),
        ("IMG1: 10%, img2: 20%, img10：３０％", [10, 20, 30]),
        ("**img1**: 5 %\n- `img2`: 6 percent\n", [5, 6, None]),
        ('{"img1": 40, "img2": 55, "img10": 60}', [40, 55, 60]),
        ("img1: 20 % more than img2, so 70 %", [70, None, None]),
        ("img1:\n  the gripper is 3 cm above\n  40 %", [40, None, None]),
        ("img1: 3 of 5 blocks", [None, None, None]),
        ("img1: 140 %\nimg2: -5 %", [None, None, None]),
        ("img1: 10 %\nimg1: 30 %", [30, None, None]),
        ("<think>img1: 90 %</think>img1: 20 %", [20, None, None]),
        ("<think>img1: 90 %", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_each_picture_gets_the_last_percentage_behind_its_name(text, found):
    assert percentages(text, NAMES) == found
