"""Ranking rows: no text alone tells which answer is preferred, and every preferred one is true of its pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_file import annotations, write

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.authors_rows import export
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import dataset_rows, read_manifest
from stcr_plugin.registry.overlap import side
from stcr_plugin.report.check_words import build_text, check_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.samples.cot import halves_of, load_phrases
from stcr_plugin.samples.preferences import of_swapped_order, other_judgment

Row = dict[str, Any]
CONFIG: dict[str, Any] = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 16, "heldout": 0, "regress": 4, "size": 28},
    "frames": {"width": 28, "height": 28},
    "splits": {"train": {"episodes": 16}},
    "pairs": {"per_episode": 8, "min_seconds": 0.5, "label": "progress"},
    "datasets": {
        "cot": {"split": "train", "kind": "cot"},
        **{key: {"split": "train", "kind": "prefer", "against": key} for key in ("order", "frame", "verdict")},
        "few": {"split": "train", "kind": "prefer", "against": "frame", "pairs": 10, "languages": ["en", "zh"]},
    },
}


SMALL: dict[str, Any] = {
    "source": CONFIG["source"] | {"seen": 4, "regress": 0},
    "splits": {"train": {"episodes": 4}},
}


def config(**changes: Any) -> DataConfig:
    return from_mapping(DataConfig, CONFIG | changes, "test")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("preferences")
    build(config(), folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of four episodes, not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    build(config(**SMALL, datasets={"frame": CONFIG["datasets"]["frame"]}), folder)
    return folder


def rows(registry: Path, key: str) -> list[Row]:
    return list(dataset_rows(registry, f"toy_{key}"))


def answers(row: Row) -> tuple[str, str]:
    return row["chosen"]["content"], row["rejected"]["content"]


# ---- a judge that reads text alone ----


def words(text: str) -> set[str]:
    """The claims of each description, with the judgment beside them."""
    halves, judgment = halves_of(text), text.rpartition(" ")[2]
    assert halves is not None
    return {f"{judgment} {place} {claim}" for place, half in enumerate(halves) for claim in half.split(", ")}


def told_by_text(rows: Sequence[Row]) -> float:
    """Percent of the rows of half of the episodes in which a logistic classifier of words prefers the chosen answer.

    It is fitted on the rows of the other half; a row that it cannot decide counts a half.
    """
    episodes = sorted({row["episode_id"] for row in rows})
    fitted = [row for row in rows if row["episode_id"] in episodes[::2]]
    held_out = [row for row in rows if row["episode_id"] in episodes[1::2]]
    known = {word: at for at, word in enumerate(sorted({w for row in fitted for a in answers(row) for w in words(a)}))}

    def features(rows: Sequence[Row], which: int) -> Any:
        found = np.zeros((len(rows), len(known)))
        for at, row in enumerate(rows):
            found[at, [known[word] for word in words(answers(row)[which]) if word in known]] = 1
        return found

    difference = features(fitted, 0) - features(fitted, 1)
    weights = np.zeros(len(known))
    for _ in range(300):
        error = 1 / (1 + np.exp(difference @ weights))
        weights += 0.5 * (difference.T @ error / len(fitted) - 1e-3 * weights)
    margin = (features(held_out, 0) - features(held_out, 1)) @ weights
    return float(100 * np.mean(np.where(np.abs(margin) < 1e-9, 0.5, margin > 0)))


@pytest.mark.parametrize("key", ["order", "frame"])
def test_a_judge_that_reads_text_alone_cannot_tell_the_preferred_answer(registry: Path, key: str) -> None:
    assert 45 <= told_by_text(rows(registry, key)) <= 55


def test_the_same_judge_tells_a_wrong_verdict_and_frames_that_are_drawn_one_way(registry: Path) -> None:
    assert told_by_text(rows(registry, "verdict")) > 70
    last = {row["pair_id"]: row for row in rows(registry, "order")}  # of each pair one order, the one with img2
    one_way = [row for row in rows(registry, "order") if row["answer"] == "img2"]
    assert len(one_way) == len(last)
    assert told_by_text(one_way) > 90


# ---- what the rows say ----


def test_against_order_rejects_what_the_other_order_prefers(registry: Path) -> None:
    by_pair: dict[str, dict[str, tuple[str, str]]] = {}
    cot = {(row["pair_id"], row["order"]): row["messages"][1]["content"] for row in rows(registry, "cot")}
    for row in rows(registry, "order"):
        by_pair.setdefault(row["pair_id"], {})[row["order"]] = answers(row)
        assert row["chosen"]["content"] == cot[row["pair_id"], row["order"]]
    assert len(by_pair) > 100
    assert all(of["forward"] == of["backward"][::-1] for of in by_pair.values())


def test_against_verdict_changes_the_judgment_alone(registry: Path) -> None:
    for row in rows(registry, "verdict"):
        chosen, rejected = answers(row)
        assert chosen.rpartition("\n")[0] == rejected.rpartition("\n")[0]
        assert {chosen[-4:], rejected[-4:]} == {"img1", "img2"}
        assert row["answer"] == chosen[-4:]


@pytest.mark.parametrize("key", ["frame", "few"])
def test_against_frame_takes_one_half_of_another_frame_and_draws_it_both_ways(registry: Path, key: str) -> None:
    listed = rows(registry, key)
    drawn = Counter((row["messages"][0]["content"], *answers(row)) for row in listed)
    for (question, chosen, rejected), count in drawn.items():
        assert drawn[question, rejected, chosen] == count
        one, other = halves_of(chosen), halves_of(rejected)
        assert one is not None
        assert other is not None
        assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
        assert chosen.rpartition("\n")[2] == rejected.rpartition("\n")[2]
    assert {tuple(sorted(Counter(row["order"] for row in of).items())) for of in _by_pair(listed).values()} == {
        (("backward", 2), ("forward", 2))
    }


def _by_pair(listed: Sequence[Row]) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in listed:
        found.setdefault(row["pair_id"], []).append(row)
    return found


@pytest.mark.parametrize("key", ["order", "frame", "few", "verdict"])
def test_every_preferred_text_is_true_of_its_pictures_and_no_rejected_one_is(registry: Path, key: str) -> None:
    source = open_source(config().source, 0)
    states = {one.episode_id: source.states(one) for one in source.episodes()}  # type: ignore[union-attr, arg-type]
    phrases = load_phrases("tabletop")
    backwards = 0
    for row in rows(registry, key):
        shown = [states[row["episode_id"]][int(Path(image).stem)] for image in row["images"]]  # type: ignore[index]
        closer = "img2" if shown[1]["progress"] > shown[0]["progress"] else "img1"

        def holds(text: str, row: Row = row, shown: Any = shown, closer: str = closer) -> bool:
            halves = halves_of(text)
            assert halves is not None
            read = [phrases[row["language"]].read(half) for half in halves]
            described = all(source.holds(c, state) for of, state in zip(read, shown, strict=True) for c in of)
            return described and text.endswith(closer)

        chosen, rejected = answers(row)
        assert holds(chosen)
        assert not holds(rejected)
        backwards += (row["answer"] == "img1") == (row["order"] == "forward")
    assert backwards or key == "few"  # of the episodes that lose progress


def test_counts_listing_and_check_agree(registry: Path) -> None:
    manifest = read_manifest(registry, "toy")
    counts = manifest.counts.datasets
    assert (counts["toy_few"].pairs, counts["toy_few"].samples, counts["toy_few"].short_by) == (10, 40, 0)
    assert set(counts["toy_few"].languages) == {"en", "zh"}
    assert 10 < counts["toy_frame"].pairs <= counts["toy_order"].pairs
    assert counts["toy_order"].pairs == counts["toy_order"].samples / 2
    assert counts["toy_frame"].answers["img1"] == counts["toy_frame"].answers["img2"]
    assert "dataset toy_few: 40 samples of 10 pairs\n" in build_text(manifest)
    assert check("toy", registry).ok, check_text(check("toy", registry))
    info = json.loads((registry / "dataset_info.json").read_text())
    assert info["toy_few"]["ranking"] is True
    assert info["toy_few"]["columns"] == {name: name for name in ("messages", "images", "chosen", "rejected")}
    assert "ranking" not in info["toy_cot"]
    assert {name for _, name in side("toy_order", registry).episodes} == set(manifest.splits["train"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.update(chosen=row["rejected"], rejected=row["chosen"]), "more often than the other way round"),
        (lambda row: row["rejected"].update(content=row["chosen"]["content"]), "is not one against frame"),
        (lambda row: row.update(answer="img1" if row["answer"] == "img2" else "img2"), "the answer is"),
        (lambda row: row["images"].reverse(), "the pictures are not those of pair"),
    ],
)
def test_check_finds_a_changed_row(small: Path, tmp_path: Path, change: Any, words: str) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "registry"))
    path = copy / "toy" / "toy_frame.json"
    listed = json.loads(path.read_text())
    change(listed[0])
    path.write_text(json.dumps(listed))
    assert words in check_text(check("toy", copy))


def test_a_contact_sheet_shows_both_answers_and_the_frames(small: Path, tmp_path: Path) -> None:
    show("toy_frame", small, tmp_path / "sheet.html", rows=6)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count("<h4>Rejected</h4>") == 6
    assert page.count("img1 frame ") >= 6
    assert 'class="fault' not in page


def test_the_authors_format_has_no_place_for_two_answers(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has two answers to each question"):
        export("toy_frame", small, tmp_path / "out.json", format="json")


# ---- texts that a model wrote ----


def sampled(rows: list[Any], folder: Path, **rule: Any) -> Path:
    """A build whose only dataset ranks the texts of these rows."""
    file = write(folder / "annotations.jsonl", rows)
    rules = {"own": {"split": "train", "kind": "prefer", "texts": file} | rule}
    build(config(**SMALL, datasets=rules), folder / "registry")
    return folder / "registry"


def candidates(small: Path, *verdicts: str) -> list[Any]:
    """Of every pair an accepted text and, of the first twenty, a second one with the verdicts in turn."""
    accepted = annotations(small, "toy")
    others = [
        dataclasses.replace(
            row, sample=1, accepted=False, later_claims=verdict, later_text=f"Grey {row.later + 1}, I think."
        )
        for row, verdict in zip(accepted[:20], verdicts * 20, strict=False)
    ]
    return [*accepted, *others]


def test_against_sampled_rejects_a_refuted_candidate_for_the_same_pictures(small: Path, tmp_path: Path) -> None:
    made = sampled(candidates(small, "false claim: gripper = open", "unclear"), tmp_path, against="sampled")
    listed = list(dataset_rows(made, "toy_own"))
    assert len({row["pair_id"] for row in listed}) == 10
    assert len(listed) == 20
    for row in listed:
        halves = [halves_of(text) for text in answers(row)]
        later = 1 if row["order"] == "forward" else 0
        assert "I think" in halves[1][later]  # type: ignore[index]
        assert halves[0][1 - later] == halves[1][1 - later]  # type: ignore[index]
        assert row["chosen"]["content"].rpartition("\n")[2] == row["rejected"]["content"].rpartition("\n")[2]
    assert check("toy", made).ok, check_text(check("toy", made))
    assert read_manifest(made, "toy").texts["toy_own"].counts.pairs == 10


def test_annotated_texts_are_ranked_against_their_order(small: Path, tmp_path: Path) -> None:
    made = sampled(annotations(small, "toy"), tmp_path, against="order")
    for row in dataset_rows(made, "toy_own"):
        chosen, rejected = answers(row)
        assert rejected == of_swapped_order(chosen) != chosen
    assert check("toy", made).ok


def test_a_file_without_a_refuted_candidate_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not one accepted text .* has a refuted candidate.*--samples"):
        sampled(candidates(small, "unclear"), tmp_path, against="sampled")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "one of order, frame, verdict, sampled, goes with kind: prefer"),
        ({"kind": "cot", "against": "order"}, "goes with kind: prefer, and only with it"),
        ({"against": "detail"}, "against"),
        ({"against": "order", "orders": "forward"}, "shows both orders"),
        ({"against": "frame", "format": "parquet"}, "in one JSON file"),
        ({"against": "sampled"}, "set `texts`"),
        ({"against": "frame", "texts": "file.jsonl"}, "needs what the source records"),
    ],
)
def test_what_cannot_be_ranked_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(datasets={"own": {"split": "train", "kind": "prefer", **rule}})


def test_a_tie_has_no_other_judgment() -> None:
    tie = "spatial details: img1: a. img2: b.\ncloser to completion: neither"
    assert other_judgment(tie) is None
    assert of_swapped_order(tie) == "spatial details: img1: b. img2: a.\ncloser to completion: neither"
    assert of_swapped_order(tie.replace("b", "a")) is None
