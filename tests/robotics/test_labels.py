"""`stcr label`: what it writes into a dataset, and what it does with datasets that are not as they should be."""

import dataclasses
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import av
import lerobot_dataset as made
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from rabc_weights import rabc_weights

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.robotics.label_files import (
    ANCHORS,
    FILES,
    LABEL,
    PROGRESS,
    SUCCESS,
    LabelRecord,
    read_anchors,
    read_progress,
    read_success,
)
from stcr_plugin.robotics.label_settings import WORK, JudgeSettings, LabelRequest, LabelSettings
from stcr_plugin.robotics.labelled_data import LabelledData
from stcr_plugin.robotics.labels import label

REAL = Path("/work/shared/real/g1_pick_bottle")
LENGTHS = (30, 41, 24)


def request(given, out=None, oracle="chronological", seed=0, overwrite=False, **settings):
    settings = LabelSettings(**({"controls": 0} | settings))
    judge = JudgeSettings(oracle=oracle)
    return LabelRequest(LabelledData(given), judge, out or given, settings, seed=seed, overwrite=overwrite)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def progress_of(out):
    return {one.episode_index: one.progress for one in read_progress(out / PROGRESS)}


@pytest.fixture(params=["v2.1", "v3.0"])
def dataset(request, tmp_path):
    write = made.write_v21 if request.param == "v2.1" else made.write_v30
    return write(tmp_path / "data", made.Layout(LENGTHS))


@pytest.fixture
def v21(tmp_path):
    return made.write_v21(tmp_path / "data", made.Layout(LENGTHS))


CURVES = {
    "done-0": [*range(20)],
    "done-1": [0, 0, *range(18), 19, 19],
    "done-2": [*range(0, 20, 2), 18, 18, *range(18, 20), *[19] * 6],
    "failed-0": [*range(9), *[8] * 11],
    "undone-0": [*range(11), *range(10, -1, -1)],
}
"""Episode -> its true progress, frame by frame."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A data configuration with episodes of one task that succeed and that fail."""
    root = tmp_path_factory.mktemp("recordings")
    rows = []
    for name, curve in CURVES.items():
        (root / name).mkdir()
        for frame, done in enumerate(curve):
            Image.new("RGB", (28, 28), (12 * done, 0, 0)).save(root / name / f"{frame:03}.png")
        (root / f"{name}.csv").write_text("progress\n" + "".join(f"{value}\n" for value in curve))
        rows.append(f"{name},lift the ball,{name},5,{name}.csv\n")
    (root / "table.csv").write_text("episode,task,path,fps,states\n" + "".join(rows))
    config = {"name": "toy", "source": {"kind": "frames", "root": str(root), "table": "table.csv"}}
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump(config | {"splits": {"all": {"fraction": 1.0}}}))
    return path


@pytest.fixture(scope="module")
def labelled(recordings, tmp_path_factory):
    """(record, folder) of the recordings, read on the scale of the first by a judge that is always right."""
    out = tmp_path_factory.mktemp("labelled")
    settings = {"reference": ("done-0",), "success": True, "controls": len(CURVES), "every": 0.4}
    return label(request(recordings, out, "right", **settings)), out


# ---- what is written


def test_every_frame_of_a_dataset_has_a_row_and_nothing_else_is_touched(dataset):
    before = contents(dataset)
    record = label(request(dataset))
    after = contents(dataset)
    assert {path: after[path] for path in before} == before
    assert {str(path) for path in after.keys() - before.keys()} == {PROGRESS, ANCHORS, LABEL}
    rows = [row for path in sorted(dataset.glob("data/**/*.parquet"))
            for row in pq.read_table(path, columns=["index", "episode_index", "frame_index"], partitioning=None)
            .to_pylist()]  # fmt: skip
    table = pq.read_table(dataset / PROGRESS)
    assert table.select(["index", "episode_index", "frame_index"]).to_pylist() == rows
    values = table["progress_sparse"].to_numpy()
    assert values.min() >= 0
    assert values.max() <= 1
    assert record.relative
    assert record.counts["frames"] == sum(LENGTHS)
    assert record.figures.against == "time"


def test_the_last_anchor_is_the_last_frame_and_progress_is_linear_between_anchors(v21):
    label(request(v21, every=0.7))
    anchors = list(read_anchors(v21 / ANCHORS))
    curves = progress_of(v21)
    for number, length in enumerate(LENGTHS):
        own = [one for one in anchors if one.episode_index == number]
        assert [own[0].frame_index, own[-1].frame_index] == [0, length - 1]
        assert {one.episode_id for one in own} == {f"{number:06d}"}
        frames, values = [one.frame_index for one in own], [one.progress for one in own]
        assert np.allclose(curves[number], np.interp(range(length), frames, values), atol=1e-6)
        assert all(np.diff(curves[number]) > 0)
        assert sum(one.comparisons for one in own) % 2 == 0
        assert {one.disagreement for one in own} == {0.0}


def test_orders_that_disagree_are_a_column_and_a_judge_of_position_gives_a_flat_curve(v21):
    label(request(v21, oracle="position-only"))
    assert {one.disagreement for one in read_anchors(v21 / ANCHORS)} == {1.0}
    assert all(np.allclose(values, 0.5) for values in progress_of(v21).values())


def test_the_same_seed_gives_the_same_bytes_and_a_broken_run_goes_on(v21, tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    label(request(v21, straight, "coin", seed=3))
    from stcr_plugin.robotics import label_workers

    done, real = [], label_workers.label_episode

    def twice(*job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(real(*job))

    monkeypatch.setattr(label_workers, "label_episode", twice)
    with pytest.raises(KeyboardInterrupt):
        label(request(v21, broken, "coin", seed=3))
    assert {path.name for path in broken.iterdir()} == {WORK}
    monkeypatch.setattr(label_workers, "label_episode", lambda *job: done.append(real(*job)))
    label(request(v21, broken, "coin", seed=3))
    assert len(done) == 2 + len(LENGTHS) - 2
    assert contents(straight) == contents(broken)


@pytest.mark.slow
def test_processes_write_the_same_bytes(v21, tmp_path):
    label(request(v21, tmp_path / "one", "coin"))
    label(request(v21, tmp_path / "two", "coin"), WorkerPool(2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# ---- across episodes


def test_on_the_scale_of_a_reference_a_failed_episode_does_not_end_at_1(labelled):
    record, out = labelled
    ends = dict(zip(CURVES, (values[-1] for values in progress_of(out).values()), strict=True))
    assert min(ends[name] for name in ends if name.startswith("done")) > 0.85
    assert 0.2 < ends["failed-0"] < 0.65  # 8 of 19
    assert ends["undone-0"] < 0.2
    found = record.figures
    assert (found.against, found.n_success, found.n_failure, found.auc) == ("true progress", 2, 2, 1)  # no reference
    assert found.ends > 0.4
    assert found.tau > 0.8 > found.tau_clock + 0.05
    assert not record.relative


def test_success_is_likelier_where_the_end_is_as_far_as_that_of_the_reference(labelled):
    rows = {one.episode_id: one.probability for one in read_success(labelled[1] / SUCCESS)}
    assert list(rows) == list(CURVES)
    assert rows["done-0"] == pytest.approx(0.5)
    assert rows["failed-0"] == rows["undone-0"] == pytest.approx(0.1)  # an oracle is sure by 0.9


def test_controls_stand_in_the_record_with_a_clock_beside_and_a_right_judge_passes_them(labelled):
    controls = {one.name: one for one in labelled[0].controls}
    assert set(controls) == {"still", "dropped", "reversed", "shuffled", "cut"}
    assert [one for one in controls.values() if not one.passed and one.name != "cut"] == []
    others = [curve for name, curve in CURVES.items() if name != "done-0"]  # two of these fail themselves
    lower = [(curve[-1] - curve[round(7 * (len(curve) - 1) / 15)]) / 19 for curve in others]
    assert controls["cut"].value == pytest.approx(np.mean(lower), abs=0.05)
    assert controls["reversed"].clock > 0.3
    assert controls["cut"].clock == 0


def test_without_a_reference_a_failed_episode_also_ends_high_and_the_record_says_so(recordings, tmp_path, capsys):
    code = main(["label", str(recordings), "--oracle", "right", "--out", str(tmp_path), "--controls", "0"])
    said = capsys.readouterr().out
    assert code == 0
    assert "relative to each episode" in said
    assert "a failed one also ends high" in said
    assert LabelRecord.read(tmp_path / LABEL).relative
    places = [said.index(word) for word in ("Kendall's tau", "AUC", "ends of successes", "VOC")]
    assert places == sorted(places)
    assert "any output that rises maximises it" in said


def test_controls_leave_out_references_unless_there_is_nothing_else(labelled, recordings, tmp_path):
    assert {one.n_episodes for one in labelled[0].controls} == {len(CURVES) - 1}
    record = label(request(recordings, tmp_path, "right", reference=tuple(CURVES), controls=1))
    assert {one.n_episodes for one in record.controls} == {1}


@pytest.mark.parametrize("every", [0.4, 2.0])
def test_never_more_is_asked_than_all_pairs_of_the_same_frames(recordings, tmp_path, every):
    counts = label(request(recordings, tmp_path, "right", reference=("done-0",), every=every)).counts
    anchors = Counter(one.episode_id for one in read_anchors(tmp_path / ANCHORS))
    assert counts["queries"] <= counts["all_pairs"] == sum(n * (n - 1 + 2 * 8) for n in anchors.values())


def test_a_goal_picture_is_a_reference_too(v21, tmp_path):
    Image.fromarray(made.picture(0, 29)).save(tmp_path / "goal.png")
    record = label(request(v21, goal=str(tmp_path / "goal.png"), success=True))
    assert not record.relative
    assert [one.episode_id for one in read_success(v21 / SUCCESS)] == ["000000", "000001", "000002"]


def test_a_reference_that_is_not_there_is_named(v21):
    with pytest.raises(ConfigError, match="no episode '000009'"):
        label(request(v21, reference=("000009",)))
    with pytest.raises(ConfigError, match="needs a reference"):
        from_mapping(LabelSettings, {"success": True}, "the options")


# ---- LeRobot's reader


def test_weights_from_the_file_are_those_of_the_curves(labelled):
    out, chunk = labelled[1], 4
    weights = rabc_weights(out / PROGRESS, chunk)
    fell = rose = 0
    for one in read_progress(out / PROGRESS):
        ahead = np.minimum(np.arange(len(one.progress)) + chunk, len(one.progress) - 1)
        deltas = one.progress[ahead] - one.progress
        own = np.array([weights[index] for index in one.index.tolist()])
        assert (own[deltas < -1e-6] == 0).all()
        assert (own[deltas > 0.011] == 1).all()
        fell, rose = fell + int((deltas < -1e-6).sum()), rose + int((deltas > 0.011).sum())
    assert fell > 5  # where the task is undone
    assert rose > 40


def test_frames_that_could_not_be_labelled_have_weight_1(v21):
    next(v21.glob("videos/**/episode_000001.mp4")).unlink()
    label(request(v21))
    weights = rabc_weights(v21 / PROGRESS, 5)
    assert {weights[index] for index in range(30, 71)} == {1.0}


# ---- datasets that are not as they should be


def test_what_is_there_already_is_replaced_only_where_that_is_asked(v21):
    label(request(v21, success=True, reference=("000000",)))
    before = contents(v21)
    with pytest.raises(DataError, match="is already there; add --overwrite"):
        label(request(v21))
    assert contents(v21) == before
    label(request(v21, overwrite=True))
    assert not (v21 / SUCCESS).exists()  # of the earlier run
    assert LabelRecord.read(v21 / LABEL).relative


def test_a_progress_file_of_somebody_else_is_not_replaced(v21):
    (v21 / PROGRESS).write_text("mine")
    with pytest.raises(DataError, match="already there"):
        label(request(v21))
    assert (v21 / PROGRESS).read_text() == "mine"


def test_a_folder_that_cannot_be_written_into_is_an_error_that_names_out(v21, capsys):
    (v21 / WORK).write_text("in the way")
    assert main(["label", str(v21), "--oracle", "coin"]) == 1
    said = capsys.readouterr().err.strip()
    assert "name another folder with --out" in said
    assert said.count("\n") == 0


@pytest.fixture
def read_only(v21):
    """The dataset, which this process may only read; as root, whom no mode keeps out, it is nobody meanwhile."""
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which root alone may enter
    shutil.copytree(v21, folder / "data")
    (folder / "out").mkdir()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "out").chmod(0o777)
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    yield folder / "data"
    os.seteuid(user)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_dataset_is_labelled_elsewhere(read_only):
    before = contents(read_only)
    with pytest.raises(DataError, match="name another folder with --out"):
        label(request(read_only))
    assert contents(read_only) == before
    out = read_only.parent / "out"
    label(request(read_only, out))
    assert {path.name for path in out.iterdir()} == {PROGRESS, ANCHORS, LABEL}
    assert contents(read_only) == before


def test_an_episode_without_its_video_is_skipped_with_its_reason(v21):
    next(v21.glob("videos/**/episode_000001.mp4")).unlink()
    record = label(request(v21))
    curves = progress_of(v21)
    assert np.isnan(curves[1]).all()
    assert len(curves[1]) == 41
    assert not np.isnan(curves[0]).any()
    assert ["episode 1" in one.what for one in record.skipped] == [True]
    assert record.counts["episodes"] == 2


def test_a_video_that_ends_early_is_skipped_with_its_reason(v21):
    made.write_video(next(v21.glob("videos/**/episode_000001.mp4")), [(1, 33)], "h264 long", made.Layout().fps)
    record = label(request(v21))
    assert [one.what for one in record.skipped] == ["episode 1"]
    assert "33" in record.skipped[0].reason
    assert np.isnan(progress_of(v21)[1]).all()
    assert len(progress_of(v21)[1]) == 41


def test_an_episode_of_one_frame_is_skipped_with_its_reason(tmp_path):
    root = made.write_v21(tmp_path / "data", made.Layout((30, 1, 24)))
    record = label(request(root))
    assert "1 frame" in record.skipped[0].reason
    assert {number: len(values) for number, values in progress_of(root).items()} == {0: 30, 1: 1, 2: 24}
    assert np.isnan(progress_of(root)[1]).all()


def test_rows_that_are_missing_are_not_made_up(v21):
    path = next(v21.glob("data/**/episode_000001.parquet"))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.filter([frame != 7 for frame in range(41)]), path)
    record = label(request(v21))
    assert "rows" in record.skipped[0].reason
    assert len(progress_of(v21)[1]) == 40
    assert np.isnan(progress_of(v21)[1]).all()


def test_numbers_of_episodes_may_have_gaps(v21):
    lines = (v21 / "meta/episodes.jsonl").read_text().splitlines()
    (v21 / "meta/episodes.jsonl").write_text("\n".join([lines[0], lines[2]]) + "\n")
    for path in [*v21.glob("**/episode_000001.*")]:
        path.unlink()
    label(request(v21))
    first, second = read_progress(v21 / PROGRESS)
    assert [first.episode_index, second.episode_index] == [0, 2]
    assert second.index[0] == 71  # as the dataset numbers it


def give_tasks(root, number, rows, texts):
    """Give the rows of an episode other tasks, of which there are then two."""
    made.edit_parquet(next(root.glob(f"data/**/episode_{number:06d}.parquet")), {"task_index": rows})
    tasks = [{"task_index": place, "task": text} for place, text in enumerate((made.TASK, "wave"))]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in tasks))
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines[number]["tasks"] = texts
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_two_tasks_in_one_episode_follow_each_other(v21):
    give_tasks(v21, 1, [0] * 20 + [1] * 21, [made.TASK, "wave"])
    label(request(v21))
    values = progress_of(v21)[1]
    assert len(values) == 41
    assert values[10] < values[19] < values[30]
    assert np.diff(values).min() > -0.01  # no fall where the second task begins
    label(request(v21, reference=("000001",), success=True, overwrite=True))
    rows = [(one.episode_index, one.task) for one in read_success(v21 / SUCCESS)]
    assert rows == [(0, made.TASK), (1, made.TASK), (1, "wave"), (2, made.TASK)]


def test_a_task_without_a_reference_is_skipped_with_its_reason(v21):
    give_tasks(v21, 2, [1] * 24, ["wave"])
    record = label(request(v21, reference=("000000",)))
    assert "has no reference" in record.skipped[0].reason
    assert np.isnan(progress_of(v21)[2]).all()


def test_a_rate_that_is_not_that_of_the_rows_stops_with_its_reason(v21):
    info = json.loads((v21 / "meta/info.json").read_text())
    (v21 / "meta/info.json").write_text(json.dumps(info | {"fps": 25}))
    before = contents(v21)
    with pytest.raises(DataError, match="25"):
        label(request(v21))
    after = contents(v21)
    assert {path: data for path, data in after.items() if WORK not in path.parts} == before


def test_a_data_configuration_needs_a_folder_for_the_labels(recordings, capsys):
    assert main(["label", str(recordings), "--oracle", "right"]) == 1
    assert "requires --out" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_and_a_model_that_is_not_named_are_errors_of_one_line(v21, capsys):
    assert main(["label", str(v21 / "none"), "--oracle", "coin"]) == 1
    assert main(["label", str(v21)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert "--model" in said[1]
    assert not any((v21 / name).exists() for name in (*FILES, WORK))


# ---- for a person


def test_the_curve_is_drawn_beside_every_picture(v21, capsys):
    assert main(["label", str(v21), "--oracle", "chronological", "--controls", "0", "--video", "1"]) == 0
    path = v21 / "stcr_progress_000001.mp4"
    assert str(path) in capsys.readouterr().out
    with av.open(str(path)) as file:
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(pictures) == 41
    left, panel = pictures[0][:, :540], pictures[0][:, 540:]
    assert made.number(np.asarray(Image.fromarray(left).resize((made.WIDTH, made.HEIGHT)))) == (1, 0)
    changed = np.abs(pictures[20][:, 540:].astype(int) - panel).max(axis=(0, 2)) > 60
    assert changed.any()  # the mark has moved
    path.unlink()
    assert main(["label", str(v21), "--video", "000001"]) == 0  # from the labels that are there
    assert path.is_file()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the recordings in {REAL}")
def test_a_real_recording_of_which_a_part_was_downloaded(tmp_path):
    root = tmp_path / "g1"
    shutil.copytree(REAL / "meta", root / "meta")
    for number in (1, 4):
        for path in REAL.glob(f"**/episode_{number:06d}.*"):
            target = root / path.relative_to(REAL)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    record = label(request(root, every=4.0))
    assert record.counts["episodes"] == 2
    assert len(record.skipped) == 98
    first, second = read_progress(root / PROGRESS)
    assert (first.index[0], first.index[-1], second.index[0]) == (479, 871, 1674)
    assert first.progress[-1] > first.progress[0]


def test_a_request_says_what_made_the_labels():
    assert JudgeSettings(model=Path("runs/stage2")).name == "runs/stage2"
    assert dataclasses.replace(JudgeSettings(), kind="server", options={"model": "qwen"}).name == "qwen"
