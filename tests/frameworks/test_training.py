"""One stage: what is refused before training, what is prepared, what is recorded."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import DATA, RECIPES, Workshop, stage_row

from stcr_plugin.artefacts import model_digest
from stcr_plugin.embedded.base import BaseConfig
from stcr_plugin.errors import ChainError, ConfigError, DataError, StcrError
from stcr_plugin.frameworks import launch, stage_run
from stcr_plugin.frameworks.llamafactory import experiment
from stcr_plugin.frameworks.llamafactory.experiment import train
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_run import run_stage
from stcr_plugin.records import is_finished


def trained(args: Any, callbacks: Any) -> None:
    raise AssertionError("this recipe was to be refused before training")


def args_of(workshop: Workshop, recipe: str = "stage1_cot", **changes: Any) -> dict[str, Any]:
    """A recipe of the repository as LLaMA-Factory hands it over; a change to None takes the key out."""
    from omegaconf import OmegaConf

    overrides = OmegaConf.from_dotlist(workshop.overrides("cot", "refused", workshop.base))
    args: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(RECIPES / f"{recipe}.yaml"), overrides))
    args.update(changes)
    return {key: value for key, value in args.items() if value is not None}


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_mca": True}, "use_mca: Megatron-Core's trainer does not call the plugin's callbacks; remove use_mca"),
        ({"use_hyper_parallel": True}, "use_hyper_parallel: HyperParallel's trainer"),
        ({"use_megatron_bridge": True}, "use_megatron_bridge: Megatron-Bridge's trainer"),
        (
            {"predict_with_generate": True},
            "predict_with_generate: LLaMA-Factory then leaves the positions",
        ),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: transformers does not shift the labels"),
        ({"use_asft_loss": True}, "use_asft_loss: its reference model is not shown the pictures; remove use_asft_loss"),
        (
            {"train_on_prompt": True},
            "train_on_prompt: True, but the loss would be on the question and on picture tokens too",
        ),
        ({"packing": True}, "packing: True, but the samples of a pack would see each other"),
        (
            {"ignore_pad_token_for_loss": False},
            "ignore_pad_token_for_loss: False, but the loss would be on the padding",
        ),
        ({"do_train": None}, "do_train: is not true, so nothing would be trained; set do_train: true"),
        ({"stage": "pt"}, "stage: 'pt', but STCR's stages are supervised, or train on ranking rows; set stage: sft"),
        ({"stage": None}, "stage: None, but STCR's stages are supervised, or train on ranking rows"),
        ({"model_name_or_path": None}, "the recipe: has no model_name_or_path; add it"),
        ({"dataset": None}, "the recipe: has no dataset; add it"),
        ({"output_dir": None}, "the recipe: has no output_dir; add it"),
        ({"template": None}, "the recipe: has no template; add it"),
        ({"template": "qwen2_vl"}, "template: 'qwen2_vl' does not number its pictures; did you mean 'stcr_qwen2_vl'?"),
        ({"template": "llama3"}, "known are: stcr_intern_vl, stcr_qwen2_vl, stcr_qwen3_vl"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused_with_its_fix(workshop: Workshop, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_stage(Recipe.of(args_of(workshop, **changes)), None, trained)
    assert says in str(caught.value)
    assert not (workshop.root / "refused").exists()


@pytest.mark.parametrize("value", ["1", "true", "Y"])
def test_llamafactorys_v1_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("USE_V1", value)
    with pytest.raises(ConfigError, match=r"USE_V1: is set.* unset USE_V1"):
        run_stage(Recipe.of(args_of(workshop)), None, trained)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"name": "a", "mode": "cot", "evalute": {}}, "unknown key 'evalute', did you mean 'evaluate'?"),
        ({"name": "a", "mode": "cot", "evaluate": {"pair": 3}}, "unknown key 'evaluate.pair', did you mean 'pairs'?"),
        ({"name": "a", "mode": "cot", "augment": {"shift": 3}}, "'augment.shift', did you mean 'shift_pixels'?"),
        ({"mode": "cot"}, "key 'name' is missing"),
        ({"name": "a", "mode": "thinking"}, "mode: Input should be 'cot' or 'direct'"),
        ({"name": "a", "mode": "cot", "evaluate": {"pairs": 0}}, "pairs, batch_size and max_new_tokens are at least 1"),
        ({"name": "a", "mode": "cot", "augment": {"brightness": 1.0}}, "from 0 to below 1"),
        (True, "the recipe's `stcr:` block: is True; write `key: value` lines, at least name and mode"),
        ([{"name": "a"}], "write `key: value` lines"),
    ],
)
def test_a_wrong_block_names_what_is_wrong_in_it(workshop: Workshop, block: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_stage(Recipe.of(args_of(workshop, stcr=block)), None, trained)
    assert "the recipe's `stcr:` block" in str(caught.value)
    assert says in str(caught.value)


def stage_folder(root: Path, **record: Any) -> str:
    root.mkdir(exist_ok=True)
    values = {"name": "stage1", "template": "stcr_qwen2_vl", "finished": True, **record}
    (root / "stage.json").write_text(json.dumps(values), encoding="utf-8")
    return str(root)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: str(root), "'stage2' starts from a stage, but that does not exist; train it first"),
        (lambda root: stage_folder(root, finished=False), "the stage 'stage1' was started but did not finish"),
        (lambda root: stage_folder(root, template="stcr_qwen3_vl"), "set template: stcr_qwen3_vl"),
    ],
    ids=["missing", "unfinished", "other template"],
)
def test_stage_2_is_refused_without_a_finished_stage_1_of_its_template(
    workshop: Workshop, tmp_path: Path, make: Any, says: str
) -> None:
    start = make(tmp_path / "stage1")
    args = args_of(workshop, "stage2_weak", model_name_or_path=start)
    with pytest.raises(ChainError) as caught:
        run_stage(Recipe.of(args), None, trained)
    assert str(caught.value).startswith(f"{start}: ")
    assert says in str(caught.value)
    assert not (workshop.root / "refused").exists()


def test_nothing_is_prepared_for_a_stage_that_cannot_start(empty: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_run, "_prepare", lambda *_: pytest.fail("data were built for a stage that cannot start"))
    args = args_of(empty, "stage2_weak", model_name_or_path=str(empty.root / "stage1"))
    with pytest.raises(ChainError, match="does not exist; train it first, by a recipe whose output_dir is"):
        run_stage(Recipe.of(args), None, trained)


@pytest.mark.parametrize("ray", ["0", "1"])
def test_unknown_key_of_a_recipe_names_the_nearest(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, ray: str
) -> None:
    monkeypatch.setenv("USE_RAY", ray)
    with pytest.raises(ConfigError, match="unknown key 'learning_rte', did you mean 'learning_rate'"):
        workshop.train("weak", "misspelt", "learning_rte=1")


def test_a_finished_stage_is_not_overwritten_unless_asked_to_and_its_record_stays(
    workshop: Workshop, tmp_path: Path
) -> None:
    finished = stage_folder(tmp_path / "done")
    before = stage_row(Path(finished))
    with pytest.raises(ChainError, match="holds the finished stage 'stage1'; set overwrite_output_dir: true"):
        run_stage(Recipe.of(args_of(workshop, output_dir=finished)), None, trained)
    assert stage_row(Path(finished)) == before
    trained_into: list[str] = []
    again = args_of(workshop, output_dir=finished, overwrite_output_dir=True)
    with pytest.raises(DataError, match="trainer_state"):  # what a real training would have left
        run_stage(Recipe.of(again), None, lambda args, callbacks: trained_into.append(args["output_dir"]))
    assert trained_into == [finished]
    assert not is_finished(Path(finished))


@pytest.mark.parametrize("left", ["model.safetensors", "adapter_model.safetensors", "checkpoint-40"])
def test_a_model_that_no_record_tells_of_is_not_overwritten_and_gets_no_record(
    workshop: Workshop, tmp_path: Path, left: str
) -> None:
    (tmp_path / left).mkdir()
    with pytest.raises(
        ChainError, match=r"holds a model or checkpoints, but no stage\.json .* overwrite_output_dir: true"
    ):
        run_stage(Recipe.of(args_of(workshop, output_dir=str(tmp_path))), None, trained)
    assert not (tmp_path / "stage.json").exists()


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(ConfigError, match=r"recipes/nowhere\.yaml: no such file; give the path of a YAML"):
        train("recipes/nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stcr: {name: [a", "cannot be read as YAML"),
        ("seed: ${nowhere}", "cannot be resolved"),
        ("- a\n- list", "expected `key: value` lines"),
        ("just words", "has no `stcr:` block"),
    ],
)
def test_a_recipe_that_is_none_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"bad\.yaml: {says}"):
        train(str(path))


def test_an_override_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match="an override reads key=value, got 'max_steps'"):
        train(str(RECIPES / "stage2_weak.yaml"), ["max_steps"])


def test_a_recipe_without_our_block_is_pointed_to_llamafactory(workshop: Workshop, tmp_path: Path) -> None:
    plain = workshop.write_yaml(tmp_path / "plain.yaml", {"stage": "sft"})
    with pytest.raises(ConfigError, match="has no `stcr:` block; add one"):
        train(str(plain))


def test_a_dataset_of_others_has_no_pairs_to_measure(workshop: Workshop, tmp_path: Path) -> None:
    args = args_of(workshop, dataset="alpaca_en_demo", output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"dataset: 'alpaca_en_demo' was not built by .* set stcr.evaluate.dataset"):
        run_stage(Recipe.of(args), None, trained)
    args = args_of(workshop, dataset="alpaca_en_demo", output_dir=str(tmp_path))
    args["stcr"]["evaluate"] = {"dataset": "tiny", "split": "devv"}
    with pytest.raises(ConfigError, match="tiny: has no split 'devv'; did you mean 'dev'"):
        run_stage(Recipe.of(args), None, trained)


def test_a_refused_stage_leaves_no_folder(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match="there is no whole checkpoint"):
        workshop.train("weak", "refused", "resume_from_checkpoint=true")
    assert not (workshop.root / "refused").exists()


def test_a_cutoff_that_would_cut_an_answer_stops_the_stage_and_names_the_length(workshop: Workshop) -> None:
    with pytest.raises(DataError, match=r"takes \d+ tokens but cutoff_len is 60"):
        workshop.train("cot", "too-long", "cutoff_len=60", recipe="stage1_cot")
    assert not is_finished(workshop.root / "too-long")


# ---- what is prepared ----


@pytest.mark.parametrize(
    ("dataset", "model", "data_built", "base_built"),
    [
        ("tiny_cot", "base", True, True),
        ("other", "base", False, True),
        ("tiny_cot", "Qwen/Qwen2.5-VL-7B-Instruct", True, False),
        ("other,tiny_weak", "elsewhere", True, False),
        ("other", "elsewhere", False, False),
    ],
)
def test_only_what_the_recipe_names_is_prepared(
    empty: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    model: str,
    data_built: bool,
    base_built: bool,
) -> None:
    monkeypatch.chdir(empty.root)
    empty.write_yaml(empty.data, DATA)
    base = empty.write_yaml(empty.root / "base.yaml", {"out": "base", "prior": "prior.yaml"})
    built: list[Any] = []
    monkeypatch.setattr("stcr_plugin.registry.build.build", lambda data, registry: built.append(("data", data.name)))
    monkeypatch.setattr(stage_run, "_build_base", lambda config, base, registry: built.append(("base", Path(base.out))))
    block = {"name": "a", "mode": "cot", "prepare": {"data": str(empty.data), "base": str(base)}}
    keys = {"dataset": dataset, "model_name_or_path": model, "dataset_dir": str(empty.registry)}
    stage_run._prepare(Recipe.of({**keys, "stcr": block}))
    assert built == [("data", "tiny")][: int(data_built)] + [("base", Path("base"))][: int(base_built)]


def test_a_base_that_is_finished_is_left_alone(empty: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished base was to be left alone")

    base = BaseConfig(out=str(empty.base), prior="prior.yaml")
    stage_folder(empty.base, figures=[{"when": "after", "gap_points": 95.0}])
    monkeypatch.setattr(stage_run.children, "run", called)
    stage_run._build_base("base.yaml", base, empty.registry)
    stage_folder(empty.base, figures=[{"when": "after", "gap_points": 12.5}])
    with pytest.raises(ChainError, match=r"the prior's gap is 12\.5 points, not over 70"):
        stage_run._build_base("base.yaml", base, empty.registry)


def test_a_base_is_built_by_one_process_that_knows_nothing_of_the_ranks(
    empty: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def failing(command: list[str], env: dict[str, str]) -> int:
        seen.update(command=command, env=env)
        return 3

    launcher = ("FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    for variable in launcher:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(stage_run.children, "run", failing)
    with pytest.raises(StcrError, match=r"base\.yaml: the base could not be built \(exit code 3\)"):
        stage_run._build_base("base.yaml", BaseConfig(out=str(empty.base), prior="prior.yaml"), empty.registry)
    assert seen["command"][0] == sys.executable
    assert not [key for key in seen["env"] if "RANK" in key or key.startswith("TORCHEL") or key in launcher]


# ---- launching ranks ----


@pytest.mark.parametrize(
    ("environment", "devices", "ranks"),
    [
        ({}, 0, None),
        ({}, 1, None),
        ({}, 4, "4"),
        ({"FORCE_TORCHRUN": "1"}, 0, "1"),
        ({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}, 0, "2"),
        ({"FORCE_TORCHRUN": "1", "LOCAL_RANK": "0"}, 4, None),
    ],
)
def test_stcr_train_starts_ranks_where_llamafactory_would(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    devices: int,
    ranks: str | None,
) -> None:
    commands: list[list[str]] = []
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("llamafactory.extras.misc.get_device_count", lambda: devices)
    monkeypatch.setattr(experiment, "run_stage", lambda *_: None)
    monkeypatch.setattr(launch, "_run", lambda command: commands.append(command) or 0)
    train(str(RECIPES / "stage1_cot.yaml"), ["max_steps=1"])
    assert [command[command.index("--nproc_per_node") + 1] for command in commands] == ([ranks] if ranks else [])
    for command in commands:
        assert command[-4:] == ["stcr_plugin.cli", "train", str(RECIPES / "stage1_cot.yaml"), "max_steps=1"]


# ---- the record ----


@pytest.mark.slow
def test_two_stages_chain_by_their_records(workshop: Workshop) -> None:
    first = workshop.train("cot", "chain1", "stcr.evaluate.after=false", recipe="stage1_cot")
    second = workshop.train("weak", "chain2", recipe="stage2_weak", model=first)
    one, two = stage_row(first), stage_row(second)
    assert (one["name"], one["mode"], one["parent_stage"]) == ("stage1", "cot", None)
    assert (two["name"], two["mode"], two["parent_stage"]) == ("stage2", "direct", "stage1")
    assert one["base"] == two["base"] == one["parent"] == str(workshop.base)
    assert one["base_digest"] == two["base_digest"] == model_digest(workshop.base)
    assert two["parent"] == str(first)
    assert two["parent_digest"] == one["model_digest"] == model_digest(first)
    assert two["model_digest"] == model_digest(second) != one["model_digest"]
    assert [data["build"] for data in one["data"]] == ["tiny"]
    assert one["data"] == two["data"]
    assert (one["steps"], one["finished"], two["finished"]) == (4, True, True)
    assert one["settings"]["evaluate"]["pairs"] == 4
    assert one["recipe"]["stcr"]["name"] == "stage1"
    assert two["provenance"]["versions"]["llamafactory"]


@pytest.mark.slow
def test_same_seed_gives_the_same_weights(workshop: Workshop) -> None:
    one, two = (workshop.train("weak", f"twice{k}", "stcr.evaluate=null") for k in (1, 2))
    other = workshop.train("weak", "twice3", "stcr.evaluate=null", "seed=5")
    assert model_digest(one) == model_digest(two)
    assert model_digest(one) != model_digest(other)


# ---- whole commands ----


@pytest.mark.slow
@pytest.mark.parametrize("door", ["llamafactory-cli", "stcr"])
def test_a_users_mistake_is_one_line_and_exit_code_1_through_either_door(workshop: Workshop, door: str) -> None:
    overrides = workshop.overrides("weak", f"mistake-{door}", workshop.base)
    done = workshop.fork([door, "train", RECIPES / "stage2_weak.yaml", *overrides])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("stcr: ")]
    assert line.startswith(f"stcr: {workshop.base}: 'stage2' starts from a stage, but that holds no stage.json")


@pytest.mark.slow
def test_a_mistake_found_by_a_tokenising_worker_is_one_line_too(workshop: Workshop) -> None:
    overrides = workshop.overrides("weak", "short", workshop.base, "cutoff_len=60", "preprocessing_num_workers=2")
    done = workshop.fork(["llamafactory-cli", "train", RECIPES / "weak_only.yaml", *overrides])
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("stcr: ")]
    assert "tokens but cutoff_len is 60" in line


@pytest.mark.slow
def test_tokenised_data_is_reused_by_the_next_run_and_not_under_another_cutoff(workshop: Workshop) -> None:
    def settings(cutoff: int) -> tuple[str, ...]:
        return f"cutoff_len={cutoff}", "stcr.evaluate=null", "max_steps=1"

    def files() -> set[Path]:
        return set((workshop.root / "datasets_cache").rglob("cache-*.arrow"))

    found = [files()]
    workshop.train("weak", "reused_a", *settings(511))
    found.append(files())
    overrides = workshop.overrides("weak", "reused_b", workshop.base, *settings(511))
    done = workshop.fork(["llamafactory-cli", "train", RECIPES / "weak_only.yaml", *overrides])
    assert done.returncode == 0, done.stderr[-2000:]
    found.append(files())
    workshop.train("weak", "reused_c", *settings(301))
    found.append(files())
    assert [later > earlier for earlier, later in pairwise(found)] == [True, False, True]
