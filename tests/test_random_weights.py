"""Random weights are a whole model to transformers, in several shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import random_weights


def test_every_weight_is_there_under_its_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    folder = tmp_path / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(random_weights, "SHARD", 2**20)
    monkeypatch.setattr(random_weights, "POOL", 2**12)  # less than the embedding takes
    parameters = random_weights.write_weights(folder)
    live, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(value.numel() for value in live.parameters()) == parameters
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(set(index["weight_map"].values())) > 1
    assert live.get_input_embeddings().weight.std().item() == pytest.approx(random_weights.SPREAD, rel=0.1)
