import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.registry.overlap import (
    REACH,
    SAMPLED,
    Side,
    compare,
    evaluated_side,
    merged,
    nearest,
    overlap,
    prompt_variant,
    side,
)
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.report.overlap_words import overlap_text
from stcr_plugin.samples.questions import fill_task, paraphrases

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("STCR_REAL_DATA", REPOSITORY.parent / "shared/real")) / "g1_pick_bottle"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not at {REAL} (set STCR_REAL_DATA)")

TOY = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 4, "heldout": 2, "size": 56},
    "frames": {"width": 56, "height": 56},
    "splits": {"train": {"episodes": 3, "group": "seen"}, "heldout": {"episodes": 2, "group": "heldout"}},
    "pairs": {"per_episode": 6},
    "datasets": {
        "cot": {"split": "train", "kind": "cot"},
        "few": {"split": "train", "kind": "weak", "pairs": 1},
        "dev": {"split": "heldout", "kind": "weak"},
    },
}


def made(folder, **changes):
    build(from_mapping(DataConfig, TOY | changes, "test"), folder, WorkerPool(workers=1))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The same recordings as they are, small in tar files, and without pictures; and those of another seed."""
    folder = tmp_path_factory.mktemp("registry")
    made(folder)
    made(folder, name="tars", frames={"width": 56, "height": 56, "store": "tar"})
    made(folder, name="small", frames={"width": 42, "height": 42, "format": "jpeg"})
    made(folder, name="bare", frames={"format": "none"})
    made(folder, name="seeded", seed=1)
    return folder


def prints(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (count, 4), dtype=np.uint64)


def flipped(row, bits, seed):
    """`row` with so many bits of it flipped."""
    row = row.copy()
    for bit in np.random.default_rng(seed).choice(256, bits, replace=False).tolist():
        row[bit // 64] ^= np.uint64(1 << bit % 64)
    return row


def made_side(name, rows, owners, frames=None, sums=None):
    """A side of hand-made fingerprints, an episode an owner."""
    owners = np.array(owners, dtype=np.int64)
    frames = np.arange(len(rows)) if frames is None else np.array(frames)
    sums = np.arange(len(rows), dtype=np.uint64) if sums is None else np.array(sums, dtype=np.uint64)
    episodes = tuple((f"{name} {number}", f"{name}-{number}") for number in range(max(owners.tolist(), default=-1) + 1))
    return Side(name, episodes, frozenset(), frozenset(), owners, frames, sums, np.array(rows, dtype=np.uint64))


# ---- near fingerprints ----


def test_bands_find_every_print_within_reach_and_none_beyond():
    known = prints(4000)
    asked = np.array([flipped(known[60 * bits], bits, bits) for bits in range(64)])
    nobody = np.full(64, -1)
    found = nearest(known, np.zeros(4000, dtype=np.int64), asked, own=nobody, scanned=0)
    assert found.tolist() == [min(bits, REACH + 1) for bits in range(64)]


@pytest.mark.parametrize("scanned", [0, 10**6])
def test_flips_spread_over_all_bands_are_found(scanned):
    """The worst case of the guarantee: 47 bits, 3 in each band but one."""
    known = prints(300)
    row = known[7].copy()
    bytes_of = row.view(np.uint8)
    for band in range(16):
        bytes_of[band] ^= 0b11
        bytes_of[16 + band] ^= 0b1 if band else 0
    found = nearest(known, np.zeros(300, dtype=np.int64), row[None], own=np.array([-1]), scanned=scanned)
    assert found.tolist() == [47]


@pytest.mark.parametrize("scanned", [0, 10**6])
def test_pictures_of_a_static_scene_are_compared_exactly_and_without_their_own_episode(scanned):
    scene = prints(1)[0]
    rows = np.array([flipped(scene, number % 9, number) for number in range(600)])
    owners = np.arange(600) // 100
    found = nearest(rows, owners, rows[::50], own=owners[::50], scanned=scanned)
    every = np.bitwise_count(rows[::50, None] ^ rows[None]).sum(axis=2)
    every[owners[::50, None] == owners[None]] = 256
    assert found.tolist() == every.min(axis=1).tolist()


def test_prints_of_one_episode_alone_have_no_neighbour_elsewhere():
    rows = prints(20)
    assert set(nearest(rows, np.zeros(20, dtype=np.int64), rows, own=np.zeros(20), scanned=0).tolist()) == {REACH + 1}


# ---- calibration by the data ----


def walk(seed, steps, bits=8):
    """Fingerprints of one episode: each frame differs from the one before in `bits` bits."""
    rows = [prints(1, seed)[0]]
    for step in range(1, steps):
        rows.append(flipped(rows[-1], bits, 1000 * seed + step))
    return rows


def test_copies_stand_out_against_the_distance_of_neighbouring_frames():
    train = [row for seed in range(5) for row in walk(seed, 12)]
    trained = made_side("a", train, np.arange(60) // 12)
    copies = made_side("b", [flipped(row, 3, number) for number, row in enumerate(train[::3])], np.arange(20) // 4)
    others = made_side("c", [row for seed in range(5, 9) for row in walk(seed, 5)], np.arange(20) // 5)
    near = compare(trained, copies).near
    assert (near.neighbours, near.gap, near.median) == (8, 1, 3)
    assert (near.share, near.share_within) == (100, 0)
    assert (compare(trained, others).near.share, compare(trained, others).near.median) == (0, REACH + 1)


def test_static_scene_is_as_near_between_its_training_episodes():
    """A fixed threshold would call every one of these a copy; the share within the training says what it means."""
    scene = prints(1)[0]
    rows = [flipped(scene, 1 + number % 3, number) for number in range(160)]
    near = compare(
        made_side("a", rows[:120], np.arange(120) // 12), made_side("b", rows[120:], np.arange(40) // 10)
    ).near
    assert near.median <= 6
    assert near.share == pytest.approx(near.share_within, abs=15)
    assert near.share > 50


def test_training_of_single_pictures_gives_no_measure_instead_of_a_share():
    trained = made_side("a", prints(6), range(6))
    found = compare(trained, made_side("b", prints(3, 1), [0, 0, 0]))
    near = found.near
    assert (near.neighbours, near.gap, near.share) == (None, None, None)
    assert "nearness cannot be measured" in overlap_text(found)


def test_no_more_pictures_than_said_are_looked_at_and_the_seed_draws_them():
    trained = made_side("a", [row for seed in range(3) for row in walk(seed, 4)], np.arange(12) // 4)
    many = made_side("b", prints(SAMPLED + 500, 9), np.arange(SAMPLED + 500) // 100)
    first = compare(trained, many)
    assert (first.near.sampled, first.near.evaluated) == (SAMPLED, SAMPLED + 500)
    assert first == compare(trained, many)


# ---- builds ----


def test_splits_of_one_build_share_no_episode_and_no_picture(registry):
    found = overlap("toy:train", "toy:heldout", registry)
    assert not found.leaks
    assert (found.episodes.shared, found.episodes.trained, found.episodes.evaluated) == (0, 3, 2)
    assert found.pictures.evaluated > 10
    assert found.questions.shared > 0
    assert set(found.questions.named) <= set(paraphrases("direct", "en"))


def test_build_shares_everything_with_itself(registry):
    found = overlap("toy", "toy", registry)
    assert found.leaks
    for shared in (found.episodes, found.pictures, found.questions, found.tasks):
        assert shared.shared == shared.trained == shared.evaluated > 0
    assert (found.near.share, found.near.median) == (100, 0)
    assert "shared episodes: 5 of 5 evaluated, 5 in training (heldout-00000, " in overlap_text(found)
    assert " more)" in overlap_text(found)  # of the pictures, only the first ten are named


def test_dataset_has_only_what_its_rows_show(registry):
    pair_rows = json.loads((registry / "toy" / "toy_few.json").read_text())
    few = side("toy_few", registry)
    assert [episode_id for _, episode_id in few.episodes] == [pair_rows[0]["episode_id"]]
    assert len(few.prints) == 2
    assert len(few.questions) == len(few.tasks) == 1
    assert overlap("toy_few", "toy:train", registry).pictures.shared == 2
    assert overlap("toy_dev", "toy_cot", registry).leaks is False


def test_same_recordings_at_another_size_are_found_by_episode(registry):
    found = overlap("toy:train", "small:train", registry)
    assert (found.episodes.shared, found.pictures.shared) == (3, 0)
    assert found.near.median < found.near.median_within


def test_same_episode_ids_of_another_seed_are_other_episodes(registry):
    found = overlap("toy:train", "seeded:train", registry)
    assert {name for _, name in side("toy:train", registry).episodes} & {
        name for _, name in side("seeded:train", registry).episodes
    }
    assert not found.leaks


def test_pictures_in_tar_files_are_compared_alike(registry):
    loose, tars = overlap("toy:train", "toy:heldout", registry), overlap("tars:train", "tars:heldout", registry)
    assert tars.row() | {"trained": "", "evaluated": ""} == loose.row() | {"trained": "", "evaluated": ""}
    assert overlap("toy", "tars", registry).pictures.shared == overlap("toy", "toy", registry).pictures.shared


def test_build_without_pictures_has_none_that_are_identical_or_near(registry):
    found = overlap("bare", "toy", registry)
    assert (found.episodes.shared, found.pictures.shared, found.near) == (5, 0, None)
    assert overlap("bare", "bare", registry).pictures.shared == 0
    assert "unknown, a side has no pictures" in overlap_text(found)


def frames_source(root, pictures):
    """Two recordings as folders of PNG files, with the table that names them."""
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(pictures[name][number]).save(root / name / f"{number:03d}.png")
    with open(root / "table.csv", "w", newline="") as file:
        rows = [["episode", "task", "path"], ["one", "stack the cups", "one"], ["two", "stack the cups", "two"]]
        csv.writer(file).writerows(rows)
    return {"kind": "frames", "root": str(root), "table": "table.csv", "fps": 10}


def test_episodes_of_a_table_are_known_by_what_they_were_read_from(tmp_path):
    """Every table may number its episodes from 1, and may name a recording anew."""
    rng = np.random.default_rng(0)
    shown = {name: rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8) for name in ("one", "two")}
    source = frames_source(tmp_path / "root", shown)
    listed_in = {"train": [("1", "one")], "test": [("1", "two")], "every": [("1", "two"), ("2", "./one")]}
    for width, (table, listed) in enumerate(listed_in.items(), 14):
        lines = [["episode", "task", "path"], *([name, "stack the cups", path] for name, path in listed)]
        with open(tmp_path / "root" / f"{table}.csv", "w", newline="") as file:
            csv.writer(file).writerows(lines)
        read = source | {"table": f"{table}.csv"}
        split = {"all": {"episodes": len(listed)}}
        made(
            tmp_path,
            name=table,
            source=read,
            frames={"width": width, "height": 14},  # so that no picture is identical
            splits=split,
            datasets={},
        )
    found = overlap("train", "test", tmp_path)
    assert (found.leaks, found.episodes.shared, found.pictures.shared) == (False, 0, 0)
    found = overlap("train", "every", tmp_path)
    assert (found.episodes.shared, found.episodes.named, found.pictures.shared) == (1, ("2",), 0)
    both = merged([side("train", tmp_path), side("every", tmp_path)])
    assert len(both.episodes) == 2
    assert compare(both, side("test", tmp_path)).episodes.named == ("1",)


def test_copied_recordings_under_another_root_are_found_by_their_pictures(tmp_path):
    rng = np.random.default_rng(0)
    shown = {name: rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8) for name in ("one", "two")}
    fresh = shown | {"two": rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)}
    rest = {"frames": {}, "splits": {"train": {"episodes": 2}}, "datasets": {}}
    # All pairs that there are, so that both builds show every frame.
    rest["pairs"] = {"per_episode": 200, "min_seconds": 0.1, "max_seconds": 1.1}
    made(tmp_path, name="here", source=frames_source(tmp_path / "a", shown), **rest)
    made(tmp_path, name="there", source=frames_source(tmp_path / "b", fresh), **rest)
    found = overlap("here", "there", tmp_path)
    assert found.episodes.shared == 0
    assert (found.pictures.shared, found.pictures.evaluated) == (12, 24)
    assert found.leaks
    assert all(name.startswith("one frame ") for name in found.pictures.named)
    assert (found.tasks.shared, found.tasks.named) == (1, ("stack the cups",))


@pytest.mark.slow
@needs_real
def test_real_copy_stands_out_where_other_episodes_of_the_same_scene_do_not(tmp_path):
    """A robot before one table: held-out episodes lie among the training ones, a resized copy of these does not."""
    rest = {
        "source": {"kind": "lerobot", "root": str(REAL), "threads": 1},
        "splits": {"train": {"episodes": 15}, "test": {"episodes": 8}},
        "pairs": {"per_episode": 5},
        "datasets": {},
    }
    made(tmp_path, name="real", frames={"width": 224, "height": 168, "format": "jpeg"}, **rest)
    made(tmp_path, name="copy", frames={"width": 168, "height": 126, "format": "jpeg"}, **rest)
    heldout, copy = (overlap("real:train", other, tmp_path) for other in ("real:test", "copy:train"))
    assert (heldout.leaks, copy.leaks, copy.pictures.shared) == (False, True, 0)
    assert heldout.near.share < heldout.near.share_within + 20
    assert copy.near.share > 90
    assert copy.near.median < copy.near.median_within / 2


def test_sides_are_merged_without_counting_twice(registry):
    whole = side("toy", registry)
    both = merged([side("toy_cot", registry), side("toy_few", registry), side("toy:heldout", registry)])
    assert sorted(both.episodes) == sorted(whole.episodes)
    assert (both.tasks, both.questions) == (whole.tasks, whole.questions)
    assert sorted(both.sums.tolist()) == sorted(whole.sums.tolist())
    assert compare(both, whole).near == compare(merged([both, whole]), whole).near


def test_side_of_an_evaluation_is_the_pairs_that_are_asked(registry):
    pairs = read_pairs(registry, "toy", "heldout")[:1]
    asked = evaluated_side(registry, "toy", "heldout", pairs=pairs, questions=["which is {task}?"])
    assert (asked.name, asked.questions) == ("toy:heldout", {"which is {task}?"})
    assert asked.frames.tolist() == [pairs[0].earlier, pairs[0].later]
    assert compare(side("toy:heldout", registry), asked).pictures.shared == len(set(asked.sums.tolist()))


@pytest.mark.parametrize("task", ["stack the cups.", "把杯子放好。", "a {b} c"])
def test_wording_is_the_paraphrase_again(task):
    for text in paraphrases("cot", "en"):
        assert prompt_variant("<image><image>" + fill_task(text, task), task) == text
    assert prompt_variant("<image>which is later?", "...") == "which is later?"


# ---- the command ----


def said(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_command_fails_where_an_episode_is_shared_and_writes_the_figures(registry, tmp_path, capsys):
    file = tmp_path / "overlap.json"
    code, out, _ = said(capsys, "data", "overlap", "toy_cot", "small:train", "--registry", registry, "--out", file)
    assert code == 1
    assert "shared episodes: 3 of 3 evaluated" in out
    row = json.loads(file.read_text())
    assert row == json.loads(json.dumps(overlap("toy_cot", "small:train", registry).row()))
    code, out, _ = said(capsys, "data", "overlap", "toy_cot", "toy:heldout", "--registry", registry)
    assert code == 0
    assert "shared episodes: 0 of 2 evaluated" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toi", "no build or dataset 'toi'; did you mean 'toy'"),
        ("toy:heldot", "toy: has no split 'heldot'; did you mean 'heldout'"),
        ("toy_cot:train", "toy_cot is a dataset, which has no splits"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(registry, name, message):
    with pytest.raises(ConfigError, match=message):
        side(name, registry)


def test_cut_index_is_named(registry, tmp_path, capsys):
    folder = shutil.copytree(registry / "toy", tmp_path / "toy")
    shutil.copy(registry / "dataset_info.json", tmp_path)
    index = folder / "frames" / "00000.parquet"
    index.write_bytes(index.read_bytes()[:-9])
    code, _, err = said(capsys, "data", "overlap", "toy", "toy", "--registry", tmp_path)
    assert code == 1
    assert "00000.parquet: cannot be read as Parquet" in err
