import sys
import time

import pytest

from stcr_plugin.progress_bar import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_redirected_loop_writes_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    for _ in progress(range(100), "base: reading pictures", "steps"):
        clock(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "base: reading pictures 38/100 steps, 15 s",
        "base: reading pictures 76/100 steps, 30 s",
        "base: reading pictures 100/100 steps, 40 s",
    ]


def test_short_work_writes_nothing(clock, capsys):
    for _ in progress(iter("abc"), "reading", "rows", total=3):
        clock(1.6)
    assert capsys.readouterr().err == ""


def test_work_that_is_updated_shows_its_note_and_bytes_in_megabytes(clock, capsys):
    with progress(8_000_000, "a.tar: indexing", "bytes") as bar:
        clock(16)
        bar.update(3_500_000, "loss 0.5")
        assert bar.done == 3_500_000
    assert capsys.readouterr().err == "a.tar: indexing 3/8 MB, 16 s, loss 0.5\n"


def test_work_without_a_total_counts_up_and_an_error_passes(clock, capsys):
    def fail():
        with progress(None, "reading", "rows") as bar:
            clock(6)
            bar.update(2)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert capsys.readouterr().err == "reading 2 rows, 6 s\n"


def test_hidden_progress_writes_nothing(clock, capsys):
    with progress(2, "reading", "rows", shown=False) as bar:
        clock(60)
        bar.update()
    assert capsys.readouterr().err == ""


def test_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([1, 2], "reading", "rows")) == [1, 2]
    with progress(2, "asking", "queries") as bar:
        bar.update(2, "loss 0.5")
    written = capsys.readouterr().err
    assert "reading: 100%" in written
    assert "2/2" in written
    assert "rows/s" in written
    assert "loss 0.5" in written
