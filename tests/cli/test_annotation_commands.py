"""`stcr annotate`: options, the estimate and where it stops, the second model and its key."""

import json
import shutil
from pathlib import Path

import pytest
from teacher_server import frames_by_pixels, kind_of, teaching
from toy_build import build_toy

from stcr_plugin import records
from stcr_plugin.cli import main
from stcr_plugin.cli.options import Actions, Parser, command
from stcr_plugin.engines.server_settings import ServerSettings

KEY = "sk-first-0123456789"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"), heldout=7)


@pytest.fixture(scope="module")
def frames(registry):
    return frames_by_pixels(registry, "toy")


def plain(kind, body, text):
    """Nothing is written that the recorded state may contradict."""
    return text.replace(" The gripper is open.", "")


def run(capsys, registry, desk, *more):
    server = ["--engine", "server", "--url", desk.url, "--server-model", "m", "--registry", registry]
    code = main([str(word) for word in ["annotate", "toy", "--split", "heldout", *server, *more]])
    out, errors = capsys.readouterr()
    return code, out, errors


def test_texts_are_written_with_an_estimate_and_a_summary(capsys, registry, frames, tmp_path):
    with teaching(frames, plain) as desk:
        code, out, _ = run(capsys, registry, desk, "--out", tmp_path / "out", "--judge-model", "second")
    assert code == 0
    first, second, *_, last = out.splitlines()
    assert first.startswith("estimate for the other 8 pairs, by the first 20: about ")
    assert second == "28 of 28 pairs have accepted texts, 0 of 28 rows a suspect label"
    assert last == f"texts: {tmp_path / 'out' / 'annotations.jsonl'}"
    assert json.loads((tmp_path / "out/summary.json").read_text())["verifier"] == "second"
    assert {body["max_tokens"] for body in desk.bodies} == {512}


def test_a_server_elsewhere_is_asked_for_more_than_the_estimate_only_with_yes(
    capsys, registry, frames, tmp_path, monkeypatch
):
    monkeypatch.setattr(ServerSettings, "loopback", property(lambda self: False))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with teaching(frames, plain) as desk:
        code, out, _ = run(capsys, registry, desk, "--out", tmp_path / "out", "--judge-model", "second")
        assert code == 0
        assert "run the same command with --yes to go on" in out
        assert "WARNING: these are the first 20 of 28 pairs only" in out
        before = len(desk.bodies)
        code, out, _ = run(capsys, registry, desk, "--out", tmp_path / "out", "--judge-model", "second", "--yes")
        assert "28 of 28 pairs" in out
        assert len(desk.bodies) < before * 28 / 20 + 10


def test_a_second_model_in_a_folder_is_loaded_here_and_not_asked_of_the_server(
    capsys, registry, frames, tmp_path, model
):
    trained = Path(shutil.copytree(model, tmp_path / "trained"))
    records.write(trained, records.StageRecord(name="stage1", image_max_pixels=7056))
    with teaching(frames, plain) as desk:
        more = ["--judge-model", trained, "--limit", 1, "--tries", 1, "--set", "max_new_tokens=4"]
        code, _, _ = run(capsys, registry, desk, "--out", tmp_path / "out", *more)
    assert code == 0
    assert {body["model"] for body in desk.bodies} == {"m"}
    roles = {one["role"]: one for one in json.loads((tmp_path / "out/summary.json").read_text())["models"]}
    assert roles["verifier"]["use"]["requests"] > 0
    assert roles["describer"]["use"]["requests"] == len(desk.bodies)


def test_without_a_second_model_one_line_says_that_the_first_verifies_itself(capsys, registry, frames, tmp_path):
    with teaching(frames, plain) as desk:
        _, out, _ = run(capsys, registry, desk, "--out", tmp_path / "out", "--limit", 2)
        assert out.splitlines()[0] == "WARNING: m verifies its own texts; name a second model (--judge-model)"
        _, out, _ = run(capsys, registry, desk, "--out", tmp_path / "out", "--limit", 2, "--checks", "leak,judged")
        assert "verifies its own texts" not in out
    row = json.loads((tmp_path / "out/annotations.jsonl").read_text().splitlines()[0])
    assert (row["blind"], row["judged"], row["earlier_claims"]) == ("unchecked", "passed", "unchecked")


def test_the_key_for_one_address_is_not_sent_to_another(capsys, registry, frames, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with teaching(frames, plain) as desk, teaching(frames, plain) as other:
        more = ["--judge-model", "second", "--judge-url", other.url, "--limit", 2]
        code, _, _ = run(capsys, registry, desk, "--out", tmp_path / "out", *more)
        assert code == 0
        assert {headers["authorization"] for headers in desk.headers} == {f"Bearer {KEY}"}
        assert KEY not in str(other.headers)
        assert {kind_of(body) for body in desk.bodies} == {"describe", "judge"}
        assert {kind_of(body) for body in other.bodies} == {"confirm", "blind"}
        monkeypatch.setenv("STCR_JUDGE_KEY", "sk-second-0123456789")
        run(capsys, registry, desk, "--out", tmp_path / "more", *more)
        assert other.headers[-1]["authorization"] == "Bearer sk-second-0123456789"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_settings_of_the_second_model_come_from_its_file(capsys, registry, frames, tmp_path):
    (tmp_path / "judge.yaml").write_text("price_in: 1\nprice_out: 2\ntemperature: 0.5\n")
    with teaching(frames, plain) as desk:
        more = ["--judge-model", "second", "--judge-config", tmp_path / "judge.yaml", "--limit", 2]
        run(capsys, registry, desk, "--out", tmp_path / "out", *more)
    assert {(body["model"], body["temperature"]) for body in desk.bodies} == {("m", 0.0), ("second", 0.5)}
    models = json.loads((tmp_path / "out/summary.json").read_text())["models"]
    assert [one["cost"] is None for one in models] == [True, False]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--judge-url", "http://127.0.0.1:1/v1"], "require --judge-model"),
        (["--checks", "leek"], "should be 'described', 'leak'"),
        (["--tries", "0"], "tries and samples must be at least 1"),
        (["--limit", "0"], "limit 0: must be at least 1"),
        (["--language", "fr"], "has no questions for a teacher"),
        (["--split", "heldut"], "did you mean 'heldout'?"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(capsys, registry, frames, tmp_path, more, words):
    with teaching(frames, plain) as desk:
        code, _, errors = run(capsys, registry, desk, "--out", tmp_path / "out", *more)
    assert (code, desk.bodies) == (1, [])
    assert words in errors
    assert errors.count("\n") == 1


def test_a_word_may_lead_to_another_command_in_place_of_the_first_argument():
    done = []
    main_parser = Parser(prog="main")
    parser = main_parser.add_subparsers().add_parser("annotate")
    parser.add_argument("dataset")
    command(Actions(parser), "review", done.append, help="look", options=lambda one: one.add_argument("file"))
    assert main_parser.parse_args(["annotate", "toy"]).dataset == "toy"
    found = main_parser.parse_args(["annotate", "review", "a.jsonl"])
    assert (found.file, found.command, found.run) == ("a.jsonl", "review", done.append)
