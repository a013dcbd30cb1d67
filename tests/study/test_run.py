"""A study: what its configuration may say, what its rows take, and one run of a tiny one through real commands."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_stage import DATA, RECIPES, TINY, Workshop

from stcr_plugin.config import from_mapping, load
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.study.rules import Plan, StudyConfig, StudyControls
from stcr_plugin.study.run import check_names, check_steps, run_study

STUDIES = sorted((RECIPES / "studies").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "name": "toy",
    "asks": "Does it work?",
    "data": "data.yaml",
    "base": "base.yaml",
    "seeds": [1, 2],
    "reference": "stage2",
    "stages": {
        "stage1": {"recipe": str(RECIPES / "stage1_cot.yaml"), "datasets": ["cot"], "row": False},
        "stage2": {"recipe": str(RECIPES / "stage2_weak.yaml"), "datasets": ["weak"], "starts_from": "stage1"},
        "weak_only": {"recipe": str(RECIPES / "weak_only.yaml"), "datasets": ["weak"]},
    },
}


def study(**changes: Any) -> StudyConfig:
    return from_mapping(StudyConfig, {**MINIMAL, **changes}, "test")


def stages(**changes: Any) -> dict[str, Any]:
    return {name: {**stage, **changes.get(name, {})} for name, stage in MINIMAL["stages"].items()}


def test_chain_lists_the_stages_from_the_base_on() -> None:
    assert study().chain("stage2") == ["stage1", "stage2"]
    assert study().chain("weak_only") == ["weak_only"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": stages(stage1={"starts_from": "stage2"})}, "starts from itself, by way of stage"),
        ({"stages": stages(stage2={"starts_from": "stage3"})}, "'stage3' is no stage, did you mean 'stage"),
        ({"reference": "weak"}, "did you mean 'weak_only'"),
        ({"reference": "stage1"}, "`reference` 'stage1' is no stage that is a row, did you mean 'stage2'"),
        ({"reference": "base"}, "`reference` 'base' is no stage that is a row"),
        ({"equal": "tokens", "stages": stages(stage1={"row": True})}, r"the row stage1, which stage2 .*\.row=false"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": [-1]}, "from 0 on"),
        ({"seeds": []}, "at least one"),
        ({"stages": {**MINIMAL["stages"], "base": MINIMAL["stages"]["weak_only"]}}, "no stage may be called base"),
        ({"controls": {"rows": ["stage1"]}}, "controls.rows: 'stage1' is no row, did you mean 'stage2'"),
        ({"guard": {"rows": ["weak"]}}, "guard.rows: 'weak' is no row, did you mean 'weak_only'"),
        ({"model": "models/real"}, "give either `base`, .* or `model`"),
        ({"sedes": [1]}, "unknown key 'sedes', did you mean 'seeds'"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study(**changes)


def test_every_seed_starts_from_links_to_the_model_that_is_there(tmp_path: Path) -> None:
    from stcr_plugin.study.run import _link

    with pytest.raises(ConfigError, match="holds no model; `hf download NAME --local-dir"):
        _link(tmp_path / "real", tmp_path / "seed1/base")
    (tmp_path / "real").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "real" / name).write_text(name, encoding="utf-8")
    for _ in range(2):  # a study that goes on finds them there
        _link(tmp_path / "real", tmp_path / "seed1/base")
    (tmp_path / "seed1/base/results.json").write_text("{}", encoding="utf-8")
    assert (tmp_path / "seed1/base/model.safetensors").read_text(encoding="utf-8") == "model.safetensors"
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["config.json", "model.safetensors"]


def test_rows_of_unequal_steps_are_named() -> None:
    longer = stages(weak_only={"overrides": ["max_steps=7"]}, stage1={"overrides": ["max_steps=3"]})
    longer["stage2"]["overrides"] = ["max_steps=4"]
    check_steps(study(stages=longer, equal="steps"))
    longer["weak_only"]["overrides"] = ["max_steps=8"]
    with pytest.raises(ConfigError, match="stage2 takes 7 and weak_only 8; set max_steps"):
        check_steps(study(stages=longer, equal="steps"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_whole_and_equal_as_they_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    config = load(StudyConfig, path)
    check_names(config)
    if config.equal == "steps":
        check_steps(config)
    assert config.name == path.stem


def test_unknown_dataset_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.write_yaml(workshop.data, DATA)
    wrong = study(data=str(workshop.data), stages=stages(weak_only={"datasets": ["waek"]}))
    with pytest.raises(ConfigError, match="no dataset 'waek', did you mean 'weak'"):
        run_study(wrong, tmp_path / "out")
    assert not (tmp_path / "out" / "seed1").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": ["dev", "helout"]}, "splits: tiny has no split 'helout', did you mean 'heldout'"),
        ({"splits": ["tyni:dev"]}, "splits: neither `data` nor `also` builds 'tyni', did you mean 'tiny'"),
        ({"controls": {"rows": ["stage2"], "split": "seen"}}, "controls.split: tiny has no split 'seen'"),
        ({"controls": {"rows": ["stage2"], "split": "dev", "also": ["tiny:dve=x"]}}, "controls.also: .*mean 'dev'"),
        ({"controls": {"rows": ["stage2"], "split": "dev", "also": ["tiny/dev"]}}, "NAME:SPLIT=label"),
    ],
)
def test_unknown_split_is_told_before_anything_is_trained(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    workshop = Workshop(tmp_path)
    workshop.write_yaml(workshop.data, DATA)
    with pytest.raises(ConfigError, match=words):
        run_study(study(**{"data": str(workshop.data), "splits": ["dev"], **changes}), tmp_path / "out")
    assert not (tmp_path / "out" / "seed1").exists()


def tiny_study(root: Path, **changes: Any) -> StudyConfig:
    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    prior = OmegaConf.merge(OmegaConf.load(RECIPES / "stage0_prior.yaml"), OmegaConf.from_dotlist(list(TINY)))
    OmegaConf.save(prior, root / "prior.yaml")
    reading = {"episodes": 2, "frames": 2, "steps": 2, "batch_size": 2}
    base = {"out": "unused", "prior": str(root / "prior.yaml"), "split": "dev", "gap_over": -101}
    workshop.write_yaml(root / "base.yaml", {**base, "pretraining": reading})
    small = [*TINY, "stcr.evaluate.split=dev", "max_steps=2"]
    longer = stages(stage1={"overrides": small}, stage2={"overrides": small})
    longer["weak_only"]["overrides"] = [*small, "max_steps=4"]
    controls = {"rows": ["stage2"], "split": "dev", "pairs": 2}
    files = {"data": str(workshop.data), "base": str(root / "base.yaml")}
    guard = {"rows": ["base", "stage2"], "episodes": 3}
    options = {"splits": ["dev", "heldout"], "pairs": 4, "equal": "steps", "controls": controls, "guard": guard}
    return study(**files, **options, stages=longer, **changes)


@pytest.mark.slow
def test_tiny_study_is_run_once_and_a_finished_one_does_nothing(tmp_path: Path) -> None:
    config = tiny_study(tmp_path)
    report = run_study(config, tmp_path / "out", jobs=2)
    table = json.loads((tmp_path / "out" / "study.json").read_text())
    assert {(row["of"]["name"], row["of"]["split"]) for row in table["rows"]} == {
        (name, split) for name in ("base", "stage2", "weak_only") for split in ("dev", "heldout")
    }
    assert all(row["seeds"] == [1, 2] for row in table["rows"])
    assert [(lead["of"]["name"], lead["of"]["split"]) for lead in table["differences"]] == [
        ("weak_only", "dev"),
        ("weak_only", "heldout"),
    ]
    assert {row: cost["steps"] for row, cost in table["costs"].items()} == {"stage2": 4, "weak_only": 4}
    assert table["costs"]["stage2"]["supervised_tokens"] > table["costs"]["weak_only"]["supervised_tokens"]
    assert {(one["row"], one["control"]) for one in table["controls"]} >= {("stage2", "plain"), ("stage2", "letters")}
    assert all(len(one["verdicts"]) == 2 for one in table["controls"])
    before, after = table["general_ability"]
    assert (before["row"], after["row"]) == ("base", "stage2")
    assert before["more"] is None
    assert after["more"]["mean"] == pytest.approx(
        after["figures"]["accuracy"]["mean"] - before["figures"]["accuracy"]["mean"]
    )
    assert before["questions"] == after["questions"] > 0
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000
    kept = [path for name in ("*.safetensors", "results.json") for path in (tmp_path / "out").rglob(name)]
    times = [path.stat().st_mtime_ns for path in kept]
    text = report.read_text()
    assert run_study(config, tmp_path / "out").read_text() == text
    assert [path.stat().st_mtime_ns for path in kept] == times

    retrained = dataclasses.replace(config, stages={**config.stages, "weak_only": config.stages["stage2"]})
    retrained = dataclasses.replace(retrained, equal="nothing")
    with pytest.raises(ConfigError, match="weak_only: was trained by another recipe"):
        run_study(retrained, tmp_path / "out")
    with pytest.raises(ConfigError, match="another `data_overrides`"):
        run_study(dataclasses.replace(config, data_overrides=("pairs.per_episode=4",)), tmp_path / "out")

    stage = tmp_path / "out" / "seed1" / "stage2" / "stage.json"
    record = stage.read_text()
    for there, then, how in (
        ("parent_digest", "0" * 64, "from other weights"),
        ("data", [{"build": "tiny", "config_digest": "0" * 64}], "on other data"),
    ):
        stage.write_text(json.dumps({**json.loads(record), there: then}))
        with pytest.raises(ConfigError, match=f"seed1/stage2: was trained {how}"):
            run_study(config, tmp_path / "out")


def test_recipe_is_the_same_however_the_folder_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study.run import _placed, _plan

    monkeypatch.setattr("stcr_plugin.study.run.supervised_tokens", lambda *_: 8.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    plans = [_plan(study(), "stage2", 1, out / "seed1", "toy") for out in (Path("s"), tmp_path / "s", Path("link/s"))]
    assert len({plan.recipe["output_dir"] for plan in plans}) == 3
    assert _placed(plans[0].recipe) == _placed(plans[1].recipe) == _placed(plans[2].recipe)
    others = [{"learning_rate": 0.5}, {"model_name_or_path": "s/seed1/base"}]
    assert all(_placed({**plans[0].recipe, **other}) != _placed(plans[0].recipe) for other in others)


def faked(monkeypatch: pytest.MonkeyPatch, root: Path, run: Callable[[Path], None]) -> StudyConfig:
    """A study whose commands are calls of `run` with the path of their log."""
    from stcr_plugin.study import run as module

    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    monkeypatch.setattr("stcr_plugin.study.run.supervised_tokens", lambda *_: 8.0)
    monkeypatch.setattr("stcr_plugin.study.table.write_study", lambda config, out, planned, build: out)
    monkeypatch.setattr(module, "_run", lambda command, log, environment: run(log))
    monkeypatch.setattr("stcr_plugin.artefacts.model_digest", lambda folder: f"the weights in {folder}")
    return study(data=str(workshop.data), splits=["dev"])


def test_jobs_of_one_seed_run_at_once_and_none_before_what_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most, begun, ended = set[Path](), 0, list[str](), list[str]()
    both = threading.Barrier(2)

    def run(log: Path) -> None:
        nonlocal most
        under_way.add(log)
        most = max(most, len(under_way))
        begun.append(log.stem)
        if log.stem == "stage2":
            assert {"stage1", "weak_only"} <= set(ended)
        if log.stem in ("stage1", "weak_only"):
            both.wait(30)  # which no one passes alone
        ended.append(log.stem)
        under_way.discard(log)

    config = dataclasses.replace(faked(monkeypatch, tmp_path, run), seeds=(1,))
    run_study(config, tmp_path / "out", jobs=2)
    assert most == 2
    assert begun[:2] == ["data", "base"]
    assert sorted(begun[2:5]) == ["stage1", "stage2", "weak_only"]
    assert sorted(begun[5:]) == ["base-dev", "stage2-dev", "weak_only-dev"]


def test_figures_that_stand_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study.askings import askings

    begun, weights, seed_folder = list[str](), {"stage2": "first"}, tmp_path / "out" / "seed1"
    registry = seed_folder / "data_registry"

    def run(log: Path) -> None:
        if log.stem == "data":
            (registry / "tiny").mkdir(parents=True, exist_ok=True)
            (registry / "tiny" / "manifest.json").write_text("{}", encoding="utf-8")
        for one in askings(config, 1, seed_folder, "tiny", registry):
            if one.name == log.stem:
                begun.append(log.stem)
                one.figures.parent.mkdir(parents=True, exist_ok=True)
                one.figures.touch()

    def asked(of: StudyConfig) -> list[str]:
        begun.clear()
        run_study(of, tmp_path / "out")
        return sorted(begun)

    made = faked(monkeypatch, tmp_path, run)
    controls = from_mapping(StudyControls, {"rows": ["stage2"], "split": "dev"}, "test")
    config = dataclasses.replace(made, seeds=(1,), controls=controls)
    monkeypatch.setattr("stcr_plugin.artefacts.model_digest", lambda folder: weights.get(folder.name, folder.name))
    every = ["base-dev", "stage2-controls", "stage2-dev", "weak_only-dev"]
    assert asked(config) == every
    assert asked(config) == []
    weights["stage2"] = "second"
    assert asked(config) == ["stage2-controls", "stage2-dev"]
    assert asked(dataclasses.replace(config, pairs=7)) == ["base-dev", "stage2-dev", "weak_only-dev"]
    next(askings(config, 1, seed_folder, "tiny", registry)).figures.unlink()
    assert "base-dev" in asked(dataclasses.replace(config, pairs=7))
    (registry / "tiny" / "manifest.json").write_text('{"other": 1}', encoding="utf-8")
    monkeypatch.setattr("stcr_plugin.study.run._run", lambda command, log, environment: log.stem != "data" and run(log))
    assert asked(dataclasses.replace(config, pairs=7)) == every


def test_nothing_is_begun_after_a_failure_whose_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study import run as module

    begun, commands = list[tuple[str, str]](), list[module._Commands]()
    both, first_base = threading.Barrier(2), threading.Event()

    def kept(*arguments: Any) -> module._Commands:
        commands.append(made(*arguments))
        return commands[-1]

    def run(log: Path) -> None:
        begun.append((log.parents[1].name, log.stem))
        if log.stem == "data":
            both.wait(30)
        elif log.parents[1].name == "seed2":
            first_base.wait(30)
            raise StcrError("the disk is full")
        else:
            first_base.set()
            commands[0]._failed.wait(30)

    made = module._Commands
    monkeypatch.setattr(module, "_Commands", kept)
    with pytest.raises(StcrError, match="the disk is full"):
        run_study(faked(monkeypatch, tmp_path, run), tmp_path / "out", jobs=2)
    assert sorted(begun) == [("seed1", "base"), ("seed1", "data"), ("seed2", "base"), ("seed2", "data")]


@pytest.mark.slow
def test_failed_command_is_told_with_its_last_words(tmp_path: Path) -> None:
    config = tiny_study(tmp_path, data_overrides=["splits.train.episodes=999"])
    with pytest.raises(StcrError, match=r"data build.*ended with exit code 1; the end of .*data\.log"):
        run_study(config, tmp_path / "out")


def test_equal_tokens_sets_the_steps_of_the_last_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stcr_plugin.study import run as module

    per_sample = {"cot": 40.0, "weak": 8.0}
    monkeypatch.setattr(module, "supervised_tokens", lambda _, name, model: per_sample[name.removeprefix("toy_")])
    found: list[Plan] = module.plans(study(equal="tokens"), 1, tmp_path, "toy")
    tokens = {plan.name: plan.tokens for plan in found}
    assert tokens["weak_only"] == pytest.approx(tokens["stage1"] + tokens["stage2"], rel=1e-3)
    assert {plan.name: plan.steps for plan in found}["weak_only"] > 3 * found[0].steps
    with pytest.raises(ConfigError, match=r"weak_only is trained on [\d,]+ and stage2 on [\d,]+ before its last stage"):
        module.plans(study(equal="tokens", reference="weak_only"), 1, tmp_path, "toy")


def test_equal_tokens_refuses_the_shipped_studies_in_which_a_row_leads_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    for name in ("forgetting", "seeds"):
        with pytest.raises(ConfigError, match="equal: tokens sets the steps of the row stage1"):
            load(StudyConfig, RECIPES / "studies" / f"{name}.yaml", ["equal=tokens"])
    assert load(StudyConfig, RECIPES / "studies/ablation.yaml", ["equal=tokens"]).equal == "tokens"


def two_datasets(folder: Path) -> tuple[Path, list[float], list[int]]:
    """A registry of CoT samples and fewer weak ones, in the folder of their base; mean tokens and rows of each."""
    from toy_build import build_toy

    from stcr_plugin.architecture import write_checkpoint
    from stcr_plugin.registry.manifest import dataset_rows
    from stcr_plugin.study.run import supervised_tokens

    write_checkpoint(folder / "base")
    datasets = {"cot": {"split": "train", "kind": "cot"}, "weak": {"split": "train", "kind": "weak", "pairs": 3}}
    registry = build_toy(folder / "data_registry", datasets=datasets)
    names = ["toy_cot", "toy_weak"]
    tokens = [supervised_tokens(registry, name, folder / "base") for name in names]
    return registry, tokens, [len(list(dataset_rows(registry, name))) for name in names]


def test_tokens_of_a_stage_are_weighted_as_its_datasets_are_mixed(tmp_path: Path) -> None:
    from stcr_plugin.study.run import _plan

    _, (cot, weak), (long, short) = two_datasets(tmp_path)
    assert cot > 2 * weak
    assert long > short
    small = ["max_steps=10", "per_device_train_batch_size=4", "gradient_accumulation_steps=2"]

    def each(*overrides: str) -> float:
        stage = {"datasets": ["cot", "weak"], "overrides": [*small, *overrides]}
        return _plan(study(stages=stages(weak_only=stage)), "weak_only", 1, tmp_path, "toy").tokens / 80

    assert each() == pytest.approx((long * cot + short * weak) / (long + short))
    assert each("max_samples=6") == pytest.approx((cot + weak) / 2)
    assert each("mix_strategy=interleave_under") == pytest.approx((cot + weak) / 2)
    given = ("mix_strategy=interleave_over", "interleave_probs='0.2,0.8'")
    assert each(*given) == pytest.approx(0.2 * cot + 0.8 * weak)
    with pytest.raises(ConfigError, match=r"interleave_probs 0\.5,0\.3,0\.2: must be a share for each of toy_cot"):
        each("mix_strategy=interleave_over", "interleave_probs='0.5,0.3,0.2'")


@pytest.mark.parametrize(
    ("environment", "overrides", "ranks"),
    [
        ({}, [], 1),
        ({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "4"}, [], 4),
        ({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "4", "NNODES": "2"}, [], 8),
        ({"USE_RAY": "1"}, ["ray_num_workers=3"], 3),
    ],
)
def test_tokens_of_a_stage_are_those_of_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], overrides: list[str], ranks: int
) -> None:
    from llamafactory.extras import misc

    from stcr_plugin.study import run as module

    for name in ("FORCE_TORCHRUN", "NPROC_PER_NODE", "NNODES", "USE_RAY", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(misc, "get_device_count", lambda: 0)
    monkeypatch.setattr(module, "supervised_tokens", lambda *_: 8.0)
    recipe = OmegaConf.load(RECIPES / "weak_only.yaml")
    del recipe["per_device_train_batch_size"]  # LLaMA-Factory then takes 8
    OmegaConf.save(recipe, tmp_path / "weak.yaml")
    stage = {"recipe": str(tmp_path / "weak.yaml"), "overrides": ["max_steps=10", *overrides]}
    plan = module._plan(study(stages=stages(weak_only=stage)), "weak_only", 1, tmp_path, "toy")
    assert plan.tokens == 10 * 8 * 8.0 * ranks


def test_table_reads_what_the_study_asked_for_and_says_what_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it lie, in the same folders, a comparator's results and the controls of another split."""
    from stcr_plugin.artefacts import write_json
    from stcr_plugin.evaluation import plots
    from stcr_plugin.evaluation.controls import write
    from stcr_plugin.evaluation.engine import AskSettings
    from stcr_plugin.evaluation.oracles import Oracle
    from stcr_plugin.evaluation.run import evaluate
    from stcr_plugin.evaluation.verdicts import RULES, Measure, Row, Verdict
    from stcr_plugin.registry.manifest import read_pairs
    from stcr_plugin.study import run as module
    from stcr_plugin.study.table import write_study

    masked = stages(
        weak_only={"overrides": ["stcr.mask=authors", "max_steps=4"]}, stage2={"overrides": ["max_steps=2"]}
    )
    controls = {"rows": ["stage2"], "split": "heldout"}
    config = study(stages=masked, splits=["heldout"], seeds=[1], controls=controls)
    registry, _, _ = two_datasets(tmp_path / "seed1")
    verdicts: dict[str, Verdict] = {"heldout": "holds", "dev": "fails"}
    header = {"name": "x", "dataset": "toy", "split": "x", "n_pairs": 1, "n_episodes": 1, "mode": "direct"}
    for name in ("accuracies", "contact_sheet"):
        monkeypatch.setattr(plots, name, lambda *arguments: None)
    pairs = read_pairs(registry, "toy", "heldout")
    for oracle, folder in (("right", "toy-heldout"), ("coin", "toy-heldout-swap_ensemble")):
        engine, direct = Oracle(oracle, pairs), AskSettings(mode="direct")
        found = evaluate(None, "toy", "heldout", tmp_path / oracle, registry, direct, engine=engine, resamples=20)
        for name in config.rows:
            write_json(tmp_path / "seed1" / name / "eval" / folder / "results.json", dict(found.row))
    for split, verdict in verdicts.items():
        measures = {"pair_accuracy": Measure(90.0), "difference": Measure(-2.0), "unparsed_rate": Measure(1.0)}
        row = Row("wording", "", "", "", RULES["keeps"].words, verdict, "", measures=measures)
        write(tmp_path / "seed1" / "stage2" / "controls" / f"toy-{split}", header, [row])
    text = write_study(config, tmp_path, {1: module.plans(config, 1, tmp_path / "seed1", "toy")}, "toy").read_text()
    table = json.loads((tmp_path / "study.json").read_text())
    assert [(row["of"]["name"], row["of"]["split"]) for row in table["rows"]] == [
        (name, "heldout") for name in config.rows
    ]
    assert all(row["figures"]["pair_accuracy"]["values"] == [100.0] for row in table["rows"])
    assert [one["verdicts"] for one in table["controls"]] == [["holds"]]
    assert set(table["controls"][0]["measures"]) == set(measures)
    assert "| `wording` | stage2 | 1 holds | pair accuracy % 90.0; difference -2.0 |" in text
    assert "One seed cannot say whether another training would come out alike." in text
    assert "| weak_only | direct | 100.0 |" in text
    assert "| +0.0 | - | - | +0.0 to +0.0 |" in text
    assert "In weak_only the loss also covers the end of the prompt and its image tokens" in text
    (tmp_path / "seed1" / "base" / "eval" / "toy-heldout" / "results.json").unlink()
    with pytest.raises(DataError, match=r"base/eval/toy-heldout/results\.json: no such file"):
        write_study(config, tmp_path, {1: module.plans(config, 1, tmp_path / "seed1", "toy")}, "toy")


def test_rows_asked_in_two_modes_are_said_to_be() -> None:
    from stcr_plugin.study.table import _how

    two, one = ({"stage1": "cot", "stage2": mode} for mode in ("direct", "cot"))
    assert "A difference between the two modes is one of the asking too." in _how(study(), 2, two)
    assert "two modes" not in _how(study(), 2, one)


def test_kinds_of_pairs_are_compared_with_the_reference_seed_by_seed() -> None:
    from stcr_plugin.study.table import _kinds_of_pairs, _kinds_section

    def result(name: str, seed: int, within: float | None, near: float) -> dict[str, Any]:
        phases = {} if within is None else {"within": {"pair_accuracy": within, "n_pairs": 20}}
        windows = [{"steps": "5..11", "pair_accuracy": near, "n_pairs": 30}]
        parts = {"by_phase": phases, "by_distance": {"windows": windows}}
        return {"name": name, "seed": seed, "dataset": "toy", "split": "heldout", **parts}

    results = [result("stage2", 1, 80.0, 90.0), result("stage2", 2, 70.0, 94.0)]
    results += [result("weak_only", 1, 60.0, 91.0), result("weak_only", 2, 64.0, 93.0)]
    chain, rival, *near = _kinds_of_pairs(results, "stage2")
    assert (chain.kind, chain.row, chain.more) == ("within one phase", "stage2", None)
    assert (rival.row, rival.pairs, rival.pair_accuracy.mean) == ("weak_only", 40, 62.0)
    assert rival.more is not None
    assert rival.more.values == (-20.0, -6.0)
    assert [(one.kind, one.row, one.pairs) for one in near] == [
        ("5..11 steps", "stage2", 60),
        ("5..11 steps", "weak_only", 60),
    ]
    assert "| toy, heldout | within one phase | weak_only | 62.0 ± 2.8 | -13.0 ± 9.9 | 40 |" in _kinds_section(
        [rival], "stage2"
    )[-1].replace("`", "")
    without = [result("stage2", 1, None, 90.0), *results[1:]]  # no such pairs under one seed
    assert {one.kind for one in _kinds_of_pairs(without, "stage2")} == {"5..11 steps"}


def test_general_ability_is_compared_with_the_first_row_seed_by_seed(tmp_path: Path) -> None:
    from stcr_plugin.study.table import _ability, _ability_section

    accuracies = {"base": (80.0, 70.0), "stage2": (60.0, 56.0)}
    for row, values in accuracies.items():
        for seed, value in zip((1, 2), values, strict=True):
            folder = tmp_path / f"seed{seed}" / row / "guard"
            folder.mkdir(parents=True)
            figures = {"n": 10, "accuracy": value, "f1": value, "yes_ratio": 50.0}
            (folder / "guard.json").write_text(json.dumps({"kinds": {"all": figures}}), encoding="utf-8")
    first, second = _ability(study(guard={"rows": ["base", "stage2"]}), tmp_path)
    assert first.more is None
    assert second.more is not None
    assert second.more.mean == pytest.approx(-17.0)
    assert second.questions == 20
    assert "-17.0 ± 4.2" in "\n".join(_ability_section([first, second]))
    assert _ability_section(_ability(study(), tmp_path)) == []
