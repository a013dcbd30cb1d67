"""The same rows, however they are stored and wherever the work is done."""

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter

import pytest
from fake_source import FakeSource, episode
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import build as build_module
from stcr_plugin.registry import parquet, picture_store, training_sets
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import PairCounts, dataset_rows, frame_rows, read_manifest, read_pairs
from stcr_plugin.registry.receipts import Context, Drawn, Pictured, Shard, Staged
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.types import GivenPair

TOY = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 9, "heldout": 0, "size": 28},
    "splits": {"train": {"episodes": 7}, "dev": {"episodes": 2}},
    "pairs": {"per_episode": 6, "min_seconds": 0.5},
    "datasets": {
        "cot": {"split": "train", "kind": "cot", "pairs": 20},
        "weak": {"split": "train", "kind": "weak"},
    },
    "shard_episodes": 3,
}
ALONE = WorkerPool(workers=1)


def config(base=TOY, **changes):
    return from_mapping(DataConfig, base | changes, "test")


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def in_parquet(rule):
    return {key: values | {"format": "parquet"} for key, values in rule.items()}


@pytest.fixture(scope="module")
def in_json(tmp_path_factory):
    registry = tmp_path_factory.mktemp("json")
    build(config(), registry, ALONE)
    return registry


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    registry = tmp_path_factory.mktemp("parquet")
    build(config(datasets=in_parquet(TOY["datasets"])), registry, ALONE)
    return registry


def test_parquet_holds_the_rows_of_json(in_json, sharded):
    def key(row):
        return json.dumps([row["pair_id"], row["order"]])

    assert check("toy", sharded).ok
    assert sorted(dataset_rows(sharded, "toy_weak"), key=key) == sorted(dataset_rows(in_json, "toy_weak"), key=key)
    assert json.loads((sharded / "dataset_info.json").read_text())["toy_weak"]["file_name"] == "toy/toy_weak"
    assert {path.suffix for path in (sharded / "toy" / "toy_weak").iterdir()} == {".parquet"}


def test_fewer_pairs_are_a_fair_draw_over_the_shards(sharded):
    counts = read_manifest(sharded, "toy").counts.datasets["toy_cot"]
    assert (counts.pairs, counts.samples, counts.short_by) == (20, 40, 0)
    assert len({row["episode_id"] for row in dataset_rows(sharded, "toy_cot")}) == 7


def staged(distances):
    """Shards of one split, whose pairs are so far apart: native frames -> how many pairs, for each shard."""
    return Staged(
        [Shard(number, "train", ()) for number in range(len(distances))],
        [Drawn(0, {}, 0, 0, []) for _ in distances],
        [Pictured([], 0, PairCounts(1, sum(counts.values()), distances=counts), []) for counts in distances],
    )


def test_draw_over_shards_is_uniform_over_pairs():
    """Over many seeds every pair is taken equally often, whatever the size of its shard."""
    taken = Counter()
    for seed in range(60):
        rule = {"split": "train", "kind": "weak", "pairs": 12, "format": "parquet"}
        context = Context(config(seed=seed, datasets={"weak": rule}), None, None)
        chosen = training_sets.choices(context, staged([{"5": 18}, {"5": 18}, {"5": 6}]))
        assert sum(choice.take for listed in chosen.values() for choice in listed) == 12
        taken.update({number: listed[0].take for number, listed in chosen.items()})
    shares = [taken[number] / (60 * 12) for number in range(3)]
    assert shares == pytest.approx([18 / 42, 18 / 42, 6 / 42], abs=0.05)


def test_format_auto_follows_the_number_of_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(training_sets, "_JSON_SAMPLES", 50)
    build(config(), tmp_path, ALONE)
    files = read_manifest(tmp_path, "toy").datasets
    assert files["toy_cot"] == ["toy/toy_cot.json"]
    assert len(files["toy_weak"]) == 3
    assert check("toy", tmp_path).ok


# ---- pictures in tar files ----


def test_tar_holds_the_pictures_of_the_folder(in_json, tmp_path):
    build(config(frames={"store": "tar"}), tmp_path, ALONE)
    assert check("toy", tmp_path).ok
    assert not list(tmp_path.rglob("*.png"))
    loose = {(row["episode_id"], row["frame"]): row for row in frame_rows(in_json, read_manifest(in_json, "toy"))}
    for row in frame_rows(tmp_path, read_manifest(tmp_path, "toy")):
        twin = loose.pop((row["episode_id"], row["frame"]))
        assert (row["sha256"], row["fingerprint"]) == (twin["sha256"], twin["fingerprint"])
        assert picture_store.read(tmp_path, row["image"]) == picture_store.read(in_json, twin["image"])
    assert not loose


def test_tar_is_one_that_any_tool_unpacks(tmp_path):
    build(config(frames={"store": "tar"}), tmp_path, ALONE)
    manifest = read_manifest(tmp_path, "toy")
    members = {}
    for path in (tmp_path / manifest.frames.folder).iterdir():
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    assert len(members) == manifest.frames.count
    row = next(frame_rows(tmp_path, manifest))
    assert members[f"{row['episode_id']}/{row['frame']:06d}.png"] == picture_store.read(tmp_path, row["image"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../a.tar#0+5", "leaves its folder"),
        ("a.tar#600+10", "it was cut"),
        ("b.tar#0+5", "no such file"),
        ("/etc/passwd", "leaves its folder"),
    ],
)
def test_picture_that_cannot_be_read_says_why(tmp_path, name, words):
    (tmp_path / "a.tar").write_bytes(b"0" * 605)
    with pytest.raises(DataError, match=words):
        picture_store.read(tmp_path, name)


def test_cut_tar_is_found_by_the_check(tmp_path):
    build(config(frames={"store": "tar"}), tmp_path, ALONE)
    path = next(tmp_path.rglob("*.tar"))
    path.write_bytes(path.read_bytes()[:-20_000])
    assert any("it was cut" in problem.what for problem in check("toy", tmp_path).problems)


def test_pictures_are_stored_as_the_model_will_see_them(tmp_path):
    rules = {"max_pixels": 28 * 28 * 4, "multiple_of": 28}
    build(config(source=TOY["source"] | {"size": 84}, frames=rules), tmp_path, ALONE)
    row = next(frame_rows(tmp_path, read_manifest(tmp_path, "toy")))
    assert picture_store.decode(picture_store.read(tmp_path, row["image"]), "").size == (56, 56)


def test_build_without_pictures_counts_and_is_not_called_sound(tmp_path):
    build(config(frames={"format": "none"}), tmp_path, ALONE)
    assert len(read_pairs(tmp_path, "toy", "train")) == 42
    assert not list(tmp_path.rglob("*.png"))
    assert any("has no pictures" in problem.what for problem in check("toy", tmp_path).problems)


def test_fingerprints_of_neighbours_are_nearer_than_those_of_other_episodes(tmp_path):
    build(config(source=TOY["source"] | {"size": 84}), tmp_path, ALONE)
    rows = list(frame_rows(tmp_path, read_manifest(tmp_path, "toy")))
    assert all(len(row["fingerprint"]) == 64 for row in rows)

    def distances(same):
        return [
            (int(first["fingerprint"], 16) ^ int(second["fingerprint"], 16)).bit_count()
            for first, second in itertools.combinations(rows, 2)
            if (first["episode_id"] == second["episode_id"]) == same
        ]

    assert sum(distances(True)) / len(distances(True)) < sum(distances(False)) / len(distances(False))


# ---- curricula ----


@pytest.mark.parametrize("form", ["json", "parquet"])
@pytest.mark.parametrize("first", ["far", "near"])
def test_curriculum_orders_rows_by_distance_in_equal_parts(tmp_path, form, first):
    rule = {"split": "train", "kind": "weak", "format": form, "curriculum": {"bins": 3, "first": first}}
    build(config(datasets={"weak": rule}), tmp_path, ALONE)
    distance = {pair.pair_id: pair.distance for pair in read_pairs(tmp_path, "toy", "train")}
    shown = [distance[row["pair_id"]] for row in dataset_rows(tmp_path, "toy_weak")][::2]
    assert sorted(shown) == sorted(distance.values())
    ordered = shown if first == "near" else shown[::-1]
    cuts = [at for at in range(1, len(ordered)) if max(ordered[:at]) < min(ordered[at:])]
    for wanted in (len(shown) / 3, 2 * len(shown) / 3):
        assert min(abs(cut - wanted) for cut in cuts) <= 4, "no clean step near a third of the rows"
    assert ordered != sorted(ordered), "inside a part the rows come in random order"
    assert len(read_manifest(tmp_path, "toy").datasets["toy_weak"]) == 1, "frameworks read a folder in any order"
    assert check("toy", tmp_path).ok


@pytest.mark.parametrize("form", ["json", "parquet"])
@pytest.mark.parametrize(("pairs", "bins"), [(10, 4), (30, 8), (None, 3)])
def test_curriculum_takes_as_many_pairs_as_were_asked_for(tmp_path, form, pairs, bins):
    rule = {"split": "train", "kind": "weak", "format": form, "pairs": pairs, "curriculum": {"bins": bins}}
    build(config(datasets={"weak": rule}), tmp_path, ALONE)
    counts = read_manifest(tmp_path, "toy").counts.datasets["toy_weak"]
    assert (counts.pairs, counts.short_by) == (pairs or 42, 0)


def test_parts_of_a_curriculum_never_take_more_than_they_have():
    """Also where half a pair is to be rounded, part after part."""
    rule = config(datasets={"weak": {"split": "train", "kind": "weak", "curriculum": {"bins": 6}}}).datasets["weak"]
    for pairs in range(1, 8):
        for lengths in itertools.product((1, 2), repeat=6):
            shards = staged([{str(n): count for n, count in enumerate(lengths, 1)}])
            parts = training_sets.parts("weak", dataclasses.replace(rule, pairs=pairs), shards)
            has = [sum(lengths[n - 1] for n in range(1, 7) if part.shortest <= n <= part.longest) for part in parts]
            assert all(0 <= part.take <= size for part, size in zip(parts, has, strict=True))
            assert sum(part.take for part in parts) == min(pairs, sum(lengths))


# ---- labels from truth, and pairs that a source brings ----


class Backwards(FakeSource):
    """Progress rises to the middle and falls again."""

    def states(self, episode):
        states = super().states(episode)
        return [state | {"progress": min(i, len(states) - 1 - i)} for i, state in enumerate(states)]


def fake(monkeypatch, source):
    monkeypatch.setattr(build_module, "open_source", lambda *_: source)


FAKE = {
    "name": "fake",
    "source": {"kind": "tabletop"},
    "splits": {"train": {"fraction": 1.0}},
    "pairs": {"per_episode": 200, "label": "progress"},
    "datasets": {"weak": {"split": "train", "kind": "weak"}},
}


@pytest.mark.parametrize("ties", ["drop", "teach"])
def test_regress_and_ties_reach_the_training_set(monkeypatch, tmp_path, ties):
    fake(monkeypatch, Backwards([episode("e", 10)]))
    build(config(FAKE, pairs=FAKE["pairs"] | {"ties": ties}), tmp_path)
    manifest = read_manifest(tmp_path, "fake")
    closer = {"earlier": 20, "later": 20} | ({"neither": 5} if ties == "teach" else {})
    assert manifest.counts.splits["train"].closer == closer
    dropped = None if ties == "teach" else {"tied": 5, "unlabelled": 0}
    assert manifest.counts.splits["train"].dropped == dropped
    assert manifest.counts.datasets["fake_weak"].answers.get("neither", 0) == (10 if ties == "teach" else 0)
    for row in dataset_rows(tmp_path, "fake_weak"):
        assert ("neither" in row["messages"][0]["content"]) == (ties == "teach")
        assert row["messages"][1]["content"] == f"closer to completion: {row['answer']}"
    assert check("fake", tmp_path).ok


class Published(FakeSource):
    def given_pairs(self, episode):
        return [
            GivenPair(2, 9, "stack", orders=("backward",), descriptions=("cup off", "cup on.")),
            GivenPair(1, 4, "stack", closer="earlier", descriptions=("cup on", "cup off")),
            GivenPair(3, 5, "see <image>", descriptions=("a", "b")),
            GivenPair(3, 6, "stack", descriptions=("a", "b<|im_end|>")),
        ]


def test_published_pairs_are_taken_as_they_are(monkeypatch, tmp_path):
    fake(monkeypatch, Published([episode("e", 10, task="stack")]))
    cot = {"split": "train", "kind": "cot", "orders": "given"}
    build(config(FAKE, pairs={}, datasets={"cot": cot}), tmp_path)
    told = {(row["pair_id"], row["order"]): row["messages"][1]["content"] for row in dataset_rows(tmp_path, "fake_cot")}
    assert told == {
        ("e:2-9", "backward"): "spatial details: img1: cup on. img2: cup off.\ncloser to completion: img1",
        ("e:1-4", "forward"): "spatial details: img1: cup on. img2: cup off.\ncloser to completion: img1",
        ("e:1-4", "backward"): "spatial details: img1: cup off. img2: cup on.\ncloser to completion: img2",
    }
    assert [item.what for item in read_manifest(tmp_path, "fake").excluded] == ["pair", "pair"]
    assert check("fake", tmp_path).ok
    with pytest.raises(DataError, match=r"^pair episode e, frames 3-5: .*marker; fix it, or set on_bad_data: exclude$"):
        build(config(FAKE, pairs={}, datasets={"cot": cot}, on_bad_data="error"), tmp_path)


# ---- many workers ----

MANY = TOY | {
    "source": {"kind": "tabletop", "seen": 80, "heldout": 0, "size": 28},
    "splits": {"train": {"episodes": 78}, "dev": {"episodes": 2}},
    "datasets": in_parquet(TOY["datasets"]),
    "shard_episodes": 8,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    registry = tmp_path_factory.mktemp("alone")
    build(config(MANY), registry, ALONE)
    return registry


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(alone, tmp_path):
    build(config(MANY), tmp_path, WorkerPool(workers=2))
    assert tree(tmp_path) == tree(alone)


@pytest.fixture(scope="module")
def cluster():
    """The cluster that the first build on Ray starts is there for the next one, and ended at the end."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed: pip install 'stcr-plugin[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "shutdown", lambda: None)
        yield
    ray.shutdown()


@pytest.mark.slow(seconds=25)
def test_ray_cluster_writes_the_same_bytes(alone, cluster, tmp_path):
    build(config(MANY), tmp_path, WorkerPool(ray="local"))
    assert tree(tmp_path) == tree(alone)


@pytest.mark.slow
def test_error_on_ray_is_told_as_here(cluster, tmp_path):
    with pytest.raises(ConfigError, match=r"^datasets.weak.pairs: asks for 1000000 pairs"):
        build(
            config(MANY, datasets={"weak": {"split": "train", "kind": "weak", "pairs": 10**6}}),
            tmp_path,
            WorkerPool(ray="local"),
        )


def test_error_in_a_worker_is_told_as_here(tmp_path):
    folder = tmp_path / "pictures"
    for name in ("t1", "t2", "t3"):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (32, 32), (40 * index, 0, 0)).save(folder / name / f"{index}.png")
    rows = "".join(f"{name},pick up the bottle,{name},10\n" for name in ("t1", "t2", "t3"))
    (folder / "episodes.csv").write_text("episode,task,path,fps\n" + rows)
    wrong = MANY | {
        "source": {"kind": "frames", "root": str(folder), "table": "episodes.csv", "motion": "none"},
        "splits": {"train": {"episodes": 3}},
        "pairs": {"per_episode": 2, "label": "progress"},
        "datasets": {},
        "shard_episodes": 1,
    }
    with pytest.raises(ConfigError, match=r"pairs.label: episode \S+ has no state 'progress'"):
        build(config(wrong), tmp_path / "registry", WorkerPool(workers=2))


CHILD = """
import json, sys
from stcr_plugin.config import from_mapping
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.workers import WorkerPool
if __name__ == "__main__":
    build(from_mapping(DataConfig, json.load(open(sys.argv[1])), "test"), sys.argv[2], WorkerPool(workers=2))
"""


@pytest.mark.slow(seconds=22)
@pytest.mark.parametrize("store", ["folder", "tar"])
def test_killed_at_random_moments_a_build_ends_with_the_same_bytes(tmp_path, store):
    values = MANY | {"frames": {"store": store}, "pairs": {"per_episode": 12, "min_seconds": 0.5}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, str(tmp_path / "child.py"), str(tmp_path / "config.json"), str(tmp_path / "killed")]
    start = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "unbroken")], check=True, capture_output=True)
    whole = time.monotonic() - start
    moments = random.Random(store).sample(range(100), 2)
    for moment in sorted(moments):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(whole * moment / 100)
        child.kill()
        child.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "unbroken")


@pytest.mark.slow
def test_workers_end_with_a_killed_build(tmp_path):
    values = MANY | {"pairs": {"per_episode": 100, "min_seconds": 0.5}, "source": MANY["source"] | {"size": 224}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "child.py").write_text(CHILD)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "child.py"), str(tmp_path / "config.json"), str(tmp_path / "killed")],
        stderr=subprocess.DEVNULL,
    )
    workers = set()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("killed/toy/frames-*/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
        workers |= {int(pid) for pid in os.popen(f"pgrep -P {child.pid}").read().split()}
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert workers
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in workers):
        time.sleep(0.1)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


def test_receipts_of_done_shards_are_not_made_again(monkeypatch, tmp_path):
    """A build whose third shard fails goes on from there."""
    real = parquet.write
    seen = []

    def failing(path, rows, columns):
        seen.append(path.name)
        if path.parent.name == "pairs" and path.name == "00002.parquet" and len(seen) < 20:
            raise DataError("disk is full")
        real(path, rows, columns)

    monkeypatch.setattr(parquet, "write", failing)
    with pytest.raises(DataError, match="disk is full"):
        build(config(), tmp_path, ALONE)
    seen += [""] * 20
    start = len(seen)
    build(config(), tmp_path, ALONE)
    assert "00000.parquet" not in seen[start:]
    assert "00002.parquet" in seen[start:]
    assert check("toy", tmp_path).ok


def test_episode_that_was_mended_is_taken_up_by_the_next_run(monkeypatch, tmp_path):
    """Also where the build did not stop at it, but was killed later on."""
    listed = [episode(f"e{number}") for number in range(6)]
    values = FAKE | {"pairs": {"per_episode": 4}, "shard_episodes": 2}
    values["datasets"] = {"weak": {"split": "train", "kind": "weak", "pairs": 15, "format": "parquet"}}
    fake(monkeypatch, FakeSource(listed, unreadable=["e2", "e5"]))
    monkeypatch.setattr(build_module, "_account", lambda *_, **__: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception, match="killed here"):
        build(config(values), tmp_path / "mended")
    monkeypatch.undo()
    fake(monkeypatch, FakeSource(listed))
    build(config(values), tmp_path / "mended")
    build(config(values), tmp_path / "fresh")
    assert tree(tmp_path / "mended") == tree(tmp_path / "fresh")
    assert read_manifest(tmp_path / "mended", "fake").excluded == []


def test_recordings_that_came_between_two_runs_are_taken_in(monkeypatch, tmp_path):
    """A killed build goes on with what the source lists now, and back again."""
    few, many = [episode(f"e{number}") for number in range(4)], [episode(f"e{number}") for number in range(7)]
    values = FAKE | {"pairs": {"per_episode": 4}, "shard_episodes": 2}
    for listed in (few, many, few):
        fake(monkeypatch, FakeSource(listed))
        with monkeypatch.context() as patch:
            patch.setattr(build_module, "_account", lambda *_, **__: pytest.fail("killed here"))
            with pytest.raises(pytest.fail.Exception, match="killed here"):
                build(config(values), tmp_path / "killed")
        build(config(values), tmp_path / f"fresh{len(listed)}")
    build(config(values), tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "fresh4")
