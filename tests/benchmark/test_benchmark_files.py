import base64
import csv
import dataclasses
import importlib
import io
import json
import sys

import pytest
import yaml
from PIL import Image

from stcr_plugin.benchmark.benchmark_files import export
from stcr_plugin.cli import main
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.scoring.metrics import RATES


class Loader(yaml.SafeLoader):
    """lmms-eval's reading of `!function a.b.c` where a/b.py is not beside the YAML: attribute c of module a.b."""


def function(loader, node):
    module, _, name = loader.construct_scalar(node).rpartition(".")
    return getattr(importlib.import_module(module), name)


Loader.add_constructor("!function", function)


def test_command_takes_a_style_and_a_warning(registry, tmp_path):
    command = ["benchmark", "export", "toy", "--registry", str(registry), "--format", "vlmevalkit"]
    assert main([*command, "--set", "style=letters", "--set", "warn=true", "--out", str(tmp_path)]) == 0
    (table,) = tmp_path.glob("*.tsv")
    csv.field_size_limit(1 << 24)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["names"] for row in rows} == {'["A", "B"]'}
    assert {row["answer"] for row in rows} == {"A", "B"}
    assert all("in no particular order" in row["question"] for row in rows)


def test_lmms_eval_task_names_functions_that_are_there(registry, tmp_path):
    done = export(registry, "toy", "heldout", out=tmp_path, format="lmms-eval", settings=AskSettings(max_new_tokens=77))
    task = yaml.load((done.path / f"{done.name}.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader
    assert task["task"] == done.name
    assert (task["output_type"], task["generation_kwargs"]["max_new_tokens"]) == ("generate_until", 77)
    assert task["generation_kwargs"]["until"] == []
    assert callable(task["doc_to_visual"])
    assert callable(task["doc_to_messages"])
    assert [metric["metric"] for metric in task["metric_list"]] == list(RATES)
    assert all(callable(metric["aggregation"]) for metric in task["metric_list"])
    assert (done.path / task["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_lmms_eval_data_load_offline_with_their_pictures(registry, made, tmp_path):
    import datasets

    done = export(registry, "toy", "heldout", out=tmp_path / "out", format="lmms-eval")
    files = {"test": str(done.path / "data.parquet")}
    rows = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]
    assert len(rows) == len(made.rows) == done.rows
    for row, want in zip(rows, made.rows, strict=True):
        assert (row["img1"].tobytes(), row["img2"].tobytes()) == tuple(pixels(registry, name) for name in want.images)
        assert {name: row[name] for name in want.columns()} == want.columns()
        assert (row["question"], json.loads(row["benchmark"])) == (want.question, dataclasses.asdict(made.source))


def test_vlmevalkit_table_holds_two_pictures_a_row_named_by_content(registry, made, tmp_path):
    done = export(registry, "toy", "heldout", out=tmp_path, format="vlmevalkit")
    csv.field_size_limit(sys.maxsize)
    with open(done.path, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert done.path.stem == made.name
    assert not {"A", "B"} & rows[0].keys()  # with which the table would be taken for multiple choice
    assert [row["index"] for row in rows] == [str(number) for number in range(len(made.rows))]
    names = {}
    for row, want in zip(rows, made.rows, strict=True):
        shown = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in json.loads(row["image"])]
        assert tuple(picture.tobytes() for picture in shown) == tuple(pixels(registry, name) for name in want.images)
        names |= dict(zip(want.images, json.loads(row["image_path"]), strict=True))
        assert row["question"] == f"{want.introduction}\n{want.question}"
        assert (row["pair_id"], row["episode_id"], row["order"]) == (
            want.pair.pair_id,
            want.pair.episode_id,
            want.order,
        )
    assert len(set(names.values())) == len({pixels(registry, name) for name in names})


@pytest.mark.parametrize("format", ["lmms-eval", "vlmevalkit"])
def test_same_build_gives_the_same_bytes(registry, tmp_path, format):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        export(registry, "toy", "heldout", out=folder, format=format)
    one, two = ({path.relative_to(at): path.read_bytes() for path in at.rglob("*") if path.is_file()} for at in folders)
    assert one == two
    assert len(one) == {"lmms-eval": 3, "vlmevalkit": 2}[format]


def test_folder_holds_benchmarks_of_several_prompt_variants(registry, tmp_path):
    names = {
        export(registry, "toy", "heldout", out=tmp_path, format="lmms-eval", settings=AskSettings(mode=mode)).name
        for mode in ("cot", "direct")
    }
    assert {path.name for path in tmp_path.iterdir()} == names


def test_export_that_cannot_be_written_leaves_nothing_behind(registry, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="could not write"):
        export(registry, "toy", "heldout", out=tmp_path / "out", format="vlmevalkit")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ConfigError, match="did you mean 'lmms-eval'"):
        export(registry, "toy", "heldout", out=tmp_path, format="lmms_eval")


def test_command_says_how_the_benchmark_is_run(registry, tmp_path, capsys):
    options = ["--format", "vlmevalkit", "--out", str(tmp_path), "--registry", str(registry), "--mode", "cot"]
    assert main(["benchmark", "export", "toy", "--split", "heldout", *options]) == 0
    printed = capsys.readouterr().out
    about = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert f"LMUData={tmp_path} python run.py --data {about['name']}" in printed
    assert str(tmp_path) not in about["how"]  # the folder is to be shared
    assert (about["settings"]["mode"], about["rows"], about["pairs"], about["episodes"]) == ("cot", 24, 12, 3)


def pixels(registry, name):
    return Image.open(registry / name).convert("RGB").tobytes()
