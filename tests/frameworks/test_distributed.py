"""Both stages on two processes, through both doors: DDP, ZeRO-2 and ZeRO-3 on the CPU (gloo)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_stage import DATA, RECIPES, UNPREPARED, Workshop, history, losses

from stcr_plugin.artefacts import model_digest
from stcr_plugin.evaluation.engine import AskSettings
from stcr_plugin.frameworks.stage import read_record

pytestmark = pytest.mark.slow

TWO = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


def launch(door: str, recipe: str, *overrides: str, workshop: Workshop) -> Path:
    """A stage on two ranks. Returns its folder."""
    done = workshop.run([door, "train", RECIPES / f"{recipe}.yaml", *overrides], timeout=600, **TWO)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"
    return workshop.root / next(text for text in overrides if text.startswith("output_dir=")).partition("=")[2]


def zero(stage: int) -> tuple[str, str]:
    # Both ranks train the whole batch's half, so that the steps are those of the other launches.
    return f"deepspeed={RECIPES / 'deepspeed' / f'zero{stage}.json'}", "per_device_train_batch_size=2"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four launches. The first finds neither data nor base: its two ranks come to make them at the same time."""
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
    half = "per_device_train_batch_size=2"

    def tiny(dataset: str, out: str, model: Path, *more: str) -> list[str]:
        return [text for text in workshop.overrides(dataset, out, model) if text not in UNPREPARED] + list(more)

    done: dict[str, Path] = {"base": workshop.base, "registry": workshop.registry}
    done["ddp1"] = launch(
        "llamafactory-cli", "stage1_cot", *tiny("cot", "ddp1", workshop.base, half, *prepare), workshop=workshop
    )
    done["zero2"] = launch(
        "llamafactory-cli",
        "stage2_weak",
        *tiny("weak", "zero2", done["ddp1"], *zero(2), "stcr.evaluate.every_steps=2", *UNPREPARED),
        workshop=workshop,
    )
    done["zero3"] = launch(
        "stcr", "stage1_cot", *tiny("cot", "zero3", workshop.base, *zero(3), *UNPREPARED), workshop=workshop
    )
    done["ddp2"] = launch(
        "stcr", "stage2_weak", *tiny("weak", "ddp2", done["zero3"], half, *UNPREPARED), workshop=workshop
    )
    return done


def record(run: Path) -> dict[str, Any]:
    found = read_record(run)
    assert found is not None
    return found


STAGES = ("ddp1", "zero2", "zero3", "ddp2")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_and_each_measurement_is_recorded_once(chain: dict[str, Path], name: str) -> None:
    found = record(chain[name])
    when = ["before", "step 2", "after"] if name == "zero2" else ["before", "after"]
    assert found["finished"]
    assert [row["when"] for row in found["figures"]] == when
    assert all(row["n_queries"] == 8 for row in found["figures"])
    lines = (chain[name] / "stcr_figures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == found["figures"]
    assert [step for step, _ in history(chain[name], "loss")] == [1, 2, 3, 4]
    assert len(set(losses(chain[name]))) == 4


@pytest.mark.parametrize("name", STAGES)
def test_figures_of_two_ranks_are_those_of_one_process_on_the_saved_model(chain: dict[str, Path], name: str) -> None:
    from stcr_plugin.evaluation.run import evaluate

    run = chain[name]
    ask = AskSettings(max_new_tokens=12, image_max_pixels=7056, image_min_pixels=1024)
    alone = evaluate(run, "tiny", "dev", run / "eval", chain["registry"], ask, limit=4, resamples=10)
    after = record(run)["figures"][-1]
    assert {key: after[key] for key in dataclasses.asdict(alone.figures)} == dataclasses.asdict(alone.figures)


@pytest.mark.parametrize(("first", "second"), [("ddp1", "zero2"), ("zero3", "ddp2")])
def test_the_chain_of_records_leads_back_to_the_base(chain: dict[str, Path], first: str, second: str) -> None:
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
    assert record(chain["ddp1"])["parent_digest"] == base["model_digest"]


def test_zero_3_trains_as_ddp_does(chain: dict[str, Path]) -> None:
    assert losses(chain["zero3"]) == pytest.approx(losses(chain["ddp1"]), rel=1e-3)
