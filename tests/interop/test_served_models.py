"""The exported chain behind real servers: the same answers as in this process, from the lines of its own model card.

Counts are written to runs/interop/agreement.jsonl, a row per server and mode.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_models import card_line, llamafactory, vllm

from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.release.export import Exported, export

PAIRS, SPLIT = 200, "seen"
LEAST_AGREEMENT = 99.0  # percent of the answers
pytestmark = [pytest.mark.interop, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def exported(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    out, made = tmp_path_factory.mktemp("exported"), dict[str, Exported]()

    def of(stage: str) -> Exported:
        made[stage] = made.get(stage) or export(chain / stage, out / stage, registry=chain / "data_registry")
        return made[stage]

    return of


@pytest.fixture(scope="module")
def by_vllm(
    exported: Callable[[str], Exported], python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    done = exported("stage2")
    line = card_line((done.out / "README.md").read_text(), "python -m vllm")
    with vllm(python("vllm"), line, done.out, tmp_path_factory.mktemp("vllm") / "log.txt") as url:
        yield url


def evaluated(chain: Path, model: Path, out: Path, *more: str) -> Path:
    """An evaluation on the same pairs, by the command that users run."""
    command = ["stcr", "eval", "--model", str(model), "--dataset", "stcr", "--split", SPLIT, "--limit", str(PAIRS)]
    command += ["--registry", str(chain / "data_registry"), "--out", str(out), *more]
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def pixels(done: Exported) -> int:
    return int(json.loads((done.out / "stage.json").read_text())["image_max_pixels"])


def at(url: str, *more: str) -> list[str]:
    return ["--engine", "server", "--url", url, "--server-model", more[0], *more[1:]]


def agreement(chain: Path, name: str, local: Path, served: Path) -> dict[str, Any]:
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
    found = {
        "name": name,
        "answers": len(both),
        "same": sum(one.chosen == two.chosen for one, two in both),
        "same_text": sum(one.text == two.text for one, two in both),
        "largest_difference_of_log_odds": max(odds, default=None),
        "counted": len(counted),
        "same_prompt_tokens": sum(one.prompt_tokens == two.prompt_tokens for one, two in counted),
    }
    path = chain / "agreement.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    path.write_text("".join(json.dumps(row) + "\n" for row in [row for row in rows if row["name"] != name] + [found]))
    print(f"\n{found}")
    return found


def test_answers_compared_by_vllm_are_those_of_the_local_engine(exported, by_vllm, chain, tmp_path):
    done = exported("stage2")
    served = evaluated(chain, done.out, tmp_path / "served", *at(by_vllm, done.name, "--set", "engine.logprobs=true"))
    found = agreement(chain, "vllm_direct", evaluated(chain, done.out, tmp_path / "local"), served)
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["largest_difference_of_log_odds"] < 1e-3


def test_answers_generated_by_vllm_are_those_of_the_local_engine(exported, by_vllm, chain, tmp_path):
    done = exported("stage2")
    served = evaluated(chain, done.out, tmp_path / "served", *at(by_vllm, done.name))
    local = evaluated(chain, done.out, tmp_path / "local", "--generate")
    found = agreement(chain, "vllm_direct_generated", local, served)
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["same_prompt_tokens"] == found["counted"] == found["answers"]


def pictures_of(chain: Path) -> tuple[Path, Path, str]:
    pair = read_pairs(chain / "data_registry", "stcr", SPLIT)[0]
    root = chain / "data_registry"
    return root / pair.earlier_image, root / pair.later_image, pair.task


def test_client_and_curl_line_of_the_card_are_answered_by_vllm(exported, by_vllm, chain, tmp_path):
    done = exported("stage2")
    first, second, task = pictures_of(chain)
    client = (done.out / "client.py").read_text().replace("http://127.0.0.1:8000/v1", by_vllm)
    (tmp_path / "client.py").write_text(client)
    asked = [sys.executable, str(tmp_path / "client.py"), str(first), str(second), task]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    assert said.stdout.count("closer to completion: img") == 2, said.stdout + said.stderr
    for picture, name in ((first, "a.png"), (second, "b.png")):
        (tmp_path / name).write_bytes(picture.read_bytes())
    card = (done.out / "README.md").read_text()
    curl = card[card.index("curl -s") : card.index("\nEND", card.index("curl -s")) + 4]
    line = curl.replace("http://127.0.0.1:8000/v1", by_vllm)
    told = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    answer = json.loads(told.stdout)["choices"][0]["message"]["content"]
    assert answer.startswith("closer to completion: img")


def test_judge_has_the_same_probability_behind_vllm(exported, by_vllm, chain):
    done = exported("stage2")
    first, second, task = pictures_of(chain)
    judge = [str(Path(sys.executable).parent / "stcr"), "judge"]
    shown = [str(first), str(second), "--task", task, "--json"]
    served = ["--engine", "server", "--url", by_vllm, "--server-model", done.name, "--set", "engine.logprobs=true"]
    for_pictures = ["--image-max-pixels", str(pixels(done))]
    found = []
    for command in ([*judge, str(done.out), *shown], [*judge, *shown, *served, *for_pictures]):
        told = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0, told.stderr[-2000:]
        found.append(json.loads(told.stdout))
    local, server = (one["probabilities"] for one in found)
    assert server == pytest.approx(local, abs=1e-3)


def test_reasoned_answers_by_vllm_are_those_of_the_local_engine(exported, python, chain, tmp_path):
    done = exported("stage1")
    line = card_line((done.out / "README.md").read_text(), "python -m vllm")
    with vllm(python("vllm"), line, done.out, tmp_path / "log.txt") as url:
        served = evaluated(chain, done.out, tmp_path / "served", *at(url, done.name))
    found = agreement(chain, "vllm_cot", evaluated(chain, done.out, tmp_path / "local"), served)
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT
    assert found["same_prompt_tokens"] == found["counted"] == found["answers"]


def test_answers_by_llamafactory_are_those_of_the_local_engine(exported, chain, tmp_path):
    done = exported("stage2")
    with llamafactory(done.out, done.name, pixels(done), tmp_path / "log.txt") as url:
        served = evaluated(chain, done.out, tmp_path / "served", *at(url, done.name))
    local = evaluated(chain, done.out, tmp_path / "local", "--generate")
    found = agreement(chain, "llamafactory", local, served)
    assert 100 * found["same"] / found["answers"] >= LEAST_AGREEMENT


def test_a_server_without_log_probabilities_is_named(exported, chain, tmp_path):
    done = exported("stage2")
    with llamafactory(done.out, done.name, pixels(done), tmp_path / "log.txt") as url:
        command = [str(Path(sys.executable).parent / "stcr"), "eval", "--model", str(done.out), "--dataset", "stcr"]
        command += ["--split", SPLIT, "--limit", "2", "--registry", str(chain / "data_registry")]
        command += ["--out", str(tmp_path / "out"), *at(url, done.name, "--set", "engine.logprobs=true")]
        told = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert told.returncode != 0
    assert "no log-probabilities" in told.stderr or "does not continue" in told.stderr, told.stderr[-2000:]
    assert shlex.join(["engine.logprobs"]) in told.stderr
