"""Which camera of a LeRobot dataset is used, and cameras that are stored as single pictures."""

from __future__ import annotations

import json

import lerobot_dataset as made
import pytest

from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode

HEAD = made.CAMERA
COLOUR = {"dtype": "video", "shape": [64, 96, 3], "info": {"video.pix_fmt": "yuv420p", "video.is_depth_map": False}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made.write_v21(tmp_path_factory.mktemp("base") / "set", made.Layout(lengths=(12,)))


def cameras(base, tmp_path, others, camera=None):
    """The source of a dataset whose `others`, name -> entry of info.json, come before the colour camera."""
    made.shutil.copytree(base, tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"] = {**others, **info["features"]}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    return LeRobotSource(LeRobotConfig(str(tmp_path / "set"), camera=camera))


NOT_COLOUR = {
    "marked": ("observation.images.aa", COLOUR | {"info": {"video.is_depth_map": True}}, "a depth map"),
    "marked as v3 does": ("observation.images.aa", COLOUR | {"info": {"is_depth_map": [True]}}, "a depth map"),
    "marked in v2.0": ("observation.images.aa", COLOUR | {"video_info": {"video.is_depth_map": "true"}}, "a depth map"),
    "12 bits of grey": ("observation.images.aa", COLOUR | {"info": {"video.pix_fmt": "gray12le"}}, "a depth map"),
    "named": ("observation.images.head_depth", COLOUR, "a depth map"),
    "named with a number": ("observation.depth0.image", COLOUR, "a depth map"),
    "in camel case": ("observation.images.headDepth", COLOUR, "a depth map"),
    "masks": ("observation.images.head_mask", COLOUR, "masks"),
    "segmentation": ("observation.segmentation.head", COLOUR, "masks"),
    "one channel": ("observation.images.aa", COLOUR | {"shape": [64, 96, 1]}, ""),
    "one channel first": ("observation.images.aa", COLOUR | {"shape": [1, 64, 96]}, ""),
    "grey": ("observation.images.aa", COLOUR | {"info": {"video.pix_fmt": "gray"}}, ""),
    "touch": ("observation.images.tactile_left", COLOUR, ""),
    "infrared": ("observation.images.infra1", COLOUR, ""),
    "heat": ("observation.images.headThermal", COLOUR, ""),
    "one channel by its info": ("observation.images.aa", COLOUR | {"info": {"video.channels": 1}}, ""),
}


@pytest.mark.parametrize("case", NOT_COLOUR)
def test_the_first_camera_that_shows_colour_is_used(base, tmp_path, case):
    name, entry, _ = NOT_COLOUR[case]
    source = cameras(base, tmp_path, {name: entry})
    assert source.camera == HEAD
    (episode,) = source.episodes()
    assert made.number(next(source.frames(episode, [7]))) == (0, 7)


@pytest.mark.parametrize("case", NOT_COLOUR)
def test_depth_and_masks_are_refused_by_name_and_grey_pictures_are_not(base, tmp_path, case):
    name, entry, reason = NOT_COLOUR[case]
    if not reason:
        assert cameras(base, tmp_path, {name: entry}, name).camera == name
        return
    with pytest.raises(ConfigError) as caught:
        cameras(base, tmp_path, {name: entry}, name)
    assert f"the camera {name!r} is {reason}" in str(caught.value)
    assert f"choose one of: {HEAD}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("observation.images.depth_cam", "rename it in info.json"),
        ("observation.images.ir", "source.camera, such as"),
    ],
)
def test_a_dataset_without_another_camera_says_what_can_be_done(base, tmp_path, name, remedy):
    made.shutil.copytree(base, tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"][name] = info["features"].pop(HEAD)
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=f"no camera shows colour: {name} is .*; .*{remedy}"):
        LeRobotSource(LeRobotConfig(str(tmp_path / "set")))


@pytest.mark.parametrize(
    "name", ["observation.images.depthai_left", "observation.images.depth_cam_rgb", "observation.images.unmasked"]
)
def test_a_colour_camera_with_such_a_word_in_its_name_is_one(base, tmp_path, name):
    assert cameras(base, tmp_path, {name: COLOUR}).camera == name


def test_a_dataset_of_depth_alone_says_what_its_cameras_are(base, tmp_path):
    made.shutil.copytree(base, tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"][HEAD]["info"] = {"is_depth_map": True}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=rf"no camera shows colour: {HEAD} is a depth map"):
        LeRobotSource(LeRobotConfig(str(tmp_path / "set")))


def test_a_build_prints_which_camera_it_takes(base, tmp_path, capsys):
    from stcr_plugin.cli.__main__ import main

    config = tmp_path / "x.yaml"
    config.write_text(f"name: x\nsource: {{kind: lerobot, root: {base}}}\nsplits: {{train: {{fraction: 1.0}}}}\n")
    assert main(["data", "build", str(config), "--registry", str(tmp_path / "registry")]) in (0, None)
    assert f"camera: {HEAD}, the first that shows colour (choose by source.camera)" in capsys.readouterr().out


# Cameras that are stored as single pictures


@pytest.mark.parametrize("shape", ["bytes", "path", "binary"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_cameras_of_single_pictures_are_read(tmp_path, version, shape):
    write = made.write_v21 if version == "v2.1" else made.write_v30
    root = made.store_pictures(write(tmp_path / "set", made.Layout(lengths=(12, 9))), shape)
    source = LeRobotSource(LeRobotConfig(str(root)))
    episodes = list(source.episodes())
    assert [(episode.episode_id, episode.n_frames) for episode in episodes] == [("000000", 12), ("000001", 9)]
    for number, episode in enumerate(episodes):
        for wanted in ([0, 3, 8], range(episode.n_frames)):
            shown = [made.number(picture) for picture in source.frames(episode, list(wanted))]
            assert shown == [(number, frame) for frame in wanted]


def test_videos_go_before_single_pictures(base, tmp_path):
    assert cameras(base, tmp_path, {"observation.image": COLOUR | {"dtype": "image"}}).camera == HEAD


PICTURES = {
    "damaged": (b"\x89PNG\r\n\x1a\n", "cannot be opened as a picture"),
    "nothing": (None, "no picture in"),
    "empty": (b"", "no picture in"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_stored_picture_that_cannot_be_read_names_episode_and_frame(tmp_path, case):
    data, reason = PICTURES[case]
    root = made.store_pictures(made.write_v21(tmp_path / "set", made.Layout(lengths=(12,))))
    path = root / "data/chunk-000/episode_000000.parquet"
    stored = made.pq.read_table(path)[HEAD].to_pylist()
    stored[5] = {"bytes": data, "path": None}
    made.edit_parquet(path, {HEAD: stored})
    source = LeRobotSource(LeRobotConfig(str(root)))
    (episode,) = source.episodes()
    with pytest.raises(DataError, match=rf"episode 0, frame 5: .*{reason}"):
        list(source.frames(episode, range(12)))


def test_a_stored_path_that_leaves_the_dataset_is_refused(tmp_path):
    root = made.store_pictures(made.write_v21(tmp_path / "set", made.Layout(lengths=(12,))))
    outside = made.Image.new("RGB", (8, 8))
    outside.save(tmp_path / "outside.png")
    made.edit_parquet(root / "data/chunk-000/episode_000000.parquet", {HEAD: ["../outside.png"] * 12})
    source = LeRobotSource(LeRobotConfig(str(root)))
    (episode,) = source.episodes()
    with pytest.raises(DataError, match="leaves its folder"):
        list(source.frames(episode, [0]))


@pytest.mark.parametrize("values", [None, list(range(12)), [[0.5]] * 12])
def test_rows_without_pictures_are_excluded_with_the_way_to_convert_them(tmp_path, values):
    root = made.store_pictures(made.write_v21(tmp_path / "set", made.Layout(lengths=(12, 12))))
    made.edit_parquet(root / "data/chunk-000/episode_000000.parquet", {HEAD: values})
    excluded, episode = LeRobotSource(LeRobotConfig(str(root))).episodes()
    assert "convert the dataset to videos" in excluded.reason
    assert isinstance(episode, Episode)


# Path templates


@pytest.mark.parametrize("field", ["chunk_index:03d", "episode_chunk:03d", "chunk_index:03", "episode_chunk:0003d"])
def test_the_chunk_may_be_named_either_way(base, tmp_path, field):
    made.shutil.copytree(base, tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    for name in ("data_path", "video_path"):
        info[name] = info[name].replace("episode_chunk:03d", field)
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    if field.endswith("0003d"):
        with pytest.raises(DataError, match="use one like :06d"):
            LeRobotSource(LeRobotConfig(str(tmp_path / "set")))
        return
    assert len(list(LeRobotSource(LeRobotConfig(str(tmp_path / "set"))).episodes())) == 1


TEMPLATES = [
    "{episode_index:0900000000d}.mp4", "{episode_index:99d}.mp4", "{episode_index:>{episode_chunk}}.mp4",
    "{episode_index!r}.mp4", "{episode_index.real}.mp4", "{video_key[0]}.mp4", "{0}.mp4", "{}.mp4", "{.mp4", "}.mp4",
    "{episode_index:x}.mp4", "{video_key:06d}.mp4", "{file_index}.mp4", "a\0{episode_index}.mp4", "\ud800.mp4",
    "{__class__}", "{episode_index:,}", "a" * 5000, "a" * 300 + "/{episode_index}.mp4",
    5, None, ["a", "b"], {},
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_template_that_is_not_plain_is_refused_at_once(base, tmp_path, template):
    made.shutil.copytree(base, tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["video_path"] = template
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"info\.json: the (template|path that) video_path|too long"):
        list(LeRobotSource(LeRobotConfig(str(tmp_path / "set"))).episodes())


def test_a_parquet_file_that_is_a_pointer_of_git_lfs_says_so(tmp_path):
    root = made.write_v30(tmp_path / "set", made.Layout(lengths=(12, 12, 12)))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (root / "data/chunk-000/file-001.parquet").write_text(pointer)
    first, second, excluded = LeRobotSource(LeRobotConfig(str(root))).episodes()
    assert "a Git LFS pointer, not the file itself; run `git lfs pull`" in excluded.reason
    assert isinstance(first, Episode)
    assert isinstance(second, Episode)
    (root / "meta/episodes/chunk-000/file-000.parquet").write_text(pointer)
    with pytest.raises(DataError, match="git lfs pull"):
        list(LeRobotSource(LeRobotConfig(str(root))).episodes())
