from __future__ import annotations

import tarfile
from collections import deque
from fractions import Fraction

import agibot_dataset
import av
import lerobot_dataset as made
import numpy as np
import pytest
import video_files

from stcr_plugin.episodes import archive as archives
from stcr_plugin.episodes import video as room
from stcr_plugin.episodes.video import count_and_rate, frame_times, frames_at, frames_numbered, number_at, probe
from stcr_plugin.errors import DataError

FPS, FRAMES = 10, 90


@pytest.fixture(scope="module", params=sorted(made.CODECS))
def video(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    made.write_video(path, [(3, FRAMES)], request.param, FPS)
    return path


def packets_decoded(monkeypatch, path, indices):
    """How many packets reach the decoder for `indices`."""
    jobs = room._jobs
    counted = []
    monkeypatch.setattr(room, "_jobs", lambda packets, wanted: counted.extend(jobs(packets, wanted)) or counted)
    list(frames_at(path, [index / FPS for index in indices], FPS))
    return sum(stop - start for start, stop in counted)


def test_every_single_frame_equals_the_sequential_decode(video):
    expected = video_files.sequential(video)
    assert len(expected) == FRAMES
    for index in range(FRAMES):
        (got,) = frames_at(video, [index / FPS], FPS, threads=1)
        assert made.number(got) == (3, index)
        np.testing.assert_array_equal(got, expected[index])


@pytest.mark.parametrize("indices", [range(FRAMES), range(0, FRAMES, 7), [0, 1, 2, 44, 45, 88, 89], [38, 39, 40, 41]])
def test_many_frames_in_one_call_equal_the_sequential_decode(video, indices):
    expected = video_files.sequential(video)
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
    expected = video_files.sequential(path)
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


# ---- containers ----

CONTAINERS = {
    "mp4": ["h264", "h264 open", "h264 pairs", "hevc", "mpeg4", "mpeg2", "vp9", "av1", "mjpeg"],
    "mov": ["h264", "hevc", "prores", "mjpeg"],
    "mkv": ["h264", "h264 open", "hevc", "mpeg4", "mpeg2", "vp8", "vp9", "av1", "mjpeg", "ffv1"],
    "webm": ["vp8", "vp9", "av1"],
    "avi": ["h264", "h264 open", "h264 plain", "mpeg4", "mjpeg", "ffv1", "huffyuv"],
    "ts": ["h264", "h264 open", "hevc", "mpeg2", "mpeg4"],
    "mpg": ["h264", "mpeg2"],
    "flv": ["h264"],
    "wmv": ["h264", "wmv"],
    "nut": ["h264"],
    "ogv": ["vp8"],
    "gif": ["gif"],
    "apng": ["apng"],
    "ivf": ["vp8", "vp9", "av1"],
    "h264": ["h264", "h264 plain"],
    "hevc": ["hevc"],
    "obu": ["av1"],
    "mjpeg": ["mjpeg"],
}
RAW = ("h264", "hevc", "obu", "mjpeg")
CODECS = [(container, codec) for container, codecs in CONTAINERS.items() for codec in codecs]
COUNTED = {"mp4": [], "mov": [], "mkv": ["vp8"], "webm": ["vp8"]}


def check_frames(path, pictures=None):
    """Whichever frames are taken, they are those of the sequential decode, found by number and by time."""
    expected = video_files.sequential(path) if pictures is None else pictures
    last = len(expected) - 1
    times = frame_times(path)
    assert (probe(path).frames, len(times), times[0]) == (len(expected), len(expected), 0)
    assert probe(path).last_seconds == pytest.approx(times[-1])
    fps = 1 / float(np.diff(times).min()) if last else 1.0
    for numbers in ([last], [last // 2], [1, last // 3, last // 3 + 1, last], range(last + 1)):
        numbers = sorted({min(number, last) for number in numbers})
        by_time = frames_at(path, [float(times[number]) for number in numbers], fps, threads=1)
        for found in (frames_numbered(path, numbers, threads=1), by_time):
            for got, number in zip(found, numbers, strict=True):
                np.testing.assert_array_equal(got, expected[number])
    return times


@pytest.mark.parametrize(("container", "codec"), CODECS)
def test_any_container_gives_the_frames_of_a_sequential_decode(tmp_path, container, codec):
    path = video_files.write(tmp_path / f"v.{container}", codec)
    expected = video_files.sequential(path)
    assert [made.number(picture) for picture in expected] == [(1, number) for number in range(video_files.FRAMES)]
    times = check_frames(path, expected)
    if container not in RAW:
        np.testing.assert_allclose(times, np.arange(video_files.FRAMES) / video_files.RATE, atol=0.0006)
    counted = room._timeline(path).stamps is None
    assert counted == (codec in COUNTED.get(container, [codec]))


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_stamps_of_decoding_are_not_taken_for_times_of_showing(tmp_path, container):
    avi = video_files.write(tmp_path / "v.avi", "h264")
    path = video_files.remux(avi, tmp_path / f"v.{container}")  # an AVI stamps frames in the order of decoding
    check_frames(path, video_files.sequential(avi))


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_file_that_starts_late_counts_from_its_first_frame(tmp_path, container):
    late = [3000 + 100 * number for number in range(30)]
    path = video_files.write(tmp_path / f"v.{container}", "h264", times=late)
    with av.open(str(path)) as opened:
        assert opened.streams.video[0].start_time * opened.streams.video[0].time_base > 2
    np.testing.assert_allclose(check_frames(path), np.arange(30) / 10, atol=0.0006)


SPECIAL = {
    "fragments": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "fragments with an index": ("mp4", {"movflags": "dash+frag_keyframe+empty_moov+global_sidx"}),
    "no edit list": ("mp4", {"use_editlist": "0"}),
    "negative offsets": ("mp4", {"movflags": "negative_cts_offsets"}),
    "live": ("mkv", {"live": "1"}),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_other_forms_of_a_container(tmp_path, kind):
    container, options = SPECIAL[kind]
    check_frames(video_files.write(tmp_path / f"v.{container}", "h264", options=options))


@pytest.mark.parametrize(("container", "skip"), [("mp4", 5), ("mkv", 5), ("ts", 5), ("mp4", 12), ("mkv", 12)])
def test_a_video_cut_out_of_another_has_the_frames_that_can_be_decoded(tmp_path, container, skip):
    codec = "h264" if container == "ts" else "h264 open"
    whole = video_files.write(tmp_path / "whole.mp4", codec)
    path = video_files.remux(whole, tmp_path / f"v.{container}", skip=skip)  # starts within a group of pictures
    pictures = list(frames_numbered(path, range(probe(path).frames)))
    assert 5 < len(pictures) < 30 - skip
    assert [made.number(picture)[1] for picture in pictures] == list(range(30 - len(pictures), 30))
    check_frames(path, pictures)


@pytest.mark.parametrize("codec", ["h264", "h264 pairs", "vp9"])
@pytest.mark.parametrize(("start", "length"), [(0, 1500), (500, 1500), (500, 2500), (0, 2900), (800, 800)])
def test_a_trimmed_video_has_the_frames_that_are_shown(tmp_path, codec, start, length):
    path = video_files.trim(video_files.write(tmp_path / "v.mp4", codec), start, length)
    shown = [made.number(picture)[1] for picture in frames_numbered(path, range(probe(path).frames))]
    assert shown == list(range(start // 100, (start + length) // 100))
    check_frames(path)


def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = video_files.write(tmp_path / "v.mp4", "h264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    with pytest.raises(DataError, match=r"v\.mp4: coded .* cannot be decoded; convert it to MP4"):
        probe(path)


@pytest.mark.parametrize("container", ["mp4", "avi", "ts", "gif", "h264"])
@pytest.mark.parametrize("frames", [1, 2])
def test_the_shortest_videos(tmp_path, container, frames):
    codec = {"gif": "gif", "avi": "mjpeg"}.get(container, "h264")
    assert len(check_frames(video_files.write(tmp_path / f"v.{container}", codec, frames=frames))) == frames


@pytest.mark.parametrize(("container", "codec"), [("mp4", "av1"), ("mkv", "vp9"), ("avi", "ffv1"), ("gif", "gif")])
def test_odd_sizes(tmp_path, container, codec):
    check_frames(video_files.write(tmp_path / f"v.{container}", codec, frames=9, size=(97, 65)))


def test_a_video_whose_pictures_change_size_is_named(tmp_path):
    parts = [video_files.write(tmp_path / f"{width}.h264", "h264", frames=9, size=(width, 64)) for width in (96, 192)]
    path = tmp_path / "v.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(list(frames_numbered(path, range(9)))) == 9
    with pytest.raises(DataError, match=r"v\.h264: its pictures change size; convert it to one size"):
        list(frames_numbered(path, range(18)))


def test_the_reason_of_an_unreadable_file_is_that_of_all(tmp_path):
    (tmp_path / "page.mp4").write_text("<html>404</html>")
    with pytest.raises(DataError) as caught:
        probe(tmp_path / "page.mp4")
    assert "page" not in caught.value.problem


def test_the_first_video_stream_that_is_no_cover_picture_is_read(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        streams = [container.add_stream(name, rate=10) for name in ("mjpeg", "libx264")]
        for size, stream in zip((32, 64), streams, strict=True):
            stream.width, stream.height = size, size
        streams[0].pix_fmt, streams[0].disposition = "yuvj420p", av.stream.Disposition.attached_pic.value
        for number in range(3):
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.float32), "fltp", "mono")
            noise.rate, noise.pts = 8000, 800 * number
            container.mux(sound.encode(noise))
            for stream in streams[number > 0 :]:
                picture = np.full((stream.width, stream.height, 3), 80 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux([packet for stream in (sound, *streams) for packet in stream.encode()])
    # Move the cover before the tracks, as other writers do.
    data = path.read_bytes()
    tracks, cover = data.index(b"trak") - 4, data.index(b"udta") - 4
    path.write_bytes(data[:tracks] + data[cover:] + data[tracks:cover])
    with av.open(str(path)) as opened:
        assert [stream.width for stream in opened.streams.video] == [32, 64]
    assert [picture.shape for picture in frames_numbered(path, [0, 2])] == [(64, 64, 3)] * 2


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_time_of_a_video_of_variable_rate_is_that_of_the_frame_shown_then(tmp_path, container):
    times = [0, 100, 200, 1500, 1600, 4000, 4100, 4200]
    path = video_files.write(tmp_path / f"v.{container}", "h264", times=times)
    check_frames(path)
    shown = {0.0: 0, 0.09: 0, 0.1: 1, 1.4: 2, 1.5: 3, 3.9: 4, 4.0: 5, 4.2: 7, 4.3: 7}
    assert {second: number_at(path, second) for second in shown} == shown
    with pytest.raises(DataError, match=r"has no frame at 9 s, its last one is shown at 4\.20 s"):
        number_at(path, 9.0)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "h264"), ("mov", "hevc"), ("mp4", "vp9")])
def test_a_last_frame_that_is_shown_for_long_is_no_truncation(tmp_path, container, codec):
    source = video_files.write(tmp_path / "source.mkv", codec)
    path = video_files.remux(source, tmp_path / f"v.{container}", held=5)
    check_frames(path)
    if codec != "vp9":  # of which FFmpeg drops how long a frame is shown
        assert number_at(path, 7.8) == 29
        with pytest.raises(DataError, match="no frame at 8 s"):
            number_at(path, 8)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_an_avi_with_gaps_between_reordered_frames_has_no_seconds(tmp_path, codec):
    times = [0, 1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17]
    path = video_files.write(tmp_path / "v.avi", codec, times=times, unit=Fraction(1, 10))
    pictures = frames_numbered(path, range(len(times)))
    assert [made.number(picture)[1] for picture in pictures] == list(range(len(times)))
    with pytest.raises(DataError, match=r"v\.avi: does not say when its frames are shown"):
        number_at(path, 0.5)
    with pytest.raises(DataError, match=r"v\.avi: does not say how fast its frames were taken"):
        count_and_rate(path, None)


def test_a_raw_stream_has_no_rate_and_no_seconds(tmp_path):
    path = video_files.write(tmp_path / "v.h264", "h264")
    assert count_and_rate(path, 10.0) == (30, 10.0)
    with pytest.raises(DataError, match=r"v\.h264: does not say how fast its frames were taken; give `fps`, or"):
        count_and_rate(path, None)
    with pytest.raises(DataError, match=r"v\.h264: does not say when its frames are shown; convert it to MP4"):
        number_at(path, 1.0)
    (got,) = frames_at(path, [1.7], 10)  # whoever knows the rate may ask by time
    assert made.number(got) == (1, 17)


@pytest.mark.parametrize(("container", "codec"), [("mkv", "h264"), ("webm", "vp9"), ("mpg", "mpeg2"), ("avi", "mjpeg")])
def test_a_file_that_ends_too_early_is_named(tmp_path, container, codec):
    path = video_files.write(tmp_path / f"v.{container}", codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(DataError, match=rf"v\.{container}: .*download it again"):
        probe(path)


def test_a_loss_inside_a_transport_stream_is_named(tmp_path):
    path = video_files.write(tmp_path / "v.ts", "h264")
    data = path.read_bytes()
    middle = len(data) // 376 * 188
    path.write_bytes(data[:middle] + data[middle + 3 * 188 :])
    with pytest.raises(DataError, match=r"v\.ts: damaged, joined or cut off after its first \d+ frames"):
        probe(path)


def test_an_indexed_video_is_not_decoded_to_be_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_all_frames", lambda *more, **named: pytest.fail("decoded"))
    for codec in ("h264", "h264 open", "h264 pairs", "h264 plain", "hevc", "av1", "mpeg4"):
        assert probe(video_files.write(tmp_path / f"{codec}.mp4", codec)).frames == video_files.FRAMES


def test_metadata_need_not_be_utf8(tmp_path):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.metadata["title"] = "Kamera NAME"
        for number in range(3):
            picture = np.full((64, 64, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"NAME", b"\xc0\xfc\xe9\xe4"))
    with pytest.raises(UnicodeDecodeError), av.open(str(path)):
        pass
    assert len(list(frames_numbered(path, range(probe(path).frames)))) == 3


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize("sliced", [False, True])
def test_a_git_lfs_pointer_is_named(tmp_path, sliced):
    (tmp_path / "v.mp4").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"v\.mp4: a Git LFS pointer, .*; run `git lfs pull`"):
        probe(archived(tmp_path, POINTER) if sliced else tmp_path / "v.mp4")


@pytest.mark.parametrize(("container", "codec"), [("ts", "h264"), ("mkv", "hevc"), ("avi", "mpeg4")])
def test_a_slice_of_an_archive_may_be_of_any_container(tmp_path, container, codec):
    path = video_files.write(tmp_path / f"v.{container}", codec)
    part = archived(tmp_path, path.read_bytes())
    for got, expected in zip(frames_numbered(part, [0, 7, 29]), frames_numbered(path, [0, 7, 29]), strict=True):
        np.testing.assert_array_equal(got, expected)
