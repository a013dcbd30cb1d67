"""What the start-up hook costs a Python process that has nothing to do with LLaMA-Factory."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stage import REPOSITORY

RUNS, SMALL = 301, 3
LIMIT_MS = 1.0


@pytest.mark.bench
def test_import_hook_ms(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """value: the median of how much longer `python -c pass` takes with our start-up file than without.

    Two environments that are alike but for that file are started in turns, so that a machine that gets busier or
    quieter weighs on both alike. baseline: the median start without it.
    """
    with_hook, without = (_environment(tmp_path / name, hook) for name, hook in (("with", True), ("without", False)))
    differences, plain = [], []
    for k in range(RUNS if full else SMALL):
        order = (with_hook, without) if k % 2 else (without, with_hook)
        took = {python: _start_ms(python) for python in order}
        differences.append(took[with_hook] - took[without])
        plain.append(took[without])
    value = statistics.median(differences)
    report("import_hook_ms", value, "ms", statistics.median(plain))
    assert not full or value < LIMIT_MS


def _environment(folder: Path, hook: bool) -> Path:
    """The python of a fresh environment that finds this checkout as an editable install would."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "_editable_impl_stcr_plugin.pth").write_text(f"{REPOSITORY}\n", encoding="utf-8")
    if hook:
        shutil.copy(REPOSITORY / "autoload" / "stcr_plugin_autoload.pth", site)
    python = folder / "bin" / "python"
    finders = "import sys; print([getattr(f, '__name__', '') for f in sys.meta_path].count('StcrHook'))"
    shown = subprocess.run([python, "-c", finders], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(int(hook))
    return python


def _start_ms(python: Path) -> float:
    began = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True)
    return (time.perf_counter() - began) * 1000
