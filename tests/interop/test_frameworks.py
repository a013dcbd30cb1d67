"""The tests of tests/frameworks with newer LLaMA-Factory, TRL and transformers than ours.

Which passed and failed is written to runs/interop/frameworks.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree  # of a report that pytest has just written
from collections import Counter
from pathlib import Path

import pytest
from served_models import CHAIN, environment, versions
from tiny_stage import REPOSITORY

KEPT = CHAIN / "frameworks.json"
STACK = ("llamafactory", "trl", "transformers", "datasets", "peft", "accelerate", "torch")
pytestmark = [pytest.mark.interop, pytest.mark.timeout(7200)]


@pytest.mark.parametrize(
    ("name", "tests", "own"),
    [
        ("newest", ["tests/frameworks"], {}),
        # LLaMA-Factory refuses these versions, and its trainers import what TRL has dropped; so does our GRPO.
        ("newest_trl", ["tests/frameworks/test_trl.py", "-k", "not llamafactory"], {"DISABLE_VERSION_CHECK": "1"}),
    ],
)
def test_frameworks_that_are_newer_than_ours(name: str, tests: list[str], own: dict[str, str], tmp_path: Path) -> None:
    """A version that we do not know warns, which is no failure here; every other difference is one."""
    python, report = environment(name), tmp_path / "report.xml"
    lacking = [one for one in ("stcr", "torchrun", "llamafactory-cli") if not python.with_name(one).is_file()]
    assert not lacking, f"{python.parent} lacks {lacking}, which the tests start; make it with `make interop`"
    command = [str(python), "-m", "pytest", "-q", *tests, f"--junitxml={report}", "-p", "no:cacheprovider"]
    command += ["-W", "ignore:stcr_plugin knows LLaMA-Factory"]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | own | {"PYTHONPATH": str(REPOSITORY), "PATH": path}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert report.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    outcomes = {
        f"{case.get('classname')}::{case.get('name')}": next((child.tag for child in case), "passed")
        for case in ElementTree.parse(report).iter("testcase")
    }
    failed = sorted(case for case, outcome in outcomes.items() if outcome in ("failure", "error"))
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    found = {"versions": versions(python, *STACK), "outcomes": Counter(outcomes.values()), "failed": failed}
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(kept | {name: found}, indent=2) + "\n")
    print(f"\n{name}: {found}")
    assert not failed
