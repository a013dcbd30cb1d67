"""The start-up hook: costs nothing where LLaMA-Factory is not imported, and fails closed where it is off."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stage import RECIPES, Workshop, quiet_environment

from stcr_plugin import autoload

HEAVY = ("torch", "transformers", "llamafactory", "numpy", "yaml", "pydantic", "omegaconf", "datasets", "PIL", "typing")


def python(code: str, root: Path, **environment: str) -> str:
    """What a fresh process prints; it starts through site-packages, so the .pth file is read."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=quiet_environment(root) | environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_start_up_file_is_installed_and_read_after_that_of_an_editable_install() -> None:
    site = Path(sysconfig.get_path("purelib"))
    names = sorted(path.name for path in site.glob("*.pth"))
    ours = "stcr_plugin_autoload.pth"
    assert ours in names
    editable = [name for name in names if name.startswith(("_editable_impl_stcr", "__editable__.stcr"))]
    assert all(names.index(name) < names.index(ours) for name in editable)
    assert (site / "stcr_plugin_autoload.start").read_text(encoding="utf-8").strip() == "stcr_plugin.autoload:install"


FINDERS = "import sys; print([type(f).__module__ for f in sys.meta_path].count('stcr_plugin.autoload'))"


def test_every_process_has_the_hook_once_however_often_it_is_installed(tmp_path: Path) -> None:
    assert python(FINDERS, tmp_path) == "1"
    again = "import stcr_plugin.autoload as a; a.install(); a.install(); "
    assert python(again + FINDERS, tmp_path) == "1"


def test_switched_off_it_leaves_the_import_system_alone(tmp_path: Path) -> None:
    assert python(FINDERS, tmp_path, STCR_AUTOLOAD="0") == "0"


def test_a_process_without_llamafactory_imports_the_hook_and_nothing_else(tmp_path: Path) -> None:
    loaded = python("import sys; print(*sorted(sys.modules))", tmp_path).split()
    assert [name for name in loaded if name.split(".")[0] == "stcr_plugin"] == ["stcr_plugin", "stcr_plugin.autoload"]
    without = python("import sys; print(*sorted(sys.modules))", tmp_path, STCR_AUTOLOAD="0").split()
    assert set(loaded) == set(without)  # `install` itself imports nothing
    assert not [name for name in HEAVY if name in loaded and name not in without]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_llamafactorys_v1_stops_at_a_recipe_of_ours_with_one_line(tmp_path: Path) -> None:
    done = Workshop(tmp_path).run(["llamafactory-cli", "train", RECIPES / "weak_only.yaml"], USE_V1="1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("stcr: ")]
    assert line == "stcr: USE_V1: is set, and the plugin works with LLaMA-Factory's stable trainer; unset USE_V1"


@pytest.mark.slow
def test_templates_are_there_for_chat_and_api_without_a_word_of_ours(tmp_path: Path) -> None:
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
    words = python(code, tmp_path).splitlines()[-1].split()
    assert words[:2] == ["TEMPLATE", "TemporalTemplate"]
    assert int(words[2]) > 2 * 9  # both pictures stand in the prompt
