import hashlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from stcr_plugin.base import Architecture, BaseConfig, build, write_checkpoint
from stcr_plugin.config import from_mapping, load
from stcr_plugin.errors import ChainError, ConfigError
from stcr_plugin.evaluation.engine import numbered_content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def processor(checkpoint):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def model(checkpoint):
    from transformers import AutoModel

    loaded, info = AutoModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    return loaded


def sums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_checkpoint_is_a_qwen2_5_vl_of_about_a_million_parameters(checkpoint, model):
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == [
        "Qwen2_5_VLForConditionalGeneration"
    ]
    assert 0.8e6 < sum(weight.numel() for weight in model.parameters()) < 1.3e6
    assert (checkpoint / "model.safetensors").stat().st_size < 6e6


def test_tokens_of_the_processor_are_those_of_the_model(model, processor):
    token = processor.tokenizer.convert_tokens_to_ids
    assert len(processor.tokenizer) == model.config.get_text_config().vocab_size
    assert model.config.image_token_id == token("<|image_pad|>")
    assert model.config.video_token_id == token("<|video_pad|>")
    assert model.config.vision_start_token_id == token("<|vision_start|>")
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_answers_differ_in_exactly_one_token(processor):
    first, second = (
        processor.tokenizer(f"closer to completion: {image}<|im_end|>")["input_ids"] for image in ("img1", "img2")
    )
    assert len(first) == len(second)
    assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
    assert [processor.tokenizer.decode([ids[-2]]) for ids in (first, second)] == ["1", "2"]


@pytest.mark.parametrize("text", ["gripper open, 12 cm from the red cube", "把杯子放在垫子上 3 厘米", "é\n\tß 😀"])
def test_tokenizer_gives_every_text_back(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_prompt_numbers_the_pictures_and_opens_the_answer(processor):
    message = {"role": "user", "content": numbered_content(2, "Which?")}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nimg1: {picture}\nimg2: {picture}\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_picture_of_84_pixels_is_nine_tokens(processor):
    pictures = [Image.new("RGB", (84, 84), colour) for colour in ("red", "blue")]
    text = "<|vision_start|><|image_pad|><|vision_end|>" * 2
    inputs = processor(text=[text], images=pictures, return_tensors="pt")
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (inputs["input_ids"] == image_token).sum() == 18


def test_same_seed_same_bytes_other_seed_other_weights(checkpoint, tmp_path):
    assert sums(write_checkpoint(tmp_path / "again")) == sums(checkpoint)
    other = sums(write_checkpoint(tmp_path / "other", seed=1))
    assert {name for name, value in sums(checkpoint).items() if other[name] != value} == {"model.safetensors"}


def test_random_state_of_the_caller_is_left_alone(tmp_path):
    import torch

    before = torch.get_rng_state()
    write_checkpoint(tmp_path / "base", Architecture(hidden=48, layers=1, vision_depth=1, mrope_section=(2, 2, 2)))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("existed", [False, True])
def test_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch, existed):
    from transformers import Qwen2_5_VLForConditionalGeneration

    out = tmp_path / "base"
    before = sums(write_checkpoint(out)) if existed else None

    def full(self, folder, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Qwen2_5_VLForConditionalGeneration, "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            write_checkpoint(out, seed=1)
    assert (sums(out) if out.exists() else None) == before
    write_checkpoint(out, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


# ---- stcr base build ----


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(f"out: {tmp_path / 'base'}\nprior: prior.yaml\ngap_over: 70\npretraining: null\n")
    return str(path)


def trained(gap, calls, when="after"):
    """What stands for `stcr train`: it leaves the record of a stage with this gap."""

    def train(recipe, overrides):
        calls.append((recipe, list(overrides)))
        values = dict(text.split("=", 1) for text in overrides)
        out, start = values["output_dir"], values["model_name_or_path"]
        shutil.copytree(start, out, dirs_exist_ok=True)
        figures = [{"when": "before", "gap_points": 99.0}, {"when": when, "gap_points": gap}]
        with open(f"{out}/stage.json", "w") as file:
            json.dump({"name": "base", "finished": True, "figures": figures}, file)

    return train


def test_prior_is_trained_into_the_random_checkpoint_once(config, tmp_path):
    calls = []
    assert build(config, ["seed=3"], "sets", trained(95.0, calls)) == tmp_path / "base"
    ((recipe, overrides),) = calls
    assert recipe == "prior.yaml"
    assert {"seed=3", "dataset_dir=sets", f"output_dir={tmp_path / 'base'}"} <= set(overrides)
    assert (tmp_path / "base_random" / "model.safetensors").is_file()
    build(config, ["seed=3"], "sets", trained(95.0, calls))
    assert len(calls) == 1, "a finished base was trained again"


@pytest.mark.parametrize("gap", [70.0, 12.5, -95.0])
def test_base_without_the_order_bias_is_refused(config, gap):
    with pytest.raises(ChainError, match=rf"the prior's gap is {gap} points, not over 70; raise max_steps"):
        build(config, [], "sets", trained(gap, []))


def test_base_whose_gap_was_not_measured_is_refused(config):
    with pytest.raises(ChainError, match=r"no gap was measured.*evaluate.after"):
        build(config, [], "sets", trained(95.0, [], when="step 10"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"out": "x"}, "'prior' is missing"),
        ({"out": "x", "prior": "y", "sed": 1}, "unknown key 'sed', did you mean 'seed'"),
        ({"out": "x", "prior": "y", "architecture": {"layer": 2}}, "'architecture.layer', did you mean 'layers'"),
        ({"out": "x", "prior": "y", "architecture": {"mrope_section": [4, 4]}}, "architecture.mrope_section"),
    ],
)
def test_bad_configuration_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(BaseConfig, values, "test")


def test_recipe_of_the_embedded_base_loads():
    path = Path(__file__).parents[1] / "recipes" / "base_tabletop.yaml"
    assert load(BaseConfig, path).gap_over >= 70
