"""The wheel: what is in it, and that it works where nothing else of ours is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from stcr_plugin import __version__

ROOT = Path(__file__).parents[1]
START = ("stcr_plugin_autoload.pth",)


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


def files(folder):
    return [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()]


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


@pytest.mark.slow(seconds=1)
def test_wheel_holds_the_package_the_recipes_and_the_start_up_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in START:
            assert archive.read(name) == (ROOT / "autoload" / name).read_bytes()
    sources = {name for name in files("stcr_plugin") if "__pycache__" not in name}
    assert {"stcr_plugin/py.typed", "stcr_plugin/samples/prompts/questions.yaml"} <= sources
    recipes = {f"stcr_plugin/starter/{name}" for name in [*files("recipes"), "data_registry/README.md"]}
    assert {name for name in names if ".dist-info/" not in name} == sources | recipes | set(START)


@pytest.mark.slow(seconds=1)
def test_command_works_without_any_other_library(installed):
    assert python(installed.with_name("stcr"), "--version") == f"stcr_plugin {__version__}\n"
    assert python(installed, "-m", "stcr_plugin.cli", "--version") == f"stcr_plugin {__version__}\n"


HOOKED = "import sys; print(sum(getattr(finder, '__name__', '') == 'StcrHook' for finder in sys.meta_path))"


@pytest.mark.slow(seconds=1)
def test_hook_is_installed_in_every_process_and_can_be_switched_off(installed):
    assert python(installed, "-c", HOOKED) == "1\n"
    assert python(installed, "-c", HOOKED, STCR_AUTOLOAD="0") == "0\n"


@pytest.mark.slow(seconds=1)
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


@pytest.mark.parametrize("gone", ["removed", "uninstalled", "switched off"])
@pytest.mark.slow
def test_without_the_package_every_process_starts_in_silence(installed, tmp_path, gone):
    """`pip uninstall` leaves nothing behind; a package that was deleted by hand leaves a start-up file that is mute."""
    environment = shutil.copytree(installed.parents[1], tmp_path / "environment", symlinks=True)
    interpreter = environment / "bin" / "python"
    (site,) = environment.glob("lib/*/site-packages")
    python(interpreter, "-c", "import stcr_plugin.autoload")
    if gone == "removed":
        shutil.rmtree(site / "stcr_plugin")
    elif gone == "uninstalled":
        python(sys.executable, "-m", "pip", "--python", interpreter, "uninstall", "--yes", "stcr-plugin")
        assert not site.exists() or list(site.iterdir()) == []
    (tmp_path / "llamafactory").mkdir()
    (tmp_path / "llamafactory" / "__init__.py").write_text("")
    code = "import sys, llamafactory; print([one for one in sys.modules if one.startswith('stcr_plugin')])"
    variables = {"PYTHONPATH": str(tmp_path), "STCR_AUTOLOAD": str(int(gone != "switched off"))}
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# ---- the wheel is enough


@pytest.mark.slow(seconds=20)
def test_wheel_alone_trains_a_stage_in_an_empty_folder(wheel, workshop, tmp_path):
    """The libraries of this environment, our package from the wheel: `stcr init .`, then the unmodified trainer."""
    from tiny_stage import TINY, UNPREPARED, quiet_environment

    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    python(sys.executable, "-m", "venv", "--without-pip", environment)
    interpreter = environment / "bin" / "python"
    python(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", "--no-index", wheel)
    # The libraries, but no .pth file of this environment: those would put the checkout on the path.
    (site,) = environment.glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(*command):
        variables = quiet_environment(tmp_path) | {"PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}"}
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(list(map(str, command)), cwd=work, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(interpreter, "-c", "import stcr_plugin; print(stcr_plugin.__file__)").strip()
    assert Path(where).is_relative_to(site)
    assert run(interpreter.with_name("stcr"), "init", ".").endswith(f"{len(files('recipes')) + 1} files below .\n")
    assert {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()} == {
        *files("recipes"),
        "data_registry/README.md",
    }
    of_the_workshop = ("dataset=tiny_cot", f"dataset_dir={workshop.registry}", f"model_name_or_path={workshop.base}")
    overrides = ("max_steps=2", "output_dir=runs/stage1", *of_the_workshop)
    trainer = interpreter.with_name("llamafactory-cli")
    trainer.write_text(f"#!{interpreter}\nfrom llamafactory.cli import main\n\nmain()\n")  # as pip writes it
    trainer.chmod(0o755)
    run(trainer, "train", "recipes/stage1_cot.yaml", *TINY[1:], *UNPREPARED, *overrides)
    assert (work / "runs" / "stage1" / "stage.json").is_file()
