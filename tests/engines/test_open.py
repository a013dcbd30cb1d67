"""Engines by name, and `stcr eval` on a server: a scripted one, and the real `llamafactory-cli api`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from misbehaving_server import Reply, answer, serving
from tiny_stage import quiet_environment

from stcr_plugin.cli import main
from stcr_plugin.engines.open import KINDS, engine_for
from stcr_plugin.errors import ConfigError

pytestmark = pytest.mark.usefixtures("undrawn")


def stcr_eval(registry, *arguments):
    return main(["eval", "--registry", str(registry), "--dataset", "toy", *map(str, arguments)])


# ---- engines by name ----


def test_server_is_left_to_write_and_others_compare(model, registry):
    server, ask = engine_for("server", None, registry, options={"url": "http://127.0.0.1/v1", "model": "m"})
    assert (server.identity()["engine"], ask.generate, ask.mode) == ("server", True, "direct")
    local, ask = engine_for("local", model, registry)
    assert (local.identity()["engine"], ask.generate) == ("local", False)


def test_settings_are_completed_by_the_models_stage(registry, tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"mode": "cot", "image_max_pixels": 5000, "image_min_pixels": 800}))
    options = {"url": "http://127.0.0.1/v1", "model": "m"}
    engine, ask = engine_for("server", tmp_path, registry, options=options)
    assert (ask.mode, ask.pixels, engine.ask) == ("cot", (5000, 800), ask)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("severs", {}, "unknown engine 'severs'; did you mean 'server'?"),
        ("local", {}, "the local engine needs the folder of a model; name it (--model)"),
        ("vllm", {}, "unknown engine 'vllm'"),
        ("server", {"model": "m"}, "the options of the server engine: key 'url' is missing"),
        ("server", {"url": "http://127.0.0.1/v1", "model": "m", "time_out": 3}, "did you mean 'timeout'?"),
    ],
)
def test_engine_that_cannot_be_made_is_refused(registry, kind, options, says):
    with pytest.raises(ConfigError) as caught:
        engine_for(kind, None, registry, options=options)
    assert says in str(caught.value)


def test_option_of_another_engine_is_refused(model, registry):
    with pytest.raises(ConfigError, match=r"the local engine has no 'url'; use another engine \(--engine\)"):
        engine_for("local", model, registry, options={"url": "http://127.0.0.1/v1"})


def test_every_engine_is_offered_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert f"{{{','.join(KINDS)}}}" in capsys.readouterr().out


# ---- stcr eval on a scripted server ----


def test_eval_of_a_server_goes_on_and_counts_tokens_and_cost(registry, tmp_path, monkeypatch, capsys):
    """A server that always names the second picture, and is down for a while."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engine.yaml").write_text("tries: 1\nback_off: 0.0\nprice_in: 3\nconcurrency: 5\n")
    up = False

    def script(asked, tries):
        return answer("closer to completion: img2") if up or len(desk.bodies) <= 4 else Reply(503, b"down")

    with serving(script) as desk:
        options = ["--engine", "server", "--url", desk.url, "--server-model", "org/some model"]
        options += ["--engine-config", "engine.yaml", "--limit", 6]
        options += ["--set", "engine.price_out=15", "--set", "engine.concurrency=1"]
        assert stcr_eval(registry, *options) == 1
        assert "run the same command again to continue (4 responses of this run are kept)" in capsys.readouterr().err
        up = True
        assert stcr_eval(registry, *options) == 0
    assert len(desk.bodies) == 12 + 1
    assert desk.most == 1
    row = json.loads((tmp_path / "runs/eval/org_some_model/toy-heldout/results.json").read_text())
    assert (row["name"], row["model"], row["settings"]["generate"]) == ("org/some model", "org/some model", True)
    assert (row["forward_accuracy"], row["backward_accuracy"], row["position_bias"]) == (100.0, 0.0, 100.0)
    assert row["tokens"] == {"prompt": 1200, "completion": 84}
    assert row["cost"] == pytest.approx((1200 * 3 + 84 * 15) / 1e6)
    assert row["overlap"]["unknown"].startswith("the model is not a folder here")


def test_results_of_a_served_folder_stand_beside_those_of_the_folder(model, registry, tmp_path):
    model = shutil.copytree(model, tmp_path / "model")
    with serving(lambda *_: answer("img1 or img2")) as desk:
        options = ["--engine", "server", "--url", desk.url, "--server-model", "m", "--model", model, "--limit", 2]
        assert stcr_eval(registry, *options) == 0
    row = json.loads((model / "eval" / "toy-heldout-server" / "results.json").read_text())
    assert (row["n_pairs"], row["unparsed_rate"], row["cost"]) == (2, 100.0, None)


# ---- the real llamafactory-cli api ----


@pytest.fixture(scope="module")
def api(model, tmp_path_factory):
    """Base URL of a real server of the tiny model on loopback."""
    folder = tmp_path_factory.mktemp("api")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "api", "--model_name_or_path", str(model)]
    command += ["--template", "stcr_qwen2_vl", "--infer_dtype", "float32", "--image_max_pixels", str(768 * 768)]
    own = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "API_MODEL_NAME": "tiny"}
    with open(folder / "api.log", "w") as log:
        process = subprocess.Popen(
            command, env=quiet_environment(folder) | own, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(240):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.5)
        assert process.poll() is None, (folder / "api.log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.mark.slow(seconds=20)
def test_llamafactorys_api_says_what_the_local_engine_says(model, registry, api, tmp_path):
    """Word for word: the same pictures, numbered once, the same template, greedy on both sides.

    But for blanks before punctuation, which LLaMA-Factory's chat engine takes out (clean_up_tokenization_spaces).
    """
    from transformers import AutoTokenizer

    shared = ["--model", model, "--mode", "cot", "--set", "max_new_tokens=24", "--limit", 6]
    server = ["--engine", "server", "--url", api, "--server-model", "tiny", "--set", "engine.concurrency=3"]
    assert stcr_eval(registry, *shared, *server, "--out", tmp_path / "server") == 0
    assert stcr_eval(registry, *shared, "--out", tmp_path / "local") == 0
    there, here = (
        [json.loads(line) for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        for name in ("server", "local")
    )
    assert len(there) == len(here) == 12
    assert [one["prompt_tokens"] for one in there] == [one["prompt_tokens"] for one in here]
    cleaned = AutoTokenizer.from_pretrained(model).clean_up_tokenization
    assert [one["text"] for one in there] == [cleaned(one["text"]) for one in here]
    row = json.loads((tmp_path / "server" / "results.json").read_text())
    assert row["tokens"]["prompt"] == sum(one["prompt_tokens"] for one in here)
    assert row["engine"]["engine"] == "server"


@pytest.mark.slow
def test_api_in_direct_mode_and_in_another_language_is_parsed_or_unparsed(registry, api, tmp_path):
    server = ["--engine", "server", "--url", api, "--server-model", "any name", "--set", "max_new_tokens=6"]
    assert stcr_eval(registry, *server, "--out", tmp_path / "out", "--limit", 2, "--set", "language=zh") == 0
    row = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (row["n_queries"], row["mode"], row["settings"]["generate"]) == (4, "direct", True)
    assert 0 <= row["unparsed_rate"] <= 100
