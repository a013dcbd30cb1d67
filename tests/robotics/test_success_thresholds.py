"""`stcr calibrate --labels`: thresholds of success from the files that a person has."""

import json

import numpy as np
import pytest

from stcr_plugin.calibration_results import Thresholds
from stcr_plugin.cli import main
from stcr_plugin.robotics.label_files import EpisodeSuccess, write_success

TASK = "lift the cube"


def scores(n=160, apart=2.5, seed=0):
    """(probability, success) of n episodes, every second one a success."""
    random = np.random.default_rng(seed)
    return [
        (float(1 / (1 + np.exp(-random.normal(apart / 2 if one % 2 else -apart / 2)))), one % 2) for one in range(n)
    ]


@pytest.fixture
def work(tmp_path):
    """A file of successes and a table of all labels."""
    write_success(
        tmp_path / "stcr_success.jsonl",
        [EpisodeSuccess(f"ep{one:03}", 10 + one, TASK, probability) for one, (probability, _) in enumerate(scores())],
    )
    table(tmp_path, "episode_id,success", [f"ep{one:03},{success}" for one, (_, success) in enumerate(scores())])
    return tmp_path


def table(folder, head, rows):
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")


def rows_of(folder):
    return (folder / "labels.csv").read_text().splitlines()[1:]


def calibrate(folder, capsys, *more, success="stcr_success.jsonl", labels="labels.csv"):
    words = ["calibrate", folder / success, "--labels", folder / labels, "--out", folder / "out", *more]
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def test_threshold_is_fitted_on_one_half_and_reported_on_the_other(work, capsys):
    code, out, _ = calibrate(work, capsys)
    assert code == 0
    found = Thresholds.read(work / "out/thresholds.json")
    (one,) = found.tasks
    assert one.task == TASK
    assert one.precision.low >= 80
    assert one.n_successes + one.n_failures + one.heldout.n_successes + one.heldout.n_failures == 160
    assert 55 < one.n_successes + one.n_failures < 105
    kept = [success for probability, success in scores() if probability >= one.threshold]
    assert np.mean(kept) > 0.8
    assert one.heldout.auc.low > 0.85
    assert f"{TASK}: success from {one.threshold:.3f}; held out" in out
    text = (work / "out/thresholds.md").read_text()
    assert f"{one.heldout.recall.value:.1f} %" in text
    assert (found.parts, found.unlabelled, found.precision, found.fewest) == ("hash", 0, 0.8, 16)


def test_same_files_give_the_same_bytes_and_another_seed_other_parts(work, capsys):
    def written(*more):
        assert calibrate(work, capsys, *more)[0] == 0
        return (work / "out/thresholds.json").read_bytes()

    assert written() == written()
    assert json.loads(written("--seed", "1"))["tasks"] != json.loads(written())["tasks"]


def test_an_episode_stays_in_its_part_when_others_are_labelled(work, capsys):
    rows = rows_of(work)
    table(work, "episode_id,success", rows[:120])
    calibrate(work, capsys)
    before = Thresholds.read(work / "out/thresholds.json")
    assert before.unlabelled == 40
    table(work, "episode_id,success", rows)
    calibrate(work, capsys)
    after = Thresholds.read(work / "out/thresholds.json")
    assert after.tasks[0].n_successes > before.tasks[0].n_successes
    assert after.tasks[0].heldout.n_successes > before.tasks[0].heldout.n_successes


def test_the_table_may_say_which_episodes_are_held_out_and_name_them_by_index(work, capsys):
    rows = [f"{10 + one},{success},{'dev' if one < 100 else 'heldout'}" for one, (_, success) in enumerate(scores())]
    table(work, "episode_index,success,split", rows)
    assert calibrate(work, capsys, "--precision", "0.7")[0] == 0
    found = Thresholds.read(work / "out/thresholds.json")
    assert found.parts == "table"
    (one,) = found.tasks
    assert (one.n_successes, one.n_failures, one.heldout.n_successes, one.heldout.n_failures) == (50, 50, 30, 30)


def test_tasks_have_their_own_thresholds_and_one_may_be_refused(work, capsys):
    more = [EpisodeSuccess(f"ep{one:03}", 10 + one, "push it", probability) for one, (probability, _) in
            enumerate(scores(40, seed=1))]  # fmt: skip
    with open(work / "stcr_success.jsonl", "a") as file:
        file.writelines(json.dumps(row.row()) + "\n" for row in more)
    rows = [f"{row},{TASK}" for row in rows_of(work)]
    rows += [f"ep{one:03},{success},push it" for one, (_, success) in enumerate(scores(40))]
    table(work, "episode_id,success,task", rows)
    code, out, _ = calibrate(work, capsys)
    assert code == 0
    lift, push = Thresholds.read(work / "out/thresholds.json").tasks
    assert lift.threshold is not None
    assert push.threshold is None
    assert "push it: no threshold, " in out
    assert "16 of each are needed to show a precision of 80 %" in push.why


@pytest.mark.parametrize(
    ("head", "rows", "problem"),
    [
        ("episode_id,success", ["ep000,0", "nowhere,1"], "row 3: episode 'nowhere' is not in the file"),
        ("episode_index,success", ["10,0", "9,1"], "row 3: episode_index 9 is not in the file"),
        ("episode_id,success", ["ep000,0", "ep000,1"], "as a success and as a failure, see row 2"),
        ("episode_id,success", ["ep000,0", "ep000,0"], "row 3: labels episode 'ep000' twice, see row 2"),
        ("episode_id,episode_index,success", ["ep000,11,0"], "row 2: episode_index 11 is not that of episode 'ep000'"),
        ("episode_id,success", ["ep000,yes"], "row 2: its success 'yes' is not 0 or 1"),
        ("episode_id,success", ["ep000,"], "row 2: its success '' is not 0 or 1"),
        ("episode_id,success", [",1"], "row 2: episode '' is not in the file"),
        ("episode_index,success", ["1.5,1"], "row 2: its episode_index '1.5' is not a frame"),
        ("episode_id,success,split", ["ep000,1,test"], "row 2: its split 'test' is not dev or heldout"),
        ("episode_id,success,splt", ["ep000,1,dev"], "unknown column 'splt', did you mean 'split'?"),
        ("episode_id,won", ["ep000,1"], "unknown column 'won'"),
        ("episode_id,success,task", ["ep000,1,lift a cube"], "no task 'lift a cube', did you mean 'lift the cube'?"),
        ("episode_id", ["ep000"], "has the columns episode_id; give success, and episode_id or episode_index"),
        ("episode_id,success", [], "no row can be used"),
        ("episode_id,success", ["ep000,1,1"], "row 2: 3 values for 2 columns"),
        ("episode_id,success", [f"ep{one:03},1" for one in range(160)], "successes and 0 failures to fit on"),
        ("episode_id,success", ["ep000,0", "ep001,1"], "16 of each are needed"),
    ],
)  # fmt: skip
def test_table_that_cannot_be_used_ends_in_one_line_and_writes_nothing(work, capsys, head, rows, problem):
    table(work, head, rows)
    code, _, (error,) = calibrate(work, capsys)
    assert code == 1
    assert problem in error
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"episode_id": "x", "episode_index": 500, "task": "t", "probability": NaN}', "row 161: not what"),
        ('{"episode_id": "x", "episode_index": 500, "task": "t", "probability": 1.5}', "1.5 is not between 0 and 1"),
        (f'{{"episode_id": "ep000", "episode_index": 10, "task": "{TASK}", "probability": 0.5}}', "is there twice"),
        ('{"episode_id": "x"}', "'episode_index' is missing"),
    ],
)  # fmt: skip
def test_probabilities_that_cannot_be_used_end_in_one_line(work, capsys, row, problem):
    with open(work / "stcr_success.jsonl", "a") as file:
        file.write(row + "\n")
    code, _, (error,) = calibrate(work, capsys)
    assert code == 1
    assert problem in error


def test_missing_files_and_wrong_precisions_end_in_one_line(work, capsys):
    for more, problem in (
        ({"success": "nowhere.jsonl"}, "no such file"),
        ({"labels": "nowhere.csv"}, "cannot be read"),
        ({"labels": "nowhere"}, "not a table"),
    ):
        code, _, (error,) = calibrate(work, capsys, **more)
        assert code == 1
        assert problem in error
    for precision in ("0", "1", "nan", "80"):
        code, _, (error,) = calibrate(work, capsys, "--precision", precision)
        assert code == 1
        assert "is not between 0 and 1" in error


def test_an_episode_of_several_tasks_must_be_labelled_by_task(work, capsys):
    with open(work / "stcr_success.jsonl", "a") as file:
        file.write(json.dumps(EpisodeSuccess("ep000", 10, "push it", 0.5).row()) + "\n")
    code, _, (error,) = calibrate(work, capsys)
    assert code == 1
    assert "episode 'ep000' has 2 tasks; name one in a column task" in error
