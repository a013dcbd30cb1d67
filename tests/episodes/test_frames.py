from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from fractions import Fraction

import av
import lerobot_dataset as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import video_files
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.types import Claim, Episode, EpisodeSource, Exclusion, Segment

TASK = "put the cup on the shelf"
FRAMES = 12


@pytest.fixture
def root(tmp_path):
    """A folder with the pictures `cup`, numbered from 0 without leading zeros, and the video `box.mp4` of 20 frames."""
    draw(tmp_path / "cup", 1)
    made.write_video(tmp_path / "box.mp4", [(2, 20)], "h264 long", 10)
    return tmp_path


def draw(folder, episode, count=FRAMES, name="frame_{}.png"):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(made.picture(episode, index)).save(folder / name.format(index))


ROWS = [{"episode": "a", "task": TASK, "path": "cup", "fps": 5}, {"episode": "b", "task": TASK, "path": "box.mp4"}]


def write(path, rows):
    """`rows` in the format that the suffix of `path` names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(file.getvalue())
    return path


def open_rows(root, rows, name="table.csv", **settings):
    write(root / name, rows)
    return open_table(root, name, **settings)


def open_table(root, name="table.csv", **settings):
    return FramesSource(from_mapping(FramesConfig, {"root": str(root), "table": name, **settings}, "test"))


def split(source):
    found = list(source.episodes())
    return [e for e in found if isinstance(e, Episode)], [e for e in found if isinstance(e, Exclusion)]


def row(excluded):
    """The number of the row that an Exclusion names."""
    return int(re.search(r"table\.csv, row (\d+)", excluded.where).group(1))


def numbers(source, episode, indices):
    return [made.number(picture) for picture in source.frames(episode, indices)]


# Reading


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl", "table.parquet", "TABLE.CSV"])
def test_a_table_of_any_format_gives_the_same_episodes(root, name):
    source = open_rows(root, ROWS, name)
    assert split(source) == (
        [
            Episode("frames", "a", TASK, 5.0, FRAMES, (Segment(TASK, 0, FRAMES),)),
            Episode("frames", "b", TASK, 10.0, 20, (Segment(TASK, 0, 20),)),
        ],
        [],
    )
    protocol: EpisodeSource = source
    assert protocol.kind == "frames"


def test_every_frame_is_the_requested_one_also_by_a_source_that_listed_nothing(root):
    first, second = split(open_rows(root, ROWS))[0]
    source = open_table(root)
    for number, episode in ((1, first), (2, second)):
        everything = range(episode.n_frames)
        assert numbers(source, episode, everything) == [(number, index) for index in everything]
        assert numbers(source, episode, [3, 10, 11]) == [(number, 3), (number, 10), (number, 11)]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "bmp", "PNG"])
def test_pictures_of_every_suffix_are_read_in_natural_order(root, suffix):
    draw(root / "more", 3, name="frame_{}." + suffix)
    source = open_rows(root, [ROWS[0] | {"path": "more"}])
    (episode,) = split(source)[0]
    assert numbers(source, episode, range(FRAMES)) == [(3, index) for index in range(FRAMES)]


def test_other_files_in_a_folder_of_pictures_are_no_frames(root):
    for name in ("._frame_3.png", "frame_3.npy", "Thumbs.db"):
        (root / "cup" / name).write_bytes(b"junk")
    assert [episode.n_frames for episode in split(open_rows(root, ROWS))[0]] == [FRAMES, 20]


def test_rows_of_one_episode_are_its_segments_and_may_overlap(root):
    rows = [
        {"episode": "a", "task": "reach", "path": "cup", "start": 0, "end": 8},
        {"episode": "b", "task": TASK, "path": "box.mp4"},
        {"episode": "a", "task": "grasp", "path": "cup", "start": 6},
    ]
    episodes, excluded = split(open_rows(root, rows, fps=5))
    assert excluded == []
    assert episodes[0].segments == (Segment("reach", 0, 8), Segment("grasp", 6, FRAMES))
    assert episodes[0].task == "reach; grasp"
    assert [episode.episode_id for episode in episodes] == ["a", "b"]


def test_group_and_object_go_along_and_columns_may_have_other_names(root):
    rows = [{"traj_id": 7, "task": TASK, "path": "cup", "site": "lab", "object": "cup", "note": "x"}]
    columns = {"episode": "traj_id", "group": "site"}
    source = open_rows(root, rows, "t.parquet", fps=5, columns=columns, other_columns="ignore")
    (episode,) = split(source)[0]
    assert (episode.episode_id, episode.group, episode.object) == ("7", "lab", "cup")


def test_whole_numbers_that_pandas_made_floats_are_read(root):
    rows = [ROWS[0] | {"episode": 1.0, "start": 2.0, "end": float("nan")}]
    (episode,) = split(open_rows(root, rows, "t.parquet"))[0]
    assert (episode.episode_id, episode.segments) == ("1", (Segment(TASK, 2, FRAMES),))


def test_a_csv_from_a_spreadsheet_is_read(root):
    text = f"\ufeffepisode , task,path,fps,,\r\na,{TASK},cup,5,,\r\n,,,,,\r\n"
    (root / "table.csv").write_bytes(text.encode())
    assert [episode.episode_id for episode in split(open_table(root))[0]] == ["a"]


def test_a_photo_is_turned_upright(root):
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    for file in (root / "cup").iterdir():
        picture = np.asarray(Image.open(file))[::-1, ::-1]
        Image.fromarray(picture).save(file, exif=exif)
    source = open_rows(root, ROWS[:1])
    assert numbers(source, split(source)[0][0], [0, 5]) == [(1, 0), (1, 5)]


# Frame rates


def test_fps_is_the_rows_then_the_configurations_then_the_videos(root):
    shutil.copy(root / "box.mp4", root / "none.mp4")
    rows = [ROWS[1] | {"fps": 4}, ROWS[1] | {"episode": "none", "path": "none.mp4", "fps": None}]
    assert [e.fps for e in split(open_rows(root, rows, fps=6))[0]] == [4, 6]
    assert [e.fps for e in split(open_rows(root, rows))[0]] == [4, 10]


def test_a_given_fps_changes_no_frame_of_a_video(root):
    source = open_rows(root, [ROWS[1] | {"fps": 90}])
    assert numbers(source, split(source)[0][0], range(20)) == [(2, index) for index in range(20)]


def test_pictures_without_fps_are_excluded_with_what_to_do(root):
    episodes, excluded = split(open_rows(root, [{**ROWS[0], "fps": None}, ROWS[1]]))
    assert [episode.episode_id for episode in episodes] == ["b"]
    assert excluded[0].where == f"{root}/table.csv, row 2, {root}/cup"
    assert "set `fps`" in excluded[0].reason


def write_uneven(path, times, rate=10):
    """A video whose frame i is shown at times[i] seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=dict(made.LONG_GOP))
        stream.width, stream.height, stream.pix_fmt = made.WIDTH, made.HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(made.picture(2, index), format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["box.mp4", "box.mkv"])
def test_a_video_of_variable_rate_is_counted_by_frames_where_fps_is_given_and_refused_where_not(root, name):
    write_uneven(root / name, [0.1 * i + (2 if i > 9 else 0) for i in range(20)])
    source = open_rows(root, [ROWS[1] | {"path": name}])
    (episode,) = split(source)[0]
    with pytest.raises(DataError, match="variable frame rate"):
        list(source.frames(episode, [1]))
    source = open_rows(root, [ROWS[1] | {"path": name}], fps=10)
    (episode,) = split(source)[0]
    assert (episode.n_frames, episode.fps) == (20, 10)
    assert numbers(source, episode, range(20)) == [(2, index) for index in range(20)]


def test_a_small_jitter_is_an_even_clock(root):
    write_uneven(root / "box.mp4", [0.1 * i + (0.03 if i % 3 else 0) for i in range(21)])
    source = open_rows(root, ROWS[1:])
    (episode,) = split(source)[0]
    assert episode.fps == pytest.approx(10, rel=0.03)
    assert numbers(source, episode, [0, 7, 8, 20]) == [(2, 0), (2, 7), (2, 8), (2, 20)]


def test_times_that_a_container_rounds_do_not_blur_the_rate(root):
    write_uneven(root / "box.mkv", [i / 30 for i in range(42)], rate=30)
    (episode,) = split(open_rows(root, [ROWS[1] | {"path": "box.mkv"}]))[0]
    assert (episode.n_frames, episode.fps) == (42, 30)


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "h264"), ("v.ts", "h264"), ("v.gif", "gif"), ("v.webm", "vp8")])
def test_a_video_of_any_container_is_counted_as_it_is_decoded(root, name, codec):
    video_files.write(root / name, codec)
    source = open_rows(root, [ROWS[1] | {"path": name}])
    (episode,) = split(source)[0]
    assert (episode.n_frames, episode.fps) == (30, pytest.approx(10))
    assert numbers(source, episode, [0, 1, 5, 29]) == [(1, 0), (1, 1), (1, 5), (1, 29)]


def test_a_raw_stream_needs_a_given_rate(root):
    video_files.write(root / "v.h264", "h264")
    rows = [ROWS[1] | {"path": "v.h264"}]
    (excluded,) = split(open_rows(root, rows))[1]
    assert "does not say how fast its frames were taken" in excluded.reason
    source = open_rows(root, rows, fps=10)
    (episode,) = split(source)[0]
    assert numbers(source, episode, [3, 29]) == [(1, 3), (1, 29)]


def test_a_rotated_phone_video_is_upright(root):
    video_files.turn(root / "box.mp4", (0, 1, -1, 0))
    source = open_rows(root, ROWS[1:])
    (episode,) = split(source)[0]
    (picture,) = source.frames(episode, [7])
    assert made.number(np.rot90(picture)) == (2, 7)


def test_frames_that_were_trimmed_from_a_video_do_not_count(root):
    """An edit list hides the first half second, as after cutting a clip without encoding it again."""
    with (
        av.open(str(root / "box.mp4")) as whole,
        av.open(str(root / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as cut,
    ):
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts, packet.dts = (stamp - round(0.5 / stream.time_base) for stamp in (packet.pts, packet.dts))
                packet.stream = copy
                cut.mux(packet)
    source = open_rows(root, [ROWS[1] | {"path": "cut.mp4"}])
    (episode,) = split(source)[0]
    assert (episode.n_frames, episode.fps) == (15, 10)
    assert numbers(source, episode, range(15)) == [(2, index) for index in range(5, 20)]


# What cannot be used


def test_misnamed_columns_are_named_with_the_nearest(root):
    with pytest.raises(DataError, match=r"table\.csv: no column 'episode', did you mean 'epsiode'"):
        open_rows(root, [{"epsiode": "a", "task": TASK, "path": "cup"}])
    with pytest.raises(DataError, match=r"unknown column 'strat', did you mean 'start'"):
        open_rows(root, [ROWS[0] | {"strat": 3}])
    with pytest.raises(DataError, match=r"no column 'xyz', known are: episode, fps, path, task"):
        open_rows(root, ROWS, columns={"episode": "xyz"})
    (root / "table.csv").write_text("episode,task,path,task\na,b,cup,d\n")
    with pytest.raises(DataError, match="two columns are named 'task'"):
        open_table(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"epsiode": "x"}}, "did you mean 'episode'"),
        ({"fps": 0}, "`fps` must be above 0"),
        ({"table": "table.xlsx"}, r"must end in \.csv, \.jsonl, \.parquet"),
        ({"motion": "video"}, "motion"),
        ({"threads": -1}, "negative"),
    ],
)
def test_bad_settings_are_refused(root, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_table(root, **({"name": settings["table"]} if "table" in settings else settings))


def test_wrong_places_are_named(root):
    with pytest.raises(DataError, match="no such folder"):
        open_table(root / "nowhere")
    with pytest.raises(DataError, match=r"table\.csv: cannot be read"):
        open_table(root)
    with pytest.raises(DataError, match=r"none of its 1 paths is on disk, the first would be .*/mug;"):
        list(open_rows(root, [ROWS[0] | {"path": "mug"}]).episodes())


@pytest.mark.parametrize(("name", "data"), [("t.csv", b""), ("t.csv", b"episode,task,path\n"), ("t.jsonl", b"[1]\n")])
def test_a_table_without_a_row_is_refused(root, name, data):
    (root / name).write_bytes(data)
    with pytest.raises(DataError, match="no row can be used"):
        open_table(root, name)


def test_a_table_that_is_not_what_its_suffix_says_is_refused(root):
    (root / "t.parquet").write_bytes(b"episode,task,path\n")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_table(root, "t.parquet")
    (root / "t.csv").write_text(f'episode,task,path\na,"{TASK},cup\nb,{TASK},cup\n')
    with pytest.raises(DataError, match="row 2: a quotation mark is opened and never closed"):
        open_table(root, "t.csv")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"episode;task;path;fps\na;t;cup;29,97\n", "its columns are separated by ';', not by commas; save it with"),
        (b"episode\ttask\tpath\na\tt\tcup\n", r"its columns are separated by '\\t'"),
        ("episode,task,path\na,t,cup\n".encode("utf-16"), "its header is not UTF-8 text, but UTF-16"),
        ("episode,task,path\na,t,cup\n".encode("utf-16-le"), "its header is not UTF-8 text, but UTF-16"),
    ],
)
def test_a_csv_of_another_dialect_is_named(root, data, message):
    (root / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_table(root, "t.csv")


BAD = {
    "empty task": ({"task": " "}, "its task is empty"),
    "invisible task": ({"task": "\u200b"}, "its task is empty"),
    "zero byte in the task": ({"task": "put\0it"}, "holds a NUL character"),
    "empty path": ({"path": ""}, "its path is empty"),
    "missing": ({"path": "mug"}, "no such folder or file"),
    "upwards": ({"path": "../elsewhere"}, "leaves its folder"),
    "absolute": ({"path": "/etc"}, "leaves its folder"),
    "linked out": ({"path": "link"}, "leaves its folder"),
    "linked in a ring": ({"path": "ring"}, "not a path that can be followed"),
    "unnameable": ({"path": "x" * 5000}, "not a path that can be followed"),
    "zero byte in the name": ({"path": "a\0b"}, "holds a NUL character"),
    "no frame": ({"start": 5, "end": 5}, "a segment from frame 5 to 5 has no frame"),
    "backwards": ({"start": 5, "end": 2}, "a segment from frame 5 to 2 has no frame"),
    "negative": ({"start": -1}, "not a frame, a whole number from 0"),
    "half a frame": ({"end": 2.5}, "not a frame, a whole number from 0"),
    "past the end": ({"end": FRAMES + 1}, "frames [0, 13) of a path that has 12"),
    "starts past the end": ({"start": FRAMES}, "frames [12, 12) of a path that has 12"),
    "no number": ({"start": "early"}, "its start 'early' is not a number"),
    "no rate": ({"fps": 0}, "its fps '0' is not above 0"),
    "infinite rate": ({"fps": "inf"}, "its fps 'inf' is not a number"),
    "unsafe id": ({"episode": "a/b"}, "becomes a file name"),
    "hidden id": ({"episode": ".a"}, "becomes a file name"),
    "empty folder": ({"path": "empty"}, "an empty folder"),
    "single picture": ({"path": "cup/frame_1.png"}, "a single picture"),
    "short": ({"path": "short"}, "1 picture; a pair needs two"),
    "empty video": ({"path": "empty.mp4"}, "0 bytes"),
    "no video": ({"path": "table.csv"}, "cannot be opened as a video"),
    "no states": ({"states": "states.csv"}, "no such file of states"),
    "states outside": ({"states": "../states.csv"}, "leaves its folder"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_row_is_excluded_and_the_rest_goes_on(root, case):
    (root / "link").symlink_to("/etc")
    (root / "ring").symlink_to("ring")
    (root / "empty").mkdir()
    draw(root / "short", 1, 1)
    (root / "empty.mp4").touch()
    change, reason = BAD[case]
    rows = [ROWS[1], {"episode": "bad", "task": TASK, "path": "cup", "fps": 5} | change]
    episodes, excluded = split(open_rows(root, rows))
    assert [episode.episode_id for episode in episodes] == ["b"]
    assert [row(item) for item in excluded] == [3]
    assert reason in excluded[0].reason


@pytest.mark.parametrize("path", ["cup", "./cup", "box/../cup", "mug"])
def test_a_path_under_a_second_episode_is_excluded_so_that_it_is_in_no_two_splits(root, path):
    (root / "box").mkdir()
    (root / "mug").symlink_to("cup")
    rows = [ROWS[0] | {"end": 6}, ROWS[1], ROWS[0] | {"episode": "c", "path": path, "start": 6}]
    source = open_rows(root, rows)
    for _ in range(2):  # listing twice says the same
        episodes, (excluded,) = split(source)
        assert [episode.episode_id for episode in episodes] == ["a", "b"]
        assert (excluded.what, row(excluded)) == ("episode c", 4)
        assert excluded.where.endswith(f"{root.resolve() / 'cup'}, of episode a")
        assert excluded.reason == "the path already belongs to that episode; give all of its rows the same episode"


def test_a_bad_segment_leaves_the_others_of_its_episode(root):
    rows = [ROWS[0] | {"end": end} for end in (4, 99, 8)]
    episodes, excluded = split(open_rows(root, rows))
    assert [segment.end for segment in episodes[0].segments] == [4, 8]
    assert [(item.what, row(item)) for item in excluded] == [("segment", 3)]


@pytest.mark.parametrize(("name", "value"), [("path", "box.mp4"), ("fps", 6), ("group", "lab"), ("object", "mug")])
def test_a_row_that_contradicts_its_episode_is_excluded(root, name, value):
    first = ROWS[0] | {"group": "home", "object": "cup"}
    (episode,), (excluded,) = split(open_rows(root, [first, first | {name: value}]))
    assert len(episode.segments) == 1
    assert excluded.reason.startswith(f"{name} ")
    assert "but row 2 gives episode a" in excluded.reason


def test_text_that_is_not_utf8_spoils_its_row_alone(root):
    rows = [b"episode,task,path,fps", b"a,stelle die Tasse zur\xfcck,cup,5", "b,stelle zurück,box.mp4,".encode()]
    (root / "table.csv").write_bytes(b"\n".join(rows))
    (episode,), (excluded,) = split(open_table(root))
    assert episode.task == "stelle zurück"
    assert excluded.where == f"{root}/table.csv, row 2"
    assert "not UTF-8" in excluded.reason
    json.dumps(excluded.reason, ensure_ascii=False).encode()  # as the manifest writes it


@pytest.mark.parametrize(
    "line", [b'{"episode": "a\xff"}', b"{", b"[]", b'{"episode": "\\ud800", "task": "t", "path": "p"}']
)
def test_a_bad_line_of_jsonl_spoils_its_row_alone(root, line):
    (root / "t.jsonl").write_bytes(line + b"\n\n" + json.dumps(ROWS[1]).encode())
    (episode,), (excluded,) = split(open_table(root, "t.jsonl"))
    assert episode.episode_id == "b"
    assert excluded.where == f"{root}/t.jsonl, row 1"
    excluded.reason.encode()


def test_a_csv_row_of_the_wrong_length_is_excluded(root):
    (root / "table.csv").write_text(f"episode,task,path,fps\na,pick, then place,cup,5\nb,{TASK}\nc,{TASK},cup,5\n")
    (episode,), excluded = split(open_table(root))
    assert episode.episode_id == "c"
    assert ["needs quotes" in item.reason for item in excluded] == [True, True]


# Bad pictures and videos


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda cup: (cup / "frame_3.png").write_bytes(b""), r"frame_3\.png: an empty file"),
        (lambda cup: (cup / "frame_3.png").write_bytes(b"no picture"), r"frame_3\.png: cannot be opened"),
        (lambda cup: Image.new("RGB", (96, 60)).save(cup / "frame_3.png"), r"frame_3\.png: 96x60 pixels in .* 96x64"),
        (lambda cup: Image.new("I;16", (96, 64)).save(cup / "frame_3.png"), "depth picture"),
        (lambda cup: shutil.copy(cup / "frame_3.png", cup / "frame_03.png"), "the same number"),
        (lambda cup: Image.new("RGB", (96, 64)).save(cup / "frame_3.jpg"), "is not clear"),
        (lambda cup: Image.new("RGB", (96, 64)).save(cup / "depth_3.png"), "is not clear"),
        (lambda cup: (cup / "frame_99.png").symlink_to(cup.parents[1]), "leaves its folder"),
        (lambda cup: (cup / "frame_99.png").symlink_to("frame_100.png"), "cannot be opened"),
    ],
)
def test_a_folder_with_a_bad_picture_is_excluded(root, spoilt, reason):
    spoilt(root / "cup")
    (episode,), (excluded,) = split(open_rows(root, ROWS))
    assert episode.episode_id == "b"
    assert re.search(reason, f"{excluded.where}: {excluded.reason}")
    assert row(excluded) == 2


@pytest.mark.parametrize(
    "names",
    [
        ["start.png", "middle.png", "end.png"],
        ["12.5.png", "12.12.png"],  # the fifth and the twelfth, or a half and an eighth?
        ["a1.png", "b2.png"],
    ],
)
def test_an_order_that_is_not_plain_is_not_guessed(root, names):
    (root / "odd").mkdir()
    for name in names:
        shutil.copy(root / "cup/frame_0.png", root / "odd" / name)
    _, (excluded,) = split(open_rows(root, [ROWS[1], ROWS[0] | {"path": "odd"}]))
    assert "is not clear" in excluded.reason or "decimal point" in excluded.reason


def test_a_file_name_that_is_not_utf8_can_be_reported(root):
    try:
        shutil.copy(root / "cup/frame_1.png", os.fsencode(root / "cup") + b"/frame_\xff.png")
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    _, (excluded,) = split(open_rows(root, ROWS))
    assert "is not UTF-8" in excluded.reason
    excluded.reason.encode()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_picture_is_an_error_that_names_it(root, suffix):
    draw(root / "cut", 1, name="frame_{}." + suffix)
    source = open_rows(root, [ROWS[0] | {"path": "cut"}])
    (episode,) = split(source)[0]
    file = root / f"cut/frame_7.{suffix}"
    file.write_bytes(file.read_bytes()[:-60])
    pictures = source.frames(episode, [4, 7])
    assert made.number(next(pictures)) == (1, 4)
    with pytest.raises(DataError, match=rf"frame_7\.{suffix}: cannot be (decoded|opened)"):
        next(pictures)


@pytest.mark.parametrize("indices", [[FRAMES], [-1], [3, 2], [2, 2]])
def test_frames_that_do_not_ascend_or_do_not_exist_are_refused(root, indices):
    source = open_rows(root, ROWS)
    with pytest.raises(DataError, match="do not ascend"):
        list(source.frames(split(source)[0][0], indices))


def test_data_that_changed_since_they_were_listed_are_refused(root):
    folder, video = split(open_rows(root, ROWS))[0]
    (root / "cup/frame_5.png").unlink()
    made.write_video(root / "box.mp4", [(2, 15)], "h264 short", 10)
    source = open_table(root)
    for episode in (folder, video):
        with pytest.raises(DataError, match=rf"{episode.n_frames} were listed for episode {episode.episode_id}"):
            list(source.frames(episode, [1]))
    open_rows(root, ROWS[1:])
    with pytest.raises(DataError, match="has no episode 'a'"):
        list(open_table(root).frames(folder, [1]))


def test_a_truncated_video_is_excluded(root):
    made.write_video(root / "cut.mp4", [(1, 90)], "h264 short", 10, faststart=True)
    data = (root / "cut.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    (episode,), (excluded,) = split(open_rows(root, [ROWS[1], ROWS[1] | {"episode": "c", "path": "cut.mp4"}]))
    assert episode.episode_id == "b"
    assert "truncated" in excluded.reason


def test_a_recording_that_was_killed_before_its_first_frame_is_excluded(root):
    made.write_frameless(root / "cut.mp4")
    _, (excluded,) = split(open_rows(root, [ROWS[0], ROWS[1] | {"path": "cut.mp4"}]))
    assert "a video without a frame" in excluded.reason


# States


STATES = [{"progress": i / 10 if i != 4 else None, "phase": "lift" if i > 5 else "reach"} for i in range(FRAMES)]


@pytest.mark.parametrize("name", ["states.csv", "states.jsonl", "states.parquet"])
def test_a_file_with_a_row_a_frame_gives_the_states(root, name):
    write(root / name, STATES)
    source = open_rows(root, [ROWS[0] | {"states": name}, ROWS[1]])
    first, second = split(source)[0]
    assert list(source.states(first)) == STATES
    assert source.states(second) is None


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (STATES[:-1], "11 rows of states for 12 frames"),
        ([*STATES[:-1], {"progress": "far", "phase": "lift"}], r"row 13: its progress 'far' is not a number"),
        ([{**state, "motion": 1.5} for state in STATES], "outside 0..1"),
    ],
)
def test_states_that_do_not_fit_are_an_error_that_names_their_file(root, states, message):
    write(root / "states.csv", states)
    source = open_rows(root, [ROWS[0] | {"states": "states.csv"}])
    with pytest.raises(DataError, match=rf"states\.csv.*{message}"):
        source.states(split(source)[0][0])


def test_motion_is_measured_on_the_pictures_beside_the_states_of_the_table(root):
    write(root / "states.csv", STATES)
    source = open_rows(root, [ROWS[0] | {"states": "states.csv"}, ROWS[1]], motion="pictures")
    first, second = split(source)[0]
    states = source.states(first)
    assert [{**state, "motion": 0} for state in states] == [{**state, "motion": 0} for state in STATES]
    assert max(state["motion"] for state in states) == 1
    assert list(source.states(first)) == list(states)
    assert [set(state) for state in source.states(second)] == [{"motion"}] * 20


def test_motion_that_the_table_gives_is_kept(root):
    write(root / "states.jsonl", [{"motion": 0.25}] * FRAMES)
    source = open_rows(root, [ROWS[0] | {"states": "states.jsonl"}], motion="pictures")
    assert list(source.states(split(source)[0][0])) == [{"motion": 0.25}] * FRAMES


def test_nothing_is_claimed_of_other_peoples_data(root):
    write(root / "states.csv", STATES)
    source = open_rows(root, [ROWS[0] | {"states": "states.csv"}])
    (state, *_) = source.states(split(source)[0][0])
    assert source.claims(state) == ()
    assert not source.holds(Claim("phase", "reach"), state)


# Through the builder


def test_a_build_of_a_table_is_labelled_by_its_progress(root):
    draw(root / "mug", 3)
    write(root / "up.csv", [{"progress": i} for i in range(FRAMES)])
    write(root / "down.csv", [{"progress": -i} for i in range(FRAMES)])
    rows = [
        {"episode": "a", "task": TASK, "path": "cup", "fps": 5, "states": "up.csv"},
        {"episode": "c", "task": TASK, "path": "mug", "fps": 5, "states": "down.csv"},
        {"episode": "x", "task": TASK, "path": "nowhere", "fps": 5},
    ]
    write(root / "table.csv", rows)
    config = {
        "name": "mine",
        "source": {"kind": "frames", "root": str(root), "table": "table.csv"},
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": 6, "min_frames": 3, "label": "progress"},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    manifest = json.loads(build(from_mapping(DataConfig, config, "test"), root / "registry").read_text())
    assert manifest["counts"]["datasets"]["mine_weak"]["samples"] == 24
    assert manifest["counts"]["excluded"] == {"no such folder or file": 1}
    for sample in json.loads((root / "registry/mine/mine_weak.json").read_text()):
        shown = [made.number(np.asarray(Image.open(root / "registry" / image))) for image in sample["images"]]
        further = max(shown) if sample["episode_id"] == "a" else min(shown)
        assert sample["answer"] == ("img1" if shown[0] == further else "img2")
        assert {episode for episode, _ in shown} == {1 if sample["episode_id"] == "a" else 3}


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl", "table.parquet"])
def test_a_table_that_git_lfs_has_not_fetched_says_so(root, name):
    (root / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(DataError, match=rf"{name}: a Git LFS pointer, not the file itself; run `git lfs pull`"):
        open_table(root, name)


def test_a_csv_cell_of_more_than_128_kilobytes_is_read(root):
    task = "put the cup on the shelf " + "and again " * 20_000
    (episode,), excluded = split(open_rows(root, [{"episode": "a", "task": task, "path": "cup", "fps": 5}]))
    assert (episode.task, excluded) == (task.strip(), [])


# Stages


KEYFRAMES = [
    {"anotation": "take the cup", "start_frame_id": 1, "end_frame_id": 5},
    {"annotation": "put it down, gently.", "start_frame_id": 5, "end_frame_id": 11},
]


def staged(root, stages, name="cup.json", **settings):
    """A table whose first episode has the file of stages, its second none."""
    (root / name).write_text(stages if isinstance(stages, str) else json.dumps(stages))
    return open_rows(root, [ROWS[0] | {"stages": name}, ROWS[1]], stages={}, **settings)


def test_a_file_of_keyframes_says_what_is_done_in_a_frame(root):
    source = staged(root, KEYFRAMES)
    (first, second), excluded = split(source)
    assert excluded == []
    states = source.states(first)
    found = [state["stage"] for state in states]
    assert found == [None] + ["take the cup"] * 4 + ["put it down, gently"] * 6 + [None]
    assert source.claims(states[5]) == (Claim("stage", "put it down, gently"),)
    assert source.holds(Claim("stage", "take the cup"), states[4])
    assert not source.holds(Claim("stage", "take the cup"), states[5])
    assert [state["stage"] for state in source.states(second)] == [None] * 20


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ("{", "not readable as JSON"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "not readable as JSON"),
        ({"stages": KEYFRAMES}, "expected a list of stages, found dict"),
    ],
)
def test_a_file_that_holds_no_stages_excludes_its_episode(root, stages, reason):
    (episode,), (excluded,) = split(staged(root, stages))
    assert episode.episode_id == "b"
    assert reason in excluded.reason


def test_a_missing_file_of_stages_excludes_its_episode_and_one_outside_of_the_root_is_not_read(root):
    for name, reason in (("nowhere.json", "no such file"), ("../cup.json", "leaves")):
        rows = [ROWS[0] | {"stages": name}, ROWS[1]]
        (episode,), (excluded,) = split(open_rows(root, rows, stages={}))
        assert episode.episode_id == "b"
        assert reason in str(excluded)


def test_a_bad_stage_is_counted_and_its_episode_goes_on(root):
    wrong = {"anotation": "take", "start_frame_id": 11, "end_frame_id": 13}
    source = staged(root, [*KEYFRAMES, wrong])
    (first, _), (excluded,) = split(source)
    assert (excluded.what, excluded.reason) == ("stage", "a stage is frames [11, 13) of an episode of 12")
    assert source.states(first)[2]["stage"] == "take the cup"


def test_a_column_of_stages_is_read_only_where_the_setting_asks_for_it(root):
    rows = [ROWS[0] | {"stages": "cup.json"}]
    with pytest.raises(DataError, match=r"unknown column 'stages'.*set `stages: \{\}` to read annotated stages"):
        open_rows(root, rows)
    assert open_rows(root, rows, other_columns="ignore").states(split(open_rows(root, ROWS))[0][0]) is None
    with pytest.raises(ConfigError, match="only with the setting"):
        open_rows(root, rows, columns={"stages": "stages"})


def test_a_build_of_keyframes_gives_cot_text(root):
    from stcr_plugin.registry.check import check

    draw(root / "mug", 3)
    (root / "cup.json").write_text(json.dumps(KEYFRAMES))
    rows = [
        {"episode": name, "task": TASK, "path": path, "fps": 5, "stages": "cup.json"}
        for name, path in (("a", "cup"), ("c", "mug"))
    ]
    write(root / "table.csv", rows)
    values = {
        "name": "mine",
        "source": {"kind": "frames", "root": str(root), "table": "table.csv", "stages": {}},
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": 66},
        "datasets": {key: {"split": "train", "kind": key} for key in ("cot", "weak")},
    }
    manifest = json.loads(build(from_mapping(DataConfig, values, "test"), root / "registry").read_text())
    assert check("mine", root / "registry").ok
    counts = manifest["counts"]["datasets"]
    assert counts["mine_weak"]["pairs"] == 2 * 66
    assert counts["mine_cot"]["pairs"] == 2 * 45  # of the ten frames with a stage
    assert counts["mine_cot"]["same_text"] == 2 * (6 + 15)
    target = json.loads((root / "registry/mine/mine_cot.json").read_text())[0]["messages"][1]["content"]
    assert "doing “" in target


def test_cot_text_of_a_table_without_stages_is_refused_with_what_to_do(root):
    write(root / "table.csv", ROWS)
    values = {
        "name": "mine",
        "source": {"kind": "frames", "root": str(root), "table": "table.csv"},
        "splits": {"train": {"fraction": 1.0}},
        "datasets": {"cot": {"split": "train", "kind": "cot"}},
    }
    with pytest.raises(ConfigError, match="use kind: weak, complete `source`"):
        build(from_mapping(DataConfig, values, "test"), root / "registry")
