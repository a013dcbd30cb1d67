"""Annotated texts in a build: which pairs get them, which are refused, and that everybody says what they are."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import agibot_dataset
import lerobot_dataset
import numpy as np
import pytest
import spatiallogic_files
import video_files
from annotated_file import annotations, write
from PIL import Image

from stcr_plugin import records
from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import descriptions
from stcr_plugin.evaluation.controls import controls
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry import build as building
from stcr_plugin.registry.build import DataConfig, build, load_data_config
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.overlap import overlap
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.report.check_words import build_text, check_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.samples.annotations import Annotation
from stcr_plugin.samples.cot import halves_of
from stcr_plugin.types import ORDERS, Query


def config(recordings: Path, texts: str | None = None, **changes: Any) -> DataConfig:
    """A build of plain videos with weak pairs, and with `texts` also CoT."""
    values: dict[str, Any] = {
        "name": "mine",
        "source": {"kind": "frames", "root": str(recordings), "table": "episodes.csv", "motion": "none"},
        "splits": {"train": {"episodes": 3}, "heldout": {"episodes": 1}},
        "pairs": {"per_episode": 6, "min_seconds": 0.5, "trim_idle": None},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
        "shard_episodes": 2,
    }
    if texts is not None:
        rule = {"split": "train", "kind": "cot", "texts": texts} | changes.pop("rule", {})
        values["datasets"] = {"cot": rule} | values["datasets"]
    return from_mapping(DataConfig, values | changes, "test")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    """Three folders of pictures to train on, and a video."""
    for number in range(3):
        images = folder / f"take_{number}"
        images.mkdir()
        for frame in range(20):
            picture = np.random.default_rng([number, frame]).integers(0, 256, (17, 16), dtype=np.uint8)
            Image.fromarray(np.kron(picture, np.ones((8, 8), dtype=np.uint8))).save(images / f"{frame}.png")
    video_files.write(folder / "3.mp4", "h264 plain")
    lines = [f"take-{number},pick up the bottle,take_{number},10" for number in range(3)]
    lines = ["episode,task,path,fps", *lines, "take-3,pick up the bottle,3.mp4,"]
    (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def weak(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build that is annotated, not to be changed."""
    registry = tmp_path_factory.mktemp("weak")
    build(config(recordings), registry)
    return registry


@pytest.fixture(scope="module")
def texts(weak: Path) -> list[Annotation]:
    return annotations(weak, "mine")


def changed(row: Annotation, **values: Any) -> Annotation:
    return dataclasses.replace(row, **values)


def rows_of(registry: Path) -> list[dict[str, Any]]:
    return list(dataset_rows(registry, "mine_cot"))


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_every_pair_with_an_accepted_text_is_described_in_both_orders(
    recordings: Path, texts: list[Annotation], tmp_path: Path, form: str
) -> None:
    used = texts[::2]
    file = write(tmp_path / "a.jsonl", [*used, *(changed(row, accepted=False) for row in texts[1::2])])
    build(config(recordings, file, rule={"format": form}), tmp_path / "registry")
    rows = rows_of(tmp_path / "registry")
    assert Counter((row["pair_id"], row["order"]) for row in rows) == Counter(
        (row.pair_id, order) for row in used for order in ORDERS
    )
    by_pair = {row.pair_id: row for row in used}
    for row in rows:
        said = by_pair[row["pair_id"]]
        both = (said.earlier_text.rstrip("."), said.later_text.rstrip("."))
        assert halves_of(row["messages"][1]["content"]) == (both if row["order"] == "forward" else both[::-1])
    manifest = read_manifest(tmp_path / "registry", "mine")
    missing = f"dataset cot: has no accepted text in {file}"
    assert manifest.counts.excluded == {missing: len(texts) - len(used)}
    assert manifest.claims_checked == 0
    counts = manifest.texts["mine_cot"].counts
    assert (counts.pairs, counts.by_checks, counts.by_person) == (len(used), len(used), 0)
    assert (counts.describers, counts.verifiers) == ({"teacher-7b": len(used)}, {"judge-3b": len(used)})
    assert counts.passed == {"leak": len(used), "judged": len(used)}
    assert check("mine", tmp_path / "registry").ok


def test_pairs_are_drawn_among_those_with_a_text_in_parquet_too(
    recordings: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.jsonl", texts[:7])
    for form in ("json", "parquet"):
        build(config(recordings, file, rule={"format": form, "pairs": 6}), tmp_path / form)
        counts = read_manifest(tmp_path / form, "mine").counts.datasets["mine_cot"]
        assert (counts.pairs, counts.samples, counts.short_by) == (6, 12, 0)
    with pytest.raises(ConfigError, match=r"asks for 8 pairs and split 'train' has 7; 11 pairs: .*no accepted text"):
        build(config(recordings, file, rule={"pairs": 8}), tmp_path / "registry")


def test_a_person_decides_before_the_checks_and_the_first_candidate_before_the_next(
    recordings: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    one, two, three = texts[:3]
    file = write(
        tmp_path / "a.jsonl",
        [
            changed(one, sample=1, earlier_text="second"),
            changed(one, sample=0, earlier_text="first"),
            changed(two, sample=0, earlier_text="first"),
            changed(two, sample=1, earlier_text="chosen", accepted=False, review="accept"),
            changed(three, review="reject"),
        ],
    )
    build(config(recordings, file, rule={"orders": "forward"}), tmp_path / "registry")
    said = {row["pair_id"]: halves_of(row["messages"][1]["content"]) for row in rows_of(tmp_path / "registry")}
    assert {name: halves[0] for name, halves in said.items() if halves} == {one.pair_id: "first", two.pair_id: "chosen"}
    counts = read_manifest(tmp_path / "registry", "mine").texts["mine_cot"].counts
    assert (counts.by_checks, counts.by_person) == (1, 1)


def test_each_pair_is_asked_in_a_language_that_it_has_a_text_in(
    recordings: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    chinese = [changed(row, language="zh", earlier_text="夹爪张开。", later_text="夹爪闭合。") for row in texts[:4]]
    file = write(tmp_path / "a.jsonl", [*chinese, *texts[2:6]])
    build(config(recordings, file, rule={"languages": ["en", "zh"]}), tmp_path / "registry")
    spoken = {row["pair_id"]: row["language"] for row in rows_of(tmp_path / "registry")}
    assert len(spoken) == 6
    assert {spoken[row.pair_id] for row in texts[:2]} == {"zh"}
    assert {spoken[row.pair_id] for row in texts[4:6]} == {"en"}
    halves = {halves_of(row["messages"][1]["content"]) for row in rows_of(tmp_path / "registry")}
    assert ("夹爪张开", "夹爪闭合") in halves


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <image> of it", "holds a media or chat marker"),
        ("done<|im_end|>", "holds a media or chat marker"),
        (" . ", "is empty"),
        ("nearer than img2", "names img1 or img2"),
        ("closed\ncloser to completion: img1", "or holds a judgment"),
    ],
)
def test_text_that_would_break_the_conversation_is_skipped_and_counted(
    recordings: Path, texts: list[Annotation], tmp_path: Path, text: str, reason: str
) -> None:
    bad = changed(texts[0], later_text=text)
    file = write(tmp_path / "a.jsonl", [bad, *texts[1:4]])
    build(config(recordings, file), tmp_path / "registry")
    manifest = read_manifest(tmp_path / "registry", "mine")
    assert manifest.counts.datasets["mine_cot"].pairs == 3
    assert [item.where for item in manifest.excluded if reason in item.reason] == [f"{file}, text 1"]
    with pytest.raises(DataError, match=r"annotated text .*on_bad_data"):
        build(config(recordings, file, on_bad_data="error"), tmp_path / "strict")


def test_lines_in_a_text_become_one(recordings: Path, texts: list[Annotation], tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [changed(texts[0], earlier_text="The gripper\n\nis open.\n")])
    build(config(recordings, file), tmp_path / "registry")
    assert "The gripper is open. img2: " in rows_of(tmp_path / "registry")[0]["messages"][1]["content"]


# ---- the pictures must be those that were described ----


@pytest.mark.parametrize("frames", [{"format": "jpeg"}, {"width": 64, "height": 64}, {"width": 84, "height": 84}])
def test_the_same_frames_in_another_size_or_encoding_keep_their_texts(
    recordings: Path, texts: list[Annotation], tmp_path: Path, frames: dict[str, Any]
) -> None:
    file = write(tmp_path / "a.jsonl", texts)
    build(config(recordings, file, frames=frames), tmp_path / "registry")
    assert read_manifest(tmp_path / "registry", "mine").counts.datasets["mine_cot"].pairs == len(texts)


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_other_pictures_than_those_described_are_refused(
    recordings: Path, texts: list[Annotation], tmp_path: Path, form: str
) -> None:
    one, two = texts[:2]
    assert one.earlier_fingerprint != two.later_fingerprint
    rows = [
        changed(one, earlier_fingerprint=texts[-1].earlier_fingerprint),
        changed(two, earlier_fingerprint=two.later_fingerprint, later_fingerprint=two.earlier_fingerprint),
        changed(texts[2], later_fingerprint="not a hash"),
        *texts[3:6],
    ]
    file = write(tmp_path / "a.jsonl", rows)
    build(config(recordings, file, rule={"format": form, "pairs": 6}), tmp_path / "registry")
    manifest = read_manifest(tmp_path / "registry", "mine")
    counts = manifest.counts.datasets["mine_cot"]
    assert (counts.pairs, counts.short_by) == (3, 3)
    assert {row["pair_id"] for row in rows_of(tmp_path / "registry")} == {row.pair_id for row in texts[3:6]}
    assert sum("not those described" in item.reason for item in manifest.excluded) == 3


def test_in_the_same_store_the_next_frame_is_refused_and_elsewhere_near_ones_pass(
    recordings: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    near = f"{int(texts[0].earlier_fingerprint, 16) ^ 0b111:064x}"
    here = [changed(texts[0], earlier_fingerprint=near), texts[1]]
    there = [changed(here[0], earlier_image="other/frames-01234567/a/000001.png"), texts[1]]
    for name, rows, pairs in (("here", here, 1), ("there", there, 2)):
        build(config(recordings, write(tmp_path / f"{name}.jsonl", rows)), tmp_path / name)
        assert read_manifest(tmp_path / name, "mine").counts.datasets["mine_cot"].pairs == pairs


def test_text_about_another_task_or_with_another_label_is_not_used(
    recordings: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    rows = [changed(texts[0], task="open the door"), changed(texts[1], closer="earlier"), texts[2]]
    file = write(tmp_path / "a.jsonl", rows)
    build(config(recordings, file), tmp_path / "registry")
    excluded = read_manifest(tmp_path / "registry", "mine").counts.excluded
    assert excluded[f"dataset cot: has another task in {file}"] == 1
    assert excluded[f"dataset cot: has another label in {file}"] == 1


# ---- mistakes ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "heldout"}, r"has texts of split 'heldout', the dataset is of split 'train'"),
        ({"language": "zh"}, r"has texts in 'zh' and none in 'en'; set languages: \[zh\]"),
        ({"accepted": False}, "not one of its texts is accepted"),
        ({"review": "reject"}, "not one of its texts is accepted"),
        ({"pair_id": "elsewhere:1-2"}, r"has 0; 18 pairs: dataset cot: has no accepted text"),
    ],
)
def test_file_of_other_texts_is_one_error_before_a_picture_is_decoded(
    recordings: Path, texts: list[Annotation], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = write(tmp_path / "a.jsonl", [changed(row, **change) for row in texts])
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        build(config(recordings, file), tmp_path / "registry")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "registry").rglob("*.png"))


def test_missing_and_broken_files_are_named(recordings: Path, texts: list[Annotation], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"datasets.cot.texts: .*none.jsonl: no such file"):
        build(config(recordings, str(tmp_path / "none.jsonl")), tmp_path / "registry")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(texts[0].row()) + '\n{"pair_id": 3\n')
    with pytest.raises(DataError, match=r"broken.jsonl, row 2: not readable as JSON"):
        build(config(recordings, str(broken)), tmp_path / "registry")
    broken.write_text('{"pair_id": 3}\n')
    with pytest.raises(DataError, match=r"broken.jsonl, row 1: not what `stcr annotate` writes"):
        build(config(recordings, str(broken)), tmp_path / "registry")
    assert not list((tmp_path / "registry").rglob("*.png"))


@pytest.mark.parametrize("rule", [{"kind": "weak"}, {"texts": " "}])
def test_texts_are_for_cot_alone(recordings: Path, rule: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="`texts` names a file of annotated texts for kind: cot"):
        config(recordings, "a.jsonl", rule=rule)


# ---- the same bytes, and what an edit changes ----


def test_an_edited_review_makes_another_build_with_the_same_pictures(
    recordings: Path, texts: list[Annotation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, path = tmp_path / "registry", tmp_path / "a.jsonl"
    wanted = config(recordings, write(path, texts))
    build(wanted, registry)
    first = read_manifest(registry, "mine")
    times = {image: image.stat().st_mtime_ns for image in registry.rglob("*.png")}
    monkeypatch.setattr(building, "_stage", lambda *_: pytest.fail("a finished build was built again"))
    build(wanted, registry)
    monkeypatch.undo()
    write(path, [changed(texts[0], review="reject"), *texts[1:]])
    build(wanted, registry)
    second = read_manifest(registry, "mine")
    assert second.config_digest != first.config_digest
    assert second.texts["mine_cot"].digest != first.texts["mine_cot"].digest
    assert len(rows_of(registry)) == 2 * (len(texts) - 1)
    assert second.frames == first.frames
    assert {image: image.stat().st_mtime_ns for image in registry.rglob("*.png")} == times


def test_review_that_is_saved_while_the_build_runs_is_told_and_the_next_run_takes_it(
    recordings: Path, texts: list[Annotation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, path = tmp_path / "registry", tmp_path / "a.jsonl"
    wanted = config(recordings, write(path, texts))
    write_sets = building.write_sets

    def saved_meanwhile(*arguments: Any, **more: Any) -> Any:
        write(path, [changed(texts[0], review="reject"), *texts[1:]])
        return write_sets(*arguments, **more)

    monkeypatch.setattr(building, "write_sets", saved_meanwhile)
    with pytest.raises(DataError, match="was changed while the build ran"):
        build(wanted, registry)
    monkeypatch.undo()
    build(wanted, registry)
    assert texts[0].pair_id not in {row["pair_id"] for row in rows_of(registry)}
    assert len(rows_of(registry)) == 2 * (len(texts) - 1)


@pytest.mark.slow
def test_workers_write_the_same_bytes(
    recordings: Path, texts: list[Annotation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stcr_plugin.registry.workers._WORTH_A_PROCESS", 1)
    file = write(tmp_path / "a.jsonl", texts)
    found = []
    for workers in (1, 2):
        registry = tmp_path / str(workers)
        build(config(recordings, file, rule={"format": "parquet"}), registry, WorkerPool(workers))
        found.append(read_manifest(registry, "mine").checksums)
    assert found[0] == found[1]


@pytest.mark.parametrize("store", ["folder", "tar"])
def test_simulated_scenes_take_annotated_texts_beside_their_own(tmp_path: Path, store: str) -> None:
    values = {
        "name": "toy",
        "source": {"kind": "tabletop", "seen": 2, "heldout": 0, "size": 56},
        "splits": {"train": {"episodes": 2}},
        "pairs": {"per_episode": 4, "min_seconds": 0.5},
        "frames": {"store": store},
        "datasets": {"cot": {"split": "train", "kind": "cot"}},
    }
    registry = tmp_path / "registry"
    build(from_mapping(DataConfig, values, "test"), registry)
    file = write(tmp_path / "a.jsonl", annotations(registry, "toy"))
    values["datasets"] |= {"told": {"split": "train", "kind": "cot", "texts": file}}
    build(from_mapping(DataConfig, values, "test"), registry)
    manifest = read_manifest(registry, "toy")
    assert list(manifest.texts) == ["toy_told"]
    assert (manifest.claims_checked or 0) > 0
    assert check("toy", registry).ok
    assert len(list(dataset_rows(registry, "toy_told"))) == len(list(dataset_rows(registry, "toy_cot"))) == 16


# ---- every source of recordings ----


def from_lerobot(folder: Path) -> dict[str, Any]:
    """Recordings whose states say nothing in words: motion alone."""
    lerobot_dataset.write_v30(folder, lerobot_dataset.Layout())
    return {"kind": "lerobot", "root": str(folder)}


def from_agibot(folder: Path) -> dict[str, Any]:
    """Recordings whose states have the progress, and whose segments have tasks of their own."""
    agibot_dataset.write(folder, "tar an episode")
    return {"kind": "agibot", "root": str(folder)}


def from_published_pairs(folder: Path) -> dict[str, Any]:
    """Published pairs, most in one order, one with a description that the annotated text goes before."""
    clips = spatiallogic_files.write_clips(folder / "clips")
    path, weak, place, other = (
        spatiallogic_files.path,
        spatiallogic_files.weak,
        spatiallogic_files.PLACE,
        spatiallogic_files.OTHER,
    )
    described = spatiallogic_files.cot("published one", "published two", "img2")
    rows = [
        spatiallogic_files.row(path(place, 1), path(place, 7), described),
        spatiallogic_files.row(path(place, 8), path(place, 2), weak("img1")),
        spatiallogic_files.row(path(place, 2), path(place, 9), weak("img1")),
        spatiallogic_files.row(path(other, 0), path(other, 9), weak("img2"), task="Pour water"),
    ]
    file = spatiallogic_files.write_json(folder / "rows.json", rows)
    return {"kind": "spatiallogic", "file": str(file), "root": str(clips)}


SOURCES = {"lerobot": from_lerobot, "agibot": from_agibot, "spatiallogic": from_published_pairs}


@pytest.mark.parametrize("kind", SOURCES)
def test_recordings_of_every_source_take_annotated_texts(tmp_path: Path, kind: str) -> None:
    values: dict[str, Any] = {
        "name": "mine",
        "source": SOURCES[kind](tmp_path / "set"),
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {} if kind == "spatiallogic" else {"per_episode": 5, "min_frames": 4},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    registry = tmp_path / "registry"
    build(from_mapping(DataConfig, values, "test"), registry)
    texts = annotations(registry, "mine")
    assert len(texts) > 3
    file = write(tmp_path / "a.jsonl", texts[1:])
    values["datasets"] |= {"cot": {"split": "train", "kind": "cot", "texts": file}}
    build(from_mapping(DataConfig, values, "test"), registry)
    report = check("mine", registry)
    assert report.ok, check_text(report)
    by_pair = {row.pair_id: row for row in texts[1:]}
    assert Counter((row["pair_id"], row["order"]) for row in rows_of(registry)) == Counter(
        (pair_id, order) for pair_id in by_pair for order in ORDERS
    )
    for row in rows_of(registry):
        said = by_pair[row["pair_id"]]
        both = (said.earlier_text.rstrip("."), said.later_text.rstrip("."))
        assert halves_of(row["messages"][1]["content"]) == (both if row["order"] == "forward" else both[::-1])
        closer_first = (row["order"] == "forward") == (said.closer == "earlier")
        assert row["answer"] == ("img1" if closer_first else "img2")
    manifest = read_manifest(registry, "mine")
    assert manifest.counts.excluded == {f"dataset cot: has no accepted text in {file}": 1}
    assert manifest.claims_checked == 0
    assert manifest.texts["mine_cot"].counts.pairs == len(texts) - 1


@pytest.mark.parametrize("kind", SOURCES)
def test_descriptions_are_the_annotated_ones_where_the_source_says_nothing(tmp_path: Path, kind: str) -> None:
    source = SOURCES[kind](tmp_path / "set")
    if kind == "spatiallogic":  # without the description that was published
        rows = json.loads(Path(source["file"]).read_text())
        rows[0]["target"] = spatiallogic_files.weak("img2")
        Path(source["file"]).write_text(json.dumps(rows))
    values: dict[str, Any] = {
        "name": "mine",
        "source": source,
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {} if kind == "spatiallogic" else {"per_episode": 5, "min_frames": 4},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    registry = tmp_path / "registry"
    build(from_mapping(DataConfig, values, "test"), registry)
    queries = [Query(pair, order) for pair in read_pairs(registry, "mine", "train") for order in ORDERS]
    with pytest.raises((ConfigError, DataError)):
        descriptions.true(registry, "mine", queries, "en")
    file = write(tmp_path / "a.jsonl", annotations(registry, "mine"))
    values["datasets"] |= {"cot": {"split": "train", "kind": "cot", "texts": file}}
    build(from_mapping(DataConfig, values, "test"), registry)
    queries = [Query(pair, order) for pair in read_pairs(registry, "mine", "train") for order in ORDERS]
    told = descriptions.true(registry, "mine", queries, "en")
    assert "annotated by a model" in told.origin
    assert len(told.halves) == len(queries)
    for row in rows_of(registry):
        assert told.halves[row["pair_id"], row["order"]] == halves_of(row["messages"][1]["content"])


# ---- everybody says what the texts are ----


@pytest.fixture(scope="module")
def registry(recordings: Path, texts: list[Annotation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build with annotated texts, not to be changed."""
    folder = tmp_path_factory.mktemp("annotated")
    file = write(folder / "a.jsonl", [changed(texts[0], review="accept"), *texts[1:]])
    build(config(recordings, file), folder / "registry")
    return folder / "registry"


def test_build_check_and_sheet_say_that_the_texts_are_annotated_and_by_whom(registry: Path, tmp_path: Path) -> None:
    said = "annotated, not true by a recorded state: described by teacher-7b, verified by judge-3b; of 18 pairs 17 "
    said += "accepted by checks and 1 by a person; checks passed: judged 18, leak 18; a.jsonl"
    assert said in build_text(read_manifest(registry, "mine"))
    assert said in check_text(check("mine", registry))
    page = show("mine", registry, tmp_path / "sheet.html").path.read_text()
    assert said in page
    assert "annotated text" in page


def test_descriptions_of_recordings_without_states_are_the_annotated_ones_and_say_so(registry: Path) -> None:
    queries = [Query(pair, order) for pair in read_pairs(registry, "mine", "train") for order in ORDERS]
    told = descriptions.true(registry, "mine", queries, "en")
    assert "annotated by a model" in told.origin
    for row in rows_of(registry):
        assert told.halves[row["pair_id"], row["order"]] == halves_of(row["messages"][1]["content"])
    heldout = [Query(pair, "forward") for pair in read_pairs(registry, "mine", "heldout")]
    with pytest.raises((ConfigError, DataError)):
        descriptions.true(registry, "mine", heldout, "en")


def test_row_without_a_description_fails_the_check(registry: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(registry, tmp_path / "registry")
    path = folder / "mine" / "mine_cot.json"
    rows = json.loads(path.read_text())
    rows[0]["messages"][1]["content"] = rows[0]["messages"][1]["content"].rpartition("\n")[2]
    path.write_text(json.dumps(rows))
    assert any("does not describe img1 and img2" in problem.what for problem in check("mine", folder).problems)


def test_overlap_reads_such_a_build(registry: Path) -> None:
    assert not overlap("mine_cot", "mine:heldout", registry).leaks


def test_export_to_the_authors_format_comes_back_the_same(
    registry: Path, texts: list[Annotation], tmp_path: Path
) -> None:
    out = str(tmp_path / "cot.json")
    assert main(["data", "export", "mine_cot", "--registry", str(registry), "--format", "json", "--out", out]) == 0
    back = {
        "name": "back",
        "source": {"kind": "spatiallogic", "file": str(tmp_path / "cot.json"), "root": str(registry), "fps": 10},
        "splits": {"train": {"fraction": 1.0}},
        "datasets": {"cot": {"split": "train", "kind": "cot"}},
    }
    back["source"]["task_pattern"] = "'(.+?)'"
    back["source"]["task"] = "pick up the bottle"
    build(from_mapping(DataConfig, back, "test"), tmp_path / "back")
    found = Counter(row["messages"][1]["content"] for row in dataset_rows(tmp_path / "back", "back_cot"))
    assert found == Counter(row["messages"][1]["content"] for row in rows_of(registry))
    assert "as published with the pairs, not checked" in build_text(read_manifest(tmp_path / "back", "back"))


def test_controls_that_tell_the_description_say_that_it_is_annotated(registry: Path, tmp_path: Path) -> None:
    pairs = read_pairs(registry, "mine", "train")
    request = EvalRequest(engine=Oracle("right", pairs), dataset="mine", split="train", registry=registry, resamples=20)
    (row,) = [row for row in controls(request, tmp_path, only=["oracle"]).rows if row.name == "oracle"]
    assert row.verdict != "not applicable", row.why
    assert row.asks.endswith("here as annotated by a model, which no recorded state says to be true")


def test_stage_record_keeps_what_is_known_of_the_texts(registry: Path, tmp_path: Path) -> None:
    manifest = read_manifest(registry, "mine")
    build_of = records.TrainedBuild("mine", manifest.config_digest, manifest.texts)
    records.write(tmp_path, records.StageRecord(name="stage1", datasets=("mine_cot",), data=(build_of,)))
    found = records.read(tmp_path)
    assert found is not None
    assert found.data == (build_of,)
    assert found.data[0].texts["mine_cot"].counts.describers == {"teacher-7b": 18}


def test_recipe_builds_weak_pairs_first_and_texts_after_they_are_annotated(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    monkeypatch.chdir(tmp_path)
    small = [f"source.root={recordings}", "source.motion=none", "pairs.trim_idle=null", "pairs.min_seconds=0.5"]
    small += ["splits.train.fraction=0.5", "splits.heldout.fraction=0.5"]
    build(load_data_config(recipes / "data/frames.yaml", small), "data_registry")
    first = read_manifest("data_registry", "mine")
    Path("runs/annotate/mine-train").mkdir(parents=True)
    rows = annotations(Path("data_registry"), "mine")
    write(Path("runs/annotate/mine-train/annotations.jsonl"), rows)
    build(load_data_config(recipes / "data/frames_annotated.yaml", small), "data_registry")
    second = read_manifest("data_registry", "mine")
    assert second.frames == first.frames
    assert second.counts.datasets["mine_cot"].pairs == len(rows) > 0
