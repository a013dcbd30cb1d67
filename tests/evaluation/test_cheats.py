"""Judges that cheat: what exposes each, and the table of docs/cheats.md."""

import re
from pathlib import Path

import pytest
from cheating_judges import all_verdicts, build_recordings, published, table

import stcr_plugin
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.sealed import sealed, unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.types import ORDERS, Pair, Query, Response


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Judge -> column -> verdict."""
    recordings = build_recordings(tmp_path_factory.mktemp("recordings"))
    return all_verdicts(recordings, tmp_path_factory.mktemp("controls"))


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ("looks", {"plain": "holds", "masked_change": "holds", "masked_elsewhere": "holds", "reversed": "holds"}),
        ("looks", {"worst_variant": "holds", "question_first": "holds", "suggested_first": "holds"}),
        ("looks", {"suggested_second": "holds", "inverse_task": "holds", "undone": "holds"}),
        ("writes", {"plain": "holds", "same_picture": "not applicable", "text_only": "not applicable"}),
        ("names", {"plain": "fails"}),
        ("counter", {"blank_first": "fails"}),
        ("one", {"blank_first": "fails", "blank_second": "holds"}),
        ("corner", {"plain": "holds", "masked_border": "fails", "reversed": "fails"}),
        ("corner first", {"masked_border": "holds", "reversed": "fails"}),
        ("faint", {"masked_border": "holds", "masked_change": "fails"}),
        ("near", {"reversed": "holds", "inverse_task": "fails", "undone": "fails", "non_monotone": "fails"}),
        ("near, task", {"inverse_task": "holds", "undone": "holds", "non_monotone": "fails"}),
        ("agrees", {"plain": "holds", "suggested_first": "fails", "suggested_second": "fails"}),
        ("by heart", {"plain": "holds", "worst_variant": "fails", "question_first": "fails"}),
        ("nearest", {"plain": "fails", "question_first": "fails"}),
        ("blue", {"plain": "holds", "masked_change": "holds", "reversed": "holds", "non_monotone": "holds"}),
    ],
)
@pytest.mark.slow(seconds=1)
def test_cheat_is_exposed_by_the_control_that_is_made_for_it(found, judge, expected):
    assert {name: found[judge][name] for name in expected} == expected


@pytest.mark.slow(seconds=25)
def test_table_of_cheats_is_that_of_a_fresh_run(found):
    """Otherwise run `python tests/cheating_judges.py`."""
    assert table(found) == published()


# ---- what an engine is given ----


class Spy:
    """Keeps the prompts that it is given."""

    def identity(self):
        return {"engine": "spy"}

    def respond(self, prompts):
        self.given = list(prompts)
        for number, prompt in enumerate(prompts):
            yield number, Response(unsealed(prompt).order)


def pair_of(number, images=("003.png", "007.png")):
    episode = f"e{number}"
    earlier, later = (f"{episode}/{image}" for image in images)
    return Pair(f"{episode}:3-7", episode, "", "stack", 3, 7, 1.0, earlier_image=earlier, later_image=later)


def prompts_of(pairs):
    return prompts_for([Query(pair, order) for pair in pairs for order in ORDERS], AskSettings())


def test_engine_is_given_nothing_that_a_server_would_not_get(tmp_path):
    prompts = prompts_of(pair_of(number) for number in range(40))
    sums = {one.image: "0" for prompt in prompts for one in prompt.shown}
    spy = Spy()
    responses = collect_responses(spy, prompts, tmp_path, asked={}, pictures=sums)
    assert [one.text for one in responses] == [prompt.order for prompt in prompts]
    for prompt in spy.given:
        told = [prompt.item, prompt.episode_id, prompt.order, *(one.image for one in prompt.shown)]
        assert not any(word in text for text in told for word in ("forward", "backward", ":", "/", ".png"))
        assert prompt.question in {one.question for one in prompts}
    assert len({prompt.order for prompt in spy.given}) == len(prompts)  # equal ones would tell two kinds apart
    assert len({one.image for prompt in spy.given for one in prompt.shown}) == len(sums)
    first = [unsealed(prompt).order for prompt in spy.given[::2]]
    assert 8 < first.count("forward") < 32  # whoever counts does not know which order comes first
    assert [unsealed(a).item for a in spy.given[::2]] == [unsealed(b).item for b in spy.given[1::2]]


def test_recording_that_is_stored_in_reverse_gives_an_engine_the_same_but_for_random_texts():
    def given(pair):
        places = {}
        return [
            (one.question, one.labels, one.names, [places.setdefault(shown.image, len(places)) for shown in one.shown])
            for one in sealed(prompts_of([pair]))
        ]

    assert given(pair_of(1)) == given(pair_of(1, ("007.png", "003.png")))


def test_sealed_prompts_are_opened_again_whole():
    prompts = prompts_of([pair_of(1)])
    assert [unsealed(one) for one in sealed(prompts)] == [unsealed(one) for one in prompts] == prompts


def test_only_those_that_need_the_truth_open_what_is_sealed():
    package = Path(stcr_plugin.__file__).parent
    opening = re.compile(r"from stcr_plugin\.engines\.sealed import (?!sealed$)(.+)", re.MULTILINE)
    found = {
        str(path.relative_to(package)): match[1]
        for path in package.rglob("*.py")
        if (match := opening.search(path.read_text(encoding="utf-8")))
    }
    assert found == {
        "benchmark/logs.py": "unsealed",
        "engines/oracles.py": "unsealed",
        "engines/picture_loading.py": "inside",
        "engines/server.py": "named",
    }
