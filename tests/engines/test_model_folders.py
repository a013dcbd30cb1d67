"""Folders of models that others made: what is broken or hostile ends in one line that names it, and runs no code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from release_stage import adapter as write_adapter

from stcr_plugin import artefacts
from stcr_plugin.engines import chat_templates, loading
from stcr_plugin.errors import DataError

WEIGHTS = "model.safetensors"


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        values = artefacts.read_json(path) if path.is_file() else {}
        artefacts.write_json(path, {**values, **changes})

    return change


def data(file: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return change


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


def custom_code(file: str, key: str, **more: Any) -> Callable[[Path], None]:
    """A class that is in the folder: importing it leaves a file, which must never be there."""

    def change(folder: Path) -> None:
        edit(file, auto_map={key: "evil.Evil"}, **more)(folder)
        (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n", encoding="utf-8")

    return change


def sharded(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    artefacts.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": shards})


LFS = b"version https://git-lfs.github.com/spec/v1\n"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut weights": (data(WEIGHTS, lambda whole: whole[:-100]), r"model\.safetensors: is cut or damaged"),
    "no weights in the file": (data(WEIGHTS, b""), r"model\.safetensors: is cut or damaged"),
    "header of nonsense": (data(WEIGHTS, b"\x04\0\0\0\0\0\0\0[[[[" * 9), r"model\.safetensors: is cut or damaged"),
    "Git LFS pointer": (data(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid 1"), "a Git LFS pointer"),
    "Git LFS configuration": (data("config.json", LFS), r"config\.json: a Git LFS pointer"),
    "Git LFS template": (data("chat_template.jinja", LFS), r"chat_template\.jinja: a Git LFS pointer"),
    "missing shard": (sharded, r"model-00002-of-00002\.safetensors: is missing"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "not loadable as a vision-language model"),
    "link to nowhere": (
        lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("gone")),
        r"model\.safetensors: leads to no file",
    ),
    "other shapes": (
        lambda folder: edit("config.json", **other_shape(artefacts.read_json(folder / "config.json")))(folder),
        "not loadable as a vision-language model",
    ),
    "missing package": (
        edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "install the package that it names, or give the model without quantisation",
    ),
    "text as a number": (edit("config.json", vision_config={"depth": "many"}), "not loadable"),
    "list as a configuration": (data("config.json", b"[]"), "not loadable"),
    "own model": (
        custom_code("config.json", "AutoConfig", model_type="evil"),
        r"config\.json: asks for code of its own",
    ),
    "own processor": (
        custom_code("processor_config.json", "AutoProcessor", processor_class="Evil"),
        r"processor_config\.json: asks for code of its own",
    ),
    "template that is no Jinja": (template("{% for %}"), "its chat template fails: TemplateSyntaxError"),
    "template that refuses": (template("{{ raise_exception('no\nway') }}"), "its chat template fails: .*no way"),
    "template of a secret": (template("{{ ''.__class__.__mro__ }}"), "its chat template fails: SecurityError"),
    "template that loops": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "its chat template takes longer than 1 s",
    ),
    "template that fills memory": (
        template("{% set a = 'a' * (messages | length * 10 ** 11) %}{{ a | length }}"),
        "its chat template takes more than 1 GiB of memory",
    ),
    "template that never stops writing": (
        template("{% for a in range(99999) %}abc{% endfor %}"),
        "its chat template makes 299997 characters of a question of one",
    ),
    "template without pictures": (
        template("{% for message in messages %}{{ message['role'] }}{% endfor %}"),
        r"its chat template writes 0 marks \(<\|image_pad\|>\) for two pictures; copy chat_template\.jinja",
    ),
    "end of text that is no token": (
        edit("tokenizer_config.json", eos_token=None),
        r"tokenizer_config\.json: its eos_token .* is not a token; copy it from the original model",
    ),
    "tokenizer with a setting of another type": (
        edit("tokenizer_config.json", model_max_length={}),
        r"tokenizer_config\.json: cannot be used: TypeError",
    ),
    "pictures with a setting of another type": (
        lambda folder: edit(
            "processor_config.json",
            image_processor={
                **artefacts.read_json(folder / "processor_config.json")["image_processor"],
                "image_mean": ["red"],
            },
        )(folder),
        r"processor_config\.json: cannot be used: \w+Error|not loadable",
    ),
}


def other_shape(config: dict[str, Any]) -> dict[str, Any]:
    text = {**config["text_config"], "intermediate_size": 2 * config["text_config"]["intermediate_size"]}
    return {"text_config": text}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_ends_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, says = BROKEN[case]
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    change(folder)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # the answer that would run the folder's code
    monkeypatch.setattr(chat_templates, "SECONDS", 1)
    with pytest.raises(DataError, match=says) as caught:
        loading.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in caught.value.where
    assert not (folder / "ran").exists()


def test_a_processor_of_texts_alone_is_refused(model: Path) -> None:
    with pytest.raises(DataError, match=r"processor_config\.json: makes no processor of texts and pictures, but a "):
        chat_templates.try_template(loading.load_tokenizer(model), model)


@pytest.mark.parametrize(
    "change",
    [
        custom_code("config.json", "AutoModelForImageTextToText"),
        custom_code("tokenizer_config.json", "AutoTokenizer", tokenizer_class="Evil"),
        custom_code("generation_config.json", "AutoConfig"),
    ],
    ids=["model", "tokenizer", "generation"],
)
def test_where_transformers_has_a_class_that_of_the_folder_is_not_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    change(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks"))
    loading.load(folder)
    assert not (folder / "ran").exists()


# ---- adapters ----


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_adapter(model, tmp_path_factory.mktemp("adapters") / "lora"))


def over(base: str) -> Callable[[Path], None]:
    return lambda folder: edit(
        "adapter_config.json", base_model_name_or_path=base.format(folder=folder, parent=folder.parent)
    )(folder)


def ring(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    over("{parent}/link")(folder)


def without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


BROKEN_ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        r"adapter_model\.safetensors: no such file: the adapter has no weights",
    ),
    "cut weights": (
        data("adapter_model.safetensors", lambda whole: whole[:-5]),
        r"adapter_model\.safetensors: is cut or damaged",
    ),
    "lacks a weight": (without_a_tensor, "1 weights are missing"),
    "other shapes": (edit("adapter_config.json", r=8), "not loadable"),
    "own base": (over("{folder}"), r"adapter_config\.json: the adapter is its own base"),
    "own base by a link": (ring, r"adapter_config\.json: the adapter is its own base"),
    "base is gone": (over("{parent}/gone"), r"adapter_config\.json: its base model '.*/gone' is not on this machine"),
    "base is a file": (over("{folder}/adapter_config.json"), r"adapter_config\.json: its base model .* is not on this"),
    "base is an address": (over("https://example.org/model"), r"adapter_config\.json: its base model 'https:.* is not"),
    "base is of another kind": (edit("adapter_config.json", base_model_name_or_path=["a"]), r"its base is \['a'\]"),
    "no base": (edit("adapter_config.json", base_model_name_or_path=None), "its base model None is not on this"),
    "not a mapping": (data("adapter_config.json", b"[]"), r"adapter_config\.json: its base is \[\]"),
}


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_a_broken_adapter_ends_in_one_line(lora: Path, tmp_path: Path, case: str) -> None:
    change, says = BROKEN_ADAPTERS[case]
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    change(folder)
    with pytest.raises(DataError, match=says) as caught:
        loading.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in caught.value.where or str(folder.parent / "link") in caught.value.where


def test_a_whole_adapter_is_loaded_whole(lora: Path, model: Path) -> None:
    import torch

    tuned, _ = loading.load(lora)
    plain, _ = loading.load(model)
    names = json.loads((lora / "adapter_config.json").read_text())["target_modules"]
    changed = [
        name
        for (name, one), other in zip(tuned.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    assert changed
    assert all(any(part in name for part in names) for name in changed)
