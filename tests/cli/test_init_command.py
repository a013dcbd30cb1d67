"""`stcr init` writes the recipes into a folder and replaces nothing there."""

from pathlib import Path

from stcr_plugin.cli import main

ROOT = Path(__file__).parents[2]


def below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_recipes_and_registry_are_written_once(tmp_path, capsys):
    assert main(["init", str(tmp_path / "new")]) == 0
    found = below(tmp_path / "new")
    ours = {Path("recipes") / name: data for name, data in below(ROOT / "recipes").items()}
    assert found == ours | {Path("data_registry/README.md"): (ROOT / "data_registry" / "README.md").read_bytes()}
    assert capsys.readouterr().out == f"written: {len(found)} files below {tmp_path / 'new'}\n"
    assert main(["init", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"written: 0 files below {tmp_path / 'new'}\n"


def test_files_of_the_user_are_kept_and_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "recipes" / "stage1_cot.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    dangling = tmp_path / "recipes" / "weak_only.yaml"
    dangling.symlink_to(tmp_path / "elsewhere.yaml")
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"kept: recipes/{name}.yaml differs from ours and was left as it is" for name in ("stage1_cot", "weak_only")
    ]
    assert mine.read_text() == "mine"
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_a_file_where_a_folder_must_be_is_named(tmp_path, capsys):
    (tmp_path / "recipes").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert f"stcr: {tmp_path / 'recipes'}" in capsys.readouterr().err
    assert (tmp_path / "recipes").read_text() == "mine"
