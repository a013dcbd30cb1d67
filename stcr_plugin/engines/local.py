"""Prompts -> what is said, by a live transformers vision-language model (Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.prompts import content
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.picture_store import decode, read
from stcr_plugin.types import Prompt, Response, Shown

if TYPE_CHECKING:
    from PIL.Image import Image


def load(model_dir: Path) -> tuple[Any, Any]:
    """The (model, processor) in the folder `model_dir`, for inference; code in the folder is never run.

    On CUDA in the checkpoint's own precision, else on the CPU in float32. A LoRA adapter is merged into its base
    model. Raises DataError where the folder holds no such model, or lacks weights (which transformers would fill
    with random numbers).
    """
    import torch
    from transformers import AutoProcessor

    if not Path(model_dir).is_dir():
        raise DataError(f"{model_dir}: no such folder; give a model folder, e.g. one that `hf download` has written")
    device = _device()
    model = assembled(model_dir, torch.float32 if device == "cpu" else "auto")
    try:
        processor = AutoProcessor.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{model_dir}: not loadable as a vision-language model: {error}") from error
    model.to(device).eval()
    model.config.use_cache = True  # training saves false, and generation without a cache is quadratic
    processor.tokenizer.padding_side = "left"
    return model, processor


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def assembled(model_dir: Path, dtype: Any) -> Any:
    """The model in `model_dir` on the CPU, its adapter merged into what it stands on, which may be an adapter too.

    dtype: a torch dtype, or "auto" for the checkpoint's own. Raises DataError as `load` does.
    """
    from transformers import AutoModelForImageTextToText

    if base := adapter_base(model_dir):
        from peft import PeftModel

        # Not through transformers: 5.5.4 stops with a KeyError when it loads a Qwen2.5-VL adapter itself.
        merged = PeftModel.from_pretrained(assembled(base, dtype), str(model_dir)).merge_and_unload()
        merged.__dict__.pop("peft_config", None)  # left behind, it reads as if an adapter were there still
        return merged
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(model_dir), dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{model_dir}: not loadable as a vision-language model: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{model_dir}: {len(missing)} weights are missing (first: {missing[0]}); "
            "the checkpoint is incomplete, copy or train it again"
        )
    return model


def adapter_base(model_dir: Path) -> Path | None:
    """The folder that the adapter in `model_dir` stands on, a model or an adapter; None where there is no adapter.

    A model of the Hub is looked for where `hf download` keeps it. Raises DataError where it is not on this machine.
    """
    from huggingface_hub import snapshot_download

    path = Path(model_dir) / "adapter_config.json"
    if not path.exists():
        return None
    name = artefacts.read_json(path).get("base_model_name_or_path")
    if name and Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):
        raise DataError(
            f"{path}: its base model {name!r} is no folder here; set base_model_name_or_path to where the base lies"
        ) from None


class LocalEngine:
    """The model in the folder `model_dir`, loaded when it is first asked. Settings as AskSettings says.

    Where a prompt's model may reason, and with `settings.generate`, the answer is generated greedily up to the end of
    turn; sampling settings and repetition penalty of the checkpoint are not used, for a penalty on repeated tokens
    sways which image is named.

    Else the possible answers are compared without generating, by the log-probability that the answer's name is
    written: the sum from the first token in which any two answers differ up to the last token before the end of turn.
    Where each name has one token there, as img1 and img2 mostly have, that is one forward a batch, and the tokens that
    are the same in all answers are not looked at: the figures are comparable with each other, and are not those of the
    whole answer. A name of several tokens counts with all of them, and may cost further forwards.
    """

    def __init__(self, model_dir: Path, registry: Path, settings: AskSettings) -> None:
        self.model_dir, self.registry, self.settings = Path(model_dir), Path(registry), settings
        self._loaded: tuple[Any, Any] | None = None
        self._digest = ""

    def identity(self) -> Mapping[str, Any]:
        # Of many evaluations by one engine, as of the controls, the first reads the weights for it.
        self._digest = self._digest or artefacts.model_digest(self.model_dir)
        return {
            "engine": "local",
            "model_digest": self._digest,
            "device": _device(),  # which decides the precision too
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "code_digest": artefacts.code_digest("engines/local.py", "engines/prompts.py"),
        }

    def say(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """Raises DataError for an unreadable picture or a model that cannot be loaded, ConfigError as Engine does."""
        self._loaded = self._loaded or load(self.model_dir)
        yield from say(*self._loaded, prompts, self.registry, self.settings)


def say(
    model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    registry: Path,
    settings: AskSettings,
    *,
    synced_gpus: bool = False,
    progress: bool = True,
) -> Iterator[tuple[int, Response]]:
    """`LocalEngine.say` of a live model, which is put in eval mode and left there. Pictures lie under `registry`.

    `synced_gpus` keeps ranks generating together under ZeRO-3; every rank must then bring equally many batches.
    """
    from stcr_plugin import progress_bar

    model.eval()
    turn_end = end_of_turn(processor.tokenizer)
    pictures = Pictures(registry, settings)
    with progress_bar.progress(len(prompts), "model: answering", "queries", shown=progress) as bar:
        for batch in _batches(prompts, settings):
            asked = [prompts[number] for number in batch]
            said = _said(model, processor, asked, pictures, settings, turn_end, synced_gpus)
            yield from zip(batch, said, strict=True)
            bar.update(len(batch))


def _batches(prompts: Sequence[Prompt], settings: AskSettings) -> list[list[int]]:
    """Indices of `prompts`, batch by batch: those of a batch are all generated, or compared by the same answers."""
    kinds: dict[Any, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        kinds[writes(prompt, settings) or (prompt.answer, prompt.names)].append(number)
    return [
        numbers[start : start + settings.batch_size]
        for numbers in kinds.values()
        for start in range(0, len(numbers), settings.batch_size)
    ]


def writes(prompt: Prompt, settings: AskSettings) -> bool:
    return prompt.reasons or settings.generate


def _said(
    model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    pictures: Pictures,
    settings: AskSettings,
    turn_end: str,
    synced_gpus: bool,
) -> list[Response]:
    import torch

    # no_grad, not inference_mode: the model keeps position offsets, which training must be able to reuse.
    with torch.no_grad(), _inputs(model, processor, prompts, pictures) as inputs:
        if writes(prompts[0], settings):
            return _generated(model, processor.tokenizer, inputs, settings, turn_end, synced_gpus)
        return _compared(model, inputs, *answer_tokens(processor.tokenizer, prompts[0]), prompts[0].answer)


class Pictures:
    """Pictures of a registry as a model is shown them: decoded whole, changed as asked, sized as in training."""

    def __init__(self, registry: Path, settings: AskSettings) -> None:
        self.registry, self.settings = registry, settings

    def open(self, shown: Shown, item: str) -> Image:
        """Raises DataError naming the file and `item`, the pair that it belongs to."""
        picture = open_picture(self.registry, shown.image, item)
        return fit(_CHANGES[shown.change](picture, shown.image), *self.settings.pixels)


def _noise(picture: Image, path: str) -> Image:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(int(artefacts.digest([path])[:16], 16))
    return Image.fromarray(random.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8))


def _blank(picture: Image, path: str) -> Image:
    from PIL import Image

    return Image.new("RGB", picture.size, (128, 128, 128))


def _mirrored(picture: Image, path: str) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(picture)


_CHANGES: Mapping[str, Callable[[Image, str], Image]] = {
    "": lambda picture, path: picture,
    "mirror": _mirrored,
    "blank": _blank,
    "noise": _noise,
}


def fit(image: Image, max_pixels: int, min_pixels: int) -> Image:
    """`image` as RGB and in the size that LLaMA-Factory 0.9.5 trains Qwen-VL models with.

    Same steps in the same order as its Qwen2VLPlugin (data/mm_plugin.py): shrink to `max_pixels`, grow to
    `min_pixels`, both keeping the shape; RGB; no side below 28 pixels; no side over 200 times the other.
    """
    if image.width * image.height > max_pixels:
        image = image.resize(scaled_size(*image.size, max_pixels))
    if image.width * image.height < min_pixels:
        image = image.resize(scaled_size(*image.size, min_pixels))
    image = image.convert("RGB")
    if min(image.size) < 28:
        image = image.resize((max(image.width, 28), max(image.height, 28)))
    if image.width / image.height > 200:
        image = image.resize((image.height * 180, image.height))
    if image.height / image.width > 200:
        image = image.resize((image.width, image.width * 180))
    return image


def fitted_size(size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
    """Width and height that `fit` gives a picture of `size`."""
    width, height = size
    if width * height > max_pixels:
        width, height = scaled_size(width, height, max_pixels)
    if width * height < min_pixels:
        width, height = scaled_size(width, height, min_pixels)
    width, height = max(width, 28), max(height, 28)
    width = height * 180 if width / height > 200 else width
    return width, width * 180 if height / width > 200 else height


def scaled_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Width and height of the same shape with at most `pixels` pixels, as LLaMA-Factory rounds them."""
    scale = math.sqrt(pixels / (width * height))
    return int(width * scale), int(height * scale)


def open_picture(registry: Path, relative: str, pair_id: str) -> Image:
    """The whole picture, decoded. Raises DataError naming file and pair where it is missing, cut or no picture."""
    try:
        return decode(read(registry, relative), relative)
    except DataError as error:
        reason = str(error).removeprefix(f"{relative}: ")
        raise DataError(
            f"{registry / relative}: picture of pair {pair_id} is not readable ({reason}); "
            "write the dataset anew or leave the pair out"
        ) from error


@contextmanager
def _inputs(model: Any, processor: Any, prompts: Sequence[Prompt], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Model inputs, prompts padded on the left: input_ids and attention_mask [prompts, tokens], and the pictures.

    A picture that several prompts show, as both orders of a pair do, is processed and encoded once for the batch.
    """
    texts = [conversation(processor, prompt) for prompt in prompts]
    shown = [(one, prompt.item) for prompt in prompts for one in prompt.shown]
    unique = {one: number for number, one in enumerate(dict.fromkeys(one for one, _ in shown))}
    items = dict(reversed(shown))
    opened = [pictures.open(one, items[one]) for one in unique]
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


def conversation(processor: Any, prompt: Prompt) -> str:
    """The whole conversation up to where the model goes on."""
    message = {"role": "user", "content": content(prompt)}
    text: str = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return text + prompt.begin


def _compared(
    model: Any, inputs: Mapping[str, Any], shared: Sequence[int], rests: Mapping[str, Sequence[int]], form: str
) -> list[Response]:
    """What is said by the likeliest of `rests`: name -> its tokens after the `shared` ones."""
    scores: dict[str, list[float]] = {}
    while left := {name: list(tokens) for name, tokens in rests.items() if name not in scores}:
        path = max((tokens[:-1] for tokens in left.values()), key=len)
        logprobs = _logprobs(model, inputs, [*shared, *path], len(path) + 1)
        for name, tokens in left.items():
            if path[: len(tokens) - 1] == tokens[:-1]:
                scores[name] = logprobs[:, list(range(len(tokens))), tokens].sum(dim=-1).tolist()
    said = []
    for number in range(len(inputs["input_ids"])):
        found = {name: scores[name][number] for name in rests}
        best = [name for name, score in found.items() if score == max(found.values())]
        said.append(Response(form.format(name=best[0]) if len(best) == 1 else "", found))
    return said


def _logprobs(model: Any, inputs: Mapping[str, Any], tail: Sequence[int], keep: int) -> Any:
    """Log-probabilities [queries, keep, vocabulary] of what follows each of the last `keep` tokens of prompt + tail."""
    import torch

    longer = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in longer:  # transformers 4 has no token types
            fill = {"input_ids": list(tail), "attention_mask": [1] * len(tail)}.get(name, [0] * len(tail))
            more = torch.tensor([fill] * len(longer[name]), dtype=longer[name].dtype, device=longer[name].device)
            longer[name] = torch.cat([longer[name], more], dim=1)
    return torch.log_softmax(model(**longer, use_cache=False, logits_to_keep=keep).logits.float(), dim=-1)


def _generated(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], settings: AskSettings, turn_end: str, synced_gpus: bool
) -> list[Response]:
    import torch

    stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(turn_end)}
    tokens = model.generate(
        **inputs,
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
        synced_gpus=synced_gpus,
    )
    written = tokens[:, inputs["input_ids"].shape[1] :]
    ends = torch.isin(written, torch.tensor([*stops, tokenizer.pad_token_id], device=written.device))
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [
        Response(text, {}, asked, int(wrote))
        for text, asked, wrote in zip(texts, prompt_tokens, (~ends).sum(dim=1).tolist(), strict=True)
    ]


def end_of_turn(tokenizer: Any) -> str:
    """Qwen's end of turn, which not every checkpoint names as its end of sequence; else the latter."""
    return "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else str(tokenizer.eos_token)


def answer_tokens(tokenizer: Any, prompt: Prompt) -> tuple[list[int], dict[str, list[int]]]:
    """(tokens that all answers start with, name -> its tokens after them). No answer may be the start of another."""
    written: dict[str, list[int]] = {
        name: tokenizer(prompt.answer.format(name=name), add_special_tokens=False)["input_ids"] for name in prompt.names
    }
    start = next((i for i, tokens in enumerate(zip(*written.values(), strict=False)) if len(set(tokens)) > 1), None)
    if start is None:
        raise ConfigError(
            f"the answers {list(prompt.names)} cannot be compared: one is how another begins, or they are the same to "
            "this model's tokenizer; set `generate: true` to have the answer generated and parsed"
        )
    first = next(iter(written.values()))
    return first[:start], {name: tokens[start:] for name, tokens in written.items()}
