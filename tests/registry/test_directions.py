"""Splits in which a clock is right in half of the pairs, and what is known of their frames from outside."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatiallogic_files
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry import build as building
from stcr_plugin.registry.build import DataConfig, build, load_data_config
from stcr_plugin.registry.check import check
from stcr_plugin.registry.ground_truth import true_progress
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.report.check_words import build_text, check_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.report.evaluation_page import write_evaluation_page
from stcr_plugin.types import Pair

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("STCR_REAL_DATA", REPOSITORY.parent / "shared/real")) / "sole_r1_lift"
FRAMES = 12
UP, DOWN = list(range(FRAMES)), list(range(FRAMES, 0, -1))
BUMP = [0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 2, 1]
CURVES = {"up": UP, "up-2": UP, "bump": BUMP, "down": DOWN, "rest": [3] * FRAMES}
BALANCED = {"fraction": 1.0, "balance": "direction"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number, (name, curve) in enumerate(CURVES.items()):
        (folder / name).mkdir()
        for frame in range(FRAMES):
            pixels = np.random.default_rng([number, frame]).integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{frame}.png")
        (folder / f"{name}.json").write_text(json.dumps({"reward": curve}))
    return folder


def config(recordings: Path, names: Any = CURVES, **changes: Any) -> DataConfig:
    rows = [{"episode": name, "task": "lift", "path": name, "fps": 2, "states": f"{name}.json"} for name in names]
    source = {"kind": "frames", "root": str(recordings), "table": rows, "progress": {"column": "reward"}}
    values: dict[str, Any] = {
        "name": "mine",
        "source": source,
        "splits": {"heldout": BALANCED},
        "pairs": {"per_episode": 40, "label": "progress"},
        "shard_episodes": 2,
    }
    return from_mapping(DataConfig, values | changes, "test")


def built(registry: Path, wanted: DataConfig, pool: WorkerPool = WorkerPool(1)) -> list[Pair]:  # noqa: B008 - frozen
    build(wanted, registry, pool)
    report = check("mine", registry)
    assert report.ok, check_text(report)
    return read_pairs(registry, "mine", "heldout")


def closer(pairs: list[Pair]) -> Counter[str]:
    return Counter(pair.closer for pair in pairs)


def test_split_has_as_many_pairs_of_each_direction_and_the_rest_is_counted(recordings: Path, tmp_path: Path) -> None:
    pairs = built(tmp_path, config(recordings))
    both = closer(pairs)
    assert both["earlier"] == both["later"] > 40
    manifest = read_manifest(tmp_path, "mine")
    counts = manifest.counts.splits["heldout"]
    # Up to 40 of each of four episodes: two that rise, one that falls, one half and half with ties at equal progress.
    bump = closer([pair for pair in pairs if pair.episode_id == "bump"])
    assert bump["earlier"] == bump["later"] == 20, "balanced within the episode"
    assert closer([pair for pair in pairs if pair.episode_id == "down"]) == {"earlier": 40}
    ups = {name: closer([pair for pair in pairs if pair.episode_id == name])["later"] for name in ("up", "up-2")}
    assert sum(ups.values()) == 40, "matched with the surplus of another episode"
    assert min(ups.values()) >= 10
    assert counts.dropped is not None
    assert counts.dropped["unbalanced"] == 40
    assert counts.closer == {"earlier": 60, "later": 60}


def test_split_without_the_rule_is_as_it_was(recordings: Path, tmp_path: Path) -> None:
    plain = built(tmp_path / "plain", config(recordings, splits={"heldout": {"fraction": 1.0}}))
    counts = read_manifest(tmp_path / "plain", "mine").counts.splits["heldout"]
    assert counts.dropped is not None
    assert set(counts.dropped) == {"tied", "unlabelled"}
    assert closer(plain)["later"] > closer(plain)["earlier"] > 0


def test_label_of_every_pair_is_that_of_the_file_and_so_is_the_truth(recordings: Path, tmp_path: Path) -> None:
    for pair in built(tmp_path, config(recordings)):
        curve = CURVES[pair.episode_id]
        assert pair.closer == ("later" if curve[pair.later] > curve[pair.earlier] else "earlier")
    wanted = {("bump", "t"): BUMP, ("down", "t"): DOWN}
    assert true_progress(tmp_path, "mine", wanted.keys()) == wanted


@pytest.mark.parametrize("shard_episodes", [1, 64])
def test_workers_and_a_killed_run_write_the_same_bytes(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_episodes: int
) -> None:
    wanted = config(recordings, shard_episodes=shard_episodes)
    whole = built(tmp_path / "whole", wanted)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(building, "_refuse_empty_splits", die)
        with pytest.raises(KeyboardInterrupt):
            build(wanted, tmp_path / "killed", WorkerPool(1))
    assert built(tmp_path / "killed", wanted) == whole
    sums = [read_manifest(tmp_path / name, "mine").checksums for name in ("whole", "killed")]
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_processes_write_the_same_bytes(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stcr_plugin.registry.workers._WORTH_A_PROCESS", 1)
    found = [built(tmp_path / str(workers), config(recordings), WorkerPool(workers)) for workers in (1, 2)]
    assert found[0] == found[1]


def test_episodes_of_one_direction_alone_stop_the_build_with_what_to_do(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"splits\.heldout\.balance: in none of its \d+ pairs the earlier frame is closer"
    ):
        build(config(recordings, ("up", "up-2")), tmp_path)


def test_dataset_asks_for_what_is_left_after_balancing(recordings: Path, tmp_path: Path) -> None:
    rule = {"split": "heldout", "kind": "weak", "pairs": 121}
    with pytest.raises(ConfigError, match=r"datasets\.weak\.pairs: asks for 121 pairs and split 'heldout' has 120"):
        build(config(recordings, datasets={"weak": rule}), tmp_path)
    built(tmp_path, config(recordings, datasets={"weak": rule | {"pairs": 120}}))
    answers = Counter(row["answer"] for row in dataset_rows(tmp_path, "mine_weak"))
    assert answers == {"img1": 120, "img2": 120}


def test_ties_that_are_taught_stay_beside_the_two_directions(recordings: Path, tmp_path: Path) -> None:
    rules = {"per_episode": 40, "label": "progress", "ties": "teach", "tie_within": 2}
    both = closer(built(tmp_path, config(recordings, pairs=rules)))
    assert both["earlier"] == both["later"] > 10
    assert both["neither"] >= 40  # all of the episode that rests


def test_broken_file_of_one_episode_is_skipped_or_stops_the_build_as_configured(
    recordings: Path, tmp_path: Path
) -> None:
    wanted = config(recordings, ("up", "down", "bump"))
    rows = [dict(row) for row in wanted.source.table]  # type: ignore[attr-defined]
    (recordings / "short.json").write_text(json.dumps({"reward": UP[:-1]}))
    rows[0]["states"] = "short.json"
    source = {"kind": "frames", "root": str(recordings), "table": rows, "progress": {"column": "reward"}}
    pairs = built(tmp_path, config(recordings, source=source))
    assert {pair.episode_id for pair in pairs} == {"bump"}  # without it nothing rises, so "down" is dropped
    (excluded,) = read_manifest(tmp_path, "mine").excluded
    assert (excluded.what, excluded.where) == ("episode", "up")
    assert "11 values of states for 12 frames" in excluded.reason
    with pytest.raises(DataError, match=r"11 values of states for 12 frames.*on_bad_data"):
        build(config(recordings, source=source, on_bad_data="error"), tmp_path / "strict")


def test_published_pairs_are_balanced_too(tmp_path: Path) -> None:
    clips = spatiallogic_files.write_clips(tmp_path / "clips")
    row, path, weak = spatiallogic_files.row, spatiallogic_files.path, spatiallogic_files.weak
    place = spatiallogic_files.PLACE
    frames = ((1, 7, "img2"), (2, 8, "img2"), (0, 9, "img2"), (3, 9, "img1"), (4, 10, "img1"))
    rows = [row(path(place, one), path(place, two), weak(closer)) for one, two, closer in frames]
    file = spatiallogic_files.write_json(tmp_path / "rows.json", rows)
    source = {"kind": "spatiallogic", "file": str(file), "root": str(clips)}
    values = {"name": "mine", "source": source, "splits": {"heldout": BALANCED}}
    assert closer(built(tmp_path / "registry", from_mapping(DataConfig, values, "test"))) == {"earlier": 2, "later": 2}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"label": "order"}, r"splits\.heldout: `balance` needs pairs whose earlier frame is closer"),
        ({"label": "progress", "within_phase": 0.5}, "`balance` and `pairs.within_phase` exclude each other"),
    ],
)
def test_rules_that_cannot_go_together_are_refused(recordings: Path, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(recordings, pairs=rules)


def test_build_check_and_sheet_say_the_share_of_each_direction(recordings: Path, tmp_path: Path) -> None:
    built(tmp_path, config(recordings))
    said = "closer frame in split heldout: the earlier one in 60 pairs, the later one in 60; a clock is right in 50.0 %"
    said += "; 40 pairs more were dropped to balance them"
    assert said in build_text(read_manifest(tmp_path, "mine"))
    assert said in check_text(check("mine", tmp_path))
    page = show("mine", tmp_path, tmp_path / "sheet.html").path.read_text()
    assert said in page
    assert "table of 5 rows" in page


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("name", "accuracy"), [("right", (100, 100, 100)), ("chronological", (50, 0, 100))])
def test_evaluation_shows_each_direction_and_the_clock(
    recordings: Path, tmp_path: Path, name: str, accuracy: tuple[float, float, float]
) -> None:
    pairs = built(tmp_path / "registry", config(recordings))
    request = EvalRequest(
        engine=Oracle(name, pairs), dataset="mine", split="heldout", registry=tmp_path / "registry", resamples=50
    )
    found = evaluate(request, tmp_path / "out")
    figures = found.figures
    by_direction = (figures.earlier_closer_accuracy, figures.later_closer_accuracy)
    assert (figures.pair_accuracy, *by_direction) == accuracy
    assert figures.clock_accuracy == 50
    assert found.intervals is not None
    low, high = found.intervals["clock_accuracy"]
    assert low < 50 < high, "episodes differ in how often the later frame is closer"
    write_evaluation_page(tmp_path / "out", tmp_path / "registry", found)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| earlier closer % | later closer % | clock % |" in page


# ---- the real clips ----

real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data are not at {REAL} (set STCR_REAL_DATA)")


def lift(*changes: str) -> DataConfig:
    return load_data_config(REPOSITORY / "recipes/data/sole_r1_lift.yaml", [f"source.root={REAL}", *changes])


@real
@pytest.mark.slow
def test_clips_with_a_reward_become_a_balanced_split(tmp_path: Path) -> None:
    build(lift(), tmp_path)
    report = check("sole_r1_lift", tmp_path)
    assert report.ok, check_text(report)
    manifest = read_manifest(tmp_path, "sole_r1_lift")
    assert manifest.excluded == []
    assert len(manifest.splits["heldout"]) == 12
    pairs = read_pairs(tmp_path, "sole_r1_lift", "heldout")
    both = closer(pairs)
    assert both["earlier"] == both["later"] > 100
    assert len({pair.episode_id for pair in pairs}) > 5
    truth = true_progress(tmp_path, "sole_r1_lift", {(pair.episode_id, pair.task) for pair in pairs})
    for pair in pairs:
        progress = truth[pair.episode_id, pair.task]
        assert progress is not None
        earlier, later = progress[pair.earlier], progress[pair.later]
        assert earlier is not None
        assert later is not None
        assert abs(later - earlier) > 0.045
        assert pair.closer == ("later" if later > earlier else "earlier")
        recorded = json.loads(next(REAL.glob(f"*_{pair.episode_id.removeprefix('lift-')}_*.json")).read_text())
        assert (100 * later, 100 * earlier) == pytest.approx(
            tuple(recorded["ground-truth rewards"][frame] for frame in (pair.later, pair.earlier))
        )


@real
@pytest.mark.slow
@pytest.mark.parametrize("fold", [1, 2, 3])
def test_folds_hold_out_every_clip_once_and_train_on_the_others(tmp_path: Path, fold: int) -> None:
    training = ["splits.train.episodes=8", "datasets.weak.split=train", "datasets.weak.kind=weak"]
    build(lift(f"splits.heldout.group=fold_{fold}", *training, "frames.format=none"), tmp_path)
    manifest = read_manifest(tmp_path, "sole_r1_lift")
    assert (len(manifest.splits["heldout"]), len(manifest.splits["train"])) == (4, 8)
    rows = lift().source.table  # type: ignore[attr-defined]
    assert set(manifest.splits["heldout"]) == {row["episode"] for row in rows if row["group"] == f"fold_{fold}"}
    both = manifest.counts.splits["heldout"].closer
    assert both["earlier"] == both["later"] > 0
