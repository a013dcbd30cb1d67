"""The four oracles through the whole pipeline, with the figures that they must give."""

import dataclasses
import json
import math

import pytest
from toy_build import build_toy

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import ORACLES, SURE, Oracle
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.scoring.metrics import figures
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Pair, Query

SIX = ("forward_accuracy", "backward_accuracy", "gap_points", "pair_accuracy", "order_consistency", "position_bias")
POSITION = (100, 0, 100, 0, 0, 100)
RIGHT = (100, 100, 0, 100, 100, 50)
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"), pairs={"per_episode": 8, "min_seconds": 0.5})


@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory):
    """Two episodes whose progress rises for ten frames and falls for ten, and one of which nothing happens for six."""
    import numpy as np
    from PIL import Image

    from stcr_plugin.registry.build import DataConfig, build

    root = tmp_path_factory.mktemp("frames")
    progress = {
        "a": [*range(10), *range(9, -1, -1)],
        "b": [*range(10), *range(9, -1, -1)],
        "c": [*[0] * 6, *range(14)],
    }
    random = np.random.default_rng(0)
    rows = []
    for episode, numbers in progress.items():
        folder = root / episode
        folder.mkdir()
        for number in range(len(numbers)):
            picture = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{number:03}.png")
        (root / f"{episode}.csv").write_text("progress\n" + "".join(f"{number}\n" for number in numbers))
        rows.append(f"{episode},stack cups,{episode},5,{episode}.csv\n")
    (root / "table.csv").write_text("episode,task,path,fps,states\n" + "".join(rows))
    config = {
        "name": "back",
        "source": {"kind": "frames", "root": str(root), "table": "table.csv"},
        "frames": {"width": 32, "height": 32},
        "splits": {"heldout": {"fraction": 1.0}},
        "pairs": {"per_episode": 12, "min_frames": 2, "label": "progress", "ties": "teach"},
    }
    build(from_mapping(DataConfig, config, "test"), root / "registry")
    return root / "registry"


def run(name, registry, out, dataset="toy", settings=None, seed=0, **more):
    pairs = read_pairs(registry, dataset, "heldout")
    settings = settings or AskSettings()
    engine = Oracle(name, pairs, seed=seed, generates=settings.generate)
    request = EvalRequest(
        engine=engine, dataset=dataset, registry=registry, settings=settings, seed=seed, resamples=50, **more
    )
    found = evaluate(request, out)
    row = json.loads((out / "results.json").read_text())
    assert row == json.loads(json.dumps(found.row()))
    return row


def six(row):
    return tuple(row[name] for name in SIX)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("position-only", AskSettings(), POSITION),
        ("position-only", AskSettings(mode="cot", style="letters", language="zh"), POSITION),
        ("right", AskSettings(), RIGHT),
        ("right", AskSettings(generate=True, style="ordinals"), RIGHT),
        ("chronological", AskSettings(mode="cot"), RIGHT),
    ],
)
def test_oracle_gives_its_figures_through_the_whole_pipeline(registry, tmp_path, name, settings, expected):
    row = run(name, registry, tmp_path, settings=settings)
    assert six(row) == expected
    assert (row["name"], row["model"], row["n_pairs"], row["n_episodes"]) == (name, name, 24, 3)
    assert row["unparsed_rate"] == 0
    assert row["intervals"]["pair_accuracy"] == [expected[3]] * 2


def test_judge_of_time_is_told_from_a_judge_of_progress(there_and_back, tmp_path):
    right = run("right", there_and_back, tmp_path / "right", "back")
    assert right["n_closer_earlier"] > 5
    assert right["n_closer_earlier"] < right["n_pairs"] - 5
    assert right["n_ties"] > 0
    assert six(right) == RIGHT
    assert (right["tie_accuracy"], right["neither_rate"], right["earlier_closer_accuracy"]) == (100, 0, 100)

    by_time = run("chronological", there_and_back, tmp_path / "chronological", "back")
    share = 100 * (1 - right["n_closer_earlier"] / right["n_pairs"])
    assert by_time["earlier_closer_accuracy"] == 0
    assert (by_time["pair_accuracy"], by_time["tie_accuracy"]) == (pytest.approx(share), 0)
    assert (by_time["order_consistency"], by_time["position_bias"], by_time["gap_points"]) == (100, 50, 0)

    by_place = run("position-only", there_and_back, tmp_path / "position-only", "back")
    assert (by_place["earlier_closer_accuracy"], by_place["pair_accuracy"], by_place["position_bias"]) == (0, 0, 100)
    assert by_place["forward_accuracy"] == pytest.approx(share)


def pairs_of(count, closer="later"):
    return [Pair(f"p{i}", f"e{i % 50}", "test", "stack cups", 0, 5, 1.0, closer=closer) for i in range(count)]


def asked(name, pairs, settings=None, seed=0, ties=False):
    """The answers of the oracle, without pictures."""
    settings = settings or AskSettings()
    queries = [Query(pair, order) for pair in pairs for order in ORDERS]
    prompts = prompts_for(queries, settings, seed, ties)
    said = dict(Oracle(name, pairs, seed=seed, generates=settings.generate).respond(prompts))
    return [
        answered(query, prompt, said[number])
        for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True))
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_coin_is_as_a_coin_is(seed):
    """Each rate is the mean of n independent throws with chance p, so by Hoeffding's inequality it lies further than
    sqrt(ln(2 / 1e-6) / 2n) from p with a chance below 1e-6: for n = 4000, 4.3 points. The gap is the difference of two
    such rates, and position bias has 2n throws."""
    count = 4000
    bound = 100 * math.sqrt(math.log(2 / 1e-6) / (2 * count))
    assert bound < 4.3
    found = figures(asked("coin", pairs_of(count), seed=seed))
    for name, expected in {
        "forward_accuracy": 50,
        "backward_accuracy": 50,
        "pair_accuracy": 25,
        "order_consistency": 50,
        "position_bias": 50,
    }.items():
        assert abs(getattr(found, name) - expected) < bound, name
    assert abs(found.gap_points) < 2 * bound


def test_coin_through_the_whole_pipeline_is_the_same_coin(registry, tmp_path):
    row = run("coin", registry, tmp_path, seed=3)
    answers = asked("coin", read_pairs(registry, "toy", "heldout"), seed=3)
    # Paths of pictures and all else are those of the pipeline; only then are the throws the same.
    assert six(row) == six(dataclasses.asdict(figures(answers)))
    other = asked("coin", read_pairs(registry, "toy", "heldout"), seed=4)
    assert [one.chosen for one in answers] != [one.chosen for one in other]


@pytest.mark.parametrize("style", ["img", "letters", "ordinals", "frames"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("ties", [False, True])
def test_right_oracle_is_right_in_every_style_and_language(style, language, ties):
    pairs = [
        *pairs_of(3),
        dataclasses.replace(pairs_of(1, "earlier")[0], pair_id="back"),
        *([dataclasses.replace(pairs_of(1, "neither")[0], pair_id="tie")] if ties else []),
    ]
    for mode, generate in (("direct", False), ("direct", True), ("cot", False)):
        for warn in (False, True):
            settings = AskSettings(mode=mode, generate=generate, style=style, language=language, warn=warn)
            answers = asked("right", pairs, settings, ties=ties)
            assert all(answer.right for answer in answers)
            assert {answer.chosen for answer in answers} == {"img1", "img2", *(["neither"] if ties else [])}


def test_oracles_answer_as_a_model_would():
    pair = pairs_of(1)[0]
    compared, *_ = asked("right", [pair], ties=True)
    assert compared.text == "closer to completion: img2"
    scores = compared.logprob_img1, compared.logprob_img2, compared.logprob_neither
    assert sum(math.exp(score) for score in scores) == pytest.approx(1)
    assert math.exp(compared.logprob_img2) == pytest.approx(SURE)
    reasoned, *_ = asked("right", [pair], AskSettings(mode="cot", style="frames"))
    assert reasoned.text == (
        "spatial details: frame 1: not described. frame 2: not described.\ncloser to completion: frame 2"
    )
    assert reasoned.logprob_img2 is None
    (prompt,) = prompts_for([Query(pair, "forward")], AskSettings(mode="cot"))
    begun = dataclasses.replace(prompt, begin="spatial details: img1: open. img2: shut.\n")
    ((_, said),) = Oracle("right", [pair]).respond([begun])
    assert said.text == "closer to completion: img2"


def test_oracle_says_what_it_does_not_know():
    with pytest.raises(ConfigError, match="unknown oracle 'righ'; did you mean 'right'"):
        Oracle("righ", [])
    (prompt,) = prompts_for([Query(pairs_of(1)[0], "forward")], AskSettings())
    for name in ("right", "chronological"):
        with pytest.raises(ConfigError, match=r"p0, forward: .* does not know the truth about it"):
            list(Oracle(name, []).respond([prompt]))
    rotated = dataclasses.replace(prompt, order="rotation 1")
    with pytest.raises(ConfigError, match="rotation 1"):
        list(Oracle("right", pairs_of(1)).respond([rotated]))
    assert [said.text for _, said in Oracle("position-only", []).respond([rotated])] == ["closer to completion: img2"]


def test_identity_names_the_oracle_and_what_it_knows():
    identities = [Oracle(name, pairs_of(2)).identity() for name in ORACLES]
    assert [one["engine"] for one in identities] == ["position-only", "coin", "right", "chronological"]
    assert Oracle("right", pairs_of(2)).identity() == identities[2]
    assert Oracle("right", pairs_of(2, "earlier")).identity() != identities[2]
    assert Oracle("coin", pairs_of(2), seed=1).identity() != identities[1]


def test_eval_asks_an_oracle_without_a_model(registry, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--oracle", "position-only", "--dataset", "toy", "--registry", str(registry), "--limit", "4"]
    assert main(command) == 0
    assert "position-only" in capsys.readouterr().out
    row = json.loads((tmp_path / "runs" / "eval" / "position-only" / "toy-heldout" / "results.json").read_text())
    assert (row["name"], six(row)) == ("position-only", POSITION)
    assert main([*command, "--model", str(tmp_path)]) == 1
    assert "--oracle and --model exclude each other" in capsys.readouterr().err
    assert main(["eval", "--oracle", "coyn", *command[3:]]) == 1
    assert "coin" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "controls", "rank"])
def test_style_and_warning_are_options_of_every_command_that_asks_about_pairs(registry, tmp_path, command):
    asked = ["--oracle", "position-only", "--dataset", "toy", "--registry", str(registry), "--out", str(tmp_path)]
    of_command = {"eval": [], "controls": ["--only", "wording"], "rank": ["--voc", "--frames", "3", "--episodes", "1"]}
    assert main([command, *asked, *of_command[command], "--set", "style=letters", "--set", "warn=true"]) == 0
    results = {"eval": "results.json", "controls": "plain/results.json", "rank": "voc.json"}
    settings = json.loads((tmp_path / results[command]).read_text())["settings"]
    assert (settings["style"], settings["warn"]) == ("letters", True)
    assert main([command, *asked, *of_command[command], "--set", "style=letter"]) == 1


def test_help_names_every_style(capsys):
    from stcr_plugin.config import read_yaml
    from stcr_plugin.engines.prompts import PROMPT_VARIANTS

    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    text = capsys.readouterr().out
    assert all(style in text for style in read_yaml(PROMPT_VARIANTS / "styles.yaml"))
