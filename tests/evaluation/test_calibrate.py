"""Temperatures fitted on one evaluation and reported on another, by a judge whose true temperature is known."""

import dataclasses
import json
import math

import pytest
from PIL import Image
from toy_build import DATA, build_toy

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import FittedOn, Temperature
from stcr_plugin.cli import main
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.calibrate import fit_temperature
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.judge import judge, opened
from stcr_plugin.evaluation.rank import rank_frames
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import of_pictures
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.results import Evaluation
from stcr_plugin.types import Response

TRUE = 4.0
pytestmark = pytest.mark.usefixtures("undrawn")


class Overconfident:
    """Right as often as its log-odds say when they are divided by TRUE."""

    def __init__(self, pairs, name="overconfident"):
        self.name, self.truth = name, Oracle("right", pairs)

    def identity(self):
        return {"engine": self.name}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            random = artefacts.rng("overconfident", prompt.item)
            odds = abs(random.normal(0, 2))
            right = random.random() < 1 / (1 + math.exp(-odds))
            toward = TRUE * odds * (1 if right == (self.truth.query(prompt).answer == "img2") else -1)
            scores = {name: -math.log1p(math.exp(-sign * toward)) for name, sign in (("img1", -1), ("img2", 1))}
            yield number, Response(f"closer to completion: {'img2' if toward > 0 else 'img1'}", scores)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Eight episodes to fit on, and eight others."""
    source = DATA["source"] | {"seen": 10, "heldout": 8}
    splits = {
        "train": {"episodes": 2, "group": "seen"},
        "dev": {"episodes": 8, "group": "seen"},
        "heldout": {"episodes": 8, "group": "heldout"},
    }
    pairs = DATA["pairs"] | {"per_episode": 8}
    return build_toy(tmp_path_factory.mktemp("calibrated"), heldout=8, splits=splits, source=source, pairs=pairs)


def evaluated(registry, out, split, **more):
    engine = more.pop("engine", None) or Overconfident(read_pairs(registry, "toy", split))
    evaluate(EvalRequest(engine=engine, registry=registry, dataset="toy", split=split, resamples=50, **more), out)
    return out


@pytest.fixture(scope="module")
def runs(registry, tmp_path_factory):
    """The folders of the evaluations of dev and heldout; not to be written into."""
    folder = tmp_path_factory.mktemp("runs")
    return evaluated(registry, folder / "dev", "dev"), evaluated(registry, folder / "heldout", "heldout")


def test_evaluation_in_mode_direct_has_figures_of_its_probabilities(runs, registry, tmp_path):
    found = Evaluation.read(runs[0] / "results.json")
    assert found.calibration.both_orders.n == found.figures.n_pairs
    assert found.calibration.one_order.n == 2 * found.figures.n_pairs
    assert found.calibration.both_orders.observed == pytest.approx(found.figures.pair_accuracy)
    assert found.calibration.both_orders.calibration_error > 3
    written = evaluated(registry, tmp_path, "dev", engine=Oracle("coin", [], generates=True))
    assert "calibration" not in json.loads((written / "results.json").read_text())


def test_temperature_is_fitted_on_dev_and_reported_on_heldout(runs, tmp_path):
    found = fit_temperature(runs[0], [runs[1]], tmp_path, resamples=200)
    assert Temperature.read(tmp_path / "temperature.json") == found
    low, high = found.interval
    assert 1 < low < found.temperature < high
    assert TRUE / 2 < found.temperature < 2 * TRUE
    assert (found.fitted.split, found.fitted.n_episodes) == ("dev", 8)
    (on,) = found.reported
    assert on.split == "heldout"
    assert on.raw.both_orders.brier == Evaluation.read(runs[1] / "results.json").calibration.both_orders.brier
    assert on.scaled.both_orders.observed == on.raw.both_orders.observed
    assert on.scaled.both_orders.calibration_error < on.raw.both_orders.calibration_error
    assert on.brier_change.value < 0


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    for name in ("a", "b"):
        fit_temperature(runs[0], [runs[1]], tmp_path / name, resamples=50)
    assert (tmp_path / "a/temperature.json").read_bytes() == (tmp_path / "b/temperature.json").read_bytes()


def test_a_temperature_is_never_reported_on_what_it_was_fitted_on(runs, registry, tmp_path):
    with pytest.raises(DataError, match=r"shares 8 episodes with the split .* report on another"):
        fit_temperature(runs[0], [runs[0]], tmp_path)
    few = evaluated(registry, tmp_path / "few", "dev", limit=24)
    with pytest.raises(DataError, match="with the split that the temperature is fitted on"):
        fit_temperature(runs[0], [few], tmp_path)
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    found = Evaluation.read(runs[0] / "results.json")
    dataclasses.replace(found, dataset="other", split="other").write(renamed / "results.json")
    (renamed / "answers.jsonl").write_bytes((runs[0] / "answers.jsonl").read_bytes())
    with pytest.raises(DataError, match="is the split that the temperature is fitted on"):
        fit_temperature(runs[0], [renamed], tmp_path)
    assert not (tmp_path / "temperature.json").exists()


def test_evaluations_that_do_not_belong_together_are_refused(runs, registry, tmp_path):
    other = evaluated(registry, tmp_path / "other", "heldout", engine=Oracle("coin", []))
    with pytest.raises(DataError, match="this is another model"):
        fit_temperature(runs[0], [other], tmp_path)
    warned = evaluated(registry, tmp_path / "warned", "heldout", settings=AskSettings(warn=True))
    with pytest.raises(DataError, match="this is warn=True and not warn=False"):
        fit_temperature(runs[0], [warned], tmp_path)
    written = evaluated(registry, tmp_path / "written", "dev", engine=Oracle("coin", [], generates=True))
    with pytest.raises(DataError, match="were generated, so that they have no probabilities"):
        fit_temperature(written, [], tmp_path)
    trained = tmp_path / "trained"
    trained.mkdir()
    row = json.loads((runs[0] / "results.json").read_text())
    row["overlap"] = {"trained": "a", "evaluated": "b", "episodes": {"shared": 1, "trained": 1, "evaluated": 1},
                      "pictures": {"shared": 0, "trained": 1, "evaluated": 1}}  # fmt: skip
    artefacts.write_json(trained / "results.json", row)
    (trained / "answers.jsonl").write_bytes((runs[0] / "answers.jsonl").read_bytes())
    with pytest.raises(DataError, match="the model was trained on episodes or pictures of it"):
        fit_temperature(trained, [], tmp_path)


# ---- the commands ----


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if line.startswith("stcr: ")]


def test_command_fits_writes_a_page_and_says_what_it_found(runs, tmp_path, capsys):
    code, out, _ = run(capsys, "calibrate", runs[0], "--on", runs[1], "--out", tmp_path)
    found = Temperature.read(tmp_path / "temperature.json")
    assert code == 0
    assert f"temperature {found.temperature:.2f}" in out
    assert "on toy, heldout: Brier score" in out
    assert "too sure of itself" in out
    text = (tmp_path / "calibration.md").read_text()
    assert "calibration-1.png" in text
    assert f"{found.reported[0].scaled.both_orders.brier:.3f} (" in text


@pytest.mark.parametrize(
    ("oracle", "problem"), [("coin", "not shown to be better than a coin"), ("right", "only 0 of 8 episodes")]
)
def test_oracles_through_the_commands_have_no_temperature(registry, tmp_path, capsys, oracle, problem):
    options = ("--registry", registry, "--dataset", "toy", "--oracle", oracle, "--limit", "48")
    code, out, _ = run(capsys, "eval", *options, "--split", "dev", "--out", tmp_path / "dev")
    assert code == 0
    assert "probabilities, both orders averaged: Brier score" in out
    code, _, (error,) = run(capsys, "calibrate", tmp_path / "dev", "--out", tmp_path)
    assert code == 1
    assert problem in error
    assert not (tmp_path / "temperature.json").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("nowhere", "--out", "out"), "no such file"),
        (("nowhere", "--labels", "t.csv", "--on", "there", "--out", "out"), "--labels and --on exclude each other"),
        (("nowhere", "--precision", "0.9", "--out", "out"), "--precision requires --labels"),
    ],
)
def test_wrong_command_lines_end_in_one_line(tmp_path, capsys, monkeypatch, words, problem):
    monkeypatch.chdir(tmp_path)
    code, _, (error,) = run(capsys, "calibrate", *words)
    assert code == 1
    assert problem in error


# ---- the use of a temperature ----


def temperature(asked_engine, settings, value=2.0, **changes):
    fitted = FittedOn("run", "toy", "dev", n_pairs=9, n_wrong=3, n_episodes=3)
    asked = {**settings.decides, "mode": settings.mode or "direct"}
    plain = Temperature(name="a judge", temperature=value, interval=(1.5, 2.5), fitted=fitted, settings=asked,
                        engine=asked_engine.identity())  # fmt: skip
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.new("RGB", (56, 56), (80 * number, 30, 90)).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(3)]


def log_odds(probability):
    return math.log(probability / (1 - probability))


def test_judge_divides_the_log_odds_of_the_embedded_model(model, pictures):
    loaded = opened(model)
    plain = judge(loaded, pictures[:2], "stack cups")
    scaled = judge(loaded, pictures[:2], "stack cups", calibration=temperature(*loaded))
    assert log_odds(scaled.probabilities[1]) == pytest.approx(log_odds(plain.probabilities[1]) / 2, abs=1e-9)
    assert [one.probability for one in scaled.heard] != [one.probability for one in plain.heard]
    assert (scaled.closest, scaled.temperature, plain.temperature) == (plain.closest, 2.0, 1.0)


def test_judge_command_takes_the_file_and_says_so(model, pictures, tmp_path, capsys):
    temperature(*opened(model)).write(tmp_path / "temperature.json")
    words = ("judge", model, *pictures[:2], "--task", "stack cups")
    code, out, _ = run(capsys, *words, "--calibration", tmp_path / "temperature.json")
    assert code == 0
    assert "probabilities are calibrated, with a temperature of 2.00" in out
    code, out, _ = run(capsys, *words, "--calibration", tmp_path / "temperature.json", "--json")
    assert json.loads(out)["temperature"] == 2.0
    (tmp_path / "bad.json").write_text('{"name": "x"}')
    code, _, (error,) = run(capsys, *words, "--calibration", tmp_path / "bad.json")
    assert code == 1
    assert "not what `stcr calibrate` writes" in error


@pytest.mark.parametrize(
    ("changes", "settings", "ties", "problem"),
    [
        ({"engine": {"engine": "local", "model_digest": "0"}}, AskSettings(), False, "this is another model"),
        ({}, AskSettings(language="zh"), False, "this is language=zh and not language=en"),
        ({}, AskSettings(mode="cot"), False, "answers are generated here"),
        ({}, AskSettings(generate=True), False, "answers are generated here"),
        ({}, AskSettings(), True, 'this is with the answer "neither"'),
    ],
)
def test_temperature_of_something_else_is_refused(model, pictures, changes, settings, ties, problem):
    fitted = temperature(*opened(model), **changes)
    with pytest.raises(ConfigError, match=problem):
        judge(opened(model, settings), pictures[:2], "stack cups", ties=ties, calibration=fitted)


def test_ranking_uses_it_and_says_so(model, pictures, tmp_path):
    strip, settings = of_pictures(pictures, "stack cups"), opened(model)[1]
    engine = LocalEngine(model, strip.root, settings)
    request = EvalRequest(engine=engine, settings=settings)
    plain = rank_frames(request, strip, tmp_path / "plain")
    scaled = rank_frames(request, strip, tmp_path / "scaled", calibration=temperature(engine, settings))
    assert scaled.temperature == 2.0
    assert "temperature" not in json.loads((tmp_path / "plain/ranking.json").read_text())
    before, after = ({(one.first, one.second): one.outcome for one in made.comparisons} for made in (plain, scaled))
    assert before.keys() == after.keys()
    for pair, outcome in before.items():
        assert log_odds(after[pair]) == pytest.approx(log_odds(outcome) / 2, abs=1e-4)
