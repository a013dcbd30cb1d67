from itertools import permutations

import pytest

from stcr_plugin.errors import DataError
from stcr_plugin.figures import GroupFigures, GroupSettings
from stcr_plugin.results import MultiImage
from stcr_plugin.scoring import verdicts
from stcr_plugin.scoring.group_figures import GroupAnswer, chance, control_row, figures, intervals, kendall_tau

THREE = GroupSettings(pictures=3)


@pytest.fixture(autouse=True)
def few_episodes_suffice(monkeypatch):
    monkeypatch.setattr(verdicts, "FEWEST", 2)


def said(shown, chosen=None, ranking=None, group="g", episode="e"):
    return GroupAnswer(group, episode, shown, chosen, ranking, "")


def test_kendall_tau_is_that_of_scipy():
    from scipy.stats import kendalltau

    for shown in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 1, 0, 2)):
        for ranking in permutations(range(4)):
            listed = [shown[place] for place in ranking]  # closest first: descending frames
            expected = kendalltau([3, 2, 1, 0], listed).statistic
            assert kendall_tau(ranking, shown) == pytest.approx(expected, abs=1e-12)


def test_figures_are_those_counted_by_hand():
    answers = [
        said((2, 0, 1), 0, group="a"),  # right
        said((0, 1, 2), 2, group="a"),  # right
        said((1, 2, 0), 1, group="a"),  # right: the group in every arrangement
        said((2, 0, 1), 0, group="b"),  # right
        said((0, 1, 2), 0, group="b"),
        said((1, 2, 0), None, group="b"),
    ]
    found = figures(answers, THREE)
    assert found.accuracy == pytest.approx(400 / 6)
    assert found.all_rotations == 50
    assert found.places == (3, 1, 1)
    # Each place is expected 5/3 times: (4/3)^2 + (2/3)^2 + (2/3)^2 = 24/9, over 5/3.
    assert found.place_chi2 == pytest.approx((24 / 9) / (5 / 3))
    assert found.unparsed_rate == pytest.approx(100 / 6)
    assert (found.n_groups, found.n_queries, found.n_episodes) == (2, 6, 1)
    assert found.exact is None
    with pytest.raises(DataError, match="no answers"):
        figures([], THREE)


def test_an_order_is_scored_whole_and_by_tau():
    asked = GroupSettings(ask="order")
    answers = [
        said((2, 0, 1), 0, (0, 2, 1)),  # 2, 1, 0: exact, tau 1
        said((0, 1, 2), 2, (2, 0, 1)),  # 2, 0, 1: tau 1/3
        said((1, 2, 0), None, None),  # unparsed: tau counts as 0
        said((1, 2, 0), 2, (2, 0, 1)),  # 0, 1, 2: tau -1
    ]
    found = figures(answers, asked)
    assert found.exact == 25
    assert found.kendall_tau == pytest.approx((1 + 1 / 3 - 1) / 4)
    assert found.accuracy == 50
    assert intervals(answers, asked) is None  # one episode


def row(asked, intervals, kendall_tau=None):
    """The row of the controls for an accuracy of 60 % (closest: 40 %) in these intervals."""
    figures = GroupFigures(
        accuracy=60.0 if asked.ask == "order" else 40.0,
        all_rotations=5.0,
        places=(1, 1, 1),
        place_chi2=5.0,
        place_p=5.0,
        unparsed_rate=5.0,
        exact=None if kendall_tau is None else 5.0,
        kendall_tau=kendall_tau,
        n_groups=5,
        n_episodes=5,
        n_queries=5,
    )
    result = MultiImage(
        name="m",
        dataset="d",
        split="s",
        asked=asked,
        figures=figures,
        intervals=intervals or None,
        chance=chance(asked),
    )
    return control_row(result)


def test_order_must_be_better_than_none():
    asked, closest = GroupSettings(ask="order"), (50.0, 70.0)
    assert row(asked, {"accuracy": closest, "kendall_tau": (0.02, 0.2)}, 0.1).verdict == "holds"
    assert row(asked, {"accuracy": closest, "kendall_tau": (-0.02, 0.2)}, 0.1).verdict == "not shown"
    assert row(asked, {"accuracy": closest, "kendall_tau": (-0.4, -0.2)}, 0.1).verdict == "fails"


def test_interval_that_reaches_chance_shows_nothing():
    assert row(THREE, {"accuracy": (30.0, 50.0)}).verdict == "not shown"
    assert row(THREE, {"accuracy": (34.0, 50.0)}).verdict == "holds"
    assert row(THREE, {"accuracy": (20.0, 33.0)}).verdict == "fails"
    assert row(THREE, None).verdict == "not shown"
