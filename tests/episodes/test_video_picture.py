from __future__ import annotations

import logging

import av
import lerobot_dataset as made
import numpy as np
import pytest
import video_files

from stcr_plugin.episodes.video import frames_at, frames_numbered
from stcr_plugin.episodes.video_picture import picture_of, warn_of_hdr
from stcr_plugin.errors import DataError

COLOURS = [(200, 60, 40), (30, 160, 60), (20, 40, 220), (255, 255, 255), (0, 0, 0), (255, 128, 0), (90, 200, 250)]
CODECS = [
    ("libx264", "yuv420p", "mp4"),
    ("libx264", "yuv420p10le", "mp4"),
    ("libx265", "yuv420p10le", "mp4"),
    ("ffv1", "yuv444p", "mkv"),
    ("libx264", "yuv420p", "ts"),  # its frames are counted
]


def pictures(path):
    return list(frames_numbered(path, range(len(COLOURS))))


def farthest(path, colours=COLOURS):
    found = np.stack([picture.reshape(-1, 3).astype(int).mean(0) for picture in pictures(path)])
    return np.abs(found - np.array(colours)).max()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(video_files.MATRICES))
@pytest.mark.parametrize(("codec", "pixels", "container"), CODECS)
def test_a_video_has_its_true_colours_whatever_matrix_and_range_it_is_tagged_with(
    tmp_path, codec, pixels, container, matrix, full
):
    path = tmp_path / f"v.{container}"
    assert farthest(video_files.write_colours(path, codec, pixels, COLOURS, matrix=matrix, full=full)) <= 3


@pytest.mark.parametrize(("codec", "pixels", "container"), [("ffv1", "gbrp10le", "mkv"), ("libx265", "gbrp", "mp4")])
def test_an_rgb_video_needs_no_matrix(tmp_path, codec, pixels, container):
    path = tmp_path / f"v.{container}"
    assert farthest(video_files.write_colours(path, codec, pixels, COLOURS, matrix=0, full=True)) <= 1


@pytest.mark.parametrize("pixels", ["gray", "gray10le"])
@pytest.mark.parametrize("full", [False, True])
def test_a_grey_video_has_its_own_range(tmp_path, pixels, full):
    greys = [(value, value, value) for value in (0, 30, 90, 128, 200, 240, 255)]
    path = video_files.write_colours(tmp_path / "v.mkv", "ffv1", pixels, greys, matrix=1, full=full)
    assert farthest(path, greys) <= 1


@pytest.mark.parametrize("matrix", [2, 5, 6])
def test_untagged_and_bt601_pictures_are_those_of_a_plain_conversion(tmp_path, matrix):
    path = video_files.write_colours(tmp_path / "v.mp4", "libx264", "yuv420p", COLOURS, matrix=matrix, full=False)
    for got, expected in zip(pictures(path), video_files.sequential(path), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_matrix_that_cannot_be_converted_is_refused_by_name(tmp_path):
    path = video_files.write_colours(tmp_path / "v.mkv", "ffv1", "yuv420p", COLOURS, matrix=8, full=False)
    with pytest.raises(DataError, match=r"v\.mkv: .*matrix that is not supported \(number 8.*encode the video again"):
        pictures(path)


def test_high_dynamic_range_is_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            warn_of_hdr(18, str(tmp_path / "hlg.mp4"))
            warn_of_hdr(1, str(tmp_path / "bt709.mp4"))
    assert [record.getMessage().partition(" (")[2][:3] for record in caplog.records] == ["HLG"]


TURNS = {
    "clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "counterclockwise": ((0, -1, 1, 0), np.rot90),
    "half": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    "not at all": ((1, 0, 0, 1), lambda picture: picture),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_video_is_turned_as_it_is_stored_to_be_shown(tmp_path, name):
    matrix, shown = TURNS[name]
    path = video_files.turn(video_files.write(tmp_path / "v.mp4", "h264", frames=8), matrix)
    (got,) = frames_at(path, [0.5], 10)
    np.testing.assert_array_equal(got, shown(video_files.sequential(path)[5]))
    assert got.flags.c_contiguous


def test_other_side_data_does_not_hide_the_rotation():
    class Frame:  # PyAV raises for side data that it has no name for
        def __init__(self, frame):
            self.frame, self.rotation = frame, -90

        def __getattr__(self, name):
            if name == "side_data":
                raise ValueError("31 is not a valid Type")
            return getattr(self.frame, name)

    frame = av.VideoFrame.from_ndarray(made.picture(1, 5), format="rgb24")
    np.testing.assert_array_equal(picture_of(Frame(frame), "v.mp4"), np.rot90(made.picture(1, 5), -1))
