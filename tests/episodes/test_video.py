from __future__ import annotations

import tarfile
from collections import deque

import agibot_dataset
import av
import lerobot_dataset as made
import numpy as np
import pytest

from stcr_plugin.episodes import archive as archives
from stcr_plugin.episodes.video import frames_at, probe
from stcr_plugin.errors import DataError

FPS, FRAMES = 10, 90


@pytest.fixture(scope="module", params=sorted(made.CODECS))
def video(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    made.write_video(path, [(3, FRAMES)], request.param, FPS)
    return path


def sequential(path):
    """Every picture by plain decoding from the start, in order of time."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def packets_decoded(monkeypatch, path, indices):
    """How many packets reach the decoder for `indices`."""
    from stcr_plugin.episodes import video as room

    jobs = room._jobs
    counted = []
    monkeypatch.setattr(room, "_jobs", lambda packets, wanted: counted.extend(jobs(packets, wanted)) or counted)
    list(frames_at(path, [index / FPS for index in indices], FPS))
    return sum(stop - start for start, stop in counted)


def test_every_single_frame_equals_the_sequential_decode(video):
    expected = sequential(video)
    assert len(expected) == FRAMES
    for index in range(FRAMES):
        (got,) = frames_at(video, [index / FPS], FPS, threads=1)
        assert made.number(got) == (3, index)
        np.testing.assert_array_equal(got, expected[index])


@pytest.mark.parametrize("indices", [range(FRAMES), range(0, FRAMES, 7), [0, 1, 2, 44, 45, 88, 89], [38, 39, 40, 41]])
def test_many_frames_in_one_call_equal_the_sequential_decode(video, indices):
    expected = sequential(video)
    got = list(frames_at(video, [index / FPS for index in indices], FPS))
    assert [made.number(picture) for picture in got] == [(3, index) for index in indices]
    assert all(np.array_equal(picture, expected[index]) for picture, index in zip(got, indices, strict=True))


def test_reordered_frames_are_in_the_long_group_video(tmp_path):
    made.write_video(tmp_path / "v.mp4", [(0, 60)], "h264 long", FPS)
    with av.open(str(tmp_path / "v.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)
    assert sum(packet.is_keyframe for packet in packets) == 2


def test_few_frames_of_a_short_group_video_decode_few(tmp_path, monkeypatch):
    made.write_video(tmp_path / "v.mp4", [(0, FRAMES)], "h264 short", FPS)
    assert packets_decoded(monkeypatch, tmp_path / "v.mp4", [0, 41, 89]) <= 6


def test_a_scan_decodes_every_packet_once(tmp_path, monkeypatch):
    made.write_video(tmp_path / "v.mp4", [(0, FRAMES)], "h264 long", FPS)
    assert packets_decoded(monkeypatch, tmp_path / "v.mp4", range(FRAMES)) == FRAMES


def test_probe_counts_frames_and_finds_the_last(video):
    facts = probe(video)
    assert facts.frames == FRAMES
    assert facts.last_seconds == pytest.approx((FRAMES - 1) / FPS)


def test_a_video_cut_after_its_index_gives_what_is_there_then_names_the_time(tmp_path):
    path = tmp_path / "v.mp4"
    made.write_video(path, [(1, FRAMES)], "h264 short", FPS, faststart=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(DataError, match=r"v\.mp4: truncated"):
        probe(path)
    pictures = frames_at(path, [index / FPS for index in range(FRAMES)], FPS)
    got = []
    with pytest.raises(DataError, match=r"no frame at [0-9.]+ s, the last that can be read"):
        deque(map(got.append, map(made.number, pictures)))
    assert len(got) > FRAMES // 3
    assert got == [(1, index) for index in range(len(got))]


@pytest.mark.parametrize("codec", ["h264 long", "h264 short", "av1"])
def test_damage_in_the_middle_is_an_error_and_no_altered_picture(tmp_path, codec):
    path = tmp_path / "v.mp4"
    made.write_video(path, [(1, FRAMES)], codec, FPS)
    expected = sequential(path)
    with av.open(str(path)) as container:
        packets = [(packet.size, packet.pos) for packet in container.demux(video=0) if packet.size][30:60]
    size, position = max(packets)
    data = bytearray(path.read_bytes())
    data[position + size // 3 : position + 2 * size // 3] = np.random.default_rng(0).bytes(2 * size // 3 - size // 3)
    path.write_bytes(data)
    got = []
    with pytest.raises(DataError, match=r"v\.mp4: the frame at [0-9.]+ s .*cannot be decoded"):
        deque(map(got.append, frames_at(path, [index / FPS for index in range(FRAMES)], FPS)))
    assert 10 < len(got) < FRAMES
    assert all(np.array_equal(picture, expected[index]) for index, picture in enumerate(got))


def test_a_video_without_its_index_cannot_be_opened(tmp_path):
    path = tmp_path / "v.mp4"
    made.write_video(path, [(1, 30)], "h264 short", FPS)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="cannot be opened as a video"):
        probe(path)


def test_a_video_with_a_header_and_no_frame_is_named(tmp_path):
    made.write_frameless(tmp_path / "v.mp4")
    with pytest.raises(DataError, match=r"v\.mp4: a video without a frame; download it again"):
        probe(tmp_path / "v.mp4")


@pytest.mark.parametrize(("data", "message"), [(b"", "0 bytes"), (b"not a video at all" * 50, "cannot be opened")])
def test_a_file_that_is_not_a_video_is_named(tmp_path, data, message):
    (tmp_path / "v.mp4").write_bytes(data)
    with pytest.raises(DataError, match=message):
        probe(tmp_path / "v.mp4")


def test_a_time_past_the_end_is_refused(video):
    with pytest.raises(DataError, match=r"no frame at 30\.000 s"):
        list(frames_at(video, [30.0], FPS))


def test_two_times_on_one_frame_are_refused(video):
    with pytest.raises(DataError, match="two frames of the data fall on"):
        list(frames_at(video, [1.0, 1.02], FPS))


@pytest.mark.parametrize("codec", sorted(made.CODECS))
def test_a_slice_of_an_archive_gives_what_its_file_gives(tmp_path, codec):
    path = tmp_path / "v.mp4"
    made.write_video(path, [(3, 40)], codec, FPS)
    part = archived(tmp_path, path.read_bytes())
    times = [index / FPS for index in (0, 11, 12, 39)]
    assert probe(part) == probe(path)
    for got, expected in zip(frames_at(part, times, FPS), frames_at(path, times, FPS), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("data", "message"), [(b"", "0 bytes"), (b"not a video" * 50, "cannot be opened as a video")])
def test_a_slice_that_is_not_a_video_is_named(tmp_path, data, message):
    with pytest.raises(DataError, match=rf"a\.tar!1/v\.mp4: .*{message}"):
        probe(archived(tmp_path, data))


def archived(folder, data):
    """`data` as the second member of a tar."""
    with tarfile.open(folder / "a.tar", "w") as archive:
        agibot_dataset.add(archive, "0/v.mp4", b"before" * 99)
        agibot_dataset.add(archive, "1/v.mp4", data)
        agibot_dataset.add(archive, "2/v.mp4", b"behind" * 99)
    return archives.index(folder / "a.tar", (".mp4",)).members["1/v.mp4"]


def test_a_video_whose_index_is_cut_off_is_truncated(tmp_path):
    path = tmp_path / "v.mp4"
    made.write_video(path, [(1, 20)], "h264 short", FPS)
    path.write_bytes(path.read_bytes()[:-300])  # its index ends in the middle of the table of key frames
    with pytest.raises(DataError, match=r"v\.mp4: truncated: its index promises 20 frames"):
        probe(path)
    with pytest.raises(DataError, match=r"v\.mp4: "):
        list(frames_at(path, [0.5], FPS))
