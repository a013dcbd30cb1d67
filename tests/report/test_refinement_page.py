"""The page of contradicted labels: both pictures of each pair, counts by episode, and texts of data as text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from wrong_labels import build_wrong_labels, judge

from stcr_plugin.cli import main
from stcr_plugin.evaluation.refinement import FoundLabels, LabelTruth, refine
from stcr_plugin.registry.contradictions import Contradiction, read_contradictions
from stcr_plugin.report import refinement_page
from stcr_plugin.report.refinement_page import refinement_words, truth_words, write_refinement_page


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written into."""
    return build_wrong_labels(tmp_path_factory.mktemp("order"))


def test_page_shows_both_pictures_of_each_pair_and_counts_by_episode(labelled: Path, tmp_path: Path) -> None:
    found = refine(judge(labelled), tmp_path)
    text = write_refinement_page(tmp_path, labelled, found).read_text()
    rows = list(read_contradictions(tmp_path / Contradiction.file))
    assert text.count('src="data:image/png') == 2 * len(rows)
    assert f"{len(rows)} of {len(rows)} pairs, the most confident first" in text
    for row in rows:
        assert f"pair {row.pair_id}" in text
    for name, count in found.by_episode.items():
        assert f'<th scope="row">{name}</th><td>{count.pairs}</td><td>{count.contradicted}</td>' in text
    assert "(precision 100.0 %)" in text
    assert "decision drop" in text


def test_text_of_data_stays_text(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = refine(judge(labelled), tmp_path)
    read = refinement_page.read_pairs

    def marked(*arguments: str) -> list[object]:
        return [dataclasses.replace(pair, task="<script>alert(1)</script>") for pair in read(*arguments)]

    monkeypatch.setattr(refinement_page, "read_pairs", marked)
    text = write_refinement_page(tmp_path, labelled, found).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_page_stays_small_and_says_how_many_pairs_it_shows(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement_page, "LARGEST", 30_000)
    found = refine(judge(labelled), tmp_path)
    text = write_refinement_page(tmp_path, labelled, found).read_text()
    shown = text.count("<article")
    assert 0 < shown < found.contradicted
    assert f"{shown} of {found.contradicted} pairs" in text


def test_words_give_counts_beside_every_share() -> None:
    truth = LabelTruth(FoundLabels(pairs=50, unrecorded=2, wrong=10, listed=8, found=6, precision=75.0, recall=60.0))
    assert truth_words(truth) == (
        "by the recorded progress 10 of 50 labels are wrong: 6 of the 8 listed (precision 75.0 %), 6 of all 10 "
        "(recall 60.0 %); 2 pairs have no recorded progress"
    )
    assert "not known: no source" in truth_words(LabelTruth(unknown="no source"))


def test_command_lists_builds_and_leaves_out(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    command = ["data", "refine", "order", "--registry", str(labelled), "--oracle", "coin", "--out", out]
    assert main(command) == 0
    told = capsys.readouterr().out
    rows = list(read_contradictions(tmp_path / "out" / Contradiction.file))
    assert f"{len(rows)} of " in told
    assert "recall" in told
    assert f"rows: {tmp_path / 'out' / Contradiction.file}" in told
    assert f"page: {tmp_path / 'out' / 'refine.html'}" in told
    assert {row.decision for row in rows} == {"drop"}
    assert main([*command, "--decide", "tie"]) == 0
    assert {row.decision for row in read_contradictions(tmp_path / "out" / Contradiction.file)} == {"tie"}


def test_nothing_contradicted_is_a_page_too(labelled: Path, tmp_path: Path) -> None:
    out = str(tmp_path)
    assert (
        main(["data", "refine", "order", "--registry", str(labelled), "--oracle", "chronological", "--out", out]) == 0
    )
    text = (tmp_path / "refine.html").read_text()
    assert "No pair is contradicted in both orders." in text


def test_words_name_episodes_and_decisions(labelled: Path, tmp_path: Path) -> None:
    found = refine(judge(labelled), tmp_path)
    first, decided, _ = refinement_words(found).split("\n")
    assert first == (
        f"{found.contradicted} of {found.pairs} pairs of order, train are contradicted in both orders, in "
        f"{len(found.by_episode)} episodes"
    )
    assert decided == f"decisions: drop {found.contradicted}"
