"""Queries -> answers, by a live transformers vision-language model (Qwen2-VL, Qwen2.5-VL, Qwen3-VL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.answers import parse
from stcr_plugin.registry.pictures import decode, read
from stcr_plugin.samples.questions import ask
from stcr_plugin.types import Answer, Choice, Query

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["cot", "direct"]
ANSWER = "closer to completion: {image}"
MAX_PIXELS, MIN_PIXELS = 768 * 768, 32 * 32  # LLaMA-Factory 0.9.5's own defaults


@settings
class AskSettings:
    """How queries are put to a model.

    mode: "cot" asks for a reasoned answer, generates it greedily and parses it; "direct" compares the possible
        answers (see `answer`). None: what the model's stage.json names, else "direct".
    batch_size: queries at once; more is faster and takes more memory. It changes no answer beyond rounding.
    max_new_tokens: where generation stops; a reasoned answer that is cut there is unparsed.
    generate: in "direct" mode too, generate and parse instead of comparing.
    image_max_pixels, image_min_pixels: pictures outside are resized, as in LLaMA-Factory's settings of these names.
        None: those the model was trained with by its stage.json, else LLaMA-Factory's defaults.
    language, part: which questions; part "heldout" takes the wordings that training never saw.
    """

    mode: Mode | None = None
    batch_size: int = 16
    max_new_tokens: int = 256
    generate: bool = False
    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    language: str = "en"
    part: Literal["train", "heldout"] = "train"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens are at least 1")
        most, least = self.image_max_pixels, self.image_min_pixels
        given = [pixels for pixels in (least, most) if pixels is not None]
        if any(pixels < 1 for pixels in given) or given != sorted(given):
            raise ValueError(f"0 < image_min_pixels <= image_max_pixels must hold, got {least} and {most}")

    @property
    def pixels(self) -> tuple[int, int]:
        """Most and fewest pixels of a picture, with LLaMA-Factory's defaults where none are set."""
        most, least = self.image_max_pixels, self.image_min_pixels
        return (MAX_PIXELS if most is None else most, MIN_PIXELS if least is None else least)


def load(model_dir: Path) -> tuple[Any, Any]:
    """The (model, processor) in the folder `model_dir`, for inference; code in the folder is never run.

    On CUDA in the checkpoint's own precision, else on the CPU in float32. A LoRA adapter is merged into its base
    model. Raises DataError where the folder holds no such model, or lacks weights (which transformers would fill
    with random numbers).
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not Path(model_dir).is_dir():
        raise DataError(f"{model_dir}: no such folder; give a model folder, e.g. one that `hf download` has written")
    cuda = torch.cuda.is_available()
    base = adapter_base(model_dir)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(base or model_dir),
            dtype="auto" if cuda else torch.float32,
            output_loading_info=True,
            local_files_only=True,
        )
        processor = AutoProcessor.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{model_dir}: not loadable as a vision-language model: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{base or model_dir}: {len(missing)} weights are missing (first: {missing[0]}); "
            "the checkpoint is incomplete, copy or train it again"
        )
    if base:
        from peft import PeftModel

        # Not through transformers: 5.5.4 stops with a KeyError when it loads a Qwen2.5-VL adapter itself.
        model = PeftModel.from_pretrained(model, str(model_dir)).merge_and_unload()
    model.to("cuda" if cuda else "cpu").eval()
    model.config.use_cache = True  # training saves false, and generation without a cache is quadratic
    processor.tokenizer.padding_side = "left"
    return model, processor


def adapter_base(model_dir: Path) -> Path | None:
    """The folder of the model that the adapter in `model_dir` was trained on; None where there is no adapter."""
    path = Path(model_dir) / "adapter_config.json"
    if not path.exists():
        return None
    name = artefacts.read_json(path).get("base_model_name_or_path")
    if not name or not Path(name).is_dir():
        raise DataError(
            f"{path}: its base model {name!r} is no folder here; set base_model_name_or_path to where the base lies"
        )
    return Path(name)


def numbered_content(n_images: int, question: str) -> list[dict[str, str]]:
    """The user message as content parts: `img1: `, picture, newline `img2: `, picture, ..., newline, question."""
    parts = []
    for number in range(1, n_images + 1):
        parts += [{"type": "text", "text": f"{'' if number == 1 else chr(10)}img{number}: "}, {"type": "image"}]
    return [*parts, {"type": "text", "text": f"\n{question}"}]


def questions_for(queries: Sequence[Query], settings: AskSettings, seed: int = 0, ties: bool = False) -> list[str]:
    """The question to each query, its task filled in; both orders of a pair get the same wording.

    `ties` offers "neither", as the training data of a build that teaches ties does.
    """
    kind: Mode = settings.mode or "direct"
    return [ask(query, kind, settings.language, seed, settings.part, ties) for query in queries]


def answer(
    model: Any,
    processor: Any,
    queries: Sequence[Query],
    questions: Sequence[str],
    registry: Path,
    settings: AskSettings,
    *,
    ties: bool = False,
    synced_gpus: bool = False,
    progress: bool = True,
    on_answers: Callable[[list[Answer]], None] | None = None,
) -> list[Answer]:
    """One answer a query, in the order given. Pictures lie under `registry`; `questions` are final texts.

    Mode "direct" runs one forward a batch over prompt + the tokens that `closer to completion: img1` and `... img2`
    share, and compares the log-probabilities of the first token in which they differ. The tokens after it (end of
    turn) are the same in both and are not looked at, so `logprob_img1` is log p("1" | prompt, shared tokens): the two
    are comparable with each other, and are not the whole answer's. Equal ones name no image and are unparsed.

    With `ties` (questions that offer "neither") three answers are compared, by the log-probability that the answer's
    name is written: the sum from the first token in which any two differ up to the last token before the end of
    turn. For the images that last token is their own, the digit. "neither" leaves the other two at its first token,
    but a tokenizer may split the word, and a first piece such as " n" also begins "no" and "none": so the whole word
    counts, as the whole of `img1` does. A second forward is run only where the word is split, for its later pieces.

    Mode "cot", and `settings.generate`, generate greedily up to the end of turn and parse the text; sampling settings
    and repetition penalty of the checkpoint are not used, for a penalty on repeated tokens sways which image is named.

    The model is put in eval mode and left there. `synced_gpus` keeps ranks generating together under ZeRO-3; every
    rank must then bring equally many batches. `on_answers` receives each batch as it is done. Raises DataError for an
    unreadable picture, and for a tokenizer in which the two answers differ in more than one token.
    """
    import torch
    from tqdm import tqdm

    generates = settings.generate or settings.mode == "cot"
    turn_end = _turn_end(processor.tokenizer)
    endings = None if generates else _endings(processor.tokenizer, turn_end, ties)
    model.eval()
    answers: list[Answer] = []
    bar = tqdm(total=len(queries), desc="asking", unit="query", disable=not progress)
    # no_grad, not inference_mode: the model keeps position offsets, which training must be able to reuse.
    with bar, torch.no_grad():
        for start in range(0, len(queries), settings.batch_size):
            batch = queries[start : start + settings.batch_size]
            inputs = _inputs(processor, batch, questions[start : start + settings.batch_size], registry, settings)
            inputs = inputs.to(model.device)
            if endings is None:
                done = _generated(model, processor.tokenizer, batch, inputs, settings, turn_end, ties, synced_gpus)
            else:
                done = _compared(model, batch, inputs, *endings)
            answers += done
            if on_answers:
                on_answers(done)
            bar.update(len(batch))
    return answers


def fit(image: Image, max_pixels: int, min_pixels: int) -> Image:
    """`image` as RGB and in the size that LLaMA-Factory 0.9.5 trains Qwen-VL models with.

    Same steps in the same order as its Qwen2VLPlugin (data/mm_plugin.py): shrink to `max_pixels`, grow to
    `min_pixels`, both keeping the shape; RGB; no side below 28 pixels; no side over 200 times the other.
    """
    if image.width * image.height > max_pixels:
        image = _scaled(image, max_pixels)
    if image.width * image.height < min_pixels:
        image = _scaled(image, min_pixels)
    image = image.convert("RGB")
    if min(image.size) < 28:
        image = image.resize((max(image.width, 28), max(image.height, 28)))
    if image.width / image.height > 200:
        image = image.resize((image.height * 180, image.height))
    if image.height / image.width > 200:
        image = image.resize((image.width, image.width * 180))
    return image


def _scaled(image: Image, pixels: int) -> Image:
    scale = math.sqrt(pixels / (image.width * image.height))
    return image.resize((int(image.width * scale), int(image.height * scale)))


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


def _inputs(
    processor: Any, queries: Sequence[Query], questions: Sequence[str], registry: Path, settings: AskSettings
) -> Any:
    """Model inputs, prompts padded on the left: input_ids and attention_mask [queries, tokens], and the pictures."""
    prompts, pictures = [], []
    for query, text in zip(queries, questions, strict=True):
        message = {"role": "user", "content": numbered_content(len(query.images), text)}
        prompts.append(processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True))
        for path in query.images:
            picture = open_picture(registry, path, query.pair.pair_id)
            pictures.append(fit(picture, *settings.pixels))
    return processor(text=prompts, images=pictures, padding=True, padding_side="left", return_tensors="pt")


def _compared(
    model: Any, queries: Sequence[Query], inputs: Any, shared: Sequence[int], rests: Mapping[Choice, Sequence[int]]
) -> list[Answer]:
    """Answers by the likeliest of `rests`: choice -> its tokens after the `shared` ones."""
    scores: dict[Choice, list[float]] = {}
    while left := {choice: list(tokens) for choice, tokens in rests.items() if choice not in scores}:
        path = max((tokens[:-1] for tokens in left.values()), key=len)
        logprobs = _logprobs(model, inputs, [*shared, *path], len(path) + 1)
        for choice, tokens in left.items():
            if path[: len(tokens) - 1] == tokens[:-1]:
                scores[choice] = logprobs[:, list(range(len(tokens))), tokens].sum(dim=-1).tolist()
    answers = []
    for number, query in enumerate(queries):
        found = {choice: scores[choice][number] for choice in rests}
        best = [choice for choice, score in found.items() if score == max(found.values())]
        chosen = best[0] if len(best) == 1 else None
        answers.append(_answer(query, chosen, ANSWER.format(image=chosen) if chosen else "", found))
    return answers


def _logprobs(model: Any, inputs: Any, tail: Sequence[int], keep: int) -> Any:
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
    model: Any,
    tokenizer: Any,
    queries: Sequence[Query],
    inputs: Any,
    settings: AskSettings,
    turn_end: str,
    ties: bool,
    synced_gpus: bool,
) -> list[Answer]:
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
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_answer(query, parse(text, ties), text) for query, text in zip(queries, texts, strict=True)]


def _answer(query: Query, chosen: Choice | None, text: str, scores: Mapping[Choice, float] | None = None) -> Answer:
    pair, scored = query.pair, {f"logprob_{choice}": score for choice, score in (scores or {}).items()}
    return Answer(pair.pair_id, pair.episode_id, query.order, query.answer, chosen, text, **scored)


def _turn_end(tokenizer: Any) -> str:
    """Qwen's end of turn, which not every checkpoint names as its end of sequence; else the latter."""
    return "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else str(tokenizer.eos_token)


def _endings(tokenizer: Any, turn_end: str, ties: bool = False) -> tuple[list[int], dict[Choice, list[int]]]:
    """(tokens that all answers start with, choice -> its tokens after them and before the end of turn).

    Without `ties`, each image has one token there: the one that makes it img1 or img2.
    """
    choices: tuple[Choice, ...] = ("img1", "img2", "neither") if ties else ("img1", "img2")
    written: dict[Choice, list[int]] = {
        choice: tokenizer(ANSWER.format(image=choice) + turn_end, add_special_tokens=False)["input_ids"]
        for choice in choices
    }
    first, second = written["img1"], written["img2"]
    differ = [i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
    if len(first) != len(second) or len(differ) != 1:
        raise DataError(
            "this model's tokenizer writes the answers img1 and img2 with more than one token of difference, so their "
            "log-probabilities cannot be compared; set `generate: true` to have the answer generated and parsed"
        )
    tail = len(first) - differ[0] - 1  # what follows the deciding token: the end of turn
    start = next(i for i, tokens in enumerate(zip(*written.values(), strict=False)) if len(set(tokens)) > 1)
    return first[:start], {choice: tokens[start : len(tokens) - tail] for choice, tokens in written.items()}
