"""Manifests of PRM-as-a-Judge: cases are episodes, recorded progress is theirs."""

import benchmark_files as made
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.prm_manifest import PrmManifestConfig
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion

SOUND = {"case_id": "sound", "task": "Put the can away.", "video": "videos/0.mp4", "progress": [0.5] * 12}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prm")
    made.prm_manifest(folder)
    (folder / "videos/broken.mp4").write_bytes(b"no video at all")
    return folder


def open_file(file, **settings):
    return open_source(from_mapping(PrmManifestConfig, {"file": str(file), **settings}, "test"))


@pytest.fixture
def read(tmp_path, root):
    """Write these cases and read them back: the source, its episodes and its exclusions."""

    def use(rows, **settings):
        source = open_file(made.write_lines(root / f"{tmp_path.name}.jsonl", rows), **settings)
        found = list(source.episodes())
        return (
            source,
            [one for one in found if isinstance(one, Episode)],
            [one for one in found if isinstance(one, Exclusion)],
        )

    return use


def test_every_way_to_give_a_view_and_progress_is_read(root):
    source = open_file(root / "cases.jsonl")
    episodes = list(source.episodes())
    assert [(one.episode_id, one.task, one.n_frames, one.group) for one in episodes] == [
        (f"case_{number}", "Put the can away.", 12, "success" if number else "failure") for number in range(4)
    ]
    for number, episode in enumerate(episodes):
        progress = [state["progress"] for state in source.states(episode)]
        assert progress == [round(min(1, (frame + number) / 11), 3) for frame in range(12)]


def test_an_instruction_goes_before_the_name_of_the_task_and_ids_become_safe(read):
    _, (episode,), _ = read([SOUND | {"case_id": "can/1", "instruction": "Put it in the bin."}])
    assert episode.task == "Put it in the bin."
    assert episode.episode_id.startswith("can-1-")


def test_progress_in_percent_and_in_objects_is_read(read):
    values = [{"progress": 50 + frame} for frame in range(12)]
    source, (episode,), _ = read([SOUND | {"progress": values}], scale=100)
    assert [state["progress"] for state in source.states(episode)][:2] == [0.5, 0.51]


def test_a_trace_of_fewer_values_than_frames_needs_to_be_said_to_be_even(read):
    rows = [SOUND, SOUND | {"case_id": "short", "video": "videos/1.mp4", "progress": [0, 0.5, 1]}]
    _, episodes, excluded = read(rows)
    assert len(episodes) == 1
    assert "set source.trace: even" in excluded[0].reason
    assert excluded[0].where.endswith("row 2, 3 values for 12 frames")
    source, episodes, excluded = read(rows, trace="even")
    known = {frame: state["progress"] for frame, state in enumerate(source.states(episodes[1]))}
    assert {frame: value for frame, value in known.items() if value is not None} == {0: 0, 6: 0.5, 11: 1}
    assert excluded == []


def test_a_case_without_progress_has_none_and_a_manifest_without_any_has_no_states(read):
    bare = {key: value for key, value in SOUND.items() if key != "progress"} | {"case_id": "b", "video": "videos/1.mp4"}
    source, episodes, _ = read([SOUND, bare])
    assert {state["progress"] for state in source.states(episodes[1])} == {None}
    source, (episode,), _ = read([bare])
    assert source.states(episode) is None


def without(name):
    return {key: value for key, value in SOUND.items() if key != name} | {"case_id": "other"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({key: value for key, value in SOUND.items() if key != "case_id"}, "it has no field 'case_id'"),
        (without("task"), "it has no field 'task'"),
        (without("video"), "it has no field 'video'"),
        (SOUND, "its case_id is that of another row"),
        (without("") | {"task": 3.5}, "its task is not text"),
        (without("") | {"video": "../x.mp4"}, "its video is a path that leaves source.root"),
        (without("") | {"video": "/etc/passwd"}, "its video is a path that leaves source.root"),
        (without("") | {"video": "none.mp4"}, "its video is not a file under source.root"),
        (without("video") | {"videos": ["a"]}, "its videos is not an object of cameras"),
        (without("video") | {"videos": {"left": "videos/0.mp4"}}, "its videos has 0 of video, high, front, cam_high"),
        (without("") | {"label": "maybe"}, "its label is not success or failure"),
        (without("") | {"progress": "high"}, "its progress has no list of values"),
        (without("") | {"progress": [0.1, 1.5]}, "its progress has a value that is not from 0 to source.scale, 1"),
        (without("") | {"progress": [0.1, None]}, "its progress has a value that is not from 0 to source.scale, 1"),
        (without("") | {"progress_path": "traces/0.json"}, "it has both progress and progress_path"),
        (without("progress") | {"progress_path": "none.json"}, "its progress_path is not a file under source.root"),
        (without("progress") | {"progress_path": "../x.json"}, "its progress_path is a path that leaves source.root"),
    ],
)
def test_what_cannot_be_used_names_the_file_the_row_and_the_field(read, row, reason):
    _, episodes, excluded = read([SOUND, row])
    assert [one.episode_id for one in episodes] == ["sound"]
    assert [one.reason for one in excluded] == [reason]
    assert ".jsonl, row 2" in excluded[0].where


def test_a_damaged_trace_and_a_damaged_video_are_named(read, root):
    (root / "traces/bad.json").write_text("{")
    bad = without("progress") | {"progress_path": "traces/bad.json"}
    broken = SOUND | {"case_id": "broken", "video": "videos/broken.mp4"}
    _, episodes, excluded = read([SOUND, bad, broken])
    assert len(episodes) == 1
    assert excluded[0].reason.startswith("its progress_path names a file that cannot be read")
    assert ["row 2" in excluded[0].where, "row 3" in excluded[1].where] == [True, True]


def test_a_manifest_without_a_usable_case_stops_with_its_first_row(read):
    with pytest.raises(DataError, match=r"not one row can be used; .*row 1.*: it has no field 'task'"):
        read([{"case_id": "a"}])


def test_a_scale_of_another_kind_is_refused(root):
    with pytest.raises(ConfigError, match="`scale` must be 1 or 100"):
        open_file(root / "cases.jsonl", scale=5)
