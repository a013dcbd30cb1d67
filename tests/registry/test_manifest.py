import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import parquet
from stcr_plugin.registry.manifest import (
    Manifest,
    PairCounts,
    SetRule,
    count_excluded,
    count_pairs,
    dataset_rows,
    frame_rows,
    read_manifest,
    read_pairs,
    total,
)
from stcr_plugin.types import Pair


def pair(number, **more):
    values = {"earlier_image": "toy/a.png", "later_image": "toy/b.png", "phase": "a"} | more
    return Pair(f"e:{number}", "e", "train", "stack", number, number + 3, 0.3, **values)


def rows_of(*pairs):
    return [vars(one) for one in pairs]


MINIMAL = {
    "name": "toy",
    "config": {},
    "config_digest": "0",
    "seed": 0,
    "counts": {"splits": {}, "datasets": {}, "excluded": {}},
    "frames": {"folder": "toy/frames-0", "count": 0},
    "splits": {},
    "shards": [],
    "datasets": {},
    "checksums": {"files": {}},
    "excluded": [],
}


@pytest.fixture
def registry(tmp_path):
    """A finished build, as far as its readers look."""
    (tmp_path / "toy").mkdir()
    shards = [{"split": "train", "pairs": "pairs/00000.parquet", "frames": "frames/00000.parquet"}]
    manifest = MINIMAL | {"splits": {"train": ["e"], "seen": []}, "shards": shards}
    (tmp_path / "toy" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"toy_weak": {"file_name": "toy/toy_weak.json"}}))
    return tmp_path


HALF = "\ud83d"  # half of a surrogate pair, which no name of a file can hold


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": [{"split": "train", "pairs": HALF, "frames": HALF}]},
        {"datasets": {"toy_weak": [f"toy/{HALF}.json"]}},
        {"datasets": {"toy_weak": [f"toy/{HALF}"]}},
        {"datasets": {"toy_weak": ["toy/\0.json"]}},
    ],
)
def test_name_that_no_file_can_have_is_one_line(registry, changes):
    manifest = registry / "toy" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    readers = {
        "shards": [
            lambda: read_pairs(registry, "toy", "train"),
            lambda: list(frame_rows(registry, read_manifest(registry, "toy"))),
        ],
        "datasets": [lambda: list(dataset_rows(registry, "toy_weak"))],
    }
    for read in readers[next(iter(changes))]:
        with pytest.raises(DataError, match=r"cannot be read as Parquet|not readable as JSON") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_dataset_that_the_configuration_does_not_have_is_named(registry):
    values = MINIMAL | {"datasets": {"toy_weak": ["toy/toy_weak.json"]}}
    (registry / "toy" / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"manifest\.json: lists 'toy_weak', which its configuration does not have"):
        _ = read_manifest(registry, "toy").rules


def test_dataset_info_that_is_not_a_mapping_is_named(registry):
    (registry / "dataset_info.json").write_text("null")
    with pytest.raises(DataError, match=r"dataset_info\.json: expected a mapping of datasets; fix or delete it"):
        read_manifest(registry, "toy_weak")


def write(registry, rows):
    """Without our schema: columns as they come."""
    path = registry / "toy" / "pairs" / "00000.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


@pytest.mark.parametrize("name", ["toy", "toy_weak"])
def test_pairs_are_read_by_build_and_by_dataset(registry, name):
    write(registry, rows_of(pair(1), pair(2)))
    assert read_pairs(registry, name, "train") == [pair(1), pair(2)]
    assert read_pairs(registry, name, "seen") == []


def test_unknown_names_come_with_the_nearest(registry):
    with pytest.raises(ConfigError, match="no build or dataset 'toy_weka'; did you mean 'toy_weak'"):
        read_pairs(registry, "toy_weka", "train")
    with pytest.raises(ConfigError, match="toy: has no split 'trian'; did you mean 'train'"):
        read_pairs(registry, "toy", "trian")


def test_empty_registry_says_to_build(tmp_path):
    with pytest.raises(ConfigError, match="no finished build; run `stcr data build"):
        read_manifest(tmp_path, "toy")


@pytest.mark.parametrize("image", ["../outside.png", "/etc/passwd", "toy/../../x.png"])
def test_picture_that_leaves_the_registry_is_refused_with_its_row(registry, image):
    write(registry, rows_of(pair(1), pair(2, later_image=image)))
    with pytest.raises(DataError, match=r"pairs/00000.parquet, row 2: .*leaves its folder"):
        read_pairs(registry, "toy", "train")


@pytest.mark.parametrize(
    "change", [{"later": None}, {"later": 0}, {"closer": "img1"}, {"orders": ["sideways"]}, {"pair_id": None}]
)
def test_row_that_is_not_a_pair_is_refused_with_its_row(registry, change):
    write(registry, [*rows_of(pair(1)), vars(pair(2)) | change])
    with pytest.raises(DataError, match=r"pairs/00000.parquet, row 2: is not a pair"):
        read_pairs(registry, "toy", "train")


def test_manifest_without_its_keys_is_refused(registry):
    (registry / "toy" / "manifest.json").write_text('{"name": "toy"}')
    with pytest.raises(DataError, match=r"manifest\.json: key 'config' is missing; .*; delete it and build again"):
        read_manifest(registry, "toy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "many"}, "seed: "),
        ({"frames": {"folder": "x", "count": None}}, "frames.count: "),
        (
            {"counts": MINIMAL["counts"] | {"splits": {"train": {"episodes": 1}}}},
            "'counts.splits.train.pairs'",
        ),
        ({"shards": [{"split": "train"}]}, "'shards.0.pairs' is missing"),
        ({"excluded": ["e"]}, "excluded.0: "),
    ],
)
def test_field_of_a_wrong_type_is_named(registry, change, words):
    (registry / "toy" / "manifest.json").write_text(json.dumps(MINIMAL | change))
    with pytest.raises(DataError) as caught:
        read_manifest(registry, "toy")
    assert words in str(caught.value)


def test_manifest_is_written_as_it_was_read(tmp_path):
    """Also one of an older version, which lacks some fields and has rules that are not known any more."""
    path = tmp_path / "manifest.json"
    rule = {"split": "train", "kind": "weak", "shuffle": True}
    artefacts.write_json(path, MINIMAL | {"config": {"datasets": {"weak": rule}, "frames": {"width": None}}})
    before = json.loads(path.read_text())
    manifest = Manifest.read(path)
    assert manifest.rules == {"toy_weak": SetRule("train", "weak")}
    assert manifest.stored.loose
    manifest.write(path)
    assert json.loads(path.read_text()) == before | {
        "frames": {"folder": "toy/frames-0", "count": 0, "format": "png"},
        "provenance": {},
    }


def test_pairs_are_counted_by_phase_and_distance():
    figures = count_pairs([pair(1), pair(2, phase="a>b"), pair(3, phase="")], ["e", "f"])
    assert figures == PairCounts(
        episodes=2, pairs=3, frames=2, within_phase=1, across_phase=1, closer={"later": 3}, distances={"3": 3}
    )


def test_counts_of_shards_add_up_with_distances_in_order_of_number():
    parts = [count_pairs([pair(1)], ["e"]), count_pairs([pair(2, phase="a>b"), pair(3, phase="")], ["f"])]
    parts[1] = dataclasses.replace(parts[1], distances={"10": 1, "2": 1})
    summed = total(parts)
    assert (summed.episodes, summed.pairs, summed.closer) == (2, 3, {"later": 3})
    assert list(summed.distances.items()) == [("2", 1), ("3", 1), ("10", 1)]


def test_row_with_a_column_that_is_not_ours_is_refused(registry):
    write(registry, [vars(pair(1)) | {"extra": 1}])
    with pytest.raises(DataError, match="row 1: is not a pair"):
        read_pairs(registry, "toy", "train")


def test_rows_survive_parquet(tmp_path):
    parquet.write(tmp_path / "a.parquet", rows_of(pair(1), pair(2, orders=("forward",))), parquet.PAIRS)
    assert [row["orders"] for row in parquet.read(tmp_path / "a.parquet")] == [["forward", "backward"], ["forward"]]
    parquet.write(tmp_path / "b.parquet", rows_of(pair(1), pair(2, orders=("forward",))), parquet.PAIRS)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a.parquet: cannot be read as Parquet"):
        list(parquet.read(tmp_path / "a.parquet"))


def test_reasons_that_differ_in_numbers_are_counted_together():
    assert count_excluded(["frame 3 is cut", "no video", "frame 12 is cut"]) == {"frame # is cut": 2, "no video": 1}
