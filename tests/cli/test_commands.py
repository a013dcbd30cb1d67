import argparse
import json
import re
import subprocess
import sys

import pytest

from stcr_plugin import __version__, cli
from stcr_plugin.cli import main, sharing_commands
from stcr_plugin.errors import ConfigError

CONFIG = """
name: toy
source: {kind: tabletop, seen: 3, heldout: 2, size: 56}
splits:
  train: {episodes: 3, group: seen}
  heldout: {episodes: 2, group: heldout}
pairs: {per_episode: 4, min_seconds: 0.5, within_phase: 0.5, trim_idle: 0.02}
datasets:
  cot: {split: train, kind: cot}
  weak: {split: train, kind: weak, pairs: 8}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a data config, its build and a random checkpoint."""
    from stcr_plugin.embedded.architecture import write_checkpoint

    folder = tmp_path_factory.mktemp("work")
    (folder / "toy.yaml").write_text(CONFIG)
    assert main(["data", "build", str(folder / "toy.yaml"), "--registry", str(folder / "sets")]) == 0
    write_checkpoint(folder / "model")
    return folder


def run(capsys, *arguments):
    """Exit code, standard output, and our lines on standard error without the progress bars."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if line.startswith("stcr: ")]


def refused(capsys, *arguments):
    """What argparse says of a command line that it refuses."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


# ---- the door itself ----


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["data", "base", "train", "eval", "report"]),
        (["data"], ["build", "check"]),
        (["data", "build"], ["data config, YAML", "KEY=VALUE", "--registry"]),
        (["data", "check"], ["name of a build", "--registry"]),
        (["base"], ["build"]),
        (["base", "build"], ["base config, YAML", "KEY=VALUE"]),
        (["train"], ["recipe, YAML", "KEY=VALUE"]),
        (["eval"], ["--model", "--dataset", "--split", "--limit", "--mode", "{cot,direct}"]),
        (["comparator"], ["NAME", "--weight", "--dataset"]),
        (["multi-image"], ["--pictures", "--rotations", "--dataset"]),
        (["report"], ["RUN", "--out"]),
    ],
)
def test_every_command_explains_itself(capsys, command, words):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {' '.join(['stcr', *command])}")
    assert [word for word in words if word not in text] == []


def commands(parser=None, words=()):
    """The words of every command, below those of a group of commands too."""
    parser = parser or cli._parser()
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, below in groups[0].choices.items() if groups else ():
        yield (*words, name)
        yield from commands(below, (*words, name))


def helped(capsys, monkeypatch, *command):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_fits_a_terminal_and_explains_every_option(capsys, monkeypatch, command):
    text = helped(capsys, monkeypatch, *command)
    assert [line for line in text.splitlines() if len(line) > 100] == []
    _, *entries = re.split(r"^ {2,4}(?=\S)", text.partition("\n\n")[2], flags=re.M)
    assert entries
    unexplained = [entry for entry in entries if not re.search(r"( {2,}|\n +)\S", entry)]
    assert [entry for entry in unexplained if not entry.startswith(("{", "COMMAND"))] == []


def test_eval_has_at_most_twenty_options(capsys, monkeypatch):
    text = helped(capsys, monkeypatch, "eval")
    assert 10 < len(re.findall(r"^  -", text, re.M)) <= 20
    assert [key for key in ("language", "warn", "engine.concurrency") if f"  {key} " not in text] == []


@pytest.mark.parametrize(
    "command", [["built"], ["data", "bild"], [], ["data"], ["eval", "--model", "x", "--mode", "?"]]
)
def test_unknown_command_is_refused_with_the_known_ones(capsys, command):
    text = refused(capsys, *command)
    assert text.startswith("usage: stcr")
    assert "error: " in text


def test_version_is_the_packages():
    done = subprocess.run([sys.executable, "-m", "stcr_plugin.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"stcr_plugin {__version__}\n")


def test_users_mistake_ends_with_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "stcr_plugin.cli", "data", "build", str(tmp_path / "nowhere.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"stcr: {tmp_path / 'nowhere.yaml'}: no such file")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_our_own_mistake_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(sharing_commands, "_report", broken)
    with pytest.raises(ZeroDivisionError):
        main(["report", "x", "--out", "y"])


def test_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sharing_commands, "_report", interrupted)
    assert run(capsys, "report", "x", "--out", "y") == (
        130,
        "",
        ["stcr: interrupted; run the same command again to go on"],
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("eval --oracle coin --engine server --url http://127.0.0.1/v1", "--oracle and --engine exclude each other"),
        ("eval --oracle coin --model m", "--oracle and --model exclude each other"),
        ("eval --set languages=en", "unknown key 'languages', did you mean 'language'?"),
        ("eval --set engine.mode=cot", "unknown key 'engine.mode', did you mean"),
        ("eval --set warn", "--set warn: has no value; write KEY=VALUE"),
        ("eval --set part=dev", "part: Input should be 'train' or 'heldout'"),
        ("controls --oracle coin --set engine.concurrency=3", "--oracle and --set engine.concurrency exclude"),
        ("rank --voc --dataset toy --comparisons 3 --out x", "--voc and --comparisons exclude each other"),
        ("rank --voc --dataset toy --task t --out x", "--voc and --task exclude each other"),
        ("rank --voc --dataset toy --episode e --out x", "--voc and --episode exclude each other"),
        ("rank --dataset toy --episode e --episodes 3 --out x", "--episodes requires --voc"),
        ("rank --dataset toy --out x", "--dataset requires --episode or --voc"),
        ("rank --out x", "no frames given; name picture files or a video, or give --dataset"),
        ("rank a.png b.png --out x", "PICTURE requires --task"),
        ("rank a.png b.png --task t --frames 3 --out x", "--frames and several pictures exclude each other"),
        ("rank a.png b.png --task t --split seen --out x", "PICTURE and --split exclude each other"),
        ("rank a.png b.png --task t --dataset toy --out x", "PICTURE and --dataset exclude each other"),
        ("guard --model m --images d --out x", "--images requires --pope"),
        ("guard --model m --pope f --out x", "--pope requires --images"),
        ("guard --model m --pope f --images d --episodes 3 --out x", "--pope and --episodes exclude each other"),
        ("guard --compare a b --model m", "--compare and --model exclude each other"),
        ("guard --compare a b --set language=zh", "--compare and --set exclude each other"),
        ("guard --model m", "stcr guard requires --out"),
        ("judge a.png b.png --task t --oracle coin --url http://127.0.0.1/v1", "--oracle and --url exclude each other"),
        ("train r.yaml --registry sets dataset_dir=others", "--registry and dataset_dir= exclude each other"),
    ],
)
def test_option_that_would_not_be_used_is_refused(capsys, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    given = command.split() + (["--dataset", "toy"] if command.startswith(("eval", "controls")) else [])
    code, out, errors = run(capsys, *given)
    assert (code, out, len(errors)) == (1, "", 1)
    assert words in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["eval --dataset toy", "data show toy"])
def test_negative_seed_is_refused(capsys, command):
    assert "argument --seed: -2: must be at least 0" in refused(capsys, *command.split(), "--seed", "-2")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("eval --control letters", "stcr eval --control: has moved; use `stcr controls --only NAME`"),
        ("eval --comparator ritual --weight 2", "stcr eval --comparator: has moved; use `stcr comparator NAME`"),
        ("eval --pictures=3 --ask order", "stcr eval --pictures: has moved; use `stcr multi-image`"),
        ("eval --rotations 2", "stcr eval --rotations: has moved; use `stcr multi-image`"),
        ("controls --style letters --warn", "stcr controls --style: has moved; use `--set style=VALUE`"),
        ("eval --other-image-size", "use `--set other_image_size=VALUE`"),
        ("eval --price-in 3", "use `--set engine.price_in=VALUE`"),
        ("guard --max-new-tokens 8", "use `--set max_new_tokens=VALUE`"),
    ],
)
def test_option_of_an_earlier_version_names_what_replaces_it(capsys, command, words):
    code, out, errors = run(capsys, *command.split(), *([] if "guard" in command else ["--dataset", "toy"]))
    assert (code, out, len(errors)) == (1, "", 1)
    assert words in errors[0]


def test_registry_is_an_option_where_it_is_read_alone(capsys):
    for command in ("study", "guard", "judge a b --task t"):
        assert "--registry" in refused(capsys, *command.split(), *(["x"] if command == "study" else []), "--registry=r")


def test_registry_is_the_dataset_dir_of_a_recipe(capsys, monkeypatch, tmp_path):
    from stcr_plugin.frameworks.llamafactory import experiment
    from stcr_plugin.preflight import checks

    seen = []
    monkeypatch.setattr(experiment, "train", lambda recipe, overrides: seen.append(overrides))
    assert run(capsys, "train", "r.yaml", "max_steps=3", "--registry", tmp_path / "sets")[0] == 0
    assert run(capsys, "train", "r.yaml")[0] == 0

    def preflight(recipe, overrides, asked):
        seen.append(overrides)
        raise ConfigError("enough")

    monkeypatch.setattr(checks, "preflight", preflight)
    run(capsys, "check", "r.yaml", "--registry", tmp_path / "sets")
    assert seen == [["max_steps=3", f"dataset_dir={tmp_path / 'sets'}"], [], [f"dataset_dir={tmp_path / 'sets'}"]]


# ---- stcr data ----


def test_build_tells_what_it_made_and_where(capsys, work):
    code, out, errors = run(capsys, "data", "build", work / "toy.yaml", "--registry", work / "sets")
    manifest = json.loads((work / "sets" / "toy" / "manifest.json").read_text())
    within = {split: counts["within_phase"] for split, counts in manifest["counts"]["splits"].items()}
    assert (code, errors) == (0, [])
    assert out.splitlines() == [
        f"split train: 3 episodes, 12 pairs ({within['train']} within a phase)",
        f"split heldout: 2 episodes, 8 pairs ({within['heldout']} within a phase)",
        "dataset toy_cot: 24 samples of 12 pairs",
        "dataset toy_weak: 16 samples of 8 pairs",
        f"pictures: {manifest['frames']['count']} in {manifest['frames']['folder']}",
        f"built: {work / 'sets' / 'toy' / 'manifest.json'}",
    ]


def test_build_tells_what_was_set_aside_and_why(capsys, work, tmp_path):
    from lerobot_dataset import Layout, write_v21

    root = write_v21(tmp_path / "robot", Layout(lengths=(30, 1, 30, 30, 30)))
    lost, cut = (next(root.glob(f"videos/*/*/episode_00000{episode}.mp4")) for episode in (2, 3))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-2000])
    (tmp_path / "robot.yaml").write_text(
        f"name: robot\nsource: {{kind: lerobot, root: {root}}}\n"
        "splits: {train: {fraction: 1.0}}\npairs: {per_episode: 3}\ndatasets: {weak: {split: train, kind: weak}}\n"
    )
    code, out, _ = run(capsys, "data", "build", tmp_path / "robot.yaml", "--registry", tmp_path / "sets")
    assert code == 0
    assert "split train: 2 episodes, 6 pairs\n" in out
    assert "skipped 1 times: # frame; a pair needs two\n" in out
    assert "skipped 1 times: no such video file; download it\n" in out
    assert "skipped 1 times: cannot be opened as a video" in out
    assert run(capsys, "data", "check", "robot", "--registry", tmp_path / "sets")[0] == 0


def test_override_changes_the_build(capsys, work, tmp_path):
    arguments = ["data", "build", work / "toy.yaml", "name=other", "pairs.per_episode=2", "datasets.weak.pairs=3"]
    code, out, _ = run(capsys, *arguments, "--registry", tmp_path)
    assert code == 0
    assert "dataset other_weak: 6 samples of 3 pairs" in out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pairs.per_episod=2", "unknown key 'pairs.per_episod', did you mean 'per_episode'"),
        ("source.seem=2", "source: unknown key 'seem', did you mean 'seen'"),
        ("frames.hight=2", "unknown key 'frames.hight', did you mean 'height'"),
        ("splits.train.episode=2", "unknown key 'splits.train.episode', did you mean 'episodes'"),
        ("datasets.cot.languag=en", "unknown key 'datasets.cot.languag', did you mean 'languages'"),
        ("datasets.weak.pairs=999", "asks for 999 pairs and split 'train' has 12"),
        ("splits.train.episodes=99", "asks for 99 episodes"),
        ("per_episode", "an override reads key=value"),
    ],
)
def test_bad_data_config_names_the_key(capsys, work, tmp_path, override, words):
    code, out, errors = run(capsys, "data", "build", work / "toy.yaml", override, "--registry", tmp_path)
    assert (code, out, len(errors)) == (1, "", 1)
    assert words in errors[0]


def test_sound_build_passes_and_a_cut_picture_fails_the_check(capsys, work, tmp_path):
    arguments = ["data", "build", work / "toy.yaml", "--registry", tmp_path]
    assert run(capsys, *arguments)[0] == 0
    code, out, _ = run(capsys, "data", "check", "toy", "--registry", tmp_path)
    assert code == 0
    assert "no problem" in out
    picture = next(tmp_path.rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-40])
    code, out, _ = run(capsys, "data", "check", "toy", "--registry", tmp_path)
    assert code == 1
    assert str(picture.relative_to(tmp_path)) in out
    assert "cannot be decoded" in out


def test_check_of_an_unknown_build_names_the_nearest(capsys, work):
    code, _, errors = run(capsys, "data", "check", "toi", "--registry", work / "sets")
    assert code == 1
    assert "did you mean 'toy'" in errors[0]


# ---- stcr eval and stcr report ----


def test_model_is_measured_and_reported(capsys, work, tmp_path):
    arguments = ["eval", "--model", work / "model", "--dataset", "toy", "--registry", work / "sets", "--limit", 3]
    code, out, errors = run(capsys, *arguments, "--out", tmp_path / "run", "--name", "mine", "--batch-size", 2)
    assert (code, errors) == (0, [])
    heads, figures, calibration, shared, where = out.splitlines()
    assert "Brier score" in calibration
    assert shared.startswith("Overlap with the training data is unknown: ")
    row = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "pair accuracy" in heads
    assert figures.split()[0] == "mine"
    assert f"{row['pair_accuracy']:.1f}" in figures.split()
    assert where == f"results: {tmp_path / 'run'}"
    assert (row["n_pairs"], row["limit"], row["settings"]["batch_size"]) == (3, 3, 2)

    code, out, _ = run(capsys, "report", tmp_path / "run", "--out", tmp_path / "report")
    assert code == 0
    heads, figures, _, verdict, where = out.splitlines()
    assert "pair accuracy" in heads
    assert figures.startswith("mine, heldout")
    assert f"{row['pair_accuracy']:.1f}" in figures.split()
    assert "are too few for a verdict" in verdict
    assert where == f"report: {tmp_path / 'report' / 'report.html'} (one file that opens offline) and report.md"
    assert "Only `mine` was evaluated" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--split", "heldut"], "did you mean 'heldout'"),
        (["--dataset", "toi"], "did you mean 'toy'"),
        (["--limit", "0"], "limit 0: must be at least 1"),
        (["--batch-size", "0"], "batch_size and max_new_tokens must be at least 1"),
        (["--image-max-pixels", "10"], "image_min_pixels <= image_max_pixels"),
        (["--model", "nowhere"], "nowhere: no model there"),
        (
            ["--engine", "server", "--server-model", "m", "--url", "http://127.0.0.1:80a0/v1"],
            "host or port is malformed",
        ),
    ],
)
def test_bad_evaluation_names_what_is_wrong(capsys, work, tmp_path, more, words):
    arguments = ["eval", "--model", work / "model", "--dataset", "toy", "--registry", work / "sets"]
    code, out, errors = run(capsys, *arguments, "--out", tmp_path / "run", *more)
    assert (code, out, len(errors)) == (1, "", 1)
    assert words in errors[0]


@pytest.mark.parametrize("command", ["eval", "multi-image", "controls", "rank --voc", "guard"])
def test_results_in_place_of_a_file_are_refused_by_name(capsys, work, tmp_path, command):
    (tmp_path / "results.md").write_text("mine")
    name, *more = command.split()
    more += ["--episodes", 1] if name == "guard" else ["--dataset", "toy", "--registry", work / "sets"]
    code, out, errors = run(capsys, name, *more, "--model", work / "model", "--out", tmp_path / "results.md")
    assert (code, out, len(errors)) == (1, "", 1)
    assert errors[0].startswith(f"stcr: {tmp_path / 'results.md'}")
    assert "is a file, not a folder, and stays as it is" in errors[0]
    assert (tmp_path / "results.md").read_text() == "mine"


def test_report_on_a_folder_without_results_says_what_to_run(capsys, tmp_path):
    code, _, errors = run(capsys, "report", tmp_path, "--out", tmp_path / "report")
    assert code == 1
    assert "run `stcr eval` on it first" in errors[0]


# ---- stcr train and stcr base ----


def test_missing_recipe_and_config_are_named(capsys, tmp_path):
    code, _, errors = run(capsys, "train", tmp_path / "nowhere.yaml")
    assert code == 1
    assert "no such file" in errors[0]
    code, _, errors = run(capsys, "base", "build", tmp_path / "nowhere.yaml")
    assert code == 1
    assert "no such file" in errors[0]


def test_unknown_key_of_a_base_config_is_named(capsys, tmp_path):
    (tmp_path / "base.yaml").write_text("out: x\nprior: y\n")
    code, _, errors = run(capsys, "base", "build", tmp_path / "base.yaml", "architecture.hiden=3")
    assert code == 1
    assert "unknown key 'architecture.hiden', did you mean 'hidden'" in errors[0]
