import dataclasses
import shutil

import pytest
from PIL import Image

from stcr_plugin.benchmark.rows import benchmark, benchmark_again
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import ORDERS, Query


@pytest.mark.parametrize(
    "settings",
    [
        AskSettings(mode="direct"),
        AskSettings(mode="cot", language="zh", part="heldout"),
        AskSettings(mode="direct", style="letters", warn=True),
    ],
)
def test_every_pair_is_in_both_orders_with_the_questions_of_an_evaluation(registry, settings):
    made = benchmark(registry, "toy", "heldout", settings=settings, seed=3)
    queries = [Query(pair, order) for pair in read_pairs(registry, "toy", "heldout") for order in ORDERS]
    prompts = prompts_for(queries, settings, seed=3)
    assert [(row.pair, row.order, row.images, row.expected) for row in made.rows] == [
        (query.pair, query.order, query.images, query.answer) for query in queries
    ]
    assert [(row.question, row.names) for row in made.rows] == [(one.question, one.names) for one in prompts]
    for row in made.rows:
        assert row.answer == row.names[("img1", "img2").index(row.expected)]
        assert all(name in row.introduction for name in row.names)


def test_name_depends_on_all_that_is_shown(registry, tmp_path):
    first = benchmark(registry, "toy", "heldout")
    assert first.name.startswith("stcr_toy_heldout_")
    assert benchmark(registry, "toy", "heldout", settings=AskSettings(mode="direct", batch_size=1)).name == first.name
    others = [
        benchmark(registry, "toy", "heldout", seed=1),
        benchmark(registry, "toy", "heldout", settings=AskSettings(mode="cot")),
        benchmark(registry, "toy", "heldout", settings=AskSettings(part="heldout")),
        benchmark(with_another_picture(registry, tmp_path), "toy", "heldout"),
    ]
    assert len({first.name, *(other.name for other in others)}) == 5


def test_benchmark_is_made_again_from_what_its_rows_carry(registry):
    made = benchmark(registry, "toy", "heldout", settings=AskSettings(mode="cot", language="zh"), seed=2)
    assert benchmark_again(registry, made.label, "a log") == made


def test_benchmark_of_other_pictures_is_refused(registry, tmp_path):
    made = benchmark(registry, "toy", "heldout")
    with pytest.raises(DataError, match=r"a log: has answers to another benchmark .* pictures or prompts differ"):
        benchmark_again(with_another_picture(registry, tmp_path), made.label, "a log")


@pytest.mark.parametrize("label", ["", "null", "[]", '{"dataset": "toy"}', "[1]"])
def test_rows_that_do_not_say_how_they_were_made_are_refused(registry, label):
    with pytest.raises(DataError, match="a log: its rows do not say how they were made"):
        benchmark_again(registry, label, "a log")


def test_unknown_split_and_language_are_refused(registry):
    with pytest.raises(ConfigError, match="heldout"):
        benchmark(registry, "toy", "heldot")
    with pytest.raises(ConfigError, match="did you mean 'zh'"):
        benchmark(registry, "toy", "heldout", settings=dataclasses.replace(AskSettings(), language="zn"))


def with_another_picture(registry, folder):
    copy = shutil.copytree(registry, folder / "registry")
    Image.new("RGB", (56, 56)).save(copy / read_pairs(copy, "toy", "heldout")[-1].later_image)
    return copy
