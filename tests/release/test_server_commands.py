"""What a reader of the card sends to a server is what `stcr eval --engine server` sends."""

import json
import shlex
import subprocess
import sys

import pytest
from misbehaving_server import answer, serving
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.release.export import export
from stcr_plugin.release.server_commands import client, curl_line, example, served_name, sglang_line, vllm_line
from stcr_plugin.report.serving_words import Limits, refused_on_a_cpu

LIMITS = Limits(3136, 50176, (), False)


@pytest.fixture
def pictures(tmp_path):
    for name, colour in (("a", (200, 0, 0)), ("b", (0, 0, 200))):
        Image.effect_noise((400, 300), 60).convert("RGB").save(tmp_path / f"{name}.png")
        Image.new("RGB", (400, 300), colour).save(tmp_path / f"{name}_plain.png")
    return tmp_path


def ours(folder, url, mode, pixels):
    """The body that our own engine sends for the card's example."""
    ask = AskSettings(mode=mode, generate=True, image_max_pixels=pixels, image_min_pixels=1024)
    engine = ServerEngine(folder, ask, from_mapping(ServerSettings, {"url": url, "model": "mine"}, "test"))
    return list(engine.respond([example(mode)]))


@pytest.mark.parametrize("mode", ["direct", "cot"])
def test_client_asks_in_the_words_labels_and_sizes_of_evaluation(pictures, mode):
    with serving(lambda question, tried: answer("closer to completion: img2")) as desk:
        ours(pictures, desk.url, mode, 50176)
        text = client("mine", mode, most=50176, least=1024).replace("http://127.0.0.1:8000/v1", desk.url)
        (pictures / "client.py").write_text(text)
        command = [sys.executable, "client.py", "a.png", "b.png", "put the cup on the plate"]
        done = subprocess.run(command, cwd=pictures, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "in this order: closer to completion: img2",
        "swapped: closer to completion: img2",
    ]
    one, forward, swapped = desk.bodies
    assert forward == one
    parts = [body["messages"][0]["content"] for body in (forward, swapped)]
    assert [parts[1][place] for place in (3, 1)] == [parts[0][place] for place in (1, 3)]


def test_curl_line_sends_the_same_words(pictures):
    with serving(lambda question, tried: answer("closer to completion: img1")) as desk:
        ours(pictures, desk.url, "direct", 400 * 300)
        line = curl_line("mine", "direct").replace("http://127.0.0.1:8000/v1", desk.url)
        done = subprocess.run(["bash", "-c", line], cwd=pictures, capture_output=True, text=True, timeout=60)
    assert "closer to completion: img1" in done.stdout
    texts = [[part.get("text") for part in body["messages"][0]["content"]] for body in desk.bodies]
    assert texts[0] == texts[1]
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
               for part in desk.bodies[1]["messages"][0]["content"] if part["type"] == "image_url")  # fmt: skip


def options(line):
    words = shlex.split(line.replace("\\\n", " "))
    return {words[at]: words[at + 1] for at in range(len(words) - 1) if words[at].startswith("--")}


def test_serving_lines_carry_name_precision_and_limits():
    vllm = options(vllm_line("out", "mine", dtype="bfloat16", limits=LIMITS))
    assert (vllm["--served-model-name"], vllm["--dtype"], vllm["--generation-config"]) == ("mine", "bfloat16", "vllm")
    assert json.loads(vllm["--mm-processor-kwargs"]) == {"min_pixels": 3136, "max_pixels": 50176}
    assert json.loads(vllm["--limit-mm-per-prompt"]) == {"image": 8, "video": 0}
    sglang = options(sglang_line("out", "mine", dtype="bfloat16", limits=LIMITS))
    assert json.loads(sglang["--mm-process-config"])["image"]["max_pixels"] == 50176
    assert sglang["--sampling-defaults"] == "openai"
    assert "--mm-processor-kwargs" not in vllm_line("out", "mine", dtype="bfloat16", limits=None)


def test_names_are_such_as_a_shell_and_a_server_take():
    assert [served_name(name) for name in ("stage2", "my stage; rm -rf", "")] == ["stage2", "my-stage-rm--rf", "stcr"]


def test_export_and_card_say_that_vllm_refuses_the_models_heads_on_a_cpu(stage, registry, tmp_path, capsys):
    from stcr_plugin import cli

    assert cli.main(["export", str(stage), "--out", str(tmp_path / "out"), "--registry", str(registry)]) == 0
    says = refused_on_a_cpu(24)
    assert f"note: {says}\nserve: " in capsys.readouterr().out
    assert says in (tmp_path / "out" / "README.md").read_text()
    assert [refused_on_a_cpu(heads) for heads in (32, 128, None)] == ["", "", ""]


def test_exported_folder_is_evaluated_behind_a_server_by_the_lines_of_its_card(stage, registry, tmp_path, monkeypatch):
    from stcr_plugin import cli

    done = export(stage, tmp_path / "out", registry=registry)
    monkeypatch.chdir(tmp_path)
    card = (done.out / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("stcr eval"))
    vllm = card.partition("python -m vllm")[2].partition("```")[0]
    with serving(lambda question, tried: answer("closer to completion: img2")) as desk:
        for place, own in (("NAME", "toy"), ("SPLIT", "heldout"), ("http://127.0.0.1:8000/v1", desk.url)):
            line = line.replace(place, own)
        assert cli.main([*shlex.split(line)[1:], "--limit", "2", "--registry", str(registry)]) == 0
    assert {body["model"] for body in desk.bodies} == {options(vllm)["--served-model-name"]} == {"stage2"}
    row = json.loads((done.out / "eval" / "toy-heldout-server" / "results.json").read_text())
    assert (row["mode"], row["settings"]["image_max_pixels"], row["position_bias"]) == ("direct", 3136, 100.0)
