"""Both stages on a model of random weights, measured: samples a second, peak memory, model FLOPs utilisation.

Purpose        what `stcr check` foretells of memory, held against what a GPU needs
Command        python tests/gpu/chain.py                                one CUDA GPU with 32 GiB or more, bf16
               python tests/gpu/chain.py --size tiny --device cpu       the same script without a GPU; no memory figure
Writes         OUT/results.json and OUT/results.md; data, model and stages below OUT, made anew each time

Stage 1 recomputes activations in the backward pass (gradient checkpointing), stage 2 keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
WARM_UP = 3  # steps that are not timed
# Size -> side of the pictures in pixels, samples a step.
LOADS = {"tiny": (84, 8), "400m": (448, 8)}
# Device name -> 10^12 bf16 operations a second with dense matrices, as NVIDIA's data sheets give them.
PEAKS = {"H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2}
STAGES = (("stage1", "stage1_cot", "cot", True), ("stage2", "stage2_weak", "weak", False))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(LOADS), default="400m")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--attention", choices=("sdpa", "fa2"), default="sdpa")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tflops", type=float, help="peak of the device in bf16, where PEAKS does not know it")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "gpu")
    asked = parser.parse_args(argv)
    if asked.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}, the steps that are not timed")
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; `--size tiny --device cpu` runs the same script without one")

    from stcr_plugin import artefacts
    from stcr_plugin.provenance import provenance

    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    peak = asked.tflops or next((value for known, value in PEAKS.items() if known in name), None)
    out = asked.out.resolve()
    for stale in ("registry", "base", *(stage for stage, *_ in STAGES)):
        shutil.rmtree(out / stale, ignore_errors=True)
    prepare(out, asked.size)
    results = {
        "device": name,
        "size": asked.size,
        "attention": asked.attention,
        "bf16": asked.device == "cuda",
        "peak_tflops": peak,
        "stages": [stage(out, asked, peak, *what) for what in STAGES],
        "provenance": provenance(),
    }
    artefacts.write_json(out / "results.json", results)
    artefacts.write_text(out / "results.md", table(results))
    print(table(results))
    return results


def prepare(out: Path, size: str) -> None:
    """Data of sixteen simulated episodes, and the model."""
    from stcr_plugin.config import from_mapping
    from stcr_plugin.embedded.architecture import SIZES, write_checkpoint
    from stcr_plugin.registry.build import DataConfig, build

    data = {
        "name": "gpu",
        "source": {"kind": "tabletop", "seen": 16, "heldout": 0, "size": LOADS[size][0]},
        "splits": {"train": {"episodes": 14, "group": "seen"}, "dev": {"episodes": 2, "group": "seen"}},
        "pairs": {"per_episode": 12, "min_seconds": 0.6, "max_seconds": 4.0},
        "datasets": {"cot": {"split": "train", "kind": "cot"}, "weak": {"split": "train", "kind": "weak"}},
    }
    build(from_mapping(DataConfig, data, "tests/gpu/chain.py"), out / "registry")
    write_checkpoint(out / "base", SIZES[size])


def stage(
    out: Path, asked: argparse.Namespace, peak: float | None, name: str, recipe: str, dataset: str, recompute: bool
) -> dict[str, Any]:
    """Foretell one stage, train it in a process of its own, and put both side by side. Memory in bytes."""
    from stcr_plugin.frameworks.recipe import read_recipe
    from stcr_plugin.preflight.duration import operations
    from stcr_plugin.preflight.memory import estimate
    from stcr_plugin.preflight.plan import Asked, read_plan

    side, batch = LOADS[asked.size]
    path = str(REPOSITORY / "recipes" / f"{recipe}.yaml")
    overrides = [
        "stcr.prepare.data=null",
        "stcr.prepare.base=null",
        "stcr.augment=null",
        f"model_name_or_path={out / ('base' if name == 'stage1' else 'stage1')}",
        f"dataset_dir={out / 'registry'}",
        f"dataset=gpu_{dataset}",
        f"output_dir={out / name}",
        f"image_max_pixels={side * side}",
        "cutoff_len=1024",
        f"max_steps={asked.steps}",
        "logging_steps=1",
        f"per_device_train_batch_size={batch}",
        "learning_rate=1.0e-4",
        f"bf16={str(asked.device == 'cuda').lower()}",
        f"flash_attn={asked.attention}",
        f"disable_gradient_checkpointing={str(not recompute).lower()}",
        # Asked when training has ended, so that no evaluation counts as the training's memory or time.
        "stcr.evaluate={split: dev, pairs: 8, before: false, max_new_tokens: 16}",
    ]
    plan, verdicts = read_plan(path, overrides, Asked())
    assert plan is not None, [str(verdict) for verdict in verdicts]
    assert plan.model is not None, [str(verdict) for verdict in verdicts]
    assert plan.data is not None, [str(verdict) for verdict in verdicts]
    assert plan.largest_batch is not None, [str(verdict) for verdict in verdicts]
    found = trained(out, name, read_recipe(path, overrides))
    seconds = statistics.median(found["seconds"][WARM_UP:])
    flops = operations(plan.model, plan.data) * batch
    foretold = estimate(plan.resolved, plan.model, plan.largest_batch).peak
    measured = found["peak_allocated"]
    return {
        "stage": name,
        "recomputes": recompute,
        "parameters": plan.model.parameters,
        "batch": batch,
        "tokens_per_step": statistics.mean(found["tokens"]),
        "patches_per_step": statistics.mean(found["patches"]),
        "seconds_per_step": seconds,
        "samples_per_second": batch / seconds,
        "flops_per_step": flops,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "memory_foretold": foretold,
        "memory_measured": measured,
        "memory_reserved": found["peak_reserved"],
        "memory_ratio": foretold / measured if measured else None,
        "loss_first": found["losses"][0],
        "loss_last": found["losses"][-1],
    }


def trained(out: Path, name: str, args: dict[str, Any]) -> dict[str, Any]:
    """What `measure` writes of a training in a process of its own."""
    arguments, found = out / f"{name}.arguments.json", out / f"{name}.measured.json"
    arguments.write_text(json.dumps(args), encoding="utf-8")
    found.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--measure", str(arguments), str(found)]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    return dict(json.loads(found.read_text(encoding="utf-8")))


def measure(arguments: Path, found: Path) -> None:
    """Train as `llamafactory-cli train` does, the plugin loaded by its start-up hook, with a meter beside it."""
    from llamafactory.train.tuner import run_exp

    args = json.loads(arguments.read_text(encoding="utf-8"))
    seen = meter()
    run_exp(args, [seen])
    log = json.loads((Path(args["output_dir"]) / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    values = seen.found | {"losses": [row["loss"] for row in log if "loss" in row]}
    found.write_text(json.dumps(values), encoding="utf-8")


def meter() -> Any:
    import torch
    from transformers import TrainerCallback

    cuda = torch.cuda.is_available()

    class Meter(TrainerCallback):
        """Wall seconds of each step, tokens and patches of each batch, and the greatest memory of the training."""

        def __init__(self) -> None:
            self.found: dict[str, Any] = {"seconds": [], "tokens": [], "patches": []}

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.register_forward_pre_hook(self._count, with_kwargs=True)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            self.since = time.perf_counter()

        def _count(self, model: Any, _: Any, inputs: dict[str, Any]) -> None:
            if model.training:
                self.found["tokens"].append(inputs["input_ids"].numel())
                self.found["patches"].append(len(inputs["pixel_values"]))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.found["seconds"].append(now - self.since)
            self.since = now

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.found["peak_allocated"] = torch.cuda.max_memory_allocated() if cuda else None
            self.found["peak_reserved"] = torch.cuda.max_memory_reserved() if cuda else None

    return Meter()


def table(results: dict[str, Any]) -> str:
    precision = "bf16" if results["bf16"] else "float32"
    lines = [
        f"{results['size']} on {results['device']}, {precision}, {results['attention']}",
        "",
        "| stage | parameters (M) | recomputes | tokens a step | s a step | samples/s | MFU % | GiB foretold | GiB "
        "measured | foretold / measured |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["stages"]:
        mfu = "n/a" if row["mfu"] is None else f"{100 * row['mfu']:.1f}"
        gib = [f"{row[key] / 2**30:.2f}" if row[key] else "n/a" for key in ("memory_foretold", "memory_measured")]
        ratio = f"{row['memory_ratio']:.2f}" if row["memory_ratio"] else "n/a"
        cells = (
            row["stage"],
            f"{row['parameters'] / 1e6:.1f}",
            "yes" if row["recomputes"] else "no",
            f"{row['tokens_per_step']:.0f}",
            f"{row['seconds_per_step']:.3f}",
            f"{row['samples_per_second']:.1f}",
            mfu,
            *gib,
            ratio,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
