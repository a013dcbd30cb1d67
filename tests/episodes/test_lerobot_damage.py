"""Damaged and hostile meta data of LeRobot datasets: an error by name or counted exclusions, at once, never another."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import lerobot_dataset as made
import pyarrow as pa
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.episodes.proprioception import Proprioception
from stcr_plugin.errors import StcrError
from stcr_plugin.types import Episode

META = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
HUGE = 10**30
DEEP = json.loads("[" * 400 + "]" * 400)
PARTS = from_mapping(Proprioception, {"arms": {"right": [2, 3]}, "hands": {}}, "test")
VALUES = {
    "few": [None, -1, HUGE, float("nan"), [1, 2], DEEP],
    "many": ["x", "", 0, 1.5, True, float("inf"), [], {}, [[3]], "\ud800", "9" * 5000, [None], {"a": {"b": None}}],
}
KEYS = {
    "info": ["codebase_version", "fps", "chunks_size", "features", "data_path", "video_path"],
    "feature": ["dtype", "shape", "names", "info"],
    "state": ["dtype", "shape", "names"],
    "entry": ["episode_index", "length", "tasks", "action_config"],
    "task": ["task_index", "task"],
}  # fmt: skip
BYTES = {
    "empty": b"",
    "cut": b'{"episode_index": 0, "leng',
    "not UTF-8": b"\xff\xfe\x00",
    "zeros": b"\0" * 64,
    "deep": b"[" * 100_000,
    "a long number": b"9" * 10_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "parquet that is none": b"PAR1" + b"\x15\x04" * 40 + b"PAR1",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    layout = made.Layout(lengths=(12, 10))
    return {"v2.1": made.write_v21(folder / "v21", layout), "v3.0": made.write_v30(folder / "v30", layout)}


@pytest.fixture
def survives(bases, tmp_path):
    """Check that a damaged copy ends in StcrError, exclusions or right pictures, in under a second each."""
    copies = {}
    for version, base in bases.items():
        copies[version] = tmp_path / version
        made.shutil.copytree(base, copies[version])

    def check(version):
        began = time.perf_counter()
        with suppress(StcrError):
            source = LeRobotSource(LeRobotConfig(str(copies[version]), proprioception=PARTS))
            for item in source.episodes():
                if isinstance(item, Episode):
                    index = item.n_frames - 1
                    assert made.number(next(source.frames(item, [index]))) == (int(item.episode_id), index)
                    source.states(item)
        assert time.perf_counter() - began < 1

    return copies, check


def put(path, key, value):
    """Give a key of a JSON file, or of the first line of a JSONL file, another value."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    changed = json.loads(lines[0])
    *parents, last = key
    inner = changed
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text("\n".join([json.dumps(changed), *lines[1:]]))


def cases(named, few):
    """The names of all cases; those that are not among the few that every change is tested with are slow."""
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow(seconds=1)) for name in named]


@pytest.mark.parametrize("values", cases(VALUES, ["few"]))
@pytest.mark.parametrize(("part", "key"), [(part, key) for part, keys in KEYS.items() for key in keys])
def test_any_value_of_the_json_files_ends_in_one_line(survives, part, key, values):
    copies, check = survives
    file = {"entry": "meta/episodes.jsonl", "task": "meta/tasks.jsonl"}.get(part, "meta/info.json")
    place = {"feature": ["features", made.CAMERA], "state": ["features", "observation.state"]}.get(part, [])
    for version in ("v2.1", "v3.0") if values == "many" and file == "meta/info.json" else ("v2.1",):
        path = copies[version] / file
        right = path.read_bytes()
        for value in VALUES[values]:
            put(path, [*place, key], value)
            check(version)
            path.write_bytes(right)


COLUMNS = {
    "null": pa.nulls(2),
    "text": ["x", "12"],
    "blank": ["", ""],
    "negative": [-1, -1],
    "floats": [0.5, 1.5],
    "huge": [1e300, 2.0**63],
    "not finite": [float("nan"), float("inf")],
    "booleans": [True, False],
    "lists": [[0, 1], []],
    "lists of null": [[None], None],
    "deep": [[[[[0]]]], [[[[1]]]]],
    "mappings": [{"a": 1}, None],
    "bytes": [b"\xff", b"0"],
    "dates": pa.array([0, 10**15]).cast(pa.timestamp("ms")),
    "dictionaries": pa.array(["0", "1"]).dictionary_encode(),
    "text that is not UTF-8": pa.array([b"\xff\xfe", b"\xc3"]).view(pa.string()),
    "missing": None,
}


@pytest.mark.parametrize(
    "case", cases(COLUMNS, ["null", "huge", "lists", "mappings", "text that is not UTF-8", "missing"])
)
def test_any_column_of_the_episodes_ends_in_one_line(survives, case):
    copies, check = survives
    path = copies["v3.0"] / META
    right = path.read_bytes()
    for name in made.pq.read_schema(path).names:
        made.edit_parquet(path, {name: COLUMNS[case]})
        check("v3.0")
        path.write_bytes(right)
    made.edit_parquet(path, {"action_config": COLUMNS[case]})
    check("v3.0")


@pytest.mark.parametrize(
    "case", cases(COLUMNS, ["null", "huge", "lists", "mappings", "text that is not UTF-8", "missing"])
)
def test_any_column_of_the_rows_and_the_tasks_ends_in_one_line(survives, case):
    copies, check = survives
    path, column = copies["v3.0"] / DATA, COLUMNS[case]
    right = path.read_bytes()
    for name in made.pq.read_schema(path).names:
        values = None
        if column is not None:
            values = (column if isinstance(column, pa.Array) else pa.array(column)).take(pa.array([0, 1] * 11))
        made.edit_parquet(path, {name: values})
        check("v3.0")
        path.write_bytes(right)
    for name in ("task_index", "__index_level_0__"):
        path = copies["v3.0"] / "meta/tasks.parquet"
        made.pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": ["a", "b"]}), path)
        made.edit_parquet(path, {name: column})
        check("v3.0")


@pytest.mark.parametrize("case", cases(BYTES, ["empty", "cut", "deep", "a pointer"]))
def test_any_bytes_in_any_file_end_in_one_line(survives, case):
    copies, check = survives
    for version in copies:
        files = sorted(path for path in copies[version].rglob("*") if path.is_file())
        for path in files:
            right = path.read_bytes()
            for data in (BYTES[case], right[: len(right) // 2] + BYTES[case], right + BYTES[case]):
                path.write_bytes(data)
                check(version)
            path.write_bytes(right)


def test_files_that_are_folders_end_in_one_line(survives):
    copies, check = survives
    for version in copies:
        for path in sorted(path for path in copies[version].rglob("*") if path.is_file()):
            right = path.read_bytes()
            path.unlink()
            path.mkdir()
            check(version)
            path.rmdir()
            path.write_bytes(right)
