"""Prompts -> responses by vLLM in this process, where it is installed.

Written against the documented interface of vLLM 0.8 and later (docs.vllm.ai: `LLM`, `SamplingParams`, "Multimodal
Inputs" and "Multi-Modal Data Processing"), but never run with a real vLLM: compare a few responses with the local
engine before you rely on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import option, settings
from stcr_plugin.engines.loading import adapter_base, load_processor
from stcr_plugin.engines.local import CODE
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.prompts import answer_tokens, conversation, end_of_turn, generates, likeliest, written
from stcr_plugin.engines.sealed import named
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Prompt, Response


@settings
class VllmSettings:
    """How vLLM loads the model; names and meanings are vLLM's own, except for the last two."""

    tensor_parallel_size: int = option(default=1, help="GPUs that share the model")
    gpu_memory_utilization: float = option(default=0.9, help="share of GPU memory that vLLM may use")
    max_model_len: int | None = option(default=None, help="most tokens of prompt and response (default: the model's)")
    dtype: str = option(default="auto", help="precision of the weights, such as bfloat16")
    batch: int = option(default=128, help="prompts per call of vLLM; a killed run loses at most one batch")
    pictures: int = option(default=8, help="most pictures in one prompt")

    def __post_init__(self) -> None:
        if min(self.tensor_parallel_size, self.batch, self.pictures) < 1:
            raise ValueError("tensor_parallel_size, batch and pictures must be at least 1")


class VllmEngine:
    """The model in the folder `model_dir`, run by vLLM and loaded at the first prompts; asked as by LocalEngine.

    Names are compared by the log-probabilities that vLLM gives for the tokens of a prompt (`prompt_logprobs`): one
    request per name, ending in the answer with that name.

    Raises:
        ConfigError: Where vLLM is not installed, and for a LoRA adapter, which must be merged first.
    """

    def __init__(self, model_dir: Path, registry: Path, *, ask: AskSettings, vllm: VllmSettings) -> None:
        self.model_dir, self.ask, self.vllm = Path(model_dir), ask, vllm
        self.version = _version()
        self._pictures = Pictures(Path(registry), ask)
        self._loaded: tuple[Any, Any] | None = None
        self._digest = ""
        if adapter_base(self.model_dir):
            raise ConfigError(model_dir, "an adapter", "merge it with `stcr export`, and give the result")

    def identity(self) -> Mapping[str, Any]:
        self._digest = self._digest or artefacts.model_digest(self.model_dir)  # reading the weights takes long
        return {
            "engine": "vllm",
            "version": self.version,
            "dtype": self.vllm.dtype,
            "model_digest": self._digest,
            "code_digest": artefacts.code_digest("engines/vllm.py", *CODE),
        }

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """As `Engine.respond`."""
        from stcr_plugin.progress_bar import progress

        for prompt in prompts:
            if len(prompt.shown) > self.vllm.pictures:
                raise ConfigError(
                    named(prompt),
                    f"shows {len(prompt.shown)} pictures",
                    f"set `pictures` of the vllm engine to {len(prompt.shown)} or more",
                )
        with progress(len(prompts), "model: answering", "queries") as bar:
            for start in range(0, len(prompts), self.vllm.batch):
                numbers = range(start, min(start + self.vllm.batch, len(prompts)))
                for generated, make in ((True, self._generated), (False, self._compared)):
                    mine = [number for number in numbers if generates(prompts[number], self.ask) == generated]
                    yield from zip(mine, make([prompts[number] for number in mine]) if mine else [], strict=True)
                bar.update(len(numbers))

    def _load(self) -> tuple[Any, Any]:
        from vllm import LLM  # type: ignore[import-not-found,unused-ignore]

        model = LLM(
            model=str(self.model_dir),
            trust_remote_code=False,
            limit_mm_per_prompt={"image": self.vllm.pictures},
            enable_prefix_caching=False,  # what is cached has no log-probabilities
            tensor_parallel_size=self.vllm.tensor_parallel_size,
            gpu_memory_utilization=self.vllm.gpu_memory_utilization,
            max_model_len=self.vllm.max_model_len,
            dtype=self.vllm.dtype,
            seed=0,
        )
        return model, load_processor(self.model_dir)

    def _generated(self, prompts: Sequence[Prompt]) -> list[Response]:
        model, processor = self._model()
        turn_end = processor.tokenizer.convert_tokens_to_ids(end_of_turn(processor.tokenizer))
        stops = {processor.tokenizer.eos_token_id, turn_end}
        found = model.generate(
            [self._request(prompt) for prompt in prompts],
            _parameters(max_tokens=self.ask.max_new_tokens, stop_token_ids=sorted(stops)),
            use_tqdm=False,
        )
        texts = written(processor, prompts, [one.outputs[0].token_ids for one in found])
        return [
            Response(
                text,
                {},
                len(one.prompt_token_ids),
                sum(token not in stops for token in one.outputs[0].token_ids),
                "cut" if one.outputs[0].finish_reason == "length" else "",
            )
            for text, one in zip(texts, found, strict=True)
        ]

    def _compared(self, prompts: Sequence[Prompt]) -> list[Response]:
        model, processor = self._model()
        requests, ends = [], []
        for prompt in prompts:
            shared, rests = answer_tokens(processor.tokenizer, prompt)
            requests += [self._request(prompt, [*shared, *rest]) for rest in rests.values()]
            ends += list(rests.values())
        # vLLM always generates a token, which is not used.
        found = model.generate(requests, _parameters(max_tokens=1, prompt_logprobs=1), use_tqdm=False)
        scores = iter(_score(one.prompt_logprobs, end) for one, end in zip(found, ends, strict=True))
        return [likeliest(prompt, {name: next(scores) for name in prompt.names}) for prompt in prompts]

    def _model(self) -> tuple[Any, Any]:
        self._loaded = self._loaded or self._load()
        return self._loaded

    def _request(self, prompt: Prompt, tail: Sequence[int] = ()) -> dict[str, Any]:
        """Token ids with one placeholder per picture, which vLLM expands, so that `tail` keeps its own tokens."""
        _, processor = self._model()
        text = conversation(processor, prompt)
        ids = [*processor.tokenizer(text, add_special_tokens=False)["input_ids"], *tail]
        pictures = [self._pictures.open(shown, prompt.item) for shown in prompt.shown]
        return {"prompt_token_ids": ids, **({"multi_modal_data": {"image": pictures}} if pictures else {})}


def _version() -> str:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "the vllm engine",
            "vllm is not installed",
            "run `pip install vllm` in its own environment, since it pins torch; or serve the model with it there, and "
            "use --engine server",
        ) from None


def _parameters(**more: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, **more)


def _score(prompt_logprobs: Sequence[Any], end: Sequence[int]) -> float:
    """Sum of the log-probabilities of the tokens `end`, which are the last ones of the prompt."""
    last = prompt_logprobs[len(prompt_logprobs) - len(end) :]
    return float(sum(found[token].logprob for found, token in zip(last, end, strict=True)))
