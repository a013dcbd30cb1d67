from __future__ import annotations

import itertools
import json
import shutil
import tarfile
from pathlib import Path

import agibot_dataset as made
import lerobot_dataset
import numpy as np
import pytest
from agibot_dataset import PLACE, RETRIEVE, Demo, action

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import agibot as room
from stcr_plugin.episodes import archive, open_source
from stcr_plugin.episodes.agibot import AgibotConfig, AgibotSource
from stcr_plugin.episodes.stage_spans import StageClaims
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, EpisodeSource, Exclusion, Segment

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
IDS = ["327-648642", "327-648649", "1030-700001"]


def source(root, **settings):
    return AgibotSource(AgibotConfig(str(root), **settings))


def listed(root, **settings):
    """Episodes by id, and the exclusions."""
    items = list(source(root, **settings).episodes())
    episodes = [item for item in items if isinstance(item, Episode)]
    assert len({episode.episode_id for episode in episodes}) == len(episodes)
    return {episode.episode_id: episode for episode in episodes}, [
        item for item in items if isinstance(item, Exclusion)
    ]


def one(root, demo, **settings):
    """A dataset of one episode, listed."""
    episodes, excluded = listed(made.write(root, demos={327: [demo]}), **settings)
    assert not excluded
    return source(root, **settings), episodes[f"327-{demo.number}"]


# ---- what is published ----


@pytest.mark.parametrize("layout", made.LAYOUTS)
def test_every_layout_gives_the_same_episodes_and_pictures(tmp_path, layout):
    root = made.write(tmp_path / "data", layout)
    episodes, excluded = listed(root)
    assert not excluded
    assert episodes == {
        "327-648642": Episode(
            "agibot", "327-648642", made.TASK_NAME, 30.0, 40, (Segment(RETRIEVE, 2, 20), Segment(PLACE, 20, 40)), "327"
        ),
        "327-648649": Episode("agibot", "327-648649", made.TASK_NAME, 30.0, 30, (Segment(RETRIEVE, 0, 30),), "327"),
        "1030-700001": Episode(
            "agibot", "1030-700001", made.TASK_NAME, 30.0, 24, (Segment(made.TASK_NAME, 0, 24),), "1030"
        ),
    }
    assert list(episodes) == IDS
    opened = source(root)  # a worker gets the episodes that another process listed
    for code, episode in enumerate(episodes.values(), 1):
        indices = [0, 7, 8, episode.n_frames - 1]
        pictures = list(opened.frames(episode, indices))
        assert [lerobot_dataset.number(picture) for picture in pictures] == [(code, index) for index in indices]


def test_av1_is_read_inside_an_archive(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range", {327: made.DEMOS[327][1:]}, codec="av1")
    episodes, excluded = listed(root)
    assert not excluded
    pictures = list(source(root).frames(episodes["327-648649"], range(30)))
    assert [lerobot_dataset.number(picture) for picture in pictures] == [(2, index) for index in range(30)]


def test_an_unpacked_video_goes_before_the_archive(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range")
    path = made.video_path(root, 327, 648642)
    path.parent.mkdir(parents=True)
    path.write_bytes(made.encoded(9, 40))
    episodes, _ = listed(root)
    (picture,) = source(root).frames(episodes["327-648642"], [3])
    assert lerobot_dataset.number(picture) == (9, 3)


def test_tasks_and_camera_are_chosen(tmp_path):
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 20, 1)], 352: [Demo(2, 20, 2)]})
    assert list(listed(root, tasks=(352,))[0]) == ["352-2"]
    with pytest.raises(ConfigError, match=r"no task_353\.json, did you mean '352'"):
        source(root, tasks=(352, 353))
    episodes, excluded = listed(root, camera="hand_left_color")
    assert not episodes
    assert all("cannot be opened as a video" in item.reason for item in excluded)
    with pytest.raises(DataError, match=r"none of the 2 listed episodes has a back_color\.mp4"):
        listed(root, camera="back_color")


def test_it_is_a_source_and_its_configuration_opens_it(tmp_path):
    root = made.write(tmp_path / "data")
    config = from_mapping(AgibotConfig, {"root": str(root), "kind": "agibot", "tasks": [327]}, "test")
    opened: EpisodeSource = open_source(config)
    assert (opened.kind, len(list(opened.episodes()))) == ("agibot", 2)
    assert opened.claims({"progress": 0.5}) == ()
    assert not opened.holds(Claim("progress", 50), {"progress": 0.5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "`fps` must be above 0"),
        ({"threads": -1}, "not negative"),
        ({"camera": "../head"}, "`camera` is a video's name"),
        ({"camera": "head_depth"}, "`camera` 'head_depth' is a depth map, not colour pictures"),
        ({"camera": "head_mask"}, "is masks"),
        ({"tasks": []}, "at least one task"),
        ({"motion": "guess"}, "motion"),
        ({"stride": 10}, "unknown key 'stride'"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(AgibotConfig, {"root": "x", **settings}, "test")


# ---- states ----


def test_progress_rises_in_every_segment_and_is_unknown_outside(tmp_path):
    demo = Demo(1, 40, 1, (action(RETRIEVE, 4, 20), action(PLACE, 15, 36)))  # overlapping
    opened, episode = one(tmp_path / "data", demo)
    progress = [state["progress"] for state in opened.states(episode)]
    assert len(progress) == 40
    assert [frame for frame, value in enumerate(progress) if value is None] == [0, 1, 2, 3, 36, 37, 38, 39]
    for segment in episode.segments:
        inside = progress[segment.start : segment.end]
        assert all(first < second for first, second in itertools.pairwise(inside))
    assert all(set(state) == {"progress"} for state in opened.states(episode))


MARKS = {
    "failure recovery": ([(10, 14, "Failure recovery")], range(10, 15)),
    "failure, then recovery": ([(20, 24, "Recovered"), (10, 12, "grasp failed")], range(10, 25)),
    "two failures, one recovery": ([(5, 6, "error"), (9, 9, "Error"), (12, 15, "recovery")], range(5, 16)),
    "never recovered": ([(25, 26, "mistake: dropped it")], range(25, 40)),
    "past the end": ([(38, 60, "failure recovery")], range(38, 40)),
    "in their language": ([(10, 12, "抓取失败"), (15, 16, "恢复")], range(10, 17)),
    "not a failure": ([(10, 14, "contact with the shelf"), (20, 21, "")], range(0)),
}


@pytest.mark.parametrize("case", MARKS)
def test_progress_is_unknown_from_a_failure_to_the_end_of_its_recovery(tmp_path, case):
    marks, doubtful = MARKS[case]
    keys = [{"start": start, "end": end, "comment": comment} for start, end, comment in marks]
    opened, episode = one(tmp_path / "data", Demo(1, 40, 1, (action(RETRIEVE, 0, 40),), keys))
    progress = [state["progress"] for state in opened.states(episode)]
    assert [frame for frame, value in enumerate(progress) if value is None] == list(doubtful)


@pytest.mark.parametrize(
    "mark", [{"start": 3, "comment": "failure"}, {"start": "x", "end": 4}, {"start": 9, "end": 4}, "failure", [3, 4]]
)
def test_an_unreadable_mark_excludes_the_episode(tmp_path, mark):
    demos = [Demo(1, 20, 1, marks=[mark]), Demo(2, 20, 2)]
    episodes, (excluded,) = listed(made.write(tmp_path / "data", demos={327: demos}))
    assert list(episodes) == ["327-2"]
    assert "where it fails is unknown" in excluded.reason
    assert excluded.where.endswith("task_327.json, entry 1")


def test_motion_from_pictures_is_that_of_the_episodes_own_pictures(tmp_path):
    from stcr_plugin.episodes.stillness import picture_motion

    opened, episode = one(tmp_path / "data", Demo(1, 30, 1), motion="pictures")
    expected = picture_motion(opened.frames(episode, range(30)), 30.0)
    assert [state["motion"] for state in opened.states(episode)] == list(expected)
    assert len(expected) == 30


def test_motion_needs_h5py_and_says_so_at_once(tmp_path, monkeypatch):
    root = made.write(tmp_path / "data")
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'stcr-plugin\[agibot\]'"):
        source(root, motion="proprioception")


def readable(root, layout="unpacked", **settings):
    """A dataset of one episode of 40 frames with its readings, in one of three places."""
    pytest.importorskip("h5py", reason="h5py is not installed; pip install 'stcr-plugin[agibot]'")
    made.write(root, demos={327: [Demo(1, 40, 1)]})
    folder = root / "proprio_stats"
    made.write_readings(folder / "327/1/proprio_stats.h5", settings.pop("values", made.readings(40)))
    if layout == "tar a task":
        (folder / "327").rename(folder / "gathered")
        made.pack(folder / "327.tar", folder / "gathered")
    if layout == "one tar":
        shutil.copytree(folder / "327", folder / "352")  # another task's, with an episode of the same number
        (folder / "352/1/proprio_stats.h5").write_bytes(b"of another task")
        made.pack(folder / "proprio_stats.tar", folder)
    episodes, _ = listed(root, motion="proprioception")
    return source(root, motion="proprioception"), episodes["327-1"]


@pytest.mark.parametrize("layout", ["unpacked", "tar a task", "one tar"])
@pytest.mark.parametrize("hands", [2, 12])
def test_motion_from_the_readings(tmp_path, layout, hands):
    opened, episode = readable(tmp_path / "data", layout, values=made.readings(40, hands))
    states = opened.states(episode)
    motion = [state["motion"] for state in states]
    assert max(motion) == 1.0
    assert motion[:15] == [0.0] * 15
    assert all(value > 0.9 for value in motion[25:36])
    assert motion[-1] == 0.0
    assert states[20]["progress"] == 0.5


WRONG = {
    "no joints": ({"state/effector/position": np.zeros((40, 2))}, "no state/joint/position"),
    "fewer rows": (made.readings(38), r"shape \(38, 14\) for a video of 40"),
    "too wide": ({"state/joint/position": np.zeros((40, 500))}, r"shape \(40, 500\)"),
    "no table": ({"state/joint/position": np.zeros(40)}, r"shape \(40,\)"),
    "no number": ({"state/joint/position": np.full((40, 14), np.nan)}, "frame 0: a reading is not a finite number"),
    "a folder": ({"state/joint/position/x": np.zeros((40, 14))}, "no data of its own"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_readings_are_an_error(tmp_path, case):
    values, message = WRONG[case]
    opened, episode = readable(tmp_path / "data", values=values)
    with pytest.raises(DataError, match=rf"proprio_stats\.h5.*{message}"):
        opened.states(episode)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual"])
def test_readings_that_refer_to_other_files_are_refused(tmp_path, kind):
    opened, episode = readable(tmp_path / "data")
    import h5py

    path = tmp_path / "data/proprio_stats/327/1/proprio_stats.h5"
    other = made.write_readings(tmp_path / "other.h5", made.readings(40))
    name = "state/joint/position"
    with h5py.File(path, "a") as file:
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/state/waist/position")
        elif kind == "external data":
            file.create_dataset(name, (40, 14), "f8", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((40, 14), "f8")
            layout[:] = h5py.VirtualSource(str(other), name, (40, 14))
            file.create_virtual_dataset(name, layout)
    with pytest.raises(DataError, match="files that refer to others are not read"):
        opened.states(episode)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no hdf5"])
def test_readings_that_cannot_be_read_are_an_error_of_the_episode(tmp_path, damage):
    opened, episode = readable(tmp_path / "data")
    path = tmp_path / "data/proprio_stats/327/1/proprio_stats.h5"
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 3], "no hdf5": b"text" * 999}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match="no proprio_stats" if damage == "missing" else "cannot be read as HDF5"):
        opened.states(episode)


@pytest.mark.parametrize(
    ("layout", "file"),
    [("unpacked", "327/1/proprio_stats.h5"), ("tar a task", "327.tar"), ("one tar", "proprio_stats.tar")],
)
def test_readings_that_git_lfs_has_not_fetched_say_so(tmp_path, layout, file):
    _, episode = readable(tmp_path / "data", layout)
    for path in (tmp_path / "data/proprio_stats").rglob("proprio_stats.h5"):
        path.unlink()
    (tmp_path / "data/proprio_stats" / file).write_bytes(POINTER)
    with pytest.raises(DataError, match=rf"{file}: a Git LFS pointer, not the file itself; run `git lfs pull`"):
        source(tmp_path / "data", motion="proprioception").states(episode)


def test_videos_whose_archive_git_lfs_has_not_fetched_say_so(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range", demos={327: [Demo(1, 40, 1)]})
    (path,) = root.glob("observations/327/*.tar")
    path.write_bytes(POINTER)
    with pytest.raises(DataError, match=rf"{path.name}: a Git LFS pointer, not the file itself; run `git lfs pull`"):
        listed(root)


# ---- what is broken is excluded, and the rest goes on ----


def broken(root, layout="unpacked"):
    """Three episodes of which the first will be broken; its video's path."""
    made.write(root, layout, {327: [Demo(1, 20, 1), Demo(2, 20, 2)], 352: [Demo(3, 20, 3)]})
    return made.video_path(root, 327, 1, layout)


def _empty(path):
    path.write_bytes(b"")


def _corrupt(path):
    path.write_bytes(b"no video" * 200)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-300])


def _missing(path):
    path.unlink()


def _linked(path):
    outside = path.parents[5] / "outside.mp4"
    path.rename(outside)
    path.symlink_to(outside)


VIDEOS = {
    _empty: "0 bytes",
    _corrupt: "cannot be opened as a video",
    _truncated: "truncated: its index promises 20 frames",
    _missing: "no head_color.mp4 of episode 327-1, unpacked",
    _linked: "leaves its folder",
}


@pytest.mark.parametrize("spoil", VIDEOS)
def test_a_broken_video_is_excluded(tmp_path, spoil):
    path = broken(tmp_path / "data")
    spoil(path)
    episodes, (excluded,) = listed(tmp_path / "data")
    assert list(episodes) == ["327-2", "352-3"]
    assert excluded.what == "episode 327-1"
    assert excluded.where.endswith("task_327.json, entry 1")
    assert VIDEOS[spoil] in excluded.reason


def test_a_broken_video_in_an_archive_is_excluded(tmp_path):
    root = tmp_path / "data"
    made.write(root, demos={327: [Demo(1, 20, 1), Demo(2, 20, 2), Demo(3, 20, 3)]})
    _empty(made.video_path(root, 327, 1))
    _corrupt(made.video_path(root, 327, 2))
    made.pack(root / "observations/327/1-3.tar", root / "observations/327")
    episodes, excluded = listed(root)
    assert list(episodes) == ["327-3"]
    assert ["0 bytes" in excluded[0].reason, "cannot be opened" in excluded[1].reason] == [True, True]
    assert all("1-3.tar!" in item.reason for item in excluded)


def test_damage_inside_a_video_names_episode_and_frame(tmp_path):
    path = broken(tmp_path / "data")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 900 : start + 1500] = b"\x55" * 600
    path.write_bytes(data)
    episodes, _ = listed(tmp_path / "data")
    with pytest.raises(DataError, match=r"episode 327-1, frame \d+: .*head_color\.mp4: the frame at"):
        list(source(tmp_path / "data").frames(episodes["327-1"], range(20)))


JSONS = {
    "cut in half": lambda text: text[: len(text) // 2].encode(),
    "not UTF-8": lambda text: text.replace(made.TASK_NAME, "Sch\xf6n", 1).encode("latin-1"),
    "empty": lambda text: b"",
    "no list": lambda text: b'{"episodes": ' + text.encode() + b"}",
    "very deep": lambda text: b"[" * 100_000,
    "long number": lambda text: b'[{"episode_id": ' + b"9" * 5000 + b"}]",
}


@pytest.mark.parametrize("case", JSONS)
def test_a_broken_task_file_is_excluded(tmp_path, case):
    broken(tmp_path / "data")
    path = tmp_path / "data/task_info/task_327.json"
    path.write_bytes(JSONS[case](path.read_text()))
    episodes, (excluded,) = listed(tmp_path / "data")
    assert list(episodes) == ["352-3"]
    assert (excluded.what, excluded.where) == ("task 327", str(path))
    assert excluded.reason


ENTRIES = {
    "no mapping": ("text", "no episode_id"),
    "no id": ({"task_name": "x"}, "no episode_id"),
    "an id that is a path": ({"episode_id": "../1", "task_name": "x"}, "is not a number"),
    "labels of another kind": ({"episode_id": 9, "label_info": [1]}, "label_info is not a mapping"),
    "actions of another kind": ({"episode_id": 9, "label_info": {"action_config": {"a": 1}}}, "must be lists"),
    "a name of another kind": ({"episode_id": 9, "task_name": ["x"]}, "is not text"),
    "half a character": ({"episode_id": 9, "task_name": "\ud800"}, "not UTF-8"),
    "listed twice": (Demo(2, 20, 2).entry(), "listed twice"),
    "all segments bad": ({"episode_id": 1, "label_info": {"action_config": [3]}}, "not one of its segments"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_broken_entry_is_excluded(tmp_path, case):
    broken(tmp_path / "data")
    entry, message = ENTRIES[case]
    path = tmp_path / "data/task_info/task_327.json"
    path.write_text(json.dumps([Demo(2, 20, 2).entry(), entry]))
    episodes, excluded = listed(tmp_path / "data")
    assert list(episodes) == ["327-2", "352-3"]
    assert excluded[-1].where == f"{path}, entry 2"
    assert message in excluded[-1].reason


SEGMENTS = {
    "backwards": action(RETRIEVE, 15, 5),
    "empty": action(RETRIEVE, 5, 5),
    "past the end": action(RETRIEVE, 5, 41),
    "before the start": action(RETRIEVE, -1, 9),
    "no end": {"start_frame": 1, "action_text": RETRIEVE},
    "no number": action(RETRIEVE, 1, "end"),
    "infinite": action(RETRIEVE, 1, float("inf")),
    "no text": {"start_frame": 1, "end_frame": 9, "action_text": None},
    "half a character": action("\ud800", 1, 9),
    "no mapping": "1-9",
}


@pytest.mark.parametrize("case", SEGMENTS)
def test_a_broken_segment_is_excluded_and_its_episode_goes_on(tmp_path, case):
    demo = Demo(1, 40, 1, (SEGMENTS[case], action(PLACE, 20, 40)))
    episodes, (excluded,) = listed(made.write(tmp_path / "data", demos={327: [demo]}))
    assert episodes["327-1"].segments == (Segment(PLACE, 20, 40),)
    assert (excluded.what, "episode 327-1" in excluded.where) == ("segment", True)


def test_a_wrong_frame_rate_is_named(tmp_path):
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 40, 1)]})
    _, (excluded,) = listed(root, fps=25)
    assert "its 40 frames last 1.30 s, at 25 fps they would last 1.56 s; set source.fps" in excluded.reason


@pytest.mark.parametrize("layout", ["unpacked", "tar of a range"])
def test_row_i_is_frame_i_of_a_video_that_starts_late_or_unevenly(tmp_path, layout):
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 40, 1), Demo(2, 40, 2)]})
    clock = np.arange(40) / 30
    lerobot_dataset.write_timed(made.video_path(root, 327, 1), 1, 2 + clock)
    uneven = clock + 0.2 * np.sin(np.pi * np.arange(40) / 39) + 0.02 * np.arange(40) / 39
    lerobot_dataset.write_timed(made.video_path(root, 327, 2), 2, uneven)
    if layout != "unpacked":
        made.pack(root / "observations/327/1-2.tar", root / "observations/327")
    episodes, excluded = listed(root)
    assert not excluded
    for code, episode in enumerate(episodes.values(), 1):
        pictures = source(root).frames(episode, range(40))
        assert [lerobot_dataset.number(picture) for picture in pictures] == [(code, index) for index in range(40)]


def test_two_episodes_with_one_video_are_both_left_out(tmp_path):
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 20, 1), Demo(2, 20, 2), Demo(3, 20, 3)]})
    path = made.video_path(root, 327, 2)
    path.unlink()
    path.symlink_to(made.video_path(root, 327, 1))
    episodes, excluded = listed(root)
    assert list(episodes) == ["327-3"]
    assert [item.what for item in excluded] == ["episode 327-1", "episode 327-2"]
    assert "the video of episode 327-2 too" in excluded[0].reason


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, ["327-1", "327-2"]), ({"task_name": "x"}, ["327-2"]), ({"episode_id": "1"}, ["327-1", "327-2"])],
)
def test_an_episode_listed_twice_is_taken_once_or_where_its_facts_differ_not_at_all(tmp_path, change, kept):
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 20, 1), Demo(2, 20, 2)]})
    path = root / "task_info/task_327.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, entries[0] | change]))
    episodes, excluded = listed(root)
    assert list(episodes) == kept
    assert [item.what for item in excluded] == ["episode 327-1"] * (3 - len(kept))


@pytest.mark.parametrize("spell", [str, float, lambda number: [number]])
def test_numbers_of_labels_are_read_however_they_are_spelled(tmp_path, spell):
    actions = [action(RETRIEVE, spell(2), spell(20))]
    marks = [{"start": spell(10), "end": spell(12), "comment": "Failure recovery"}]
    root = made.write(tmp_path / "data", demos={327: [Demo(1, 40, 1, actions, marks)]})
    path = root / "task_info/task_327.json"
    path.write_text(path.read_text().replace('"episode_id": 1', f'"episode_id": {json.dumps(spell(1))}'))
    episodes, excluded = listed(root)
    assert not excluded
    assert episodes["327-1"].segments == (Segment(RETRIEVE, 2, 20),)
    states = source(root).states(episodes["327-1"])
    assert [frame for frame in range(2, 20) if states[frame]["progress"] is None] == [10, 11, 12]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, "..", "/"])
def test_a_hostile_member_of_an_archive_is_excluded(tmp_path, kind):
    root = made.write(tmp_path / "data", "tar of a range", {327: [Demo(1, 20, 1)]})
    (root / "task_info/task_327.json").write_text(json.dumps([Demo(1, 20, 1).entry(), Demo(5, 20, 5).entry()]))
    name = {"..": "../../5/videos/head_color.mp4", "/": "/5/videos/head_color.mp4"}.get(kind, "5/videos/head_color.mp4")
    with tarfile.open(root / "observations/327/2-9.tar", "w") as tar:
        if kind in ("..", "/"):
            made.add(tar, name, made.encoded(5, 20))
        else:
            made.add(tar, name, kind=kind, link="/etc/passwd")
    episodes, (member, episode) = listed(root)
    assert list(episodes) == ["327-1"]
    assert (member.what, member.where.endswith(f"2-9.tar!{name}")) == ("archive member", True)
    assert (episode.what, "no head_color.mp4" in episode.reason) == ("episode 327-5", True)


def test_a_truncated_archive_gives_its_whole_members(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range")
    path = root / "observations/327/648642-648649.tar"
    last = archive.index(path, (".mp4",)).members["648649/videos/head_color.mp4"]
    path.write_bytes(path.read_bytes()[: last.offset + last.size // 2])
    episodes, (tar, lost) = listed(root)
    assert list(episodes) == ["327-648642", "1030-700001"]
    assert (tar.what, tar.where, "truncated" in tar.reason) == ("archive", str(path), True)
    assert lost.what == "episode 327-648649"


def test_an_archive_that_is_none_or_a_link_out_is_excluded(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range")
    folder = root / "observations/327"
    (folder / "648642-648649.tar").rename(tmp_path / "outside.tar")
    (folder / "648642-648649.tar").symlink_to(tmp_path / "outside.tar")
    (folder / "a.tar").write_bytes(b"no tar" * 300)
    episodes, excluded = listed(root)
    assert list(episodes) == ["1030-700001"]
    assert "--local-dir" in excluded[0].reason
    assert "cannot be read as an uncompressed tar" in excluded[1].reason
    assert [item.what for item in excluded] == ["archive", "archive", "episode 327-648642", "episode 327-648649"]


def test_an_episode_in_two_archives_is_read_from_the_first(tmp_path):
    root = made.write(tmp_path / "data", "tar of a range", {327: [Demo(1, 20, 1)]})
    with tarfile.open(root / "observations/327/2-9.tar", "w") as tar:
        made.add(tar, "1/videos/head_color.mp4", made.encoded(7, 20))
    episodes, (excluded,) = listed(root)
    assert "a second video of episode 1; that of 1-1.tar is used" in excluded.reason
    (picture,) = source(root).frames(episodes["327-1"], [4])
    assert lerobot_dataset.number(picture) == (1, 4)


def test_listing_opens_an_archive_once_and_decodes_nothing(tmp_path, monkeypatch):
    root = made.write(tmp_path / "data", "tar of a range", {327: [Demo(n, 20, n) for n in range(1, 9)]})
    probed = []
    probe = room.probe
    monkeypatch.setattr(room, "probe", lambda video: probed.append(video) or probe(video))
    monkeypatch.setattr(room, "frames_at", lambda *more: pytest.fail("a picture was decoded"))
    archive._shared.cache_clear()
    episodes, excluded = listed(root)
    assert (len(episodes), excluded) == (8, [])
    assert len(probed) == len(set(probed)) == 8
    assert archive._shared.cache_info().misses == 1


def test_frames_that_are_not_there_are_refused(tmp_path):
    opened, episode = one(tmp_path / "data", Demo(1, 20, 1))
    for indices in ([20], [-1], [3, 3], [4, 2]):
        with pytest.raises(DataError, match=r"frames \[.*\] do not ascend from 0 to 19"):
            next(opened.frames(episode, indices))
    gone = Episode("agibot", "327-77", "x", 30.0, 20, (Segment("x", 0, 20),))
    with pytest.raises(DataError, match=r"no head_color\.mp4 of episode 327-77"):
        next(opened.frames(gone, [0]))
    with pytest.raises(DataError, match="has no episode '327-77'"):
        opened.states(gone)


def test_a_folder_without_task_info_is_named(tmp_path):
    with pytest.raises(DataError, match=r"not an AgiBot World dataset, task_info/task_<id>\.json is missing"):
        source(tmp_path)


# ---- through the builder ----

RECIPES = Path(__file__).parents[2] / "recipes/data"


def built(registry, recipe, root, **overrides):
    """Pairs and manifest of a build by `recipe` of the dataset in `root`."""
    from stcr_plugin.registry.build import build, load_data_config
    from stcr_plugin.registry.manifest import read_pairs

    overrides = {"source.root": root, "splits.heldout.fraction": 0.5, "splits.train.fraction": 0.5, **overrides}
    config = load_data_config(RECIPES / recipe, [f"{key}={value}" for key, value in overrides.items()])
    manifest = json.loads(build(config, registry).read_text())
    return [pair for split in config.splits for pair in read_pairs(registry, config.name, split)], manifest


def long_episodes(root, layout="tar of a range"):
    """A Retrieve and a Place, both long enough to lose their tail by the authors' rules, and an unusable segment."""
    texts = {1: action(RETRIEVE, 3, 199), 2: action(PLACE, 50, 240)}
    marker = action("Look at <image> now", 0, 240)
    return made.write(root, layout, {327: [Demo(number, 240, number, (texts[number], marker)) for number in texts]})


def test_the_authors_recipe_draws_by_their_rules(tmp_path):
    root = long_episodes(tmp_path / "data")
    pairs, manifest = built(tmp_path / "one", "agibot_authors.yaml", root, **{"pairs.per_episode": 500})
    found = {RETRIEVE: set(), PLACE: set()}
    for pair in pairs:
        found[pair.task].add((pair.earlier, pair.later))
    # Of one frame in ten, Retrieve is 1..18 and keeps its tail; Place is 5..23 and loses 17 and later.
    for task, frames in {RETRIEVE: range(1, 19), PLACE: range(5, 17)}.items():
        assert found[task] == {
            (10 * first, 10 * second) for first in frames for second in frames if 5 <= second - first <= 14
        }
    assert len(pairs) == len(found[RETRIEVE]) + len(found[PLACE])
    assert "the task text holds a media or chat marker" in json.dumps(manifest["excluded"])


def test_a_dataset_gives_the_same_pairs_and_pictures_however_it_is_laid_out(tmp_path):
    from PIL import Image

    held = {}
    for layout in ("tar of a range", "unpacked"):
        root, registry = long_episodes(tmp_path / layout / "data", layout), tmp_path / layout / "registry"
        pairs, _ = built(registry, "agibot_authors.yaml", root, **{"pairs.per_episode": 4})
        held[layout] = [
            (pair.pair_id, (registry / pair.earlier_image).read_bytes(), (registry / pair.later_image).read_bytes())
            for pair in pairs
        ]
        assert len(pairs) == 8
        for pair in pairs:
            for frame, name in ((pair.earlier, pair.earlier_image), (pair.later, pair.later_image)):
                code = int(pair.episode_id.partition("-")[2])
                assert lerobot_dataset.number(np.asarray(Image.open(registry / name))) == (code, frame)
    assert held["tar of a range"] == held["unpacked"]


def test_our_recipe_trims_idle_ends_and_drops_failures(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed; pip install 'stcr-plugin[agibot]'")
    marks = [{"start": 150, "end": 170, "comment": "Failure recovery"}]
    demos = [Demo(n, 240, n, (action(PLACE, 0, 240),), marks) for n in (1, 2)]
    root = made.write(tmp_path / "data", demos={327: demos})
    for demo in demos:
        made.write_readings(root / f"proprio_stats/327/{demo.number}/proprio_stats.h5", made.readings(240))
    pairs, _ = built(tmp_path / "one", "agibot.yaml", root, **{"pairs.per_episode": 60})
    shown = {frame for pair in pairs for frame in (pair.earlier, pair.later)}
    assert min(shown) >= 115  # the robot stands still for the first half
    assert not shown & set(range(150, 171))
    assert shown & set(range(120, 150))
    assert shown & set(range(171, 240))
    assert {pair.closer for pair in pairs} == {"later"}


def test_an_episode_without_readings_is_excluded_by_the_builder(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed; pip install 'stcr-plugin[agibot]'")
    root = made.write(tmp_path / "data", demos={327: [Demo(n, 120, n) for n in (1, 2, 3)]})
    for number in (1, 2):
        made.write_readings(root / f"proprio_stats/327/{number}/proprio_stats.h5", made.readings(120))
    splits = {"splits.train.fraction": 0.6, "splits.heldout.fraction": 0.4}
    pairs, manifest = built(tmp_path / "one", "agibot.yaml", root, **splits)
    assert {pair.episode_id for pair in pairs} == {"327-1", "327-2"}
    assert "no proprio_stats.h5 of episode 327-3" in json.dumps(manifest["excluded"])


# ---- stages ----


def test_with_stages_an_episode_is_one_segment_whose_frames_have_the_actions_texts(tmp_path):
    root = made.write(tmp_path / "data")
    opened = source(root, tasks=[327], stages=StageClaims())
    episodes, excluded = listed(root, tasks=[327], stages=StageClaims())
    assert excluded == []
    assert [episode.segments for episode in episodes.values()] == [
        (Segment(made.TASK_NAME, 0, 40),),
        (Segment(made.TASK_NAME, 0, 30),),
    ]
    states = opened.states(episodes["327-648642"])
    assert [state["stage"] for state in states] == [None] * 2 + [RETRIEVE[:-1]] * 18 + [PLACE[:-1]] * 20
    assert all(state["progress"] is not None for state in states)
    assert opened.claims(states[1]) == ()
    assert opened.claims(states[30]) == (Claim("stage", PLACE[:-1]),)
    assert opened.holds(Claim("stage", PLACE[:-1]), states[30])
    assert not opened.holds(Claim("stage", PLACE[:-1]), states[3])


def test_without_stages_nothing_is_said_of_a_frame(tmp_path):
    root = made.write(tmp_path / "data")
    opened = source(root)
    episodes, _ = listed(root)
    assert opened.claims(opened.states(episodes["327-648642"])[5]) == ()
    assert "stage" not in opened.states(episodes["327-648642"])[5]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (action("x", 30, 99), "a stage is frames [30, 99) of an episode of 40"),
        (action("x", 9, 3), "a stage starts at frame 9 and ends before frame 3, so it has no frame"),
        (action("x", 10, 40), "overlap in frames [10, 20)"),
        (action("", 30, 40), "a stage has no text"),
        (action("x", 30, 40) | {"action_text": 7}, "is not text"),
        ("Place it.", "a stage is 'Place it.', not a mapping"),
    ],
)
def test_a_bad_action_is_counted_as_a_stage_and_the_episode_stays_whole(tmp_path, wrong, reason):
    demo = Demo(648642, 40, 1, (action(RETRIEVE, 2, 20), wrong))
    root = made.write(tmp_path / "data", demos={327: (demo,)})
    episodes, (excluded, *_) = listed(root, stages=StageClaims())
    (episode,) = episodes.values()
    assert episode.segments == (Segment(made.TASK_NAME, 0, 40),)
    assert excluded.what == "stage"
    assert reason in excluded.reason


def test_of_a_build_without_stages_nothing_true_is_made_up(tmp_path):
    from stcr_plugin.evaluation.descriptions import true
    from stcr_plugin.types import Query

    root = long_episodes(tmp_path / "data")
    (pair, *_), _ = built(tmp_path / "one", "agibot_authors.yaml", root, **{"pairs.per_episode": 4})
    with pytest.raises(DataError, match="states nothing about the frames"):
        true(tmp_path / "one", "agibot_authors", [Query(pair, "forward")], "en")


def test_a_build_describes_frames_by_their_stage_and_counts_equal_texts(tmp_path):
    from stcr_plugin.registry.check import check

    actions = (action(RETRIEVE, 0, 60), action(PLACE, 60, 110))
    root = made.write(tmp_path / "data", demos={327: [Demo(n, 120, n, actions) for n in (1, 2)]})
    (tmp_path / "one").mkdir()
    overrides = {
        "source.motion": "none",
        "source.stages": "{say: [stage, stage_of]}",
        "pairs.trim_idle": "null",
        "pairs.min_seconds": 1,
        "pairs.within_phase": 0.25,
        "datasets": "{cot: {split: train, kind: cot}, weak: {split: train, kind: weak}}",
    }
    _, manifest = built(tmp_path / "one", "agibot.yaml", root, **overrides)
    assert check("agibot", tmp_path / "one").ok
    rows = json.loads((tmp_path / "one/agibot/agibot_cot.json").read_text())
    told = f"img1: doing “{RETRIEVE[:-1]}”; stage 1/2. img2: doing “{PLACE[:-1]}”; stage 2/2."
    assert any(told in row["messages"][1]["content"] for row in rows)
    figures = manifest["counts"]["datasets"]
    assert 0 < figures["agibot_cot"]["same_text"] < figures["agibot_cot"]["pairs"]
    assert "same_text" not in figures["agibot_weak"]
    assert figures["agibot_weak"]["pairs"] >= figures["agibot_cot"]["pairs"]
