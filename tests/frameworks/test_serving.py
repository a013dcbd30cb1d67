"""What is passed on in inference; tests/evaluation/test_engines.py asks the real `llamafactory-cli api`."""

from types import SimpleNamespace

import pytest
import torch

from stcr_plugin.frameworks.llamafactory.chat_hook import pass_token_types

PROCESSOR = SimpleNamespace(
    model_input_names=["input_ids", "mm_token_type_ids"], image_token_id=7, video_token_id=8, tokenizer=None
)
OURS = SimpleNamespace(mm_plugin=SimpleNamespace(media_dir=""))
STOCK = SimpleNamespace(mm_plugin=SimpleNamespace())


def processed(template, processor, **already):
    """What a wrapped engine hands to `generate`."""

    class HuggingfaceEngine:
        @staticmethod
        def _process_args(model, tokenizer, processor, template, messages):
            return {"inputs": torch.tensor([[1, 7, 7, 2, 8]]), **already}, 5

    module = SimpleNamespace(HuggingfaceEngine=HuggingfaceEngine)
    pass_token_types(module)
    found, length = module.HuggingfaceEngine._process_args(None, None, processor, template, messages=[])
    assert length == 5
    return {key: value.tolist() for key, value in found.items() if key != "inputs"}


def test_picture_and_video_tokens_are_named_under_our_templates():
    assert processed(OURS, PROCESSOR) == {"mm_token_type_ids": [[0, 1, 1, 0, 2]]}


@pytest.mark.parametrize(
    ("template", "processor"),
    [(STOCK, PROCESSOR), (OURS, SimpleNamespace(model_input_names=["input_ids"])), (OURS, None)],
    ids=["another template", "transformers 4", "no processor"],
)
def test_elsewhere_nothing_is_added(template, processor):
    assert processed(template, processor) == {}


def test_what_a_later_version_passes_itself_is_left_as_it_is():
    assert processed(OURS, PROCESSOR, mm_token_type_ids=torch.tensor([9])) == {"mm_token_type_ids": [9]}


def test_version_without_such_an_engine_is_left_alone():
    module = SimpleNamespace()
    pass_token_types(module)
    assert vars(module) == {}
