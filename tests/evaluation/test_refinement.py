"""Labels that a model contradicts in both orders: which are listed, in what order, and how many of them are wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from wrong_labels import build_wrong_labels, judge, true_pairs

from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.evaluation.refinement import Refinement, confidence, contradicts, refine
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.contradictions import Contradiction, read_contradictions
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.scoring.metrics import by_pair
from stcr_plugin.types import ORDERS, Answer, Choice


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written into."""
    return build_wrong_labels(tmp_path_factory.mktemp("order"))


def answers(forward: Choice | None, backward: Choice | None, **logprobs: float) -> tuple[Answer, Answer]:
    """Of a pair whose later frame is labelled closer."""
    told = (("forward", forward, "img2"), ("backward", backward, "img1"))
    one, two = (
        Answer("a:1-2", "a", order, expected, chosen, "", **logprobs)  # type: ignore[arg-type]
        for order, chosen, expected in told
    )
    return one, two


def rows_of(out: Path) -> list[Contradiction]:
    return list(read_contradictions(out / Contradiction.file))


def wrong_of(registry: Path) -> set[str]:
    """The pairs whose earlier frame is closer although the later one is labelled so."""
    return {pair.pair_id for pair in true_pairs(registry) if pair.closer == "earlier"}


@pytest.mark.parametrize(
    ("forward", "backward", "listed"),
    [
        ("img1", "img2", True),  # the earlier frame in both orders
        ("img2", "img1", False),
        ("img2", "img2", False),  # a judge that goes by position
        ("img1", "img1", False),
        ("neither", "neither", False),
        ("img1", None, False),
    ],
)
def test_pair_is_contradicted_where_the_other_frame_is_named_in_both_orders(
    forward: Choice | None, backward: Choice | None, listed: bool
) -> None:
    assert contradicts(answers(forward, backward)) is listed


def test_confidence_is_the_sum_of_the_margins_of_both_orders() -> None:
    one, two = answers("img1", "img2")
    one = dataclasses.replace(one, logprob_img1=-0.1, logprob_img2=-2.1)
    two = dataclasses.replace(two, logprob_img1=-3.5, logprob_img2=-0.5)
    assert confidence((one, two)) == pytest.approx(5.0)
    assert confidence((one, answers("img1", "img2")[1])) is None


def test_judge_that_knows_the_truth_lists_the_wrong_labels_and_no_other(labelled: Path, tmp_path: Path) -> None:
    found = refine(judge(labelled), tmp_path)
    wrong = wrong_of(labelled)
    assert len(wrong) > 5
    assert {row.pair_id for row in rows_of(tmp_path)} == wrong
    assert found.contradicted == len(wrong)
    assert found.pairs == len(read_pairs(labelled, "order", "train"))
    assert all(name.startswith("regress") for name in found.by_episode)
    assert sum(count.contradicted for count in found.by_episode.values()) == len(wrong)
    truth = found.truth.found
    assert truth is not None
    assert (truth.wrong, truth.listed, truth.found) == (len(wrong),) * 3
    assert (truth.precision, truth.recall, truth.unrecorded) == (100.0, 100.0, 0)
    assert Refinement.read(tmp_path / "refine.json") == found


@pytest.mark.parametrize("every", [3, 4, 10])
def test_precision_and_recall_are_exact_for_a_judge_that_is_wrong_on_a_known_share(
    labelled: Path, tmp_path: Path, every: int
) -> None:
    pairs, wrong = true_pairs(labelled), wrong_of(labelled)
    mistaken = {pair.pair_id for pair in pairs[::every]}
    truth = refine(judge(labelled, mistaken), tmp_path).truth.found
    assert truth is not None
    found = len(wrong - mistaken)
    false = len({pair.pair_id for pair in pairs if pair.closer == "later"} & mistaken)
    assert found
    assert false
    assert (truth.pairs, truth.wrong, truth.listed, truth.found) == (len(pairs), len(wrong), found + false, found)
    assert truth.precision == pytest.approx(100 * found / (found + false))
    assert truth.recall == pytest.approx(100 * found / len(wrong))


def test_most_confident_come_first_and_without_confidence_it_is_by_pair_id(labelled: Path, tmp_path: Path) -> None:
    refine(judge(labelled, generates=True), tmp_path / "written")
    written = rows_of(tmp_path / "written")
    assert {row.confidence for row in written} == {None}
    assert [row.pair_id for row in written] == sorted(row.pair_id for row in written)
    refine(judge(labelled), tmp_path / "compared")
    compared = rows_of(tmp_path / "compared")
    sure = [row.confidence or 0 for row in compared]
    assert sure == sorted(sure, reverse=True)
    assert min(sure) > 0
    assert {row.pair_id for row in compared} == {row.pair_id for row in written}


@pytest.mark.parametrize("oracle", ["position-only", "chronological"])
def test_judge_of_position_and_one_that_agrees_with_the_labels_list_nothing(
    labelled: Path, tmp_path: Path, oracle: str
) -> None:
    engine = Oracle(oracle, read_pairs(labelled, "order", "train"))
    request = EvalRequest(engine=engine, dataset="order", split="train", registry=labelled, resamples=20)
    found = refine(request, tmp_path)
    assert rows_of(tmp_path) == []
    assert (found.contradicted, found.by_episode) == (0, {})
    assert found.truth.found is not None
    assert (found.truth.found.precision, found.truth.found.recall) == (None, 0.0)


def test_row_says_what_was_labelled_and_answered(labelled: Path, tmp_path: Path) -> None:
    refine(judge(labelled), tmp_path, "keep")
    pairs = {pair.pair_id: pair for pair in read_pairs(labelled, "order", "train")}
    for row in rows_of(tmp_path):
        pair = pairs[row.pair_id]
        told = (row.episode_id, row.earlier, row.later, row.task, row.closer, row.split)
        assert told == (pair.episode_id, pair.earlier, pair.later, pair.task, "later", "train")
        assert row.answers == {"forward": "img1", "backward": "img2"}
        assert (row.decision, row.build, row.seed) == ("keep", "order", 0)
        assert row.earlier_fingerprint != row.later_fingerprint != ""


def edited(out: Path, *changes: dict[str, Any]) -> None:
    """Lay `changes` over the first rows of the list."""
    lines = (out / Contradiction.file).read_text().splitlines()
    for number, change in enumerate(changes):
        lines[number] = json.dumps(json.loads(lines[number]) | change)
    (out / Contradiction.file).write_text("\n".join(lines) + "\n")


def test_decision_of_a_person_outlives_another_run_and_the_others_follow_the_command(
    labelled: Path, tmp_path: Path
) -> None:
    request = judge(labelled)
    refine(request, tmp_path, "drop")
    first, second, *others = rows_of(tmp_path)
    edited(tmp_path, {"decision": "keep"}, {"decision": "tie"})
    for decide in ("tie", "tie", "drop"):
        found = refine(request, tmp_path, decide)  # type: ignore[arg-type]
        decisions = {row.pair_id: row.decision for row in rows_of(tmp_path)}
        assert decisions[first.pair_id] == "keep"
        assert decisions[second.pair_id] == "tie" or decide == "drop"
        assert {decisions[row.pair_id] for row in others} == {decide}
        assert sum(found.decisions.values()) == found.contradicted


def test_broken_list_is_named_and_stays(labelled: Path, tmp_path: Path) -> None:
    request = judge(labelled)
    refine(request, tmp_path)
    edited(tmp_path, {"decision": "strike"})
    before = (tmp_path / Contradiction.file).read_bytes()
    with pytest.raises(DataError, match=r"contradicted.jsonl, row 1: .*expected one of drop, tie, keep"):
        refine(request, tmp_path)
    assert (tmp_path / Contradiction.file).read_bytes() == before


def test_second_run_asks_nothing_and_writes_the_same_bytes(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = judge(labelled)
    refine(request, tmp_path)
    files = (Contradiction.file, Refinement.file, ANSWERS)
    before = [(tmp_path / name).read_bytes() for name in files]
    monkeypatch.setattr(Oracle, "respond", lambda *_: pytest.fail("a pair was asked about twice"))
    refine(request, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in files] == before


def test_ties_are_not_contradicted(tmp_path: Path) -> None:
    rules = {"label": "progress", "tie_within": 0.5, "ties": "teach"}
    registry = build_wrong_labels(tmp_path / "registry", pairs=rules)
    pairs = read_pairs(registry, "order", "train")
    turned = [dataclasses.replace(pair, closer="earlier" if pair.closer != "earlier" else "later") for pair in pairs]
    engine = Oracle("right", turned)
    request = EvalRequest(engine=engine, dataset="order", split="train", registry=registry, resamples=20)
    found = refine(request, tmp_path / "out")
    untied = {pair.pair_id for pair in pairs if pair.closer != "neither"}
    assert 0 < len(untied) < len(pairs)
    assert {row.pair_id for row in rows_of(tmp_path / "out")} == untied
    assert found.pairs == len(untied)


def test_source_without_progress_says_that_the_truth_is_not_known(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stcr_plugin.evaluation.refinement.true_progress", lambda _, name, wanted: dict.fromkeys(wanted)
    )
    assert refine(judge(labelled), tmp_path).truth.unknown == "the source records no progress"


def test_both_orders_of_each_listed_pair_are_in_its_answers(labelled: Path, tmp_path: Path) -> None:
    refine(judge(labelled), tmp_path)
    assert all(tuple(row.answers) == ORDERS for row in rows_of(tmp_path))


@pytest.mark.slow(seconds=10)
def test_rows_are_those_of_the_answers_of_a_real_model(labelled: Path, model: Path, tmp_path: Path) -> None:
    request = EvalRequest(model=model, dataset="order", split="train", registry=labelled, resamples=20)
    found = refine(request, tmp_path)
    both = by_pair(read_answers(tmp_path / ANSWERS))
    assert len(both) == found.pairs
    assert {row.pair_id for row in rows_of(tmp_path)} == {name for name, of in both.items() if contradicts(of)}
    assert all((confidence(of) or 0) > 0 for of in both.values() if contradicts(of))
    assert found.model_digest
