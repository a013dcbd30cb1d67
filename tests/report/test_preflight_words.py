"""The findings of `stcr check` as lines of text."""

from __future__ import annotations

from stcr_plugin.preflight.verdict import error, ok, warning
from stcr_plugin.report.preflight_words import histogram, line, text


def test_a_line_has_level_check_place_problem_and_fix() -> None:
    found = line(error("cutoff", "3 of 4 samples are longer than 64", "set cutoff_len: 80", where="cutoff_len"))
    assert found == "error    cutoff       cutoff_len: 3 of 4 samples are longer than 64; set cutoff_len: 80"
    assert line(ok("chain", "starts from a model")) == "ok       chain        starts from a model"


def test_the_last_line_counts_the_findings_of_each_level() -> None:
    findings = [ok("rows", "4"), warning("steps", "few", "add some"), ok("chain", "fine")]
    assert text("stage1.yaml", findings).splitlines()[-1] == "stage1.yaml: 0 error, 1 warning, 2 ok"


def test_supervised_tokens_are_shown_as_a_histogram_that_counts_every_sample_once() -> None:
    tokens = {5: 3, 6: 30, 40: 1}
    first, *lines = line(ok("supervised", "supervised tokens per sample", tokens=tokens)).splitlines()
    assert first.endswith("per sample:")
    assert "\n".join(lines) == histogram(tokens)
    assert len(lines) == 8
    assert sum(int(one.split()[1]) for one in lines) == 34
    assert lines[0].endswith("#" * 30)
