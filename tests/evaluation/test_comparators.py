import json
import math
from pathlib import Path

import pytest

from stcr_plugin.cli import main
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation.comparators import COMPARATORS, PLAIN, comparator
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import Difference, Tokens
from stcr_plugin.report.comparator_words import comparator_words
from stcr_plugin.results import PlainAccuracy
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Pair, Query, Response


class Judge:
    """Its log-odds of the second picture: `looks` for whether that is the later frame, plus `bias` for its place.

    A blank picture leaves the bias alone, and in mirrored ones it looks with the strength `mirrored`.
    """

    def __init__(self, looks, bias, mirrored=1.0, writes=False):
        self.looks, self.bias, self.mirrored, self.writes = looks, bias, mirrored, writes
        self.asked = []

    def identity(self):
        return {"engine": "judge", "looks": self.looks, "bias": self.bias, "writes": self.writes}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            self.asked.append(prompt)
            first, second = (int(Path(one.image).stem) for one in prompt.shown)
            strength = {"": self.looks, "mirror": self.mirrored, "blank": 0}[prompt.shown[0].change]
            odds = strength * (1 if second > first else -1) + self.bias
            chosen = prompt.answer.format(name=prompt.names[odds > 0])
            found = dict(zip(prompt.names, (-math.log1p(math.exp(odds)), -math.log1p(math.exp(-odds))), strict=True))
            yield number, Response(chosen, {} if self.writes else found, 10, 0)


def run(registry, out, name, engine, settings=None, **more):
    request = EvalRequest(
        engine=engine, dataset="toy", registry=registry, settings=settings or AskSettings(), resamples=50
    )
    return evaluate(request, out, comparator=comparator(name, **more))


def queries():
    pairs = [Pair(f"p{i}", f"e{i}", "test", "lift it", 1, 9, 1.0, earlier_image="1", later_image="9") for i in range(2)]
    return [Query(pair, order) for pair in pairs for order in ORDERS]


def combined(name, said, settings=None, ties=False, asked=None, **more):
    """The answers to `asked` that `comparator` makes of variant -> log-probabilities or texts."""
    asked = queries()[:2] if asked is None else asked
    prompts = prompts_for(asked, settings or AskSettings(mode="direct"), ties=ties)
    heard = {
        variant: [Response("" if isinstance(one, dict) else one, one if isinstance(one, dict) else {}) for one in found]
        for variant, found in said.items()
    }
    chosen = comparator(name, **more)
    return [
        answered(query, prompt, one)
        for query, prompt, one in zip(asked, prompts, chosen.combine(chosen, prompts, heard), strict=True)
    ]


def logs(*probabilities):
    return dict(zip(("img1", "img2", "neither"), map(math.log, probabilities), strict=False))


def test_swap_ensemble_averages_the_log_odds_of_the_frames():
    # Forward the later frame is img2: odds 9. Backward it is img1: odds 1/3. Their mean odds are sqrt(9 / 3).
    forward, backward = combined("swap_ensemble", {PLAIN: [logs(0.1, 0.9), logs(0.25, 0.75)]})
    assert (forward.chosen, backward.chosen) == ("img2", "img1")
    assert forward.logprob_img2 - forward.logprob_img1 == pytest.approx(math.log(3) / 2)
    assert backward.logprob_img1 == pytest.approx(forward.logprob_img2)
    assert math.exp(forward.logprob_img1) + math.exp(forward.logprob_img2) == pytest.approx(1)


def test_swap_ensemble_of_equal_scores_names_no_picture():
    both = combined("swap_ensemble", {PLAIN: [logs(0.25, 0.75), logs(0.25, 0.75)]})
    assert [one.chosen for one in both] == [None, None]


def test_swap_ensemble_keeps_neither_apart_from_the_frames():
    both = combined("swap_ensemble", {PLAIN: [logs(0.3, 0.3, 0.4), logs(0.3, 0.3, 0.4)]}, ties=True)
    assert [one.chosen for one in both] == ["neither", "neither"]


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        (("img2", "img1"), ("img2", "img1")),  # the later frame twice
        (("img1", "img2"), ("img1", "img2")),
        (("img2", "img2"), (None, None)),  # two frames: no answer
        (("img2", "I cannot tell"), (None, None)),
    ],
)
def test_swap_ensemble_of_written_answers_is_a_vote(said, chosen):
    texts = [f"closer to completion: {name}" for name in said]
    assert tuple(one.chosen for one in combined("swap_ensemble", {PLAIN: texts})) == chosen


def test_swap_ensemble_combines_the_orders_of_each_pair_alone():
    asked = [queries()[number] for number in (0, 3, 2, 1)]  # pairs in between each other
    sure, unsure = logs(0.01, 0.99), logs(0.6, 0.4)
    found = combined("swap_ensemble", {PLAIN: [sure, unsure, sure, unsure]}, asked=asked)
    assert [one.chosen for one in found] == ["img2", "img1", "img2", "img1"]


def test_ritual_adds_three_times_the_mirrored_log_probabilities():
    # Odds of img2: plain 4, mirrored 1/2; together 4 x (1/2)^3 = 1/2.
    found = combined("ritual", {PLAIN: [logs(0.2, 0.8)] * 2, "mirrored": [logs(2 / 3, 1 / 3)] * 2})[0]
    assert found.chosen == "img1"
    assert math.exp(found.logprob_img2) == pytest.approx(1 / 3)


def test_ritual_cannot_choose_what_the_plain_prompt_rules_out():
    # Below a tenth of the likeliest: not even an answer that is sure in the mirrored pictures comes back.
    found = combined("ritual", {PLAIN: [logs(0.05, 0.95)] * 2, "mirrored": [logs(0.999, 0.001)] * 2})[0]
    assert (found.chosen, found.logprob_img1, found.logprob_img2) == ("img2", None, 0)


def test_m3id_raises_what_the_pictures_make_likelier():
    # Weight 1: odds 1.5^2 / 4 < 1, so that the pictures speak for img1.
    found = combined("m3id", {PLAIN: [logs(0.4, 0.6)] * 2, "blank": [logs(0.2, 0.8)] * 2}, weight=1)[0]
    assert found.chosen == "img1"
    assert found.logprob_img2 - found.logprob_img1 == pytest.approx(math.log(1.5**2 / 4))


def test_m3id_weight_is_the_paper_s_at_the_sixth_token():
    forgotten = math.exp(-0.02 * 5)
    assert comparator("m3id").weight == pytest.approx((1 - forgotten) / forgotten)


def test_calibration_divides_by_the_content_free_prior():
    found = combined("calibrated", {PLAIN: [logs(0.05, 0.95)] * 2, "blank": [logs(0.02, 0.98)] * 2})[0]
    odds = (0.95 / 0.98) / (0.05 / 0.02)
    assert found.chosen == "img1"
    assert found.logprob_img2 == pytest.approx(math.log(odds / (1 + odds)))


def test_a_weight_must_be_one_that_there_is():
    assert comparator("ritual", 1.0).weight == 1.0
    with pytest.raises(ConfigError, match="did you mean 'ritual'"):
        comparator("rituel")
    with pytest.raises(ConfigError, match="no weight to set; ritual, m3id, calibrated"):
        comparator("warned", 2)
    with pytest.raises(ConfigError, match="at least 0"):
        comparator("ritual", -1)


def test_calibration_cures_a_judge_whose_bias_needs_no_picture(registry, tmp_path):
    judge = Judge(looks=1, bias=3)
    found = run(registry, tmp_path, "calibrated", judge)
    assert (found.figures.pair_accuracy, found.figures.gap_points) == (100, 0)
    account = found.comparator
    assert account.plain == PlainAccuracy(0, 50, Difference(100, (100, 100)))
    assert account.mean_accuracy == 100
    assert {prompt.shown[0].change for prompt in judge.asked} == {"", "blank"}
    assert json.loads((tmp_path / "results.json").read_text())["comparator"]["name"] == "calibrated"
    assert comparator_words(account, found.figures).startswith("Comparator `calibrated`")


def test_swap_ensemble_has_no_gap_and_a_coin_s_accuracy_where_place_alone_decides(registry, tmp_path):
    seeing = run(registry, tmp_path / "sees", "swap_ensemble", Judge(looks=1, bias=3))
    figures = seeing.figures
    assert (figures.forward_accuracy, figures.backward_accuracy, figures.gap_points) == (100, 100, 0)
    blind = run(registry, tmp_path / "blind", "swap_ensemble", Judge(looks=0, bias=3, writes=True))
    assert (blind.figures.pair_accuracy, blind.figures.unparsed_rate, blind.figures.gap_points) == (0, 100, 0)
    assert blind.comparator.plain.mean_accuracy == 50
    assert "gap is 0 by construction" in comparator_words(seeing.comparator, figures)
    assert seeing.tokens == Tokens(10 * figures.n_queries, 0)


def test_ritual_asks_about_mirrored_pictures_too(registry, tmp_path):
    judge = Judge(looks=1, bias=2, mirrored=3)
    found = run(registry, tmp_path, "ritual", judge)
    assert found.figures.pair_accuracy == 100  # bias 2 + 3 x 2 against looks 1 + 3 x 3
    assert {prompt.shown[1].change for prompt in judge.asked} == {"", "mirror"}
    assert found.tokens.prompt == 20 * found.figures.n_queries


def test_cost_is_that_of_every_variant(registry, tmp_path):
    class Dear(Judge):
        def cost(self, prompt_tokens, completion_tokens):
            return prompt_tokens / 1e6

    judge = Dear(looks=1, bias=2)
    found = run(registry, tmp_path, "m3id", judge)
    assert len(judge.asked) == 2 * found.figures.n_queries
    assert found.cost == pytest.approx(10 * len(judge.asked) / 1e6)


def test_warned_question_ends_with_the_warning(registry, tmp_path):
    judge = Judge(looks=3, bias=1, writes=True)
    found = run(registry, tmp_path, "warned", judge)
    assert found.settings["warn"] is True
    assert found.comparator.plain is None
    assert all("in no particular order" in prompt.question for prompt in judge.asked)


@pytest.mark.parametrize("name", [one.name for one in COMPARATORS.values() if one.compares])
def test_without_log_probabilities_the_error_names_those_that_work(registry, tmp_path, name):
    judge = Judge(looks=1, bias=0, writes=True)
    with pytest.raises(ConfigError, match=rf"{name}.*swap_ensemble, warned"):
        run(registry, tmp_path, name, judge)
    assert len(judge.asked) == 1


def test_killed_run_asks_only_what_is_missing(registry, tmp_path):
    whole = Judge(looks=1, bias=1)
    before = run(registry, tmp_path / "whole", "calibrated", whole)

    class Killed(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                if len(self.asked) > 30:
                    raise KeyboardInterrupt
                yield number, said

    first, second = Killed(looks=1, bias=1), Judge(looks=1, bias=1)
    with pytest.raises(KeyboardInterrupt):
        run(registry, tmp_path / "killed", "calibrated", first)
    assert run(registry, tmp_path / "killed", "calibrated", second) == before
    assert len(second.asked) == len(whole.asked) - 30


def test_local_engine_runs_a_comparator(model, registry, tmp_path):
    given = comparator("m3id")
    settings = AskSettings(batch_size=8)
    request = EvalRequest(model=model, dataset="toy", registry=registry, settings=settings, limit=3, resamples=20)
    found = evaluate(request, tmp_path / "out", comparator=given)
    assert (found.figures.n_pairs, found.comparator.weight) == (3, given.weight)
    assert len((tmp_path / "out" / "blank" / "said.jsonl").read_text().splitlines()) == 6


def test_command_line_names_the_comparator_and_its_weight(registry, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--oracle", "position-only", "--dataset", "toy", "--registry", str(registry)]
    assert main(["comparator", "ritual", *asked, "--weight", "2"]) == 0
    row = json.loads(Path("runs/eval/position-only/toy-heldout-ritual/results.json").read_text())
    assert (row["comparator"]["name"], row["comparator"]["weight"]) == ("ritual", 2)
    assert "Comparator `ritual`" in capsys.readouterr().out
    assert main(["comparator", "rital", *asked]) == 1
    assert "did you mean 'ritual'?" in capsys.readouterr().err
