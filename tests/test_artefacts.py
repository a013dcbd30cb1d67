import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]


# ---- whole or not at all ----


def test_file_and_its_folders_are_written(tmp_path):
    artefacts.write_bytes(tmp_path / "a" / "b" / "file.bin", b"\x00\x01")
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path / "a" / "b") == ["file.bin"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("existed", [False, True])
def test_full_disk_leaves_the_old_file_or_none(tmp_path, monkeypatch, fails, existed):
    path = tmp_path / "file.txt"
    if existed:
        path.write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(DataError, match=r"file\.txt: could not write 3 bytes: No space left on device; free space"):
        artefacts.write_text(path, "new")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == ({"file.txt": "old"} if existed else {})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, the device that is always full")
def test_device_that_is_really_full_is_told(tmp_path, monkeypatch):
    part = tmp_path / f".file.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        artefacts.write_bytes(tmp_path / "file", b"1" * 100)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not write"):
        artefacts.write_text(tmp_path / "file" / "below", "text")


ODD = {
    "device": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file, and stays as it is; name a file"),
    "pipe": (os.mkfifo, "is a pipe, not a file"),
    "folder": (Path.mkdir, "is a folder, not a file"),
    "ring": (lambda path: path.symlink_to(path.name), r"cannot be written to \(Too many levels of symbolic links\)"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_a_file_is_refused_and_stays(tmp_path, odd):
    path = tmp_path / "out"
    make, words = ODD[odd]
    make(path)
    before = path.lstat()
    for write in (artefacts.write_text, lambda where, _: artefacts.destination(where)):
        with pytest.raises(DataError, match=f"out: {words}"):
            write(path, "text")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["a" * 300, "b/" * 3000 + "c", "bad\udcff", "nul\0"])
def test_path_that_cannot_be_is_one_line(tmp_path, name):
    for write in (
        lambda path: artefacts.write_text(path, "text"),
        lambda path: artefacts.whole_folder(path).__enter__(),
    ):
        with pytest.raises(DataError) as caught:
            write(tmp_path / name)
        assert len(str(caught.value).encode().splitlines()) == 1
        assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())


def test_name_that_is_almost_too_long_is_written(tmp_path):
    artefacts.write_text(tmp_path / ("x" * 255), "text")
    assert os.listdir(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("there", [True, False])
def test_links_stay_and_what_they_lead_to_is_replaced(tmp_path, there):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to("real/file.txt")
    (tmp_path / "link").symlink_to("real/folder")
    if there:
        (tmp_path / "real" / "file.txt").write_text("old")
        (tmp_path / "real" / "folder").mkdir()
    artefacts.write_text(tmp_path / "link.txt", "new")
    with artefacts.whole_folder(tmp_path / "link") as part:
        (part / "new").touch()
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "real").rglob("*")) == ["file.txt", "folder", "new"]


KILLED = """
import os, signal, sys
from stcr_plugin import artefacts
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
artefacts.write_text(sys.argv[1], "new" * 1000)
"""


def test_killed_writer_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")])
    assert child.returncode == -9
    assert (tmp_path / "file").read_text() == "old"


def test_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    out = tmp_path / "deep" / "out"
    for text in ("old", "new"):
        with artefacts.whole_folder(out) as part:
            (part / text).write_text(text)
            assert not (out / text).exists()
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_folder_that_fails_leaves_the_old_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def fail():
        with artefacts.whole_folder(out) as part:
            (part / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(OSError, match="not empty"), artefacts.whole_folder(out, replace=False):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


# ---- JSON ----


def test_json_keeps_order_signs_and_refuses_nan(tmp_path):
    value = {"z": "夹爪", "a": [1, 2.5, None, True]}
    artefacts.write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text(encoding="utf-8").startswith('{\n  "z": "夹爪"')
    assert artefacts.read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        artefacts.write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_rows_are_read_back_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    artefacts.write_jsonl(path, [{"a": 1}, {"b": "行"}])
    assert list(artefacts.read_jsonl(path)) == [{"a": 1}, {"b": "行"}]
    path.write_text('{"a": 1}\n\n{"b": \n')
    with pytest.raises(DataError, match=r"x\.jsonl, row 3: not readable as JSON"):
        list(artefacts.read_jsonl(path))


def test_line_separators_inside_a_text_do_not_split_its_row(tmp_path):
    """JSON may hold U+2028 and U+0085 as they are; str.splitlines would cut there."""
    rows = [{"text": "one\u2028two\u0085three\x0bfour"}, {"text": "next"}]
    artefacts.write_jsonl(tmp_path / "x.jsonl", rows)
    assert list(artefacts.read_jsonl(tmp_path / "x.jsonl")) == rows


@pytest.mark.parametrize("read", [artefacts.read_json, lambda path: list(artefacts.read_jsonl(path))])
def test_missing_and_unreadable_files_are_told(tmp_path, read):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nowhere")
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bad.*not readable"):
        read(tmp_path / "bad")
    with pytest.raises(DataError, match="not readable"):
        read(tmp_path)


# ---- paths of data files ----


@pytest.mark.parametrize("relative", ["a.png", "a/b/../c.png", "./x", "a/..", ""])
def test_paths_below_the_root_are_given(tmp_path, relative):
    assert artefacts.inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize("relative", ["..", "../x", "a/../../x", "/etc/passwd", "a/../../../../etc/passwd"])
def test_paths_that_leave_the_root_are_refused(tmp_path, relative):
    with pytest.raises(DataError, match="leaves its folder"):
        artefacts.inside(tmp_path / "root", relative)


def test_sibling_whose_name_starts_with_the_roots_is_outside(tmp_path):
    (tmp_path / "root-other").mkdir()
    with pytest.raises(DataError, match="leaves its folder"):
        artefacts.inside(tmp_path / "root", "../root-other/x")


def test_links_are_judged_by_where_they_lead(tmp_path):
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "in").symlink_to(root / "real")
    (root / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(root)
    assert artefacts.inside(root, "in/x") == root.resolve() / "real" / "x"
    assert artefacts.inside(tmp_path / "alias", "real/x") == root.resolve() / "real" / "x"
    with pytest.raises(DataError, match="leaves its folder"):
        artefacts.inside(root, "out/x")


# ---- digests ----


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    value = {"b": [1, 2], "a": {"y": "é", "x": None}}
    assert artefacts.digest(value) == artefacts.digest({"a": {"x": None, "y": "é"}, "b": [1, 2]})
    others = [{**value, "b": [2, 1]}, {**value, "c": 0}, {**value, "b": ["1", 2]}, [value]]
    assert len({artefacts.digest(other) for other in [value, *others]}) == 5


def test_digests_are_the_published_function(tmp_path):
    # SHA-256 of "abc", FIPS 180-2, appendix B.1.
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artefacts.sha256(tmp_path / "abc") == known
    # ... and of `"abc"` with its quotes, which is the value as JSON: printf '"abc"' | sha256sum
    assert artefacts.digest("abc") == "6cc43f858fbb763301637b5af970e2a46b46f461f27e5a0f41e009c59b827b25"


def test_random_generators_follow_their_key_alone():
    first = artefacts.rng(0, "shards", "train").permutation(100).tolist()
    assert artefacts.rng(0, "shards", "train").permutation(100).tolist() == first
    assert artefacts.rng(1, "shards", "train").permutation(100).tolist() != first
    # printf '[7]' | sha256sum | head -c 16: builds depend on this rule
    assert artefacts.rng(7).random() == np.random.default_rng(0x589FFD3ACF522AE8).random()


def test_code_digest_follows_the_rooms_named(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("1")
    (tmp_path / "pairs.py").write_text("2")
    monkeypatch.setattr(artefacts, "__file__", str(tmp_path / "artefacts.py"))

    def digests():
        artefacts.code_digest.cache_clear()  # in one process the code stays what it was when it was loaded
        return artefacts.code_digest("room", "pairs.py"), artefacts.code_digest("room")

    before = digests()
    (tmp_path / "room" / "note.txt").write_text("not code")
    assert digests() == before
    (tmp_path / "pairs.py").write_text("3")
    after = digests()
    artefacts.code_digest.cache_clear()
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_device_is_no_json():
    with pytest.raises(DataError, match="/dev/zero: is a device; name a file"):
        artefacts.read_json("/dev/zero")


# ---- locks ----

HOLDER = """
import sys, time
from pathlib import Path
from stcr_plugin import artefacts
with artefacts.locked(sys.argv[1]):
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    Path(sys.argv[4]).touch()
"""


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock for so many seconds; returns once it does."""
    children = []

    def start(seconds):
        arguments = [tmp_path / "deep" / "lock", tmp_path / "held", seconds, tmp_path / "done"]
        children.append(subprocess.Popen([sys.executable, "-c", HOLDER, *map(str, arguments)]))
        wait_for(tmp_path / "held")
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_second_process_waits_until_the_first_is_done(tmp_path, holder):
    holder(0.3)
    with artefacts.locked(tmp_path / "deep" / "lock"):
        assert (tmp_path / "done").exists()


@pytest.mark.parametrize("taken", ["out", "out/.lock/folder"])
def test_lock_where_no_folder_can_be_is_told(tmp_path, taken):
    (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / taken).write_text("of someone else")
    with (
        pytest.raises(DataError, match=r"out: cannot be written into \(.*\); name a folder that can"),
        artefacts.locked(tmp_path / "out" / ".lock"),
    ):
        raise AssertionError


def test_lock_passes_on_what_goes_wrong_inside(tmp_path):
    with pytest.raises(OSError, match="of the work"), artefacts.locked(tmp_path / "lock"):
        raise OSError("of the work")


TAKER = """
import os, sys
from pathlib import Path
from stcr_plugin import artefacts
from stcr_plugin.errors import StcrError
lock, alone = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(400):
    try:
        with artefacts.locked(lock, alone=alone):
            os.mkdir(alone)  # fails where another process is inside
            os.rmdir(alone)
            lock.unlink()
    except StcrError:
        pass
"""


@pytest.mark.slow(seconds=1)
def test_a_lock_that_its_holder_deletes_keeps_others_out(tmp_path):
    command = [sys.executable, "-c", TAKER, str(tmp_path / "lock"), str(tmp_path / "alone")]
    takers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [taker.communicate(timeout=60)[1] for taker in takers] == [""] * 3


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    child = holder(600)
    child.kill()
    child.wait()
    with artefacts.locked(tmp_path / "deep" / "lock"):
        assert not (tmp_path / "done").exists()


# ---- models ----


def model_in(folder, weights=b"weights", **adapter):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    if adapter:
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder


def test_digest_of_a_model_follows_names_and_contents_of_what_decides_its_answers(tmp_path):
    folder = model_in(tmp_path / "model")
    first = artefacts.model_digest(folder)
    for name in ("trainer_state.json", "training_args.bin", "optimizer.pt"):
        (folder / name).write_text("{}")
    assert artefacts.model_digest(folder) == first == artefacts.model_digest(model_in(tmp_path / "same"))
    (folder / "tokenizer.json").write_text("{}")
    second = artefacts.model_digest(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    third = artefacts.model_digest(folder)
    (folder / "other.safetensors").write_bytes(b"others")
    assert len({first, second, third, artefacts.model_digest(folder)}) == 4


def test_digest_of_an_adapter_includes_its_base_by_content_or_by_its_name_on_the_hub(tmp_path):
    one, other = model_in(tmp_path / "one", b"1"), model_in(tmp_path / "other", b"2")
    bases = [str(one), str(other), "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"]
    adapters = [model_in(tmp_path / f"a{k}", base_model_name_or_path=base) for k, base in enumerate(bases)]
    digests = [artefacts.model_digest(folder) for folder in adapters]
    assert len(set(digests)) == 4
    (one / "model.safetensors").write_bytes(b"3")
    assert [artefacts.model_digest(folder) == old for folder, old in zip(adapters, digests, strict=True)] == [
        False, True, True, True,
    ]  # fmt: skip


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no model there; give a folder with config\.json"):
        artefacts.model_digest(tmp_path / "nowhere")


# ---- a disk that others fill ----


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # torch.save
    ],
    ids=["disk", "quota", "safetensors", "torch"],
)
def test_full_disk_is_named_with_its_folder_and_the_need(tmp_path, error):
    folder = tmp_path / "not" / "made yet"
    with pytest.raises(DataError) as caught, artefacts.room_for(folder, lambda: 2_500_000):
        raise error
    assert str(caught.value).startswith(f"{folder}: no space is left for it: about 2.5 MB are to be written, ")
    assert str(caught.value).endswith(" MB are free; free space or name another folder, then run again")
    assert caught.value.__cause__ is error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_device_that_is_always_full_is_recognised(tmp_path):
    with pytest.raises(DataError, match="no space is left"), artefacts.room_for(tmp_path, lambda: 1):
        Path("/dev/full").write_bytes(b"x")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), RuntimeError("boom"), ConfigError("c")])
def test_other_errors_pass_a_writer_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, artefacts.room_for(tmp_path, lambda: 1):
        raise error
    assert caught.value is error


def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(tmp_path: Path) -> None:
    pointer = tmp_path / "info.json"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    for read in (artefacts.read_json, lambda path: list(artefacts.read_jsonl(path))):
        with pytest.raises(DataError, match=r"a Git LFS pointer, .*; run `git lfs pull`"):
            read(pointer)


@pytest.mark.parametrize("row", ["[" * 100_000, "1" * 5_000, "{", "NaN x"])
def test_a_row_that_is_not_json_is_named_whatever_it_is(tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"a": 1}}\r\n{row}\r\n')
    rows = artefacts.read_jsonl(tmp_path / "rows.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: not readable as JSON"):
        next(rows)


def test_half_a_surrogate_pair_is_written_with_replacement(tmp_path: Path) -> None:
    artefacts.write_json(tmp_path / "a.json", {"text": "cut \ud83d"})
    assert artefacts.read_json(tmp_path / "a.json") == {"text": "cut ?"}
    assert artefacts.digest("cut \ud83d") != artefacts.digest("cut ?")


def test_a_byte_order_mark_is_no_part_of_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert artefacts.read_json(path) == {"a": 1}
    assert list(artefacts.numbered_jsonl(path)) == [(1, {"a": 1})]
