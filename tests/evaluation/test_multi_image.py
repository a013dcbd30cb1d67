import json
import math
from pathlib import Path

import pytest
from toy_build import build_toy

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.multi_image import answered, evaluate_groups, prompt, spread
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import GroupSettings
from stcr_plugin.groups import draw_groups
from stcr_plugin.pairs import PairRules
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report.groups_table import groups_markdown
from stcr_plugin.samples.group_texts import fill_group, group_paraphrases, group_question
from stcr_plugin.scoring import verdicts
from stcr_plugin.scoring.group_figures import control_row
from stcr_plugin.types import Group, Response

PAIRS = {"per_episode": 8, "min_seconds": 1.0}
THREE = GroupSettings(pictures=3)
DIRECT = AskSettings(mode="direct")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"), heldout=4, pairs=PAIRS)


@pytest.fixture(autouse=True)
def few_episodes_suffice(monkeypatch):
    monkeypatch.setattr(verdicts, "FEWEST", 2)


class Judge:
    """Names the latest picture, or always the same place; compares names, and writes them where it is to reason."""

    def __init__(self, place=None):
        self.place = place
        self.asked = 0

    def identity(self):
        return {"engine": "judge", "place": self.place}

    def respond(self, prompts):
        for number, one in enumerate(map(unsealed, prompts)):
            self.asked += 1
            frames = [int(Path(shown.image).stem) for shown in one.shown]
            places = sorted(range(len(frames)), key=lambda place: -frames[place])
            if self.place is not None:
                places = [self.place, *(place for place in range(len(frames)) if place != self.place)]
            if one.reasons:
                yield number, Response(", ".join(one.names[place] for place in places))
            else:
                text = one.answer.format(name=one.names[places[0]])
                yield number, Response(text, dict.fromkeys(one.names, -5.0) | {one.names[places[0]]: -0.1})


def run(registry, out, engine=None, asked=THREE, settings=DIRECT, **more):
    request = EvalRequest(engine=engine, dataset="toy", registry=registry, settings=settings, **more)
    return evaluate_groups(request, out, asked)


def test_limit_spreads_groups_over_episodes():
    groups = [
        Group(f"{episode}:{first}-70-80", episode, "lift it", (first, 70, 80), ("a", "b", "c"))
        for episode in ("e", "f", "g")
        for first in range(4)
    ]
    chosen = spread(groups, 4, 0)
    assert sorted([group.episode_id for group in chosen].count(episode) for episode in "efg") == [1, 1, 2]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("part", ["train", "heldout"])
@pytest.mark.parametrize("ask", ["closest", "order"])
def test_prompt_is_a_question_of_training_or_one_that_training_never_sees(language, part, ask):
    group = Group("g", "e", "lift it.", (3, 5, 9), ("3", "5", "9"))
    asked, settings = GroupSettings(ask=ask), AskSettings(mode="direct", language=language, part=part)
    found = prompt(group, (2, 0, 1), asked, settings=settings, seed=3)
    variants = group_paraphrases(ask, "direct", language, part=part)
    assert found.question in {fill_group(text, "lift it", 3) for text in variants}
    assert found.question == group_question(group, ask, "direct", language=language, seed=3, part=part)
    assert [one.image for one in found.shown] == ["9", "3", "5"]
    assert found.labels == found.names == ("img1", "img2", "img3")
    assert "{" not in found.question
    assert found.reasons == (ask == "order")  # an order is written


def test_prompt_takes_style_warning_and_reasoning():
    group = Group("g", "e", "lift it", (3, 5, 9), ("3", "5", "9"))
    settings = AskSettings(mode="cot", style="letters", warn=True)
    found = prompt(group, (0, 1, 2), THREE, settings=settings, seed=0)
    assert found.labels == ("A", "B", "C")
    assert "A, B, C" in found.question
    assert "img" not in found.question
    assert found.question.endswith("Judge by what they show alone.")
    assert found.reasons
    with pytest.raises(ConfigError, match="known are: en, zh"):
        prompt(group, (0, 1, 2), THREE, settings=AskSettings(language="fr"), seed=0)


def test_answer_takes_the_likeliest_name_else_the_words():
    group = Group("g", "e", "lift it", (3, 5, 9), ("3", "5", "9"))
    one = prompt(group, (2, 0, 1), THREE, settings=DIRECT, seed=0)

    def answer(text, logprobs=None, ask="closest"):
        return answered(group, (2, 0, 1), one, response=Response(text, logprobs or {}), ask=ask)

    scores = {"img1": -3.0, "img2": -0.1, "img3": -3.0}
    assert answer("closer to completion: img2", scores).chosen == 1
    assert answer("", dict.fromkeys(scores, -1.0)).chosen is None
    written = answer("closer to completion: img3")
    assert (written.chosen, written.right) == (2, False)
    assert answer("img1 or img3").chosen is None
    listed = answer("img1, img3, img2", ask="order")
    assert (listed.chosen, listed.ranking, listed.right) == (0, (0, 2, 1), True)
    assert answer("img1, img3", ask="order").ranking is None


@pytest.mark.parametrize("ask", ["closest", "order"])
def test_judge_that_looks_holds_and_one_that_goes_by_place_fails(registry, tmp_path, ask):
    asked = GroupSettings(pictures=4, ask=ask)
    looks = run(registry, tmp_path / "looks", Judge(), asked)
    assert (looks.figures.accuracy, looks.figures.all_rotations, looks.intervals["accuracy"]) == (100, 100, (100, 100))
    assert len(set(looks.figures.places)) == 1
    assert (looks.figures.place_chi2, looks.figures.unparsed_rate) == (0, 0)
    assert control_row(looks).verdict == "holds"
    place = run(registry, tmp_path / "place", Judge(1), asked)
    assert (place.figures.accuracy, place.figures.all_rotations) == (25, 0)
    assert place.figures.places == (0, place.figures.n_queries, 0, 0)
    assert place.figures.place_p < 1e-6
    name = "four pictures" if ask == "closest" else "four pictures in order"
    assert (control_row(place).verdict, control_row(place).name) == ("fails", name)
    if ask == "order":
        assert (looks.figures.exact, looks.figures.kendall_tau) == (100, 1)
        assert place.figures.exact < 50
        assert place.chance["exact"] == pytest.approx(100 / math.factorial(4))
    assert f"{name}: **holds**" in groups_markdown(looks)
    assert json.loads((tmp_path / "looks" / "groups.json").read_text())["accuracy"] == 100


ORACLES = {"right": (100, 100), "chronological": (100, 100), "position-only": (25, 0)}


@pytest.mark.parametrize("ask", ["closest", "order"])
@pytest.mark.parametrize("mode", ["direct", "cot"])
@pytest.mark.parametrize("name", ORACLES)
def test_oracles_have_the_figures_that_theory_gives(registry, tmp_path, name, mode, ask):
    engine = Oracle(name, read_pairs(registry, "toy", "heldout"))
    found = run(registry, tmp_path, engine, GroupSettings(pictures=4, ask=ask), AskSettings(mode=mode)).figures
    assert (found.accuracy, found.all_rotations, found.unparsed_rate) == (*ORACLES[name], 0)
    if ask == "order" and name == "right":
        assert (found.exact, found.kendall_tau) == (100, 1)


def test_coin_is_at_chance(registry, tmp_path):
    engine = Oracle("coin", read_pairs(registry, "toy", "heldout"))
    found = run(registry, tmp_path, engine, GroupSettings(per_episode=25, ask="order"))
    assert found.figures.n_queries > 150
    assert found.figures.accuracy == pytest.approx(found.chance["accuracy"], abs=10)
    assert found.figures.kendall_tau == pytest.approx(0, abs=0.15)


def test_killed_run_goes_on_and_ends_with_the_same_bytes(registry, tmp_path):
    def files(out, engine):
        run(registry, out, engine, limit=5)
        return {path.name: path.read_bytes() for path in out.iterdir()}

    class Killed(Judge):
        def respond(self, prompts):
            for number, one in super().respond(prompts):
                if self.asked > 6:
                    raise KeyboardInterrupt
                yield number, one

    whole = files(tmp_path / "whole", Judge())
    with pytest.raises(KeyboardInterrupt):
        files(tmp_path / "killed", Killed())
    left = Judge()
    assert files(tmp_path / "killed", left) == whole
    assert left.asked == 15 - 6


def test_groups_of_a_build_show_pictures_of_its_pairs(registry):
    pairs = read_pairs(registry, "toy", "heldout")
    images = {image for pair in pairs for image in (pair.earlier_image, pair.later_image)}
    groups = draw_groups(pairs, PairRules(min_seconds=1.0), THREE, seed=0)
    assert {group.episode_id for group in groups} == {pair.episode_id for pair in pairs}
    assert all(set(group.images) <= images for group in groups)


def test_truth_of_a_build_by_progress_comes_from_its_source(tmp_path, monkeypatch):
    from stcr_plugin.episodes.tabletop import TabletopSource

    build_toy(tmp_path / "registry", heldout=4, pairs=PAIRS | {"label": "progress"})

    def accuracy(out):
        return run(tmp_path / "registry", tmp_path / out, Judge()).figures.accuracy

    assert accuracy("forwards") == 100
    states = TabletopSource.states

    def backwards(source, episode):
        return [{**state, "progress": -state["progress"]} for state in states(source, episode)]

    monkeypatch.setattr(TabletopSource, "states", backwards)
    assert accuracy("backwards") == 0
    monkeypatch.setattr(TabletopSource, "states", lambda *_: None)
    with pytest.raises(DataError, match="has no state 'progress'"):
        accuracy("unknown")


def test_settings_out_of_range_and_data_without_groups_are_refused(registry, tmp_path):
    for wrong in ({"pictures": 2}, {"pictures": 9}, {"rotations": 4}, {"per_episode": 0}, {"ask": "first"}):
        with pytest.raises(ConfigError):
            from_mapping(GroupSettings, wrong, "test")
    with pytest.raises(DataError, match="no 8 frames of one segment"):
        run(registry, tmp_path, Judge(), GroupSettings(pictures=8))


def test_local_engine_compares_three_names(model, registry, tmp_path):
    settings = AskSettings(batch_size=4)
    found = run(registry, tmp_path / "out", settings=settings, model=model, limit=3).figures
    assert (found.n_groups, found.n_queries, found.unparsed_rate) == (3, 9, 0)
    assert sum(found.places) == 9
    line = json.loads((tmp_path / "out" / "said.jsonl").read_text().splitlines()[0])
    assert set(line["logprobs"]) == {"img1", "img2", "img3"}


def test_command_line_asks_about_groups(registry, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["multi-image", "--oracle", "position-only", "--dataset", "toy", "--registry", str(registry)]
    assert main([*given, "--pictures", "4", "--per-episode", "2", "--limit", "6"]) == 0
    row = json.loads(Path("runs/eval/position-only/toy-heldout-4-closest/groups.json").read_text())
    assert (row["pictures"], row["n_groups"], row["accuracy"], row["places"]) == (4, 6, 25, [0, 24, 0, 0])
    assert "closest of 4 right 25.0 % (25.0 to 25.0), chance 25.0 %" in capsys.readouterr().out
    assert main([*given, "--pictures", "9"]) == 1
    assert "pictures must be 3 to 8" in capsys.readouterr().err
