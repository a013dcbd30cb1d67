import dataclasses
import random

import numpy as np
import pytest
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines import local, picture_loading
from stcr_plugin.engines.loading import load
from stcr_plugin.engines.local import respond
from stcr_plugin.engines.picture_loading import fit, fitted_size
from stcr_plugin.engines.prompts import answer_tokens, content, prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Pair, Prompt, Query, Shown


@pytest.fixture(scope="module")
def loaded(model):
    return load(model)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Pictures of three sizes, so that prompts differ in length."""
    folder = tmp_path_factory.mktemp("registry")
    random = np.random.default_rng(0)
    for number in range(3):
        for name in ("earlier", "later"):
            pixels = random.integers(0, 256, (84, 56 + 28 * number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}_{name}.png")
    return folder


def queries():
    pairs = [
        Pair(
            f"p{i}",
            "e0",
            "test",
            "put the cube {in} the bowl" + " and wait" * 4 * i,
            0,
            9,
            0.9,
            earlier_image=f"{i}_earlier.png",
            later_image=f"{i}_later.png",
        )
        for i in range(3)
    ]
    return [Query(pair, order) for pair in pairs for order in ORDERS]


def ask(loaded, registry, settings, chosen=None, ties=False, **more):
    chosen = queries() if chosen is None else chosen
    prompts = prompts_for(chosen, settings, ties=ties)
    said = dict(respond(*loaded, prompts, registry=registry, settings=settings, progress=False, **more))
    return [answered(query, prompts[number], said[number]) for number, query in enumerate(chosen)]


def questions_for(chosen, settings, seed=0, ties=False):
    return [prompt.question for prompt in prompts_for(chosen, settings, seed, ties)]


def numbered_content(pictures, question):
    names = tuple(f"img{number}" for number in range(1, pictures + 1))
    return content(Prompt("p", "e", "forward", names, names, question))


def endings(tokenizer, ties=False):
    return answer_tokens(tokenizer, prompts_for(queries()[:1], AskSettings(), ties=ties)[0])


def test_pictures_are_numbered_and_the_question_comes_last():
    parts = numbered_content(3, "which?")
    assert parts == [
        {"type": "text", "text": "img1: "},
        {"type": "image"},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image"},
        {"type": "text", "text": "\nimg3: "},
        {"type": "image"},
        {"type": "text", "text": "\nwhich?"},
    ]


def test_prompt_reads_as_the_training_template(loaded):
    _, processor = loaded
    message = {"role": "user", "content": numbered_content(2, "which?")}
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nimg1: {picture}\nimg2: {picture}\nwhich?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_question_holds_the_task_and_is_the_same_in_both_orders():
    texts = questions_for(queries(), AskSettings())
    assert texts[0] == texts[1]
    assert "put the cube {in} the bowl" in texts[0]
    assert "{task}" not in "".join(texts)
    assert questions_for(queries(), AskSettings(mode="cot")) != texts
    assert not set(questions_for(queries(), AskSettings(part="heldout"))) & set(texts)


def test_left_padding_changes_no_log_probability(loaded, registry):
    together = ask(loaded, registry, AskSettings())
    alone = ask(loaded, registry, AskSettings(batch_size=1))
    for one, other in zip(together, alone, strict=True):
        assert one.logprob_img1 == pytest.approx(other.logprob_img1, abs=1e-4)
        assert one.logprob_img2 == pytest.approx(other.logprob_img2, abs=1e-4)
        assert one.chosen == other.chosen
    assert len({one.logprob_img1 for one in together}) == len(together)  # each query was really looked at


def test_left_padding_changes_no_generated_text(loaded, registry):
    settings = AskSettings(mode="cot", max_new_tokens=12)
    together = ask(loaded, registry, settings)
    assert [one.text for one in together] == [
        one.text for one in ask(loaded, registry, dataclasses.replace(settings, batch_size=1))
    ]
    assert len({one.text for one in together}) > 1
    assert {one.logprob_img1 for one in together} == {None}


def test_direct_answer_is_the_likelier_of_the_two_full_texts(loaded, registry):
    """The compared token against the whole answer scored token by token in an unpadded forward of its own."""
    import torch

    model, processor = loaded
    settings = AskSettings()
    query = queries()[0]
    shared, rests = endings(processor.tokenizer)
    content = numbered_content(2, questions_for([query], settings)[0])
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pictures = [fit(Image.open(registry / path), 768 * 768, 32 * 32) for path in query.images]
    scores = []
    for image in ("img1", "img2"):
        text = prompt + f"closer to completion: {image}<|im_end|>"
        inputs = processor(text=[text], images=pictures, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0]
        assert ids[-len(shared) - 2 : -2].tolist() == shared
        scores.append(logits[-3, ids[-2]].item())
    found = ask(loaded, registry, settings, [query])[0]
    assert (found.logprob_img1, found.logprob_img2) == pytest.approx(tuple(scores), abs=1e-4)
    assert found.text == f"closer to completion: {found.chosen}"
    assert found.chosen == ("img1" if scores[0] > scores[1] else "img2")
    assert rests["img1"] != rests["img2"]


def test_question_before_the_pictures_is_scored_as_a_conversation_in_that_order(loaded, registry):
    import torch

    model, processor = loaded
    query = queries()[0]
    prompt = dataclasses.replace(prompts_for([query], AskSettings())[0], question_first=True)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{prompt.question}\nimg1: {picture}\nimg2: {picture}<|im_end|>\n<|im_start|>assistant\n"
    )
    pictures = [fit(Image.open(registry / path), 768 * 768, 32 * 32) for path in query.images]
    scores = []
    for name in prompt.names:
        whole = f"{text}closer to completion: {name}<|im_end|>"
        inputs = processor(text=[whole], images=pictures, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**inputs).logits[0].log_softmax(-1)[-3, inputs["input_ids"][0][-2]].item())
    said = dict(respond(*loaded, [prompt], registry=registry, settings=AskSettings(), progress=False))
    assert list(said[0].logprobs.values()) == pytest.approx(scores, abs=1e-4)
    usual = ask(loaded, registry, AskSettings(), [query])[0]
    assert said[0].logprobs["img1"] != pytest.approx(usual.logprob_img1, abs=1e-4)


def prompt_and_pictures(processor, registry, query, ties):
    content = numbered_content(2, questions_for([query], AskSettings(), ties=ties)[0])
    message = {"role": "user", "content": content}
    prompt = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return prompt, [fit(Image.open(registry / path), 768 * 768, 32 * 32) for path in query.images]


def test_two_answers_are_compared_to_the_last_digit_as_one_token_of_one_forward(loaded, registry):
    import torch

    model, processor = loaded
    query = queries()[1]
    shared, rests = endings(processor.tokenizer)
    assert [len(tokens) for tokens in rests.values()] == [1, 1]
    prompt, pictures = prompt_and_pictures(processor, registry, query, ties=False)
    inputs = dict(processor(text=[prompt], images=pictures, return_tensors="pt"))
    for name, tail in (("input_ids", shared), ("attention_mask", [1] * len(shared)), ("mm_token_type_ids", None)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.tensor([tail or [0] * len(shared)])], dim=1)
    with torch.no_grad():
        logprobs = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)[0]
    found = ask(loaded, registry, AskSettings(), [query])[0]
    assert found.logprob_img1 == logprobs[rests["img1"][0]].item()
    assert found.logprob_img2 == logprobs[rests["img2"][0]].item()
    assert found.logprob_neither is None


@pytest.fixture(params=["one token", "pieces"])
def written(request, loaded, monkeypatch):
    """(shared tokens, choice -> its tokens), with "neither" as this tokenizer writes it and as another might."""
    tokenizer = loaded[1].tokenizer
    shared, rests = endings(tokenizer, ties=True)
    assert len(rests["neither"]) == 1
    if request.param == "pieces":
        pieces = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in (" n", "ei", "ther")]
        rests["neither"] = [token for piece in pieces for token in piece]
        assert len(rests["neither"]) >= 3
        monkeypatch.setattr(local, "answer_tokens", lambda *arguments: (shared, rests))
    return shared, rests


def test_three_answers_are_compared_by_their_whole_names(loaded, registry, written):
    """Against each answer's name scored token by token in an unpadded forward of its own."""
    import torch

    model, processor = loaded
    shared, rests = written
    shown = queries()[:3]
    found = ask(loaded, registry, AskSettings(), shown, ties=True)
    for query, given_answer in zip(shown, found, strict=True):
        prompt, pictures = prompt_and_pictures(processor, registry, query, ties=True)
        scores = {}
        for choice, tokens in rests.items():
            inputs = dict(processor(text=[prompt], images=pictures, return_tensors="pt"))
            tail = [*shared, *tokens]
            added = {"input_ids": tail, "attention_mask": [1] * len(tail), "mm_token_type_ids": [0] * len(tail)}
            for name in added.keys() & inputs.keys():
                inputs[name] = torch.cat([inputs[name], torch.tensor([added[name]])], dim=1)
            with torch.no_grad():
                logprobs = model(**inputs).logits[0].log_softmax(-1)
            before = range(-len(tokens) - 1, -1)
            scores[choice] = sum(logprobs[at, token].item() for at, token in zip(before, tokens, strict=True))
        given = (given_answer.logprob_img1, given_answer.logprob_img2, given_answer.logprob_neither)
        assert given == pytest.approx(tuple(scores.values()), abs=1e-3)
        assert given_answer.chosen == max(scores, key=scores.get)
        assert given_answer.text == f"closer to completion: {given_answer.chosen}"


def test_one_forward_is_run_for_each_beginning_that_no_longer_one_covers(loaded, registry, written, monkeypatch):
    model, _ = loaded
    calls = []
    real = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: calls.append(1) or real(**inputs))
    ask(loaded, registry, AskSettings(), queries()[:2], ties=True)
    assert len(calls) == (1 if len(written[1]["neither"]) == 1 else 2)


def test_word_of_one_token_is_compared_where_it_leaves_the_images():
    words = {"closer to completion:": 1, " img": 2, "1": 3, "2": 4, " neither": 5, "<|im_end|>": 6}

    def tokenizer(text, add_special_tokens):
        ids = []
        while text:
            word = max((word for word in words if text.startswith(word)), key=len)
            ids.append(words[word])
            text = text[len(word) :]
        return {"input_ids": ids}

    assert endings(tokenizer, ties=True) == ([1], {"img1": [2, 3], "img2": [2, 4], "neither": [5]})
    assert endings(tokenizer) == ([1, 2], {"img1": [3], "img2": [4]})


def test_questions_offer_neither_where_ties_are_taught_as_training_does():
    from stcr_plugin.samples.weak import weak_sample

    plain, offering = (questions_for(queries(), AskSettings(), seed=3, ties=ties) for ties in (False, True))
    assert not any("neither" in text for text in plain)
    for query, text in zip(queries(), offering, strict=True):
        assert "the answer is neither" in text
        assert weak_sample(query, "en", seed=3, ties=True).prompt == "<image><image>" + text


@pytest.mark.slow(seconds=1)
def test_model_that_has_learned_neither_gives_it_in_both_ways(loaded, registry):
    import copy

    import torch

    model, processor = copy.deepcopy(loaded[0]), loaded[1]
    prompt, pictures = prompt_and_pictures(processor, registry, queries()[0], ties=True)
    said = "closer to completion: neither<|im_end|>"
    inputs = processor(text=[prompt + said], images=pictures, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, : -len(processor.tokenizer(said)["input_ids"])] = -100
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        model(**inputs, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    tied = [
        dataclasses.replace(query, pair=dataclasses.replace(query.pair, closer="neither")) for query in queries()[:2]
    ]
    for settings in (AskSettings(), AskSettings(generate=True, max_new_tokens=40)):
        found = ask((model, processor), registry, settings, tied, ties=True)
        assert [one.text for one in found] == ["closer to completion: neither"] * 2
        assert [one.chosen for one in found] == ["neither"] * 2
        assert all(one.right for one in found)


@pytest.mark.slow(seconds=1)
def test_model_that_has_learned_an_answer_gives_it_in_both_ways(loaded, registry):
    """A few steps on "img1" whatever is shown: comparing and generating both say so, and stop at the turn's end."""
    import copy

    import torch

    model, processor = copy.deepcopy(loaded[0]), loaded[1]
    content = numbered_content(2, questions_for(queries(), AskSettings())[0])
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pictures = [Image.open(registry / path).convert("RGB") for path in queries()[0].images]
    inputs = processor(text=[prompt + "closer to completion: img1<|im_end|>"], images=pictures, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, : -len(processor.tokenizer("closer to completion: img1<|im_end|>")["input_ids"])] = -100
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        model(**inputs, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    for settings in (AskSettings(), AskSettings(generate=True, max_new_tokens=40), AskSettings(mode="cot")):
        found = ask((model, processor), registry, settings, queries()[:2])
        assert [one.text for one in found] == ["closer to completion: img1"] * 2
        assert [(one.right, one.lost) for one in found] == [(False, ""), (True, "")]
    short = ask((model, processor), registry, AskSettings(generate=True, max_new_tokens=3), queries()[:2])
    assert [(one.chosen, one.lost) for one in short] == [(None, "cut")] * 2


def test_checkpoints_repetition_penalty_and_sampling_are_not_used(loaded, registry):
    model, _ = loaded
    settings = AskSettings(mode="cot", max_new_tokens=8)
    plain = [one.text for one in ask(loaded, registry, settings)]
    before = model.generation_config.to_dict()
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0)
    try:
        assert [one.text for one in ask(loaded, registry, settings)] == plain
    finally:
        model.generation_config.update(**before)


def test_what_is_said_streams_out_a_batch_at_a_time(loaded, registry, monkeypatch):
    batches = []
    real = local._responses
    monkeypatch.setattr(local, "_responses", lambda ask, batch: batches.append(len(batch)) or real(ask, batch))
    prompts = prompts_for(queries(), AskSettings())
    stream = respond(*loaded, prompts, registry=registry, settings=AskSettings(batch_size=4), progress=False)
    assert next(stream)[0] == 0
    assert batches == [4]
    assert [number for number, _ in stream] == [1, 2, 3, 4, 5]
    assert batches == [4, 2]


def test_prompts_of_several_kinds_at_once_are_each_said_as_alone(loaded, registry):
    settings = AskSettings(max_new_tokens=6)
    kinds = [
        prompts_for(queries(), kind)[number]
        for number, kind in enumerate(
            (settings, dataclasses.replace(settings, mode="cot"), dataclasses.replace(settings, style="letters"))
        )
    ]
    bare = dataclasses.replace(kinds[0], item="bare", shown=())
    begun = dataclasses.replace(kinds[0], item="begun", begin="spatial details: img1: open. img2: closed.\n")
    mixed = [*kinds, bare, begun]
    found = dict(respond(*loaded, mixed, registry=registry, settings=settings, progress=False))
    for number, prompt in enumerate(mixed):
        ((_, alone),) = respond(*loaded, [prompt], registry=registry, settings=settings, progress=False)
        assert found[number].text == alone.text
        assert found[number].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert set(found[number].logprobs) == (set() if prompt.reasons else set(prompt.names))
    assert found[0].logprobs != pytest.approx(found[4].logprobs, abs=1e-3)


def test_picture_shown_twice_is_encoded_once_and_nothing_changes(loaded, registry, monkeypatch):
    """Against the processor's own way, in which every prompt brings its pictures."""
    model, processor = loaded
    prompts = prompts_for(queries(), AskSettings())
    encoded = []
    hook = model.model.visual.register_forward_hook(
        lambda _module, arguments, keywords, _output: encoded.append(len(keywords["grid_thw"])), with_kwargs=True
    )
    shared = dict(respond(model, processor, prompts, registry=registry, settings=AskSettings(), progress=False))
    names = list(processor.model_input_names)
    monkeypatch.setattr(type(processor), "model_input_names", ["input_ids"])
    apart = dict(respond(model, processor, prompts, registry=registry, settings=AskSettings(), progress=False))
    hook.remove()
    assert "image_grid_thw" in names
    assert encoded == [6, 12]
    for number in shared:
        assert shared[number].logprobs == pytest.approx(apart[number].logprobs, abs=1e-5)


@pytest.mark.parametrize("change", ["mirror", "blank", "noise"])
def test_picture_is_changed_as_asked_and_keeps_its_size(registry, change):
    pictures = picture_loading.Pictures(registry, AskSettings())
    plain, changed = (np.asarray(pictures.open(Shown("1_later.png", how), "p1")) for how in ("", change))
    assert changed.shape == plain.shape
    expected = {"mirror": plain[:, ::-1], "blank": np.full_like(plain, 128)}.get(change)
    if expected is None:
        assert not np.array_equal(changed, plain)
        again = np.asarray(pictures.open(Shown("1_later.png", change), "p1"))
        other = np.asarray(pictures.open(Shown("1_earlier.png", change), "p1"))
        assert np.array_equal(changed, again)
        assert not np.array_equal(changed, other)
    else:
        assert np.array_equal(changed, expected)


def test_pictures_swap_with_the_order(loaded, registry):
    """Both frames the same file: the two orders are then one and the same question."""
    query = queries()[0]
    same = dataclasses.replace(query.pair, later_image=query.pair.earlier_image)
    forward, backward = ask(loaded, registry, AskSettings(), [Query(same, order) for order in ORDERS])
    assert forward.logprob_img1 == pytest.approx(backward.logprob_img1, abs=1e-5)


def test_cut_picture_is_named_with_its_pair(loaded, registry, tmp_path):
    whole = (registry / "0_earlier.png").read_bytes()
    (tmp_path / "0_earlier.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "0_later.png").write_bytes(whole)
    with pytest.raises(DataError, match=r"0_earlier\.png.*pair p0.*write the dataset again"):
        ask(loaded, tmp_path, AskSettings(), queries()[:1])


def test_missing_picture_and_path_outside_are_refused(loaded, tmp_path):
    with pytest.raises(DataError, match="pair p0"):
        ask(loaded, tmp_path, AskSettings(), queries()[:1])
    outside = dataclasses.replace(queries()[0].pair, earlier_image="../secret.png")
    with pytest.raises(DataError, match="leaves its folder"):
        ask(loaded, tmp_path, AskSettings(), [Query(outside, "forward")])


@pytest.mark.parametrize("size", [(84, 84), (2000, 1500), (10, 10), (4, 900), (5000, 20), (20, 5000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_are_sized_as_llamafactory_does(size, mode):
    from llamafactory.data.mm_plugin import Qwen2VLPlugin

    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    plugin = Qwen2VLPlugin(image_token="<|image_pad|>", video_token="<|video_pad|>", audio_token=None)
    theirs = plugin._preprocess_image(picture, image_max_pixels=768 * 768, image_min_pixels=32 * 32)
    ours = fit(picture, 768 * 768, 32 * 32)
    assert ours.mode == "RGB"
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_missing_folder_and_folder_without_model_are_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not loadable"):
        load(tmp_path)


def test_checkpoint_that_lacks_weights_is_refused(model, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    name = sorted(name for name in weights if "layers.1" in name)[0]
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="1 weights are missing"):
        load(folder)


def test_adapter_is_merged_into_its_base(model, registry, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, processor = load(model)
    plain = ask((model, processor), registry, AskSettings())
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    expected = [one.logprob_img1 for one in ask((tuned, processor), registry, AskSettings())]
    found = [one.logprob_img1 for one in ask(load(tmp_path / "adapter"), registry, AskSettings())]
    assert found == pytest.approx(expected, abs=1e-4)
    assert found != pytest.approx([one.logprob_img1 for one in plain], abs=1e-3)


def test_adapter_without_its_base_is_told(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gone/base"}')
    with pytest.raises(DataError, match=r"gone/base.*base_model_name_or_path"):
        load(tmp_path)


def test_answer_that_another_begins_with_is_refused():
    def tokenizer(text, add_special_tokens):
        return {"input_ids": [ord(sign) for sign in text]}

    prompt = dataclasses.replace(prompts_for(queries()[:1], AskSettings())[0], names=("img1", "img12"))
    with pytest.raises(ConfigError, match="generate: true"):
        answer_tokens(tokenizer, prompt)


@pytest.mark.parametrize("style", ["letters", "ordinals", "frames"])
def test_names_of_other_styles_are_compared_by_all_their_tokens(loaded, registry, style):
    """Against each name scored token by token in an unpadded forward of its own."""
    import torch

    model, processor = loaded
    settings = AskSettings(style=style)
    prompt = prompts_for(queries()[:1], settings)[0]
    ((_, said),) = respond(model, processor, [prompt], registry=registry, settings=settings, progress=False)
    shared, rests = answer_tokens(processor.tokenizer, prompt)
    message = {"role": "user", "content": content(prompt)}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    pictures = [fit(Image.open(registry / one.image), 768 * 768, 32 * 32) for one in prompt.shown]
    for name, tokens in rests.items():
        inputs = processor(text=[text + f"closer to completion: {name}"], images=pictures, return_tensors="pt")
        ids = inputs["input_ids"][0]
        assert ids[-len(tokens) - len(shared) :].tolist() == [*shared, *tokens]
        with torch.no_grad():
            logits = model(**inputs).logits[0].log_softmax(-1)
        score = sum(logits[at - 1, ids[at]].item() for at in range(len(ids) - len(tokens), len(ids)))
        assert said.logprobs[name] == pytest.approx(score, abs=1e-3)


def test_question_is_the_one_of_training_also_for_a_task_with_a_full_stop():
    from stcr_plugin.samples.weak import weak_sample

    dotted = [
        dataclasses.replace(query, pair=dataclasses.replace(query.pair, task="pick up the bottle."))
        for query in queries()
    ]
    for query, text in zip(dotted, questions_for(dotted, AskSettings(), seed=3), strict=True):
        assert weak_sample(query, "en", seed=3).prompt == "<image><image>" + text
        assert ".." not in text


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="unknown key 'batch_sice', did you mean 'batch_size'"):
        from_mapping(AskSettings, {"batch_sice": 2}, "test")
    for values in ({"image_max_pixels": 100, "image_min_pixels": 101}, {"image_max_pixels": 0}):
        with pytest.raises(ConfigError, match="image_min_pixels <= image_max_pixels must hold"):
            from_mapping(AskSettings, values, "test")
    with pytest.raises(ConfigError, match="batch_size"):
        from_mapping(AskSettings, {"batch_size": 0}, "test")
    with pytest.raises(ConfigError, match="mode"):
        from_mapping(AskSettings, {"mode": "guess"}, "test")


def test_the_size_of_a_fitted_picture_is_told_without_it():
    draw = random.Random(0)
    sizes = [(draw.randint(1, 900), draw.randint(1, 900)) for _ in range(200)] + [(9000, 3), (2, 7000), (1, 1)]
    for size in sizes:
        most, least = draw.choice([(7056, 784), (589824, 1024), (4000, 3900)])
        assert fitted_size(size, most, least) == fit(Image.new("L", size), most, least).size
