"""README and the documentation: their links, the walk, the size, and that the site builds without a warning."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_stage import REPOSITORY

from stcr_plugin.errors import StcrError

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PAGES.append(REPOSITORY / "examples/README.md")


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_readme_is_short_and_has_one_table_of_results() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.count("<!-- table: ") == 1
    assert "No advantage of CoT first is shown" in text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_step_of_the_walk_is_in_the_code_once() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) >= 12
    seen: set[tuple[str, str]] = set()
    for _, files, functions in rows:
        paths = re.findall(r"`([^`]+)`", files)
        names = re.findall(r"`([^`]+)`", functions)
        for path, wanted in zip(paths if len(paths) > 1 else paths * len(names), names, strict=True):
            assert (path, wanted) not in seen
            seen.add((path, wanted))
            tree = ast.parse((REPOSITORY / "stcr_plugin" / path).read_text(encoding="utf-8"))
            assert wanted in defined(tree), f"{path}: {wanted}"


def defined(tree: ast.Module) -> set[str]:
    """Functions of a module, and methods as Class.method."""
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]+src=\"?https?://[^\s>\"]+", text) == []
        assert re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+href=\"?https?://[^\s>\"]+", text) == []
    assert "judge_all" in (tmp_path / "site/api.html").read_text(encoding="utf-8")


# ---- commands ----


def commands() -> list[tuple[str, str]]:
    """(where, command) of each `stcr` command in the code blocks of the pages and in the headers of the recipes."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            found += [(name(page), line) for line in block.replace("\\\n", " ").splitlines()]
    for recipe in sorted((REPOSITORY / "recipes").rglob("*.yaml")):
        comments = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        text = "\n".join(re.sub(r"^#\s*([A-Z]\w+ )?\s*", "", line) for line in comments)
        found += [(name(recipe), line) for line in text.replace("\\\n", " ").splitlines()]
    lines = [(where, re.split(r"\s#|\s\(", line)[0].strip()) for where, line in found]
    lines = [(where, part) for where, line in lines for part in line.split(" && ")]
    return [(where, line) for where, line in lines if re.match(r"([A-Z_]+=\S+ )*stcr [a-z]", line)]


def test_every_command_of_the_pages_and_recipes_is_one_that_the_command_line_takes() -> None:
    from stcr_plugin.cli import _parser

    parser, wrong = _parser(), []
    for where, line in commands():
        words = shlex.split(line)
        words = words[words.index("stcr") + 1 :]
        try:
            rest = [word for word in parser.parse_known_args(words)[1] if not re.match(r"[\w.]+=", word)]
        except (SystemExit, StcrError) as error:
            rest = [str(error)]
        if rest:
            wrong.append(f"{where}: {line}: {rest}")
    assert len(commands()) > 60
    assert wrong == []


def test_every_file_that_a_page_or_recipe_names_is_there() -> None:
    wrong, made = [], re.compile(r"/NAME|MODEL|KIND|\*")
    for path in [*PAGES, *sorted((REPOSITORY / "recipes").rglob("*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        for named in re.findall(r"(?<![\w/])(?:recipes|docs|examples|tests|stcr_plugin)/[\w/.*-]*\w", text):
            if not made.search(named) and not (REPOSITORY / named).exists():
                wrong.append(f"{name(path)}: {named}")
    assert wrong == []


def test_every_test_that_the_page_on_reliability_names_is_there() -> None:
    named = 0
    for line in (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines():
        file = ""
        for place, test in re.findall(r"`(tests/[\w/.]+)?(?:::(\w+))?[^`]*`", line):
            file = place or file
            if file:
                assert (REPOSITORY / file).exists(), line
            if test:
                assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), f"{file}::{test}"
                named += 1
    assert named > 50
