import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import spatiallogic_files as made
from PIL import Image
from spatiallogic_files import OTHER, PLACE, RETRIEVE, cot, path, row, weak

from stcr_plugin import artefacts
from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.spatiallogic import SpatialLogicConfig, SpatialLogicSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import authors_rows
from stcr_plugin.registry.authors_rows import COLUMNS, Shown, csv_row, export, json_row
from stcr_plugin.registry.build import DataConfig, build, load_data_config
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.types import ORDERS, Episode, Exclusion, Pair, Query

TABLETOP = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 3, "heldout": 2, "size": 28},
    "splits": {"train": {"episodes": 3, "group": "seen"}, "heldout": {"episodes": 2, "group": "heldout"}},
    "pairs": {"per_episode": 4, "min_seconds": 0.5},
    "datasets": {
        "cot": {"split": "train", "kind": "cot"},
        "weak": {"split": "train", "kind": "weak", "orders": "backward"},
    },
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """An unbroken build, not to be changed."""
    folder = tmp_path_factory.mktemp("registry")
    build(from_mapping(DataConfig, TABLETOP, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return made.write_clips(tmp_path_factory.mktemp("clips") / "clips")


def imported(file, root, **settings):
    """Every pair that a file holds, as (paths of the earlier and later picture, task, closer, orders, descriptions)."""
    source = SpatialLogicSource(SpatialLogicConfig(str(file), str(root), **settings))
    found = set()
    for episode in source.episodes():
        assert not isinstance(episode, Exclusion), episode
        for pair in source.given_pairs(episode):
            images = tuple(source.picture_path(episode, index) for index in (pair.earlier, pair.later))
            found.add((images, pair.task, pair.closer, pair.orders, pair.descriptions))
    return found


# ---- what an export holds ----


def test_dataset_is_written_row_by_row_in_their_format(registry, tmp_path):
    done = export("toy_cot", registry, tmp_path / "cot.json", "json")
    ours, theirs = list(dataset_rows(registry, "toy_cot")), json.loads((tmp_path / "cot.json").read_text())
    assert (done.rows, done.ties) == (len(ours), 0)
    assert len(theirs) == len(ours) > 0
    for our, their in zip(ours, theirs, strict=True):
        (message,) = their["messages"]
        one, two, text = message["content"]
        assert [(image["type"], image["image_id"]) for image in (one, two)] == [("image", "img1"), ("image", "img2")]
        assert [one["image"], two["image"]] == our["images"]
        assert our["messages"][0]["content"] == "<image><image>" + text["text"]
        assert list(their["target"]) == ["spatial details", "closer to completion"]
        # Their training script makes the target text from the two values in this very way.
        details, closer = their["target"].values()
        assert our["messages"][1]["content"] == f"spatial details: {details}\ncloser to completion: {closer}"
        assert (registry / one["image"]).is_file()


def test_weak_rows_have_no_details(registry, tmp_path):
    export("toy_weak", registry, tmp_path / "weak.json", "json")
    theirs = json.loads((tmp_path / "weak.json").read_text())
    assert [their["target"] for their in theirs] == [
        {"closer to completion": row["answer"]} for row in dataset_rows(registry, "toy_weak")
    ]


def test_split_is_written_in_both_orders_with_the_columns_they_insist_on(registry, tmp_path):
    done = export("toy", registry, tmp_path / "gt.csv", "csv", "heldout")
    with open(tmp_path / "gt.csv", newline="") as file:
        theirs = list(csv.reader(file))
    pairs = read_pairs(registry, "toy", "heldout")
    assert tuple(theirs[0]) == COLUMNS
    assert theirs[1:] == [
        [*Query(pair, order).images, pair.task, "", Query(pair, order).answer] for pair in pairs for order in ORDERS
    ]
    assert done.rows == 2 * len(pairs) > 0


def test_same_build_exports_the_same_bytes(registry, tmp_path):
    for name in ("one.json", "two.json"):
        export("toy", registry, tmp_path / name, "json", "heldout")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_pairs_without_an_answer_are_left_out_and_counted(registry, tmp_path, monkeypatch):
    real = read_pairs(registry, "toy", "heldout")
    tied = [Pair(**{**vars(pair), "closer": "neither"}) if place == 0 else pair for place, pair in enumerate(real)]
    monkeypatch.setattr(authors_rows.manifests, "read_pairs", lambda *_: tied)
    done = export("toy", registry, tmp_path / "gt.csv", "csv", "heldout")
    assert (done.rows, done.ties) == (2 * len(real) - 2, 2)
    assert "neither" not in (tmp_path / "gt.csv").read_text()


# ---- import of an export, export of an import ----


def test_import_of_an_exported_dataset_gives_its_pairs(registry, tmp_path):
    export("toy_cot", registry, tmp_path / "cot.json", "json")
    said = {}
    for item in dataset_rows(registry, "toy_cot"):
        if item["order"] == "forward":
            text = item["messages"][1]["content"].partition("\n")[0]
            said[item["pair_id"]] = re.fullmatch(r"spatial details: img1: (.*) img2: (.*)", text).groups()
    expected = {
        ((pair.earlier_image, pair.later_image), pair.task, pair.closer, ORDERS, said[pair.pair_id])
        for pair in read_pairs(registry, "toy", "train")
    }
    # Our questions hold the task in quotation marks or at their end, as the wording goes: the file cannot say it.
    tasks = {pair.task for pair in read_pairs(registry, "toy", "train")}
    pattern = "(" + "|".join(map(re.escape, sorted(tasks))) + ")"
    assert imported(tmp_path / "cot.json", registry, task_pattern=pattern) == expected


def test_import_of_an_exported_split_gives_its_pairs(registry, tmp_path):
    export("toy", registry, tmp_path / "gt.csv", "csv", "heldout")
    assert imported(tmp_path / "gt.csv", registry) == {
        ((pair.earlier_image, pair.later_image), pair.task, pair.closer, ORDERS, ("", ""))
        for pair in read_pairs(registry, "toy", "heldout")
    }


def published():
    """Rows in the newer spelling: pairs in both orders and in one, with the label of frame order and against it."""
    return [
        row(path(PLACE, 1), path(PLACE, 8), cot("corn in hand.", "corn in the bag.", "img2")),
        row(path(PLACE, 8), path(PLACE, 1), cot("corn in the bag.", "corn in hand.", "img1")),
        row(path(RETRIEVE, 9), path(RETRIEVE, 2), cot("nothing held.", "corn held.", "img2"), task="Retrieve corn"),
        row(path(OTHER, 3), path(OTHER, 4), weak("img1"), task="Pour"),
    ]


def test_export_of_an_import_gives_the_same_rows(clips, tmp_path):
    rows = published()
    source = SpatialLogicSource(SpatialLogicConfig(str(made.write_json(tmp_path / "a.json", rows)), str(clips)))
    again = []
    for episode in source.episodes():
        assert isinstance(episode, Episode)
        for given in source.given_pairs(episode):
            images = [source.picture_path(episode, index) for index in (given.earlier, given.later)]
            pair = Pair(
                "p", "e", "train", given.task, given.earlier, given.later, 1.0, given.closer, given.orders, "", *images
            )
            for order in given.orders:
                query = Query(pair, order)
                one, two = given.descriptions if order == "forward" else given.descriptions[::-1]
                details = f"img1: {one} img2: {two}" if one else ""
                question = made.QUESTIONS["zh"].format(task=given.task)
                shown = Shown(query.images, given.task, question, query.answer, details)
                again.append(json_row(shown))
                assert list(csv_row(shown).values()) == [*query.images, given.task, details, query.answer]

    def by_text(row):
        return json.dumps(row, ensure_ascii=False)

    assert sorted(again, key=by_text) == sorted(rows, key=by_text)


def picture_shown(image, registry):
    """(clip, frame) of a picture in the registry."""
    with Image.open(registry / image) as opened:
        return made.seen(np.asarray(opened))


def picture_published(image):
    """(clip, frame) of a published path."""
    return next((clip, frame) for clip in made.CLIPS for frame in range(made.FRAMES) if path(clip, frame) == image)


def facts(row, identify):
    """What a JSON row says, whatever its paths and its wording of the question are."""
    one, two, text = row["messages"][0]["content"]
    task = next(task for task in ("Place the held corn into the bag", "Retrieve corn", "Pour") if task in text["text"])
    return [identify(one["image"]), identify(two["image"]), task, row["target"]]


@pytest.fixture(scope="module")
def imported_build(clips, tmp_path_factory):
    """A registry with the build of published rows, one of which is broken, and those rows that are sound."""
    folder = tmp_path_factory.mktemp("imported")
    rows = [row for row in published() if "spatial details" in row["target"]]
    broken = row("nowhere/1.png", "nowhere/2.png", weak("img1"))
    file = made.write_json(folder / "cot.json", [broken, *rows])
    settings = {
        "name": "theirs",
        "source": {"kind": "spatiallogic", "file": str(file), "root": str(clips)},
        "splits": {"train": {"fraction": 1.0}},
        "datasets": {kind: {"split": "train", "kind": kind, "orders": "given"} for kind in ("cot", "weak")},
    }
    build(from_mapping(DataConfig, settings, "test"), folder / "registry")
    return folder / "registry", rows


def test_export_of_a_built_import_gives_the_same_rows(imported_build, tmp_path):
    registry, rows = imported_build
    export("theirs_cot", registry, tmp_path / "cot.json", "json")
    exported = artefacts.read_json(tmp_path / "cot.json")
    again = [facts(row, lambda image: picture_shown(image, registry)) for row in exported]
    assert sorted(again, key=str) == sorted((facts(row, picture_published) for row in rows), key=str)


def test_weak_build_of_an_import_keeps_labels_and_orders(imported_build, tmp_path):
    registry, rows = imported_build
    export("theirs_weak", registry, tmp_path / "weak.csv", "csv")
    with open(tmp_path / "weak.csv", newline="") as file:
        again = [
            (*(picture_shown(row[name], registry) for name in COLUMNS[:2]), row["spatial_details"], row["target"])
            for row in csv.DictReader(file)
        ]
    expected = [facts(row, picture_published) for row in rows]
    assert sorted(again) == sorted((one, two, "", target["closer to completion"]) for one, two, _, target in expected)


def test_broken_row_stands_in_the_manifest(imported_build):
    manifest = read_manifest(imported_build[0], "theirs")
    assert manifest.counts.excluded == {"no such picture under source.root": 1}
    assert manifest.excluded[0].where.endswith("cot.json, row 1, nowhere/1.png")


# ---- refusals ----


def test_build_in_tar_files_is_refused(tmp_path):
    build(from_mapping(DataConfig, TABLETOP | {"frames": {"store": "tar"}}, "test"), tmp_path / "sets")
    with pytest.raises(ConfigError, match=r"its pictures are not single files.*frames\.store=folder"):
        export("toy_weak", tmp_path / "sets", tmp_path / "out.json", "json")


@pytest.mark.parametrize(
    ("name", "split", "format", "words"),
    [
        ("toy", None, "json", "toy: is a whole build; export one of: toy_cot, toy_weak, toy --split train"),
        ("toy", "heldot", "csv", "no split 'heldot'; did you mean 'heldout'"),
        ("toy_wek", None, "json", "did you mean 'toy_weak'"),
        ("toy_weak", None, "jsno", "format: unknown format 'jsno'; did you mean 'json'"),
    ],
)
def test_unknown_names_are_told_the_nearest(registry, tmp_path, name, split, format, words):
    with pytest.raises(ConfigError, match=words):
        export(name, registry, tmp_path / "out", format, split)
    assert not (tmp_path / "out").exists()


def test_path_that_their_loader_would_change_is_refused(registry, tmp_path, monkeypatch):
    changed = [
        Pair(**{**vars(pair), "earlier_image": "toy/frames_/1.png"}) for pair in read_pairs(registry, "toy", "heldout")
    ]
    monkeypatch.setattr(authors_rows.manifests, "read_pairs", lambda *_: changed)
    with pytest.raises(DataError, match=r"toy/frames_/1.png: a folder's name ends in `_`"):
        export("toy", registry, tmp_path / "gt.csv", "csv", "heldout")


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"min_frames": 12}, "min_frames"),
        ({"trim_idle": 0.02, "per_episode": 8, "ties": "teach"}, "per_episode, trim_idle"),
    ],
)
def test_pair_rules_that_published_pairs_cannot_follow_are_refused(rules, named):
    settings = {
        "name": "theirs",
        "source": {"kind": "spatiallogic", "file": "cot.json", "root": "clips"},
        "splits": {"train": {"fraction": 1.0}},
    }
    from_mapping(DataConfig, settings | {"pairs": {"ties": "teach"}}, "test")
    with pytest.raises(ConfigError, match=rf"`pairs` has {named}, but the pairs of source kind spatiallogic are given"):
        from_mapping(DataConfig, settings | {"pairs": rules}, "test")


# ---- the command ----


def test_command_writes_the_file_and_says_where(registry, tmp_path, capsys):
    out = tmp_path / "sub" / "gt.csv"
    arguments = ["toy", "--split", "heldout", "--format", "csv", "--out", str(out), "--registry", str(registry)]
    assert main(["data", "export", *arguments]) == 0
    rows = 2 * len(read_pairs(registry, "toy", "heldout"))
    assert f"exported: {rows} rows to {out}; its paths start from {registry}" in capsys.readouterr().out
    assert len(Path(out).read_text().splitlines()) == rows + 1


def test_command_says_what_is_wrong(registry, tmp_path, capsys):
    arguments = ["toy", "--format", "csv", "--out", str(tmp_path / "a.csv"), "--registry", str(registry)]
    assert main(["data", "export", *arguments]) == 1
    assert "stcr: toy: is a whole build; export one of" in capsys.readouterr().err


# ---- the recipe ----


def test_recipe_loads():
    recipe = Path(__file__).parents[2] / "recipes/data/spatiallogic.yaml"
    assert isinstance(load_data_config(recipe).source, SpatialLogicConfig)
