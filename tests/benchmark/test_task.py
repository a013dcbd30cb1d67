import json
import math
import os
import subprocess
import sys

import pytest
from benchmark_logs import document, samples
from PIL import Image

from stcr_plugin.benchmark import task
from stcr_plugin.benchmark.benchmark_files import export
from stcr_plugin.benchmark.logs import read
from stcr_plugin.engines.prompts import content, prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.scoring.metrics import RATES, figures
from stcr_plugin.types import Answer, Query


def test_chat_models_are_given_the_turn_of_an_evaluation(made):
    row = made.rows[1]
    prompt = prompts_for([Query(row.pair, "backward")], AskSettings(mode="direct"))[0]
    one, two = Image.new("RGBA", (2, 2)), Image.new("L", (3, 3))
    turn = task.doc_to_messages(document(made, row, img1=one, img2=two))
    parts = turn[0]["content"]
    assert turn[0]["role"] == "user"
    assert [part["type"] for part in parts] == [part["type"] for part in content(prompt)]
    assert [part.get("text") for part in parts] == [part.get("text") for part in content(prompt)]
    assert [part["url"].size for part in parts if "url" in part] == [(2, 2), (3, 3)]
    assert {part["url"].mode for part in parts if "url" in part} == {"RGB"}


def test_models_that_take_pictures_first_are_given_their_names(made):
    text = task.doc_to_text(document(made, made.rows[0]))
    assert text.startswith("The pictures are, in this order: img1, img2.\n")
    assert text.endswith(made.rows[0].question)


def test_aggregated_figures_are_those_of_our_metrics(made, texts):
    logged = list(samples(made, texts))
    answers = [Answer(**sample["pair_accuracy"]) for sample in logged]
    assert {answer.chosen for answer in answers} == {"img1", "img2", None}
    for name in RATES:
        assert getattr(task, name)([sample[name] for sample in logged]) == getattr(figures(answers), name)


def test_pair_with_one_order_is_left_out_and_logged(made, texts, caplog):
    logged = list(samples(made, texts))
    whole = [sample["forward_accuracy"] for sample in logged[:4]]
    assert task.forward_accuracy([*whole, logged[4]["forward_accuracy"]]) == task.forward_accuracy(whole)
    assert "1 of 5 answers are left out" in caplog.text
    assert math.isnan(task.pair_accuracy([logged[0]["pair_accuracy"]]))


@pytest.mark.slow
def test_lmms_eval_itself_gives_our_figures_and_its_log_is_read(registry, made, tmp_path):
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; pip install lmms-eval")
    done = export(registry, "toy", "heldout", out=tmp_path / "out", format="lmms-eval")
    command = [sys.executable, "-m", "lmms_eval", "--include_path", str(tmp_path / "out"), "--tasks", done.name]
    command += ["--model", "dummy", "--model_args", "response=img2", "--log_samples", "--output_path"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command, str(tmp_path / "logs")], check=True, timeout=600, env=os.environ | offline)
    found = json.loads(next((tmp_path / "logs").rglob("*_results.json")).read_text())["results"][done.name]
    read_back = read(tmp_path / "logs", "toy", "heldout", out=tmp_path / "read", registry=registry)
    for name in RATES:
        assert found[f"{name},none"] == pytest.approx(getattr(read_back.figures, name), abs=1e-9)
    assert (read_back.figures.gap_points, read_back.figures.position_bias) == (100, 100)
