"""Which code, libraries and processor are named, in a checkout and where it is installed."""

import json
import subprocess

import pytest

import stcr_plugin
from stcr_plugin import provenance as module
from stcr_plugin.provenance import provenance


def test_provenance_names_code_and_libraries_and_no_time():
    first, second = provenance(), provenance()
    assert first == second
    assert first["stcr_plugin"] == stcr_plugin.__version__
    assert first["versions"]["torch"]
    assert first["processor"]
    assert json.loads(json.dumps(first)) == first


def as_checkout(folder, monkeypatch):
    """Make the module believe that its package lies in `folder`, with git repository and one commit."""
    (folder / "stcr_plugin").mkdir()
    (folder / "stcr_plugin" / "provenance.py").write_text("")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"], ["tag", "v9"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    monkeypatch.setattr(module, "__file__", str(folder / "stcr_plugin" / "provenance.py"))
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_checkout_is_named_by_its_commit_and_changes_are_told(tmp_path, monkeypatch):
    commit = as_checkout(tmp_path, monkeypatch)
    assert provenance()["code_revision"] == commit
    (tmp_path / "stcr_plugin" / "provenance.py").write_text("changed")
    module._code_revision.cache_clear()  # a process keeps the revision of the code that it has loaded
    assert provenance()["code_revision"] == f"{commit}+changes"


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"]
)
def test_the_revision_is_that_of_the_checkout_whatever_repository_git_is_told(tmp_path, monkeypatch, name):
    commit = as_checkout(tmp_path, monkeypatch)
    monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    assert provenance()["code_revision"] == commit


def test_installed_package_is_named_by_its_release(tmp_path, monkeypatch):
    (tmp_path / "stcr_plugin").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "stcr_plugin" / "provenance.py"))
    assert provenance()["code_revision"] == f"release {stcr_plugin.__version__}"


def test_checkout_without_git_is_unknown_and_no_error(tmp_path, monkeypatch):
    as_checkout(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["code_revision"] == "unknown"


def test_library_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_STACK", ("numpy", "no_such_library"))
    assert set(provenance()["versions"]) == {"numpy"}


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: sse avx avx2 fma\n", "AMD EPYC, avx2"),
        ("model name\t: Intel Xeon\nflags\t\t: avx2 avx512f avx512bw\n", "Intel Xeon, avx512f"),
    ],
)
def test_the_processor_is_named_with_the_instructions_that_decide_how_numbers_are_added(monkeypatch, found, named):
    monkeypatch.setattr(module.Path, "read_text", lambda *_, **__: found)
    module.processor.cache_clear()
    try:
        assert module.processor() == named
    finally:
        module.processor.cache_clear()
