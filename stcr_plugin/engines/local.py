"""Prompts -> responses of a live transformers vision-language model (Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.loading import device, load
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.prompts import answer_tokens, conversation, end_of_turn, generates, likeliest, written
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.types import Prompt, Response

CODE = (
    "engines/local.py",
    "engines/loading.py",
    "engines/picture_changes.py",
    "engines/picture_loading.py",
    "engines/prompts.py",
)
"""The modules that decide a response besides the model."""


class LocalEngine:
    """The model in the folder `model_dir`, loaded at the first prompts.

    Where a prompt asks for reasons, and with `settings.generate`, the answer is generated greedily up to the end of
    turn. Sampling settings and repetition penalty of the checkpoint are not used, since a penalty on repeated tokens
    changes which image is named.

    Otherwise the possible answers are compared without generation, by the log-probability of the answer's name: the sum
    from the first token in which any two answers differ up to the last token before the end of turn. Where each name
    has one token there, as img1 and img2 mostly have, that is one forward pass per batch, and tokens that are the same
    in all answers are left out: the figures are comparable with each other, not log-probabilities of whole answers.
    A name of several tokens counts with all of them, and may cost further forward passes.
    """

    def __init__(self, model_dir: Path, registry: Path, settings: AskSettings) -> None:
        self.model_dir, self.registry, self.settings = Path(model_dir), Path(registry), settings
        self._loaded: tuple[Any, Any] | None = None
        self._digest = ""

    def identity(self) -> Mapping[str, Any]:
        self._digest = self._digest or artefacts.model_digest(self.model_dir)  # reading the weights takes long
        return {
            "engine": "local",
            "model_digest": self._digest,
            "device": device(),  # which decides the precision too
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "code_digest": artefacts.code_digest(*CODE),
        }

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """As `Engine.respond`. Raises DataError also for a model that cannot be loaded."""
        self._loaded = self._loaded or load(self.model_dir)
        yield from respond(*self._loaded, prompts, registry=self.registry, settings=self.settings)


def respond(
    model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    *,
    registry: Path,
    settings: AskSettings,
    synced_gpus: bool = False,
    progress: bool = True,
) -> Iterator[tuple[int, Response]]:
    """`LocalEngine.respond` of a live model, which is put in eval mode and left there.

    Args:
        model: A transformers vision-language model.
        processor: Its processor.
        prompts: What to ask.
        registry: Folder of the pictures.
        settings: How to ask.
        synced_gpus: Keep ranks generating together under ZeRO-3; every rank must then have equally many batches.
        progress: Show a progress bar.
    """
    from stcr_plugin import progress_bar

    model.eval()
    tokenizer = processor.tokenizer
    stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end_of_turn(tokenizer))}
    ask = _Ask(model, processor, Pictures(registry, settings), settings, sorted(stops), synced_gpus)
    with progress_bar.progress(len(prompts), "model: answering", "queries", shown=progress) as bar:
        for batch in _batches(prompts, settings):
            yield from zip(batch, _responses(ask, [prompts[number] for number in batch]), strict=True)
            bar.update(len(batch))


@dataclass(frozen=True)
class _Ask:
    """A live model and how it is asked, the same for all batches."""

    model: Any
    processor: Any
    pictures: Pictures
    settings: AskSettings
    stops: list[int]
    synced_gpus: bool


def _batches(prompts: Sequence[Prompt], settings: AskSettings) -> list[list[int]]:
    """Indices of `prompts` by batch; within one, all answers are generated, or the same names are compared."""
    kinds: dict[Any, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        kinds[generates(prompt, settings) or (prompt.answer, prompt.names)].append(number)
    return [
        numbers[start : start + settings.batch_size]
        for numbers in kinds.values()
        for start in range(0, len(numbers), settings.batch_size)
    ]


def _responses(ask: _Ask, prompts: Sequence[Prompt]) -> list[Response]:
    import torch

    # no_grad, not inference_mode: the model keeps position offsets, which training must be able to reuse.
    with torch.no_grad(), _inputs(ask, prompts) as inputs:
        if generates(prompts[0], ask.settings):
            return _generated(ask, inputs, prompts)
        return _compared(ask, inputs, prompts[0])


@contextmanager
def _inputs(ask: _Ask, prompts: Sequence[Prompt]) -> Iterator[dict[str, Any]]:
    """Model inputs, prompts padded on the left: input_ids and attention_mask [prompts, tokens], and the pictures.

    A picture that several prompts show, as both orders of a pair do, is processed and encoded once per batch.
    """
    model, processor = ask.model, ask.processor
    texts = [conversation(processor, prompt) for prompt in prompts]
    shown = [(one, prompt.item) for prompt in prompts for one in prompt.shown]
    unique = {one: number for number, one in enumerate(dict.fromkeys(one for one, _ in shown))}
    items = dict(reversed(shown))
    opened = [ask.pictures.open(one, items[one]) for one in unique]
    padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    encoder = next((one for one in model.modules() if {"visual", "language_model"} <= one._modules.keys()), None)
    if not opened:
        yield dict(processor.tokenizer(texts, add_special_tokens=False, **padding).to(model.device))
    elif encoder is None or "image_grid_thw" not in processor.model_input_names:
        repeated = [opened[unique[one]] for one, _ in shown]
        # InternVL's processor would cut each picture into up to 13 tiles; it is trained with one, see refusals.py.
        whole_pictures = {"crop_to_patches": False} if hasattr(processor.image_processor, "crop_to_patches") else {}
        yield dict(processor(text=texts, images=repeated, **whole_pictures, **padding).to(model.device))
    else:
        places = [unique[one] for one, _ in shown]
        encoded = processor.image_processor(images=opened, return_tensors="pt").to(model.device)
        grid = encoded["image_grid_thw"]
        tokens = iter((grid.prod(-1) // processor.image_processor.merge_size**2)[places].tolist())
        image = processor.image_token
        whole = [re.sub(re.escape(image), lambda _: image * next(tokens), text) for text in texts]
        inputs = dict(processor.tokenizer(whole, add_special_tokens=False, **padding).to(model.device))
        if "mm_token_type_ids" in processor.model_input_names:  # transformers 4 has no token types
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.image_token_id).int()
        with _encoded_once(encoder, grid, places):
            yield {**inputs, "pixel_values": encoded["pixel_values"], "image_grid_thw": grid[places]}


@contextmanager
def _encoded_once(encoder: Any, grid: Any, places: Sequence[int]) -> Iterator[None]:
    """While this holds, `encoder` encodes the pictures of `grid` once each and hands them out at `places`."""
    import torch

    encode = encoder.get_image_features

    def features(pixel_values: Any, image_grid_thw: Any = None, **more: Any) -> Any:
        found = encode(pixel_values, grid, **more)
        sizes = [len(one) for one in found.pooler_output]
        found.pooler_output = tuple(found.pooler_output[place] for place in places)
        if getattr(found, "deepstack_features", None) is not None:  # Qwen3-VL's features of lower layers
            layers = [torch.split(layer, sizes) for layer in found.deepstack_features]
            found.deepstack_features = [torch.cat([layer[place] for place in places]) for layer in layers]
        return found

    encoder.get_image_features = features
    try:
        yield
    finally:
        del encoder.get_image_features


def _compared(ask: _Ask, inputs: Mapping[str, Any], prompt: Prompt) -> list[Response]:
    """The likeliest answer for each row of `inputs`; all have the names and the answer line of `prompt`."""
    shared, rests = answer_tokens(ask.processor.tokenizer, prompt)
    scores: dict[str, list[float]] = {}
    while left := {name: list(tokens) for name, tokens in rests.items() if name not in scores}:
        path = max((tokens[:-1] for tokens in left.values()), key=len)
        logprobs = _logprobs(ask.model, inputs, [*shared, *path], keep=len(path) + 1)
        for name, tokens in left.items():
            if path[: len(tokens) - 1] == tokens[:-1]:
                scores[name] = logprobs[:, list(range(len(tokens))), tokens].sum(dim=-1).tolist()
    return [
        likeliest(prompt, {name: scores[name][number] for name in rests}) for number in range(len(inputs["input_ids"]))
    ]


def _logprobs(model: Any, inputs: Mapping[str, Any], tail: Sequence[int], *, keep: int) -> Any:
    """Log-probabilities [queries, keep, vocabulary] of what follows each of the last `keep` tokens of prompt + tail."""
    import torch

    longer = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in longer:  # transformers 4 has no token types
            fill = {"input_ids": list(tail), "attention_mask": [1] * len(tail)}.get(name, [0] * len(tail))
            more = torch.tensor([fill] * len(longer[name]), dtype=longer[name].dtype, device=longer[name].device)
            longer[name] = torch.cat([longer[name], more], dim=1)
    return torch.log_softmax(model(**longer, use_cache=False, logits_to_keep=keep).logits.float(), dim=-1)


def _generated(ask: _Ask, inputs: Mapping[str, Any], prompts: Sequence[Prompt]) -> list[Response]:
    tokenizer = ask.processor.tokenizer
    tokens = ask.model.generate(
        **inputs,
        max_new_tokens=ask.settings.max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        eos_token_id=ask.stops,
        pad_token_id=tokenizer.pad_token_id,
        synced_gpus=ask.synced_gpus,
    )
    rows = tokens[:, inputs["input_ids"].shape[1] :].tolist()
    ends = {*ask.stops, tokenizer.pad_token_id}
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    return [
        Response(
            text,
            {},
            asked,
            sum(token not in ends for token in row),
            "" if any(token in ask.stops for token in row) else "cut",
        )
        for text, asked, row in zip(written(ask.processor, prompts, rows), prompt_tokens, rows, strict=True)
    ]
