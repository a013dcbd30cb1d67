"""Probabilities through a real vLLM: what needs them works behind it, by one request per query that writes nothing."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served_models import COMPARED, SPLIT, build_of

from stcr_plugin.calibration_results import Temperature
from stcr_plugin.cli import main
from stcr_plugin.engines.open import engine_for
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.results import Evaluation
from stcr_plugin.types import ORDERS, Pair, Prompt, Query

PAIRS = 40
pytestmark = [pytest.mark.interop, pytest.mark.timeout(3600)]


def counter(url: str, name: str) -> float:
    """The sum of a counter of vLLM's metrics over its labels."""
    with urllib.request.urlopen(url.replace("/v1", "/metrics"), timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith((f"vllm:{name}{{", f"vllm:{name} "))]
    assert found, f"no counter {name}"
    return sum(found)


def noted(chain: Path, **found: Any) -> None:
    """Kept in runs/interop/probabilities.json."""
    path = chain / "probabilities.json"
    rows = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(rows | found, indent=2) + "\n")
    print(f"\n{found}")


@pytest.fixture
def both(exported: Any, by_vllm: str, chain: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run a command locally and behind vLLM. Returns both folders of results."""
    done, out, counted = exported("stage2"), tmp_path / "both", iter(range(100))

    def run(*command: str) -> tuple[Path, Path]:
        folders = out / f"{next(counted)}_local", out / f"{next(counted)}_served"
        for folder, own in zip(folders, ([], done.at(by_vllm, *COMPARED)), strict=True):
            words = [*command, "--model", str(done.path), "--registry", str(chain / "data_registry")]
            assert main([*words, "--out", str(folder), *own]) == 0
        return folders

    return run


def test_a_query_is_one_request_of_one_token(exported, by_vllm, chain, tmp_path):
    done = exported("stage2")
    names = ("request_success_total", "generation_tokens_total")
    before = [counter(by_vllm, name) for name in names]
    command = ["eval", "--model", str(done.path), "--dataset", build_of(chain), "--split", SPLIT, "--limit", str(PAIRS)]
    command += ["--registry", str(chain / "data_registry"), "--out", str(tmp_path), *done.at(by_vllm, *COMPARED)]
    assert main(command) == 0
    requests, tokens = (counter(by_vllm, name) - old for name, old in zip(names, before, strict=True))
    noted(chain, queries=2 * PAIRS, requests=requests, generated_tokens=tokens)
    assert requests == tokens == 2 * PAIRS


def test_temperature_fitted_behind_vllm_is_the_local_one(both, chain, tmp_path):
    """Or both are refused, as that of a chain of a few steps is, which is no better than a coin."""
    folders = both("eval", "--dataset", build_of(chain), "--split", SPLIT, "--limit", str(PAIRS))
    codes = [main(["calibrate", str(folder), "--out", str(tmp_path / folder.name)]) for folder in folders]
    fitted = [Temperature.read(tmp_path / one.name / Temperature.file).temperature for one in folders if not any(codes)]
    noted(chain, temperatures=fitted or "refused, locally and behind vLLM")
    assert codes[1] == codes[0]
    assert fitted[1:] == pytest.approx(fitted[:1], rel=1e-2)


@pytest.mark.parametrize("name", ["swap_ensemble", "m3id"])
def test_comparators_give_the_same_figures_behind_vllm(both, chain, name):
    folders = both("comparator", name, "--dataset", build_of(chain), "--split", SPLIT, "--limit", "8")
    found = [Evaluation.read(folder / Evaluation.file).figures.pair_accuracy for folder in folders]
    noted(chain, **{name: found})
    assert found[0] == found[1]


def test_ranking_of_an_episode_is_the_same_behind_vllm(both, chain):
    episode = read_pairs(chain / "data_registry", build_of(chain), SPLIT)[0].episode_id
    folders = both("rank", "--dataset", build_of(chain), "--split", SPLIT, "--episode", episode, "--frames", "5")
    local, served = (json.loads((folder / "ranking.json").read_text()) for folder in folders)
    assert served["order"] == local["order"]
    scores = [[frame["score"] for frame in one["frames"]] for one in (local, served)]
    noted(chain, scores=scores)
    assert scores[1] == pytest.approx(scores[0], abs=1e-2)


def test_judge_has_the_same_probability_behind_vllm(exported, by_vllm, chain, tmp_path, capsys):
    """Of pictures that are larger than in training, so that both have to size them."""
    done, root = exported("stage2"), chain / "data_registry"
    pair = read_pairs(root, build_of(chain), SPLIT)[0]
    shown = [tmp_path / "a.png", tmp_path / "b.png"]
    for image, path in zip((pair.earlier_image, pair.later_image), shown, strict=True):
        with Image.open(root / image) as picture:
            picture.resize((320, 240)).save(path)
    command, found = ["judge", str(done.path), *map(str, shown), "--task", pair.task, "--json"], []
    for own in ([], done.at(by_vllm, *COMPARED)):
        assert main([*command, *own]) == 0
        found.append(json.loads(capsys.readouterr().out)["probabilities"])
    noted(chain, judged=found)
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_order_of_requests_lets_vllm_use_its_prefixes_again(exported, vllm, chain, tmp_path):
    """Eight pictures of 256 tokens, every two in both orders, and a cache that holds little more than two prompts."""
    done, root = exported("stage2"), chain / "data_registry"
    line = done.line.replace(f'"max_pixels": {done.pixels}', '"max_pixels": 200704') + " --num-gpu-blocks-override 12"
    line += " --max-model-len 1024"  # vLLM refuses to start where the cache does not hold one prompt of the longest
    assert line.count("200704") == 1
    pairs = read_pairs(root, build_of(chain), SPLIT)[:4]
    for number, image in enumerate(image for pair in pairs for image in (pair.earlier_image, pair.later_image)):
        with Image.open(root / image) as picture:
            picture.resize((448, 448)).save(tmp_path / f"{number}.png")
    queries = [
        Query(
            Pair(f"{one}-{other}", "e", split="", task=pairs[0].task, earlier=0, later=1, seconds=0.0,
                 earlier_image=f"{one}.png", later_image=f"{other}.png"),
            order,
        )
        for one in range(8) for other in range(one + 1, 8) for order in ORDERS
    ]  # fmt: skip

    def hits(url: str, engine: Engine, batches: list[list[Prompt]]) -> float:
        names = ("prefix_cache_hits_total", "prefix_cache_queries_total")
        before = [counter(url, name) for name in names]
        for batch in batches:
            assert len(list(engine.respond(batch))) == len(batch)
        hit, all_ = (counter(url, name) - old for name, old in zip(names, before, strict=True))
        return 100 * hit / all_

    url = vllm(line)
    options = {"url": url, "model": done.name, "logprobs": True, "concurrency": 1}
    larger = AskSettings(image_max_pixels=200704, other_image_size=True)
    engine, ask = engine_for("server", done.path, tmp_path, ask=larger, options=options)
    prompts = prompts_for(queries, ask)
    as_given = hits(url, engine, [[prompt] for prompt in prompts])
    in_order = hits(url, engine, [prompts])
    noted(chain, prefix_tokens_used_again_percent={"as given": as_given, "in the order of the engine": in_order})
    assert in_order > 25 > as_given
