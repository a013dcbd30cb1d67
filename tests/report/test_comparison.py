"""Run against run, on the same pairs: in the report, and in evidence.json."""

import json

import pytest
from chain_of_runs import answered_chain, judged

from stcr_plugin.evaluation.evaluate import read_answers
from stcr_plugin.report.chain_report import report
from stcr_plugin.report.runs import read
from stcr_plugin.scoring import significance


@pytest.fixture
def runs(tmp_path):
    return answered_chain(tmp_path, judged(0.95, 1), judged(0.9, 2))


def answers(run):
    return read_answers(run / "eval" / "heldout" / "answers.jsonl")


def test_end_of_the_chain_is_compared_with_every_run(runs, tmp_path):
    text = report(read(runs), tmp_path / "out").read_text()
    rows = json.loads((tmp_path / "out" / "evidence.json").read_text())["comparisons"]
    assert [(row["one"], row["other"], row["n_pairs"]) for row in rows] == [
        ("stage2", "base", 200),
        ("stage2", "weak_only", 200),
    ]
    of = significance.difference_p(answers(runs[1]), answers(runs[2]))
    only = significance.mcnemar(answers(runs[1]), answers(runs[2]))
    assert rows[1]["by_episode"]["p"] == of.p
    assert (rows[1]["mcnemar"]["only_first"], rows[1]["mcnemar"]["only_second"]) == (only.only_first, only.only_second)
    assert rows[1]["mcnemar"]["p_exact"] == only.p_exact
    lead = 100 * (only.only_first - only.only_second) / 200
    low, high = rows[1]["difference"]["interval"]
    intervals = f"{low:+.1f} to {high:+.1f} | unknown: one training each"
    assert f"| toy, heldout | stage2 | weak_only | {lead:+.1f} | {intervals} |" in text
    assert f"| {only.only_first} : {only.only_second} |" in text
    assert "Run against run" in (tmp_path / "out" / "report.html").read_text()


def test_two_looks_are_paid_for(runs, tmp_path):
    report(read(runs), tmp_path / "out")
    base, weak = json.loads((tmp_path / "out" / "evidence.json").read_text())["comparisons"]
    assert base["by_episode"]["p"] < weak["by_episode"]["p"]
    assert base["p_holm"] == pytest.approx(2 * base["by_episode"]["p"])
    assert weak["p_holm"] == weak["by_episode"]["p"]


def test_runs_of_other_pairs_are_named_and_left_out(runs, tmp_path):
    path = runs[2] / "eval" / "heldout" / "answers.jsonl"
    path.write_text(path.read_text().replace('"p7"', '"q7"'))
    text = report(read(runs), tmp_path / "out").read_text()
    rows = json.loads((tmp_path / "out" / "evidence.json").read_text())["comparisons"]
    assert [row["other"] for row in rows] == ["base"]
    assert "- toy, heldout: `stage2` and `weak_only`: the two sets of answers are to different pairs" in text


def test_single_run_is_compared_with_none(runs, tmp_path):
    text = report(read(runs[1:2]), tmp_path / "out").read_text()
    assert "Run against run" not in text
