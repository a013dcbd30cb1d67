"""The report as one HTML file: what is in it, and that nothing in it runs, asks the network or breaks it."""

import base64
import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chain_of_runs import judged, results, write, write_answered
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.comparators import comparator
from stcr_plugin.evaluation.controls import controls
from stcr_plugin.evaluation.controls import write as write_controls
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.guard import guard
from stcr_plugin.evaluation.multi_image import evaluate_groups
from stcr_plugin.evaluation.rank import rank_frames, value_order
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import of_split
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report.chain_report import report
from stcr_plugin.report.runs import read
from stcr_plugin.results import Controls, MultiImage
from stcr_plugin.scoring import verdicts
from stcr_plugin.scoring.group_figures import control_row

DATA = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 0, "heldout": 3, "size": 56},
    "frames": {"width": 56, "height": 56},
    "splits": {"heldout": {"episodes": 3, "group": "heldout"}},
    "pairs": {"per_episode": 8, "min_seconds": 0.5, "within_phase": 0.25, "trim_idle": 0.02},
}
OPTIONAL = {
    "Accuracy by distance",
    "Accuracy by task",
    "Confusion by phase",
    "Controls",
    "Three and more pictures",
    "Comparators: other prompts",
    "Progress curves",
    "Value-order correlation",
    "General ability",
}
VOID = {"meta", "img", "input"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;'\"</article></style>"

pytestmark = pytest.mark.usefixtures("undrawn")


class Page(HTMLParser):
    """Reads a page as a browser would: every tag closed, its sections and cards as text, its pictures as bytes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.wild = [], Counter(), [], []
        self.sections, self.cards, self.pictures, self.alts = {}, [], [], []
        self.styles = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        given = dict(attributes)
        self.wild += [name for name in given if name.startswith("on") or name in ("srcset", "action", "data", "poster")]
        self.styles += given.get("style", "")
        if tag == "section":
            self.sections[given["id"]] = ""
        if tag == "article":
            self.cards.append((given["class"], ""))
        if tag == "img":
            self.pictures.append(base64.b64decode(given["src"].partition(",")[2], validate=True))
            self.alts.append(given["alt"])
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.styles += data
        if "section" in self.open:
            self.sections[list(self.sections)[-1]] += data
        if "article" in self.open:
            kind, text = self.cards[-1]
            self.cards[-1] = kind, text + data


def page(runs, out, registry=Path("nowhere"), **more):
    report(read(runs), out, registry, **more)
    return Page((out / "report.html").read_text(encoding="utf-8"))


def titles(out):
    return set(re.findall(r"^## (.+)$", (out / "report.md").read_text(), re.M))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    from stcr_plugin.registry.build import DataConfig, build

    folder = tmp_path_factory.mktemp("registry")
    build(from_mapping(DataConfig, DATA, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def pairs(registry):
    return read_pairs(registry, "toy", "heldout")


@pytest.fixture(scope="module")
def runs(registry, pairs, tmp_path_factory):
    """A chain of oracles with every kind of result; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    chain = {"base": ("position-only", "direct"), "stage1": ("coin", "cot"), "stage2": ("coin", "direct")}
    for name, (oracle, mode) in chain.items():
        run, engine = folder / name, Oracle(oracle, pairs)
        settings = AskSettings(mode=mode)
        request = EvalRequest(
            engine=engine, dataset="toy", registry=registry, settings=settings, resamples=100, name=name
        )
        evaluate(request, run / "eval" / "toy-heldout")
        guard(dataclasses.replace(request, settings=AskSettings(), resamples=50), run / "guard", episodes=2)
    stage2 = folder / "stage2"
    evaluate(request, stage2 / "eval" / "toy-heldout-swap", comparator=comparator("swap_ensemble"))
    unnamed = dataclasses.replace(request, name=None)
    controls(unnamed, stage2 / "controls" / "toy-heldout", only=["letters", "text_only", "blind"])
    evaluate_groups(request, stage2 / "eval" / "toy-heldout-3-closest")
    strips, other = of_split(registry, "toy", "heldout", frames=4), EvalRequest(engine=engine, resamples=50)
    rank_frames(other, strips[0], stage2 / "rank" / "one")
    value_order(other, strips, stage2 / "rank" / "voc")
    return [folder / name for name in chain]


@pytest.fixture(scope="module", autouse=True)
def few_episodes_suffice():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "FEWEST", 2)
        yield


@pytest.fixture(scope="module")
def whole(runs, registry, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, page(runs, out, registry)


def test_every_result_has_its_section(whole):
    out, seen = whole
    assert titles(out) >= OPTIONAL
    assert len(seen.sections) == len(titles(out))
    assert all(f"#{anchor}" in seen.links for anchor in seen.sections)
    text = seen.sections
    assert "✗ fails" in text["controls"]
    assert "not applicable" in text["controls"]
    assert "swap_ensemble" in text["comparators-other-prompts"]
    assert "6 of 6 possible comparisons" in text["progress-curves"]  # whether they agree depends on the draws
    assert "VROC" in text["value-order-correlation"]
    assert "yes %" in text["general-ability"]
    assert "24 pairs of 3 episodes of the split heldout" in text["what-changed"]


def test_missing_results_have_no_section(tmp_path):
    """A results.json made before the parts of an evaluation were in it."""
    seen = page([write(tmp_path, "stage2", results(96.0, 94.5, 91.0))], tmp_path / "out")
    assert titles(tmp_path / "out") & OPTIONAL == set()
    assert "91.0 (88.0 to 94.0)" in seen.sections["figures"]
    assert "No pairs can be shown: answers.jsonl of stage2: missing beside its results.json." in str(seen.sections)


def test_comparator_is_not_a_stage_of_the_chain(whole):
    out, _ = whole
    text = (out / "report.md").read_text()
    assert "Several runs are called" not in text
    assert text.count("| stage2 | toy | heldout | direct |") == 1
    rows = json.loads((out / "chain.json").read_text())
    assert [(row["name"], bool(row["comparator"])) for row in rows] == [
        ("base", False),
        ("stage1", False),
        ("stage2", False),
        ("stage2", True),
    ]
    assert all("per_episode" not in row for row in rows)
    evidence = json.loads((out / "evidence.json").read_text())
    assert {name: len(of) for name, of in evidence.items()} == {
        "comparisons": 2,
        "controls.json": 1,
        "groups.json": 1,
        "guard.json": 3,
        "ranking.json": 1,
        "voc.json": 1,
    }


def test_file_refers_to_nothing_outside_itself(whole):
    out, seen = whole
    assert all(link.startswith(("data:image/", "#")) for link in seen.links)
    assert not re.search(r"url\(|@import|https?:", seen.styles)
    assert seen.wild == []
    assert {tag for tag in ("script", "link", "iframe", "object", "form", "base", "svg") if seen.tags[tag]} == set()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'content="{policy}"' in (out / "report.html").read_text()


def test_pictures_open_and_are_described(whole):
    _, seen = whole
    assert all(seen.alts)
    for data in seen.pictures:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    assert len(seen.pictures) == 2 * len(seen.cards) + 3  # the chain, a progress curve and value-order correlations


def test_cards_say_what_pair_and_answers_say(whole, runs, pairs):
    _, seen = whole
    path = runs[2] / "eval" / "toy-heldout" / "answers.jsonl"
    answers = {(row["pair_id"], row["order"]): row for row in map(json.loads, path.read_text().splitlines())}
    of = {pair.pair_id: pair for pair in pairs}
    names = {(True, True): "both", (True, False): "forward", (False, True): "backward", (False, False): "none"}
    assert len(seen.cards) == len(of)  # no verdict has more than twelve pairs
    for kind, text in seen.cards:
        pair = of[re.search(r"pair (\S+)$", text)[1]]
        both = [answers[pair.pair_id, order] for order in ("forward", "backward")]
        assert kind == names[tuple(row["chosen"] == row["expected"] for row in both)]
        assert pair.task in text
        assert pair.phase in text
        assert f"{pair.distance} frames, {pair.seconds:.1f} s apart" in text
        assert f"later, frame {pair.later} closer to completion" in text
        for row in both:
            assert f"{row['chosen']}, probability 90.0 %" in text


def test_verdicts_are_counted_and_drawn_fairly(runs, registry, tmp_path, monkeypatch):
    monkeypatch.setattr("stcr_plugin.report.gallery.EACH", 2)
    shown = []
    for seed in (1, 1, 2):
        seen = page(runs[:1], tmp_path / "out", registry, seed=seed)
        shown.append(seen.cards)
        assert [kind for kind, _ in seen.cards] == ["forward"] * 2
        assert "0 (0.0 %)24 (100.0 %)0 (0.0 %)0 (0.0 %)" in seen.sections["right-and-wrong-pairs"]
        assert "right forward only (2 of 24)" in seen.sections["right-and-wrong-pairs"]
    assert shown[0] == shown[1] != shown[2]


def test_file_stays_small_and_says_what_it_leaves_out(runs, registry, tmp_path, whole, drawn):
    out, full = whole
    largest = (out / "report.html").stat().st_size - 60_000
    seen = page(runs, tmp_path, registry, largest=largest)
    assert (tmp_path / "report.html").stat().st_size < largest
    left_out = len(full.cards) - len(seen.cards)
    assert 0 < left_out < len(full.cards)
    assert f"{left_out} drawn pairs are left out to keep the file small" in seen.sections["right-and-wrong-pairs"]
    assert {kind for kind, _ in seen.cards} == {kind for kind, _ in full.cards}


def test_large_pictures_are_shrunk(tmp_path):
    from stcr_plugin.registry.build import DataConfig, build

    few = {"splits": {"heldout": {"episodes": 2, "group": "heldout"}}, "pairs": {"per_episode": 1}}
    build(from_mapping(DataConfig, {**DATA, "frames": {"width": 640, "height": 480}, **few}, "test"), tmp_path)
    engine = Oracle("right", read_pairs(tmp_path, "toy", "heldout"))
    evaluate(EvalRequest(engine=engine, dataset="toy", registry=tmp_path, resamples=10), tmp_path / "run")
    with Image.open(io.BytesIO(page([tmp_path / "run"], tmp_path / "out", tmp_path).pictures[-1])) as picture:
        assert (picture.size, picture.format) == ((320, 240), "JPEG")


def test_words_of_a_model_are_shown_and_not_obeyed(runs, registry, tmp_path, drawn):
    run = shutil.copytree(runs[2], tmp_path / "run")
    for path in (run / "eval" / "toy-heldout" / "answers.jsonl", run / "rank" / "one" / "ranking.json"):
        rows = [json.loads(line) for line in path.read_text().splitlines()] if "jsonl" in path.name else None
        if rows:
            path.write_text("".join(json.dumps(row | {"text": EVIL + row["text"]}) + "\n" for row in rows))
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"words": EVIL, "task": EVIL}))
    results_at = run / "eval" / "toy-heldout" / "results.json"
    row = json.loads(results_at.read_text())
    row["by_task"]["tasks"][0]["task"] = row["phase_cells"][0]["earlier"] = row["name"] = EVIL
    results_at.write_text(json.dumps(row))
    at = run / "controls" / "toy-heldout" / "controls.json"
    at.write_text(at.read_text().replace("without pictures", json.dumps(EVIL)[1:-1]))
    seen = page([run], tmp_path / "out", registry)
    assert seen.tags["script"] == 0
    assert seen.wild == []
    assert all(text.count(EVIL) == 2 for _, text in seen.cards)
    for section in ("accuracy-by-task", "confusion-by-phase", "controls", "progress-curves", "figures"):
        assert EVIL in seen.sections[section], section
    assert "<script" not in (tmp_path / "out" / "report.md").read_text()


def test_long_words_are_cut(tmp_path):
    answers = [dataclasses.replace(answer, text="wordy " * 2000) for answer in judged(1, 0, episodes=2, pairs=2)]
    (tmp_path / "out").mkdir()
    seen = page([write_answered(tmp_path, "stage2", answers)], tmp_path / "out")
    assert all("... (12000 characters)" in text and len(text) < 5000 for _, text in seen.cards)


@pytest.mark.parametrize("spoilt", ["no registry", "other pictures"])
def test_responses_are_shown_without_pictures_where_the_data_are_missing(runs, registry, tmp_path, spoilt, pairs):
    there = tmp_path / "nowhere"
    if spoilt == "other pictures":
        there = shutil.copytree(registry, tmp_path / "registry")
        shutil.copy(there / pairs[0].later_image, there / pairs[0].earlier_image)
    seen = page(runs, tmp_path / "out", there)
    text = seen.sections["right-and-wrong-pairs"]
    reason = "holds no finished build" if spoilt == "no registry" else "does not hold the pairs and pictures"
    assert "Pictures are not shown: " in text
    assert reason in text
    assert len(seen.cards) == len(pairs)
    assert len(seen.pictures) == 3
    assert all("closer to completion: img" in card for _, card in seen.cards)


def test_markdown_and_page_are_the_same_again(runs, registry, tmp_path, whole, drawn):
    out, _ = whole
    report(read(runs), tmp_path, registry)
    for path in sorted(out.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    linked = re.findall(r"\]\((\S+\.png)\)", (out / "report.md").read_text())
    assert sorted(linked) == ["accuracies.png", "progress-1.png", "voc-1.png"]
    assert all((out / name).is_file() for name in linked)


def test_file_with_an_unexpected_format_is_refused(runs, registry, tmp_path):
    run = shutil.copytree(runs[2], tmp_path / "run")
    (run / "guard" / "guard.json").write_text("{}")
    with pytest.raises(DataError, match=r"guard\.json: not what `stcr guard` writes \('name' is missing\)"):
        report(read([run]), tmp_path / "out", registry)
    alone = shutil.copytree(runs[2] / "eval" / "toy-heldout-swap", tmp_path / "alone")
    with pytest.raises(DataError, match=r"no results\.json of a plain evaluation"):
        report(read([alone]), tmp_path / "out", registry)


def test_control_rows_added_later_are_in_the_report(runs, registry, tmp_path):
    run = shutil.copytree(runs[2], tmp_path / "run")
    found = MultiImage.read(run / "eval" / "toy-heldout-3-closest" / "groups.json")
    folder = run / "controls" / "toy-heldout"
    write_controls(folder, Controls.read(folder / "controls.json").of, [control_row(found)])
    assert "three pictures" in page([run], tmp_path / "out", registry).sections["controls"]
