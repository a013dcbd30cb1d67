"""Run a command of the environment in this process, and write what memory its training took.

    python tests/full_size/measured.py FOUND.json llamafactory-cli train RECIPE ...

Matrix products of bf16 are computed in float32 and rounded to bf16, as a GPU does: a processor without AVX-512 has no
fast ones of bf16. Memory is that of the process itself without files (RssAnon), sampled.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

SAMPLED_EVERY_S = 0.02
CHUNK = 2**22  # elements of a matrix that are in float32 at once


def main() -> None:
    found, program, *arguments = sys.argv[1:]
    fast_products()
    measure(Path(found))
    sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


# ---- products of bf16 ----


def fast_products() -> None:
    """Replace torch's products of two bf16 matrices on the CPU, forward and backward."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    out = torch.ops.aten.mm.out

    def product(one: Any, other: Any) -> Any:
        made = one.new_empty(one.shape[0], other.shape[1])
        if one.dtype != torch.bfloat16 or one.shape[0] == 1:
            return out(one, other, out=made)
        inner, columns = other.shape
        if other.stride(1) == 1:  # row by row in memory
            total, rows = one.new_zeros(made.shape, dtype=torch.float32), max(1, CHUNK // columns)
            for first in range(0, inner, rows):
                some, part = one[:, first : first + rows].float(), other[first : first + rows].float()
                total += out(some, part, out=some.new_empty(made.shape))
            return made.copy_(total)
        one, width = one.float(), max(1, CHUNK // inner)
        for first in range(0, columns, width):
            part = other[:, first : first + width].float()
            made[:, first : first + width] = out(one, part, out=one.new_empty(one.shape[0], part.shape[1]))
        return made

    def sum_of_product(added: Any, one: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        if one.dtype != torch.bfloat16 or (beta, alpha) != (1, 1):
            made = one.new_empty(one.shape[0], other.shape[1])
            return torch.ops.aten.addmm.out(added, one, other, beta=beta, alpha=alpha, out=made)
        return product(one, other) + added

    library.impl("mm", product, "CPU")
    library.impl("addmm", sum_of_product, "CPU")
    fast_products.library = library  # type: ignore[attr-defined]  # lives as long as the process


# ---- memory ----


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own (`anon`), and those of files that it has mapped (`file`)."""
    said = Path("/proc/self/status").read_text(encoding="utf-8")
    return {
        key: 1024 * int(re.search(rf"^{name}:\s+(\d+)", said, re.MULTILINE)[1])  # type: ignore[index]
        for key, name in (("anon", "RssAnon"), ("file", "RssFile"))
    }


class Sampler(threading.Thread):
    """The most bytes since the last `begin`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, resident()["anon"])
            time.sleep(SAMPLED_EVERY_S)

    def begin(self) -> None:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        self.most = resident()["anon"]


def measure(found: Path) -> None:
    """Give every trainer of this process a meter, which writes `found` at each step."""
    import transformers

    sampler, began = Sampler(), time.perf_counter()
    start = transformers.Trainer.__init__

    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.add_callback(meter(found, sampler, began))

    transformers.Trainer.__init__ = started


def meter(found: Path, sampler: Sampler, began: float) -> Any:
    from transformers import TrainerCallback

    class Meter(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.row: dict[str, Any] = {"steps": []}

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.register_forward_pre_hook(self.count, with_kwargs=True)
            sizes: dict[str, dict[str, int]] = {}
            for value in model.parameters():
                one = sizes.setdefault("trained" if value.requires_grad else "frozen", {"count": 0, "bytes": 0})
                one["count"] += value.numel()
                one["bytes"] += value.nbytes
            self.row |= {"weights": sizes, "seconds_to_train": time.perf_counter() - began}
            self.write()

        def count(self, model: Any, _: Any, inputs: dict[str, Any]) -> None:
            if model.training:
                labels = inputs["labels"]  # of the tail that logits are computed of
                self.now |= {
                    "tokens": inputs["input_ids"].numel(),
                    "patches": len(inputs["pixel_values"]),
                    "supervised": int((labels != -100).sum()),
                    "tail": labels.numel(),
                }

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sampler.begin()
            self.now: dict[str, Any] = {"step": state.global_step + 1, "before": resident()}
            self.row["begun"] = self.now["step"]
            self.since = time.perf_counter()
            self.write()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.now["peak"] = sampler.most  # of forward and backward pass
            self.now["gradients"] = sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)

        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            self.now["seconds"] = time.perf_counter() - self.since
            held = getattr(optimizer, "state", {})
            self.now["optimizer"] = sum(
                value.nbytes for state in held.values() for value in state.values() if getattr(value, "ndim", 0)
            )
            self.row["steps"].append(self.now)
            self.write()

        def write(self) -> None:
            part = found.with_suffix(".part")
            part.write_text(json.dumps(self.row), encoding="utf-8")
            os.replace(part, found)

    return Meter()


if __name__ == "__main__":
    main()
