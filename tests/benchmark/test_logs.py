import dataclasses
import json
import sys

import benchmark_logs
import pytest
from benchmark_logs import GENERATED, predictions, samples, write_jsonl, write_tsv

from stcr_plugin.benchmark.logs import FAILED, Log, open_log, read
from stcr_plugin.benchmark.rows import benchmark
from stcr_plugin.cli import main
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate, read_answers
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.results import Evaluation
from stcr_plugin.types import Response

# What tells one evaluation from another and says nothing of the answers.
KEY = "closer to completion: img2"
OWN = {"name", "model", "engine"}


class Scripted:
    """An engine with given responses."""

    def __init__(self, texts):
        self.texts = texts

    def identity(self):
        return {"engine": "scripted"}

    def respond(self, prompts):
        for index, prompt in enumerate(map(unsealed, prompts)):
            yield index, Response(self.texts[prompt.item, prompt.order])


@pytest.fixture(scope="module")
def evaluated(registry, texts, tmp_path_factory):
    """The folder of an evaluation with the responses `texts`, without other tools."""
    out = tmp_path_factory.mktemp("evaluated")
    request = EvalRequest(engine=Scripted(texts), dataset="toy", registry=registry, settings=GENERATED)
    evaluate(request, out)
    return out


def test_lmms_eval_log_gives_the_results_of_an_evaluation_with_the_same_texts(
    registry, made, texts, evaluated, tmp_path
):
    log = tmp_path / "MyModel" / f"20260101_000000_samples_{made.name}.jsonl"
    log.parent.mkdir()
    write_jsonl(log, samples(made, texts))
    read(tmp_path, "toy", "heldout", out=tmp_path / "out", registry=registry)
    same_results(tmp_path / "out", evaluated, log.name, "MyModel")


def test_vlmevalkit_log_gives_them_too(registry, made, texts, evaluated, tmp_path, capsys):
    log = tmp_path / f"MyModel_{made.name}.tsv"
    write_tsv(log, predictions(made, texts))
    options = ["--dataset", "toy", "--out", str(tmp_path / "out"), "--registry", str(registry), "--name", "mine"]
    assert main(["benchmark", "read", str(log), *options]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))
    assert f"{Evaluation.read(evaluated / 'results.json').figures.pair_accuracy:.1f}" in line
    same_results(tmp_path / "out", evaluated, log.name, "mine")
    assert (tmp_path / "out" / "report.md").is_file()


def same_results(found, evaluated, log, name):
    results, want = (json.loads((out / "results.json").read_text()) for out in (found, evaluated))
    assert results["unparsed_rate"] > 0
    assert {key for key in want if results[key] != want[key]} == OWN
    assert (results["name"], results["engine"]["log"]) == (name, log)
    assert read_answers(found / "answers.jsonl") == read_answers(evaluated / "answers.jsonl")


@pytest.mark.parametrize("ending", ["jsonl", "tsv", "csv", "json", "xlsx"])
def test_responses_are_read_as_they_were_logged(registry, made, texts, tmp_path, ending):
    if ending == "xlsx":
        pytest.importorskip("openpyxl", reason="needs pip install 'stcr-plugin[vlmevalkit]'")
    path = tmp_path / f"MyModel_{made.name}.{ending}"
    rows = samples(made, texts) if ending == "jsonl" else predictions(made, texts)
    getattr(benchmark_logs, f"write_{ending}")(path, rows)
    again, log = open_log(path, "toy", "heldout", registry=registry)
    assert again == made
    assert dict(log.responses) == texts
    assert (log.tool, log.model) == {"jsonl": ("lmms-eval", tmp_path.name)}.get(ending, ("VLMEvalKit", "MyModel"))


def test_prompt_variants_and_seed_come_from_the_log(registry, texts, tmp_path):
    settings = dataclasses.replace(GENERATED, mode="cot", language="zh", part="heldout")
    made = benchmark(registry, "toy", "heldout", settings=settings, seed=5)
    write_jsonl(tmp_path / "log.jsonl", samples(made, texts))
    assert open_log(tmp_path / "log.jsonl", "toy", "heldout", registry=registry)[0] == made


def broken(case, rows):
    if case == "missing":
        return rows[:3] + rows[4:]
    if case == "double":
        return [*rows, rows[2]]
    if case == "foreign":
        return [{**rows[0], "pair_id": "elsewhere:1-2"}, *rows[1:]]
    if case == "failed":
        return [*rows[:6], {**rows[6], "prediction": f"{FAILED} via API."}, *rows[7:]]
    if case == "mixed":
        return [*rows[:5], {**rows[5], "benchmark": "{}"}, *rows[6:]]
    if case == "no column":
        return [{key: value for key, value in row.items() if key != "pair_id"} for row in rows]
    return [{**row, "benchmark": "not JSON"} for row in rows]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("missing", r"has no answer to 1 of 24 queries, the first pair heldout-\d+:\d+-\d+, backward \(no row\)"),
        ("double", r"row 25: pair heldout-\d+:\d+-\d+, forward, is in row 3 too"),
        ("foreign", r"row 1: pair elsewhere:1-2, forward, is not in the benchmark"),
        ("failed", r"has no answer to 1 of 24 queries, .* \(row 7: Failed to obtain answer\)"),
        ("mixed", r"row 6: is of another benchmark than row 1"),
        ("no column", r"row 1: not a row of a benchmark that `stcr benchmark` exported \(KeyError: 'pair_id'\)"),
        ("no label", r"its rows do not say how they were made"),
    ],
)
def test_rows_that_are_not_the_benchmarks_are_named(registry, made, texts, tmp_path, case, reason):
    log = tmp_path / f"m_{made.name}.tsv"
    write_tsv(log, broken(case, list(predictions(made, texts))))
    with pytest.raises(DataError, match=reason) as caught:
        open_log(log, "toy", "heldout", registry=registry)
    assert str(log) in str(caught.value)


def test_repeated_answers_are_refused(registry, made, texts, tmp_path):
    rows = list(samples(made, texts))
    rows[1]["filtered_resps"] = ["img1", "img2"]
    log = tmp_path / "log.jsonl"
    write_jsonl(log, rows)
    with pytest.raises(DataError, match=r"log.jsonl, row 2: .*--repeats 1"):
        open_log(log, "toy", "heldout", registry=registry)


def test_several_logs_or_none_in_a_folder_are_refused(registry, made, texts, tmp_path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(ConfigError, match="found: none"):
        open_log(tmp_path / "logs", "toy", "heldout", registry=registry)
    for model in ("a", "b"):
        write_tsv(tmp_path / "logs" / f"{model}_{made.name}.tsv", predictions(made, texts))
    write_tsv(tmp_path / "logs" / f"{made.name}.tsv", predictions(made, texts))  # the benchmark itself, no log
    with pytest.raises(ConfigError, match=rf"found: [^,]*a_{made.name}.tsv, [^,]*b_{made.name}.tsv;"):
        open_log(tmp_path / "logs", "toy", "heldout", registry=registry)
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_log(tmp_path / "nowhere", "toy", "heldout", registry=registry)
    (tmp_path / "log.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"log.pkl: is not a log by its ending"):
        open_log(tmp_path / "log.pkl", "toy", "heldout", registry=registry)


def test_log_of_another_split_is_refused(registry, made, texts, tmp_path):
    log = tmp_path / "log.jsonl"
    write_jsonl(log, samples(made, texts))
    with pytest.raises(DataError, match="is a log of toy, split heldout; name these"):
        open_log(log, "toy", "train", registry=registry)


def test_xlsx_without_openpyxl_names_the_command(registry, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    log = tmp_path / f"m_{made.name}.xlsx"
    log.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'stcr-plugin\[vlmevalkit\]'.*PRED_FORMAT=tsv"):
        open_log(log, "toy", "heldout", registry=registry)


@pytest.mark.parametrize("form", ["jsonl", "tsv"])
def test_reasoning_in_a_log_is_not_the_answer(registry, made, texts, evaluated, tmp_path, form):
    """However long it is; where it is left open, the answer was cut."""

    def figures_of(told, out):
        log = tmp_path / out / f"MyModel_{made.name}.tsv"
        log.parent.mkdir()
        if form == "jsonl":
            log = log.with_name(f"2026_samples_{made.name}.jsonl")
            write_jsonl(log, samples(made, told))
        else:
            write_tsv(log, predictions(made, told))
        return read(log, "toy", "heldout", out=tmp_path / out / "read", registry=registry).figures

    quoted = f"<think>closer to completion: img1 {'x' * 140_000}"
    thought = {key: f"{quoted}</think>\n{text}" for key, text in texts.items()}
    assert figures_of(thought, "thought") == Evaluation.read(evaluated / "results.json").figures
    found = figures_of(dict.fromkeys(texts, quoted), "cut")
    assert (found.unparsed_rate, found.cut_rate, found.gap_points) == (100, 100, 0)


def test_log_in_which_only_ends_of_reasonings_are_marked_tells_which_were_cut(registry, made, texts, tmp_path):
    """As of Qwen3-VL-Thinking, whose template writes the first mark."""
    quoted = "I compare.\ncloser to completion: img1\nor the other. In the first,"
    told = {key: quoted if number % 2 else f"{quoted}</think>{KEY}" for number, key in enumerate(texts)}
    log = tmp_path / f"2026_samples_{made.name}.jsonl"
    write_jsonl(log, samples(made, told))
    found = read(log, "toy", "heldout", out=tmp_path / "read", registry=registry)
    assert found.figures.unparsed_rate == found.figures.cut_rate == 50
    assert {one.chosen for one in read_answers(tmp_path / "read" / "answers.jsonl")} == {"img2", None}


def test_cell_that_excel_cut_is_a_cut_answer(tmp_path):
    quoted = "I compare.\ncloser to completion: img1\nor the other. "
    log = Log(path=tmp_path / "log.xlsx", tool="VLMEvalKit", model="m", responses={})
    assert log.response((quoted + "x" * 40_000)[:32_767]).lost == "cut"
    assert log.response(quoted).lost == ""
