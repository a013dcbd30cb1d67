import importlib.util
import re
from pathlib import Path

import pytest

from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.questions import fill_task, paraphrases, prompt, question, questions, why_unusable
from stcr_plugin.types import Pair, Query

PAIR = Pair("e:1-2", "e", "train", "stack {two} cups", 1, 2, 0.1)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", ["cot", "direct"])
def test_there_are_enough_variants_and_held_out_ones_are_not_trained_on(kind, language):
    train, heldout = paraphrases(kind, language), paraphrases(kind, language, "heldout")
    assert len(set(train)) >= 6
    assert len(set(heldout)) >= 3
    assert not set(train) & set(heldout)
    for text in train + heldout:
        assert "closer to completion: img1" in text
        assert ("spatial details: img1: ... img2: ..." in text) == (kind == "cot")
        assert "<" not in text


def test_english_variants_are_short_and_name_no_order():
    for kind, most in (("cot", 45), ("direct", 30)):
        for part in ("train", "heldout"):
            for text in paraphrases(kind, "en", part):
                words = text.lower().replace(",", " ").replace(".", " ").split()
                assert len(words) <= most, text
                assert not {"earlier", "later", "first", "second", "before", "after", "next"} & set(words), text


def test_both_orders_get_the_same_variant_and_pairs_different_ones():
    forward, backward = (prompt(Query(PAIR, order), "cot", "en", seed=0) for order in ("forward", "backward"))
    assert forward == backward
    drawn = {question("direct", "en", f"e:{number}-9", seed=0) for number in range(200)}
    assert drawn == set(paraphrases("direct", "en"))


def test_held_out_part_draws_from_the_held_out_variants():
    assert question("cot", "zh", "e:1-2", seed=0, part="heldout") in paraphrases("cot", "zh", "heldout")


def test_prompt_has_two_markers_and_the_task_as_it_is():
    text = prompt(Query(PAIR, "forward"), "direct", "en", seed=0)
    assert text.startswith("<image><image>")
    assert text.count("<image>") == 2
    assert "stack {two} cups" in text


def test_full_stop_of_a_task_is_not_doubled():
    assert fill_task("Task: {task}. Which?", "Pick up the cup. ") == "Task: Pick up the cup. Which?"
    assert fill_task("任务：{task}。", "拿起杯子。") == "任务：拿起杯子。"


def test_unknown_language_names_the_known():
    with pytest.raises(ConfigError, match="did you mean 'en'"):
        paraphrases("cot", "eng")
    assert set(questions()) == {"en", "zh"}


# In brackets in LLaMA-Factory's source, but a token of no tokenizer.
_NO_TOKENS = """<IMPORTANT> </IMPORTANT> <SYS> </SYS> <global_setting> </global_setting> <response> </response>
[IGNORE_INDEX]"""
_MARKERS = """<image> <VIDEO> <audio> <|im_end|> <|anything_new|> <｜User｜> <｜begin▁of▁sentence｜> <s> </s> <bos>
<eos> <pad> <unk> <mask> <IMG_CONTEXT> <img> </img> <box> </box> <ref> <quad> <point> <think>
</think> <answer> <tool_call> </tool_call> <tool_response> <arg_key> <start_of_turn> <end_of_turn>
<start_of_image> <image_soft_token> <fim_prefix> <fim-suffix> <|fim_middle|>
<fake_token_around_image> <global-img> <row_1_col_2> <end_of_utterance> <im_start> <im_patch>
<image_id> <slice> <unit> <loc0012> <seg001> <unused99> <extra_id_0> <reserved_106> <special_7>
<0x0A> <_user> <用户> <AI> <seed:bos> <[begin▁of▁sentence]> <|turn> <turn|> <<SYS>> <</SYS>> <sop>
<eod> <role> <function=pick> [INST] [/INST] [IMG] [IMG_BREAK] [TOOL_CALLS] [AVAILABLE_TOOLS] [THINK]
[gMASK] [PAD] [unused5]"""


@pytest.mark.parametrize("task", ["< video >", " ", *(f"put{marker}it down" for marker in _MARKERS.split())])
def test_task_with_a_marker_is_unusable(task):
    assert why_unusable(task)


def test_every_special_token_that_llamafactory_writes_is_a_marker():
    folder = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0], "data")
    source = "".join((folder / name).read_text("utf-8") for name in ("template.py", "mm_plugin.py", "tool_utils.py"))
    written = set(re.findall(r"<[|｜]?/?[\w▁:]+[|｜]?>|\[/?[A-Z]+(?:_[A-Z]+)*\]", source))
    assert len(written) > 150
    assert {text for text in written if not why_unusable(text)} <= set(_NO_TOKENS.split())


@pytest.mark.parametrize(
    "task",
    [
        "put the cup on the pad",
        "move < 3 cm",
        "把杯子放在垫子上",
        "a|b",
        "lift the <left> arm of <robot_2>",
        "put <object> into the [box] or [mask]",
        "if x<3 and y>2, press [OK]",
        "a <- b -> c <= d >= e",
        "take the image of the user to the end",
    ],
)
def test_plain_task_is_usable(task):
    assert why_unusable(task) is None
