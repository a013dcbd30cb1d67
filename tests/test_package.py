"""The wheel: what is in it, and that it works in an environment where nothing else of ours is."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stcr_plugin import __version__

ROOT = Path(__file__).parents[1]
START = ("stcr_plugin_autoload.pth", "stcr_plugin_autoload.start")


def python(interpreter, *arguments, **environment):
    """Standard output of a Python command in no other environment than the one given."""
    done = subprocess.run(
        [str(interpreter), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    python(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of a fresh environment that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    python(sys.executable, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin" / "python"
    python(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", "--no-index", wheel)
    return interpreter


def test_wheel_holds_every_module_the_prompts_and_the_start_up_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in START:
            assert archive.read(name) == (ROOT / "autoload" / name).read_bytes()
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "stcr_plugin").rglob("*") if path.suffix in (".py", ".yaml")
    }
    assert sources <= names
    assert any(name.endswith("prompts/questions.yaml") for name in names)
    others = {name for name in names - sources - set(START) if ".dist-info/" not in name}
    assert others == set(), "the wheel carries what it should not"


def test_command_works_without_any_other_library(installed):
    assert python(installed.with_name("stcr"), "--version") == f"stcr_plugin {__version__}\n"
    assert python(installed, "-m", "stcr_plugin.cli", "--version") == f"stcr_plugin {__version__}\n"


HOOKED = "import sys; print(sum(type(finder).__module__ == 'stcr_plugin.autoload' for finder in sys.meta_path))"


def test_hook_is_installed_in_every_process_and_can_be_switched_off(installed):
    assert python(installed, "-c", HOOKED) == "1\n"
    assert python(installed, "-c", HOOKED, STCR_AUTOLOAD="0") == "0\n"


def test_hook_of_the_installed_wheel_meets_llamafactory(installed, tmp_path):
    """A stand-in of LLaMA-Factory's modules: each is executed first, then handed to our function."""
    for name in ("llamafactory", "llamafactory/data", "llamafactory/train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "llamafactory" / "train" / "tuner.py").write_text("def run_exp(args=None, callbacks=None): pass\n")
    code = (
        "import sys, types\n"
        "ours = types.ModuleType('stcr_plugin.frameworks.llamafactory.experiment')\n"
        "ours.wrap_run_exp = lambda module: print('wrapped', module.run_exp.__name__)\n"
        "sys.modules[ours.__name__] = ours\n"
        "import llamafactory.train.tuner\n"
    )
    assert python(installed, "-c", code, PYTHONPATH=str(tmp_path)) == "wrapped run_exp\n"
