import dataclasses
import shutil

import pytest
from PIL import Image

from stcr_plugin import artefacts
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.report.evaluation_page import examples, write_evaluation_page
from stcr_plugin.types import Answer, Pair

SMALL = AskSettings(batch_size=4)
pytestmark = pytest.mark.usefixtures("undrawn")


def page(model, registry, out, settings=SMALL, **more):
    """The result, and the text of its page."""
    request = EvalRequest(model=model, dataset="toy", registry=registry, settings=settings, resamples=100, **more)
    found = evaluate(request, out)
    write_evaluation_page(out, registry, found)
    return found, (out / "report.md").read_text()


def test_page_shows_the_figures_and_pictures_that_open(model, registry, tmp_path, drawn):
    found, text = page(model, registry, tmp_path)
    assert f"{found.figures.forward_accuracy:.1f}" in text
    assert f"{found.figures.gap_points:+.1f}" in text
    assert f"p = {found.p_gap.p:.2g}" in text
    assert all(title in text for title in ("## By distance", "## By phase"))
    (first, *_) = found.parts.phase_cells
    cells = [
        first.earlier,
        first.later,
        f"{first.figures.forward_accuracy:.1f}",
        f"{first.figures.backward_accuracy:.1f}",
    ]
    assert f"| {' | '.join(cells)} |" in text
    without = dataclasses.replace(found, parts=dataclasses.replace(found.parts, phase_cells=()))
    write_evaluation_page(tmp_path, registry, without)
    assert "## By phase" not in (tmp_path / "report.md").read_text()
    assert f"{found.calibration.both_orders.brier:.3f} (" in text
    for name in ("accuracies.png", "calibration.png", "examples.png"):
        assert f"({name})" in text
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert picture.width > 300
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_the_same_result_gives_the_same_bytes(model, registry, tmp_path, drawn):
    found, _ = page(model, registry, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    write_evaluation_page(tmp_path / "a", registry, found)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_page_says_how_answers_came_about(model, registry, tmp_path):
    _, text = page(model, registry, tmp_path / "direct", limit=1)
    assert "the likelier of the two answers counts" in text
    assert "three" not in text
    assert "single episode" in text
    _, text = page(model, registry, tmp_path / "cot", AskSettings(mode="cot", max_new_tokens=2), limit=1)
    assert "generated and parsed" in text
    assert "## Probabilities" not in text
    folder = shutil.copytree(registry, tmp_path / "registry")
    manifest = artefacts.read_json(folder / "toy" / "manifest.json")
    manifest["config"]["pairs"]["ties"] = "teach"
    artefacts.write_json(folder / "toy" / "manifest.json", manifest)
    assert "likeliest of the three" in page(model, folder, tmp_path / "tied", limit=2)[1]


def test_ties_are_no_examples_of_right_or_wrong():
    """A tie answered "neither" twice is right in both orders, which no figure counts."""
    ordinary = Pair("p0", "e0", "heldout", "task", 0, 9, 0.3)
    tie = dataclasses.replace(ordinary, pair_id="p1", closer="neither")
    answers = [Answer("p0", "e0", "forward", "img2", "img2", ""), Answer("p0", "e0", "backward", "img1", "img2", "")]
    answers += [Answer("p1", "e0", order, "neither", "neither", "") for order in ("forward", "backward")]
    assert [(verdict, pair) for verdict, pair, *_ in examples([ordinary, tie], answers)] == [
        ("right forward only", ordinary)
    ]
