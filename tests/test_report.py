import json

import pytest
from PIL import Image

from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.metrics import figures
from stcr_plugin.report import console_table, report
from stcr_plugin.types import Answer


def results(forward, backward, pair, interval=3.0, **more):
    bounds = {"pair_accuracy": [pair - interval, pair + interval]} if interval else None
    return {
        "name": "model",
        "dataset": "toy",
        "split": "heldout",
        "mode": "direct",
        "forward_accuracy": forward,
        "backward_accuracy": backward,
        "gap_points": forward - backward,
        "pair_accuracy": pair,
        "order_consistency": 50.0,
        "position_bias": 50.0,
        "unparsed_rate": 0.0,
        "n_pairs": 200,
        "n_episodes": 20,
        "n_queries": 400,
        "intervals": bounds,
        "per_episode": [{"episode_id": "e0"}],
        **more,
    }


def write(folder, name, row, stage=True, **more):
    path = folder / name / "eval" / row["split"]
    path.mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(row))
    if stage:
        (folder / name / "stage.json").write_text(json.dumps({"name": name, **more}))
    return folder / name


def chain(folder, stage2, weak_only):
    return [
        write(folder, "base", results(100.0, 0.0, 0.0), seconds=1),
        write(folder, "stage2", stage2, parent="stage1", steps=400, seconds=61.2),
        write(folder, "weak_only", weak_only, steps=500, seconds=38.9),
    ]


def written(runs, out):
    return report(runs, out).read_text()


def test_gap_before_and_after_is_told(tmp_path):
    text = written(chain(tmp_path, results(96.0, 94.5, 91.0), results(80.0, 40.0, 30.0)), tmp_path / "out")
    assert "Before, `base`: forward 100.0 %, backward 0.0 %, gap +100.0 points" in text
    assert (
        "After, `stage2`: forward 96.0 %, backward 94.5 %, gap +1.5 points, pair accuracy 91.0 (88.0 to 94.0) %" in text
    )
    assert "gap's size fell by 98.5 points, pair accuracy rose by 91.0 points (the intervals do not overlap)" in text
    assert "`stage2` is better here than weak samples alone" in text
    assert "still swayed" not in text


def test_weak_only_that_does_as_well_is_told(tmp_path):
    text = written(chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0)), tmp_path / "out")
    assert "difference of +1.0 points" in text
    assert "`weak_only` does as well here" in text
    assert "does not show that the CoT stage helps" in text


def test_weak_only_that_does_better_is_told(tmp_path):
    text = written(chain(tmp_path, results(90.0, 70.0, 65.0), results(98.0, 97.0, 96.0)), tmp_path / "out")
    assert "`weak_only` does better here" in text
    assert "does not show that the CoT stage helps" in text


def test_bad_figures_are_not_dressed_up(tmp_path):
    runs = [
        write(tmp_path, "base", results(90.0, 60.0, 55.0)),
        write(tmp_path, "stage2", results(100.0, 5.0, 4.0, unparsed_rate=12.5)),
    ]
    text = written(runs, tmp_path / "out")
    assert "gap's size rose by 65.0 points, pair accuracy fell by 51.0 points" in text
    assert "not shown to be above the 50 %" in text
    assert "still swayed by order" in text
    assert "12.5 % of `stage2`'s answers could not be read" in text


def test_single_episode_is_told_and_nothing_compared(tmp_path):
    row = results(90.0, 90.0, 85.0, interval=0)
    text = written(chain(tmp_path, row, row), tmp_path / "out")
    assert "has no intervals" in text
    assert "cannot be said whether that is more than chance" in text
    assert "overlap" not in text


def test_chain_file_lists_rows_in_the_order_given_without_episodes(tmp_path):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    report(runs[::-1], tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "chain.json").read_text())
    assert [(row["name"], row["split"]) for row in rows] == [
        ("weak_only", "heldout"),
        ("stage2", "heldout"),
        ("base", "heldout"),
    ]
    assert rows[1]["pair_accuracy"] == 91.0
    assert (rows[1]["parent"], rows[1]["steps"], rows[1]["seconds"]) == ("stage1", 400, 61.2)
    assert all("per_episode" not in row for row in rows)


def test_every_split_has_its_row_its_words_and_its_panel(tmp_path):
    run = write(tmp_path, "stage1", results(80.0, 70.0, 60.0))
    report([run], tmp_path / "one")
    write(tmp_path, "stage1", results(75.0, 65.0, 55.0, split="looks"), stage=False)
    text = written([run], tmp_path / "two")
    assert "| stage1 | toy | heldout | 80.0 | 70.0 | +10.0 | 60.0 (57.0 to 63.0) |" in text
    assert "| stage1 | toy | looks | 75.0 |" in text
    assert "**toy, looks**" in text
    widths = []
    for out in ("one", "two"):
        with Image.open(tmp_path / out / "accuracies.png") as picture:
            picture.load()
            widths.append(picture.width)
    assert widths[1] > 1.5 * widths[0]


def test_training_time_is_summed_where_known(tmp_path):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    text = written(runs, tmp_path / "out")
    assert "| stage2 | stage1 | 400 | 61 |" in text
    assert "| total |  |  | 101 |" in text
    assert "Training time" not in written([write(tmp_path, "plain", results(1.0, 2.0, 0.5))], tmp_path / "plain_out")


def test_results_directly_in_the_folder_are_found(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results(60.0, 50.0, 40.0)))
    assert "Only `model` was evaluated" in written([tmp_path], tmp_path / "out")


def test_same_results_give_the_same_bytes(tmp_path):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    for out in ("a", "b"):
        report(runs, tmp_path / out)
    for name in ("report.md", "chain.json", "accuracies.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_run_without_results_or_with_foreign_ones_is_told(tmp_path):
    with pytest.raises(DataError, match="run `stcr eval`"):
        report([tmp_path], tmp_path / "out")
    (tmp_path / "results.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"results\.json.*'dataset' is missing"):
        report([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match="no runs"):
        report([], tmp_path / "out")


def test_names_cannot_break_the_table(tmp_path):
    run = write(tmp_path, "odd", results(60.0, 50.0, 40.0), stage=False)
    row = results(60.0, 50.0, 40.0, name="x | y\n<script>`")
    (run / "results.json").write_text(json.dumps(row))
    text = written([run], tmp_path / "out")
    assert "| x \\| y &lt;script&gt;' | toy |" in text
    assert "<script>" not in text


def test_console_table_lines_up():
    answers = [
        Answer("p0", "e0", "forward", "img2", "img2", ""),
        Answer("p0", "e0", "backward", "img1", "img2", ""),
    ]
    lines = console_table([("before", figures(answers)), ("after step 400", figures(answers))]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["before", "100.0", "0.0", "+100.0", "0.0", "0.0", "100.0", "0.0", "1"]
