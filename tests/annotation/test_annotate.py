"""Whole runs against a server on loopback: rounds, retries, what is used again, and what does not stop a run."""

import dataclasses
import json
from collections import Counter

import pytest
from misbehaving_server import Reply, answer
from teacher_server import (
    ASK,
    asked,
    frames_by_pixels,
    kind_of,
    pictures_of,
    request,
    rows_of,
    teacher,
    teaching,
    text_about,
)
from toy_build import build_toy

from stcr_plugin import artefacts
from stcr_plugin.annotation import annotate as module
from stcr_plugin.annotation.annotate import AnnotateRequest, annotate
from stcr_plugin.annotation.annotation_settings import AnnotateSettings
from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.annotation.summary import AnnotationSummary
from stcr_plugin.annotation.teachers import Teacher
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.errors import ConfigError, ServerError, StcrError
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report.annotation_words import summary_warnings


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(
        tmp_path_factory.mktemp("registry"),
        source={"kind": "tabletop", "seen": 8, "heldout": 3, "size": 56},
        splits={"train": {"episodes": 8, "group": "seen"}, "heldout": {"episodes": 3, "group": "heldout"}},
    )


@pytest.fixture(scope="module")
def frames(registry):
    return frames_by_pixels(registry, "toy")


def kinds(desk):
    return Counter(map(kind_of, desk.bodies))


# ---- rounds ----


def test_every_pair_gets_texts_that_all_checks_passed(registry, frames, tmp_path):
    with teaching(frames) as desk:
        found = annotate(request(registry, desk), tmp_path)
    pairs = {pair.pair_id: pair for pair in read_pairs(registry, "toy", "train")}
    rows = rows_of(tmp_path)
    assert {row.pair_id for row in rows} == set(pairs)
    assert len(rows) == len(pairs) == 32
    for row in rows:
        assert (row.earlier_text, row.later_text) == (text_about(row.earlier), text_about(row.later))
        assert row.accepted
        assert not row.suspect_label
        assert row.attempt == 1
        assert (row.describer, row.verifier) == ("teacher", "second")
        assert len(row.earlier_fingerprint) == len(row.later_fingerprint) == 64
        assert row.earlier_claims == "unchecked"
    assert (found.figures.accepted_pairs, found.finished) == (32, True)
    assert AnnotationSummary.read(tmp_path / "summary.json") == found


def test_a_picture_is_described_alone_and_once_for_all_its_pairs(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=10), tmp_path)
    rows = rows_of(tmp_path)
    shown = {image for row in rows for image in (row.earlier_image, row.later_image)}
    assert len(rows) == 10
    assert kinds(desk) == {"describe": len(shown), "confirm": 2 * len(shown), "judge": 20, "blind": 20}
    by_model = Counter((kind_of(body), body["model"]) for body in desk.bodies)
    assert set(by_model) == {
        ("describe", "teacher"), ("judge", "teacher"), ("confirm", "second"), ("blind", "second")
    }  # fmt: skip


def test_a_text_that_failed_is_asked_for_again_with_the_reason(registry, frames, tmp_path):
    def leaking_at_first(kind, body, text):
        return text if kind != "describe" or "could not be used" in asked(body) else f"{text} The task is finished."

    with teaching(frames, leaking_at_first) as desk:
        found = annotate(request(registry, desk, limit=6), tmp_path)
    again = [asked(body) for body in desk.bodies if kind_of(body) == "describe" and "could not be used" in asked(body)]
    assert again
    assert all("finished" in one for one in again)
    assert {(row.attempt, row.accepted) for row in rows_of(tmp_path)} == {(2, True)}
    assert found.figures.attempts == {"2": 6}


def test_a_sentence_that_is_not_confirmed_is_named_and_the_text_rejected_after_all_tries(registry, frames, tmp_path):
    def denied(kind, body, text):
        return "no" if kind == "confirm" and "gripper" in asked(body) else text

    with teaching(frames, denied) as desk:
        found = annotate(request(registry, desk, limit=4, tries=2), tmp_path)
    for row in rows_of(tmp_path):
        assert row.earlier_confirmed == "not confirmed: The gripper is open."
        assert (row.accepted, row.attempt) == (False, 2)
    assert found.figures.checks["confirmed"].failed == {"not confirmed": 8}


def test_a_pair_judged_against_its_label_in_both_orders_has_a_suspect_label(registry, frames, tmp_path):
    def reversed_judge(kind, body, text):
        return text.translate(str.maketrans("12", "21")) if kind == "judge" else text

    with teaching(frames, reversed_judge) as desk:
        found = annotate(request(registry, desk, limit=4, tries=1), tmp_path)
    for row in rows_of(tmp_path):
        assert (row.judged, row.blind, row.suspect_label) == ("wrong in both orders", "passed", True)
    assert found.figures.suspect_labels == 4


def test_an_order_guesser_fails_without_a_suspect_label(registry, frames, tmp_path):
    def second(kind, body, text):
        return "closer to completion: img2" if kind == "blind" else text

    with teaching(frames, second) as desk:
        annotate(request(registry, desk, limit=4, tries=1), tmp_path)
    assert {(row.judged, row.blind, row.suspect_label) for row in rows_of(tmp_path)} == {
        ("passed", "wrong in one order", False)
    }


def test_a_teacher_that_names_one_position_has_not_judged_and_costs_the_pair_nothing(registry, frames, tmp_path):
    def always_second(kind, body, text):
        return "closer to completion: img2" if kind == "judge" else text

    with teaching(frames, always_second) as desk:
        found = annotate(request(registry, desk, limit=4, tries=1), tmp_path)
    assert {(row.judged, row.accepted) for row in rows_of(tmp_path)} == {
        ("unchecked: same position in both orders", True)
    }
    assert found.figures.same_position == 4
    assert any("led by the order" in line for line in summary_warnings(found))


def test_texts_that_decide_nothing_are_undecided(registry, frames, tmp_path):
    def undecided(kind, body, text):
        return "closer to completion: neither" if kind == "blind" else text

    with teaching(frames, undecided) as desk:
        annotate(request(registry, desk, limit=4, tries=1), tmp_path)
    assert {(row.blind, row.accepted) for row in rows_of(tmp_path)} == {("undecided", False)}


def test_an_accepted_pair_keeps_its_texts_while_another_pair_of_the_same_picture_is_asked_again(
    registry, frames, tmp_path
):
    rows = {}

    def one_pair_fails(kind, body, text):
        if kind == "blind" and rows and all(f"lies {frame} mm" in asked(body) for frame in rows["frames"]):
            return "closer to completion: img2"
        return text

    pairs = read_pairs(registry, "toy", "train")
    shown = Counter(image for pair in pairs for image in (pair.earlier_image, pair.later_image))
    chosen = next(pair for pair in pairs if shown[pair.earlier_image] > 1 or shown[pair.later_image] > 1)
    rows["frames"] = (chosen.earlier, chosen.later)
    with teaching(frames, one_pair_fails) as desk:
        annotate(request(registry, desk, tries=2), tmp_path)
    found = {row.pair_id: row for row in rows_of(tmp_path)}
    assert (found[chosen.pair_id].accepted, found[chosen.pair_id].attempt) == (False, 2)
    shared = {chosen.earlier_image, chosen.later_image}
    same = [row for row in found.values() if shared & {row.earlier_image, row.later_image} and row.accepted]
    assert same
    assert all(row.attempt == 1 for row in same)


def test_together_shows_both_pictures_at_once_in_an_order_drawn_by_pair(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=10, together=True), tmp_path)
    assert kinds(desk)["both"] == 10
    assert "describe" not in kinds(desk)
    for row in rows_of(tmp_path):
        assert row.accepted
        written = (text_about(row.earlier).rstrip("."), text_about(row.later).rstrip("."))
        assert (row.earlier_text, row.later_text) == written
    first = Counter()
    for body in desk.bodies:
        if kind_of(body) == "both":
            urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if "image_url" in part]
            first[urls[0] < urls[1]] += 1
    assert len(first) == 2


def test_samples_are_candidates_of_other_prompt_variants_all_with_verdicts(registry, frames, tmp_path):
    with teaching(frames) as desk:
        found = annotate(request(registry, desk, limit=5, samples=2), tmp_path)
    rows = rows_of(tmp_path)
    assert [row.sample for row in rows] == [0, 1] * 5
    assert (found.figures.rows, found.figures.pairs) == (10, 5)
    shown = {image for row in rows for image in (row.earlier_image, row.later_image)}
    questions = Counter(asked(body) for body in desk.bodies if kind_of(body) == "describe")
    assert sum(questions.values()) == 2 * len(shown)


def test_authors_questions_make_no_check_but_that_there_is_a_text(registry, frames, tmp_path):
    def answered(kind, body, text):
        return "spatial details: img1: one block. img2: two blocks.\ncloser to completion: img1"

    with teaching(frames, answered) as desk:
        annotate(request(registry, desk, limit=4, questions="authors", checks=["judged"]), tmp_path)
    assert len(desk.bodies) == 4
    for row in rows_of(tmp_path):
        assert row.accepted
        assert row.judged == row.blind == row.earlier_confirmed == "unchecked"
        assert (row.earlier_text, row.later_text) == ("two blocks", "one block")


def test_without_a_second_model_the_first_one_verifies(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, second=False, limit=3), tmp_path)
    assert {body["model"] for body in desk.bodies} == {"teacher"}
    assert {row.verifier for row in rows_of(tmp_path)} == {"teacher"}


# ---- what does not stop a run, and what does ----

SILENT = {
    "refused": answer("I'm sorry, but I can't help with that."),
    "filter": Reply(400, json.dumps({"error": {"code": "content_filter", "message": "flagged"}}).encode()),
    "cut": answer("The block lies", finish="length"),
    "empty": answer(""),
    "reasoning only": answer(None, beside={"reasoning_content": "hm"}),
    "busy": Reply(429, b"{}"),
    "down": Reply(500, b"oops"),
    "closed": Reply(200, b'{"choices": [', cut=True),
    "no choices": Reply(200, b'{"choices": []}'),
    "too large": Reply(413, b"{}"),
}
VERDICTS = {"filter": "refused", **dict.fromkeys(("busy", "down", "closed", "no choices", "too large"), "failed")}


@pytest.mark.parametrize("fault", SILENT)
def test_a_prompt_without_an_answer_costs_its_pairs_and_not_the_run(registry, frames, tmp_path, fault):
    first = []  # the picture that is described first

    def faulty(kind, body, text):
        if kind == "describe":
            first.append(text)
        return SILENT[fault] if kind == "describe" and text == first[0] else text

    with teaching(frames, faulty) as desk:
        found = annotate(request(registry, desk, split="heldout", limit=5), tmp_path)
    verdict = VERDICTS.get(fault, fault)
    rows = rows_of(tmp_path)
    lost = [row for row in rows if row.earlier_described == verdict or row.later_described == verdict]
    assert lost
    assert all(not row.accepted for row in lost)
    assert sum(row.accepted for row in rows) == len(rows) - len(lost) > 0
    assert found.figures.unanswered == (len(lost) if verdict == "failed" else 0)


def test_only_what_had_no_reply_is_asked_again_by_the_same_command(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=12), tmp_path / "whole")
    broken = [True]

    def faulty(kind, body, text):
        down = broken[0] and kind in ("blind", "judge") and "lies 1" in asked(body)
        return Reply(503, b"{}") if down else text

    with teaching(frames, faulty) as desk:
        first = annotate(request(registry, desk, limit=12), tmp_path / "out")
        before = len(desk.bodies)
        broken[0] = False
        second = annotate(request(registry, desk, limit=12), tmp_path / "out")
        failed = sum(one.use.failed for one in first.models)
        assert first.figures.unanswered > 0
        assert failed > 0
        assert len(desk.bodies) - before == failed
    assert second.figures.unanswered == 0
    assert (tmp_path / "out/annotations.jsonl").read_bytes() == (tmp_path / "whole/annotations.jsonl").read_bytes()


@pytest.mark.parametrize(("status", "named"), [(401, "check the key"), (404, "/v1"), (302, "not followed")])
def test_a_fault_that_every_prompt_would_meet_stops_the_run(registry, frames, tmp_path, status, named):
    with (
        teaching(frames, lambda kind, body, text: Reply(status, b"{}")) as desk,
        pytest.raises(ServerError, match=named),
    ):
        annotate(request(registry, desk), tmp_path)


def test_a_server_that_is_not_there_stops_the_run_in_one_line(registry, frames, tmp_path):
    with teaching(frames) as desk:
        gone = request(registry, desk)
    with pytest.raises(ServerError, match="ConnectError") as error:
        annotate(gone, tmp_path)
    assert "\n" not in str(error.value)


def test_twenty_prompts_in_a_row_without_a_reply_stop_the_run(registry, frames, tmp_path):
    with teaching(frames, lambda kind, body, text: Reply(503, b"{}")) as desk:
        with pytest.raises(ServerError, match="HTTP 503"):
            annotate(request(registry, desk), tmp_path)
        assert len(desk.bodies) < 2 * 40


def test_twenty_first_replies_without_an_answer_stop_the_run(registry, frames, tmp_path):
    with (
        teaching(frames, lambda kind, body, text: answer("The block", finish="length")) as desk,
        pytest.raises(ServerError, match="cut at 256 tokens"),
    ):
        annotate(request(registry, desk), tmp_path)


# ---- what is used again ----


def test_a_finished_run_asks_nothing_and_reads_no_picture(registry, frames, tmp_path, monkeypatch):
    with teaching(frames) as desk:
        first = annotate(request(registry, desk, limit=22), tmp_path)
        data, count = (tmp_path / "annotations.jsonl").read_bytes(), len(desk.bodies)
        monkeypatch.setattr(module, "picture_digests", lambda *_: pytest.fail("a picture was read"))
        assert annotate(request(registry, desk, limit=22), tmp_path) == first
        assert (len(desk.bodies), (tmp_path / "annotations.jsonl").read_bytes()) == (count, data)


def test_a_changed_setting_uses_what_still_fits(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=8, checks=["leak", "judged"]), tmp_path)
        before = kinds(desk)
        annotate(request(registry, desk, limit=8), tmp_path)
    more = kinds(desk) - before
    assert set(more) == {"confirm", "blind"}
    assert all(row.blind == row.earlier_confirmed == "passed" for row in rows_of(tmp_path))


def test_another_model_is_never_mixed_with_the_first_and_coming_back_asks_nothing(registry, frames, tmp_path):
    with teaching(frames) as desk:
        one = request(registry, desk, limit=10)
        other = dataclasses.replace(one, describer=teacher(registry, desk, "other"))
        annotate(one, tmp_path)
        data, count = (tmp_path / "annotations.jsonl").read_bytes(), len(desk.bodies)
        annotate(other, tmp_path)
        assert {row.describer for row in rows_of(tmp_path)} == {"other"}
        assert {body["model"] for body in desk.bodies[count:]} == {"other"}
        count = len(desk.bodies)
        annotate(one, tmp_path)
        assert (len(desk.bodies), (tmp_path / "annotations.jsonl").read_bytes()) == (count, data)


def test_a_damaged_file_of_rows_is_made_again_without_a_request(registry, frames, tmp_path):
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=5), tmp_path)
        data, count = (tmp_path / "annotations.jsonl").read_bytes(), len(desk.bodies)
        (tmp_path / "chunks/00000/rows.jsonl").write_bytes(data[: len(data) // 2])
        annotate(request(registry, desk, limit=5), tmp_path)
        assert (len(desk.bodies), (tmp_path / "annotations.jsonl").read_bytes()) == (count, data)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_one_works(registry, frames, tmp_path):
    with (
        teaching(frames) as desk,
        artefacts.locked(tmp_path / ".lock", tmp_path),
        pytest.raises(StcrError, match="another process"),
    ):
        annotate(request(registry, desk), tmp_path)


def test_what_people_decided_stays_when_the_texts_are_written_again(registry, frames, tmp_path):
    texts = tmp_path / "annotations.jsonl"
    with teaching(frames) as desk:
        annotate(request(registry, desk, limit=5), tmp_path)
        reviewed = ReviewedRows(texts)
        reviewed.decide([reviewed.decision(2, "reject", note="the cup is blue")])
        summary = annotate(request(registry, desk, limit=5), tmp_path)
    assert [row.review for row in rows_of(tmp_path)] == ["", "", "reject", "", ""]
    assert summary.rows_digest == artefacts.sha256(tmp_path / "chunks/00000/rows.jsonl")


# ---- estimate ----


def test_the_run_may_end_after_the_first_pairs_and_goes_on_without_asking_twice(registry, frames, tmp_path):
    seen = []
    with teaching(frames) as desk:
        first = annotate(request(registry, desk, limit=24), tmp_path, go_on=seen.append)
        assert (first.figures.pairs, first.of, first.finished) == (20, 24, False)
        assert len(rows_of(tmp_path)) == 20
        (estimate,) = seen
        assert (estimate.pairs, estimate.left) == (20, 4)
        asked_first = len(desk.bodies)
        assert abs(estimate.requests - asked_first * 4 / 20) <= 1
        assert estimate.tokens == pytest.approx((100 * estimate.requests, 7 * estimate.requests), abs=120)
        annotate(request(registry, desk, limit=24), tmp_path)
        split = len(desk.bodies)
        annotate(request(registry, desk, limit=24), tmp_path / "unbroken")
        assert len(desk.bodies) == 2 * split
    assert (tmp_path / "annotations.jsonl").read_bytes() == (tmp_path / "unbroken/annotations.jsonl").read_bytes()


def test_cost_is_counted_by_the_prices_of_each_model(registry, frames, tmp_path):
    with teaching(frames) as desk:
        one = request(registry, desk, limit=3)
        priced = dataclasses.replace(one, describer=teacher(registry, desk, price_in=1.0, price_out=10.0))
        found = annotate(priced, tmp_path)
    describer, verifier = found.models
    assert describer.cost == pytest.approx(describer.use.requests * (100 * 1.0 + 7 * 10.0) / 1e6)
    assert verifier.cost is None


def test_an_unknown_split_is_named(registry, frames, tmp_path):
    with teaching(frames) as desk, pytest.raises(ConfigError, match="no split"):
        annotate(request(registry, desk, split="nowhere"), tmp_path)


# ---- a stage as teacher ----


def test_a_stage_is_asked_its_own_question_in_both_orders_and_confirmed_by_what_a_second_one_writes(
    registry, frames, tmp_path
):
    """Its own judgments count, so nothing is asked for the check `judged`."""

    def stage(kind, body, text, seen=frames):
        if kind != "judge":
            return text
        first, second = (seen[pixels] for pixels in pictures_of(body))
        named = "img1" if first > second else "img2"
        return f"spatial details: img1: {text_about(first)} img2: {text_about(second)}\ncloser to completion: {named}"

    with teaching(frames, stage) as desk:
        annotate(request(registry, desk, split="heldout", questions="stage"), tmp_path)
    rows = rows_of(tmp_path)
    assert all(row.accepted and row.judged == row.blind == row.earlier_confirmed == "passed" for row in rows)
    by_model = Counter((kind_of(body), body["model"]) for body in desk.bodies)
    assert by_model == {
        ("judge", "teacher"): 2 * len(rows), ("judge", "second"): len(rows), ("blind", "second"): 2 * len(rows)
    }  # fmt: skip


def test_what_a_second_stage_does_not_write_of_a_picture_is_not_confirmed(registry, frames, tmp_path):
    def stage(kind, body, text):
        if kind != "judge":
            return text
        state = "open" if body["model"] == "teacher" else "closed"
        halves = f"img1: the block is red, gripper {state}. img2: gripper {state}."
        return f"spatial details: {halves}\ncloser to completion: img1"

    with teaching(frames, stage) as desk:
        annotate(request(registry, desk, split="heldout", questions="stage", tries=1), tmp_path)
    for row in rows_of(tmp_path):
        assert {row.earlier_confirmed.lower(), row.later_confirmed.lower()} == {"not confirmed: gripper open"}
        assert (row.judged, row.accepted) == ("unchecked: same position in both orders", False)


@pytest.mark.slow
@pytest.mark.parametrize("questions", ["general", "stage"])
def test_a_local_model_describes_and_verifies(registry, model, tmp_path, questions):
    ask = dataclasses.replace(ASK, generate=False, max_new_tokens=24)
    local = Teacher("tiny", LocalEngine(model, registry, ask), ask)
    settings = AnnotateSettings(questions=questions, tries=1)
    one = AnnotateRequest(
        registry=registry, dataset="toy", split="heldout", describer=local, settings=settings, limit=3
    )
    found = annotate(one, tmp_path)
    assert (found.figures.rows, found.finished) == (3, True)
    data = (tmp_path / "annotations.jsonl").read_bytes()
    assert annotate(one, tmp_path) == found
    assert (tmp_path / "annotations.jsonl").read_bytes() == data
