"""The callback measures the live model, reports to every log, and changes nothing of the training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stage import Workshop, history, losses

from stcr_plugin.artefacts import sha256
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.frameworks import callback
from stcr_plugin.frameworks.callback import LOGGED, GapCallback, undisturbed
from stcr_plugin.records import MissingMeasurement
from stcr_plugin.result_files import encode
from stcr_plugin.types import Pair, Response


def record_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "stage.json").read_text(encoding="utf-8")))


def measured(run: Path) -> list[dict[str, Any]]:
    lines = (run / "stcr_figures.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ---- undisturbed ----


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_random_states_are_put_back_whatever_happens_inside() -> None:
    model, tokenizer = torch.nn.Linear(1, 1), SimpleNamespace(padding_side="right")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    for fails in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        try:
            with undisturbed(model, tokenizer):
                random.seed(9), np.random.seed(9), torch.manual_seed(9)
                draws()
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        assert draws() == expected


def test_training_mode_comes_back_for_each_module_and_the_padding_side_too() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1)))
    model.train()
    model[1].eval()  # a frozen part, as a vision tower may be
    before = [module.training for module in model.modules()]
    assert set(before) == {True, False}
    tokenizer = SimpleNamespace(padding_side="right")
    with undisturbed(model, SimpleNamespace(tokenizer=tokenizer)):
        assert not any(module.training for module in model.modules())
        tokenizer.padding_side = "left"
    assert [module.training for module in model.modules()] == before
    assert tokenizer.padding_side == "right"


# ---- shares of the ranks ----


@pytest.mark.parametrize("world", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("n_pairs", [1, 2, 4])
def test_every_rank_asks_equally_often_and_every_query_is_answered_once(
    monkeypatch: pytest.MonkeyPatch, world: int, n_pairs: int
) -> None:
    pairs = [Pair(f"p{i}", f"e{i}", "dev", task="stack cups", earlier=0, later=5, seconds=0.5) for i in range(n_pairs)]
    asked: list[int] = []

    def echo(model: Any, processor: Any, prompts: Any, *_: Any, **__: Any) -> list[tuple[int, Response]]:
        asked.append(len(prompts))
        return [(number, Response(f"{prompt.item} {prompt.order}")) for number, prompt in enumerate(prompts)]

    monkeypatch.setattr(callback, "respond", echo)
    gap = GapCallback(pairs, Path(), AskSettings(mode="direct"))
    answered: list[Any] = []
    for rank in range(world):
        monkeypatch.setattr(callback, "rank_and_world", lambda rank=rank: (rank, world))
        answered += gap._answers(None, None)
    assert len(set(asked)) == 1
    every = sorted((pair.pair_id, order) for pair in pairs for order in ("forward", "backward"))
    assert sorted((one.pair_id, one.order) for one in answered) == every
    assert all(one.text == f"{one.pair_id} {one.order}" for one in answered)


# ---- in real runs ----


EVALUATED = (
    "max_steps=6",
    "eval_dataset=tiny_dev",
    "eval_strategy=steps",
    "eval_steps=3",
    "save_strategy=steps",
    "save_steps=3",
    "load_best_model_at_end=true",
)


@pytest.fixture(scope="module")
def run(shared_workshop: Workshop) -> Path:
    """Six steps, measured before, every two steps and after, evaluated by the trainer too; logged to TensorBoard."""
    figure = "metric_for_best_model=eval_stcr_pair_accuracy"
    settings = (*EVALUATED, figure, "stcr.evaluate.every_steps=2", "report_to=tensorboard")
    return shared_workshop.train("weak", "measured", *settings)


WHEN = [("before", 0), ("step 2", 2), ("step 3", 3), ("step 4", 4), ("step 6", 6), ("after", 6)]


@pytest.mark.slow(seconds=1)
def test_figures_reach_jsonl_and_stage_record(run: Path) -> None:
    rows = measured(run)
    assert [(row["when"], row["step"]) for row in rows] == WHEN
    record = record_of(run)
    assert record["figures"] == rows
    assert all(row["n_pairs"] == 4 and row["n_queries"] == 8 and row["seconds"] > 0 for row in rows)
    assert record["finished"]
    assert record["steps"] == 6
    assert record["seconds_evaluating"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert record["seconds_evaluating"] < record["seconds"]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("name", LOGGED)
def test_figures_reach_the_trainers_history(run: Path, name: str) -> None:
    assert history(run, f"stcr_{name}") == [(row["step"], row[name]) for row in measured(run)]


@pytest.mark.slow(seconds=1)
def test_figures_reach_tensorboard_those_after_its_writer_was_closed_too(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    for name in LOGGED:
        logged = [(event.step, event.value) for event in events.Scalars(f"train/stcr_{name}")]
        assert logged == [(row["step"], pytest.approx(row[name])) for row in measured(run)]


@pytest.mark.slow(seconds=1)
def test_no_loss_line_is_lost_to_a_measurement(run: Path) -> None:
    assert [step for step, _ in history(run, "loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow(seconds=1)
def test_the_trainer_chooses_its_best_model_by_our_figure(run: Path) -> None:
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    evaluated = [row["pair_accuracy"] for row in measured(run) if row["when"] in ("step 3", "step 6")]
    assert state["best_metric"] == max(evaluated)
    best = Path(state["best_model_checkpoint"])
    assert best.name == f"checkpoint-{3 if evaluated[0] == max(evaluated) else 6}"
    saved, chosen, last = (sha256(folder / "model.safetensors") for folder in (run, best, run / "checkpoint-6"))
    assert saved == chosen  # and it is that model whole that is saved
    if best.name == "checkpoint-3":
        assert saved != last


@pytest.mark.slow
def test_the_loss_curve_is_the_same_to_the_last_digit_without_the_callback(run: Path, workshop: Workshop) -> None:
    # With the trainer's own evaluations too, since these draw random numbers.
    silent = workshop.train("weak", "silent", *EVALUATED, "stcr.evaluate=null", "metric_for_best_model=eval_loss")
    assert losses(silent) == losses(run)
    assert history(silent, "eval_loss") == history(run, "eval_loss")
    assert len(set(losses(run))) == 6
    assert record_of(silent)["figures"] == []
    assert not (silent / "stcr_figures.jsonl").exists()


@pytest.mark.slow
def test_figures_after_are_those_of_an_evaluation_of_the_saved_model(run: Path, workshop: Workshop) -> None:
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.request import EvalRequest

    ask = AskSettings(mode="direct", image_max_pixels=7056, image_min_pixels=1024)
    request = EvalRequest(
        model=run, dataset="tiny", split="dev", registry=workshop.registry, settings=ask, limit=4, resamples=10
    )
    again = evaluate(request, run / "eval")
    after = measured(run)[-1]
    assert after["when"] == "after"
    assert {key: after[key] for key in encode(again.figures)} == encode(again.figures)


@pytest.mark.slow
def test_cot_mode_generates_and_leaves_the_training_alone(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    real = callback.respond

    def listening(*args: Any, **kwargs: Any) -> Any:
        for number, said in real(*args, **kwargs):
            texts.append(said.text)
            yield number, said

    monkeypatch.setattr(callback, "respond", listening)
    run = workshop.train("cot", "cot", "stcr.evaluate.every_steps=2", recipe="stage1_cot")
    assert len(texts) == 3 * 8
    assert any(texts)
    assert [row["when"] for row in measured(run)] == ["before", "step 2", "after"]
    assert losses(run) == losses(workshop.train("cot", "cot_silent", "stcr.evaluate=null", recipe="stage1_cot"))


@pytest.mark.slow
def test_a_resumed_run_keeps_its_figures_and_does_not_measure_before_again(workshop: Workshop) -> None:
    class PowerCutError(Exception):
        pass

    settings = ("max_steps=6", "stcr.evaluate.every_steps=2", "save_strategy=steps", "save_steps=3")
    straight = workshop.train("weak", "straight", *settings)

    with pytest.MonkeyPatch.context() as patch:

        def cut(self: GapCallback, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise PowerCutError
            original(self, args, state, control)

        original = GapCallback.on_step_end
        patch.setattr(GapCallback, "on_step_end", cut)
        with pytest.raises(PowerCutError):
            workshop.train("weak", "resumed", *settings)
    killed = record_of(workshop.root / "resumed")
    assert not killed["finished"]
    assert [row["when"] for row in killed["figures"]] == ["before", "step 2", "step 4"]

    resumed = workshop.train("weak", "resumed", *settings, "resume_from_checkpoint=true")
    assert [row["when"] for row in measured(resumed)] == ["before", "step 2", "step 4", "after"]
    assert record_of(resumed)["finished"]
    assert losses(resumed) == losses(straight)  # so the checkpoint was loaded whole


@pytest.mark.slow
def test_an_adapter_is_measured_and_a_chain_of_adapters_keeps_its_record(workshop: Workshop) -> None:
    lora = ("finetuning_type=lora", "lora_rank=4", "lora_target=all")
    first = workshop.train("cot", "lora1", *lora, recipe="stage1_cot")
    second = workshop.train(
        "weak",
        "lora2",
        *lora,
        "stcr.adapter=continue",
        f"adapter_name_or_path={first}",
        recipe="stage2_weak",
        model=workshop.base,
    )
    record, parent = record_of(second), record_of(first)
    assert record["parent_stage"] == "stage1"
    assert record["parent_digest"] == parent["model_digest"]
    assert record["base"] == str(workshop.base)
    assert [row["when"] for row in measured(second)] == ["before", "after"]


# ---- a measurement that fails ----


def failing_at(number: int) -> Any:
    """`respond`, which fails in the measurement of that number, counted from 0."""
    real, calls = callback.respond, iter(range(100))

    def respond(model: Any, processor: Any, *rest: Any, **more: Any) -> Any:
        if next(calls) != number:
            return real(model, processor, *rest, **more)
        torch.rand(7)  # it has drawn and changed what it could before it fails
        processor.tokenizer.padding_side = "left"
        raise RuntimeError("CUDA out of memory")

    return respond


@pytest.mark.slow
def test_a_failed_measurement_is_said_aloud_and_training_goes_on_to_the_last_digit(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("stcr.evaluate.every_steps=1", "stcr.evaluate.after=false", "max_steps=3")
    whole = workshop.train("weak", "all_measured", *settings)
    monkeypatch.setattr(callback, "respond", failing_at(1))  # before, step 1, step 2
    capsys.readouterr()
    run = workshop.train("weak", "one_missing", *settings)
    said = capsys.readouterr().err
    assert "!! weak_only: FIGURES ARE MISSING: the measurement 'step 1' failed; training continues." in said
    assert "!! rank 0: RuntimeError: CUDA out of memory" in said
    record = record_of(run)
    assert record["finished"]
    assert record["figures_missing"] == [
        {"when": "step 1", "step": 1, "why": "rank 0: RuntimeError: CUDA out of memory"}
    ]
    assert [row["when"] for row in record["figures"]] == ["before", "step 2"]
    assert losses(run) == losses(whole)
    assert record["model_digest"] == record_of(whole)["model_digest"]
    assert record_of(whole)["figures_missing"] == []


@pytest.mark.slow
def test_a_failed_evaluation_is_never_the_best_and_does_not_end_the_run(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "respond", failing_at(0))  # the evaluation at step 1; that at step 2 is measured
    run = workshop.train(
        "weak", "no_best", *EVALUATED, "max_steps=2", "eval_steps=1", "save_steps=1", "stcr.evaluate.before=false",
        "stcr.evaluate.after=false", "metric_for_best_model=eval_stcr_pair_accuracy",
    )  # fmt: skip
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    assert record_of(run)["figures_missing"][0]["when"] == "step 1"
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-2"


def test_a_failure_on_another_rank_is_known_to_all_and_no_rank_waits_in_vain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [Pair("p", "e", "dev", task="stack cups", earlier=0, later=5, seconds=0.5)]
    recorded: list[Any] = []
    gap = GapCallback(pairs, Path(), AskSettings(mode="direct"), record=recorded.append)
    gap.trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), data_collator=None, processing_class=SimpleNamespace())
    gap.trainer.processing_class.padding_side = "right"
    monkeypatch.setattr(gap, "_answers", lambda *_: [])
    monkeypatch.setattr(callback, "of_every_rank", lambda own: [own, ([], "DataError: gone.png: no such file")])
    found = gap._measure("before", SimpleNamespace(is_world_process_zero=True, global_step=0), SimpleNamespace())
    assert found is None
    assert recorded == [MissingMeasurement("before", 0, "rank 1: DataError: gone.png: no such file")]
    assert "gone.png" in capsys.readouterr().err
