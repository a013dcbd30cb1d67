"""`make fuzz`: damaged metadata, configurations, records, model folders, server replies and arguments.

Each call must end normally or in one line of ours, within a time limit, and write nothing outside its folder. The same
examples are drawn each time; STCR_FUZZ_SEED draws others, STCR_FUZZ_EXAMPLES sets how many of each kind.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lerobot_dataset as made
import pytest
import yaml
from damage import NASTY_TEXTS, SPLINTER, VALUES, damaged, damaged_bytes, damaged_json, encoded
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from release_stage import finished
from tally import Tally
from tiny_stage import RECIPES

from stcr_plugin import records
from stcr_plugin.cli import main
from stcr_plugin.config import load
from stcr_plugin.engines.server_replies import read_reply, retry_after
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.frameworks.recipe import Recipe, read_recipe
from stcr_plugin.rankings import Ranking, ValueOrder
from stcr_plugin.registry.data_config import load_data_config
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.result_files import Result
from stcr_plugin.results import Controls, Evaluation, Guard, GuardComparison, MultiImage, Overlap
from stcr_plugin.study.outcomes import read_outcome
from stcr_plugin.study.study_config import StudyConfig
from stcr_plugin.types import Episode

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1800)]
EXAMPLES = int(os.environ.get("STCR_FUZZ_EXAMPLES", "200"))
SEED = int(os.environ.get("STCR_FUZZ_SEED", "0"))
Use = Callable[[Any, Path], None]


def fuzz(inputs: st.SearchStrategy[Any], use: Use, inside: Path, share: float = 1.0) -> None:
    """Call `use` with each example and an empty folder, print the counts, and fail where an end is not allowed."""
    tally = Tally(inside)

    @seed(SEED)
    @settings(
        max_examples=max(1, round(share * EXAMPLES)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def run(example: Any) -> None:
        folder = Path(tempfile.mkdtemp(dir=inside))
        try:
            tally.call(lambda: use(example, folder), example)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(inside))
        run()
    print(f"\n{tally}")
    if tally.wrong:
        pytest.fail(str(tally), pytrace=False)


# ---- recordings


@pytest.mark.parametrize("name", ["info.json", "episodes.jsonl", "tasks.jsonl"])
def test_metadata_of_a_lerobot_dataset(name: str, tmp_path: Path) -> None:
    whole = made.write_v21(tmp_path / "whole", made.Layout(lengths=(12, 12)))
    text = (whole / "meta" / name).read_text()
    lines = [json.loads(line) for line in text.splitlines()]

    def use(data: bytes, folder: Path) -> None:
        shutil.copytree(whole, folder / "set")
        (folder / "set/meta" / name).write_bytes(data)
        source = LeRobotSource(LeRobotConfig(str(folder / "set")))
        for episode in [one for one in source.episodes() if isinstance(one, Episode)][:1]:
            for state in (source.states(episode) or [])[:1]:
                source.claims(state)
            list(source.frames(episode, [0]))

    rows = st.lists(damaged(lines[0]), max_size=3).map(lambda found: b"\n".join(map(encoded, found)))
    fuzz(st.one_of(damaged_json(lines[0]), damaged_bytes(text.encode()), rows), use, tmp_path)


# ---- configurations and records


CONFIGURATIONS: dict[str, Use] = {
    "data/tabletop.yaml": lambda _, path: load_data_config(path),
    "data/g1_pick_bottle.yaml": lambda _, path: load_data_config(path),
    "stage2_weak.yaml": lambda _, path: Recipe.of(read_recipe(path)),
    "studies/few_labels.yaml": lambda _, path: load(StudyConfig, path),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    text = (RECIPES / name).read_bytes()

    def use(data: bytes, folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_bytes(data)
        CONFIGURATIONS[name](None, path)

    def dumped(document: Any) -> bytes:
        return encoded(document)  # JSON is YAML

    aliases = b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(50))
    whole = damaged(yaml.safe_load(text)).map(dumped)
    fuzz(st.one_of(whole, damaged_bytes(text), st.just(aliases + text)), use, tmp_path)


RESULTS = [json.loads(line) for line in (RECIPES.parent / "tests/result_rows.jsonl").read_text("utf-8").splitlines()]
KINDS = (Evaluation, Controls, MultiImage, Guard, GuardComparison, Ranking, ValueOrder, Overlap)
READERS: dict[str, type[Result]] = {kind.file: kind for kind in KINDS}


@pytest.mark.parametrize(("name", "row"), RESULTS, ids=[f"{number}-{name}" for number, (name, _) in enumerate(RESULTS)])
def test_results_of_a_command(name: str, row: Any, tmp_path: Path) -> None:
    def use(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        READERS[name].read(folder / name)

    fuzz(damaged_json(row), use, tmp_path)


def test_record_of_a_stage(tmp_path: Path, registry: Path, model: Path) -> None:
    run = finished(shutil.copytree(model, tmp_path / "run"), registry)
    row = json.loads((run / "stage.json").read_text())

    def use(data: bytes, folder: Path) -> None:
        (folder / "stage.json").write_bytes(data)
        records.read(folder)
        list(records.chain(folder))

    fuzz(damaged_json(row), use, tmp_path)


@pytest.mark.parametrize("part", ["manifest.json", "dataset_info.json"])
def test_build(part: str, tmp_path: Path, registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = registry / part if (registry / part).is_file() else registry / "toy" / part
    row = yaml.safe_load(path.read_text())

    def use(data: bytes, folder: Path) -> None:
        shutil.copytree(registry, folder / "registry")
        (folder / "registry" / path.relative_to(registry)).write_bytes(data)
        more = ["--registry", str(folder / "registry")]
        for command in (["check", "toy"], ["show", "toy_weak", "--rows", "2", "--out", str(folder / "x.html")]):
            main(["data", *command, *more])
            capsys.readouterr()
        read_manifest(folder / "registry", "toy")
        read_pairs(folder / "registry", "toy", "heldout")

    fuzz(damaged_json(row), use, tmp_path, share=0.5)


def test_outcome_of_a_seed(tmp_path: Path) -> None:
    lines = (RECIPES.parent / "docs/results/few_labels/seed23.jsonl").read_text().splitlines()
    head = yaml.safe_load(lines[0])

    def use(data: bytes, folder: Path) -> None:
        (folder / "seed23.jsonl").write_bytes(data)
        read_outcome(folder / "seed23.jsonl")

    rest = "\n".join(lines[1:]).encode()
    fuzz(st.one_of(damaged_json(head).map(lambda data: data + b"\n" + rest), damaged_json(head)), use, tmp_path)


# ---- models and servers


@pytest.mark.parametrize(
    "name",
    ["config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"],
)
def test_file_of_a_model_folder(name: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(2)]
    row = yaml.safe_load((model / name).read_text()) if name != "tokenizer.json" else {"version": "1.0", "model": {}}

    def use(data: bytes, folder: Path) -> None:
        shutil.copytree(model, folder / "model")
        (folder / "model" / name).write_bytes(data)
        main(["judge", str(folder / "model"), *pictures, "--task", "put it down"])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err

    fuzz(damaged_json(row), use, tmp_path, share=0.2)


def test_reply_of_a_server(tmp_path: Path) -> None:
    reply = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "closer to completion: img2"}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
    }

    def use(data: bytes, folder: Path) -> None:
        read_reply(data)

    fuzz(st.one_of(damaged_json(reply), st.binary(max_size=200), VALUES.map(encoded)), use, tmp_path, share=3)
    fuzz(st.one_of(st.text(max_size=30), st.sampled_from(NASTY_TEXTS)), lambda text, _: retry_after(text), tmp_path)


# ---- arguments


WORDS = (
    "init", "data", "build", "check", "show", "overlap", "base", "train", "study", "eval", "controls", "multi-image",
    "comparator", "rank", "guard", "judge", "report", "export", "benchmark", "--help", "--model", "--dataset",
    "--split", "--out", "--registry", "--limit", "--batch-size", "--mode", "--set", "--task", "--server", "--timeout",
    "--language", "--gpu-memory", "a.png", "model", "config.yaml", "toy", "heldout", "cot", "direct", "seed=1",
    "x.y.z=[", "-1", "0", "1e999", "http://127.0.0.1:9", "max_new_tokens=x", "--", "=", "name=",
)  # fmt: skip


ENCODABLE = st.characters(codec="utf-8")


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def use(words: list[str], folder: Path) -> None:
        inner = folder / "a" / "b"  # from here, ../../outside is inside the folder
        inner.mkdir(parents=True)
        monkeypatch.chdir(inner)
        (inner / "config.yaml").write_text("name: x\n")
        Image.new("RGB", (8, 8)).save(inner / "a.png")
        try:
            main(words)
        finally:
            monkeypatch.chdir(tmp_path)
            captured = capsys.readouterr()
            assert "Traceback" not in captured.out + captured.err

    texts = [text for text in NASTY_TEXTS if text != SPLINTER]  # an argument of a process cannot hold one
    words = st.one_of(st.sampled_from(WORDS), st.sampled_from(texts), st.text(ENCODABLE, max_size=10))
    commands = st.tuples(st.sampled_from(WORDS[:19]), st.lists(words, max_size=7)).map(lambda two: [two[0], *two[1]])
    fuzz(commands, use, tmp_path, share=3)
