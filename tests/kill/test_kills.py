"""`make kills`: a command killed at ten random moments ends in the same bytes or figures as an unbroken run.

STCR_KILL_SEED draws other moments. A run that ends before its kill is compared, and the next one starts from nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from answering_server import counts_at
from tiny_stage import DATA, RECIPES, Workshop, losses, quiet_environment, stage_row
from toy_study import tiny_study

from stcr_plugin.artefacts import model_digest
from stcr_plugin.records import is_finished

KILLS, AT_ONCE = 10, 4
SEED = int(os.environ.get("STCR_KILL_SEED", "0"))
OF_THE_CLOCK = {"seconds", "provenance", "out", "date"}
Command = Callable[[Workshop, Path], list[str | Path]]


def build(workshop: Workshop, out: Path) -> list[str | Path]:
    values = DATA | {"source": DATA["source"] | {"seen": 60}, "pairs": DATA["pairs"] | {"per_episode": 12}}
    splits = DATA["splits"] | {"train": {"episodes": 50, "group": "seen"}}
    data = workshop.write_yaml(workshop.root / "kill.yaml", values | {"name": "killed", "splits": splits})
    return ["data", "build", data, "--registry", out]


def evaluation(workshop: Workshop, out: Path) -> list[str | Path]:
    split = ["--dataset", "tiny", "--split", "train", "--registry", workshop.registry]
    return ["eval", "--model", workshop.base, *split, "--mode", "cot", "--set", "max_new_tokens=24", "--out", out]


def training(workshop: Workshop, out: Path) -> list[str | Path]:
    more = ("max_steps=30", "save_strategy=steps", "save_steps=2", "stcr.evaluate.every_steps=10")
    return [
        "train",
        RECIPES / "weak_only.yaml",
        *workshop.overrides("weak", str(out.relative_to(workshop.root)), workshop.base, *more),
    ]


def export(workshop: Workshop, out: Path) -> list[str | Path]:
    stage = workshop.root / "trained"
    if not stage.exists():
        workshop.train("weak", stage.name)
    return ["export", stage, "--registry", workshop.registry, "--out", out]


def study(workshop: Workshop, out: Path) -> list[str | Path]:
    config = workshop.root / "study.yaml"
    if not config.exists():
        whole = dataclasses.asdict(tiny_study(workshop.root, seeds=[1]))
        values = whole | {"splits": ["heldout"], "controls": None, "guard": None}  # evaluations are killed above
        config.write_text(yaml.safe_dump(json.loads(json.dumps(values))), encoding="utf-8")
    return ["study", config, "--out", out]


def labelling(workshop: Workshop, out: Path) -> list[str | Path]:
    source = {"kind": "tabletop", "seen": 7, "heldout": 0, "regress": 3}
    splits = {"train": {"episodes": 7, "group": "seen"}}
    data = workshop.write_yaml(workshop.root / "label.yaml", {"name": "label", "source": source, "splits": splits})
    asked = ["--model", workshop.base, "--mode", "direct", "--reference", "seen-00000", "--success", "--controls", "1"]
    return ["label", data, *asked, "--out", out]


@cache
def taught(workshop: Workshop, run: str) -> str:
    """The address of a simulated teacher in a process of its own, one for each of the two kinds of runs."""
    teacher = Path(__file__).parents[1] / "simulated_teacher.py"
    command = [sys.executable, teacher, workshop.registry, "tiny", "train", "lying", "0.02"]
    environment = quiet_environment(workshop.root) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    SERVERS.append(process)
    assert process.stdout is not None
    return process.stdout.readline().strip()


SERVERS: list[subprocess.Popen[str]] = []  # each ends when this process closes its pipe
ALIKE: list[int] = []


def annotation(workshop: Workshop, out: Path) -> list[str | Path]:
    url = taught(workshop, out.parent.name)
    models = ["--engine", "server", "--url", url, "--server-model", "teacher", "--judge-model", "verifier"]
    split = ["tiny", "--split", "train", "--registry", workshop.registry]
    return ["annotate", *split, *models, "--set", f"engine.concurrency={AT_ONCE}", "--out", out]


def annotated(out: Path) -> dict[str, Any]:
    """The rows; and nothing that was answered is asked again, but for requests that a kill left in flight.

    Two pairs may have texts of the same words, and frames of the same pixels: the unbroken run says how many.
    """
    summary = timeless(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    counts = counts_at(summary.pop("engines")["describer"]["engine"]["url"], forget=True)
    assert counts["total"] > 50 * AT_ONCE
    if out.parent.name == "straight":
        ALIKE.append(counts["repeated"])
    assert counts["repeated"] <= ALIKE[0] + KILLS * AT_ONCE
    print(f"\nannotate, {out.parent.name}: {counts['total']} requests, {counts['repeated']} of them asked twice")
    return {"rows": (out / "annotations.jsonl").read_bytes(), "summary": summary}


def every_file(out: Path) -> dict[str, Any]:
    """Name -> content of every file but hidden ones, JSON without what the clock says."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    names = [path.relative_to(out) for path in files]
    return {
        str(name): timeless(json.loads((out / name).read_bytes()))
        if name.suffix == ".json"
        else (out / name).read_bytes()
        for name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in OF_THE_CLOCK}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def trained(out: Path) -> dict[str, Any]:
    record = stage_row(out)
    assert record["finished"]
    return {"figures": timeless(record["figures"]), "losses": losses(out), "weights": model_digest(out)}


def studied(out: Path) -> dict[str, Any]:
    """The table and the weights of every stage; times and paths of the folder apart."""
    table = timeless(json.loads((out / "study.json").read_text(encoding="utf-8")))
    table.pop("costs", None)
    weights = {str(path.relative_to(out)): model_digest(path.parent) for path in sorted(out.rglob("stage.json"))}
    assert weights
    return {"table": table, "weights": weights}


KINDS: dict[str, tuple[Command, Callable[[Path], dict[str, Any]]]] = {
    "data build": (build, every_file),
    "eval": (evaluation, every_file),
    "train": (training, trained),
    "export": (export, every_file),
    "study": (study, studied),
    "annotate": (annotation, annotated),
    "label": (labelling, every_file),
}


def start(workshop: Workshop, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
    log = open(workshop.root / "log.txt", "ab")  # noqa: SIM115 - the process writes to it
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "stcr_plugin.cli", *map(str, command)],
            env=quiet_environment(workshop.root),
            cwd=workshop.root,
            stdout=log,
            stderr=log,
        )


@pytest.mark.kill
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_ten_random_moments_it_ends_as_an_unbroken_run(workshop: Workshop, kind: str) -> None:
    command, outcome = KINDS[kind]
    name = kind.replace(" ", "_")
    straight, killed = workshop.root / "straight" / name, workshop.root / "killed" / name
    log = workshop.root / "log.txt"

    def finish(out: Path) -> dict[str, Any]:
        if is_finished(out):  # a stage that was killed after its record; it would not be trained again
            return outcome(out)
        process = start(workshop, command(workshop, out))
        try:
            assert process.wait() == 0, log.read_text(encoding="utf-8")[-5000:]
        finally:
            process.kill()
        return outcome(out)

    began = time.monotonic()
    expected = finish(straight)
    lasts = time.monotonic() - began
    drawn = random.Random(f"{SEED} {kind}")
    moments: list[float] = []
    while len(moments) < KILLS:
        if is_finished(killed):
            assert outcome(killed) == expected
            shutil.rmtree(killed)
        process = start(workshop, command(workshop, killed))
        delay = drawn.uniform(0.1, lasts)
        try:
            status = process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait(60)
        if status == -signal.SIGKILL:
            moments.append(delay)
        else:
            assert status == 0, log.read_text(encoding="utf-8")[-5000:]
            assert outcome(killed) == expected
            shutil.rmtree(killed)
    assert finish(killed) == expected
    print(f"\n{kind}: unbroken {lasts:.1f} s; killed after " + ", ".join(f"{moment:.1f}" for moment in moments) + " s")
