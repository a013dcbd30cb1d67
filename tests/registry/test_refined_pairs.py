"""Decisions about contradicted pairs in a build: left out, taught as ties, kept, and refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wrong_labels import DATA, build_wrong_labels, config, judge

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.refinement import refine
from stcr_plugin.registry import build as building
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.contradictions import Contradiction
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.workers import WorkerPool
from stcr_plugin.report.check_words import build_text
from stcr_plugin.report.contact_sheet import show


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written into."""
    return build_wrong_labels(tmp_path_factory.mktemp("order"))


@pytest.fixture(scope="module")
def listed(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows about all wrong labels of the build."""
    out = tmp_path_factory.mktemp("refine")
    refine(judge(labelled), out)
    return [json.loads(line) for line in (out / Contradiction.file).read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Writes rows into a file, `changes` laid over each; its path."""

    def write(rows: list[dict[str, Any]], **changes: Any) -> str:
        path = tmp_path / "contradicted.jsonl"
        path.write_text("".join(json.dumps(row | changes) + "\n" for row in rows))
        return str(path)

    return write


def ids(registry: Path, split: str = "train") -> list[str]:
    return [pair.pair_id for pair in read_pairs(registry, "order", split)]


def with_file(path: str, **rules: Any) -> dict[str, Any]:
    return {"refine": {"file": path}, **rules}


@pytest.mark.parametrize("more", [{}, {"frames": DATA["frames"] | {"store": "tar"}}], ids=["folder", "tar"])
def test_dropped_pairs_are_left_out_and_counted(
    labelled: Path, listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, more: dict[str, Any]
) -> None:
    path = file(listed)
    registry = build_wrong_labels(tmp_path / "registry", pairs=with_file(path), **more)
    wrong = {row["pair_id"] for row in listed}
    assert ids(registry) == [one for one in ids(labelled) if one not in wrong]
    assert ids(registry, "heldout") == ids(labelled, "heldout")
    assert not wrong & {row["pair_id"] for row in dataset_rows(registry, "order_weak")}
    manifest = read_manifest(registry, "order")
    assert manifest.refined is not None
    assert manifest.refined.file == path
    assert len(manifest.refined.digest) == 64
    counts = (manifest.refined.dropped, manifest.refined.ties, manifest.refined.kept, manifest.refined.unmatched)
    assert counts == (len(wrong), 0, 0, 0)
    assert manifest.counts.splits["train"].dropped == {"tied": 0, "unlabelled": 0, "refined": len(wrong)}
    assert manifest.counts.splits["heldout"].dropped is None
    assert check("order", registry).ok
    assert f"refined by {path}: {len(wrong)} pairs left out, 0 taught as ties, 0 kept" in build_text(manifest)
    assert f"refine file {path}" in show("order", registry, tmp_path / "sheet.html").path.read_text()


def test_ties_are_taught_and_kept_pairs_stay(
    labelled: Path, listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path
) -> None:
    rows = [row | {"decision": ("tie", "keep")[number % 2]} for number, row in enumerate(listed)]
    registry = build_wrong_labels(tmp_path / "registry", pairs=with_file(file(rows), ties="teach"))
    ties = {row["pair_id"] for row in rows if row["decision"] == "tie"}
    assert ids(registry) == ids(labelled)
    assert {pair.pair_id for pair in read_pairs(registry, "order", "train") if pair.closer == "neither"} == ties
    answers = {row["answer"] for row in dataset_rows(registry, "order_weak") if row["pair_id"] in ties}
    assert answers == {"neither"}
    manifest = read_manifest(registry, "order")
    assert manifest.counts.splits["train"].closer["neither"] == len(ties)
    assert manifest.refined is not None
    assert (manifest.refined.ties, manifest.refined.kept) == (len(ties), len(rows) - len(ties))
    assert check("order", registry).ok


def test_build_without_a_file_says_nothing_of_refining(labelled: Path) -> None:
    manifest = json.loads((labelled / "order" / "manifest.json").read_text())
    assert "refined" not in manifest


def test_edited_file_makes_another_build_with_the_same_pictures(
    listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    wanted = config(pairs=with_file(file(listed)))
    build(wanted, registry)
    first = read_manifest(registry, "order")
    monkeypatch.setattr(building, "_stage", lambda *_: pytest.fail("a finished build was built again"))
    build(wanted, registry)
    monkeypatch.undo()
    file(listed[1:])
    build(wanted, registry)
    second = read_manifest(registry, "order")
    assert second.config_digest != first.config_digest
    assert second.refined is not None
    assert first.refined is not None
    assert (second.refined.dropped, second.refined.digest) != (first.refined.dropped, first.refined.digest)
    assert second.refined.dropped == len(listed) - 1
    assert second.frames.folder == first.frames.folder


def test_file_that_is_saved_while_the_build_runs_is_told_and_the_next_run_takes_it(
    listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(pairs=with_file(file(listed)))
    write_sets = building.write_sets

    def saved_meanwhile(*arguments: Any, **more: Any) -> Any:
        file(listed[1:])
        return write_sets(*arguments, **more)

    monkeypatch.setattr(building, "write_sets", saved_meanwhile)
    with pytest.raises(DataError, match="was changed while the build ran"):
        build(wanted, tmp_path / "registry")
    monkeypatch.undo()
    build(wanted, tmp_path / "registry")
    assert listed[0]["pair_id"] in ids(tmp_path / "registry")


def test_other_names_splits_and_picture_sizes_take_the_same_file(
    listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path
) -> None:
    splits = {"train": {"episodes": 8}}
    larger = {"frames": {"width": 84, "height": 84}, "source": DATA["source"]}
    registry = build_wrong_labels(
        tmp_path / "registry", name="refined", splits=splits, pairs=with_file(file(listed)), **larger
    )
    manifest = read_manifest(registry, "refined")
    assert manifest.refined is not None
    assert manifest.refined.dropped > 0
    assert manifest.refined.dropped + manifest.refined.unmatched == len(listed)


# ---- what does not fit ----


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"source": DATA["source"] | {"distractors": [0, 0]}},
        {"pairs": {"min_seconds": 1.5}},
        {"pairs": {"label": "progress"}},
    ],
    ids=["seed", "source", "rules", "label"],
)
def test_file_of_another_build_is_refused_before_a_picture_is_drawn(
    listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, change: dict[str, Any]
) -> None:
    rules = with_file(file(listed), **change.pop("pairs", {}))
    with pytest.raises(ConfigError, match=r"row 1, is about a pair of the build 'order' with seed 0, which") as caught:
        build(config(pairs=rules, **change), tmp_path / "registry")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "registry").rglob("*.png"))


def test_pair_that_shows_other_pictures_keeps_its_label_and_is_counted(
    labelled: Path, listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path
) -> None:
    crossed = {
        "earlier_fingerprint": listed[0]["later_fingerprint"],
        "later_fingerprint": listed[0]["earlier_fingerprint"],
    }
    path = file([listed[0] | crossed, *listed[1:]])
    registry = build_wrong_labels(tmp_path / "registry", pairs=with_file(path))
    manifest = read_manifest(registry, "order")
    assert manifest.refined is not None
    assert (manifest.refined.dropped, manifest.refined.unmatched) == (len(listed) - 1, 1)
    assert listed[0]["pair_id"] in ids(registry)
    assert manifest.counts.excluded == {"its pictures are not those that were judged in pairs.refine": 1}
    assert "1 rows are about no pair of this build" in build_text(manifest)
    with pytest.raises(DataError, match="not those that were judged"):
        build_wrong_labels(tmp_path / "strict", pairs=with_file(path), on_bad_data="error")


@pytest.mark.parametrize(
    "change", [{"split": "heldout"}, {"task": "open the door"}, {"closer": "earlier"}, {"pair_id": "elsewhere:1-2"}]
)
def test_row_about_another_split_task_label_or_pair_changes_nothing(
    labelled: Path, listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, change: dict[str, Any]
) -> None:
    registry = build_wrong_labels(tmp_path / "registry", pairs=with_file(file(listed[:1], **change)))
    assert ids(registry) == ids(labelled)
    refined = read_manifest(registry, "order").refined
    assert refined is not None
    assert (refined.dropped, refined.unmatched) == (0, 1)


@pytest.mark.parametrize(
    ("rows", "change", "words"),
    [
        (2, {"decision": "tie"}, "pairs.ties: .* makes ties of 2 pairs, and this build drops ties; set pairs.ties"),
        (2, {"pair_id": "a:1-2"}, "has two rows about pair a:1-2; delete one of them"),
        (1, {"decision": "strike"}, r"row 1: not what `stcr data refine` writes .*one of drop, tie, keep"),
    ],
)
def test_decisions_that_cannot_be_followed_are_refused(
    listed: list[dict[str, Any]],
    file: Callable[..., str],
    tmp_path: Path,
    rows: int,
    change: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        build(config(pairs=with_file(file(listed[:rows], **change))), tmp_path / "registry")
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs.refine.file: .*none.jsonl: no such file; run `stcr data refine`"):
        build(config(pairs=with_file(str(tmp_path / "none.jsonl"))), tmp_path / "registry")


@pytest.mark.slow
def test_workers_write_the_same_bytes(
    listed: list[dict[str, Any]], file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stcr_plugin.registry.workers._WORTH_A_PROCESS", 1)
    wanted = config(pairs=with_file(file(listed)))
    found = []
    for workers in (1, 2):
        build(wanted, tmp_path / str(workers), WorkerPool(workers))
        found.append(read_manifest(tmp_path / str(workers), "order"))
    assert found[0].checksums == found[1].checksums
    assert found[0].refined == found[1].refined


def test_pairs_that_are_published_may_be_refined_too() -> None:
    values = DATA | {"source": {"kind": "spatiallogic", "file": "a.json", "root": "b", "fps": 10}, "datasets": {}}
    rules = {"refine": {"file": "a.jsonl"}}
    assert from_mapping(DataConfig, values | {"pairs": rules}, "test").pairs.refine is not None
    with pytest.raises(ConfigError, match="`pairs` has per_episode, but the pairs of source kind spatiallogic"):
        from_mapping(DataConfig, values | {"pairs": rules | {"per_episode": 3}}, "test")
