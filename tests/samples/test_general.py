"""Datasets of kind general: yes/no questions about the pictures of a build, to be replayed in a stage."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.prompts import content
from stcr_plugin.episodes.tabletop import HELDOUT_SHAPES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation import guard
from stcr_plugin.registry.authors_rows import _of_dataset
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.registry.overlap import side
from stcr_plugin.report.check_words import check_text
from stcr_plugin.samples.general import SHOWN, Question

CONFIG: dict[str, Any] = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 6, "heldout": 0},
    "splits": {"train": {"episodes": 4}, "dev": {"episodes": 2}},
    "pairs": {"per_episode": 4, "min_seconds": 0.5},
    "datasets": {
        "general": {"split": "train", "kind": "general", "pairs": 10, "languages": ["en", "zh"]},
        "all": {"split": "train", "kind": "general"},
    },
}


def built(folder: Path, **changes: Any) -> Path:
    build(from_mapping(DataConfig, CONFIG | changes, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("general"))


def rows(registry: Path, key: str = "general") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((registry / "toy" / f"toy_{key}.json").read_text(encoding="utf-8"))
    return found


def test_every_answer_is_true_of_its_picture(registry: Path) -> None:
    """By the simulator: what is answered yes is in the picture, what is answered no is not."""
    source = TabletopSource(TabletopConfig(seen=6, heldout=0), 0)
    episodes = {episode.episode_id: episode for episode in source.episodes()}  # type: ignore[union-attr]
    pattern = re.compile(re.escape(SHOWN) + r"Is there an? (\w+) (\w+) in the picture\? Answer yes or no\.")
    asked = [row for row in rows(registry, "all") if row["language"] == "en"]
    assert len(asked) > 40
    for row in asked:
        user, assistant = (message["content"] for message in row["messages"])
        (picture,) = row["images"]
        thing = tuple(pattern.fullmatch(user).groups())  # type: ignore[union-attr]
        there = source.things(episodes[row["episode_id"]], int(Path(picture).stem))  # type: ignore[arg-type]
        assert (thing in {(one.colour, one.shape) for one in there}) == (assistant == "yes"), row


def test_each_picture_is_asked_as_often_for_no_as_for_yes(registry: Path) -> None:
    for key in ("general", "all"):
        answers: dict[str, Counter[str]] = {}
        for row in rows(registry, key):
            answers.setdefault(row["images"][0], Counter())[row["answer"]] += 1
        assert all(count["yes"] == count["no"] > 0 for count in answers.values())
    assert {row["language"] for row in rows(registry)} == {"en", "zh"}
    assert len({json.dumps(row) for row in rows(registry)}) == len(rows(registry))


def test_question_alone_does_not_tell_its_answer(registry: Path) -> None:
    """Who knows each question's commoner answer is right about half of the time, even in so few pictures."""
    answers: dict[str, Counter[str]] = {}
    for row in rows(registry, "all"):
        answers.setdefault(row["messages"][0]["content"], Counter())[row["answer"]] += 1
    guessed = sum(max(count.values()) for count in answers.values()) / len(rows(registry, "all"))
    assert guessed < 0.6


def test_rows_have_the_guards_questions(registry: Path) -> None:
    row = next(row for row in rows(registry) if row["language"] == "zh")
    text = row["messages"][0]["content"].removeprefix(SHOWN)
    prompt = guard._prompt(Question("p.png", text, "yes", ()), ("是", "否"))
    shown = "".join("<image>" if part["type"] == "image" else part["text"] for part in content(prompt))
    assert shown == row["messages"][0]["content"]
    assert row["messages"][1]["content"] in prompt.names


def test_guard_asks_about_other_pictures_than_are_replayed(registry: Path, tmp_path: Path) -> None:
    guarded = {artefacts.sha256(tmp_path / one.picture) for one in guard.scene_questions(tmp_path, 6, 0)}
    replayed = {artefacts.sha256(registry / row["images"][0]) for row in rows(registry, "all")}
    assert guarded
    assert replayed
    assert not guarded & replayed


def test_pictures_are_of_the_split_and_counted(registry: Path) -> None:
    manifest = read_manifest(registry, "toy")
    pairs = {pair.pair_id: pair for pair in read_pairs(registry, "toy", "train")}
    for row in rows(registry):
        pair = pairs[row["pair_id"]]
        assert row["images"][0] in (pair.earlier_image, pair.later_image)
    counts = manifest.counts.datasets["toy_general"]
    assert counts.samples == len(rows(registry))
    assert counts.answers["yes"] == counts.answers["no"]
    assert counts.short_by == 0
    assert check("toy", registry).ok, check_text(check("toy", registry))
    shown = {episode_id for _, episode_id in side("toy_general", registry).episodes}
    assert shown
    assert shown <= set(manifest.splits["train"])


def test_same_seed_gives_the_same_bytes(registry: Path, tmp_path: Path) -> None:
    again = built(tmp_path)
    name = "toy/toy_general.json"
    assert (again / name).read_bytes() == (registry / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["messages"][1].update(content="maybe"), "the target is 'maybe' where the answer is"),
        (lambda row: row.update(order="forward"), "order 'forward' is not as configured"),
        (lambda row: row.update(images=["toy/other.png"]), "the picture is not one of pair"),
        (lambda row: row["messages"][0].update(content="<image>Is it?"), "as the guard's does"),
    ],
)
def test_damaged_row_is_found(registry: Path, tmp_path: Path, change: Any, words: str) -> None:
    import shutil

    copy = Path(shutil.copytree(registry, tmp_path / "copy"))
    damaged = rows(copy)
    change(damaged[0])
    (copy / "toy" / "toy_general.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert words in check_text(check("toy", copy))


def test_what_has_no_single_pictures_is_refused(registry: Path) -> None:
    with pytest.raises(ConfigError, match="single pictures"):
        list(_of_dataset("toy_general", registry))


@pytest.mark.parametrize("more", [{"orders": "forward"}, {"format": "parquet"}, {"curriculum": {"bins": 2}}])
def test_settings_of_pairs_are_refused(more: dict[str, Any]) -> None:
    rule = {"split": "train", "kind": "general", **more}
    with pytest.raises(ConfigError, match="remove orders, format, curriculum"):
        from_mapping(DataConfig, CONFIG | {"datasets": {"general": rule}}, "test")


def test_shapes_never_trained_on_are_not_in_questions(tmp_path: Path) -> None:
    """Their pictures are: of the pad in them, by colours and shapes that have names in the questions."""
    source = {"kind": "tabletop", "seen": 0, "heldout": 0, "shapes": 2}
    built(
        tmp_path,
        source=source,
        splits={"train": {"episodes": 2, "group": "shapes"}},
        datasets={"all": {"split": "train", "kind": "general"}},
    )
    texts = " ".join(row["messages"][0]["content"] for row in rows(tmp_path, "all"))
    assert "pad" in texts
    assert not [shape for shape in HELDOUT_SHAPES if f"{shape} in the picture" in texts]
    assert check("toy", tmp_path).ok


def test_recordings_have_no_general_questions() -> None:
    source = {"kind": "frames", "root": "somewhere", "table": "table.csv"}
    with pytest.raises(ConfigError, match=r"datasets\.general: kind general .*stage2_mixed\.yaml"):
        from_mapping(DataConfig, CONFIG | {"source": source}, "test")
