"""The temporal template, on tokens: numbered pictures, and a loss on the answer and its end-of-turn alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_internvl import SIDE, TOKENS, write_internvl

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.errors import DataError
from stcr_plugin.frameworks.numbering import number_images

IGNORE = -100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def qwen25(checkpoint: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def qwen3(qwen25: Any) -> Any:
    """Qwen3-VL's processor with the same stand-in tokenizer: 16-pixel patches, no default system turn."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    template = "".join(qwen25.chat_template.partition("{%- for")[1:])
    image_processor = Qwen2VLImageProcessor(min_pixels=1024, max_pixels=16384, patch_size=16, merge_size=2)
    return Qwen3VLProcessor(
        image_processor=image_processor,
        tokenizer=qwen25.tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=template,
    )


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(write_internvl(tmp_path_factory.mktemp("base") / "internvl"))


def encode(name: str, processor: Any, messages: list[dict[str, str]], images: list[Any], cutoff: int = 4096) -> Any:
    """input_ids and labels as LLaMA-Factory's own supervised processor makes them with our template."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    for key, value in {"image_max_pixels": 589824, "image_min_pixels": 1024}.items():
        setattr(processor, key, value)
    data_args = DataArguments(template=name, cutoff_len=cutoff)
    template = get_template_and_fix_tokenizer(processor.tokenizer, data_args)
    template.cutoff_len = cutoff
    example = SupervisedDatasetProcessor(
        template=template, tokenizer=processor.tokenizer, processor=processor, data_args=data_args
    )
    return example._encode_data_example(messages[:-1], messages[-1:], None, None, images, [], [])


TARGET = "spatial details: img1: gripper open. img2: gripper closed.\ncloser to completion: img2"
CASES = [("stcr_qwen2_vl", "qwen25"), ("stcr_qwen3_vl", "qwen3"), ("stcr_intern_vl", "internvl")]
# 28 and 32 pixels a token; a whole picture of any size has so many with InternVL
SIDE_AND_TOKENS = {"qwen25": (84, 9), "qwen3": (64, 4), "internvl": (SIDE, TOKENS)}


@pytest.mark.parametrize(("name", "fixture"), CASES)
@pytest.mark.parametrize("n_images", [2, 3, 8])
def test_only_the_answer_and_its_end_of_turn_are_supervised(
    name: str, fixture: str, n_images: int, request: pytest.FixtureRequest
) -> None:
    processor = request.getfixturevalue(fixture)
    tokenizer = processor.tokenizer
    side, tokens = SIDE_AND_TOKENS[fixture]
    images = [Image.new("RGB", (side, side), (20 * k, 0, 0)) for k in range(n_images)]
    question = "<image>" * n_images + "Which is closer to completion?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": TARGET}]
    input_ids, labels = encode(name, processor, messages, images)

    answer = [*tokenizer.encode(TARGET, add_special_tokens=False), tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert [label for label in labels if label != IGNORE] == answer
    assert input_ids[-len(answer) :] == answer
    assert all(label == IGNORE for label in labels[: -len(answer)])
    assert processor.image_token_id not in labels
    assert input_ids.count(processor.image_token_id) == tokens * n_images


@pytest.mark.parametrize(("name", "fixture"), CASES)
@pytest.mark.parametrize("n_images", [2, 8])
def test_training_prompt_equals_the_evaluation_prompt(
    name: str, fixture: str, n_images: int, request: pytest.FixtureRequest
) -> None:
    from stcr_plugin.engines.prompts import content
    from stcr_plugin.types import Prompt, Shown

    processor = request.getfixturevalue(fixture)
    images = [Image.new("RGB", (84, 84)) for _ in range(n_images)]
    question = "Two pictures of one task: which is closer to completion? 请回答。"
    messages = [{"role": "user", "content": "<image>" * n_images + question}, {"role": "assistant", "content": TARGET}]
    input_ids, labels = encode(name, processor, messages, images)
    prompt_ids = [token for token, label in zip(input_ids, labels, strict=True) if label == IGNORE]

    labels = tuple(f"img{number}" for number in range(1, n_images + 1))
    prompt = Prompt("p", "e", "forward", shown=tuple(map(Shown, labels)), labels=labels, question=question)
    conversation = [{"role": "user", "content": content(prompt)}]
    text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    tiles = {"crop_to_patches": False} if fixture == "internvl" else {}
    assert prompt_ids == processor(text=[text], images=images, **tiles)["input_ids"][0]


@pytest.mark.parametrize(("name", "fixture"), CASES)
def test_sample_of_one_picture_is_supervised_on_its_description_alone(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    from stcr_plugin.samples.single_pictures import description, description_prompt

    processor = request.getfixturevalue(fixture)
    side, tokens = SIDE_AND_TOKENS[fixture]
    question, target = description_prompt("stack cups", "en", "a:1", seed=0), description("gripper open")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": target}]
    input_ids, labels = encode(name, processor, messages, [Image.new("RGB", (side, side))])
    answer = [*processor.tokenizer.encode(target, add_special_tokens=False)]
    answer.append(processor.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert [label for label in labels if label != IGNORE] == answer == input_ids[-len(answer) :]
    assert input_ids.count(processor.image_token_id) == tokens
    shown = processor.tokenizer.decode([one for one in input_ids if one != processor.image_token_id])
    assert shown.count("img1: ") == 3  # before the picture, in the question's format and in the answer
    assert "img2" not in shown


def test_images_are_numbered_in_order_through_all_turns() -> None:
    assert number_images(["<image><image>which?", "img1", "and <image>now?"]) == [
        "img1: <image>\nimg2: <image>\nwhich?",
        "img1",
        "and img3: <image>\nnow?",
    ]


@pytest.mark.parametrize(
    "contents",
    [["Say a colour.", "Blue.", "Another?"], ["<image>What is this?"], ["Hello.", "Hi.", "And\n<image>\nthis?"]],
    ids=["no picture", "one", "one in a later turn"],
)
def test_a_conversation_of_fewer_than_two_pictures_is_left_as_it_is(contents: list[str]) -> None:
    assert number_images(contents) == contents


def test_numbered_pictures_after_a_question_stay_after_it():
    asked = "which?\nimg1: <image>\nimg2: <image>"
    assert number_images([asked]) == [f"{asked}\n"]


@pytest.mark.parametrize("after_image", ["", "\n"])
def test_numbering_twice_changes_nothing(after_image: str) -> None:
    once = number_images(["<image>" * 8 + "order them"], after_image)
    assert number_images(once, after_image) == once
    assert "img8: <image>\n" in once[0]


def test_history_turn_keeps_its_line_feed_outside_the_loss(qwen25: Any) -> None:
    tokenizer = qwen25.tokenizer
    messages = [
        {"role": "user", "content": "<image><image>first?"},
        {"role": "assistant", "content": "img1"},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes"},
    ]
    images = [Image.new("RGB", (84, 84))] * 2
    input_ids, labels = encode("stcr_qwen2_vl", qwen25, messages, images)
    text = tokenizer.decode(input_ids)
    assert "img1<|im_end|>\n<|im_start|>user\nsure?" in text
    supervised = tokenizer.decode([label for label in labels if label != IGNORE])
    assert supervised == "img1<|im_end|>yes<|im_end|>"


def test_too_small_cutoff_names_the_length_it_needs(qwen25: Any) -> None:
    messages = [{"role": "user", "content": "<image><image>which?"}, {"role": "assistant", "content": TARGET}]
    images = [Image.new("RGB", (84, 84))] * 2
    length = len(encode("stcr_qwen2_vl", qwen25, messages, images)[0])
    assert len(encode("stcr_qwen2_vl", qwen25, messages, images, cutoff=length)[0]) == length
    with pytest.raises(DataError, match=f"takes {length} tokens but cutoff_len is {length - 1}"):
        encode("stcr_qwen2_vl", qwen25, messages, images, cutoff=length - 1)


def test_registering_twice_is_harmless() -> None:
    from llamafactory.data import template

    from stcr_plugin.frameworks.llamafactory.template import register

    before = dict(template.TEMPLATES)
    register(template)
    assert before == template.TEMPLATES
    assert before["stcr_qwen3_vl"].mm_plugin.image_token == "<|image_pad|>"


@pytest.mark.parametrize("name", ["stcr_qwen2_vl", "stcr_qwen3_vl"])
def test_image_tokens_are_counted_by_size_and_no_patch_is_made(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = request.getfixturevalue({"stcr_qwen2_vl": "qwen25", "stcr_qwen3_vl": "qwen3"}[name])
    sizes = [(84, 84), (640, 480), (333, 97), (20, 31), (3, 900), (1000, 1400), (57, 56)]
    images = [Image.new("RGB", size) for size in sizes]
    question = {"role": "user", "content": "<image>" * len(images) + "Which?"}
    messages = [question, {"role": "assistant", "content": "closer to completion: img1"}]
    ids, _ = encode(name, processor, messages, images)  # which also registers the templates
    from llamafactory.data.mm_plugin import get_mm_plugin

    plugin: Any = get_mm_plugin(name, "<|image_pad|>", "<|video_pad|>")
    made = plugin._get_mm_inputs(images, [], [], processor)["image_grid_thw"].prod(-1)
    counted = plugin._get_mm_token_metadata(images, [], [], processor)["image_grid_thw"].prod(-1)
    assert counted.tolist() == made.tolist()
    assert ids.count(processor.image_token_id) == sum(made.tolist()) // 4

    def refuse(*_: Any) -> None:
        raise AssertionError("patches were made to count tokens")

    monkeypatch.setattr(type(plugin), "_get_mm_inputs", refuse)
    assert encode(name, processor, messages, images)[0] == ids
