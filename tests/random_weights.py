"""Random weights for a model that has everything else: true sizes and names, in shards as they are published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SHARD = 4 * 2**30  # bytes
SPREAD = 0.02  # of a matrix's values, as such models are initialised
POOL = 2**24  # values are drawn once and used again from another place on: drawing four billion takes minutes


def write_weights(folder: Path) -> int:
    """Write model-*.safetensors and their index beside config.json, in the dtype of the config. Returns parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=config.dtype)
    model.tie_weights()
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    shapes = {name: value.shape for name, value in model.state_dict().items() if name not in tied}
    generator = torch.Generator().manual_seed(0)
    pool = (SPREAD * torch.randn(POOL, generator=generator)).to(config.dtype)
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for number, (name, shape) in enumerate(shapes.items()):
        value = _drawn(pool, shape, number) if len(shape) > 1 else torch.full(shape, 1.0 * (name.endswith("weight")))
        size += value.nbytes
        if size > SHARD:
            _write(folder, shards, save_file)
            size = value.nbytes
        shards[-1][name] = value.to(config.dtype).contiguous()
    _write(folder, shards, save_file)
    names = [f"model-{number:05d}.safetensors" for number in range(1, len(shards))]
    index = {name: file for file, shard in zip(names, shards, strict=False) for name in shard}
    total = sum(math.prod(shape) for shape in shapes.values())
    metadata = {"metadata": {"total_size": total * pool.element_size()}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    return total


def _write(folder: Path, shards: list[dict[str, Any]], save: Any) -> None:
    """Write the last shard, keep its names alone, and begin another one."""
    save(shards[-1], folder / f"model-{len(shards):05d}.safetensors", metadata={"format": "pt"})
    shards[-1] = dict.fromkeys(shards[-1])
    shards.append({})


def _drawn(pool: Any, shape: Any, number: int) -> Any:
    """Values of the pool from a place of its own on, as often as they are needed."""
    import torch

    count, start = math.prod(shape), (number * 7919) % POOL
    turned = torch.cat([pool[start:], pool[:start]])
    return turned.repeat(-(-count // POOL))[:count].view(shape)
