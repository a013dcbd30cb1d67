"""What importing costs, and which way the rooms may import each other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stcr_plugin

PACKAGE = Path(stcr_plugin.__file__).parent

# Data flows down this list, and a room imports only from rooms above it (autoload names its hooks by text).
ROOMS = (
    ("stcr_plugin", "errors", "types", "autoload"),
    ("config", "artefacts", "logits", "progress_bar"),
    ("result_files",),
    ("figures",),
    ("records", "results"),
    ("episodes",),
    ("splits", "pairs"),
    ("samples",),
    ("registry",),
    ("embedded",),
    ("scoring",),
    ("engines",),
    ("annotation",),
    ("evaluation",),
    ("report",),
    ("frameworks",),
    ("preflight",),
    ("study", "release", "benchmark", "robotics"),
    ("api",),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}


def room(module):
    """The room of a module's dotted name below the package: the longest that it starts with."""
    parts = module.removeprefix("stcr_plugin").strip(".").split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next(name for name in [*names, "stcr_plugin"] if name in RANK)


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, ".".join(part for part in parts if part != "__init__")


def imported(path):
    """(line, dotted name below the package) of every import of ours, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "stcr_plugin":
                yield node.lineno, name.removeprefix("stcr_plugin").lstrip(".")


def test_a_room_imports_only_from_rooms_above_it():
    wrong, seen = [], 0
    for path, module in modules():
        for line, target in imported(path) if module else ():  # the package itself names its api, for types alone
            seen += 1
            above, below = room(target), room(module)
            if above != below and RANK[above] >= RANK[below] and above != "stcr_plugin":
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {below} imports {above}")
    assert seen > 50
    assert wrong == []


def test_every_module_has_its_place_in_the_list():
    known = {name.split(".")[0] for name in RANK}
    assert {module.split(".")[0] for _, module in modules() if module} <= known


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


@pytest.mark.parametrize(
    "module",
    ["config", "artefacts", "episodes", "pairs", "samples.cot", "registry.build", "registry.check",
     "evaluation.evaluate",     "engines.settings", "evaluation.judge", "release.export",
     "benchmark.task", "benchmark.benchmark_files", "benchmark.logs", "report.chain_report",
     "embedded.pretraining", "embedded.architecture", "embedded.base", "records"],
)  # fmt: skip
def test_heavy_libraries_wait_until_they_are_used(module):
    code = f"import sys, stcr_plugin.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(HEAVY) == set()
