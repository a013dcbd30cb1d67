"""The filter in pyproject.toml: a warning that comes from our own modules fails a test, others' do not."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

SOURCE = "import warnings\ndef warn(category): warnings.warn('old ways', category, stacklevel=1)\n"


def warner(module):
    """A function that warns from inside the module of that name."""
    space = {"__name__": module}
    exec(compile(SOURCE, f"{module}.py", "exec"), space)
    return space["warn"]


@pytest.mark.parametrize("module", ["stcr_plugin", "stcr_plugin.report.chain_report", "stcr_plugin.registry.build"])
@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning, ResourceWarning])
def test_warning_of_our_own_is_an_error(module, category):
    with pytest.raises(category, match="old ways"):
        warner(module)(category)


@pytest.mark.filterwarnings("default")
def test_warning_of_another_library_is_none():
    with warnings.catch_warnings(record=True) as caught:
        warner("llamafactory.data.loader")(FutureWarning)
    assert [str(warning.message) for warning in caught] == ["old ways"]


LEAK = """
def test_leak(tmp_path):
    exec("def leak(path): open(path, 'w').write('1')", space := {"__name__": "stcr_plugin.registry.build"})
    space["leak"](tmp_path / "x")
"""


@pytest.mark.slow(seconds=1)
def test_file_that_we_leave_open_fails_the_test(tmp_path):
    (tmp_path / "test_leak.py").write_text(LEAK)
    config = Path(__file__).parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", config, "--rootdir", tmp_path, tmp_path / "test_leak.py"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "ResourceWarning: unclosed file" in done.stdout
