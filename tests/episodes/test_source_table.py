"""Kinds of source: the built-in ones, those of installed packages, and the example that adds one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import source_table
from stcr_plugin.episodes.source_table import BUILT_IN, find_kind, installed_code, open_source, source_settings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.data_config import DataConfig, config_digest, frames_folder, plain
from stcr_plugin.samples.cot import load_phrases

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples/custom_source"
CODE = """
from stcr_plugin.config import settings
from stcr_plugin.episodes.source_table import SourceKind

@settings
class Config:
    root: str
    kind: str = "drawers"

class Source:
    kind = "drawers"
    def __init__(self, config, seed=None):
        self.seen = (config.root, seed)

KIND = SourceKind(Config, Source{more})
"""
PLAIN = CODE.format(more="")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution `name` whose module holds `code` and whose entry point adds `kind`."""
    caches = (source_table._installed, installed_code)
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(kind="drawers", code=PLAIN, name="stcr_drawers", value="KIND"):
        (tmp_path / f"{name}.py").write_text(code)
        facts = tmp_path / f"{name}-1.5.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.5\n")
        (facts / "entry_points.txt").write_text(f"[{source_table.GROUP}]\n{kind} = {name}:{value}\n")
        sys.modules.pop(name, None)
        for cached in caches:
            cached.cache_clear()
        return tmp_path / f"{name}.py"

    yield put
    for cached in caches:
        cached.cache_clear()
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def data_config(source):
    return from_mapping(DataConfig, {"name": "a", "source": source, "splits": {"all": {"fraction": 1.0}}}, "a.yaml")


def test_every_built_in_kind_is_named_as_its_settings_say():
    for name, kind in BUILT_IN.items():
        assert kind.config.kind == kind.source.kind == name
    assert [name for name, kind in BUILT_IN.items() if kind.gives_pairs] == [
        "spatiallogic",
        "before_after",
        "rated_clips",
    ]


@pytest.mark.parametrize(("more", "seed"), [("", None), (", seeded=True", 3)])
def test_an_installed_kind_is_loaded_with_typed_settings(install, more, seed):
    install(code=CODE.format(more=more))
    config = data_config({"kind": "drawers", "root": "here"})
    assert open_source(config.source, 3).seen == ("here", seed)
    assert plain(config)["source"] == {"root": "here", "kind": "drawers"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "tabeltop"}, r"a\.yaml, source\.kind: 'tabeltop' is not a .* source, did you mean 'tabletop'\?"),
        ({"kind": "drawer"}, r"did you mean 'drawers'\?"),
        ({"kind": "zzzzz"}, r"known are: agibot, before_after, drawers, frames, lerobot"),
        ({"root": "here"}, r"source: `kind` is missing; write .* one of tabletop, .*drawers"),
        ("drawers", r"`kind` is missing"),
        ({"kind": "drawers"}, r"a\.yaml, source: key 'root' is missing"),
        ({"kind": "drawers", "rooot": "x", "root": "here"}, r"source: unknown key 'rooot', did you mean 'root'\?"),
        ({"kind": "lerobot", "root": 3}, r"source: root: Input should be a valid string"),
    ],
)
def test_wrong_source_settings_name_the_key_and_the_nearest_match(install, source, words):
    install()
    with pytest.raises(ConfigError, match=words):
        data_config(source)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": "import no_such_library"}, r"stcr-drawers 1\.5 cannot be loaded .*\(ModuleNotFoundError: No module"),
        ({"code": "raise SystemError('boom')"}, r"\(SystemError: boom\); update or uninstall stcr-drawers 1\.5"),
        ({"value": "MISSING"}, r"cannot be loaded from stcr_drawers:MISSING"),
        ({"value": "Source"}, r"stcr_drawers:Source of stcr-drawers 1\.5 is not a SourceKind"),
        ({"kind": "shelves"}, r"has no field `kind` with the default 'shelves'"),
        ({"kind": "tabletop"}, r"'tabletop' is defined by stcr-plugin and by stcr-drawers 1\.5; rename"),
    ],
)  # fmt: skip
def test_a_broken_entry_point_names_its_distribution(install, change, words):
    install(**change)
    with pytest.raises(ConfigError, match=words):
        source_settings({"kind": change.get("kind", "drawers"), "root": "here"})
    assert find_kind("lerobot") is BUILT_IN["lerobot"]  # others work


def test_two_packages_with_one_kind_are_refused(install):
    install()
    install(name="other_drawers")
    with pytest.raises(ConfigError, match=r"'drawers' is defined by (stcr|other)-drawers 1\.5 and by .*uninstall it"):
        find_kind("drawers")


def test_a_changed_package_makes_a_build_of_its_own(install):
    file = install()
    config = data_config({"kind": "drawers", "root": "here"})
    before = config_digest(config), frames_folder(config)
    file.write_text(file.read_text() + "# changed\n")
    installed_code.cache_clear()
    after = config_digest(config), frames_folder(config)
    assert before[0] != after[0]
    assert before[1] != after[1]


WORDS = {"en": {"separator": ", ", "claims": {"drawer": "the drawer is {value}"}}}


@pytest.mark.parametrize("form", ["mapping", "file"])
def test_an_installed_kind_brings_its_claim_texts(install, tmp_path, form):
    file = tmp_path / "words.yaml"
    file.write_text(json.dumps(WORDS))
    more = f", claims={WORDS!r}" if form == "mapping" else f", claims=__import__('pathlib').Path({str(file)!r})"
    install(code=CODE.format(more=more))
    assert load_phrases("drawers")["en"].claims == WORDS["en"]["claims"]
    before = config_digest(data_config({"kind": "drawers", "root": "here"}))
    file.write_text(json.dumps(WORDS).replace("drawer is", "drawer stands"))
    changed = config_digest(data_config({"kind": "drawers", "root": "here"})) != before
    assert changed == (form == "file")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ("", r"source kind 'drawers': has no claim texts, so no Chain-of-Thought .*set `claims` in its SourceKind"),
        (
            ", claims={'en': {'claims': {}}}",
            r"the claim texts of source kind 'drawers', en: key 'separator' is missing",
        ),
        (", claims={'en': 'words'}", r"'drawers', en: is not a mapping"),
        (", claims=__import__('pathlib').Path('/nowhere.yaml')", r"/nowhere\.yaml: no such file"),
    ],
)
def test_missing_claim_texts_say_what_is_missing(install, claims, words):
    install(code=CODE.format(more=claims))
    with pytest.raises((ConfigError, DataError), match=words):
        load_phrases("drawers")


def recordings(root):
    for number in range(4):
        folder = root / f"pour-{number:02d}"
        folder.mkdir(parents=True)
        frames = [{"pot": "tilted" if 2 <= i < 10 else "upright", "fill": 10 * i} for i in range(11)]
        (folder / "labels.json").write_text(json.dumps({"task": "pour the tea", "fps": 5, "frames": frames}))
        for index in range(len(frames)):
            Image.new("RGB", (32, 24), (20 * index, 40, 60 * number)).save(folder / f"{index:04d}.png")
    return root


@pytest.mark.slow
def test_the_example_builds_from_a_package_that_was_installed(tmp_path):
    example = shutil.copytree(EXAMPLE, tmp_path / "custom_source")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(example)], check=True, timeout=300)
    shutil.rmtree(example)
    environment = os.environ | {"PYTHONPATH": f"{site}:{REPOSITORY}", "HF_HUB_OFFLINE": "1"}

    def stcr(*arguments):
        command = [sys.executable, "-m", "stcr_plugin.cli", "data", *arguments, "--registry", "sets"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    root = recordings(tmp_path / "recordings")
    stcr("build", str(EXAMPLE / "pour_tea.yaml"), f"source.root={root}")
    assert "pour_tea" in stcr("check", "pour_tea")
    rows = json.loads((tmp_path / "sets/pour_tea/pour_tea_cot.json").read_text())
    assert len(rows) == 3 * 8 * 2
    assert "the pot is upright, the cup is 0% full" in json.dumps(rows)
