"""Which text a LeRobot episode is asked about: that of its rows' task_index, else the one that its entry names."""

from __future__ import annotations

import json

import lerobot_dataset as made
import pyarrow as pa
import pytest

from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, Segment

OTHER = "pour the tea"
TABLE = {0: made.TASK, 1: "valid", 2: OTHER, 3: made.TASK}
WRITERS = {"v2.1": made.write_v21, "v3.0": made.write_v30}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def copy(request, tmp_path_factory):
    """Copies of a dataset with two episodes of 24 and 20 frames, whose entry or rows of episode 0 are changed."""
    base = WRITERS[request.param](tmp_path_factory.mktemp("base") / "set", made.Layout(lengths=(24, 20)))

    def changed(tasks=None, rows="same", table=TABLE):
        root = tmp_path_factory.mktemp("copy") / "set"
        made.shutil.copytree(base, root)
        if request.param == "v2.1":
            lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
            lines[0]["tasks"] = tasks
            (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            text = "".join(json.dumps({"task_index": key, "task": value}) + "\n" for key, value in table.items())
            (root / "meta/tasks.jsonl").write_text(text)
            data, count = root / "data/chunk-000/episode_000000.parquet", 24
        else:
            made.edit_parquet(root / "meta/episodes/chunk-000/file-000.parquet", {"tasks": [tasks, tasks]})
            columns = {"task_index": list(table), "__index_level_0__": [*table.values()]}
            made.pq.write_table(pa.table(columns), root / "meta/tasks.parquet")
            data, count = root / "data/chunk-000/file-000.parquet", 44
        if rows != "same":
            filled = None if rows is None else [*rows, *[rows[0]] * (count - 24)]
            made.edit_parquet(data, {"task_index": filled})
        return next(iter(LeRobotSource(LeRobotConfig(str(root))).episodes()))

    return changed


SHAPES = {
    "gr00t": [made.TASK, "valid"],
    "text": made.TASK,
    "a paraphrase": ["set the cup onto the shelf"],
    "blank": ["", "  "],
    "nothing": None,
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_text_of_the_rows_counts_whatever_the_entry_says(copy, case):
    episode = copy(SHAPES[case])
    assert (episode.task, episode.segments) == (made.TASK, (Segment(made.TASK, 0, 24),))


ALONE = {
    "a list": ([OTHER], OTHER),
    "a text": (OTHER, OTHER),
    "blanks beside it": (["", OTHER, " "], OTHER),
    "the same twice": ([OTHER, OTHER + " "], OTHER),
    "a list in a list": ([[OTHER]], OTHER),
    "a number of the table": ([2], OTHER),
    "two": ([made.TASK, OTHER], "several tasks and no task_index in its rows"),
    "gr00t": ([made.TASK, "valid"], "several tasks and no task_index in its rows"),
    "blank": ([""], "no task is named"),
    "nothing": (None, "no task is named"),
    "a number of no task": ([7], "its tasks name task 7, which is not in meta/tasks"),
}


@pytest.mark.parametrize("case", ALONE)
def test_without_a_task_index_the_entry_names_one_task_or_the_episode_is_left_out(copy, case):
    tasks, expected = ALONE[case]
    found = copy(tasks, rows=None)
    if isinstance(found, Episode):
        assert found.task == expected
        assert found.segments == (Segment(expected, 0, 24),)
    else:
        assert (found.what, expected in found.reason) == ("episode 0", True)


RUNS = {
    "two tasks": ([0] * 14 + [2] * 10, [(made.TASK, 0, 14), (OTHER, 14, 24)]),
    "and the first again": ([0] * 8 + [2] * 8 + [0] * 8, [(made.TASK, 0, 8), (OTHER, 8, 16), (made.TASK, 16, 24)]),
    "two numbers of one text": ([0] * 14 + [3] * 10, [(made.TASK, 0, 24)]),
    "frames without a task": ([-1] * 4 + [0] * 10 + [None] * 10, [(made.TASK, 4, 14)]),
    "lists of one": ([[0]] * 14 + [[2]] * 10, [(made.TASK, 0, 14), (OTHER, 14, 24)]),
    "floats": ([0.0] * 14 + [2.0] * 10, [(made.TASK, 0, 14), (OTHER, 14, 24)]),
}


@pytest.mark.parametrize("case", RUNS)
def test_each_stretch_of_frames_with_one_task_is_a_segment(copy, case):
    rows, segments = RUNS[case]
    episode = copy([made.TASK, OTHER], rows=rows)
    assert episode.segments == tuple(Segment(*segment) for segment in segments)
    assert episode.task == (segments[0][0] if len({text for text, _, _ in segments}) == 1 else "")


REFUSED = {
    "an unknown task": (["x", "y"], [7] * 24, "task_index 7 is not in meta/tasks"),
    "an unknown one of two": (["x"], [0] * 12 + [7] * 12, "task_index 7 is not in meta/tasks"),
    "another task at every frame": (["x"], [0, 2] * 12, "changes every few frames"),
    "several at once": (["x"], [[0, 1]] * 24, "its task_index is a list of several values"),
    "parts of a task": (["x"], [0.5] * 24, "its task_index is not a whole number"),
    "words": (["x"], ["cup"] * 24, "its task_index is of type string, not numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_task_that_is_not_certain_leaves_the_episode_out(copy, case):
    tasks, rows, reason = REFUSED[case]
    found = copy(tasks, rows=rows)
    assert (found.what, reason in found.reason) == ("episode 0", True)


def test_a_row_of_an_unknown_task_takes_the_one_text_that_the_entry_names(copy):
    assert copy([OTHER], rows=[7] * 24).task == OTHER


TABLES = {
    "no text": ({0: None}, "its task 'None' is not text"),
    "a number": ({0: 5}, "its task '5' is not text"),
    "a mark of bytes": ({0: "\ud800"}, "not UTF-8"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_text_that_is_none_is_not_taken(tmp_path, case):
    table, reason = TABLES[case]
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12,)), {0: {"tasks": []}})
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": table[0]}))
    (found,) = LeRobotSource(LeRobotConfig(str(root))).episodes()
    assert reason in found.reason


def test_a_table_of_tasks_that_cannot_be_read_says_so(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)), {0: {"tasks": []}})
    (root / "meta/tasks.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    first, second = LeRobotSource(LeRobotConfig(str(root))).episodes()
    assert "task_index 0 is not in meta/tasks" in first.reason
    assert "git lfs pull" in first.reason
    assert second.task == made.TASK


@pytest.mark.parametrize("column", ["task", "__index_level_0__", "instruction"])
def test_the_texts_of_v3_may_be_a_column_or_the_index_of_pandas(tmp_path, column):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(12,)))
    made.pq.write_table(pa.table({"task_index": [0], column: [OTHER]}), root / "meta/tasks.parquet")
    (episode,) = LeRobotSource(LeRobotConfig(str(root))).episodes()
    assert episode.task == OTHER


def test_several_tasks_are_never_one_question(tmp_path):
    """The whole way: no question of a build holds two tasks."""
    from stcr_plugin.registry.build import build
    from stcr_plugin.registry.data_config import DataConfig
    from stcr_plugin.registry.manifest import read_pairs
    from stcr_plugin.splits import SplitRule

    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(24, 24)), {0: {"tasks": [made.TASK, "valid"]}})
    config = DataConfig("x", LeRobotConfig(str(root)), {"train": SplitRule(fraction=1.0)})
    build(config, tmp_path / "registry")
    assert {pair.task for pair in read_pairs(tmp_path / "registry", "x", "train")} == {made.TASK}


def test_nothing_certain_in_a_whole_dataset_names_the_reason(tmp_path):
    from stcr_plugin.registry.data_config import DataConfig
    from stcr_plugin.registry.listing import list_episodes
    from stcr_plugin.splits import SplitRule

    several = {"tasks": ["a", "b"]}
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)), {0: several, 1: several})
    for path in root.rglob("*.parquet"):
        made.edit_parquet(path, {"task_index": None})
    source = LeRobotSource(LeRobotConfig(str(root)))
    with pytest.raises(DataError, match="skipped 2 times: several tasks and no task_index in its rows"):
        list_episodes(DataConfig("x", source.config, {"train": SplitRule(fraction=1.0)}), source)
