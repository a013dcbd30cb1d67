import dataclasses
import re

import pytest
from PIL import Image

from stcr_plugin.figures import Figures, PairFigures
from stcr_plugin.report import document, plots, tables

PLAIN = PairFigures(Figures(90.0, 80.0, 10.0, 75.0, 80.0, 55.0, 0.0, 20, 4, 40))


def other(**changes):
    return PairFigures(dataclasses.replace(PLAIN.figures, **changes))


TIED = other(n_ties=8, tie_accuracy=62.5, neither_rate=7.5, n_queries=56)
BACK = other(n_closer_earlier=5, earlier_closer_accuracy=40.0, later_closer_accuracy=86.7, clock_accuracy=75.0)


def cells(*found):
    """Heading -> cell, of each line."""
    table = tables.figures_table([], [([], one) for one in found])
    heads, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(heads, line, strict=True)) for line in lines]


def test_ties_and_earlier_closer_pairs_have_no_columns_where_there_are_none():
    row = cells(PLAIN)[0]
    assert list(row)[-3:] == ["unparsed %", "pairs", "episodes"]
    assert "neither" not in tables.meanings_table([PLAIN])
    assert tables.meanings_table([PLAIN]) == tables.meanings_table()


def test_ties_have_columns_where_a_row_has_some():
    tied, plain = cells(TIED, PLAIN)
    assert (tied["ties %"], tied["neither %"], tied["pairs"], tied["ties"]) == ("62.5", "7.5", "20", "8")
    assert (plain["ties %"], plain["neither %"], plain["ties"]) == ("-", "0.0", "0")
    assert "earlier closer %" not in tied
    assert "| ties % |" in tables.meanings_table([TIED, PLAIN])


def test_earlier_closer_pairs_have_columns_where_a_row_has_some():
    row = cells(BACK)[0]
    assert (row["earlier closer %"], row["pairs, earlier closer"]) == ("40.0", "5")
    assert (row["later closer %"], row["clock %"]) == ("86.7", "75.0")
    assert not {"ties %", "neither %", "ties"} & set(row)
    assert '"always img2" gives where the later frame is closer |' in tables.meanings_table([BACK, PLAIN])
    assert '"always img2" gives |' in tables.meanings_table([PLAIN])


def test_neither_said_where_there_is_no_tie_is_shown():
    assert cells(other(neither_rate=2.5))[0]["neither %"] == "2.5"


HOSTILE = (
    "see [here](https://evil.example) ![x](http://evil.example/a.png) <img src=x> www.evil.example | `a` https://b"
)


def test_text_of_data_is_no_link_and_no_picture_in_markdown():
    made = [
        tables.cell(HOSTILE),
        document.written(document.Words(HOSTILE)),
        document.written(document.Bullets((HOSTILE,))),
    ]
    for text in made:
        plain = re.sub(r"\\.", "", text)
        assert "[" not in plain
        assert "<" not in plain
        assert not re.search(r"https?:|www\.", plain)
    assert document.written(document.Words(f"By `a[0] <b>` and {document.LINK}.")) == (
        f"By `a[0] &lt;b&gt;` and {document.LINK}."
    )


def test_code_cannot_end_its_fence():
    assert document.written(document.Code("a\n```\nb", "bash")) == "````bash\na\n```\nb\n````"


@pytest.mark.parametrize("name", ["cost $5 or $6", "$\\frac{$", "$x^2$"])
def test_dollars_in_a_name_are_not_drawn_as_mathematics(tmp_path, monkeypatch, name):
    from matplotlib.mathtext import MathTextParser

    monkeypatch.setattr(MathTextParser, "parse", lambda *_, **__: pytest.fail("drawn as mathematics"))
    picture = Image.new("RGB", (8, 8))
    plots.accuracies(tmp_path / "a.png", {name: [(name, PLAIN)]})
    plots.seeds(tmp_path / "b.png", {name: [(name, [1.0, 2.0])]}, name)
    plots.contact_sheet(tmp_path / "c.png", [plots.Example(picture, picture, ((name, "black"),))])
