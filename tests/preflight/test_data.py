"""Sizes of pictures in place of pictures: the same tokens, and every picture looked at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from config_only_models import MODELS
from PIL import Image
from tiny_stage import RECIPES, Workshop

from stcr_plugin.frameworks.recipe import read_recipe
from stcr_plugin.frameworks.stcr_block import StcrSettings
from stcr_plugin.preflight import data
from stcr_plugin.preflight.data import Encoder, Size, read_data, spread_evenly
from stcr_plugin.preflight.model import Model, read_model
from stcr_plugin.preflight.resolve import Resolved, resolve


def planned(shared: Workshop, folder: Path, *more: str) -> tuple[Resolved, Model]:
    where = (f"dataset_dir={shared.registry}", "dataset=tiny_cot", f"model_name_or_path={folder}")
    args = read_recipe(RECIPES / "stage1_cot.yaml", [*where, *more])
    del args["stcr"]
    resolved = resolve({**args, "overwrite_output_dir": True}, 1)
    return resolved, read_model(resolved, StcrSettings(name="stage", mode="cot"), folder.parent)


def with_pictures(resolved: Resolved, model: Model, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """input_ids and labels of LLaMA-Factory's own processor, which opens the pictures."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer

    template = get_template_and_fix_tokenizer(model.tokenizer, resolved.data)
    template.cutoff_len = None
    encoder = SupervisedDatasetProcessor(template, model.tokenizer, model.processor, resolved.data)
    return encoder._encode_data_example(  # type: ignore[no-any-return]
        row["_prompt"], row["_response"], None, None, row["_images"], [], []
    )


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("base", "stcr_qwen2_vl"),
        pytest.param("qwen3_vl_8b", "stcr_qwen3_vl", marks=pytest.mark.slow),
        pytest.param("internvl3_8b", "stcr_intern_vl", marks=pytest.mark.slow),
    ],
)
def test_sizes_give_the_tokens_that_pictures_give(name: str, template: str, shared: Workshop, tmp_path: Path) -> None:
    folder = shared.base if name == "base" else MODELS[name](tmp_path / name)
    resolved, model = planned(shared, folder, f"template={template}", "cutoff_len=8192")
    pictures = [tmp_path / "1.png", tmp_path / "2.png"]
    sizes = [Size(200, 90), Size(84, 120)]
    for path, size in zip(pictures, sizes, strict=True):
        Image.new("RGB", (size.width, size.height), (9, 90, 200)).save(path)
    row = {
        "_prompt": [{"role": "user", "content": "<image><image>Which?"}],
        "_response": [{"role": "assistant", "content": "closer to completion: img2"}],
        "_images": [str(path) for path in pictures],
        **dict.fromkeys(("_system", "_tools", "_videos", "_audios")),
    }
    encoder = Encoder(resolved, model)
    ((ids, labels),) = encoder.tokens(row, sizes)
    assert (ids, labels) == tuple(map(list, with_pictures(resolved, model, row)))
    ((sample, fault),) = encoder.encode("here", row, sizes)
    assert fault == ""
    assert (sample.tokens, sample.supervised, sample.pictures) == (len(ids), sum(label != -100 for label in labels), 2)
    assert sample.patches == ids.count(model.config.image_token_id) * model.merge


def test_every_row_and_picture_of_a_build_is_read(shared: Workshop) -> None:
    resolved, model = planned(shared, shared.base)
    rows = json.loads((shared.registry / "tiny" / "tiny_cot.json").read_text())
    found = read_data(resolved, model)
    assert found.rows == {"tiny_cot": len(rows)}
    assert len(found.samples) == len(rows)
    assert found.pictures == found.decoded == len({image for row in rows for image in row["images"]})
    assert found.faults == ()
    assert found.largest == 84 * 84


@pytest.mark.slow
def test_processes_see_what_one_sees(shared: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(str(path) for path in shared.registry.rglob("*.png"))[:200]
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(paths[0]).read_bytes()[:-100])
    paths.append(str(cut))
    alone = data._look(paths, "", set(paths), sums={})
    monkeypatch.setattr(data, "_WORTH_A_PROCESS", 50)
    assert data._look(paths, "", set(paths), sums={}) == alone
    assert [path for path, look in alone.items() if look.fault] == [str(cut)]
    # A look at the head alone passes a cut picture.
    assert not data._look(paths, "", set(), sums={})[str(cut)].fault


def test_spread_takes_the_first_and_as_many_as_asked() -> None:
    assert spread_evenly(range(10), 3) == [0, 3, 6]
    assert spread_evenly(range(2), 3) == [0, 1]
    assert spread_evenly("abc", None) == ["a", "b", "c"]


def test_pictures_that_training_would_show_as_stored_are_named(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "phone.jpg", exif=exif)
    Image.new("I;16", (30, 40)).save(tmp_path / "depth.png")
    paths = [str(tmp_path / name) for name in ("phone.jpg", "depth.png")]
    turned, deep = data._look(paths, "", set(paths), sums={}).values()
    assert (turned.size, turned.kind) == ((30, 40), "turned")
    assert turned.fault == "is marked as held in another way (EXIF orientation 6)"
    assert deep.kind == "picture"
    assert deep.fault.startswith("its pixels have mode 'I;16', not 8-bit colours")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ["a.png", None]}, "row 2 has a null, or another value that is not a path, in its images"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}]},
            "row 2 has content in parts, as OpenAI's API takes it",
        ),
    ],
)
def test_row_that_llamafactory_cannot_convert_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    row = {"messages": [{"role": "user", "content": "<image><image>Which?"}], "images": ["a.png", "b.png"]}
    (tmp_path / "rows.json").write_text(json.dumps([row, row | change]))
    entry = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert data._broken_row("mine", tmp_path).startswith(words)
