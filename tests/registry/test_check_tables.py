"""Pairs and the uses of pictures come back from their temporary files as they were put there."""

import pytest

from stcr_plugin.registry.check_tables import PairTable, PictureUses
from stcr_plugin.types import Pair


def pair(pair_id, task="put the cup on the shelf"):
    return Pair(pair_id, "e1", "train", task, 1, 5, 0.4, orders=("backward",), earlier_image="a", later_image="b")


def test_pairs_come_back_by_their_id():
    table = PairTable()
    assert [table.add(pair(name)) for name in ("x", "y", "x")] == [True, True, False]
    assert (len(table), sorted(table)) == (2, ["x", "y"])
    assert table["y"] == pair("y")
    assert table.get("z") is None
    assert "z" not in table
    assert 7 not in table


def test_the_last_pair_of_an_id_counts():
    table = PairTable()
    table.add(pair("x"))
    assert table["x"] == pair("x")
    table.add(pair("x", "take it off"))
    assert table["x"].task == "take it off"
    with pytest.raises(KeyError):
        table[["x"]]


def test_uses_are_those_that_were_added():
    uses = PictureUses()
    for image, file, row in [("a", "pairs", 1), ("b", "pairs", 1), ("a", "weak", 3), ("a", "weak", 2)]:
        uses.add(image, file, row)
    assert len(uses) == 2
    assert uses.rows("a") == {"pairs": [1], "weak": [3, 2]}
    assert uses.rows("c") == {}
    assert uses.used_twice("weak") == ["a"]
    assert uses.used_twice("pairs") == []
    uses.add_indexed("a")
    assert uses.not_indexed() == ["b"]
    uses.add("c", "more", 1)
    assert uses.not_indexed() == ["b", "c"]
