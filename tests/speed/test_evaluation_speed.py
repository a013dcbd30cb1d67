"""How fast an evaluation goes, against asking one query at a time; and that it answers the same, in flat memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import REPOSITORY, Workshop

from stcr_plugin.engines.loading import load
from stcr_plugin.engines.local import respond
from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.engines.prompts import content, prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import ORDERS, Prompt, Query

# A trained model answers in full; the tiny one that is made where none is given writes until it is stopped.
MODEL = os.environ.get("STCR_BENCH_MODEL")
PAIRS, NEW_TOKENS = 100, 64
MANY, FEW = 10_000, 1_000
SMALL_EPISODES, SMALL_PAIRS, SMALL_TOKENS = 4, 4, 2
GROWTH_MIB = 150  # what nine thousand pairs more may take


@pytest.fixture(scope="module")
def workshop(full: bool, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    episodes = 520 if full else SMALL_EPISODES
    made = Workshop(tmp_path_factory.mktemp("speed"))
    made.write_yaml(
        made.data,
        {
            "name": "tiny",
            "source": {"kind": "tabletop", "seen": episodes, "heldout": 0},
            "splits": {"dev": {"episodes": episodes, "group": "seen"}},
            "pairs": {"per_episode": 20, "min_seconds": 0.4, "max_seconds": 5.0},
        },
    )
    from stcr_plugin.registry.build import build, load_data_config

    build(load_data_config(made.data), made.registry)
    made.make_base()
    return made


def one_by_one(model: Any, processor: Any, prompts: list[Prompt], registry: Path, new_tokens: int) -> list[str]:
    """What a reader of a model's card would write: one `generate` a query, its pictures processed each time."""
    texts = []
    for prompt in prompts:
        message = {"role": "user", "content": content(prompt)}
        text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        pictures = [open_picture(registry, shown.image, prompt.item) for shown in prompt.shown]
        inputs = processor(text=[text], images=pictures, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        texts.append(processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.bench
@pytest.mark.parametrize(("mode", "least"), [("direct", 10.0), ("cot", 4.0)])
def test_evaluation_against_one_by_one(
    report: Callable[..., None], full: bool, workshop: Workshop, mode: str, least: float
) -> None:
    """value: pairs a second of our engine; baseline: of a `generate` loop over the same prompts and model, in which
    the answer of direct mode is generated too. The share of pairs whose answers differ is printed.
    """
    count, new_tokens = (PAIRS, NEW_TOKENS) if full else (SMALL_PAIRS, SMALL_TOKENS)
    registry = workshop.registry
    model, processor = load(Path(MODEL) if MODEL else workshop.base)
    pairs = read_pairs(registry, "tiny", "dev")[:count]
    settings = AskSettings(mode="cot" if mode == "cot" else "direct", batch_size=64, max_new_tokens=new_tokens)
    prompts = prompts_for([Query(pair, order) for pair in pairs for order in ORDERS], settings)
    if full:  # the first answers take longer
        dict(respond(model, processor, prompts[:64], registry=registry, settings=settings, progress=False))
        one_by_one(model, processor, prompts[:2], registry, 4)
    started = time.perf_counter()
    said = dict(respond(model, processor, prompts, registry=registry, settings=settings, progress=False))
    batched = time.perf_counter() - started
    started = time.perf_counter()
    alone = one_by_one(model, processor, prompts, registry, new_tokens)
    single = time.perf_counter() - started
    differ = [number for number, text in enumerate(alone) if text.strip() != said[number].text.strip()]
    name = "eval_weak_vs_one_by_one" if mode == "direct" else "eval_cot_vs_one_by_one"
    report(name, count / batched, "pairs/s", count / single)
    print(f"answers that differ: {len(differ)} of {len(prompts)}")
    for number in differ[:3]:
        print(f"  {said[number].text!r} {dict(said[number].logprobs)} against {alone[number]!r}")
    assert len(said) == len(alone) == 2 * count
    if not full:
        return
    if MODEL:  # which ends its answers, and so says the same; on one core both computations are as slow
        assert not differ
        assert single / batched > (least if (os.cpu_count() or 1) > 1 else least / 2)
    else:
        assert single / batched > least / 2


@pytest.mark.bench
def test_evaluation_memory_is_flat(report: Callable[..., None], workshop: Workshop, tmp_path: Path) -> None:
    """value: most resident memory (MiB) of `stcr eval` on ten thousand pairs; baseline: on one thousand."""

    def most(limit: int) -> float:
        out = tmp_path / str(limit)
        code = (
            "import sys, resource; from stcr_plugin.cli import main; main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = ["--model", MODEL or workshop.base, "--dataset", "tiny", "--split", "dev", "--mode", "direct"]
        command = [sys.executable, "-c", code, "eval", *map(str, arguments), "--registry", str(workshop.registry)]
        command += ["--limit", str(limit), "--out", str(out), "--batch-size", "32"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert json.loads((out / "results.json").read_text(encoding="utf-8"))["n_pairs"] == limit
        return int(done.stdout.strip().splitlines()[-1]) / 1024

    many, few = most(MANY), most(FEW)
    report("eval_memory_mib", many, "MiB", few)
    assert many - few < GROWTH_MIB


@pytest.mark.bench
def test_evaluation_that_was_killed_ends_in_the_same_bytes(
    report: Callable[..., None], workshop: Workshop, tmp_path: Path
) -> None:
    """value: seconds of `stcr eval` on a thousand pairs when it is killed (SIGKILL) three times; baseline: unbroken."""
    arguments = ["--model", MODEL or workshop.base, "--dataset", "tiny", "--split", "dev", "--mode", "direct"]
    arguments += ["--registry", workshop.registry, "--limit", FEW, "--batch-size", 32, "--out"]
    command = [sys.executable, "-m", "stcr_plugin.cli", "eval", *map(str, arguments)]

    def files(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}

    def said(out: Path) -> int:
        path = out / "said.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    started = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], cwd=REPOSITORY, check=True, capture_output=True)
    whole, started = time.perf_counter() - started, time.perf_counter()
    out = tmp_path / "killed"
    for third in (1, 2, 3):
        with subprocess.Popen([*command, str(out)], cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
            while said(out) < third * FEW // 2 and process.poll() is None:
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "results.json").exists()
    subprocess.run([*command, str(out)], cwd=REPOSITORY, check=True, capture_output=True)
    report("eval_killed_seconds", time.perf_counter() - started, "s", whole)
    assert files(out) == files(tmp_path / "whole")
