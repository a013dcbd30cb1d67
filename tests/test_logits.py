"""Logits of the supervised tail alone: the same loss and gradients, in training and there only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_internvl import write_internvl
from tiny_qwen3_vl import write_qwen3_vl
from tiny_stage import Workshop

from stcr_plugin.logits import IGNORE, cut_to_tail, keep_tail, supervised_tail


def labels(*rows: str) -> torch.Tensor:
    """`.` is a token that is not supervised."""
    return torch.tensor([[IGNORE if letter == "." else ord(letter) for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "tail"),
    [
        (["....ab"], 3),  # the position before `a` predicts it
        (["....ab..", "..abc..."], 7),  # the shortest prompt counts, and padding behind the answers
        (["abc"], 3),
        ([".....a"], 2),
        (["......"], 1),
    ],
)
def test_tail_begins_where_the_first_supervised_token_is_predicted(rows: list[str], tail: int) -> None:
    assert supervised_tail(labels(*rows)) == tail


WRITTEN: dict[str, Callable[[Path, Workshop], Path]] = {
    "Qwen2.5-VL": lambda out, workshop: workshop.base,
    "Qwen3-VL": lambda out, workshop: write_qwen3_vl(out, workshop.base),
    "InternVL": lambda out, workshop: write_internvl(out),
}


@pytest.mark.parametrize("step", ["a batch of its own", "accumulated"])
@pytest.mark.parametrize("name", WRITTEN)
def test_loss_and_gradients_are_those_of_all_logits(name: str, step: str, workshop: Workshop, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(WRITTEN[name](tmp_path / "model", workshop), dtype="float32")
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(100, 200, (2, 24), generator=generator)
    wanted = torch.full_like(ids, IGNORE)
    wanted[0, 15:18], wanted[1, 19:22] = ids[0, 15:18], ids[1, 19:22]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": wanted}
    more = {"num_items_in_batch": torch.tensor(9)} if step == "accumulated" else {}

    def trained(inputs: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        output = model(**inputs, **more)
        output.loss.backward()
        return output, [weight.grad for weight in model.parameters() if weight.grad is not None]

    whole, due = trained(batch)
    cut, found = trained(cut_to_tail(batch))
    assert (whole.logits.shape[1], cut.logits.shape[1]) == (24, 10)
    torch.testing.assert_close(cut.loss, whole.loss)
    assert len(found) == len(due) > 0
    for one, other in zip(found, due, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def trainer(model: Any, seen: list[dict[str, Any]], **more: Any) -> Any:
    return SimpleNamespace(
        model=model, compute_loss=lambda model, inputs: seen.append(inputs), compute_loss_func=None, **more
    )


class Keeps(torch.nn.Module):
    def forward(self, input_ids: Any, logits_to_keep: int = 0) -> None: ...


class KeepsAll(torch.nn.Module):
    def forward(self, input_ids: Any) -> None: ...


def test_adapters_model_is_asked_what_it_can() -> None:
    """PEFT's own forward takes anything and hands it on."""
    outer = torch.nn.Module()
    outer.get_base_model = Keeps  # type: ignore[assignment]
    seen: list[dict[str, Any]] = []
    of = trainer(outer, seen)
    keep_tail(of)
    of.compute_loss(outer, {"labels": labels("...a")})
    assert seen[0]["logits_to_keep"] == 2


@pytest.mark.parametrize("model", [Keeps().eval(), KeepsAll()], ids=["in evaluation", "a model without the option"])
def test_batch_is_left_whole(model: torch.nn.Module) -> None:
    seen: list[dict[str, Any]] = []
    of = trainer(model, seen)
    keep_tail(of)
    of.compute_loss(model, {"labels": labels("...a")})
    assert seen[0].keys() == {"labels"}
    assert seen[0]["labels"].shape == (1, 4)


@pytest.mark.parametrize("why", ["a loss of another's", "labels that are shifted already"])
def test_losses_that_read_every_position_get_them(why: str) -> None:
    model, seen = Keeps(), []  # type: ignore[var-annotated]
    of = trainer(model, seen)
    keep_tail(of)
    inputs = {"labels": labels("...a")}
    if why == "a loss of another's":  # LLaMA-Factory sets it after the trainer is made
        of.compute_loss_func = len
    else:
        inputs["shift_labels"] = labels("..a.")
    of.compute_loss(model, inputs)
    assert seen[0]["labels"].shape == (1, 4)


@pytest.mark.parametrize("backend", ["llamafactory", "trl"])
@pytest.mark.slow
def test_stage_computes_logits_of_answers_alone(
    workshop: Workshop, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    from stcr_plugin.cli import main

    shapes: list[tuple[int, int]] = []
    forward = Qwen2_5_VLForConditionalGeneration.forward

    def watched(model: Any, *given: Any, **named: Any) -> Any:
        output = forward(model, *given, **named)
        if model.training:
            shapes.append((named["input_ids"].shape[1], output.logits.shape[1]))
        return output

    # The signature is what the plugin looks at.
    watched.__wrapped__ = forward  # type: ignore[attr-defined]
    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "forward", watched)
    overrides = workshop.overrides("weak", f"tail-{backend}", workshop.base, "max_steps=2", "stcr.evaluate=null")
    recipe = str(Path(__file__).parents[1] / "recipes" / "weak_only.yaml")
    assert main(["train", recipe, "--backend", backend, *overrides]) == 0
    assert len(shapes) == 2
    assert all(kept < tokens / 2 for tokens, kept in shapes), shapes
