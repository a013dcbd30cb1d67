"""Robo-Dopamine's folders: cameras, tasks, and keyframes as stages."""

import benchmark_files as made
import lerobot_dataset
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.robo_dopamine import RoboDopamineConfig
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.types import Claim, Episode, Exclusion


@pytest.fixture
def root(tmp_path):
    return made.robo_dopamine(tmp_path / "raw", episodes=2)


def open_root(root, **settings):
    return open_source(from_mapping(RoboDopamineConfig, {"root": str(root), **settings}, "test"))


def test_folders_are_episodes_of_the_front_camera_with_the_first_instruction(root):
    source = open_root(root)
    episodes = list(source.episodes())
    assert [(one.episode_id, one.task, one.n_frames, one.fps) for one in episodes] == [
        ("episode_001", "lift the cup", 12, 10.0),
        ("episode_002", "lift the cup", 12, 10.0),
    ]
    assert source.path_of(episodes[1]) == "episode_002/cam_high.mp4"
    assert [lerobot_dataset.number(one)[1] for one in source.frames(episodes[0], [0, 11])] == [0, 11]


def test_another_camera_and_a_task_of_ones_own(root):
    (root / "task_instruction.json").unlink()
    source = open_root(root, camera="cam_left_wrist", task="take the cup")
    episode = next(iter(source.episodes()))
    assert (episode.task, source.path_of(episode)) == ("take the cup", "episode_001/cam_left_wrist.mp4")


def test_keyframes_are_stages_that_claims_name(root):
    source = open_root(root, stages={})
    states = source.states(next(iter(source.episodes())))
    assert source.claims(states[4]) == (Claim("stage", "reach the cup"),)
    assert source.claims(states[5]) == (Claim("stage", "lift the cup"),)
    assert source.holds(Claim("stage", "lift the cup"), states[11])
    assert states[0]["phase"] == "reach the cup"


def test_stages_are_written_as_those_of_frames():
    assert load_phrases("robo_dopamine") == load_phrases("frames")


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([("a", 0, 5), ("b", 3, 9)], "overlap"),
        ([("a", 0, 40)], "of an episode of 12"),
        ([("a", "first", 5)], "has no span"),
        ([(None, 0, 5)], "a stage has no text"),
    ],
)
def test_keyframes_that_cannot_be_used_are_counted_by_file(root, spans, reason):
    made.write_json(root / "episode_001" / "annotated_keyframes.json", made.keyframes(*spans))
    found = [one for one in open_root(root, stages={}).episodes() if isinstance(one, Exclusion)]
    assert found
    assert all(reason in one.reason for one in found)
    assert "row 1, episode_001/annotated_keyframes.json" in found[0].where


@pytest.mark.parametrize(
    ("value", "task"),
    [({"instructions": ["one", "two"]}, "one"), ({"instruction": "alone"}, "alone"), ("plain", "plain")],
)
def test_every_form_of_the_instruction_is_read(root, value, task):
    made.write_json(root / "task_instruction.json", value)
    assert next(iter(open_root(root).episodes())).task == task


def test_folders_of_the_benchmark_take_their_tasks_from_its_file(tmp_path):
    file = made.robo_dopamine_bench(tmp_path)
    source = open_root(tmp_path, file=str(file), fps=10)
    episodes = list(source.episodes())
    assert [(one.task, one.n_frames, one.fps) for one in episodes] == [(f"sort the box {n}", 8, 10.0) for n in range(3)]
    assert [made.seen(one) for one in source.frames(episodes[2], [0, 7])] == [(0, 2), (7, 2)]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"sample_path_list": ["a"]}, "has no list 'sample_path_task'"),
        ({"sample_path_task": ["a"]}, "has no list 'sample_path_list'"),
        ([1], "has no list 'sample_path_list'"),
        ({"sample_path_list": ["a"], "sample_path_task": []}, "1 entries in 'sample_path_list', 0 in"),
        ({"sample_path_list": [3], "sample_path_task": ["t"]}, "sample_path_list, entry 1: 3 is not a path"),
        ({"sample_path_list": ["../out"], "sample_path_task": ["t"]}, "leaves its folder"),
    ],
)
def test_a_file_in_another_form_stops_with_its_field(tmp_path, value, problem):
    file = made.write_json(tmp_path / "bench.json", value)
    with pytest.raises(DataError, match=problem):
        open_root(tmp_path, file=str(file))


def test_an_episode_without_its_camera_and_one_with_a_broken_video_are_counted(root):
    (root / "episode_001/cam_high.mp4").unlink()
    found = list(open_root(root).episodes())
    assert [type(one) for one in found] == [Exclusion, Episode]
    (root / "episode_001/cam_high.mp4").write_bytes(b"nothing")
    found = list(open_root(root).episodes())
    assert [type(one) for one in found] == [Exclusion, Episode]
    assert "row 1" in found[0].where


@pytest.mark.parametrize("value", [None, {"text": "lift"}, [3]])
def test_a_task_that_nothing_says_stops(root, value):
    if value is None:
        (root / "task_instruction.json").unlink()
    else:
        made.write_json(root / "task_instruction.json", value)
    with pytest.raises(DataError, match=r"task_instruction.json.*source.task"):
        open_root(root)


def test_a_folder_without_episodes_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no folder episode_\*"):
        open_root(tmp_path)


def test_a_file_and_a_task_exclude_each_other(root):
    with pytest.raises(ConfigError, match="remove `task`"):
        open_root(root, file="x.json", task="lift")
