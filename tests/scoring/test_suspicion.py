import dataclasses

import pytest

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError
from stcr_plugin.scoring.suspicion import DROP, AuditedEpisode, Curve, Suspect, audited, curve_figures, drop_rule


def curve(progress, frames=None, disagreement=None):
    n = len(progress)
    frames = tuple(frames or range(0, 10 * n, 10))
    return Curve(frames, tuple(progress), tuple(disagreement or [0.0] * n), (4,) * n)


RISES = [number / 10 for number in range(11)]


def suspects(**curves):
    return [Suspect(name, number, (one,)) for number, (name, one) in enumerate(curves.items())]


def clean(count=6):
    """Episodes that rise, each a little differently."""
    return {
        f"clean{number}": curve([min(1.0, value * (1 + number / 100)) for value in RISES]) for number in range(count)
    }


def test_measures_of_a_curve_that_rises():
    found = curve_figures([curve(RISES)])
    assert dataclasses.asdict(found) == {
        "tau": 1.0,
        "fall": 0.0,
        "falling": 0.0,
        "plateau": 0.0,
        "end": 1.0,
        "end_disagreement": 0.0,
        "disagreement": 0.0,
        "success": None,
    }


def test_a_fall_is_measured_from_the_highest_frame_before_it():
    found = curve_figures([curve([0.0, 0.8, 0.5, 0.6, 0.2, 0.9])])
    assert (found.fall, found.falling) == (pytest.approx(0.6), pytest.approx(2 / 5))


def test_a_plateau_is_a_share_of_time_and_not_of_frames():
    found = curve_figures([curve([0.0, 0.5, 0.51, 0.5, 1.0], frames=[0, 10, 20, 70, 100])])
    assert found.plateau == pytest.approx(0.6)
    assert curve_figures([curve([0.5] * 4)]).plateau == 1
    assert curve_figures([curve([0.5])]).plateau == 0


def test_label_noise_is_weighted_by_comparisons():
    one = Curve((0, 1, 2), (0.0, 0.5, 1.0), (0.0, 1.0, 0.5), (2, 6, 4))
    found = curve_figures([one], success=0.25)
    assert (found.disagreement, found.end_disagreement, found.success) == (pytest.approx(8 / 12), 0.5, 0.25)


def test_of_parts_the_most_suspicious_one_counts():
    """Two tasks, each done: together their progress falls, each alone does not."""
    together = curve_figures([curve([*RISES, *RISES])])
    apart = curve_figures([curve(RISES), curve(RISES, frames=range(200, 310, 10))])
    assert (together.fall, apart.fall, apart.tau) == (1, 0, 1)
    worse = curve_figures([curve(RISES), curve(RISES[::-1])])
    assert (worse.tau, worse.end) == (-1, 0)


def test_what_is_done_in_the_opposite_direction_comes_before_all_else():
    flat = curve([0.5] * 11, disagreement=[1.0] * 11)
    mostly = curve([0.8, 0.9, 1.0, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    rows = audited(suspects(**clean(), flat=flat, mostly=mostly, opposite=curve(RISES[::-1])))
    assert [row.episode_id for row in rows[:3]] == ["opposite", "mostly", "flat"]
    assert [row.reason for row in rows[:2]] == ["tau", "tau"]
    assert rows[2].reason in ("plateau", "end_disagreement", "disagreement")
    assert [row.drop for row in rows] == [True, True] + [False] * 7
    assert [row.place for row in rows] == list(range(1, 10))


@pytest.mark.parametrize(
    ("reason", "one"),
    [
        ("fall", curve([0.0, 0.3, 0.6, 0.9, 0.05, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0])),
        ("plateau", curve([0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.9, 1.0])),
        ("end", curve([value * 0.3 for value in RISES])),
        ("end_disagreement", curve(RISES, disagreement=[*[0.0] * 10, 0.9])),
        ("disagreement", curve(RISES, disagreement=[*[0.5] * 10, 0.0])),
    ],
)
def test_the_worst_measure_decides_and_is_named(reason, one):
    rows = audited(suspects(**clean(), odd=one))
    assert (rows[0].episode_id, rows[0].reason) == ("odd", reason)
    assert rows[0].excess > 3
    assert rows[1].excess < 3


def test_low_success_is_suspicious():
    known = [Suspect(f"e{number}", number, (curve(RISES),), success=0.9) for number in range(5)]
    rows = audited([*known, Suspect("failed", 5, (curve(RISES),), success=0.1)])
    assert (rows[0].episode_id, rows[0].reason) == ("failed", "success")


def test_too_few_frames_come_last_without_a_reason_and_are_not_dropped():
    rows = audited(suspects(short=curve([1.0, 0.0]), **clean()), [drop_rule("end<0.5")])
    assert (rows[-1].episode_id, rows[-1].reason, rows[-1].drop) == ("short", "", False)


def test_rules_of_drop_name_episodes_any_of_them_holds_for():
    rows = audited(suspects(**clean(), low=curve([value * 0.3 for value in RISES])), [drop_rule("end<0.5"), DROP])
    assert [row.episode_id for row in rows if row.drop] == ["low"]
    assert drop_rule("tau<-0.3") == DROP
    assert drop_rule(" success > .5 ").level == 0.5


@pytest.mark.parametrize(
    ("text", "says"), [("fall", "is not a measure"), ("fal>0.5", "did you mean 'fall'"), ("fall>x", "is not a measure")]
)
def test_a_rule_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        drop_rule(text)


def test_rows_come_back_from_their_file(tmp_path):
    rows = audited(suspects(**clean(2)))
    artefacts.write_jsonl(tmp_path / "audit.jsonl", (row.row() for row in rows))
    assert list(AuditedEpisode.read_rows(tmp_path / "audit.jsonl")) == rows
