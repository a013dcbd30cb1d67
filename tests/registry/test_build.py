import collections
import errno
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from fake_source import FakeSource, episode
from lerobot_dataset import Layout, write_v21
from PIL import Image

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import build as build_module
from stcr_plugin.registry import publishing
from stcr_plugin.registry.build import DataConfig, build, load_data_config
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import RowCounts, read_manifest, read_pairs
from stcr_plugin.report.check_words import check_text
from stcr_plugin.types import Exclusion, Segment

TABLETOP = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 6, "heldout": 2, "size": 28},
    "frames": {"width": 28, "height": 28},
    "splits": {
        "train": {"episodes": 4, "group": "seen"},
        "seen": {"episodes": 2, "group": "seen"},
        "heldout": {"episodes": 2, "group": "heldout"},
    },
    "pairs": {"per_episode": 6, "min_seconds": 0.5, "within_phase": 0.5, "trim_idle": 0.02},
    "datasets": {
        "cot": {"split": "train", "kind": "cot", "pairs": 20, "languages": ["en", "zh"]},
        "weak": {"split": "train", "kind": "weak"},
        "forward": {"split": "train", "kind": "weak", "pairs": 5, "orders": "forward"},
    },
}
FAKE = {
    "name": "fake",
    "source": {"kind": "tabletop"},
    "splits": {"train": {"fraction": 1.0}},
    "pairs": {"per_episode": 4},
    "datasets": {"weak": {"split": "train", "kind": "weak"}},
}


def config(base=TABLETOP, **changes):
    return from_mapping(DataConfig, base | changes, "test")


def tree(folder):
    """Path -> digest of every file below; locks are empty and left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def fake(monkeypatch):
    """Make the next build read these hand-written episodes."""

    def use(listed, **more):
        monkeypatch.setattr(build_module, "open_source", lambda *_: FakeSource(listed, **more))

    return use


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An unbroken build, not to be changed."""
    registry = tmp_path_factory.mktemp("registry")
    build(config(), registry)
    return registry


def rows(registry, key, name="toy"):
    return json.loads((registry / name / f"{name}_{key}.json").read_text(encoding="utf-8"))


def test_finished_build_passes_its_check(built):
    report = check("toy", built)
    assert report.ok, check_text(report)
    assert report.pairs == 8 * 6


def test_manifest_counts_what_is_there(built):
    manifest = read_manifest(built, "toy")
    counts = manifest.counts
    assert {split: figures.pairs for split, figures in counts.splits.items()} == {
        "train": 24,
        "seen": 12,
        "heldout": 12,
    }
    assert counts.splits["train"].within_phase == counts.splits["train"].across_phase == 12
    assert sum(counts.splits["train"].distances.values()) == 24
    assert counts.datasets["toy_cot"] == RowCounts(
        pairs=20,
        samples=40,
        answers={"img1": 20, "img2": 20},
        orders={"backward": 20, "forward": 20},
        languages={"en": 20, "zh": 20},
        short_by=0,
        same_text=0,
    )
    assert counts.datasets["toy_forward"].answers == {"img2": 5}
    assert manifest.claims_checked == 40 * 2 * 5
    assert manifest.frames.count == len(list((built / manifest.frames.folder).rglob("*.png")))


def test_only_pictures_that_a_pair_uses_are_written(built):
    used = {
        image
        for split in ("train", "seen", "heldout")
        for pair in read_pairs(built, "toy", split)
        for image in (pair.earlier_image, pair.later_image)
    }
    assert {str(path.relative_to(built)) for path in built.rglob("*.png")} == used


def test_both_orders_stand_side_by_side_with_swapped_pictures(built):
    listed = rows(built, "weak")
    for forward, backward in zip(listed[::2], listed[1::2], strict=True):
        assert forward["pair_id"] == backward["pair_id"]
        assert forward["images"] == backward["images"][::-1]
        assert forward["messages"][0] == backward["messages"][0]
        assert [row["messages"][1]["content"][-4:] for row in (forward, backward)] == ["img2", "img1"]


def test_building_again_changes_no_byte_and_no_time(built, monkeypatch):
    before = times(built)
    monkeypatch.setattr(build_module, "open_source", lambda *_: pytest.fail("a finished build was begun again"))
    assert build(config(), built) == built / "toy" / "manifest.json"
    assert times(built) == before


def test_same_seed_same_bytes_other_seed_other_pairs(built, tmp_path):
    build(config(), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(built)
    build(config(seed=1), tmp_path / "other")
    assert read_pairs(tmp_path / "other", "toy", "train") != read_pairs(built, "toy", "train")


def test_smaller_sets_of_one_draw_are_parts_of_the_larger(tmp_path):
    small, large, apart = ({"pairs": pairs, "format": "json"} for pairs in (5, 15, 15))
    rules = {"small": small | {"draw": "one"}, "large": large | {"draw": "one"}, "apart": apart}
    build(config(datasets={key: {"split": "train", "kind": "weak"} | rule for key, rule in rules.items()}), tmp_path)
    sets = {key: {frozenset(row["images"]) for row in rows(tmp_path, key)} for key in rules}
    assert [len(sets[key]) for key in rules] == [5, 15, 15]
    assert sets["small"] < sets["large"] != sets["apart"]


def test_a_split_more_leaves_the_pairs_of_the_others(built, tmp_path):
    splits = {name: rule for name, rule in TABLETOP["splits"].items() if name != "heldout"}
    build(config(splits=splits), tmp_path)
    for split in splits:
        assert read_pairs(tmp_path, "toy", split) == read_pairs(built, "toy", split)


def test_changed_configuration_replaces_the_build(tmp_path):
    build(config(), tmp_path)
    old = read_manifest(tmp_path, "toy").frames.folder
    smaller = config(
        frames={"width": 14, "height": 14, "format": "jpeg"}, datasets={"small": {"split": "train", "kind": "weak"}}
    )
    build(smaller, tmp_path)
    assert check("toy", tmp_path).ok
    assert not (tmp_path / old).exists()
    assert not list(tmp_path.rglob("*.png"))
    assert set(artefacts.read_json(tmp_path / "dataset_info.json")) == {"toy_small"}
    assert not (tmp_path / "toy" / "toy_cot.json").exists()


def test_fewer_pairs_reuse_pictures_and_drop_the_rest(tmp_path):
    build(config(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    build(config(pairs=TABLETOP["pairs"] | {"per_episode": 5, "min_seconds": 1}), tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert check("toy", tmp_path).ok
    assert before.keys() - after.keys()
    assert any(after[path] == before[path] for path in before.keys() & after.keys())


def test_entries_of_others_in_dataset_info_stay(tmp_path):
    other = {"alpaca": {"file_name": "alpaca.json"}}
    artefacts.write_json(tmp_path / "dataset_info.json", other)
    build(config(), tmp_path)
    assert artefacts.read_json(tmp_path / "dataset_info.json")["alpaca"] == other["alpaca"]


def test_dataset_name_of_another_is_not_taken(tmp_path):
    artefacts.write_json(tmp_path / "dataset_info.json", {"toy_weak": {"file_name": "mine.json"}})
    with pytest.raises(ConfigError, match="another dataset 'toy_weak'"):
        build(config(), tmp_path)
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pears": {}}, "unknown key 'pears', did you mean 'pairs'"),
        ({"name": "My Data"}, "a-z, 0-9 and _"),
        ({"datasets": {"weak": {"split": "tran", "kind": "weak"}}}, "no split 'tran', did you mean 'train'"),
        ({"datasets": {"weak": {"split": "train", "kind": "weak", "languages": ["fr"]}}}, r"\['en', 'zh'\]"),
        ({"datasets": {"weak": {"split": "train", "kind": "weak", "draw": "one"}}}, "set format: json"),
        ({"frames": {"width": 84}}, "both `width` and `height`"),
        ({"frames": {"crop": [0.5, 0, 0.5, 1]}}, "left, top, right, bottom"),
        ({"splits": {"train": {"group": "seen"}}}, "either `episodes`"),
    ],
)
def test_bad_configuration_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        config(**change)


def test_configuration_is_read_from_yaml_with_overrides(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(TABLETOP))
    loaded = load_data_config(path, ["pairs.per_episode=3", "frames.format=jpeg"])
    assert (loaded.pairs.per_episode, loaded.frames.format) == (3, "jpeg")


def test_asking_for_more_pairs_than_there_are_says_how_many(tmp_path):
    greedy = config(datasets={"weak": {"split": "train", "kind": "weak", "pairs": 25}})
    with pytest.raises(ConfigError, match=r"datasets.weak.pairs: asks for 25 pairs and split 'train' has 24"):
        build(greedy, tmp_path)
    assert not list(tmp_path.rglob("*.png"))


# ---- files of the user's ----


def recorded(folder, name="episodes.csv", fps=10):
    """A table of two recordings of eight pictures each; the source that reads it."""
    for take in ("take_1", "take_2"):
        (folder / take).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            Image.new("RGB", (16, 16), (30 * index, 0, 0)).save(folder / take / f"{index}.png")
    lines = "".join(f"{take},put the cup away,{take},{fps}\n" for take in ("take_1", "take_2"))
    (folder / name).write_text("episode,task,path,fps\n" + lines)
    return {"kind": "frames", "root": str(folder), "table": name}


def of_table(source, **changes):
    return config({"name": "mine", "splits": {"train": {"episodes": 2}}, "source": source}, **changes)


@pytest.mark.parametrize("place", ["recordings", "frames", "frames-0123abcd"])
def test_recordings_in_the_builds_folder_are_refused_and_stay(tmp_path, place):
    source = recorded(tmp_path / "mine" / place)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"source.root: .*mine.* is inside .*mine, the folder of the build; move"):
        build(of_table(source), tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("file", ["notes.txt", "take_1/0.png", "pairs/a/0.png", "frames-raw/0.png", "mine_old/0.png"])
def test_file_that_no_build_made_is_refused_and_stays(tmp_path, file):
    path = tmp_path / "registry" / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    source = recorded(tmp_path / "recordings")
    with pytest.raises(ConfigError, match=f"name mine: .*{file} was not made by a build; move it elsewhere"):
        build(of_table(source), tmp_path / "registry")
    assert tree(tmp_path / "registry") == {f"mine/{file}": hashlib.sha256(b"precious").hexdigest()}


def test_note_beside_a_finished_build_neither_breaks_nor_loses_it(tmp_path):
    source = recorded(tmp_path / "recordings")
    registry = tmp_path / "registry"
    build(of_table(source), registry)
    (registry / "mine" / "notes.txt").write_text("precious")
    (registry / "mine" / ".DS_Store").write_text("a file browser's")
    build(of_table(source), registry)
    with pytest.raises(ConfigError, match=r"notes.txt was not made by a build"):
        build(of_table(source, seed=1), registry)
    assert check("mine", registry).ok
    (registry / "mine" / "notes.txt").unlink()
    build(of_table(source, seed=1), registry)
    assert (registry / "mine" / ".DS_Store").is_file()
    assert len(list((registry / "mine").glob("frames-*"))) == 1


# ---- pictures ----


def test_picture_is_cropped_then_resized(fake, tmp_path):
    fake([episode("e", 20)])
    build(config(FAKE, frames={"crop": [0.25, 0, 0.75, 1], "format": "png"}), tmp_path)
    image = sorted(tmp_path.rglob("*.png"))[0]
    with Image.open(image) as picture:
        assert picture.size == (8, 12)
        assert picture.getpixel((0, 0)) == (int(image.stem),) * 3
    build(config(FAKE, frames={"width": 6, "height": 5, "crop": [0, 0, 0.5, 1]}), tmp_path)
    with Image.open(sorted(tmp_path.rglob("*.png"))[0]) as picture:
        assert picture.size == (6, 5)
    assert check("fake", tmp_path).ok


# ---- bad data ----


def test_unreadable_episode_is_set_aside_whole_and_counts_stay_right(fake, tmp_path):
    fake([episode(f"e{number}") for number in range(5)], unreadable=["e2"])
    build(config(FAKE, datasets={"weak": {"split": "train", "kind": "weak", "pairs": 18}}), tmp_path)
    manifest = read_manifest(tmp_path, "fake")
    assert manifest.splits["train"] == ["e0", "e1", "e3", "e4"]
    assert manifest.counts.splits["train"].pairs == 16
    assert manifest.counts.datasets["fake_weak"].short_by == 2
    assert [(item.what, item.where) for item in manifest.excluded] == [("episode", "e2")]
    assert sum(manifest.counts.excluded.values()) == 1
    assert not list(tmp_path.rglob("e2"))
    assert check("fake", tmp_path).ok


def test_unreadable_episode_stops_the_build_when_asked_to(fake, tmp_path):
    fake([episode("e0"), episode("e1")], unreadable=["e1"])
    with pytest.raises(DataError, match=r"episode e1: frame \d+ cannot be decoded; fix it"):
        build(config(FAKE, on_bad_data="error"), tmp_path)
    assert not (tmp_path / "fake" / "manifest.json").exists()


def test_mended_episode_is_taken_up_by_the_next_run(fake, tmp_path):
    listed = [episode("e0"), episode("e1")]
    fake(listed, unreadable=["e1"])
    with pytest.raises(DataError):
        build(config(FAKE, on_bad_data="error"), tmp_path / "a")
    fake(listed)
    build(config(FAKE, on_bad_data="error"), tmp_path / "a")
    build(config(FAKE, on_bad_data="error"), tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_build_of_which_no_picture_can_be_read_is_not_finished(fake, tmp_path, form):
    values = FAKE | {"datasets": {"weak": {"split": "train", "kind": "weak", "format": form}}}
    listed = [episode("e0"), episode("e1")]
    fake(listed, unreadable=["e0", "e1"])
    with pytest.raises(DataError, match=r"splits.train: not one pair .*; skipped 2 times: frame # cannot be dec"):
        build(config(values), tmp_path)
    assert not (tmp_path / "fake" / "manifest.json").exists()
    fake(listed)
    build(config(values), tmp_path)
    assert read_manifest(tmp_path, "fake").counts.datasets["fake_weak"].pairs == 8
    assert check("fake", tmp_path).ok


def test_split_to_evaluate_on_that_is_left_empty_is_told(fake, tmp_path):
    fake([episode("e0"), episode("e1")], unreadable=["e1"])
    splits = {"train": {"episodes": ["e0"]}, "heldout": {"episodes": ["e1"]}}
    with pytest.raises(DataError, match=r"splits.heldout: not one pair is left.* 1 times: frame # cannot be decoded"):
        build(config(FAKE, splits=splits), tmp_path)


@pytest.mark.parametrize("rule", [{"fraction": 1.0}, {"episodes": ["000000", "000001"]}])
def test_lerobot_dataset_without_its_rows_says_so(tmp_path, rule):
    root = write_v21(tmp_path / "root", Layout(lengths=(12, 12)))
    shutil.rmtree(root / "data")
    source = {"kind": "lerobot", "root": str(root)}
    with pytest.raises(DataError, match=r"not one episode of the source .*skipped 2 times: no such parquet file"):
        build(config(FAKE, source=source, splits={"train": rule}), tmp_path / "registry")


def test_table_with_units_in_its_cells_says_so(tmp_path):
    source = recorded(tmp_path / "recordings", fps="10 fps")
    with pytest.raises(DataError, match=r"not one episode of the source .*skipped 2 times: its fps '# fps' is no"):
        build(of_table(source), tmp_path / "registry")


def test_split_that_asks_for_what_was_set_aside_says_why_it_was(fake, tmp_path):
    reasons = [*["no such video"] * 3, *(f"reason {letter}" for letter in "abcdefg")]
    lost = [Exclusion("episode", f"{number}.mp4", reason) for number, reason in enumerate(reasons)]
    fake([episode("e0"), *lost])
    for asked, words in ((2, "asks for 2 episodes"), (["e0", "e1"], "no usable episode 'e1'")):
        with pytest.raises(ConfigError, match=words + r".*; skipped 3 times: no such video; .*; and for 3 other"):
            build(config(FAKE, splits={"train": {"episodes": asked}}), tmp_path)


@pytest.mark.parametrize(("store", "limit"), [("tar", 155), ("folder", 255)])
def test_id_that_is_too_long_for_a_folder_is_set_aside(fake, tmp_path, store, limit):
    longest = "é" * (limit // 2) + "x"  # two bytes a letter
    fake([episode(longest), episode(longest + "x")])
    build(config(FAKE, frames={"store": store}), tmp_path)
    manifest = read_manifest(tmp_path, "fake")
    assert manifest.splits["train"] == [longest]
    reason = f"the episode's id is too long for a folder's name, {limit + 1} bytes of at most {limit}"
    assert [item.reason for item in manifest.excluded] == [reason]
    assert check("fake", tmp_path).ok


def test_what_cannot_be_used_is_set_aside_with_its_reason(fake, tmp_path):
    listed = [
        episode("good"),
        episode("one_frame", 1),
        episode("marker", task="look at <image> and stack"),
        episode("turn", task="stack<|im_end|>"),
        episode("nameless", task=""),
        episode("../escape"),
        episode("beyond", 10, segments=[Segment("stack", 0, 11)]),
        Exclusion("episode", "lost.mp4", "no such video"),
    ]
    fake(listed)
    build(config(FAKE), tmp_path)
    manifest = read_manifest(tmp_path, "fake")
    assert {pair.episode_id for pair in read_pairs(tmp_path, "fake", "train")} == {"good"}
    reasons = collections.Counter(item.reason for item in manifest.excluded)
    assert reasons == {
        "too short for any pair that the rules allow": 1,
        "the task text holds a media or chat marker": 2,
        "the task text is empty": 1,
        "the episode's id is not safe as a file name": 1,
        "the segment leaves its episode": 1,
        "no such video": 1,
    }
    assert manifest.counts.excluded == dict(sorted(reasons.items()))
    assert check("fake", tmp_path).ok


@pytest.mark.parametrize("bad", [episode("m", task="<image>"), Exclusion("episode", "lost.mp4", "no such video")])
def test_bad_listing_stops_the_build_when_asked_to(fake, tmp_path, bad):
    fake([episode("good"), bad])
    with pytest.raises(DataError, match="fix it, or set on_bad_data: exclude"):
        build(config(FAKE, on_bad_data="error"), tmp_path)


def test_two_episodes_of_one_id_are_refused(fake, tmp_path):
    fake([episode("e"), episode("e")])
    with pytest.raises(DataError, match="same id 'e'"):
        build(config(FAKE), tmp_path)


def test_cot_without_states_is_refused_before_any_picture(fake, tmp_path):
    fake([episode("e")], with_states=False)
    with pytest.raises(ConfigError, match=r"datasets.cot.kind: .*use kind: weak"):
        build(config(FAKE, datasets={"cot": {"split": "train", "kind": "cot"}}), tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_false_claim_of_a_source_stops_the_build(monkeypatch, tmp_path):
    from stcr_plugin.episodes.tabletop import TabletopSource
    from stcr_plugin.types import Claim

    monkeypatch.setattr(TabletopSource, "claims", lambda self, state: (Claim("gripper", "open"),))
    with pytest.raises(
        DataError, match=r"pair seen-\d+:\d+-\d+, (forward|backward), img[12]: .*gripper = 'open'.*false"
    ):
        build(config(), tmp_path)
    assert not (tmp_path / "toy" / "manifest.json").exists()


# ---- interruptions ----

CHILD = """
import json, sys
from stcr_plugin.config import from_mapping
from stcr_plugin.registry.build import DataConfig, build
build(from_mapping(DataConfig, json.loads(sys.argv[1]), "test"), sys.argv[2])
"""


def start(values, registry):
    return subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(values), str(registry)], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_build_goes_on_to_the_same_bytes(tmp_path):
    values = TABLETOP | {"source": TABLETOP["source"] | {"seen": 50}}
    values["splits"] = TABLETOP["splits"] | {"train": {"episodes": 45, "group": "seen"}}
    child = start(values, tmp_path / "killed")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").rglob("*.png"))) < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.png")}
    assert len(left) >= 30
    assert not (tmp_path / "killed" / "toy" / "manifest.json").exists()

    build(from_mapping(DataConfig, values, "test"), tmp_path / "killed")
    build(from_mapping(DataConfig, values, "test"), tmp_path / "unbroken")
    assert tree(tmp_path / "killed") == tree(tmp_path / "unbroken")
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in left.items())


@pytest.mark.slow
def test_two_builds_at_once_in_one_place(built, tmp_path):
    children = [start(TABLETOP, tmp_path / "shared") for _ in range(2)]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert tree(tmp_path / "shared") == tree(built)


@pytest.mark.parametrize("free", [0, 7, "00001", "toy_weak", "dataset_info", "manifest"])
@pytest.mark.slow
def test_full_disk_leaves_nothing_half_written_and_a_rerun_goes_on(built, tmp_path, monkeypatch, free):
    """The disk is full after `free` files, or at the file of that name."""
    written = []
    replace = os.replace

    def full(source, target):
        if len(written) == free or (isinstance(free, str) and os.path.basename(target).startswith(free)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"could not write \d+ bytes: No space left on device; free space"):
        build(config(), tmp_path)
    assert not (tmp_path / "toy" / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.part"))
    whole = {path: digest for path, digest in tree(tmp_path).items() if "/.build-" not in path}
    assert whole.items() <= tree(built).items()

    monkeypatch.setattr(os, "replace", replace)
    build(config(), tmp_path)
    assert tree(tmp_path) == tree(built)


def test_missing_picture_is_written_again(built, tmp_path):
    build(config(), tmp_path)
    sorted(tmp_path.rglob("*.png"))[3].unlink()
    build(config(), tmp_path)
    assert tree(tmp_path) == tree(built)


def killed(*_):
    raise KeyboardInterrupt


def test_pictures_that_a_lost_machine_damaged_are_written_again(built, tmp_path, monkeypatch):
    write_json = artefacts.write_json

    def to_the_receipt(path, value):
        if "-picture-" in path.name:
            killed()
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_json", to_the_receipt)
        with pytest.raises(KeyboardInterrupt):
            build(config(), tmp_path)
    empty, cut, whole, *_ = sorted(tmp_path.rglob("*.png"))
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-20])
    before = whole.stat().st_mtime_ns
    build(config(), tmp_path)
    assert tree(tmp_path) == tree(built)
    assert whole.stat().st_mtime_ns == before


def test_pictures_are_on_the_disk_before_the_receipt_that_counts_on_them(tmp_path, monkeypatch):
    events = []
    write_bytes, sync = artefacts.write_bytes, os.sync

    def writing(path, data, durable=True):
        events.append("picture" if not durable else "receipt" if "-picture-" in path.name else "")
        write_bytes(path, data, durable)

    monkeypatch.setattr(artefacts, "write_bytes", writing)
    monkeypatch.setattr(os, "sync", lambda: (events.append("sync"), sync()))
    build(config(shard_episodes=3), tmp_path)
    told = [event for event in events if event]
    receipts = [place for place, event in enumerate(told) if event == "receipt"]
    assert len(receipts) == 4
    for start, end in itertools.pairwise([0, *receipts]):
        assert "picture" in told[start:end]
        assert told[end - 1] == "sync"


OTHER = {"frames": {"width": 14, "height": 14}, "datasets": {"small": {"split": "train", "kind": "weak"}}}


@pytest.fixture(scope="module")
def replaced(tmp_path_factory):
    """An unbroken build of another configuration, not to be changed."""
    registry = tmp_path_factory.mktemp("replaced")
    build(config(**OTHER), registry)
    return registry


@pytest.mark.parametrize("after", range(5))
@pytest.mark.slow
def test_build_that_was_killed_while_it_cleaned_up_is_mended_by_one_run(built, replaced, tmp_path, monkeypatch, after):
    """Killed before the n-th of the old build's three datasets and its pictures, and of the staged work, is deleted."""
    registry = shutil.copytree(built, tmp_path / "killed")
    deleted = []

    def counting(real):
        def delete(path, *more, **options):
            if len(deleted) == after:
                killed()
            deleted.append(path)
            return real(path, *more, **options)

        return delete

    publish = publishing.publish

    def published(*arguments):
        publish(*arguments)
        monkeypatch.setattr(shutil, "rmtree", counting(shutil.rmtree))
        monkeypatch.setattr(pathlib.Path, "unlink", counting(pathlib.Path.unlink))

    monkeypatch.setattr(publishing, "publish", published)
    with pytest.raises(KeyboardInterrupt):
        build(config(**OTHER), registry)
    monkeypatch.undo()
    build(config(**OTHER), registry)
    assert tree(registry) == tree(replaced)
    assert not list(registry.glob("toy/.build-*"))


@pytest.mark.parametrize("damage", ["deleted", "cut"])
@pytest.mark.slow
def test_plan_of_a_killed_build_is_not_believed_against_the_disk(built, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(publishing, "prune", killed)
    with pytest.raises(KeyboardInterrupt):
        build(config(), tmp_path)
    monkeypatch.undo()
    picture = sorted(tmp_path.rglob("*.png"))[3]
    if damage == "deleted":
        picture.unlink()
    else:
        (tmp_path / "toy" / "toy_weak.json").unlink()
        picture.write_bytes(picture.read_bytes()[:-20])
    build(config(), tmp_path)
    assert tree(tmp_path) == tree(built)


# ---- LLaMA-Factory's own loader ----


@pytest.mark.slow
def test_llamafactory_loads_the_registry(built):
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    arguments = DataArguments(dataset_dir=str(built), dataset="toy_cot", media_dir=str(built))
    (attributes,) = get_dataset_list(["toy_cot"], str(built))
    model = ModelArguments(model_name_or_path="none", cache_dir=str(built / ".cache"))
    dataset = _load_single_dataset(attributes, model, arguments, Seq2SeqTrainingArguments(output_dir=str(built)))
    listed = rows(built, "cot")
    assert len(dataset) == len(listed)
    for loaded, row in zip(dataset, listed, strict=True):
        assert loaded["_prompt"] == [row["messages"][0]]
        assert loaded["_response"] == [row["messages"][1]]
        assert loaded["_images"] == [str(built / image) for image in row["images"]]


# Every group of the simulator before episodes that serve several tasks were added.
OLDER = TABLETOP | {
    "source": {
        "kind": "tabletop", "seen": 6, "heldout": 2, "regress": 4, "shapes": 2, "push": 2, "take_off": 2, "size": 28,
    },
    "splits": TABLETOP["splits"] | {
        group: {"episodes": count, "group": group}
        for group, count in {"regress": 4, "shapes": 2, "push": 2, "take_off": 2}.items()
    },
    "pairs": TABLETOP["pairs"] | {"label": "progress", "tie_within": 0.05},
}  # fmt: skip


def contents(registry):
    """SHA-256 of the pixels, pairs and rows of the build toy; its folder of pictures is named by our code."""
    manifest, total = read_manifest(registry, "toy"), hashlib.sha256()
    folder = manifest.frames.folder
    for path in sorted((registry / folder).rglob("*.png")):
        total.update(str(path.relative_to(registry / folder)).encode() + Image.open(path).tobytes())
    for split in manifest.splits:
        total.update(repr(read_pairs(registry, "toy", split)).replace(folder, "").encode())
    for path in sorted((registry / "toy").glob("toy_*.json")):
        total.update(path.read_text(encoding="utf-8").replace(folder, "").encode())
    return total.hexdigest()


def test_older_configurations_keep_their_pictures_pairs_and_rows(tmp_path):
    build(config(OLDER), tmp_path)
    assert contents(tmp_path) == "72238b39f7b72dc8542e5f71d40781332be3ca50130109039a0298a036f8a2fe"


SHARED = TABLETOP | {
    "source": {"kind": "tabletop", "seen": 2, "heldout": 0, "tasks": 3, "naming": 3, "size": 28},
    "splits": {"train": {"episodes": 6, "group": ["tasks", "naming"]}, "plain": {"episodes": 2, "group": "seen"}},
    "pairs": {"per_episode": 6, "min_seconds": 2.0, "label": "progress", "tie_within": 0.05, "tasks": "opposed"},
    "datasets": {
        "cot": {"split": "train", "kind": "cot", "languages": ["en", "zh"]},
        "weak": {"split": "train", "kind": "weak", "languages": ["en", "zh"]},
    },
}


def test_tasks_on_the_same_pictures_share_their_files_and_differ_in_text_and_answer(tmp_path):
    build(config(SHARED), tmp_path)
    assert check("toy", tmp_path).ok
    pairs = read_pairs(tmp_path, "toy", "train")
    twins = collections.defaultdict(list)
    for pair in pairs:
        twins[pair.earlier_image, pair.later_image].append(pair)
    assert {len(both) for both in twins.values()} == {2}
    for one, other in twins.values():
        assert one.task != other.task
        assert {one.closer, other.closer} == {"earlier", "later"}
        assert one.episode_id == other.episode_id
    assert {pair.closer for pair in read_pairs(tmp_path, "toy", "plain")} == {"later"}
    named = {pair.pair_id: pair.task for pair in pairs}
    rows = json.loads((tmp_path / "toy" / "toy_cot.json").read_text(encoding="utf-8"))
    assert len(rows) == 2 * len(pairs)
    assert {row["language"] for row in rows} == {"en", "zh"}
    said = collections.defaultdict(dict)
    for row in rows:
        task = named[row["pair_id"]]
        assert task in row["messages"][0]["content"]
        said[tuple(row["images"])][task] = row["messages"][1]["content"]
    for texts in said.values():  # the same pictures in the same order, described for each of their tasks
        assert len(set(texts.values())) == len(texts) == 2
