"""The start-up hook: costs nothing where LLaMA-Factory is not imported, and fails closed where it is off."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stage import RECIPES, REPOSITORY, Workshop, quiet_environment

from stcr_plugin import autoload

START = "stcr_plugin_autoload.pth"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with this checkout as an editable install puts it there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "_editable_impl_stcr_plugin.pth").write_text(f"{REPOSITORY}\n", encoding="utf-8")
    shutil.copy(REPOSITORY / "autoload" / START, site)
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")  # but not their .pth
    return folder / "bin" / "python"


def python(interpreter: Path, code: str, root: Path, **environment: str) -> str:
    """What a fresh process prints; it starts through site-packages, so the .pth file is read."""
    variables = quiet_environment(root) | environment
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        [interpreter, "-c", code],
        env=variables,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_start_up_file_is_installed() -> None:
    names = {str(path) for path in metadata.files("stcr-plugin") or ()}
    assert START in names  # so that it goes with the package
    assert (Path(sysconfig.get_path("purelib")) / START).is_file()


FINDERS = "import sys; print(*[getattr(f, '__name__', type(f).__name__) for f in sys.meta_path])"


def test_every_process_waits_for_llamafactory_and_then_has_the_hook_once(interpreter: Path, tmp_path: Path) -> None:
    assert python(interpreter, FINDERS, tmp_path).split().count("StcrHook") == 1
    (tmp_path / "llamafactory.py").write_text("", encoding="utf-8")
    again = "import stcr_plugin.autoload as a; a.install(); import llamafactory; a.install(); "
    for before in ("import llamafactory; ", again):
        finders = python(interpreter, before + FINDERS, tmp_path).split()
        assert (finders.count("StcrHook"), finders.count("_Finder")) == (0, 1)


def test_switched_off_it_leaves_the_import_system_alone(interpreter: Path, tmp_path: Path) -> None:
    assert "StcrHook" not in python(interpreter, FINDERS, tmp_path, STCR_AUTOLOAD="0").split()


def test_a_process_without_llamafactory_imports_nothing(interpreter: Path, tmp_path: Path) -> None:
    listed = "import sys; print(*sorted(sys.modules))"
    assert python(interpreter, listed, tmp_path) == python(interpreter, listed, tmp_path, STCR_AUTOLOAD="0")


def test_other_modules_are_found_as_ever() -> None:
    assert autoload._Finder().find_spec("json") is None
    assert autoload._Finder().find_spec("llamafactory") is None


def test_a_module_of_llamafactory_that_is_gone_is_left_to_the_import_system() -> None:
    assert autoload._Finder().find_spec("llamafactory.train.tuner", path=[]) is None


def tuner(run_exp: Any) -> SimpleNamespace:
    return SimpleNamespace(run_exp=run_exp)


def test_an_unknown_version_is_warned_of_by_name_and_still_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.frameworks.llamafactory.experiment import wrap_run_exp

    def run_exp(args: Any = None, callbacks: Any = None) -> None: ...

    monkeypatch.setattr("llamafactory.extras.env.VERSION", "0.11.0")
    module = tuner(run_exp)
    with pytest.warns(UserWarning, match=r"found 0\.11\.0 with run_exp\(args, callbacks\); STCR_AUTOLOAD=0 switches"):
        wrap_run_exp(module)
    assert module.run_exp.__wrapped__ is run_exp


def test_a_changed_or_missing_run_exp_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.frameworks.llamafactory.experiment import wrap_run_exp

    with pytest.warns(UserWarning, match=r"run_exp\(config\)"):
        wrap_run_exp(tuner(lambda config: None))
    with pytest.warns(UserWarning, match=r"run_exp\(missing\)"):
        wrap_run_exp(SimpleNamespace())


def test_a_recipe_without_our_block_runs_as_if_we_were_not_there() -> None:
    from stcr_plugin.frameworks.llamafactory.experiment import wrap_run_exp

    calls: list[Any] = []

    def run_exp(args: Any = None, callbacks: Any = None) -> None:
        calls.append((args, callbacks))

    module = tuner(run_exp)
    wrap_run_exp(module)
    module.run_exp({"stage": "sft"}, ["theirs"])
    assert calls == [({"stage": "sft"}, ["theirs"])]


def test_a_users_mistake_ends_the_process_with_one_line() -> None:
    from stcr_plugin.frameworks.llamafactory.experiment import wrap_run_exp

    def run_exp(args: Any = None, callbacks: Any = None) -> None: ...

    module = tuner(run_exp)
    wrap_run_exp(module)
    with pytest.raises(SystemExit) as caught:
        module.run_exp({"stcr": {"name": "a"}})
    assert caught.value.code == "stcr: the recipe's `stcr:` block: key 'mode' is missing"


@pytest.mark.slow(seconds=12)
def test_with_the_hook_off_a_recipe_of_ours_stops(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.make_data()
    workshop.make_base()
    overrides = workshop.overrides("weak", "out", workshop.base)
    done = workshop.run(["llamafactory-cli", "train", RECIPES / "weak_only.yaml", *overrides], STCR_AUTOLOAD="0")
    assert done.returncode != 0
    assert "Some keys are not used by the HfArgumentParser: ['stcr']" in done.stderr
    assert not (tmp_path / "out").exists()


def test_llamafactorys_v1_refuses_our_block_in_our_words_and_reads_other_recipes_as_ever() -> None:
    from stcr_plugin.frameworks.refusals import refuse_v1

    class Parser:
        def parse_dict(self, args: dict[str, Any], allow_extra_keys: bool = False) -> tuple[Any, bool]:
            return args, allow_extra_keys

    module = SimpleNamespace(HfArgumentParser=Parser)
    refuse_v1(module)
    assert module.HfArgumentParser().parse_dict({"model": "a"}, allow_extra_keys=True) == ({"model": "a"}, True)
    with pytest.raises(SystemExit) as caught:
        module.HfArgumentParser().parse_dict({"model": "a", "stcr": {}}, allow_extra_keys=True)
    assert str(caught.value.code).startswith("stcr: USE_V1: is set, ")
    refuse_v1(SimpleNamespace())  # a version without this parser is left to itself


@pytest.mark.slow(seconds=12)
def test_llamafactorys_v1_stops_at_a_recipe_of_ours_with_one_line(tmp_path: Path) -> None:
    done = Workshop(tmp_path).run(["llamafactory-cli", "train", RECIPES / "weak_only.yaml"], USE_V1="1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("stcr: ")]
    assert line == "stcr: USE_V1: is set, and the plugin works with LLaMA-Factory's stable trainer; unset USE_V1"


@pytest.mark.slow(seconds=12)
def test_templates_are_there_for_chat_and_api_without_a_word_of_ours(interpreter: Path, tmp_path: Path) -> None:
    Workshop(tmp_path).make_base()
    code = """
from PIL import Image
from llamafactory.chat import ChatModel
import llamafactory.api.app
chat = ChatModel(dict(model_name_or_path="base", template="stcr_qwen2_vl", infer_backend="huggingface"))
pictures = [Image.new("RGB", (84, 84))] * 2
answer, = chat.chat([dict(role="user", content="<image><image>which?")], images=pictures, max_new_tokens=4)
template = chat.engine.template
print("TEMPLATE", type(template).__name__, answer.prompt_length)
"""
    words = python(interpreter, code, tmp_path).splitlines()[-1].split()
    assert words[:2] == ["TEMPLATE", "TemporalTemplate"]
    assert int(words[2]) > 2 * 9  # both pictures stand in the prompt
