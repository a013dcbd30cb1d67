"""Answers that a model did not get to give: cut, refused or garbled, through every command that asks one."""

import json
from collections import Counter
from pathlib import Path

import pytest
from misbehaving_server import Reply, answer, serving
from PIL import Image

from stcr_plugin.cli import main

TOLD = "closer to completion: img2"
FILTERED = Reply(400, b'{"error": {"code": "content_filter", "message": "blocked $\\\\frac{"}}')
CUT = answer(f"<think>The format is {TOLD}", "length")
ODD = (
    CUT,
    answer(f"{TOLD} \ud83d"),
    answer(f"{TOLD}\x00\x1b[2J | ` $\\frac{{ </td><script>"),
    FILTERED,
    answer(f"<think>img1</think>{TOLD}", "stop"),
    answer(TOLD, "stop"),
)


def served(desk, *words, model="m"):
    return [*words, "--engine", "server", "--url", desk.url, "--server-model", model]


def evaluated(desk, registry, out, *more):
    words = ("eval", "--registry", str(registry), "--dataset", "toy", "--out", str(out), *more)
    return main(served(desk, *words))


@pytest.fixture(autouse=True)
def keyless(monkeypatch, undrawn):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.slow
def test_evaluation_with_every_odd_answer_is_finished_and_says_what_they_are(registry, tmp_path, capsys, drawn):
    count = iter(range(10**6))
    with serving(lambda *_: ODD[next(count) % len(ODD)]) as desk:
        assert evaluated(desk, registry, tmp_path / "out") == 0
        printed = capsys.readouterr().out
        before, asked = (tmp_path / "out" / "results.json").read_bytes(), len(desk.bodies)
        assert evaluated(desk, registry, tmp_path / "out") == 0
    assert len(desk.bodies) == asked
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    lost = Counter(one.get("lost", "") for one in answers)
    assert all((one["chosen"] is None) == ("lost" in one) for one in answers)
    found = json.loads(before)
    assert found["n_queries"] == asked == len(answers)
    assert found["cut_rate"] == pytest.approx(100 * lost["cut"] / asked)
    assert found["refused_rate"] == pytest.approx(100 * lost["refused"] / asked)
    assert found["unparsed_rate"] == pytest.approx(100 * (asked - lost[""]) / asked)
    assert set(lost) == {"", "cut", "refused", "garbled"}
    assert "% of the answers were cut at max_new_tokens 256 before they gave a name" in printed
    assert "raise it (--set max_new_tokens=N)" in (tmp_path / "out" / "report.md").read_text()
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page")]) == 0
    assert "refused by a content filter" in (tmp_path / "page" / "report.md").read_text()


def test_files_without_lost_answers_have_no_word_of_them(registry, tmp_path):
    with serving(lambda *_: answer(TOLD, "stop")) as desk:
        assert evaluated(desk, registry, tmp_path, "--limit", "2") == 0
    for name in ("results.json", "answers.jsonl", "said.jsonl"):
        text = (tmp_path / name).read_text()
        assert not any(key in text for key in ("lost", "cut_rate", "refused_rate"))


def test_reasoning_that_is_cut_is_no_order_bias(registry, tmp_path):
    """It quotes the format of one answer, in both orders: read as the answer, that is a gap of 100."""
    count = iter(range(10**6))
    with serving(lambda *_: CUT if next(count) else answer(TOLD, "stop")) as desk:
        assert evaluated(desk, registry, tmp_path) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert abs(found["gap_points"]) < 20
    assert found["unparsed_rate"] == found["cut_rate"] > 80


def test_judge_says_that_its_answers_were_cut(tmp_path, capsys):
    for number in range(2):
        Image.new("RGB", (56, 56), (90 * number,) * 3).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(2)]
    count = iter(range(10**6))
    with serving(lambda *_: ODD[5 * (next(count) % 2)]) as desk:
        assert main(served(desk, "judge", *pictures, "--task", "put the cup on the plate")) == 0
    assert "1 were cut before they named a picture: raise max_new_tokens" in capsys.readouterr().out
    with serving(lambda *_: CUT) as desk:
        assert main(served(desk, "judge", *pictures, "--task", "put the cup on the plate")) == 1
    assert "2 of 2 replies hold no answer: 2 carried a reasoning, 2 were cut" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["multi-image", "guard"])
def test_other_measurements_count_cut_answers_too(registry, tmp_path, capsys, command):
    data = ["--registry", str(registry), "--dataset", "toy", "--limit", "2"] if command == "multi-image" else []
    count = iter(range(10**6))
    more = ["--episodes", "2"] if command == "guard" else []
    with serving(lambda *_: CUT if next(count) % 3 else answer("img1, yes", "stop")) as desk:
        assert main(served(desk, command, *data, *more, "--out", str(tmp_path))) == 0
    assert "% of the answers were cut at max_new_tokens" in capsys.readouterr().out
    found = json.loads(next(Path(tmp_path).glob("g*s.json" if command == "multi-image" else "guard.json")).read_text())
    rate = found["cut_rate"] if command == "multi-image" else found["kinds"]["all"]["cut_rate"]
    assert rate == pytest.approx(67, abs=30)
