"""What our own code decides about vLLM: prompts, pictures, how outputs are read. vLLM itself has a stand-in.

The stand-in takes vLLM's documented inputs and gives its documented outputs, and computes them with transformers.
"""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from stcr_plugin.engines import vllm
from stcr_plugin.engines.loading import load
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.engines.vllm import VllmEngine, VllmSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import Prompt, Query


class StandIn:
    """`vllm.LLM` as far as it is used. `made` and `calls` are what it was given."""

    made, calls = [], []

    def __init__(self, **arguments):
        self.made.append(arguments)
        self.model, self.processor = load(arguments["model"])

    def generate(self, requests, parameters, use_tqdm):
        self.calls.append((requests, parameters))
        return [self._one(request, parameters) for request in requests]

    def _one(self, request, parameters):
        image = self.processor.image_token_id
        assert request["prompt_token_ids"].count(image) == len(request.get("multi_modal_data", {}).get("image", []))
        inputs = {}
        sizes = iter(())
        if "multi_modal_data" in request:
            inputs = dict(self.processor.image_processor(request["multi_modal_data"]["image"], return_tensors="pt"))
            sizes = iter((inputs["image_grid_thw"].prod(-1) // self.processor.image_processor.merge_size**2).tolist())
        ids = [
            token for one in request["prompt_token_ids"] for token in ([image] * next(sizes) if one == image else [one])
        ]
        inputs |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image).int()
        with torch.no_grad():
            if parameters.prompt_logprobs is None:
                whole = self.model.generate(
                    **inputs,
                    max_new_tokens=parameters.max_tokens,
                    do_sample=False,
                    temperature=None,
                    eos_token_id=parameters.stop_token_ids,
                )
                written = whole[0, len(ids) :].tolist()
                finish = "stop" if written[-1] in parameters.stop_token_ids else "length"
                output = SimpleNamespace(token_ids=written, finish_reason=finish)
                return SimpleNamespace(prompt_token_ids=ids, outputs=[output], prompt_logprobs=None)
            scores = torch.log_softmax(self.model(**inputs).logits[0].float(), -1)
        # The first token has none; of each further one its own is given, besides the likeliest.
        found = [None] + [
            {
                token: SimpleNamespace(logprob=scores[place, token].item()),
                int(scores[place].argmax()): SimpleNamespace(logprob=scores[place].max().item()),
            }
            for place, token in enumerate(ids[1:])
        ]
        return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=found, outputs=[SimpleNamespace(text="?")])


class Parameters(SimpleNamespace):
    prompt_logprobs = None


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, Parameters
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm, "_version", lambda: "stand-in")
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(StandIn, "calls", [])
    return StandIn


def prompts(registry, settings, **more):
    pairs = read_pairs(registry, "toy", "train")[::2]
    queries = [Query(pair, order) for pair in pairs for order in ("forward", "backward")]
    return prompts_for(queries, settings, **more)


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (AskSettings(mode="direct"), {}),
        (AskSettings(mode="direct"), {"ties": True}),
        (AskSettings(mode="direct", style="ordinals"), {}),
        (AskSettings(mode="direct", generate=True, max_new_tokens=8), {}),
        (AskSettings(mode="cot", max_new_tokens=8), {}),
    ],
    ids=["compared", "with ties", "names of several tokens", "written", "reasoned"],
)
@pytest.mark.slow
def test_with_a_stand_in_for_vllm_what_is_said_is_what_the_local_engine_says(model, registry, stand_in, settings, more):
    asked = prompts(registry, settings, **more)
    here = dict(LocalEngine(model, registry, settings).respond(asked))
    there = dict(VllmEngine(model, registry, ask=settings, vllm=VllmSettings(batch=3)).respond(asked))
    assert there.keys() == here.keys() == set(range(len(asked)))
    for number, said in here.items():
        assert (there[number].text, there[number].lost) == (said.text, said.lost)
        assert there[number].logprobs == pytest.approx(said.logprobs, abs=1e-4)
        assert (there[number].prompt_tokens, there[number].completion_tokens) == (
            said.prompt_tokens,
            said.completion_tokens,
        )
    assert len(stand_in.made) == 1
    assert max(len(requests) for requests, _ in stand_in.calls) <= 3 * len(asked[0].names)


def test_with_a_stand_in_for_vllm_begun_and_textual_prompts_are_put_too(model, registry, stand_in):
    settings = AskSettings(mode="direct", max_new_tokens=6)
    begun = Prompt("p", "e", "forward", (), (), "Which?", begin="spatial details: ")
    writing = Prompt("q", "e", "forward", (), (), "Which?", reasons=True)
    here = dict(LocalEngine(model, registry, settings).respond([begun, writing]))
    there = dict(VllmEngine(model, registry, ask=settings, vllm=VllmSettings()).respond([begun, writing]))
    assert {number: one.text for number, one in there.items()} == {number: one.text for number, one in here.items()}
    assert there[0].logprobs == pytest.approx(here[0].logprobs, abs=1e-4)


def test_with_a_stand_in_for_vllm_the_model_is_loaded_without_foreign_code(model, registry, stand_in):
    engine = VllmEngine(
        model, registry, ask=AskSettings(), vllm=VllmSettings(tensor_parallel_size=2, max_model_len=4096)
    )
    assert stand_in.made == []
    assert list(engine.respond([])) == []
    assert stand_in.made == []
    list(engine.respond(prompts(registry, AskSettings(mode="direct"))[:1]))
    (made,) = stand_in.made
    assert made["trust_remote_code"] is False
    assert (made["tensor_parallel_size"], made["max_model_len"]) == (2, 4096)
    assert made["limit_mm_per_prompt"] == {"image": 8}
    assert all(parameters.temperature == 0 for _, parameters in stand_in.calls)
    assert engine.identity()["version"] == "stand-in"


def test_more_pictures_than_vllm_was_told_of_are_refused(model, registry, stand_in):
    asked = prompts(registry, AskSettings())
    with pytest.raises(ConfigError, match=r"forward: shows 2 pictures; set `pictures` of the vllm engine"):
        list(VllmEngine(model, registry, ask=AskSettings(), vllm=VllmSettings(pictures=1)).respond(asked))


def test_adapter_is_to_be_merged_first(model, registry, stand_in, tmp_path):
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{model}"}}')
    with pytest.raises(ConfigError, match=r"an adapter; merge it with `stcr export`"):
        VllmEngine(tmp_path, registry, ask=AskSettings(), vllm=VllmSettings())


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_missing_vllm_names_the_command_that_installs_it(model, registry):
    with pytest.raises(ConfigError, match=r"vllm is not installed; run `pip install vllm`"):
        VllmEngine(model, registry, ask=AskSettings(), vllm=VllmSettings())
