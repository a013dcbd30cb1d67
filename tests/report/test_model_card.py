"""The model card has the results that were measured on these very files, and names what is missing."""

import dataclasses
import json
import shutil

import pytest
import yaml
from release_stage import finished

from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.controls import controls
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.guard import guard
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import AnswerCauses, ClaimFigures, Factuality, Measure
from stcr_plugin.release.export import export
from stcr_plugin.report import tables
from stcr_plugin.report.model_card import HubMetadata
from stcr_plugin.results import ClaimAccount

SMALL = AskSettings(batch_size=8)


def front_and_body(out):
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def section(body, title):
    return body.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def chain(model, registry, tmp_path_factory):
    """A base and two stages, all evaluated; the last one with controls and both ends with the guard."""
    root = tmp_path_factory.mktemp("chain")
    base = shutil.copytree(model, root / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    first = finished(shutil.copytree(model, root / "stage1"), registry, "stage1", base, mode="cot")
    last = finished(shutil.copytree(model, root / "stage2"), registry, "stage2", first, parent_stage="stage1")
    found = {}
    for run in (base, last):
        request = EvalRequest(model=run, dataset="toy", registry=registry, settings=SMALL, resamples=50)
        found[run.name] = evaluate(request, run / "eval" / "toy-heldout")
        guard(EvalRequest(model=run), run / "guard", episodes=2)
    controls(request, last / "controls" / "toy-heldout", only=["mirrored"])
    return last, found, export(last, root / "out", registry=registry)


@pytest.fixture
def stage(model, registry, tmp_path):
    """A stage that was trained from the Hub's model, of which nothing is here."""
    return finished(shutil.copytree(model, tmp_path / "stage2"), registry)


def test_front_matter_reads_as_the_hub_reads_it(chain, stage, tmp_path):
    front, _ = front_and_body(chain[2].out)
    assert front["license"] == "apache-2.0"
    assert (front["pipeline_tag"], front["library_name"]) == ("image-text-to-text", "transformers")
    assert "stcr" in front["tags"]
    assert not {"base_model", "datasets"} & front.keys()  # a folder is not a model of the Hub
    front, _ = front_and_body(export(stage, tmp_path / "out").out)
    assert front["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert "license" not in front
    given = export(stage, tmp_path / "own", hub=HubMetadata("a/b", "mit", ("c/d",))).out
    assert {key: front_and_body(given)[0][key] for key in ("base_model", "license", "datasets")} == {
        "base_model": "a/b",
        "license": "mit",
        "datasets": ["c/d"],
    }


def test_every_figure_of_the_chain_is_that_of_its_results(chain):
    _, rows, done = chain
    text = section(front_and_body(done.out)[1], "Results")
    for name, found in rows.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert tables.with_interval(found, "pair_accuracy") in line
        assert f"| {found.figures.n_pairs} |" in line
        assert tables.figure(found, "gap_points") in line
        assert f"{found.mode}, {found.settings['image_max_pixels']} pixels" in line
    assert "No evaluated episode or picture is in the training data" in text
    assert "| stage1 " not in text


def test_controls_guard_data_and_training_are_in_the_card(chain, registry):
    body = front_and_body(chain[2].out)[1]
    rows = json.loads((chain[0] / "controls" / "toy-heldout" / "controls.json").read_text())["rows"]
    text = section(body, "Controls")
    assert all(f"`{row['name']}`" in text and row["verdict"] in text for row in rows)
    fails = [row["name"] for row in rows if row["verdict"] == "fails"]
    assert all(f"`{name}` (fails)" in section(body, "Limits") for name in fails)
    ability = section(body, "General ability")
    assert "`base`" in ability
    assert "`stage2`" in ability
    manifest = json.loads((registry / "toy" / "manifest.json").read_text())
    data = section(body, "Training data")
    assert "split heldout: 3 episodes" in data
    assert manifest["config_digest"] in data
    assert manifest["checksums"]["files"]["toy/toy_weak.json"] in data
    training = section(body, "Training")
    assert "steps: 12; seconds, evaluations included: 34" in training
    assert '"learning_rate": 0.001' in training
    assert "secret" not in body


def test_what_is_missing_is_said_and_nothing_else(chain, stage, tmp_path):
    missing = section(front_and_body(chain[2].out)[1], "Missing")
    assert "figures of `stage1`: `stcr eval` has not been run on it" in missing
    assert "controls" not in missing
    assert "general ability" not in missing
    done = export(stage, tmp_path / "out")
    body = front_and_body(done.out)[1]
    assert "None: no stage of this chain was evaluated." in body
    assert len(done.missing) >= 4
    assert all(line in body for line in done.missing)


def test_figures_of_other_weights_are_left_out(chain, registry, tmp_path):
    """A stage that was trained again has old results beside it."""
    again = shutil.copytree(chain[0], tmp_path / "stage2")
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"trained": "again"}))
    done = export(finished(again, registry), tmp_path / "out", registry=registry)
    body = front_and_body(done.out)[1]
    assert "None: no stage of this chain was evaluated." in body
    assert "not known to be measured on these files" in section(body, "Missing")
    assert "Not run" in section(body, "Controls")


def reasoned(chain, stage, claims):
    """The card of a stage that wrote reasons, evaluated on `toy` with the account `claims`."""
    found = dataclasses.replace(chain[1]["stage2"], name="stage1", mode="cot", claims=claims)
    found.write(stage / "eval" / "toy-heldout" / "results.json")
    return export(stage, stage.parent / "out")


def test_card_says_how_much_of_what_it_writes_is_true(chain, stage):
    shares = (Measure(90.0, (85.0, 95.0)), Measure(8.0, (4.0, 12.0)), Measure(2.0), Measure(1.0))
    families = {"goal": ClaimFigures(7, Measure(80.0))}
    known = Factuality(*shares, families, AnswerCauses(3, 1, 2), n_claims=50, n_answers=8, n_undescribed=0)
    body = front_and_body(reasoned(chain, stage, ClaimAccount(known)).out)[1]
    line = "| stage2 | toy | heldout | 90.0 (85.0 to 95.0) | 8.0 (4.0 to 12.0) | 2.0 | 1.0 | 3 | 1 | 2 |"
    assert line in section(body, "What it writes")
    assert "toy, heldout: 8.0 (4.0 to 12.0) % of what it writes of the pictures is false" in section(body, "Limits")
    assert "claims of" not in section(body, "Missing")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (ClaimAccount(unknown="the source records no states"), "the source records no states"),
        (None, "its `stcr eval` did not check them; run it again"),
    ],
)
def test_claims_that_were_not_checked_are_missing(chain, stage, claims, why):
    done = reasoned(chain, stage, claims)
    assert f"claims of `stage2` on toy, heldout: {why}" in done.missing
    assert "## What it writes" not in (done.out / "README.md").read_text()


def test_card_of_a_chain_that_only_answers_has_no_section_about_claims(chain):
    assert "## What it writes" not in (chain[2].out / "README.md").read_text()
