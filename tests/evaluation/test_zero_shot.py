import json
import math

import lerobot_dataset as made
import pytest
from PIL import Image
from toy_build import build_toy

from stcr_plugin.cli import main
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation import strips
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.evaluation.zero_shot import METHODS, order_values, rank_values
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.report import ranking_words
from stcr_plugin.types import Response

ASK = AskSettings(mode="direct")
pytestmark = pytest.mark.usefixtures("undrawn")
FALLS = (0.0, 1.0, 2.0, 3.0, 1.5, 0.5, 2.5, 4.0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"), 3, pairs={"per_episode": 8, "min_seconds": 0.5})


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """For engines that do not look."""
    folder = tmp_path_factory.mktemp("picture")
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def strip(picture, n=8, episode_id="e", **more):
    images = tuple(f"{number}.png" for number in range(n))
    seconds = tuple(map(float, range(n)))
    return Strip(picture, episode_id, "stack cups", images, tuple(range(n)), seconds, **more)


def ranked(method, engine, found, out, settings=ASK, **more):
    return rank_values(EvalRequest(engine=engine, settings=settings, **more), found, out, method=method)


class Teller:
    """Gives each picture a worth, 0..1, in percent or as a probability; keeps the prompts that it is asked."""

    def __init__(self, worth, text=None):
        self.worth, self.text, self.prompts = worth, text, []

    def identity(self):
        return {"engine": "teller"}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            self.prompts.append(prompt)
            if self.text is not None:
                yield number, Response(self.text, prompt_tokens=100, completion_tokens=7)
                continue
            worth = [self.worth[int(one.image[:-4])] for one in prompt.shown]
            if prompt.reasons:
                lines = [f"{name}: {100 * of} %" for name, of in zip(prompt.names, worth[1:], strict=True)]
                yield number, Response("\n".join(lines), prompt_tokens=100, completion_tokens=7)
            else:
                logs = (math.log(worth[-1]), math.log(1 - worth[-1]))
                yield number, Response("True", dict(zip(prompt.names, logs, strict=True)))


@pytest.mark.parametrize("method", METHODS)
def test_known_judges_rank_as_they_must(picture, tmp_path, method):
    found = strip(picture, truth=FALLS)
    of = {name: ranked(method, Oracle(name, []), found, tmp_path / name) for name in ("right", "chronological", "coin")}
    assert of["right"].correlation_with_truth == of["right"].kendall_with_truth == 1
    assert of["chronological"].correlation_with_time == of["chronological"].kendall_with_time == 1
    assert of["right"].kendall_with_time == 0.5  # 7 of 28 pairs are in the other order
    assert abs(of["coin"].kendall_with_truth) < 0.9
    progress = {frame.frame: frame.progress for frame in of["right"].frames}
    assert min(progress, key=progress.get) == 0
    assert max(progress, key=progress.get) == 7
    assert Ranking.read(tmp_path / "right" / "ranking.json") == of["right"]
    assert (tmp_path / "right" / "progress.csv").read_text().count("\n") == 9
    ranking_words.draw_ranking(tmp_path, of["right"])
    with Image.open(tmp_path / "progress.png") as plot:
        plot.load()


@pytest.mark.parametrize(
    ("method", "name", "figures"),
    [
        ("gvl", "right", (1, 1, 1, 1)),
        ("topreward", "right", (1, 1, 1, 1)),
        ("topreward", "chronological", (1, 1, 1, 1)),
        ("topreward", "position-only", (1, -1, 0, 0)),  # the longer the video, the more is done
    ],
)
def test_known_judges_have_the_correlations_that_theory_gives(registry, tmp_path, method, name, figures):
    found = strips.of_split(registry, "toy", "heldout", frames=6)
    request = EvalRequest(engine=Oracle(name, []), settings=ASK, resamples=50)
    row = order_values(request, found, tmp_path, method=method)
    assert (row.voc, row.vroc, row.voc_f1, row.voc_both) == figures
    assert (row.method, row.n_strips, row.answers, row.unread) == (method, 3, None, 0)
    assert ValueOrder.read(tmp_path / "voc.json") == row
    assert f"by {method}: voc {figures[0]:+.2f}" in ranking_words.value_order_words(row)
    ranking_words.draw_value_order(tmp_path, row)


def test_a_judge_of_positions_says_nothing_of_shuffled_frames(picture, tmp_path):
    found = [strip(picture, episode_id=f"e{number}") for number in range(30)]
    row = order_values(EvalRequest(engine=Oracle("position-only", []), resamples=50), found, tmp_path, method="gvl")
    assert abs(row.voc) < 0.3
    assert abs(row.vroc) < 0.3


def test_percentages_are_asked_in_one_query_of_all_frames_shuffled_beside_the_first(picture, tmp_path):
    engine = Teller([number / 10 for number in range(8)])
    found = ranked("gvl", engine, strip(picture), tmp_path)
    (asked,) = engine.prompts
    shown = [one.image for one in asked.shown]
    assert shown[0] == "0.png"
    assert sorted(shown[1:]) == list(strip(picture).images) != shown[1:]
    assert asked.labels == ("start", *(f"img{number}" for number in range(1, 9)))
    assert "stack cups" in asked.question
    assert [frame.progress for frame in found.frames] == pytest.approx([number / 10 for number in range(8)])
    assert (found.cost.queries, found.cost.pictures) == (1, 9)
    assert (found.cost.tokens.prompt, found.cost.tokens.completion) == (100, 7)
    says = ranking_words.cost_words(found)
    assert says == "cost: queries 1, pictures 9, tokens of prompts 100, of responses 7"


def test_statement_is_asked_of_each_beginning_and_a_failed_end_stays_low(picture, tmp_path):
    worth = [0.01, 0.02, 0.03, 0.04]
    engine = Teller(worth)
    found = ranked("topreward", engine, strip(picture, 4), tmp_path)
    shown = sorted([[one.image for one in prompt.shown] for prompt in engine.prompts], key=len)
    assert shown == [[f"{number}.png" for number in range(end)] for end in range(1, 5)]
    assert [frame.score for frame in found.frames] == pytest.approx([math.log(one) for one in worth], abs=1e-6)
    assert [frame.progress for frame in found.frames] == pytest.approx(worth)  # not scaled to 0..1
    assert (found.cost.queries, found.cost.pictures, found.cost.tokens) == (4, 10, None)


def test_what_a_model_does_not_say_gets_the_mean_and_is_counted(picture, tmp_path):
    found = ranked("gvl", Teller([], "img1: 20 %\nimg2: 40 %\nimg3: ?"), strip(picture), tmp_path)
    assert found.unread == 6
    assert sorted({frame.progress for frame in found.frames}) == pytest.approx([0.2, 0.3, 0.4])
    assert "6 of 8 frames got no value" in found.words
    silent = ranked("gvl", Teller([], ""), strip(picture), tmp_path / "silent")
    assert silent.correlation_with_time is None
    assert "all came out alike" in silent.words


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_ranking_asks_nothing(picture, tmp_path, method):
    worth = [0.1 + number / 10 for number in range(8)]
    first = ranked(method, Teller(worth), strip(picture), tmp_path, seed=3)
    engine = Teller(worth)
    assert ranked(method, engine, strip(picture), tmp_path, seed=3) == first
    assert engine.prompts == []


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("topreward", AskSettings(generate=True), "needs log-probabilities, which generated answers do not have"),
        ("gvl", AskSettings(style="letters"), "its question has no 'style'"),
        ("gvl", AskSettings(language="fr"), "no such question in 'fr'"),
        ("glv", ASK, "did you mean 'gvl'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(picture, tmp_path, method, settings, says):
    with pytest.raises(ConfigError, match=says):
        ranked(method, Teller([0.5] * 8), strip(picture), tmp_path, settings)


def test_topreward_needs_log_probabilities_and_time(picture, tmp_path):
    with pytest.raises(ConfigError, match="log-probabilities, which this engine does not give"):
        ranked("topreward", Teller([], "True"), strip(picture), tmp_path)
    pictures = strips.of_pictures([picture / "0.png", picture / "1.png"], "stack cups")
    with pytest.raises(ConfigError, match="needs the order of the pictures in time"):
        ranked("topreward", Teller([0.5] * 8), pictures, tmp_path)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("method", METHODS)
def test_command_ranks_a_video_with_a_real_model(model, tmp_path, capsys, method, language):
    made.write_video(tmp_path / "v.mp4", [(3, 9)], "h264 short", 10)
    video = [str(tmp_path / "v.mp4"), "--frames", "3", "--task", "count", "--set", f"language={language}"]
    given = ["rank", *video, "--model", str(model), "--method", method, "--out", str(tmp_path / "out")]
    assert main([*given, "--set", "max_new_tokens=8"]) == 0
    row = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert (row["method"], row["cost"]["queries"]) == (method, {"gvl": 1, "topreward": 3}[method])
    if method == "topreward":
        assert all(frame["score"] < 0 <= frame["progress"] < 1 for frame in row["frames"])
    assert f"3 frames by {method}: " in capsys.readouterr().out


def test_command_offers_all_methods_and_refuses_what_belongs_to_pairs(tmp_path, capsys):
    for method in METHODS:
        assert main(["rank", "a.png", "b.png", "--task", "t", "--method", method, "--group", "3", "--out", "x"]) == 1
        assert "--method and --group exclude each other" in capsys.readouterr().err


def test_command_measures_value_order_by_a_method(registry, tmp_path, capsys):
    asked = ["--registry", str(registry), "--dataset", "toy", "--voc", "--frames", "4", "--oracle", "right"]
    assert main(["rank", *asked, "--method", "topreward", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "3 strips of 3 episodes by topreward: voc +1.00" in said
    assert "cost: queries 24, pictures 60" in said
