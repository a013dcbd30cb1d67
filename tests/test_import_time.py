"""What importing costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import stcr_plugin

PACKAGE = Path(stcr_plugin.__file__).parent


@pytest.mark.parametrize("module", ["stcr_plugin", "stcr_plugin.autoload", "stcr_plugin.cli", "stcr_plugin.types"])
def test_light_modules_need_the_standard_library_alone(module):
    """`-S` leaves out site-packages, so any import of another library fails."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {module}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_takes_no_time():
    """The best of three, since other work on the machine can only add to it."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import stcr_plugin"
    taken = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-S", "-X", "importtime", "-c", code], capture_output=True, text=True)
        (microseconds,) = re.findall(r"\|\s*(\d+) \| stcr_plugin$", done.stderr, re.M)
        taken.append(int(microseconds) / 1e6)
    assert min(taken) < 0.3


HEAVY = ("torch", "transformers", "llamafactory", "trl", "datasets", "av", "pyarrow", "matplotlib", "mujoco", "PIL")


LIGHT = (
    *("config", "artefacts", "episodes", "pairs", "samples.cot", "registry.build", "registry.check"),
    *("evaluation.evaluate", "engines.settings", "evaluation.judge", "release.export"),
    *("benchmark.task", "benchmark.benchmark_files", "benchmark.logs", "report.chain_report"),
    *("embedded.pretraining", "embedded.architecture", "embedded.base", "records"),
)


def test_heavy_libraries_wait_until_they_are_used():
    """What all of them leave out together, each leaves out alone; the first that does not is named."""
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(f'stcr_plugin.{name}')\n"
        f"    if found := set({HEAVY}) & set(sys.modules): sys.exit(f'{{name}} imports {{found}}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
