"""How the package is built: layers, sizes, names, parameters and the words of the glossary."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import stcr_plugin

PACKAGE = Path(stcr_plugin.__file__).parent
ROOT = PACKAGE.parent

# Data flows down this list, and a room imports only from rooms above it (autoload names its hooks by text).
ROOMS = (
    ("stcr_plugin", "errors", "types", "autoload"),
    ("artefacts", "children", "logits", "progress_bar", "provenance"),
    ("config",),
    ("weight_files",),
    ("result_files",),
    ("figures",),
    ("calibration_results",),
    ("records", "results", "rankings"),
    ("episodes",),
    ("splits", "pairs"),
    ("groups",),
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
SIMULATORS = {"tabletop.py", "metaworld.py", "rollout.py"}


def room(module):
    """The room of a module's dotted name below the package."""
    name = module.removeprefix("stcr_plugin").strip(".").split(".")[0]
    return name if name in RANK else "stcr_plugin"


def dotted(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}


def imported(tree, everywhere=True):
    """(line, dotted name below the package) of imports of ours; `everywhere`: also inside functions."""
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "stcr_plugin":
                yield node.lineno, name.removeprefix("stcr_plugin").lstrip(".")


def test_a_room_imports_only_from_rooms_above_it():
    wrong, seen = [], 0
    for module, tree in TREES.items():
        for line, target in imported(tree) if module else ():  # the package names its public functions, see api.py
            seen += 1
            above, below = room(target), room(module)
            if above not in (below, "stcr_plugin") and RANK[above] >= RANK[below]:
                wrong.append(f"{module}:{line}: {below} imports {above}")
    assert seen > 50
    assert wrong == []


def test_every_module_has_its_place_in_the_list():
    assert {module.split(".")[0] for module in MODULES if module} <= set(RANK)


def test_no_modules_import_each_other_in_a_circle():
    def module_of(name):
        return name if name in MODULES else name.rpartition(".")[0]

    graph = {module: {module_of(name) for _, name in imported(tree)} - {module, ""} for module, tree in TREES.items()}
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" > ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for target in sorted(graph.get(module, ())):
                visit(target)
            path.pop()
            done.add(module)

    for module in graph:
        visit(module)
    assert len(done) > 100


def test_no_module_is_too_long_to_read():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: n for module, n in lines.items() if n > 450 and MODULES[module].name not in SIMULATORS} == {}
    assert sum(n for module, n in lines.items() if room(module) == "evaluation") <= 4000


def test_a_module_name_is_used_once():
    names = Counter(path.name for path in MODULES.values())
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "__main__.py"}


def functions():
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def test_no_function_takes_more_than_seven_parameters():
    found = []
    for module, node in functions():
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(given) - (bool(given) and given[0].arg in ("self", "cls"))
        if count > 7:
            found.append(f"{module}.{node.name}: {count}")
    assert found == []


def called(node):
    """The name of a function of ours that is called by its name or as `module.name`; "" for other calls."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    of = node.func.value if isinstance(node.func, ast.Attribute) else None
    modules = {path.stem for path in MODULES.values()}
    return node.func.attr if isinstance(of, ast.Name) and of.id in modules else ""


def test_no_function_of_ours_is_called_with_more_than_three_positional_arguments():
    ours = {node.name for _, node in functions() if not node.args.vararg}
    found = [
        f"{module}:{node.lineno}: {called(node)}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and len(node.args) > 3
        and called(node) in ours
        and not any(isinstance(argument, ast.Starred) for argument in node.args)
    ]
    assert found == []


def test_training_does_not_import_the_report():
    assert [f"{module}:{line}" for module, tree in TREES.items() if room(module) == "frameworks"
            for line, name in imported(tree) if room(name) == "report"] == []  # fmt: skip


OLD_WORDS = (
    r"mend(s|ed|ing)?", "anew", "set aside", "rival", "told apart", "whoever", "straight before", "made known",
    "by chance", "stands? in", r"put to", "is no [a-z]+", "wordings?", "asked otherwise", "of its own accord",
)  # fmt: skip
# The control `wording`, and the keys `mends` of controls.json and `mend` of `stcr check --out`, are in users' files.
ALLOWED = re.compile(r"[`\"]wording[`\"]|\"mends?\"|is no (longer|more|such|space)\b|there is no ", re.IGNORECASE)


def texts():
    folders = ("stcr_plugin", "recipes", "docs", "examples")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]
    return [*files, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"))]


@cache
def lines():
    """File, number and text of each line, without what is allowed."""
    return [
        (path, number, ALLOWED.sub("", line))
        for path in filter(Path.is_file, texts())
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]


@pytest.mark.parametrize("words", OLD_WORDS)
def test_plain_words_are_used(words):
    old = re.compile(rf"(?<![\w-]){words}(?![\w-])", re.IGNORECASE)
    assert [f"{path.relative_to(ROOT)}:{number}" for path, number, line in lines() if old.search(line)] == []
