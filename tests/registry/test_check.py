import json
import shutil
import sqlite3

import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import DataError
from stcr_plugin.registry import check as module
from stcr_plugin.registry import parquet
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report.check_words import check_text
from stcr_plugin.samples.questions import paraphrases

CONFIG = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 3, "heldout": 0, "size": 28},
    "frames": {"width": 28, "height": 28},
    "splits": {"train": {"episodes": 2}, "seen": {"episodes": 1}},
    "pairs": {"per_episode": 4},
    "datasets": {"cot": {"split": "train", "kind": "cot"}, "weak": {"split": "train", "kind": "weak"}},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    registry = tmp_path_factory.mktemp("sound")
    build(from_mapping(DataConfig, CONFIG, "test"), registry)
    return registry


@pytest.fixture
def registry(sound, tmp_path):
    """A build of one's own to damage."""
    return shutil.copytree(sound, tmp_path / "registry")


def problems(registry):
    return [f"{problem.where}: {problem.what}" for problem in check("toy", registry).problems]


def edit(registry, key, change):
    path = registry / "toy" / f"toy_{key}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    change(rows)
    path.write_text(json.dumps(rows), encoding="utf-8")


def edit_manifest(registry, change):
    path = registry / "toy" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_sound_build_has_no_problem(sound):
    report = check("toy_weak", sound)
    assert report.ok
    assert (report.name, report.pairs, report.rows) == ("toy", 12, 32)
    assert check_text(report) == "toy: 21 pictures, 12 pairs and 32 rows checked, no problems"


def test_truncated_picture_is_found_with_the_rows_that_use_it(registry):
    image = registry / read_pairs(registry, "toy", "train")[0].earlier_image
    image.write_bytes(image.read_bytes()[:-200])
    (found,) = problems(registry)
    assert str(image.relative_to(registry)) in found
    assert "cannot be decoded" in found
    assert "used by toy/pairs/" in found
    assert "toy/toy_weak.json rows" in found
    assert check("toy", registry).ok is False


def test_missing_picture_is_found(registry):
    image = read_pairs(registry, "toy", "seen")[0].later_image
    (registry / image).unlink()
    (found,) = problems(registry)
    assert found.startswith(f"{image}: no such file; used by toy/pairs/")


def test_picture_of_another_size_or_content_is_found(registry):
    first, second = (registry / pair.earlier_image for pair in read_pairs(registry, "toy", "train")[::7])
    first.write_bytes(second.read_bytes())
    (found,) = problems(registry)
    assert "is not the picture that was built" in found
    from PIL import Image

    Image.new("RGB", (14, 28)).save(first)
    assert any("is (14, 28), configured is (28, 28)" in found for found in problems(registry))


def swap_answer(row):
    row["answer"] = {"img1": "img2", "img2": "img1"}[row["answer"]]


def swap_label(row):
    text = row["messages"][1]["content"]
    row["messages"][1]["content"] = text[:-1] + {"1": "2", "2": "1"}[text[-1]]


def ask_heldout(row):
    task = row["messages"][0]["content"].partition("put the ")[2].partition(" pad")[0]
    asked = paraphrases("direct", "en", "heldout")[0].replace("{task}", f"put the {task} pad")
    row["messages"][0]["content"] = "<image><image>" + asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_answer, "the answer is"),
        (swap_label, "the target does not end with"),
        (
            lambda row: row["messages"][1].update(content="spatial details: ...\n" + row["messages"][1]["content"]),
            "weak",
        ),
        (lambda row: row["messages"][0].update(content="<image>which?"), "has 1 <image> for 2 pictures"),
        (ask_heldout, "held-out paraphrase"),
        (lambda row: row["images"].reverse(), "the pictures are not those of pair"),
        (lambda row: row["images"].__setitem__(0, "../../secret.png"), "leaves its folder"),
        (lambda row: row.update(pair_id="e:0-1"), "is not among the build's pairs"),
        (lambda row: row.pop("order"), "does not have the form of a row"),
        (lambda row: row.update(messages=row["messages"][:1]), "not enough values"),
    ],
)
def test_doctored_row_is_found_by_file_and_row(registry, change, words):
    edit(registry, "weak", lambda rows: change(rows[4]))
    found = problems(registry)
    assert any(line.startswith("toy/toy_weak.json, row 5: ") and words in line for line in found), found
    assert any("was changed after it was built" in line for line in found)


def test_lost_row_unbalances_the_orders(registry):
    edit(registry, "cot", lambda rows: rows.pop())
    found = problems(registry)
    assert any("is not shown once in each order" in line for line in found)
    assert any("samples are 15, the manifest says 16" in line for line in found)


def test_unreadable_dataset_is_found(registry):
    (registry / "toy" / "toy_weak.json").write_text("[")
    assert any("not readable as JSON" in line for line in problems(registry))


def test_missing_entry_in_dataset_info_is_found(registry):
    info = json.loads((registry / "dataset_info.json").read_text())
    info["toy_weak"]["file_name"] = "toy/other.json"
    (registry / "dataset_info.json").write_text(json.dumps(info))
    assert any("does not list toy_weak" in line for line in problems(registry))


def test_episode_in_two_splits_is_found(registry):
    edit_manifest(registry, lambda m: m["splits"]["seen"].append(m["splits"]["train"][0]))
    assert any("is in train and in seen" in line for line in problems(registry))


def test_doctored_pairs_are_found(registry):
    path = registry / "toy" / "pairs" / "00001.parquet"
    listed = list(parquet.read(path))
    parquet.write(path, [*listed, listed[0], listed[-1] | {"split": "train", "pair_id": "other"}], parquet.PAIRS)
    found = problems(registry)
    assert any("row 5: pair" in line and "a second time" in line for line in found)
    assert any("row 6: episode" in line and "is of seen in the manifest, here of train" in line for line in found)
    assert any("pairs are" in line for line in found)


@pytest.mark.parametrize("damage", [False, True])
def test_rows_are_counted_some_pairs_at_a_time(registry, monkeypatch, damage):
    if damage:
        edit(registry, "weak", lambda rows: rows.pop())
    at_once = problems(registry)
    assert bool(at_once) == damage
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    assert problems(registry) == at_once


def test_a_full_disk_ends_in_one_line(registry, monkeypatch):
    def full(self, pair):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module.PairTable, "add", full)
    with pytest.raises(DataError, match=r"temporary files of the check cannot be written .*disk is full.*TMPDIR"):
        check("toy", registry)
