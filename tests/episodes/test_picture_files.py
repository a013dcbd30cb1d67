"""The one reader of picture files: as the camera was held, in 8-bit RGB, or refused by name; the same by every door."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.episodes import picture_files
from stcr_plugin.episodes.picture_files import decoded, list_pictures
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.judge import ROOT, _files
from stcr_plugin.release import client

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
UPRIGHT = np.zeros((40, 30, 3), np.uint8)
UPRIGHT[:20, :, 0], UPRIGHT[:, :15, 1], UPRIGHT[:20, 15:, 2] = 250, 120, 60
# EXIF mark -> how the sensor's picture lies then, so that the turn gives UPRIGHT.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def save(path, pixels, mark=1, **options):
    exif = Image.Exif()
    exif[0x0112] = mark
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("mark", sorted(STORED))
def test_picture_is_turned_as_the_camera_was_held(tmp_path, suffix, mark):
    file = save(tmp_path / f"a.{suffix}", STORED[mark], mark, quality=100)
    assert decoded(file).shape == UPRIGHT.shape
    assert np.abs(decoded(file).astype(int) - UPRIGHT)[[5, 5, 30, 30], [5, 25, 5, 25]].max() < 8


def colours():
    yield "grey", Image.new("L", (4, 3), 90), (90, 90, 90)
    yield "grey_alpha", Image.new("LA", (4, 3), (90, 255)), (90, 90, 90)
    yield "alpha", Image.new("RGBA", (4, 3), (10, 200, 30, 255)), (10, 200, 30)
    yield "palette", Image.new("RGB", (4, 3), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 200, 30)
    yield "bits", Image.new("1", (4, 3), 1), (255, 255, 255)


@pytest.mark.parametrize(("name", "image", "colour"), list(colours()), ids=[one[0] for one in colours()])
def test_every_kind_of_8_bit_picture_becomes_rgb(tmp_path, name, image, colour):
    image.save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png") == colour).all()


def test_cmyk_photo_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(decoded(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() < 8


def test_colours_of_16_bits_are_scaled_by_their_whole_range(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + struct.pack(">3H", 0xF000, 0x8000, 0x1000) * 4 for _ in range(3))
    head = struct.pack(">2I5B", 4, 3, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert (decoded(tmp_path / "a.png") == (0xF0, 0x80, 0x10)).all()


def bad(folder):
    """Picture that must not be shown -> why."""
    yield save_as(folder / "depth.png", Image.fromarray(np.full((3, 4), 3000, np.uint16))), "mode 'I;16', not 8-bit"
    yield save_as(folder / "ints.tif", Image.new("I", (4, 3), 70000)), "mode 'I', not 8-bit colours"
    yield save_as(folder / "floats.tif", Image.new("F", (4, 3), 0.5)), "mode 'F', not 8-bit colours"
    (folder / "lfs.png").write_bytes(LFS)
    yield folder / "lfs.png", "a Git LFS pointer, not the file itself"
    (folder / "empty.png").touch()
    yield folder / "empty.png", "cannot be opened as a picture|an empty file"
    (folder / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    yield folder / "phone.jpg", "is HEIC or AVIF, which cannot be read here"
    (folder / "text.png").write_text("no picture")
    yield folder / "text.png", "cannot be opened as a picture"


def save_as(path, image):
    image.save(path)
    return path


DOORS = {
    "frames": decoded,
    "judge": lambda file: np.asarray(open_picture(ROOT, _files([file], file.parent)[0], "judge")),
    "evaluation": lambda file: np.asarray(open_picture(file.parent, file.name, "a:0-1")),
    "in memory": lambda file: np.asarray(Image.open(ROOT / _files([Image.open(file)], file.parent / "made")[0])),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_shows_the_same_picture_and_refuses_the_same(tmp_path, door):
    turned = save(tmp_path / "a.png", STORED[6], 6)
    assert (DOORS[door](turned) == UPRIGHT).all()
    for file, why in bad(tmp_path):
        if door != "in memory" or "mode" in why:
            with pytest.raises(DataError, match=why):
                DOORS[door](file)


def test_client_script_reads_as_the_judge_does(tmp_path):
    def shown(path):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(client.data_url(str(path)).partition(",")[2]))))

    assert (shown(save(tmp_path / "a.png", STORED[6], 6)) == shown(save(tmp_path / "b.png", UPRIGHT))).all()
    deep, _ = next(bad(tmp_path))
    with pytest.raises(SystemExit, match=r"depth\.png: has more than 8 bits per colour"):
        client.data_url(str(deep))


def test_size_of_a_folder_is_that_of_the_turned_pictures(tmp_path):
    save(tmp_path / "1.jpg", UPRIGHT, 1)
    save(tmp_path / "2.jpg", STORED[6], 6)
    files, size = list_pictures(tmp_path, tmp_path)
    assert size == (30, 40)
    assert {decoded(file, size).shape for file in files} == {(40, 30, 3)}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_marks_that_give_two_sizes_in_a_folder_are_refused(tmp_path, suffix):
    save(tmp_path / f"1.{suffix}", UPRIGHT, 1)
    save(tmp_path / f"2.{suffix}", UPRIGHT, 6)
    with pytest.raises(DataError, match=r"40x30 pixels in a folder of 30x40, turned by their EXIF marks"):
        list_pictures(tmp_path, tmp_path)


def test_damaged_exif_data_do_not_spoil_a_sound_picture(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=100)
    assert decoded(tmp_path / "a.jpg").shape == UPRIGHT.shape


@pytest.mark.parametrize("size", [(9000, 10000), (20000, 10000)])
def test_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, size, monkeypatch):
    Image.new("1", size).save(tmp_path / "a.png")
    monkeypatch.setattr(picture_files, "loaded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"a\.png: has more than 89,478,485 pixels"):
        decoded(tmp_path / "a.png")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), [1]])
def test_array_that_is_no_picture_is_refused_by_the_judge(tmp_path, array):
    with pytest.raises(DataError, match=r"picture 1: .* is not a picture; give a uint8 array \[height, width, 3\]"):
        _files([array], tmp_path)
