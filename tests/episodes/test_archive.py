from __future__ import annotations

import io
import tarfile

import agibot_dataset as made
import pytest

from stcr_plugin import artefacts
from stcr_plugin.episodes import archive as room
from stcr_plugin.episodes.archive import index, opened
from stcr_plugin.errors import DataError

LONG = "x" * 120 + "/videos/head_color.mp4"
HELD = {
    "1/videos/a.mp4": bytes(range(256)) * 9,
    "1/depth/0.png": b"depth" * 500,
    "2/videos/a.mp4": b"",
    LONG: b"long name" * 80,
}


@pytest.fixture(params=["gnu", "pax"])
def tar(tmp_path, request):
    return write(tmp_path / "a.tar", HELD, {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[request.param])


def write(path, held, kind=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in held.items():
            made.add(archive, name, data)
    return path


def scans(monkeypatch):
    """How often an archive itself was read from here on, as a list that grows; what a process remembers is gone."""
    room._index.cache_clear()
    scan, seen = room._scan, []
    monkeypatch.setattr(room, "_scan", lambda path, *more: seen.append(path) or scan(path, *more))
    return seen


def test_members_are_read_in_place(tar):
    found = index(tar, (".mp4",))
    assert list(found.members) == [name for name in HELD if name.endswith(".mp4")]
    assert (found.refused, found.problem) == ((), "")
    for name, part in found.members.items():
        with opened(part) as file:
            assert file.read() == HELD[name]
            assert file.read(5) == b""
    assert str(part) == f"{tar}!{LONG}"


def test_a_part_seeks_within_itself(tar):
    name = "1/videos/a.mp4"
    with opened(index(tar, (".mp4",)).members[name]) as file:
        assert file.seek(-4, io.SEEK_END) == len(HELD[name]) - 4
        assert (file.read(), file.tell()) == (HELD[name][-4:], len(HELD[name]))
        file.seek(10)
        file.seek(5, io.SEEK_CUR)
        assert file.read(3) == HELD[name][15:18]
        file.seek(10**9)
        assert file.read(3) == b""
        with pytest.raises(ValueError, match="cannot seek to -1"):
            file.seek(-1)


def test_parts_of_one_archive_share_one_open_file(tar):
    parts = index(tar, (".mp4",)).members.values()
    files = [opened(part) for part in parts]
    assert len({file._shared.descriptor for file in files}) == 1
    files[0].read(7)
    assert files[2].read() == HELD[LONG]
    assert files[0].read(3) == HELD["1/videos/a.mp4"][7:10]
    for file in files:
        file.close()


def test_the_list_is_made_once_and_kept(tar, monkeypatch):
    seen = scans(monkeypatch)
    first = index(tar, (".mp4",))
    assert index(tar, (".mp4",)) is first
    room._index.cache_clear()  # as in another process
    assert index(tar, (".mp4",)) == first
    assert seen == [tar]
    assert list(index(tar, (".png",)).members) == ["1/depth/0.png"]
    assert seen == [tar, tar]


def test_a_replaced_archive_is_listed_again(tar):
    assert "3/b.mp4" not in index(tar, (".mp4",)).members
    write(tar, HELD | {"3/b.mp4": b"new"})
    with opened(index(tar, (".mp4",)).members["3/b.mp4"]) as file:
        assert file.read() == b"new"


@pytest.mark.parametrize(
    "kept",
    ["", "[]", "{}", '{"key": 1}', '{"key": KEY, "members": [["m", 0, 999999999]], "refused": [], "problem": ""}'],
)
def test_a_damaged_kept_list_is_made_again(tar, kept, monkeypatch):
    expected = index(tar, (".mp4",))
    path = tar.with_name(f".{tar.name}.index.json")
    key = artefacts.read_json(path)["key"]
    path.write_text(kept.replace("KEY", str(key).replace("'", '"')))
    seen = scans(monkeypatch)
    assert index(tar, (".mp4",)) == expected
    assert seen == [tar]
    assert artefacts.read_json(path)["key"] == key


def test_a_folder_that_may_not_be_written_does_no_harm(tar, monkeypatch):
    def refuse(path, value):
        raise DataError(f"{path}: could not write")

    monkeypatch.setattr(artefacts, "write_json", refuse)
    assert len(index(tar, (".mp4",)).members) == 3
    assert [path.name for path in tar.parent.iterdir()] == [tar.name]


HOSTILE = {
    "/etc/a.mp4": (tarfile.REGTYPE, "", "leaves the archive's folder"),
    "1/../../a.mp4": (tarfile.REGTYPE, "", "leaves the archive's folder"),
    "1\\..\\a.mp4": (tarfile.REGTYPE, "", "leaves the archive's folder"),
    "2/soft.mp4": (tarfile.SYMTYPE, "/etc/passwd", "a link, to /etc/passwd"),
    "2/hard.mp4": (tarfile.LNKTYPE, "good/a.mp4", "a link, to good/a.mp4"),
    "2/pipe.mp4": (tarfile.FIFOTYPE, "", "not a regular file"),
    "2/device.mp4": (tarfile.CHRTYPE, "", "not a regular file"),
    "2/folder.mp4": (tarfile.DIRTYPE, "", "not a regular file"),
    "2/\udcff.mp4": (tarfile.REGTYPE, "", "not UTF-8"),
    "good/a.mp4": (tarfile.REGTYPE, "", "holds this name twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused_and_the_rest_is_read(tmp_path, name):
    kind, link, reason = HOSTILE[name]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        made.add(archive, "good/a.mp4", b"first")
        made.add(archive, name, b"hostile" if kind == tarfile.REGTYPE else b"", kind, link)
        made.add(archive, "good/b.mp4", b"second")
    for found in (index(path, (".mp4",)), _in_another_process(path)):
        assert list(found.members) == ["good/a.mp4", "good/b.mp4"]
        ((refused, why),) = found.refused
        assert refused == name.replace("\udcff", "\\udcff")
        assert reason in why
        assert not found.problem
        with opened(found.members["good/a.mp4"]) as file:
            assert file.read() == b"first"


def _in_another_process(path):
    room._index.cache_clear()
    return index(path, (".mp4",))


@pytest.mark.parametrize("cut", ["in a member", "in a header", "before the end mark"])
def test_a_truncated_archive_gives_what_is_whole(tmp_path, cut):
    path = write(tmp_path / "a.tar", {"1/a.mp4": b"a" * 1000, "2/a.mp4": b"b" * 1000})
    second = index(path, (".mp4",)).members["2/a.mp4"]
    length = {"in a member": second.offset + 500, "in a header": second.offset - 200}.get(cut, second.offset + 1024)
    path.write_bytes(path.read_bytes()[:length])
    found = index(path, (".mp4",))
    assert list(found.members) == ["1/a.mp4", "2/a.mp4"][: 2 if cut == "before the end mark" else 1]
    assert "damaged or truncated" in found.problem


def test_a_damaged_header_is_reported(tmp_path):
    path = write(tmp_path / "a.tar", {"1/a.mp4": b"a" * 1000, "2/a.mp4": b"b" * 1000, "3/a.mp4": b"c"})
    start = index(path, (".mp4",)).members["2/a.mp4"].offset - 512
    data = bytearray(path.read_bytes())
    data[start : start + 512] = b"\x7f" * 512
    path.write_bytes(data)
    found = index(path, (".mp4",))
    assert list(found.members) == ["1/a.mp4"]
    assert "damaged or truncated (no end mark at byte" in found.problem


def test_a_member_of_negative_size_ends_the_scan(tmp_path):
    path = tmp_path / "a.tar"
    good, evil = tarfile.TarInfo("1/a.mp4"), tarfile.TarInfo("2/a.mp4")
    evil.size = -1024
    path.write_bytes(good.tobuf(tarfile.GNU_FORMAT) + evil.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    found = index(path, (".mp4",))
    assert list(found.members) == ["1/a.mp4"]
    assert "damaged or truncated" in found.problem


@pytest.mark.parametrize("mode", ["w:gz", "no tar", "empty", "absent"])
def test_a_file_that_is_not_a_tar_is_named(tmp_path, mode):
    path = tmp_path / "a.tar"
    if mode == "w:gz":
        tarfile.open(path, mode).close()
    elif mode != "absent":
        path.write_bytes(b"no tar at all" * 100 if mode == "no tar" else b"")
    with pytest.raises(DataError, match=r"a\.tar: cannot be (read as an uncompressed tar|opened)"):
        index(path, (".mp4",))


def test_an_archive_that_is_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    with pytest.raises(DataError, match=r"a\.tar: a Git LFS pointer, .*; run `git lfs pull`"):
        index(tmp_path / "a.tar", (".mp4",))
