"""The public functions, and that they cost nothing before they are used."""

import shutil
import subprocess
import sys

import pytest
import yaml
from toy_build import DATA

import stcr_plugin
from stcr_plugin import api
from stcr_plugin.engines.settings import AskSettings

FUNCTIONS = sorted(set(stcr_plugin.__all__) - {"__version__"})


def test_public_names_are_those_of_the_api_and_documented():
    for name in FUNCTIONS:
        assert getattr(stcr_plugin, name) is getattr(api, name)
        assert getattr(stcr_plugin, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        stcr_plugin.biuld  # noqa: B018


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, stcr_plugin; print(*(name for name in sys.modules if name.startswith('stcr_plugin')))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"stcr_plugin", "stcr_plugin.autoload"}


def test_a_config_is_built_from_a_file_and_from_values(tmp_path):
    from stcr_plugin.registry.data_config import load_data_config

    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(DATA))
    manifest = stcr_plugin.build(path, ["name=other"], registry=tmp_path / "sets", workers=1)
    assert manifest == tmp_path / "sets" / "other" / "manifest.json"
    config = load_data_config(path, ["name=other"])
    before = manifest.read_bytes()
    assert stcr_plugin.build(config, registry=tmp_path / "sets", workers=1).read_bytes() == before


def test_pictures_are_judged(model, registry):
    pictures = sorted(registry.rglob("*.png"))[:2]
    found = stcr_plugin.judge(model, pictures, "put the block on the plate")
    assert len(found.pictures) == 2
    assert sum(found.probabilities) == pytest.approx(1)


def test_evaluation_is_that_of_the_command(model, registry, tmp_path, monkeypatch, capsys, undrawn):
    from stcr_plugin.cli import main
    from stcr_plugin.results import Evaluation

    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    settings = AskSettings(language="zh")
    request = stcr_plugin.EvalRequest(model=mine, dataset="toy", registry=registry, settings=settings, limit=2)
    found = stcr_plugin.evaluate(request)
    path = mine / "eval" / "toy-heldout-language_zh" / "results.json"
    assert Evaluation.read(path) == found
    written = path.read_bytes()
    options = ["--model", str(mine), "--dataset", "toy", "--registry", str(registry), "--limit", "2"]
    assert main(["eval", *options, "--set", "language=zh"]) == 0
    assert path.read_bytes() == written
    assert f"results: {path.parent}" in capsys.readouterr().out
    assert stcr_plugin.evaluate(request, tmp_path / "out").figures == found.figures
