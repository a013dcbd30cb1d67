from __future__ import annotations

import json
import os
from pathlib import Path

import av
import lerobot_dataset as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stcr_plugin.config import from_mapping, read_yaml
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.episodes.proprioception import UNSEEN, Hand, Proprioception
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("STCR_REAL_DATA", REPOSITORY.parent / "shared/real")) / "g1_pick_bottle"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not at {REAL} (set STCR_REAL_DATA)")

PARTS = Proprioception(
    arms={"left": ("kLeftElbow", "kLeftWrist"), "right": (2, 3)},
    hands={"right": Hand(dims=("kRightGripper",), open=100.0)},
)
WRITERS = {"v2.1": made.write_v21, "v3.0": made.write_v30}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def dataset(request, tmp_path_factory):
    return WRITERS[request.param](tmp_path_factory.mktemp("dataset") / "set", made.Layout())


def open_set(root, **settings):
    return LeRobotSource(from_mapping(LeRobotConfig, {"root": str(root), **settings}, "test"))


def split(source):
    found = list(source.episodes())
    return [e for e in found if isinstance(e, Episode)], [e for e in found if isinstance(e, Exclusion)]


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# Reading


def test_episodes_carry_the_meta_data(dataset):
    episodes, excluded = split(open_set(dataset))
    assert excluded == []
    assert [(e.episode_id, e.n_frames, e.fps, e.task) for e in episodes] == [
        ("000000", 30, 10.0, made.TASK),
        ("000001", 41, 10.0, made.TASK),
        ("000002", 24, 10.0, made.TASK),
    ]
    assert episodes[1].segments == (Segment(made.TASK, 0, 41),)


def test_every_frame_is_the_requested_one(dataset):
    source = open_set(dataset)
    for number, episode in enumerate(split(source)[0]):
        pictures = list(source.frames(episode, range(episode.n_frames)))
        assert [made.number(picture) for picture in pictures] == [(number, i) for i in range(episode.n_frames)]
        for index in range(episode.n_frames):
            (picture,) = source.frames(episode, [index])
            assert picture.dtype == np.uint8
            np.testing.assert_array_equal(picture, pictures[index])


@pytest.mark.parametrize("codec", ["h264 open", "h264 short", "av1"])
def test_episodes_that_share_a_file_do_not_mix(tmp_path, codec):
    source = open_set(made.write_v30(tmp_path / "set", made.Layout(codec=codec), per_file=3))
    for number, episode in enumerate(split(source)[0]):
        for indices in ([0], [episode.n_frames - 1], [0, 7, 8, 20, episode.n_frames - 1]):
            assert [made.number(picture) for picture in source.frames(episode, indices)] == [
                (number, index) for index in indices
            ]


def test_a_fresh_source_serves_the_frames_of_an_episode_from_before(dataset):
    episode = split(open_set(dataset))[0][2]
    assert made.number(next(open_set(dataset).frames(episode, [5]))) == (2, 5)


@pytest.mark.parametrize("indices", [[3, 3], [4, 2], [-1, 2], [10, 30]])
def test_indices_must_ascend_inside_the_episode(dataset, indices):
    source = open_set(dataset)
    with pytest.raises(DataError, match="episode 000000: frames"):
        list(source.frames(split(source)[0][0], indices))


def test_no_indices_give_no_picture(dataset):
    source = open_set(dataset)
    assert list(source.frames(split(source)[0][0], [])) == []


def test_an_unknown_camera_names_the_nearest(dataset):
    with pytest.raises(ConfigError, match=r"did you mean 'observation\.images\.head'"):
        open_set(dataset, camera="observation.image.head")


def test_paths_come_from_the_templates_of_info(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    (root / "videos").rename(root / "films")
    edit_json(root / "meta/info.json", lambda info: info.update(video_path="films" + info["video_path"][6:]))
    assert len(split(open_set(root))[0]) == 2


# Segments and tasks


def test_action_config_gives_segments(tmp_path):
    actions = [
        {"start_frame": 0, "end_frame": 12, "action_text": "grasp the cup", "skill": "Pick"},
        {"start_frame": 12, "end_frame": 30, "action_text": "place the cup", "skill": "Place"},
    ]
    root = made.write_v21(tmp_path / "set", made.Layout(), {0: {"action_config": actions}})
    episodes, _ = split(open_set(root))
    assert episodes[0].segments == (Segment("grasp the cup", 0, 12), Segment("place the cup", 12, 30))
    assert episodes[1].segments == (Segment(made.TASK, 0, 41),)


def test_a_segment_outside_its_episode_excludes_it(tmp_path):
    bad = {"action_config": [{"start_frame": 5, "end_frame": 31, "action_text": "grasp"}]}
    episodes, excluded = split(open_set(made.write_v21(tmp_path / "set", made.Layout(), {0: bad})))
    assert [e.episode_id for e in episodes] == ["000001", "000002"]
    assert excluded[0].what == "episode 0"
    assert "'grasp' is frames [5, 31) of an episode of 30" in excluded[0].reason


def test_subtasks_give_segments_and_frames_without_one_are_left_out(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(24, 24), subtasks=("reach", "lift")))
    episodes, _ = split(open_set(root))
    assert episodes[1].segments == (Segment("reach", 0, 10), Segment("lift", 10, 20))


@pytest.mark.parametrize("nothing", [None, float("nan"), -1])
def test_frames_without_a_subtask_are_left_out_however_that_is_written(tmp_path, nothing):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(24, 24), subtasks=("reach", "lift")))
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("subtask_index")
    indices = [nothing if index < 0 else index for index in table["subtask_index"].to_pylist()]
    kind = pa.float64() if isinstance(nothing, float) else pa.int64()
    pq.write_table(table.set_column(place, "subtask_index", pa.array(indices, kind)), path)
    episodes, excluded = split(open_set(root))
    assert not excluded
    assert [e.segments for e in episodes] == [(Segment("reach", 0, 10), Segment("lift", 10, 20))] * 2


def test_an_episode_without_any_subtask_is_one_segment(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(24, 24), subtasks=("reach", "lift")))
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    empty = pa.nulls(table.num_rows, pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("subtask_index"), "subtask_index", empty), path)
    assert [e.segments for e in split(open_set(root))[0]] == [(Segment(made.TASK, 0, 24),)] * 2


def test_the_task_comes_from_the_rows_where_the_episode_names_none(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(), {1: {"tasks": []}})
    assert split(open_set(root))[0][1].task == made.TASK


# Damage and partial downloads


def test_what_is_not_on_disk_is_excluded_by_name(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout())
    video = root / f"videos/chunk-000/{made.CAMERA}/episode_000000.mp4"
    rows = root / "data/chunk-001/episode_000002.parquet"
    video.unlink()
    rows.unlink()
    episodes, excluded = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000001"]
    assert [(e.what, e.where) for e in excluded] == [("episode 0", str(video)), ("episode 2", str(rows))]
    assert all("download it" in e.reason for e in excluded)


def test_a_missing_shared_file_excludes_each_of_its_episodes(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout())
    (root / f"videos/{made.CAMERA}/chunk-000/file-000.mp4").unlink()
    episodes, excluded = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000002"]
    assert [e.what for e in excluded] == ["episode 0", "episode 1"]


def test_a_dataset_without_any_video_says_where_they_belong(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    for video in root.rglob("*.mp4"):
        video.unlink()
    with pytest.raises(DataError, match=r"none of the 2 listed episodes has a video.*episode_000000\.mp4"):
        list(open_set(root).episodes())


@pytest.mark.parametrize("keep", [0, 300])
def test_an_unreadable_video_is_excluded(tmp_path, keep):
    root = made.write_v21(tmp_path / "set", made.Layout())
    video = root / f"videos/chunk-000/{made.CAMERA}/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:keep])
    episodes, excluded = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000000", "000002"]
    assert [e.where for e in excluded] == [str(video)]


def test_a_video_without_a_frame_is_excluded(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout())
    video = root / f"videos/chunk-000/{made.CAMERA}/episode_000001.mp4"
    made.write_frameless(video)
    episodes, (excluded,) = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000000", "000002"]
    assert (excluded.where, excluded.reason) == (str(video), "a video without a frame; download it again")


def test_a_video_cut_after_episodes_were_listed_names_episode_and_frame(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(codec="h264 short"))
    source = open_set(root)
    episode = split(source)[0][1]
    video = root / f"videos/chunk-000/{made.CAMERA}/episode_000001.mp4"
    made.write_video(video, [(1, 20)], "h264 short", 10)
    pictures = source.frames(episode, [3, 19, 20])
    assert [made.number(next(pictures)) for _ in range(2)] == [(1, 3), (1, 19)]
    with pytest.raises(DataError, match=r"episode 1, frame 20: .*episode_000001\.mp4: no frame at 2\.000 s"):
        next(pictures)


@pytest.mark.parametrize(("frames", "message"), [(29, "29 frames for 30 rows"), (33, "33 frames for 30 rows")])
def test_a_video_of_another_length_than_the_rows_is_excluded(tmp_path, frames, message):
    root = made.write_v21(tmp_path / "set", made.Layout())
    made.write_video(root / f"videos/chunk-000/{made.CAMERA}/episode_000000.mp4", [(0, frames)], "h264 long", 10)
    _, excluded = split(open_set(root))
    assert [e.what for e in excluded] == ["episode 0"]
    assert message in excluded[0].reason


def test_a_shared_video_too_short_for_its_last_episode_excludes_that_one(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout())
    made.write_video(root / f"videos/{made.CAMERA}/chunk-000/file-000.mp4", [(0, 30), (1, 20)], "h264 long", 10)
    episodes, excluded = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000000", "000002"]
    assert "its last frame is at 4.90 s, the episode's at 7.00 s" in excluded[0].reason


def test_rows_that_differ_from_the_meta_data_are_excluded(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(), {0: {"length": 31}})
    _, excluded = split(open_set(root))
    assert "30 rows, but the meta data say 31 frames" in excluded[0].reason


def test_an_episode_of_one_frame_is_excluded(tmp_path):
    episodes, excluded = split(open_set(made.write_v21(tmp_path / "set", made.Layout(lengths=(20, 1)))))
    assert [e.episode_id for e in episodes] == ["000000"]
    assert "a pair needs two" in excluded[0].reason


def test_a_damaged_parquet_is_excluded(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout())
    rows = root / "data/chunk-000/episode_000001.parquet"
    rows.write_bytes(rows.read_bytes()[:100])
    _, excluded = split(open_set(root))
    assert excluded[0].where == str(rows)
    assert "cannot be read as parquet" in excluded[0].reason


@pytest.mark.parametrize(
    ("line", "what", "message"),
    [
        ("{not json", "an entry of the episodes", "not readable as JSON"),
        ('{"episode_index": 3, "length": 2', "an entry of the episodes", "not readable as JSON"),  # cut
        ("7", "an entry of the episodes", "expected a mapping"),
        ('{"tasks": []}', "an entry of the episodes", "its episode_index is empty"),
        ('{"episode_index": 3}', "episode 3", "its length is empty"),
        ('{"episode_index": 3, "length": -1}', "episode 3", "its length -1 is below 0"),
        ('{"episode_index": 3, "length": 12.5}', "episode 3", "its length 12.5 is not a whole number"),
        ('{"episode_index": 3, "length": 1e400}', "episode 3", "its length inf is not a number"),
        ('{"episode_index": 3, "length": true}', "episode 3", "its length True is not a number"),
        ('{"episode_index": 1, "length": 41}', "episode 1", "listed twice with the same facts; it is taken once"),
        ('{"episode_index": [1], "length": "41"}', "episode 1", "listed twice with the same facts; it is taken once"),
    ],
)
def test_a_bad_line_of_the_meta_data_refuses_itself_alone(tmp_path, line, what, message):
    root = made.write_v21(tmp_path / "set", made.Layout())
    with open(root / "meta/episodes.jsonl", "a") as file:
        file.write(line + "\n")
    episodes, (excluded,) = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000000", "000001", "000002"]
    assert (excluded.what, excluded.where) == (what, f"{root}/meta/episodes.jsonl, row 4")
    assert message in excluded.reason


def test_an_episode_listed_twice_with_different_facts_is_not_used(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout())
    with open(root / "meta/episodes.jsonl", "a") as file:
        file.write('{"episode_index": 1, "length": 40}\n')
    episodes, excluded = split(open_set(root))
    assert [e.episode_id for e in episodes] == ["000000", "000002"]
    assert [(e.what, e.where[-5:], e.reason) for e in excluded] == [
        ("episode 1", row, "listed twice with different facts; keep the right entry") for row in ("row 2", "row 4")
    ]


def test_a_template_that_leaves_the_root_is_refused(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    edit_json(root / "meta/info.json", lambda info: info.update(video_path="../../{video_key}_{episode_index}.mp4"))
    with pytest.raises(DataError, match="leaves its folder"):
        list(open_set(root).episodes())


def test_a_snapshot_of_the_hugging_face_cache_says_how_to_download_real_files(tmp_path):
    """Its files are links to ../../blobs, outside the snapshot's folder."""
    real = made.write_v21(tmp_path / "blobs", made.Layout(lengths=(12, 12)))
    snapshot = tmp_path / "snapshots" / "main"
    for path in (path for path in real.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    with pytest.raises(DataError, match=r"leaves its folder .*--local-dir FOLDER"):
        list(open_set(snapshot).episodes())


@pytest.mark.parametrize("template", ["videos/{episode_name}.mp4", "videos/{episode_index.real}.mp4", "videos/{.mp4"])
def test_a_template_that_cannot_be_filled_in_is_named(tmp_path, template):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    edit_json(root / "meta/info.json", lambda info: info.update(video_path=template))
    with pytest.raises(DataError, match=r"info\.json: the template video_path"):
        list(open_set(root).episodes())


@pytest.mark.parametrize("change", [{"codebase_version": "v1.6"}, {"fps": 0}, {"fps": None}, {"features": {}}])
def test_an_info_that_cannot_be_used_is_named(tmp_path, change):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    edit_json(root / "meta/info.json", lambda info: info.update(change))
    with pytest.raises(DataError, match=r"info\.json"):
        open_set(root)


def test_a_folder_that_is_not_a_dataset_is_named(tmp_path):
    with pytest.raises(DataError, match="not a LeRobot dataset"):
        open_set(tmp_path)


# States and claims


def test_motion_is_found_without_any_configuration(dataset):
    source = open_set(dataset)
    states = source.states(split(source)[0][1])
    motion = np.array([state["motion"] for state in states])
    assert len(motion) == 41
    assert motion.max() == 1.0
    assert motion[:6].max() == 0.0  # the arm rests for a fifth at either end
    assert motion[-6:].max() == 0.0
    assert motion[9:31].min() > 0.0
    assert source.claims(states[0]) == ()


def test_a_dataset_without_a_state_vector_has_no_states(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    edit_json(root / "meta/info.json", lambda info: info["features"].pop("observation.state"))
    source = open_set(root)
    assert source.states(split(source)[0][0]) is None


def test_a_state_value_that_is_not_a_number_names_its_frame(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12)))
    path = root / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    values = made.vectors(12)
    values[7, 2] = np.nan
    column = pa.array(values.astype(np.float32).tolist(), pa.list_(pa.float32()))
    pq.write_table(table.set_column(0, "observation.state", column), path)
    source = open_set(root)
    with pytest.raises(DataError, match="episode 1, frame 7"):
        source.states(split(source)[0][1])


@pytest.fixture(scope="module")
def source_with_parts(tmp_path_factory):
    root = made.write_v21(tmp_path_factory.mktemp("parts") / "set", made.Layout(lengths=(101,)))
    return LeRobotSource(LeRobotConfig(str(root), proprioception=PARTS))


@pytest.fixture(scope="module")
def states(source_with_parts):
    return source_with_parts.states(split(source_with_parts)[0][0])


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (5, [("moving", "none"), ("hand:right", "open"), ("motion_done", 0)]),
        (32, [("moving", "right"), ("hand:right", "open"), ("motion_done", 20)]),
        (50, [("moving", "right"), ("hand:right", "closed"), ("motion_done", 50)]),
        (78, [("moving", "right"), ("hand:right", "open"), ("motion_done", 100)]),
        (100, [("moving", "none"), ("hand:right", "open"), ("motion_done", 100)]),
    ],
)
def test_claims_say_what_the_robot_does(source_with_parts, states, frame, expected):
    assert [(claim.name, claim.value) for claim in source_with_parts.claims(states[frame])] == expected


def test_the_exact_numbers_are_in_the_state(states):
    assert states[50]["motion_done"] == pytest.approx(0.5, abs=0.02)
    assert states[50]["openness:right"] == 0.0
    assert states[50]["speed:right"] == pytest.approx(2 / 6.0, abs=0.01)  # 2 rad in 6 s
    assert states[50]["speed:left"] == 0.0


def test_every_claim_holds_for_its_own_frame(source_with_parts, states):
    claims = [(claim, state) for state in states for claim in source_with_parts.claims(state)]
    assert len(claims) == 3 * 101
    assert all(source_with_parts.holds(claim, state) for claim, state in claims)


@pytest.mark.parametrize(
    "claim",
    [
        Claim("moving", "none"),
        Claim("moving", "left"),
        Claim("moving", "left and right"),
        Claim("moving", "tail"),
        Claim("hand:right", "open"),
        Claim("hand:right", "half closed"),
        Claim("hand:right", "shut"),
        Claim("hand:left", "closed"),
        Claim("motion_done", 40),
        Claim("motion_done", "50"),
        Claim("phase", "grasp"),
    ],
)
def test_a_false_claim_does_not_hold(source_with_parts, states, claim):
    assert source_with_parts.holds(Claim("hand:right", "closed"), states[50])
    assert not source_with_parts.holds(claim, states[50])


@pytest.mark.parametrize(("opening", "word"), [(1.0, "open"), (0.6, "open"), (0.5, "half closed"), (0.4, "closed")])
def test_a_hand_is_said_by_its_borders(source_with_parts, states, opening, word):
    state = {**states[50], "openness:right": opening}
    assert Claim("hand:right", word) in source_with_parts.claims(state)


def test_say_chooses_claims_and_their_order(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(30,)))
    parts = {"arms": {"right": [2, 3]}, "hands": {"right": {"dims": [4], "open": 100}}}
    source = open_set(root, proprioception={**parts, "say": ["motion_done", "hand:right"]})
    state = source.states(split(source)[0][0])[0]
    assert [claim.name for claim in source.claims(state)] == ["motion_done", "hand:right"]


def test_a_hand_that_the_picture_does_not_show_is_said_to_be_out_of_view(tmp_path):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(30,)))
    parts = {"arms": {}, "hands": {"right": {"dims": [4], "open": 100, "hidden": {"000000": [[0, 2], [28, 30]]}}}}
    source = open_set(root, proprioception=parts)
    states = source.states(split(source)[0][0])
    said = [source.claims(state)[0].value for state in states]
    assert [frame for frame, value in enumerate(said) if value == UNSEEN] == [0, 1, 28, 29]
    assert all(source.holds(claim, state) for state in states for claim in source.claims(state))
    assert not source.holds(Claim("hand:right", "open"), states[0])
    assert not source.holds(Claim("hand:right", UNSEEN), states[2])


def test_a_task_text_that_the_recordings_contradict_is_replaced(dataset):
    recorded = [episode.task for episode in split(open_set(dataset))[0]]
    source = open_set(dataset, tasks={recorded[0]: "what is really done"})
    wanted = ["what is really done" if task == recorded[0] else task for task in recorded]
    assert [episode.task for episode in split(source)[0]] == wanted


def test_an_episode_that_shows_another_task_has_a_text_of_its_own(dataset):
    recorded = {episode.episode_id: episode.task for episode in split(open_set(dataset))[0]}
    other = next(iter(recorded))
    source = open_set(dataset, tasks={recorded[other]: "for all"}, episode_tasks={other: "bring it back"})
    found = {episode.episode_id: episode.task for episode in split(source)[0]}
    assert found.pop(other) == "bring it back"
    del recorded[other]
    assert "bring it back" not in found.values()
    assert found.keys() == recorded.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episode_tasks": {"7x": "x"}}, r"source\.episode_tasks: '7x' is not in the dataset"),
        ({"episode_tasks": {"0": " "}}, "empty text"),
        ({"tasks": {"pick up the bottel": "x"}}, r"source\.tasks: 'pick up the bottel' is not in the dataset"),
        ({"tasks": {"any": " "}}, "empty text"),
        (
            {"proprioception": {"arms": {}, "hands": {"right": {"dims": [4], "open": 9, "hidden": {"7x": [[0, 1]]}}}}},
            r"source\.proprioception\.hands\.right\.hidden: '7x' is not in the dataset",
        ),
        (
            {"proprioception": {"arms": {}, "hands": {"right": {"dims": [4], "open": 9, "hidden": {"0": [[3, 3]]}}}}},
            r"each range is \[first frame, last frame \+ 1\]",
        ),
    ],
)
def test_names_that_are_not_in_the_dataset_are_refused(dataset, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_set(dataset, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"right": ["kRightElbw"]}}, "did you mean 'kRightElbow'"),
        ({"arms": {"right": [5]}}, "index 5 is outside the state vector of 5 values"),
        ({"say": ["hand:left"]}, "did you mean 'hand:right'"),
        ({"hands": {"right": {"dims": [4], "open": 1.0, "closed": 1.0}}}, "must differ"),
        ({"hands": {"right": {"dims": [4], "open": [1.0, 2.0]}}}, "2 numbers for 1 dims"),
        ({"arms": {"a:b": [1]}}, "one word"),
        ({"closed_to": 0.7}, "closed_to < open_from"),
    ],
)
def test_a_wrong_part_is_refused_with_the_reason(dataset, change, message):
    parts = {"arms": {"right": [2, 3]}, "hands": {"right": {"dims": [4], "open": 100}}, **change}
    with pytest.raises(ConfigError, match=message):
        open_set(dataset, proprioception=parts)


@pytest.mark.parametrize(
    "names", [made.NAMES, [made.NAMES], {"motors": made.NAMES}, {name: index for index, name in enumerate(made.NAMES)}]
)
def test_names_of_the_vector_may_be_nested(tmp_path, names):
    root = made.write_v21(tmp_path / "set", made.Layout(lengths=(30,), names=names))
    source = LeRobotSource(LeRobotConfig(str(root), proprioception=PARTS))
    assert "openness:right" in source.states(split(source)[0][0])[0]


def test_every_claim_can_be_said_in_words_that_no_other_has():
    listed = read_yaml(REPOSITORY / "stcr_plugin/samples/prompts/claims_lerobot.yaml")
    arms, hands = ("left", "right", "left and right", "none"), ("open", "half closed", "closed", UNSEEN)
    claims = [("moving", "", value) for value in arms]
    claims += [("hand", part, value) for part in ("left", "right") for value in hands]
    claims += [("motion_done", "", str(value)) for value in range(0, 101, 10)]
    for language, phrases in listed.items():
        words = phrases.get("words", {})
        texts = [
            phrases["claims"][family].format(part=words.get(part, part), value=words.get(value, value))
            for family, part, value in claims
        ]
        assert len(set(texts)) == len(claims), language
        assert not any(phrases["separator"].strip() in text for text in texts), language


# Real data: a Unitree G1 that moves a bottle


def real_source(**settings):
    hand = {"dims": ["kRightHandPinky", "kRightHandRing", "kRightHandMiddle", "kRightHandIndex"]}
    hand |= {"open": 0.85, "closed": 0.5}
    parts = {"arms": {"left": [*range(7)], "right": [*range(7, 14)]}, "hands": {"right": hand}}
    return open_set(REAL, proprioception=parts, **settings)


@needs_real
def test_real_partial_download_lists_every_episode():
    episodes, excluded = split(real_source())
    listed = len((REAL / "meta/episodes.jsonl").read_text().splitlines())
    assert len(episodes) == len(list(REAL.rglob("*.mp4")))
    assert len(episodes) + len(excluded) == listed
    assert {e.reason for e in excluded} == {"no such video file; download it"}


@needs_real
@pytest.mark.parametrize("number", [0, 11, 23])
def test_real_frames_equal_the_sequential_decode(number):
    source = real_source()
    episode = split(source)[0][number]
    (video,) = REAL.rglob(f"episode_{episode.episode_id}.mp4")
    wanted = [0, 1, 50, 51, 52, 133, episode.n_frames - 1]
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        decoded = enumerate(container.decode(video=0))
        expected = [frame.to_ndarray(format="rgb24") for index, frame in decoded if index in wanted]
    got = list(source.frames(episode, wanted))
    assert all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


@needs_real
def test_real_right_arm_does_the_work_and_every_claim_holds():
    source = real_source()
    for episode in split(source)[0]:
        states = source.states(episode)
        assert len(states) == episode.n_frames
        speeds = {arm: sum(state[f"speed:{arm}"] for state in states) for arm in ("left", "right")}
        assert speeds["right"] > 3 * speeds["left"]
        done = [state["motion_done"] for state in states]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0.0, 1.0)
        assert all(source.holds(claim, state) for state in states for claim in source.claims(state))
