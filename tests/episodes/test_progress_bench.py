"""Progress-Bench: rows of one picture each become episodes with the progress of each frame."""

import benchmark_files as made
import pytest
from benchmark_files import TASK, progress_row, visual

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.progress_bench import NOT_ANSWERABLE, ProgressBenchConfig
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion, Omission

NAME = "robots/push/2024-09-00"
SOUND = [progress_row(NAME, f"camera_top_{frame:04d}.jpg", score) for frame, score in ((2, "8%"), (10, "100%"))]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    made.progress_bench(folder, recordings=2)
    return folder


def open_file(file, root, **settings):
    return open_source(from_mapping(ProgressBenchConfig, {"file": str(file), "root": str(root), **settings}, "test"))


@pytest.fixture
def read(tmp_path, root):
    """Write these rows and read them back: the source, its episodes and its exclusions."""

    def use(rows):
        source = open_file(made.write_lines(tmp_path / "rows.jsonl", rows), root)
        found = list(source.episodes())
        return (
            source,
            [one for one in found if isinstance(one, Episode)],
            [one for one in found if isinstance(one, Exclusion)],
        )

    return use


def test_rows_of_one_id_are_an_episode_in_the_order_of_its_pictures_with_their_progress(root):
    source = open_file(root / "text-normal.jsonl", root)
    found = list(source.episodes())
    episodes = [one for one in found if isinstance(one, Episode)]
    assert [(one.task, one.n_frames, one.segments[0].end) for one in episodes] == [(TASK, 3, 3)] * 2
    assert [state["progress"] for state in source.states(episodes[1])] == [0.08, 0.33, 1.0]
    assert [made.seen(one) for one in source.frames(episodes[1], [0, 1, 2])] == [(2, 1), (5, 1), (10, 1)]


def test_rows_that_cannot_be_answered_are_counted_and_stop_no_build(root):
    source = open_file(root / "text-normal.jsonl", root)
    found = [one for one in source.episodes() if isinstance(one, Exclusion)]
    assert [(type(one), one.reason) for one in found] == [(Omission, NOT_ANSWERABLE)] * 2
    assert found[0].where == f"{root / 'text-normal.jsonl'}, row 4"


def test_pictures_of_a_visual_demonstration_are_frames_with_even_progress(read):
    names = ["camera_top_0002.jpg", "camera_top_0005.jpg", "camera_top_0011.jpg"]
    source, (episode,), excluded = read([visual(progress_row(NAME, "camera_top_0010.jpg", "92%"), names)])
    assert excluded == []
    assert [state["progress"] for state in source.states(episode)] == [0, 0.5, 0.92, 1]


def test_an_estimate_goes_before_the_even_progress_of_a_demonstration(read):
    names = ["camera_top_0002.jpg", "camera_top_0005.jpg", "camera_top_0011.jpg"]
    rows = [visual(progress_row(NAME, stage, score), names) for stage, score in ((names[1], "40%"), (names[0], "3%"))]
    source, (episode,), _ = read(rows)
    assert [state["progress"] for state in source.states(episode)] == [0.03, 0.4, 1]


def test_tasks_of_one_recording_are_episodes_with_their_own_progress(read):
    undone = {"task_goal": "Undo it."}
    other = [row | undone | {"progress_score": score} for row, score in zip(SOUND, ("90%", "0%"), strict=True)]
    source, episodes, _ = read([*SOUND, *other])
    assert [one.task for one in episodes] == [TASK, "Undo it."]
    assert [[state["progress"] for state in source.states(one)] for one in episodes] == [[0.08, 1], [0.9, 0]]


def test_one_picture_alone_is_counted(read):
    _, episodes, excluded = read([*SOUND, progress_row("robots/push/2024-09-01", "camera_top_0005.jpg", "20%")])
    assert len(episodes) == 1
    assert [type(one) for one in excluded] == [Omission]
    assert excluded[0].where.endswith("id robots/push/2024-09-01")


def without(name):
    return {key: value for key, value in SOUND[0].items() if key != name}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (without("stage_to_estimate"), "it has no field 'stage_to_estimate'"),
        (without("progress_score"), "it has no field 'progress_score'"),
        (without("text_demo"), "it has no field 'text_demo'"),
        ({**SOUND[0], "task_goal": 7}, "its task_goal is not text"),
        ({**SOUND[0], "task_goal": " "}, "its task_goal is empty"),
        ({**SOUND[0], "text_demo": "reach"}, "its text_demo is not a list with entries"),
        ({**SOUND[0], "total_steps": 5}, "its text_demo and its total_steps disagree"),
        ({**SOUND[0], "total_steps": "two"}, "its total_steps is not a whole number from 1 to 1000000"),
        ({**SOUND[0], "closest_idx": 3}, "its closest_idx is not a whole number from 1 to 2"),
        ({**SOUND[0], "progress_score": "130%"}, "its progress_score is not from 0 % to 100 %"),
        ({**SOUND[0], "progress_score": "-1%"}, "its progress_score is not from 0 % to 100 %"),
        ({**SOUND[0], "progress_score": 0.33}, 'its progress_score is not a percentage such as "8%"'),
        ({**SOUND[0], "progress_score": "nan%"}, 'its progress_score is not a percentage such as "8%"'),
        ({**SOUND[0], "delta": "much"}, 'its delta is not a percentage such as "8%"'),
        ({**SOUND[0], "stage_to_estimate": "../../../../x"}, "its stage_to_estimate is a path that leaves source.root"),
        ({**SOUND[0], "stage_to_estimate": "/etc/passwd"}, "its stage_to_estimate is a path that leaves source.root"),
        ({**SOUND[0], "stage_to_estimate": "none.jpg"}, "its stage_to_estimate is not a file under source.root"),
        ({**SOUND[0], "stage_to_estimate": ["a.jpg", "b.jpg"]}, "its stage_to_estimate is not a path"),
        ({**SOUND[0], "stage_to_estimate": "a\0b"}, "its stage_to_estimate is a path that no system can follow"),
        ({**SOUND[0], "progress_score": "9%"}, "its progress_score is another one for the same picture"),
    ],
)
def test_what_cannot_be_used_names_the_file_the_row_and_the_field(read, row, reason):
    _, episodes, excluded = read([*SOUND, row])
    assert len(episodes) == 1
    assert [one.reason for one in excluded] == [reason]
    assert "rows.jsonl, row 3" in excluded[0].where
    assert "\n" not in excluded[0].where


def test_a_file_of_another_kind_stops_with_its_first_row_and_field(tmp_path, root):
    file = made.write_lines(tmp_path / "other.jsonl", [{"name": "x"}])
    with pytest.raises(DataError, match=r"not one row can be used; .*other.jsonl, row 1.*: it has no field 'id'"):
        list(open_file(file, root).episodes())


@pytest.mark.parametrize(("file", "settings"), [("none.jsonl", {}), ("text-normal.jsonl", {"root": "none"})])
def test_what_is_not_there_is_named(root, file, settings):
    with pytest.raises(DataError, match="no such"):
        list(open_file(root / file, **{"root": root, **settings}).episodes())


def test_a_rate_of_no_pictures_is_refused(root):
    with pytest.raises(ConfigError, match="`fps` must be above 0"):
        open_file(root / "text-normal.jsonl", root, fps=0)
