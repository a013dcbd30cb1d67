"""What answers say of their pictures, held against the simulator: a truthful describer, liars, and other sources."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from describer import Describer

from stcr_plugin import artefacts
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import AnswerCauses
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report.evaluation_page import write_evaluation_page
from stcr_plugin.results import Evaluation
from stcr_plugin.types import Prompt

pytestmark = pytest.mark.usefixtures("undrawn")


def described(registry: Path, out: Path, engine: Any, **settings: Any) -> Evaluation:
    asked = AskSettings(mode="cot", **settings)
    return evaluate(EvalRequest(engine=engine, dataset="toy", registry=registry, settings=asked, resamples=50), out)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_truthful_describer_has_every_claim_true(registry: Path, tmp_path: Path, language: str) -> None:
    found = described(registry, tmp_path, Describer(registry, language=language), language=language)
    claims = found.claims.found
    assert (claims.claims_true.value, claims.claims_missing.value, claims.n_undescribed) == (100, 0, 0)
    assert set(claims.families) >= {"phase", "gripper", "reach", "goal"}
    assert Evaluation.read(tmp_path / "results.json") == found
    write_evaluation_page(tmp_path, registry, found)
    assert f"Of {claims.n_claims} claims in {claims.n_answers} answers, 100.0" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("lies", [0.1, 0.3])
def test_a_liar_has_as_many_false_claims_as_it_told(registry: Path, tmp_path: Path, lies: float) -> None:
    engine = Describer(registry, lies=lies)
    claims = described(registry, tmp_path, engine).claims.found
    assert claims.claims_true.low < 100 * (1 - lies) < claims.claims_true.high
    assert claims.claims_true.value == pytest.approx(100 * (1 - engine.lied / engine.said))
    assert claims.claims_false.value == pytest.approx(100 * engine.lied / engine.said)
    assert claims.families["reach"].off == pytest.approx(30 * (1 - claims.families["reach"].true.value / 100))
    assert claims.families["phase"].off is None


@pytest.mark.parametrize("sentence", ["the gripper is open", "Hand: far off", "hand far cm off", "夹爪张开"])
def test_words_that_are_no_claim_are_unreadable_and_not_false(registry: Path, tmp_path: Path, sentence: str) -> None:
    class Other(Describer):
        def describe(self, prompt: Prompt, episode: str, frame: int) -> str:
            return f"{super().describe(prompt, episode, frame)}, {sentence}"

    claims = described(registry, tmp_path, Other(registry)).claims.found
    assert (claims.claims_false.value, claims.claims_missing.value) == (0, 0)
    assert claims.claims_unreadable.value == pytest.approx(100 * 2 * claims.n_answers / claims.n_claims)


def test_true_claims_with_a_wrong_conclusion_are_judging_errors(registry: Path, tmp_path: Path) -> None:
    engine = Describer(registry, wrong=True)
    found = described(registry, tmp_path, engine)
    alike = [
        pair
        for pair in engine.pairs.values()
        if len({engine.source.claims(engine.states[pair.episode_id][at]) for at in (pair.earlier, pair.later)}) == 1
    ]
    assert found.figures.pair_accuracy == 0
    queries = found.figures.n_queries
    assert found.claims.found.wrong == AnswerCauses(0, queries - 2 * len(alike), unknown=2 * len(alike))


def test_other_pictures_than_those_of_the_build_have_no_truth(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = map(str, itertools.count())
    monkeypatch.setattr("stcr_plugin.registry.picture_store.fingerprint", lambda _: next(another))
    found = described(registry, tmp_path, Describer(registry))
    assert found.claims.found is None
    assert "the source gives other pictures than those that were built" in found.claims.unknown


def test_an_evaluation_without_reasons_has_no_claims_and_the_file_no_key(registry: Path, tmp_path: Path) -> None:
    from stcr_plugin.engines.oracles import Oracle

    engine = Oracle("right", read_pairs(registry, "toy", "heldout"))
    request = EvalRequest(engine=engine, dataset="toy", registry=registry, resamples=50)
    found = evaluate(request, tmp_path)
    assert found.claims is None
    assert "claims" not in artefacts.read_json(tmp_path / "results.json")
    assert dataclasses.replace(found) == Evaluation.read(tmp_path / "results.json")
