"""The contact sheet: who is on it, that it says what the rows say, and that nothing in the data can break it."""

import base64
import io
import json
import re
import shutil
import weakref
from collections import Counter
from html.parser import HTMLParser

import pytest
from fake_source import FakeSource, episode
from PIL import Image

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError
from stcr_plugin.registry import build as builds
from stcr_plugin.registry import parquet
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.report.contact_sheet import Row, Stratum, draw, show
from stcr_plugin.types import Exclusion

CONFIG = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 4, "heldout": 2, "size": 28},
    "splits": {"train": {"episodes": 4, "group": "seen"}, "heldout": {"episodes": 2, "group": "heldout"}},
    "pairs": {"per_episode": 6, "within_phase": 0.5},
    "datasets": {
        "cot": {"split": "train", "kind": "cot", "languages": ["en", "zh"]},
        "weak": {"split": "train", "kind": "weak", "format": "parquet"},
    },
}
VOID = {"meta", "img"}


def make(registry, **changes):
    build(from_mapping(DataConfig, {**CONFIG, **changes}, "test"), registry)
    return registry


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A build with a JSON and a Parquet dataset, its pictures in tar files; not to be changed."""
    return make(tmp_path_factory.mktemp("sound"), frames={"store": "tar"})


@pytest.fixture
def registry(sound, tmp_path):
    """A build of one's own to damage."""
    return shutil.copytree(sound, tmp_path / "registry")


class Page(HTMLParser):
    """Reads a page as a browser would: every tag closed, its cards as text, its pictures as bytes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cards, self.pictures = [], Counter(), [], []
        self.header, self.wild = "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.wild += [name for name, _ in attributes if name.startswith("on")]
        self.wild += [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]
        if tag == "article":
            self.cards.append("")
        if tag == "img":
            self.pictures.append(base64.b64decode(dict(attributes)["src"].partition(",")[2], validate=True))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "article" in self.open:
            self.cards[-1] += data
        elif "header" in self.open:
            self.header += data


def sheet(registry, name="toy", **options):
    out = registry / "sheets" / "page.html"
    done = show(name, registry, out, **options)
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.cards) == done.shown
    return page


def edit(registry, change):
    """Change the rows of the JSON dataset as they lie on disk."""
    path = registry / "toy" / "toy_cot.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    change(rows)
    path.write_text(json.dumps(rows), encoding="utf-8")


def edit_pairs(registry, change):
    """Change every pair as it lies on disk."""
    for path in sorted((registry / "toy" / "pairs").glob("*.parquet")):
        rows = list(parquet.read(path))
        for row in rows:
            change(row)
        parquet.write(path, rows, parquet.PAIRS)


# ---- what a card says ----


@pytest.mark.parametrize("dataset", ["toy_cot", "toy_weak"])
def test_every_card_says_what_its_row_and_pair_say(sound, dataset):
    rows = list(dataset_rows(sound, dataset))
    pairs = {pair.pair_id: pair for pair in read_pairs(sound, "toy", "train")}
    page = sheet(sound, dataset, rows=1000)
    assert len(page.cards) == len(rows)
    closer = {"earlier": "earlier frame is closer", "later": "later frame is closer"}
    for number, (card, row) in enumerate(zip(page.cards, rows, strict=True), 1):
        pair = pairs[row["pair_id"]]
        assert row["messages"][0]["content"].removeprefix("<image><image>") in card
        assert row["messages"][1]["content"] in card
        assert closer[pair.closer] in card
        assert f"{pair.distance} frames, {pair.seconds:.2f} s apart" in card
        assert f"episode {pair.episode_id} · pair {pair.pair_id} · {dataset}, row {number}" in card
        assert pair.phase in card
        first, second = (pair.earlier, pair.later) if row["order"] == "forward" else (pair.later, pair.earlier)
        assert re.search(rf"img1 frame {first}\b.*img2 frame {second}\b", card, re.S)
    assert 'class="fault"' not in (sound / "sheets" / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("store", ["tar", "folder"])
def test_pictures_stand_in_the_order_shown_byte_for_byte(sound, tmp_path, store):
    from stcr_plugin.registry.picture_store import read

    registry = sound if store == "tar" else make(tmp_path, datasets={"cot": CONFIG["datasets"]["cot"]})
    page = sheet(registry, "toy_cot", rows=1000)
    expected = [read(registry, image) for row in dataset_rows(registry, "toy_cot") for image in row["images"]]
    assert page.pictures == expected


def test_large_picture_is_shrunk_and_its_true_size_told(tmp_path):
    few = {"splits": {"train": {"episodes": 1}}, "pairs": {"per_episode": 1}, "datasets": {}}
    make(tmp_path, frames={"width": 700, "height": 350}, **few)
    page = sheet(tmp_path, rows=1)
    with Image.open(io.BytesIO(page.pictures[0])) as picture:
        assert picture.size == (512, 256)
    assert "700×350, shrunk for this page" in page.cards[0]


def test_split_without_dataset_shows_its_pairs_in_both_orders(sound):
    page = sheet(sound, split="heldout", rows=1000)
    pairs = read_pairs(sound, "toy", "heldout")
    assert len(page.cards) == 2 * len(pairs)
    for pair in pairs:
        mine = [card for card in page.cards if f"pair {pair.pair_id} ·" in card]
        assert sorted("backward" in card for card in mine) == [False, True]
        assert all(pair.task in card and "Question" not in card for card in mine)


def test_split_narrows_a_build_to_the_datasets_drawn_from_it(tmp_path):
    more = {**CONFIG["datasets"], "late": {"split": "heldout", "kind": "weak"}}
    page = sheet(make(tmp_path, datasets=more), split="heldout", rows=1000)
    assert page.cards
    assert all("toy_late, row" in card for card in page.cards)


# ---- what the header says ----


def test_header_accounts_for_the_build(sound):
    manifest = read_manifest(sound, "toy")
    header = sheet(sound, seed=7).header
    for figure in (manifest.config_digest, "drawn with seed 7", "the later frame is closer to completion, by order"):
        assert figure in header
    for split, of in manifest.counts.splits.items():
        assert f"{split}{of.episodes}{of.pairs}" in header
    for dataset, of in manifest.counts.datasets.items():
        assert f"{dataset}{of.pairs}{of.samples}" in header


def test_header_lists_what_was_skipped_and_names_ties(tmp_path, monkeypatch):
    source = FakeSource(
        [episode("a"), episode("b", 40), Exclusion("episode", "c", "the video ends after 17 bytes <b>")]
    )
    states = FakeSource.states

    def with_progress(self, one):
        return [{**state, "progress": index // 6} for index, state in enumerate(states(self, one))]

    monkeypatch.setattr(FakeSource, "states", with_progress)
    monkeypatch.setattr(builds, "open_source", lambda *_: source)
    rules = {"per_episode": 30, "label": "progress", "ties": "teach"}
    make(tmp_path, splits={"train": {"episodes": 2}}, datasets={}, pairs=rules)
    page = sheet(tmp_path, rows=20)
    assert "1the video ends after # bytes <b>" in page.header
    assert "episode c: the video ends after 17 bytes <b>" in page.header
    assert 'ties (progress within 0.0) are taught as "neither"' in page.header
    assert {"neither", "later"} == {pair.closer for pair in read_pairs(tmp_path, "toy", "train")}
    assert any("tie: neither frame is closer" in card for card in page.cards)
    assert any("later frame is closer" in card for card in page.cards)


# ---- who is on the sheet ----


def rows_of(counts):
    for stratum, count in counts.items():
        for number in range(1, count + 1):
            yield Stratum(*stratum), Row(stratum[0], number, {})


def test_rare_kinds_are_on_the_sheet_though_strata_outnumber_the_rows():
    counts = {
        ("d", order, closer, f"phase{n}"): 500
        for order in ("forward", "backward")
        for closer in ("later", "neither")
        for n in range(20)
    }
    counts["d", "forward", "earlier", "rare"] = 1
    drawn, counted = draw(rows_of(counts), 24, seed=0)
    shown = [stratum for stratum, listed in drawn.items() for _ in listed]
    assert len(shown) == 24
    assert counted == counts
    assert {stratum.phase for stratum in shown} == {stratum[3] for stratum in counts}
    assert {stratum.closer for stratum in shown} == {"earlier", "later", "neither"}
    assert {stratum.order for stratum in shown} == {"forward", "backward"}


def test_small_strata_give_their_share_to_others():
    counts = {("d", "forward", "later", ""): 100, ("d", "backward", "later", ""): 100, ("e", "forward", "later", ""): 2}
    drawn, _ = draw(rows_of(counts), 30, seed=0)
    assert sorted(len(listed) for listed in drawn.values()) == [2, 14, 14]
    assert all(len({row.number for row in listed}) == len(listed) for listed in drawn.values())


def test_every_row_of_a_stratum_is_equally_likely():
    times = Counter(
        row.number
        for seed in range(2000)
        for row in draw(rows_of({("d", "forward", "later", ""): 20}), 5, seed)[0]["d", "forward", "later", ""]
    )
    # Binomial, 2000 draws at 1/4: mean 500, standard deviation 19.4.
    assert set(times) == set(range(1, 21))
    assert all(abs(count - 500) < 5 * 19.4 for count in times.values())


def test_no_more_rows_than_asked_for_are_held_of_a_stratum():
    class Values:
        """A row's values, which can be referred to weakly."""

    alive, most = weakref.WeakSet(), []

    def many():
        for number in range(500):
            values = Values()
            alive.add(values)
            yield Stratum("d", "forward", "later", ""), Row("d", number, values)
            del values
            most.append(len(alive))

    drawn, counts = draw(many(), 8, 0)
    assert counts.total() == 500
    assert sum(map(len, drawn.values())) == 8
    assert max(most) <= 9  # those kept, and the one that draw looks at


def test_same_seed_gives_the_same_bytes_and_another_seed_other_rows(sound, tmp_path):
    pages = []
    for seed in (3, 3, 4):
        show("toy", sound, tmp_path / "page.html", rows=10, seed=seed)
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1]
    assert Page(pages[0].decode()).cards != Page(pages[2].decode()).cards


def test_default_sheet_shows_both_datasets_orders_and_every_phase(sound):
    page = sheet(sound)
    phases = {pair.phase for pair in read_pairs(sound, "toy", "train")}
    assert len(page.cards) == 48
    for kind in ("toy_cot", "toy_weak", "forward", "backward", *phases):
        assert any(kind in card for card in page.cards), kind
    assert "Too few rows" not in page.header
    assert "Too few rows to show" in sheet(sound, rows=1).header


# ---- what damaged or hostile data does ----


def test_markup_in_data_is_shown_and_not_obeyed(registry):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;'\"</article>"

    def poison(rows):
        for row in rows:
            row["messages"][0]["content"] += evil
            row["messages"][1]["content"] = f"img1: {evil}\n{evil}"
            row["pair_id"] += evil
            row["images"][0] = f"{evil}\"'.png"

    edit(registry, poison)
    edit_pairs(registry, lambda row: row.update(task=evil, phase=evil, pair_id=row["pair_id"] + evil))
    manifest = json.loads((registry / "toy" / "manifest.json").read_text())
    manifest["counts"]["excluded"] = {evil: 1}
    manifest["excluded"] = [{"what": evil, "where": evil, "reason": evil}]
    (registry / "toy" / "manifest.json").write_text(json.dumps(manifest))
    page = sheet(registry, "toy_cot")
    assert page.tags["script"] == 0
    assert page.wild == []
    assert evil in page.header
    assert all(card.count(evil) >= 5 for card in page.cards)


def test_text_that_no_file_can_hold_is_escaped(registry):
    edit(registry, lambda rows: rows[0]["messages"][0].update(content="half a pair: \ud83d"))
    assert any("half a pair: \\ud83d" in card for card in sheet(registry, "toy_cot", rows=1000).cards)


def test_picture_that_cannot_be_read_shows_its_error(registry):
    for path in sorted(registry.glob("toy/frames-*/*.tar")):
        path.write_bytes(path.read_bytes()[:700])
    page = sheet(registry, rows=6)
    assert page.pictures == []
    assert all("it was cut" in card or "cannot be decoded" in card for card in page.cards)


def test_picture_outside_the_registry_is_not_shown(registry):
    (registry.parent / "secret.png").write_bytes(b"secret")
    edit(registry, lambda rows: [row.update(images=["../secret.png"] * 2) for row in rows])
    page = sheet(registry, "toy_cot", rows=2)
    assert page.pictures == []
    assert all("leaves its folder" in card for card in page.cards)
    assert all("not those of the pair" in card for card in page.cards)


def test_build_without_pictures_says_so(tmp_path):
    page = sheet(make(tmp_path, frames={"format": "none"}), rows=4)
    assert all(card.count("no picture was built (frames.format: none)") == 2 for card in page.cards)


def test_row_that_contradicts_its_pair_is_marked(registry):
    other = {"img1": "img2", "img2": "img1"}

    def flip(rows):
        rows[0]["answer"] = other[rows[0]["answer"]]
        rows[1]["messages"][1]["content"] = "closer to completion: img3"
        rows[2]["pair_id"] = "nowhere:1-2"

    edit(registry, flip)
    cards = sheet(registry, "toy_cot", rows=1000).cards
    marked = {re.search(r"toy_cot, row (\d+)", card)[1]: card for card in cards if "pair says" in card}
    assert list(marked) == ["1"]
    ended = [card for card in cards if "the target does not end with" in card]
    assert [re.search(r"toy_cot, row (\d+)", card)[1] for card in ended] == ["2"]
    assert sum("pair nowhere:1-2 is not among the build's pairs" in card for card in cards) == 1


@pytest.mark.parametrize("row", [17, None, [], {}, {"messages": []}, {"messages": [1, 2], "order": ["forward"]}])
def test_row_with_an_unexpected_format_is_shown_as_stored(registry, row):
    edit(registry, lambda rows: rows.insert(0, row))
    cards = sheet(registry, "toy_cot", rows=1000).cards
    (broken,) = (card for card in cards if "not a row of a dataset" in card)
    assert json.dumps(row) in broken
    assert "toy_cot, row 1" in broken


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "toi"}, "no build or dataset 'toi'; did you mean 'toy'?"),
        ({"split": "holdout"}, "no split 'holdout'; did you mean 'heldout'?"),
        ({"name": "toy_cot", "split": "heldout"}, "toy_cot: is drawn from split 'train'"),
        ({"rows": 0}, "rows: 0 is less than 1; set it to 1 or more"),
    ],
)
def test_unknown_names_are_refused_and_nothing_is_written(sound, tmp_path, options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        show(options.pop("name", "toy"), sound, tmp_path / "page.html", **options)
    assert list(tmp_path.iterdir()) == []


# ---- the command ----


def test_command_writes_under_runs_and_says_where(sound, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, file in ((["toy_weak"], "toy_weak"), (["toy", "--split", "heldout"], "toy-heldout")):
        assert main(["data", "show", *arguments, "--rows", "5", "--registry", str(sound)]) == 0
        assert capsys.readouterr().out.startswith(f"sheet: runs/show/{file}.html, 5 of ")
        assert len(Page((tmp_path / "runs" / "show" / f"{file}.html").read_text(encoding="utf-8")).cards) == 5
    assert main(["data", "show", "toy", "--rows", "0", "--registry", str(sound)]) == 1
    assert capsys.readouterr().err.startswith("stcr: rows: 0")
