"""Command lines that serve an exported folder by vLLM and SGLang, and a client to start from."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.report.serving_words import Limits, Serving
from stcr_plugin.types import Pair, Prompt, Query

CLIENT = Path(__file__).with_name("client.py")
PICTURES = 8  # per request, so that groups can be evaluated too
TASK = "put the cup on the plate"
_CPU_CACHE = 4  # GiB
_URL = "http://127.0.0.1:8000/v1"


def served_name(name: str) -> str:
    """`name` without the characters that a server or a shell refuses."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "stcr"


def example(mode: str, language: str = "en", task: str = TASK, pair_id: str = "example") -> Prompt:
    """A prompt about two pictures, as in training, in the prompt variant that is drawn for `pair_id`."""
    pair = Pair(
        pair_id, "example", split="", task=task, earlier=0, later=1, seconds=0.0,
        earlier_image="a.png", later_image="b.png",
    )  # fmt: skip
    settings = AskSettings(mode="cot" if mode == "cot" else "direct", language=language)
    return prompts_for([Query(pair, "forward")], settings)[0]


def vllm_line(folder: str, name: str, *, dtype: str, limits: Limits | None) -> str:
    """vLLM's documentation, 0.9 and later: "Conserving Memory", "OpenAI-Compatible Server".

    By its module, since the command `vllm` of its builds for the CPU does not start. On a CPU it would want 92 % of the
    memory for its cache, and stop where less is free; a GPU does not read the variable. Without `--generation-config
    vllm` the repetition penalty of Qwen's generation_config.json is applied, which changes answers.
    """
    return _command(
        f"VLLM_CPU_KVCACHE_SPACE={_CPU_CACHE} python -m vllm.entrypoints.openai.api_server --model {folder}",
        f"--served-model-name {name}",
        f"--dtype {dtype}",
        f"--limit-mm-per-prompt '{json.dumps({'image': PICTURES, 'video': 0})}'",
        f"--mm-processor-kwargs '{json.dumps(_pixels(limits))}'" if limits else "",
        "--generation-config vllm",
    )


def sglang_line(folder: str, name: str, *, dtype: str, limits: Limits | None) -> str:
    """SGLang's documentation, 0.5: "Server Arguments". `--dtype auto` would make float16 of float32."""
    return _command(
        f"python -m sglang.launch_server --model-path {folder}",
        f"--served-model-name {name}",
        f"--dtype {dtype}",
        f"--limit-mm-data-per-request '{json.dumps({'image': PICTURES})}'",
        f"--mm-process-config '{json.dumps({'image': _pixels(limits)})}'" if limits else "",
        "--sampling-defaults openai",
    )


def _command(*options: str) -> str:
    return " \\\n  ".join(filter(None, (*options, "--port 8000")))


def _pixels(limits: Limits) -> dict[str, int]:
    return {"min_pixels": limits.least, "max_pixels": limits.most}


def serving(folder: str, name: str, *, mode: str, dtype: str, limits: Limits | None, heads: int | None) -> Serving:
    """The command lines of a model card."""
    return Serving(
        question=example(mode).question,
        task=TASK,
        vllm=vllm_line(folder, name, dtype=dtype, limits=limits),
        sglang=sglang_line(folder, name, dtype=dtype, limits=limits),
        curl=curl_line(name, mode),
        evaluation=evaluation_line(folder, name),
        heads=heads,
    )


def evaluation_line(folder: str, name: str) -> str:
    """Evaluate the served model."""
    return f"stcr eval --model {folder} --engine server --url {_URL} --server-model {name} --dataset NAME --split SPLIT"


def curl_line(name: str, mode: str, max_tokens: int = 256) -> str:
    """A request with the pictures a.png and b.png, with the question and the labels of training."""
    content = [
        {"type": "text", "text": "img1: "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,A_PNG"}},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,B_PNG"}},
        {"type": "text", "text": f"\n{example(mode).question}"},
    ]
    message = {"role": "user", "content": content}
    body = {"model": name, "messages": [message], "max_tokens": max_tokens, "temperature": 0.0}
    text = json.dumps(body, indent=1)
    for letter in "ab":
        text = text.replace(f"{letter.upper()}_PNG", f"$(base64 -w0 {letter}.png)")
    return f"curl -s {_URL}/chat/completions -H 'Content-Type: application/json' -d @- <<END\n" + f"{text}\nEND"


def asking(mode: str, *, most: int, least: int) -> dict[str, object]:
    """How `stcr judge` asks about two pictures; tools that read stcr_chain.json fill in `{task}` and `{name}`."""
    prompt = example(mode, task="{task}", pair_id="judge")
    return {
        "mode": mode,
        "question": prompt.question,
        "labels": list(prompt.labels),
        "answer": prompt.answer,
        "least": least,
        "most": most,
    }


def client(name: str, mode: str, *, most: int, least: int, max_tokens: int = 256) -> str:
    """The text of client.py with the model's own question and picture sizes."""
    settings = {
        'MODEL = "stcr"': f"MODEL = {json.dumps(name)}",
        "MOST, LEAST = 589824, 1024": f"MOST, LEAST = {most}, {least}",
        'QUESTION = "{task}"': f"QUESTION = {json.dumps(example(mode, task='{task}').question, ensure_ascii=False)}",
        "MAX_TOKENS = 256": f"MAX_TOKENS = {max_tokens}",
    }
    text = CLIENT.read_text(encoding="utf-8")
    for default, own in settings.items():
        assert default in text, default
        text = text.replace(default, own, 1)
    return text
