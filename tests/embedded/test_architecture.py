"""The embedded checkpoint: what it is, that it is the same for the same seed, and whole or not there."""

import hashlib
import json

import pytest
from PIL import Image

from stcr_plugin.artefacts import digest
from stcr_plugin.embedded.architecture import Architecture, _prompt_texts, write_checkpoint
from stcr_plugin.engines.prompts import content
from stcr_plugin.errors import DataError
from stcr_plugin.types import Prompt, Shown


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
    message = {
        "role": "user",
        "content": content(Prompt("p", "e", "forward", (Shown("a"), Shown("b")), ("img1", "img2"), "Which?")),
    }
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
def test_folder_appears_whole_or_not_at_all(model, tmp_path, monkeypatch, existed):
    from transformers import Qwen2_5_VLForConditionalGeneration

    out = tmp_path / "base"
    before = sums(write_checkpoint(out)) if existed else None

    def full(self, folder, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Qwen2_5_VLForConditionalGeneration, "save_pretrained", full)
        with pytest.raises(DataError) as caught:
            write_checkpoint(out, seed=1)
    assert (sums(out) if out.exists() else None) == before
    assert list(tmp_path.iterdir()) == [out] * existed, "a part was left on the full disk"
    weights = sum(weight.nbytes for weight in model.parameters())
    assert str(caught.value).startswith(f"{out}: no space is left for it: about {weights / 1e6:.1f} MB are to be")
    write_checkpoint(out, seed=1)
    assert list(tmp_path.iterdir()) == [out]


def test_the_tokenizer_is_trained_on_the_texts_of_the_published_bases():
    """A text added under samples/prompts would change every base, and with it every published figure."""
    assert digest(list(_prompt_texts())) == "f2d9640e74ee51f60efcf50b632fd75b22d2ca1663e6364af4db9ec5562f9059"
