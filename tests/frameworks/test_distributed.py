"""Both stages on two processes, through both doors: DDP, ZeRO-2 and ZeRO-3 on the CPU (gloo), against one process.

Each way of DeepSpeed trains one stage: ZeRO-2 the first, ZeRO-3 the second, with measurements inside. Both stages under
ZeRO-3 are trained through TRL (test_trl_distributed.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_stage import DATA, RECIPES, UNPREPARED, Workshop, history, losses, stage_row

from stcr_plugin.artefacts import model_digest
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.result_files import encode

pytestmark = pytest.mark.slow(seconds=5)  # with the launches, which are a fixture

TWO = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
# accelerate deals whole batches to the ranks in turn, so two ranks with batches of 2 see, step by step, the samples of
# one process that accumulates two batches of 2. LLaMA-Factory averages the loss batch by batch (of a vision-language
# model it counts no tokens), so a batch of 4 weighs samples of unequal length otherwise.
HALF = "per_device_train_batch_size=2"
# Batches are compared as they lie on the disk.
ALIKE = ("stcr.augment=null", HALF)
# kind of launch -> what is laid over the recipe
KINDS = {"ddp": (), **{f"zero{n}": (f"deepspeed={RECIPES / 'deepspeed' / f'zero{n}.json'}",) for n in (2, 3)}}
# stage -> (its door, the stage that it starts from); those of number 2 train on weak pairs.
STAGES = {
    "ddp_1": ("llamafactory-cli", "base"),
    "zero2_1": ("llamafactory-cli", "base"),
    "ddp_2": ("llamafactory-cli", "ddp_1"),
    "zero3_2": ("stcr", "ddp_1"),
}


def launch(door: str, recipe: str, *overrides: str, workshop: Workshop, torchrun: bool) -> Path:
    """A stage on two ranks, which torchrun starts, or else a fork. Returns its folder."""
    command = [door, "train", RECIPES / f"{recipe}.yaml", *overrides]
    done = workshop.run(command, timeout=600, **TWO) if torchrun else workshop.fork(command, timeout=600, ranks=2)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"
    return workshop.root / next(text for text in overrides if text.startswith("output_dir=")).partition("=")[2]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stages of STAGES; `one_1` and `one_2` the same in one process, `four` stage 1 with batches of 4. The first
    launch finds neither data nor base: its ranks come to make them at once. It alone is by torchrun, which stcr's door
    starts in test_interruption.py.
    """
    workshop = Workshop(tmp_path_factory.mktemp("distributed"))
    workshop.write_yaml(workshop.data, DATA)
    prior: dict[str, Any] = yaml.safe_load((RECIPES / "stage0_prior.yaml").read_text(encoding="utf-8"))
    prior |= {"max_steps": 2, "per_device_train_batch_size": 4, "dataset": "tiny_forward"}
    prior["stcr"] |= {"prepare": {}, "evaluate": {"split": "dev", "pairs": 2}}
    workshop.write_yaml(workshop.root / "prior.yaml", prior)
    base = {
        "out": str(workshop.base),
        "prior": str(workshop.root / "prior.yaml"),
        "gap_over": -101.0,
        "pretraining": None,
    }
    workshop.write_yaml(workshop.root / "base.yaml", base)
    prepare = (f"stcr.prepare.data={workshop.data}", f"stcr.prepare.base={workshop.root / 'base.yaml'}")
    middle = "stcr.evaluate.every_steps=2"

    done: dict[str, Path] = {"base": workshop.base, "registry": workshop.registry}
    for name, (door, parent) in STAGES.items():
        first = name.endswith("1")
        more = (*ALIKE, *KINDS[name.partition("_")[0]], *(() if first else (middle,)))
        overrides = workshop.overrides("cot" if first else "weak", name, done[parent], *more)
        if name == "ddp_1":
            overrides = [text for text in overrides if text not in UNPREPARED] + list(prepare)
        recipe = "stage1_cot" if first else "stage2_weak"
        done[name] = launch(door, recipe, *overrides, workshop=workshop, torchrun=name == "ddp_1")

    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", workshop.root / "datasets_cache")
        for variable in ("FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(variable, raising=False)
        twice = (*ALIKE, "gradient_accumulation_steps=2")
        done["one_1"] = workshop.train("cot", "one_1", *twice, recipe="stage1_cot")
        done["one_2"] = workshop.train("weak", "one_2", *twice, middle, recipe="stage2_weak", model=done["one_1"])
        done["four"] = workshop.train("cot", "four", "stcr.augment=null", "stcr.evaluate=null", recipe="stage1_cot")
    return done


def record(run: Path) -> dict[str, Any]:
    found = stage_row(run)
    assert found is not None
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_and_each_measurement_is_recorded_once(chain: dict[str, Path], name: str) -> None:
    found = record(chain[name])
    when = ["before", "step 2", "after"] if name.endswith("2") else ["before", "after"]
    assert found["finished"]
    assert [row["when"] for row in found["figures"]] == when
    assert all(row["n_queries"] == 8 for row in found["figures"])
    lines = (chain[name] / "stcr_figures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == found["figures"]
    assert [step for step, _ in history(chain[name], "loss")] == [1, 2, 3, 4]
    assert len(set(losses(chain[name]))) == 4


@pytest.mark.parametrize("name", STAGES)
def test_figures_of_two_ranks_are_those_of_one_process_on_the_saved_model(chain: dict[str, Path], name: str) -> None:
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.request import EvalRequest

    run = chain[name]
    ask = AskSettings(max_new_tokens=12, image_max_pixels=7056, image_min_pixels=1024)
    request = EvalRequest(
        model=run, dataset="tiny", split="dev", registry=chain["registry"], settings=ask, limit=4, resamples=10
    )
    alone = evaluate(request, run / "eval")
    after = record(run)["figures"][-1]
    assert {key: after[key] for key in encode(alone.figures)} == encode(alone.figures)


@pytest.mark.parametrize("second", ["ddp_2", "zero3_2"])
def test_the_chain_of_records_leads_back_to_the_base(chain: dict[str, Path], second: str) -> None:
    first = STAGES[second][1]
    one, two = record(chain[first]), record(chain[second])
    assert (one["parent_stage"], two["parent_stage"]) == (None, "stage1")
    assert two["parent"] == str(chain[first])
    assert two["parent_digest"] == one["model_digest"] == model_digest(chain[first])
    assert one["base_digest"] == two["base_digest"] == model_digest(chain["base"])
    assert two["model_digest"] not in (None, one["model_digest"])


def test_two_ranks_that_prepare_at_once_build_data_and_base_once(chain: dict[str, Path]) -> None:
    manifest = json.loads((chain["registry"] / "tiny" / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["counts"]["datasets"]) == {"tiny_cot", "tiny_weak", "tiny_forward", "tiny_dev"}
    assert not list(chain["registry"].rglob("*.part"))
    base = record(chain["base"])
    assert base["finished"]
    assert [row["when"] for row in base["figures"]] == ["before", "after"]
    assert record(chain["ddp_1"])["parent_digest"] == base["model_digest"]


@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_train_as_one_process_with_the_same_batches(chain: dict[str, Path], name: str) -> None:
    """Measured: DDP's losses equal to the last bit, ZeRO-2's and ZeRO-3's within 1.2e-7, gradient norms within 7e-6."""
    one = chain[f"one_{name[-1]}"]
    assert losses(chain[name]) == pytest.approx(losses(one), rel=2e-6)
    norms = [value for _, value in history(chain[name], "grad_norm")]
    assert norms == pytest.approx([value for _, value in history(one, "grad_norm")], rel=5e-5)


@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_measure_the_figures_of_one_process(chain: dict[str, Path], name: str) -> None:
    def figures(run: Path) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in record(run)["figures"]]

    assert figures(chain[name]) == figures(chain[f"one_{name[-1]}"])


def test_two_batches_of_two_are_nearly_one_of_four(chain: dict[str, Path]) -> None:
    """Measured: losses within 1e-4. They differ by the unequal lengths of the answers, not by the ranks."""
    assert losses(chain["ddp_1"]) == pytest.approx(losses(chain["four"]), rel=1e-3)
