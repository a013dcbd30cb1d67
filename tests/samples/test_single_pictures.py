"""Datasets of kind describe: one picture, its claims in the words of CoT, each picture once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop, losses, stage_row

from stcr_plugin.config import from_mapping
from stcr_plugin.embedded.architecture import _prompt_texts
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.authors_rows import _of_dataset
from stcr_plugin.registry.build import DataConfig, build, load_data_config
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.overlap import side
from stcr_plugin.report.check_words import build_text, check_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.samples.cot import halves_of, load_phrases
from stcr_plugin.samples.general import SHOWN
from stcr_plugin.samples.single_pictures import QUESTIONS, check_description, described, description, description_prompt

CONFIG: dict[str, Any] = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 6, "heldout": 0},
    "splits": {"train": {"episodes": 4}, "dev": {"episodes": 2}},
    "pairs": {"per_episode": 4, "min_seconds": 0.5},
    "datasets": {
        "some": {"split": "train", "kind": "describe", "pictures": 10, "languages": ["en", "zh"]},
        "all": {"split": "train", "kind": "describe"},
        "cot": {"split": "train", "kind": "cot"},
    },
}


def built(folder: Path, **changes: Any) -> Path:
    build(from_mapping(DataConfig, CONFIG | changes, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("describe"))


def rows(registry: Path, key: str = "some") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((registry / "toy" / f"toy_{key}.json").read_text(encoding="utf-8"))
    return found


def frame_of(row: dict[str, Any]) -> int:
    return int(Path(row["images"][0]).stem)


def test_every_claim_is_true_of_its_picture(registry: Path) -> None:
    source = TabletopSource(TabletopConfig(seen=6, heldout=0), 0)
    episodes = {episode.episode_id: episode for episode in source.episodes()}  # type: ignore[union-attr]
    phrases = load_phrases("tabletop")
    for row in [*rows(registry), *rows(registry, "all")]:
        state = source.states(episodes[row["episode_id"]])[frame_of(row)]  # type: ignore[arg-type]
        text = described(row["messages"][1]["content"])
        assert text is not None
        claims = phrases[row["language"]].read(text)
        assert claims == source.claims(state)
    assert {row["language"] for row in rows(registry)} == {"en", "zh"}


def test_text_is_the_half_that_a_cot_sample_has_of_the_same_picture(registry: Path) -> None:
    alone = {row["images"][0]: described(row["messages"][1]["content"]) for row in rows(registry, "all")}
    for row in rows(registry, "cot"):
        halves = halves_of(row["messages"][1]["content"])
        assert halves is not None
        assert tuple(alone[image] for image in row["images"]) == halves
        assert row["messages"][1]["content"].startswith(f"spatial details: img1: {alone[row['images'][0]]}")


def test_each_picture_is_described_once_and_pictures_are_spread_over_episodes(registry: Path) -> None:
    shown = {image for row in dataset_rows(registry, "toy_cot") for image in row["images"]}
    assert Counter(row["images"][0] for row in rows(registry, "all")) == Counter(shown)
    assert len({row["images"][0] for row in rows(registry)}) == 10
    assert set(Counter(row["episode_id"] for row in rows(registry)).values()) == {2, 3}


def test_question_names_the_task_and_the_picture_and_asks_for_no_judgment(registry: Path) -> None:
    tasks = {pair.pair_id: pair.task for pair in read_pairs(registry, "toy", "train")}
    variants = set()
    for row in rows(registry, "all"):
        text = row["messages"][0]["content"]
        assert text.startswith(SHOWN)
        assert tasks[row["pair_id"]] in text
        assert "closer" not in text
        assert "img2" not in text
        variants.add(text.replace(tasks[row["pair_id"]], "{task}"))
    assert variants == {f"{SHOWN}{variant}" for variant in QUESTIONS["en"]}
    assert all(text.count("{task}") == 1 for texts in QUESTIONS.values() for text in texts)


def test_counts_listing_and_check_agree(registry: Path) -> None:
    manifest = read_manifest(registry, "toy")
    counts = manifest.counts.datasets["toy_some"]
    assert (counts.samples, counts.short_by, counts.same_text) == (10, 0, None)
    assert counts.languages == {"en": 5, "zh": 5}
    assert "dataset toy_some: 10 pictures described\n" in build_text(manifest)
    assert check("toy", registry).ok, check_text(check("toy", registry))
    info = json.loads((registry / "dataset_info.json").read_text())
    assert info["toy_some"]["file_name"] == "toy/toy_some.json"
    shown = {episode_id for _, episode_id in side("toy_some", registry).episodes}
    assert shown == set(manifest.splits["train"])


def test_claims_are_counted_as_checked(registry: Path, tmp_path: Path) -> None:
    alone = built(tmp_path, datasets={"all": CONFIG["datasets"]["all"]})
    one = read_manifest(alone, "toy")
    assert one.claims_checked == sum(
        described(row["messages"][1]["content"]).count(",") + 1  # type: ignore[union-attr]
        for row in rows(alone, "all")
    )


def test_contact_sheet_shows_the_picture_with_its_frame_and_text(registry: Path, tmp_path: Path) -> None:
    page = show("toy_some", registry, tmp_path / "sheet.html").path.read_text(encoding="utf-8")
    assert page.count("<article") == 10
    assert 'class="fault"' not in page
    assert page.count('<span class="tag">one picture</span>') == 10
    assert "s apart" not in page
    for row in rows(registry):
        assert f"img1 frame {frame_of(row)}" in page
        assert row["messages"][1]["content"] in page


def test_same_seed_gives_the_same_bytes_and_other_datasets_keep_theirs(registry: Path, tmp_path: Path) -> None:
    again = built(tmp_path / "again")
    without = built(tmp_path / "without", datasets={"cot": CONFIG["datasets"]["cot"]})
    for folder, names in ((again, ("some", "all", "cot")), (without, ("cot",))):
        for name in names:
            file = f"toy/toy_{name}.json"
            assert (folder / file).read_bytes() == (registry / file).read_bytes()


def test_texts_are_not_among_those_that_the_embedded_tokenizer_is_trained_on() -> None:
    trained = set(_prompt_texts())
    asked = {text.replace("{", " ").replace("}", " ") for texts in QUESTIONS.values() for text in texts}
    assert not asked & trained


def test_variant_depends_on_picture_and_seed_alone() -> None:
    texts = [description_prompt("stack cups.", "en", f"a:{frame}", seed=0) for frame in range(30)]
    assert texts == [description_prompt("stack cups.", "en", f"a:{frame}", seed=0) for frame in range(30)]
    assert len(set(texts)) == len(QUESTIONS["en"])
    assert all("stack cups. " in text for text in texts)
    with pytest.raises(ConfigError, match="no question about one picture in 'fr'"):
        description_prompt("stack cups", "fr", "a:1", seed=0)


def test_false_claims_and_other_forms_are_refused() -> None:
    source = TabletopSource(TabletopConfig(seen=1, heldout=0), 0)
    (episode,) = source.episodes()
    state = source.states(episode)[0]  # type: ignore[arg-type]
    phrases = load_phrases("tabletop")["en"]
    said = phrases.say(source.claims(state))

    def checked(text: str) -> int:
        return check_description(text, state, source, phrases=phrases, where="frame 0")

    assert checked(description(said)) == len(source.claims(state))
    with pytest.raises(DataError, match=r"frame 0: the text states gripper = 'closed', which is false"):
        checked(description("gripper closed"))
    with pytest.raises(DataError, match="the text states phase = 'the hand sings', which is false"):
        checked(description("the hand sings"))
    with pytest.raises(DataError, match="does not read 'spatial details: img1"):
        checked(f"{description(said)}\ncloser to completion: img1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["messages"][1].update(content="closer to completion: img1"), "does not describe img1"),
        (
            lambda row: row["messages"][1].update(content=row["messages"][1]["content"] + "\ncloser: img1"),
            "does not describe img1, or says more",
        ),
        (lambda row: row.update(order="forward"), "order 'forward' is not as configured"),
        (lambda row: row.update(answer="img1"), "answer 'img1' is not as configured"),
        (lambda row: row.update(images=["toy/other.png"]), "the picture is not one of pair"),
        (lambda row: row["messages"][0].update(content="<image>What?"), "the question does not start with"),
    ],
)
def test_damaged_row_is_found(registry: Path, tmp_path: Path, change: Any, words: str) -> None:
    copy = Path(shutil.copytree(registry, tmp_path / "copy"))
    damaged = rows(copy)
    change(damaged[0])
    (copy / "toy" / "toy_some.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert words in check_text(check("toy", copy))


def test_picture_that_is_described_twice_is_found(registry: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(registry, tmp_path / "copy"))
    damaged = rows(copy)
    damaged[1] = damaged[0]
    (copy / "toy" / "toy_some.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert "is described twice, in rows 1, 2" in check_text(check("toy", copy))


# ---- mistakes ----


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"orders": "forward"}, "remove orders, format, curriculum"),
        ({"format": "parquet"}, "remove orders, format, curriculum"),
        ({"curriculum": {"bins": 2}}, "remove orders, format, curriculum"),
        ({"pairs": 3}, "kind: describe counts `pictures`, every other kind `pairs`"),
        ({"pictures": 0}, "`pictures` must be at least 1"),
        ({"kind": "weak", "pictures": 3}, "kind: describe counts `pictures`, every other kind `pairs`"),
        ({"texts": "a.jsonl"}, "`texts` names a file of annotated texts for kind: cot"),
        ({"draw": "one", "format": "json"}, "not general or describe"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(more: dict[str, Any], words: str) -> None:
    rule = {"split": "train", "kind": "describe", **more}
    with pytest.raises(ConfigError, match=words):
        from_mapping(DataConfig, CONFIG | {"datasets": {"some": rule}}, "test")


def test_more_pictures_than_there_are_is_refused_before_a_picture_is_drawn(registry: Path, tmp_path: Path) -> None:
    most = len(rows(registry, "all"))
    rule = {"split": "train", "kind": "describe", "pictures": most + 1}
    with pytest.raises(ConfigError, match=rf"datasets.some.pictures: asks for {most + 1} pictures and .* has {most}"):
        built(tmp_path, datasets={"some": rule})
    assert not list(tmp_path.rglob("*.png"))
    built(tmp_path, datasets={"some": rule | {"pictures": most}})
    assert len(rows(tmp_path)) == most


def test_recordings_without_states_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("episode,task,path,fps\n")
    source = {"kind": "spatiallogic", "file": "a.json", "root": "b", "fps": 10}
    rules = {"source": source, "pairs": {}, "datasets": {"some": CONFIG["datasets"]["all"]}}
    with pytest.raises(ConfigError, match=r"datasets\.some: kind describe needs what a source records"):
        from_mapping(DataConfig, CONFIG | rules, "test")


def test_what_is_of_single_pictures_is_not_exported_as_pairs(registry: Path) -> None:
    with pytest.raises(ConfigError, match="single pictures"):
        list(_of_dataset("toy_some", registry))


# ---- training ----


def test_described_pictures_are_those_that_the_chain_is_trained_on() -> None:
    whole, single = (load_data_config(RECIPES / f"data/{name}.yaml") for name in ("tabletop", "tabletop_describe"))
    for key in ("seed", "frames", "pairs"):
        assert getattr(single, key) == getattr(whole, key), key
    assert single.splits == {"train": whole.splits["train"]}


@pytest.mark.slow(seconds=30)
def test_stage_1_starts_from_a_stage_that_describes(workshop: Workshop, tmp_path: Path) -> None:
    from tiny_stage import DATA

    values = DATA | {"name": "single", "datasets": {"describe": {"split": "train", "kind": "describe"}}}
    build(from_mapping(DataConfig, values, "test"), workshop.registry)
    more = ("dataset=single_describe", "max_steps=6")
    first = workshop.train("cot", "describe", *more, recipe="stage0_describe")
    record = stage_row(first)
    assert (record["name"], record["finished"], record["datasets"]) == ("describe", True, ["single_describe"])
    assert losses(first)[-1] < losses(first)[0]
    second = workshop.train("cot", "after", "stcr.starts_from=stage", recipe="stage1_cot", model=first)
    assert stage_row(second)["parent"] == str(first)
