"""Recipes on models of their real size, with random weights, through the real commands on this machine's processor.

Each step leaves a file in runs/full_size/MODEL (STCR_FULL_SIZE names another folder), and is not done again: a stopped
run continues. runs/full_size/MODEL/rows.jsonl has what was foretold and measured. What memory or disk do not allow is
skipped by name.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from config_only_models import MODELS
from random_weights import write_weights
from served_models import free_port, serving
from tiny_stage import DATA, RECIPES, REPOSITORY, Workshop, history, quiet_environment

from stcr_plugin import artefacts
from stcr_plugin.preflight.memory import GIB, Batch, estimate
from stcr_plugin.preflight.plan import Asked, read_plan
from stcr_plugin.provenance import provenance
from stcr_plugin.records import is_finished
from stcr_plugin.registry.manifest import read_pairs

ROOT = Path(os.environ.get("STCR_FULL_SIZE", REPOSITORY / "runs" / "full_size"))
MEASURED = Path(__file__).with_name("measured.py")
OF_THE_PROCESS = 1.5  # GiB: Python, its libraries, and what they keep
KEPT = 128 * 2**20  # bytes
# Laid over a recipe. The rest of it is as users have it, bf16 included; pictures are 84x84, as the tiny build has them.
OVERRIDES = (
    "max_steps=2",
    "per_device_train_batch_size=1",
    "gradient_accumulation_steps=1",
    "save_steps=1",
    "logging_steps=1",
    "preprocessing_num_workers=1",
    "dataloader_num_workers=0",
    "use_cpu=true",
    "stcr.evaluate=null",
)
pytestmark = [pytest.mark.full_size, pytest.mark.timeout(8 * 3600)]


@dataclass(frozen=True)
class Case:
    """A model of config_only_models.py and a folder of recipes/models."""

    model: str
    recipes: str
    template: str

    @property
    def folder(self) -> Path:
        return ROOT / self.model


CASES = (Case("qwen2_5_vl_3b", "qwen2_5_vl_3b/lora_24gb", "stcr_qwen2_vl"),)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_both_stages_of_lora_resume_export_and_a_served_answer(case: Case) -> None:
    case.folder.mkdir(parents=True, exist_ok=True)
    model = case.folder / "model"
    once(case, "data", lambda: make_data(case.folder))
    once(case, "model", lambda: make_model(case, model))
    stages = [
        once(case, name, lambda name=name, dataset=dataset, start=start: stage(case, name, dataset, start))
        for name, dataset, start in (("stage1", "cot", None), ("stage2", "weak", case.folder / "stage1"))
    ]
    exported = once(case, "exported", lambda: export(case))
    served = once(case, "served", lambda: answer(case))
    artefacts.write_jsonl(case.folder / "rows.jsonl", [{"provenance": provenance()}, *stages, exported, served])
    for row in stages:
        measured, foretold = row["measured"], row["foretold"]
        assert measured["weights"] == foretold["weights"], row
        assert measured["trained"] == foretold["trained"], row
        assert measured["optimizer"] == foretold["optimizer"], row
        assert measured["steps"] == foretold["steps"] == 2, row
        assert measured["tokens"] <= foretold["longest"], row
        # Foretold of the very batch that was measured; a process keeps some memory that it has freed.
        assert foretold["rise"] == pytest.approx(measured["rise"], rel=0.25, abs=KEPT), row
        assert row["resumed_at"] == 1, row
    assert exported["how"] == "merged"
    assert served["prompt_tokens"] == served["foretold_prompt_tokens"]
    assert served["completion_tokens"] > 0


def once(case: Case, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step found, from its file where it was done before."""
    path = case.folder / f"{name}.json"
    if not path.is_file():
        began = time.perf_counter()
        found = {"model": case.model, "step": name, **do()}
        artefacts.write_json(path, found | {"seconds": time.perf_counter() - began})
    return dict(json.loads(path.read_text(encoding="utf-8")))


def need(case: Case, what: str, memory: float = 0, disk: float = 0) -> None:
    """Skip, by name, what needs more GiB of memory or of disk than are free here."""
    said = Path("/proc/meminfo").read_text(encoding="utf-8").split("MemAvailable:")[1].split()[0]
    free = {"memory": int(said) / 2**20, "disk": shutil.disk_usage(ROOT).free / GIB}
    for kind, wanted in (("memory", memory + OF_THE_PROCESS if memory else 0), ("disk", disk)):
        if wanted > free[kind]:
            pytest.skip(f"{what} of {case.model} needs {wanted:.1f} GiB of {kind}; {free[kind]:.1f} are free")


def run(case: Case, log: str, *command: str | Path, until: Callable[[], bool] | None = None) -> None:
    """A command of the environment, below `measured.py`; killed once `until` holds, where it is given."""
    with (case.folder / f"{log}.log").open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, str(MEASURED), str(case.folder / f"{log}.found"), *map(str, command)],
            cwd=case.folder, env=environment(case), stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                if until and until():
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(1)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0 or until, (case.folder / f"{log}.log").read_text(encoding="utf-8")[-3000:]


def environment(case: Case) -> dict[str, str]:
    return quiet_environment(case.folder) | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # What is freed is given back, so that memory in use is what is seen.
        "MALLOC_MMAP_THRESHOLD_": str(2**20),
        "MALLOC_TRIM_THRESHOLD_": str(2**20),
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(REPOSITORY)),
    }


# ---- the steps ----


def make_data(folder: Path) -> dict[str, Any]:
    workshop = Workshop(folder)
    workshop.write_yaml(workshop.data, DATA)
    shutil.rmtree(workshop.registry, ignore_errors=True)
    command = [sys.executable, "-m", "stcr_plugin.cli", "data", "build", str(workshop.data)]
    subprocess.run([*command, "--registry", str(workshop.registry)], check=True)
    return {}


def make_model(case: Case, folder: Path) -> dict[str, Any]:
    need(case, "writing weights", disk=10)
    shutil.rmtree(folder, ignore_errors=True)
    return {"parameters": write_weights(MODELS[case.model](folder))}


def stage(case: Case, name: str, dataset: str, start: Path | None) -> dict[str, Any]:
    """Foretell, train one step, kill, train on, and put both side by side. Bytes."""
    recipe = RECIPES / "models" / case.recipes / f"{name}.yaml"
    out, registry = case.folder / name, case.folder / "registry"
    overrides = [
        *OVERRIDES,
        f"model_name_or_path={case.folder / 'model'}",
        *([f"adapter_name_or_path={start}"] if start else []),
        f"dataset_dir={registry}",
        f"dataset=tiny_{dataset}",
        f"output_dir={out}",
    ]
    foretold = case.folder / f"{name}.foretold"
    checked = [sys.executable, "-m", "stcr_plugin.cli", "check", str(recipe), *overrides, "--out", str(foretold)]
    if not out.exists():
        done = subprocess.run(checked, env=environment(case), cwd=case.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = {one["check"]: one["figures"] for one in json.loads(foretold.read_text(encoding="utf-8"))["verdicts"]}
    need(case, name, memory=figures["memory"]["peak_gib"], disk=2)
    train = ("llamafactory-cli", "train", recipe, *overrides)
    first, second = (case.folder / f"{name}_{when}.found" for when in ("first", "second"))
    if not (out / "checkpoint-1").is_dir():
        run(case, first.stem, *train, until=lambda: first.is_file() and read(first)["begun"] == 2)
    if not is_finished(out):
        run(case, second.stem, *train)
    plan, _ = read_plan(str(recipe), overrides, Asked())
    assert plan is not None
    assert plan.model is not None
    before, after = read(first), read(second)
    (step,) = after["steps"]
    batch = Batch(step["tokens"], step["patches"], longest=step["tokens"], tail=step["tail"])
    memory = estimate(plan.resolved, plan.model, batch)
    return {
        "recipe": f"{case.recipes}/{name}",
        "overrides": list(OVERRIDES),
        "foretold": {
            "parameters": figures["model"]["parameters"],
            "trained": figures["model"]["trained"],
            "steps": figures["steps"]["steps"],
            "longest": figures["cutoff"]["smallest_safe"],
            "peak_of_the_longest": round(figures["memory"]["peak_gib"] * GIB),
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "rise": memory.peak - memory.weights - memory.optimizer,
            "peak": memory.peak,
            "parts": {key: int(value) for key, value in dataclasses.asdict(memory).items()},
        },
        "measured": {
            "trained": after["weights"]["trained"]["count"],
            "steps": len(before["steps"]) + len(after["steps"]),
            "weights": sum(one["bytes"] for one in after["weights"].values()),
            "gradients": step["gradients"],
            "optimizer": step["optimizer"],
            "rise": step["peak"] - step["before"]["anon"],
            "peak": step["peak"],
            "in_memory_before": step["before"],
            "tokens": step["tokens"],
            "patches": step["patches"],
            "tail": step["tail"],
            "supervised": step["supervised"],
            "seconds": [one["seconds"] for one in (*before["steps"], step)],
        },
        "resumed_at": step["step"] - 1,
        "losses": [value for _, value in history(out, "loss")],
    }


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def export(case: Case) -> dict[str, Any]:
    bytes_ = sum(path.stat().st_size for path in (case.folder / "model").glob("*.safetensors")) / GIB
    need(case, "the export", memory=bytes_, disk=1.1 * bytes_)
    out = case.folder / "export"
    run(case, "export", "stcr", "export", case.folder / "stage2", "--out", out, "--registry", case.folder / "registry")
    chain = read(out / "stcr_chain.json")["export"]
    return {"how": chain["how"], "dtype": chain["dtype"], "bytes": sum(one.stat().st_size for one in out.iterdir())}


def answer(case: Case) -> dict[str, Any]:
    """A question of the weak samples, with its two pictures, to `llamafactory-cli api`."""
    from stcr_plugin.engines.loading import load_processor
    from stcr_plugin.engines.prompts import conversation, prompts_for
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.types import Query

    out, port, log = case.folder / "export", free_port(), case.folder / "served.log"
    weights = sum(path.stat().st_size for path in out.glob("*.safetensors")) / GIB
    need(case, "serving", memory=weights)
    command = [sys.executable, str(MEASURED), str(case.folder / "served.found"), "llamafactory-cli", "api"]
    command += ["--model_name_or_path", str(out), "--template", case.template, "--infer_dtype", "bfloat16"]
    own = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "API_MODEL_NAME": "stcr"}
    registry = case.folder / "registry"
    pair = read_pairs(registry, "tiny", "heldout")[0]
    (prompt,) = prompts_for([Query(pair, "forward")], AskSettings(mode="direct"))
    content: list[dict[str, Any]] = []
    for label, name in zip(prompt.labels, (pair.earlier_image, pair.later_image), strict=True):
        url = "data:image/png;base64," + base64.b64encode((registry / name).read_bytes()).decode()
        content += [{"type": "text", "text": f"{label}: "}, {"type": "image_url", "image_url": {"url": url}}]
        content += [{"type": "text", "text": "\n"}]
    content += [{"type": "text", "text": prompt.question}]
    asked = {"model": "stcr", "messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0}
    processor = load_processor(out)
    said = conversation(processor, prompt)
    from PIL import Image

    pictures = [Image.open(registry / name) for name in (pair.earlier_image, pair.later_image)]
    expected = len(processor(text=[said], images=pictures)["input_ids"][0])
    with serving(command, port, log, environment(case) | own) as url:
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(asked).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=3600) as reply:
            row = json.loads(reply.read())
    return {
        "server": "llamafactory-cli api",
        "prompt_tokens": row["usage"]["prompt_tokens"],
        "foretold_prompt_tokens": expected,
        "completion_tokens": row["usage"]["completion_tokens"],
        "text": row["choices"][0]["message"]["content"],
    }
