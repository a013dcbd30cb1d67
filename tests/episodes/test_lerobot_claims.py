"""LeRobot episodes that claim the same frames, or contradict their own rows, are left out by name; the rest is used."""

from __future__ import annotations

import json

import lerobot_dataset as made
import numpy as np
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.types import Episode, Exclusion

VIDEO = f"videos/{made.CAMERA}/"
META = "meta/episodes/chunk-000/file-000.parquet"


def open_set(root, **settings):
    return LeRobotSource(from_mapping(LeRobotConfig, {"root": str(root), **settings}, "test"))


def split(source):
    """Ids of the usable episodes, and the exclusions; each picture of the usable ones is looked at."""
    found = list(source.episodes())
    episodes = [item for item in found if isinstance(item, Episode)]
    for episode in episodes:
        frames = list(range(episode.n_frames))
        shown = [made.number(picture) for picture in source.frames(episode, frames)]
        assert shown == [(int(episode.episode_id), frame) for frame in frames]
    return [int(episode.episode_id) for episode in episodes], [item for item in found if isinstance(item, Exclusion)]


@pytest.fixture
def merged(tmp_path):
    """Version 3: episodes 0 and 1 (30 and 41 frames) in one file, 2 and 3 (24 and 20) in the next, at 10 fps."""
    return made.write_v30(tmp_path / "set", made.Layout(lengths=(30, 41, 24, 20)))


CLAIMS = {
    "a wrong file": ({"file_index": [0, 0, 0, 1]}, {0, 2}, "episode 0 0.00 to 3.00 s"),
    "both of a wrong file": ({"file_index": [0, 0, 0, 0]}, {0, 1, 2, 3}, "of the same"),
    "a start from 0 again": (
        {"from_timestamp": [0.0, 0.0, 0.0, 2.4], "to_timestamp": [3.0, 4.1, 2.4, 4.4]},
        {0, 1},
        "",
    ),
    "a start before the end": (
        {"from_timestamp": [0.0, 2.9, 0.0, 2.4], "to_timestamp": [3.0, 7.0, 2.4, 4.4]},
        {0, 1},
        "",
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_episodes_that_claim_the_same_stretch_of_a_video_are_both_left_out(merged, case):
    columns, wrong, words = CLAIMS[case]
    made.edit_parquet(merged / META, {VIDEO + name: values for name, values in columns.items()})
    if len(wrong) == 4:
        with pytest.raises(DataError, match="not one episode can be used"):
            split(open_set(merged))
        return
    usable, excluded = split(open_set(merged))
    assert usable == sorted({0, 1, 2, 3} - wrong)
    assert {int(item.what.removeprefix("episode ")) for item in excluded} == wrong
    for item in excluded:
        other = min(wrong - {int(item.what[8:])})
        assert item.where.endswith(f"videos/{made.CAMERA}/chunk-000/file-000.mp4")
        assert f"and episode {other} " in item.reason
    assert any(words in item.reason for item in excluded)


def claimed(**columns):
    """The columns of the meta data that place episodes in videos, right but for those of episode 1 that are given."""
    right = {"chunk_index": [0] * 4, "file_index": [0, 0, 1, 1]}
    right |= {"from_timestamp": [0.0, 3.0, 0.0, 2.4], "to_timestamp": [3.0, 7.1, 2.4, 4.4]}
    return {VIDEO + name: [values[0], columns.get(name, values[1]), *values[2:]] for name, values in right.items()}


SELF = {
    "to before from": ({"to_timestamp": 2.0}, "before it starts"),
    "longer than its frames": ({"to_timestamp": 9.1}, "its 41 frames in 6.10 s"),
    "a frame short": ({"to_timestamp": 7.0}, "are 10.25 a second, info.json says 10 fps"),
    "before the video": ({"from_timestamp": -3.0, "to_timestamp": 1.1}, "before the start"),
    "no start": ({"from_timestamp": None}, "from_timestamp is empty"),
    "no number": ({"from_timestamp": np.inf}, "from_timestamp inf is not a number"),
    "no file": ({"file_index": None}, "file_index is empty"),
    "no camera": (dict.fromkeys(("chunk_index", "file_index", "from_timestamp", "to_timestamp")), "no video of camera"),
    "past the end": ({"from_timestamp": 60.0, "to_timestamp": 64.1}, "its last frame is at 7.00 s"),
    "a chunk that is not there": ({"chunk_index": 7}, "no such video file"),
}


@pytest.mark.parametrize("case", SELF)
def test_an_episode_whose_own_facts_disagree_is_left_out_alone(merged, case):
    columns, words = SELF[case]
    made.edit_parquet(merged / META, claimed(**columns))
    usable, (excluded,) = split(open_set(merged))
    assert (usable, excluded.what) == ([0, 2, 3], "episode 1")
    assert words in excluded.reason


def test_a_stretch_without_an_end_is_as_long_as_its_frames(merged):
    made.edit_parquet(merged / META, claimed(to_timestamp=None))
    assert split(open_set(merged)) == ([0, 1, 2, 3], [])


def test_gaps_between_stretches_are_allowed(tmp_path):
    """A logical trim: the rows of the last ten frames of episode 0 were deleted, its video was not."""
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(30, 41)))
    path = root / "data/chunk-000/file-000.parquet"
    table = made.pq.read_table(path)
    made.pq.write_table(table.take([row for row in range(71) if not 20 <= row < 30]), path)
    made.edit_parquet(path, {"index": range(61)})
    ends = {VIDEO + "to_timestamp": [2.0, 7.1], "length": [20, 41]}
    made.edit_parquet(root / META, ends | {"dataset_from_index": [0, 20], "dataset_to_index": [20, 61]})
    assert split(open_set(root)) == ([0, 1], [])


@pytest.mark.parametrize("off", [0.02, -0.02, 0.04])
def test_a_start_that_is_off_by_less_than_half_a_frame_changes_no_picture(merged, off):
    made.edit_parquet(merged / META, claimed(from_timestamp=3.0 + off, to_timestamp=7.1 + off))
    assert split(open_set(merged)) == ([0, 1, 2, 3], [])


def test_two_episodes_of_v21_with_one_video_are_both_left_out(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12, 12)))
    info = json.loads((root / "meta/info.json").read_text())
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_000000.mp4"
    (root / "meta/info.json").write_text(json.dumps(info))
    film = root / f"videos/chunk-001/{made.CAMERA}/episode_000002.mp4"
    film.rename(film.with_name("episode_000000.mp4"))
    usable, excluded = split(open_set(root))
    assert usable == [2]
    assert [item.what for item in excluded] == ["episode 0", "episode 1"]
    assert "claims all of its video, and episode 1 all of the same" in excluded[0].reason


ROWS = {
    "the length": ({"dataset_to_index": [30, 75, 95, 115]}, "span 45 rows, its length is 41"),
    "their index": (
        {"dataset_from_index": [0, 0, 71, 95], "dataset_to_index": [30, 41, 95, 115]},
        "its rows have the index 30 to 70, the meta data say 0 to 40",
    ),
    "a row before the first": ({"dataset_from_index": [0, -3, 71, 95]}, "its dataset_from_index -3 is below 0"),
}


@pytest.mark.parametrize("case", ROWS)
def test_an_episode_whose_dataset_index_contradicts_is_left_out_alone(merged, case):
    columns, words = ROWS[case]
    made.edit_parquet(merged / META, columns)
    usable, (excluded,) = split(open_set(merged))
    assert (usable, excluded.what) == ([0, 2, 3], "episode 1")
    assert words in excluded.reason


def test_rows_without_an_index_cannot_say_which_of_two_claims_is_right(merged):
    info = json.loads((merged / "meta/info.json").read_text())
    del info["features"]["index"]
    (merged / "meta/info.json").write_text(json.dumps(info))
    made.edit_parquet(merged / META, {"dataset_from_index": [0, 0, 71, 95], "dataset_to_index": [30, 41, 95, 115]})
    usable, excluded = split(open_set(merged))
    assert usable == [2, 3]
    assert [item.what for item in excluded] == ["episode 0", "episode 1"]


FRAMES = {
    "mixed up": [*range(30), *range(40, -1, -1)],
    "one missing": [*range(30), *range(1, 42)],
    "one twice": [*range(30), 0, *range(40)],
    "empty": [*range(30), None, *range(1, 41)],
    "no number": [*map(float, range(30)), 0.5, *map(float, range(1, 41))],
}


@pytest.mark.parametrize("case", FRAMES)
def test_rows_that_do_not_count_up_are_left_out(merged, case):
    made.edit_parquet(merged / "data/chunk-000/file-000.parquet", {"frame_index": FRAMES[case]})
    usable, (excluded,) = split(open_set(merged))
    assert (usable, excluded.what) == ([0, 2, 3], "episode 1")
    assert "its frame_index" in excluded.reason


def test_one_unreadable_file_of_the_episodes_refuses_only_its_own(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(12, 13, 14)))
    whole = made.pq.read_table(root / META)
    for number, kept in enumerate(([0], [1], [2])):
        path = root / f"meta/episodes/chunk-{number:03d}/file-000.parquet"
        path.parent.mkdir(exist_ok=True)
        made.pq.write_table(whole.take(kept), path)
    assert split(open_set(root)) == ([0, 1, 2], [])
    (root / "meta/episodes/chunk-001/file-000.parquet").write_bytes(b"PAR1 cut")
    usable, (excluded,) = split(open_set(root))
    assert usable == [0, 2]
    assert excluded.where.endswith("chunk-001/file-000.parquet")
    made.edit_parquet(root / "meta/episodes/chunk-002/file-000.parquet", {"episode_index": None})
    assert split(open_set(root))[0] == [0]
    for path in root.glob("meta/episodes/*/*.parquet"):
        path.write_bytes(b"")
    with pytest.raises(StcrError, match="cannot be read as parquet"):
        split(open_set(root))


def test_an_episode_of_v3_that_is_listed_twice_with_the_same_facts_is_taken_once(merged):
    table = made.pq.read_table(merged / META)
    made.pq.write_table(table.take([0, 1, 1, 2, 3]), merged / META)
    usable, (excluded,) = split(open_set(merged))
    assert usable == [0, 1, 2, 3]
    assert (excluded.what, excluded.where.endswith("row 3")) == ("episode 1", True)


LISTS = {
    "lists of one": lambda values: [[value] for value in values],
    "text": lambda values: [str(value) for value in values],
    "floats": lambda values: [float(value) for value in values],
}


@pytest.mark.parametrize("case", LISTS)
def test_numbers_are_read_however_they_are_spelled(merged, case):
    spelled = LISTS[case]
    for path in (merged / META, merged / "data/chunk-000/file-000.parquet", merged / "data/chunk-000/file-001.parquet"):
        table = made.pq.read_table(path).to_pydict()
        names = [name for name in table if name not in ("tasks", "observation.state")]
        made.edit_parquet(path, {name: spelled(table[name]) for name in names})
    source = open_set(merged)
    assert split(source) == ([0, 1, 2, 3], [])
    assert source.states(next(iter(source.episodes())))[0]["motion"] == 0.0
