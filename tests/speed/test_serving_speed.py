"""How fast a served model answers, against the local engine: the same model, pairs and machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served_models import SPLIT, build_of, environment, exported, trained_chain, vllm

from stcr_plugin.engines.open import engine_for
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import ORDERS, Pair, Query

CONNECTIONS = (1, 4, 16)
PAIRS, FIRST = 100, 20


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_serving_against_the_local_engine(report: Callable[..., None], tmp_path: Path) -> None:
    """value: pairs a second in mode direct through vLLM, its tokens compared, by 16, 4 and 1 connections; baseline: of
    the local engine on the same pairs. Each number of connections has pairs of its own, which no server has seen.

    Needs `make interop`, for the environment of vLLM and a chain that it can serve.
    """
    python, chain = environment("vllm"), trained_chain()
    registry = chain / "data_registry"
    done = exported(chain / "stage2", tmp_path / "stage2", registry)
    pairs = read_pairs(registry, build_of(chain), SPLIT)
    local, ask = engine_for("local", done.path, registry, ask=AskSettings(batch_size=64))

    def rate(engine: Engine, part: list[Pair]) -> float:
        prompts = prompts_for([Query(pair, order) for pair in part for order in ORDERS], ask)
        started = time.perf_counter()
        assert len(list(engine.respond(prompts))) == 2 * len(part)
        return len(part) / (time.perf_counter() - started)

    with vllm(python, done.line, tmp_path / "log.txt") as url:
        options = {"url": url, "model": done.name, "logprobs": True}
        served = {
            count: engine_for("server", done.path, registry, options={**options, "concurrency": count})[0]
            for count in CONNECTIONS
        }
        for engine in (local, served[1]):  # the first answers take longer
            rate(engine, pairs[-FIRST:])
        for place, count in enumerate(CONNECTIONS):
            part = pairs[place * PAIRS : (place + 1) * PAIRS]
            name = "serve_vs_local" if count == max(CONNECTIONS) else f"serve_vs_local_{count}"
            report(name, rate(served[count], part), "pairs/s", rate(local, part))
