"""A LoRA stage of a real training, exported: it says to the letter what the stage says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stage import Workshop

from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.release.export import export


@pytest.mark.slow
def test_exported_adapter_of_a_real_training_answers_as_its_stage_does(workshop: Workshop, tmp_path: Path) -> None:
    lora = ("finetuning_type=lora", "lora_rank=4", "lora_target=q_proj,v_proj", "learning_rate=0.05")
    run = workshop.train("weak", "exported_lora", *lora)
    assert (run / "adapter_model.safetensors").is_file()
    done = export(run, tmp_path / "out", registry=workshop.registry)
    assert done.how == "merged"
    said = []
    for folder in (run, done.out):
        out = tmp_path / f"of_{folder.name}"
        settings = AskSettings(batch_size=8)
        request = EvalRequest(
            model=folder, dataset="tiny", registry=workshop.registry, settings=settings, limit=8, resamples=50
        )
        found = evaluate(request, out)
        said.append([json.loads(line)["logprobs"] for line in (out / "said.jsonl").read_text().splitlines()])
        assert found.settings["image_max_pixels"] == 7056
        assert found.overlap.found.episodes.shared == 0
    assert said[0] == said[1]
