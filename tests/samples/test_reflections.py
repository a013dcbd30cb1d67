"""Datasets of kind reflect: a proposed answer is judged, with the reasons that decide."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from annotated_file import annotations, write

from stcr_plugin.config import from_mapping
from stcr_plugin.embedded.architecture import _prompt_texts
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.source_table import BUILT_IN, SourceKind, Trend
from stcr_plugin.episodes.tabletop import PHASES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.descriptions import true
from stcr_plugin.registry.authors_rows import export
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.overlap import overlap
from stcr_plugin.report.check_words import build_text, check_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.samples import reflections as module
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.samples.questions import fill_task
from stcr_plugin.samples.reflections import (
    PROPOSALS,
    REFLECT_FILE,
    UNDECIDED,
    check_reflection,
    deciding,
    proposed_in,
    reflect_paraphrases,
    reflect_question,
    reflected,
    reflections,
    trends_of,
    true_reasons,
    unshared_in,
)
from stcr_plugin.scoring.factuality import own_halves
from stcr_plugin.scoring.parsing import parse
from stcr_plugin.types import ORDERS, Claim, Pair, Query, Sample, under

CONFIG: dict[str, Any] = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 5, "heldout": 0, "size": 28},
    "frames": {"width": 28, "height": 28},
    "splits": {"train": {"episodes": 4}, "dev": {"episodes": 1}},
    "pairs": {"per_episode": 6, "min_seconds": 0.5},
    "shard_episodes": 2,
    "datasets": {
        "reflect": {"split": "train", "kind": "reflect", "languages": ["en", "zh"]},
        "cot": {"split": "train", "kind": "cot"},
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "regress": {
        "source": {"kind": "tabletop", "seen": 0, "heldout": 0, "regress": 4, "size": 28},
        "splits": {"train": {"episodes": 4}},
        "pairs": {"per_episode": 8, "min_seconds": 0.5, "label": "progress"},
    },
    "tasks": {
        "source": {"kind": "tabletop", "seen": 0, "heldout": 0, "tasks": 3, "naming": 2, "size": 28},
        "splits": {"train": {"episodes": 5}},
        "pairs": {"per_episode": 8, "min_seconds": 0.5, "label": "progress", "tasks": "opposed"},
    },
}


def built(folder: Path, **changes: Any) -> Path:
    build(from_mapping(DataConfig, CONFIG | changes, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("reflect"))


@pytest.fixture(scope="module", params=["seen", *OTHERS])
def each(request: pytest.FixtureRequest, registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of demonstrations, one of tasks that are undone for a while, and one of several tasks on a recording."""
    if request.param == "seen":
        return registry
    rule = {"reflect": CONFIG["datasets"]["reflect"]}
    return built(tmp_path_factory.mktemp(request.param), **OTHERS[request.param], datasets=rule)


def rows(registry: Path, key: str = "reflect") -> list[dict[str, Any]]:
    return list(dataset_rows(registry, f"toy_{key}"))


def target(row: Mapping[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def proposal(row: Mapping[str, Any]) -> str:
    return proposed_in(row["messages"][0]["content"])[1]


def verdict(row: Mapping[str, Any]) -> str:
    found = reflected(target(row))
    assert found
    return found.verdict


# ---- the samples of a build ----


def test_neither_order_nor_proposal_nor_position_tells_an_answer_or_a_verdict(each: Path) -> None:
    every = rows(each)
    whole = Counter((row["pair_id"], row["order"], proposal(row)) for row in every)
    pairs = {row["pair_id"] for row in every}
    assert whole == Counter((pair, order, one) for pair in pairs for order in ORDERS for one in PROPOSALS)
    # What a judge may go by without looking: the proposal, the question's text, the language, or nothing at all.
    ways: dict[str, Any] = {
        "proposal": proposal,
        "question": lambda row: row["messages"][0]["content"],
        "language": lambda row: row["language"],
        "nothing": lambda row: "",
    }
    for way, seen in ways.items():
        for part in {seen(row) for row in every}:
            own = [row for row in every if seen(row) == part]
            assert Counter(row["answer"] for row in own) == dict.fromkeys(PROPOSALS, len(own) / 2), way
            assert Counter(map(verdict, own)) == dict.fromkeys(("right", "wrong"), len(own) / 2), way
    for order in ORDERS:  # which a judge is not told; by it alone no verdict follows
        own = [row for row in every if row["order"] == order]
        assert Counter(map(verdict, own)) == dict.fromkeys(("right", "wrong"), len(own) / 2)


def test_target_judges_the_proposal_and_ends_with_the_pairs_own_answer(each: Path) -> None:
    pairs = {pair.pair_id: pair for pair in read_pairs(each, "toy", "train")}
    for row in rows(each):
        query = Query(pairs[row["pair_id"]], row["order"])
        assert (row["answer"], tuple(row["images"]), row["kind"]) == (query.answer, query.images, "reflect")
        assert verdict(row) == ("right" if proposal(row) == query.answer else "wrong")
        first, details, last = target(row).split("\n")
        assert first == f"proposed answer: {verdict(row)}"
        assert last == f"closer to completion: {query.answer}"
        assert parse(target(row)) == query.answer
        assert own_halves(target(row), PROPOSALS) == reflected(target(row)).halves  # type: ignore[union-attr]
        assert details.startswith("spatial details: img1: ")


def test_reasons_are_true_differ_and_speak_for_the_answer(each: Path) -> None:
    manifest = read_manifest(each, "toy")
    config = from_mapping(DataConfig, manifest.config, "test")
    source = open_source(config.source, config.seed)
    states = {episode.episode_id: source.states(episode) for episode in source.episodes()}  # type: ignore
    pairs = {pair.pair_id: pair for pair in read_pairs(each, "toy", "train")}
    phrases = load_phrases("tabletop")
    families, checked = set(), 0
    for row in rows(each):
        pair = pairs[row["pair_id"]]
        frames = (pair.earlier, pair.later) if row["order"] == "forward" else (pair.later, pair.earlier)
        own = [under(states[pair.episode_id][frame], pair.task) for frame in frames]  # type: ignore[index]
        said = [phrases[row["language"]].read(half) for half in reflected(target(row)).halves]  # type: ignore
        assert [one.name for one in said[0]] == [one.name for one in said[1]]
        for claims, state in zip(said, own, strict=True):
            assert all(source.holds(claim, state) for claim in claims)
            checked += len(claims)
        closer = PROPOSALS.index(row["answer"])
        for one, two in zip(*said, strict=True):
            family, (near, far) = (
                one.name.partition(":")[0],
                (one.value, two.value) if not closer else (two.value, one.value),
            )
            families.add(family)
            if family == "phase":
                assert PHASES.index(near) > PHASES.index(far)
            else:
                assert near < far  # type: ignore[operator]
    assert "gripper" not in families
    assert "height" not in families
    assert families & {"goal", "reach"}
    assert checked <= manifest.claims_checked


def test_reasons_are_part_of_what_a_cot_sample_says_of_the_same_pictures(registry: Path) -> None:
    said = {(row["pair_id"], row["order"]): target(row) for row in rows(registry, "cot")}
    for row in (row for row in rows(registry) if row["language"] == "en"):
        whole = own_halves(said[row["pair_id"], row["order"]], PROPOSALS)
        for half, of_cot in zip(reflected(target(row)).halves, whole, strict=True):  # type: ignore
            assert set(half.split(", ")) < set(of_cot.split(", "))


def test_pairs_that_no_claim_decides_are_left_out_and_counted(registry: Path) -> None:
    pairs = read_pairs(registry, "toy", "train")
    source = TabletopSource(TabletopConfig(seen=5, heldout=0, size=28), 0)
    states = {episode.episode_id: source.states(episode) for episode in source.episodes()}  # type: ignore
    mute = {pair.pair_id for pair in pairs if module.why_undecided(source, pair, states[pair.episode_id])}  # type: ignore
    assert {row["pair_id"] for row in rows(registry)} == {pair.pair_id for pair in pairs} - mute
    manifest = read_manifest(registry, "toy")
    assert bool(mute) == (UNDECIDED in manifest.counts.excluded)
    counts = manifest.counts.datasets["toy_reflect"]
    assert (counts.samples, counts.pairs) == (4 * counts.pairs, len(pairs) - len(mute))
    assert f"dataset toy_reflect: {counts.samples} samples of {counts.pairs} pairs" in build_text(manifest)


def test_question_is_one_of_training_with_the_proposal_at_its_end(registry: Path) -> None:
    tasks = {pair.pair_id: pair.task for pair in read_pairs(registry, "toy", "train")}
    for row in rows(registry):
        text = row["messages"][0]["content"].removeprefix("<image><image>")
        question, proposed = proposed_in(text)
        assert text == f"{question}\nproposed answer: {proposed}"
        assert question in {fill_task(one, tasks[row["pair_id"]]) for one in reflect_paraphrases(row["language"])}
    for pair_id in tasks:
        own = {proposed_in(row["messages"][0]["content"])[0] for row in rows(registry) if row["pair_id"] == pair_id}
        assert len(own) <= 1


def test_parquet_in_shards_has_the_same_kind_of_rows(tmp_path: Path) -> None:
    rule = CONFIG["datasets"]["reflect"] | {"format": "parquet", "pairs": 9}
    folder = built(tmp_path, datasets={"reflect": rule})
    assert check("toy", folder).ok, check_text(check("toy", folder))
    assert len(rows(folder)) == 4 * 9
    assert Counter(map(verdict, rows(folder))) == {"right": 18, "wrong": 18}


def test_everything_that_reads_a_build_reads_it(registry: Path, tmp_path: Path) -> None:
    assert check("toy", registry).ok, check_text(check("toy", registry))
    found = overlap("toy_reflect", "toy:dev", registry)
    assert found.episodes.shared == 0
    page = show("toy_reflect", registry, tmp_path / "sheet.html").path.read_text(encoding="utf-8")
    assert 'class="fault"' not in page
    assert "proposed answer: wrong" in page
    with pytest.raises(ConfigError, match="judges a proposed answer, for which the authors' format has no place"):
        export("toy_reflect", registry, tmp_path / "out.json", "json")


def test_adding_it_to_a_finished_build_keeps_pictures_and_other_datasets_and_gives_the_same_bytes(
    registry: Path, tmp_path: Path
) -> None:
    def pictures() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}

    built(tmp_path, datasets={"cot": CONFIG["datasets"]["cot"]})
    cot, drawn = (tmp_path / "toy/toy_cot.json").read_bytes(), pictures()
    built(tmp_path)
    assert pictures() == drawn
    assert (tmp_path / "toy/toy_cot.json").read_bytes() == cot == (registry / "toy/toy_cot.json").read_bytes()
    assert (tmp_path / "toy/toy_reflect.json").read_bytes() == (registry / "toy/toy_reflect.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("answer: right", "answer: wrong"), "the target calls img1 wrong, which is false"),
        (lambda text: text.partition("\n")[2], "does not judge it and give reasons"),
        (lambda text: re.sub(r"spatial.*\n", "", text), "does not judge it and give reasons"),
        (lambda text: text[:-1] + str(3 - int(text[-1])), "the target does not end with"),
    ],
)
def test_damaged_target_is_found(registry: Path, tmp_path: Path, change: Any, words: str) -> None:
    copy = Path(shutil.copytree(registry, tmp_path / "copy"))
    damaged = rows(copy)
    row = next(row for row in damaged if proposal(row) == row["answer"] == "img1")
    row["messages"][1]["content"] = change(target(row))
    (copy / "toy" / "toy_reflect.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert words in check_text(check("toy", copy))


def test_missing_proposal_is_found(registry: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(registry, tmp_path / "copy"))
    damaged = rows(copy)
    damaged[0] = damaged[1]
    (copy / "toy" / "toy_reflect.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert "is not shown once in each order with each proposed answer" in check_text(check("toy", copy))


# ---- annotated texts ----


def test_annotated_texts_give_the_sentences_that_differ(registry: Path, tmp_path: Path) -> None:
    texts = [
        dataclasses.replace(
            row,
            earlier_text=f"The table is brown. The can stands {row.earlier}. The lamp is on.",
            later_text=f"The can is up {row.later}. The table is brown.",
        )
        for row in annotations(registry, "toy")
    ]
    texts[0] = dataclasses.replace(texts[0], later_text=texts[0].earlier_text)
    file = write(tmp_path / "a.jsonl", texts)
    rule = {"split": "train", "kind": "reflect", "texts": file}
    folder = built(tmp_path / "registry", datasets={"reflect": rule})
    pairs = {pair.pair_id: pair for pair in read_pairs(folder, "toy", "train")}
    for row in rows(folder):
        pair = pairs[row["pair_id"]]
        both = (f"The can stands {pair.earlier}. The lamp is on", f"The can is up {pair.later}")
        assert reflected(target(row)).halves == (both if row["order"] == "forward" else both[::-1])  # type: ignore
    assert {row["pair_id"] for row in rows(folder)} == {row.pair_id for row in texts[1:]}
    manifest = read_manifest(folder, "toy")
    assert manifest.counts.datasets["toy_reflect"].short_by == 0
    assert manifest.texts["toy_reflect"].counts.pairs == len(texts) - 1
    assert manifest.claims_checked == 0
    assert check("toy", folder).ok, check_text(check("toy", folder))
    assert "annotated, not true by a recorded state" in build_text(manifest)
    queries = [Query(pair, order) for pair in read_pairs(folder, "toy", "dev") for order in ORDERS]
    assert true(folder, "toy", queries, "en").halves  # by the source's states: no reason is read as a description


def test_texts_that_share_all_sentences_but_one_keep_both_sides() -> None:
    assert unshared_in(("A is red. B is up", "A is red. B is down")) == ("B is up", "B is down")
    assert unshared_in(("A is red. B is up", "A is red")) == ("B is up", "A is red")
    assert unshared_in(("A is red", "A is red")) is None
    assert unshared_in(("罐子在左边。灯亮", "罐子在右边。灯亮")) == ("罐子在左边", "罐子在右边")


# ---- which claims decide ----


@pytest.mark.parametrize(
    ("trend", "farther", "nearer", "decides"),
    [
        ("rises", 10, 40, True),
        ("rises", 40, 10, False),
        ("rises", "2/5", "3/5", True),
        ("rises", "3/5", "2/5", False),
        ("rises", "a", "b", False),
        ("falls", 12, 3, True),
        ("falls", 3, 12, False),
        ("changes", "open the lid", "pour", True),
        ("changes", "pour", "pour", False),
        (("approach", "lift"), "approach", "lift", True),
        (("approach", "lift"), "lift", "approach", False),
        (("approach", "lift"), "lift", "dance", False),
        (None, "open", "closed", False),
    ],
)
@pytest.mark.parametrize("closer", [0, 1])
def test_claim_decides_where_it_changes_as_progress_does(
    trend: Trend | None, farther: str | int, nearer: str | int, decides: bool, closer: int
) -> None:
    far, near = (Claim("x:can", farther), Claim("only", 1)), (Claim("x:can", nearer), Claim("gripper", "open"))
    both = (far, near) if closer else (near, far)
    found = deciding(both, closer, {"x": trend, "only": "changes"} if trend else {"only": "changes"})
    wanted = (far[:1], near[:1]) if decides else ((), ())
    assert found == (wanted if closer else wanted[::-1])


_WITHOUT_CLAIMS = ("progress_bench", "prm_manifest")  # nothing is said of their pictures


@pytest.mark.parametrize(
    "kind", [name for name, of in BUILT_IN.items() if not of.gives_pairs and name not in _WITHOUT_CLAIMS]
)
def test_every_built_in_kind_says_which_of_its_own_claims_carry_progress(kind: str) -> None:
    families = {family for phrases in load_phrases(kind).values() for family in phrases.claims}
    assert trends_of(kind)
    assert trends_of(kind).keys() <= families


def test_kind_that_says_nothing_of_progress_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_kind", lambda name: SourceKind(TabletopConfig, TabletopSource))
    with pytest.raises(ConfigError, match="'mine': does not say which of its claims carry progress"):
        trends_of("mine")


# ---- the texts ----


@pytest.mark.parametrize("language", ["en", "zh"])
def test_variants_name_no_time_and_show_the_form_of_the_answer(language: str) -> None:
    train, heldout = (reflect_paraphrases(language, part) for part in ("train", "heldout"))  # type: ignore[arg-type]
    assert (len(set(train)), len(set(heldout))) == (4, 2)
    for text in train + heldout:
        assert re.search(
            r"proposed answer: right (or|或) wrong spatial details: img1: \.\.\. img2: \.\.\. closer to", text
        )
        assert text.count("{task}") == text.count("{") == 1
        assert not {"earlier", "later", "first", "second", "before", "after"} & set(re.findall("[a-z]+", text.lower()))
    with pytest.raises(ConfigError, match="'fr': has no question about a proposed answer"):
        reflect_paraphrases("fr")


def test_texts_are_not_among_those_that_the_embedded_tokenizer_is_trained_on() -> None:
    trained = set(_prompt_texts())
    asked = {text.replace("{", " ").replace("}", " ") for text in reflect_paraphrases("en") + reflect_paraphrases("zh")}
    assert REFLECT_FILE.is_file()
    assert not asked & trained


def query(order: str = "forward", closer: str = "later") -> Query:
    return Query(Pair("a:1-9", "a", "train", "stack cups.", 1, 9, 1.0, closer), order)  # type: ignore[arg-type]


def test_variant_depends_on_pair_and_seed_alone() -> None:
    texts = {proposed_in(reflect_question(query(order), one, "en", seed=0))[0] for order in ORDERS for one in PROPOSALS}
    assert len(texts) == 1
    assert "stack cups. " in texts.pop()
    assert proposed_in("Which is closer?") == ("Which is closer?", "")


def test_false_reasons_verdicts_and_answers_are_refused() -> None:
    source = TabletopSource(TabletopConfig(seen=1, heldout=0), 0)
    (episode,) = source.episodes()
    every = source.states(episode)  # type: ignore[arg-type]
    assert every
    states, phrases = (every[0], every[-1]), load_phrases("tabletop")["en"]
    reasons = true_reasons(query(), states, source=source, phrases=phrases)

    def checked(wrong: tuple[str, str] | None = None, change: Any = lambda text: text) -> int:
        sample = reflections(query(), wrong or reasons, "en", seed=0)[0]
        changed = Sample(sample.query, sample.kind, sample.prompt, change(sample.target))
        return check_reflection(changed, states, source=source, phrases=phrases)

    assert checked() == 2 * (reasons[0].count(",") + 1)
    with pytest.raises(DataError, match=r"forward, img2: the text states goal = 90, which is false"):
        checked((reasons[0], "goal 90 cm off"))
    with pytest.raises(DataError, match="says that 'img1' is right, which is false"):
        checked(change=lambda text: text.replace("wrong", "right"))
    with pytest.raises(DataError, match="are not about what differs"):
        checked((reasons[0], reasons[1].rpartition(", ")[0]))
    with pytest.raises(DataError, match="ends with 'closer to completion: img1' where"):
        checked(change=lambda text: text[:-1] + "1")
    with pytest.raises(DataError, match="does not judge a proposed answer"):
        checked(change=lambda text: text.partition("\n")[2])
    with pytest.raises(DataError, match="no claim tells which"):
        true_reasons(query(), (states[0], states[0]), source=source, phrases=phrases)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"orders": "forward"}, "kind: reflect shows every pair in both orders"),
        ({"orders": "given"}, "kind: reflect shows every pair in both orders"),
        ({"pictures": 3}, "kind: describe counts `pictures`, every other kind `pairs`"),
        ({"groups": {"pictures": 3}}, "`groups` is for kind: group"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(more: dict[str, Any], words: str) -> None:
    rule = {"split": "train", "kind": "reflect", **more}
    with pytest.raises(ConfigError, match=words):
        from_mapping(DataConfig, CONFIG | {"datasets": {"some": rule}}, "test")


def test_more_pairs_than_have_reasons_is_refused_before_a_picture_is_drawn(registry: Path, tmp_path: Path) -> None:
    most = len({row["pair_id"] for row in rows(registry)})
    rule = {"split": "train", "kind": "reflect", "pairs": most + 1}
    if most == len(read_pairs(registry, "toy", "train")):
        pytest.skip("every pair has a reason")
    with pytest.raises(
        ConfigError, match=rf"datasets.some.pairs: asks for {most + 1} pairs and .* has {most}.*{UNDECIDED}"
    ):
        built(tmp_path, datasets={"some": rule})
    assert not list(tmp_path.rglob("*.png"))
