"""Training sets of groups: drawn, balanced, true, resumable, and everything that reads a build reads them."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict

import pytest

from stcr_plugin import artefacts
from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.authors_rows import export
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.data_config import config_digest
from stcr_plugin.registry.manifest import RowCounts, dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.overlap import overlap, side
from stcr_plugin.report.check_words import build_text
from stcr_plugin.report.contact_sheet import show
from stcr_plugin.samples.cot import details_of, load_phrases
from stcr_plugin.samples.group_texts import fill_group, group_paraphrases
from stcr_plugin.scoring.parsing import parse, parse_order

NAMES = ("img1", "img2", "img3", "img4")
CONFIG = {
    "name": "toy",
    "source": {"kind": "tabletop", "seen": 6, "heldout": 2, "size": 28},
    "frames": {"width": 28, "height": 28},
    "splits": {"train": {"episodes": 5, "group": "seen"}, "heldout": {"episodes": 2, "group": "heldout"}},
    "pairs": {"per_episode": 8, "min_seconds": 0.5},
    "shard_episodes": 2,
    "datasets": {
        "weak": {"split": "train", "kind": "weak"},
        "three": {"split": "train", "kind": "group"},
        "four": {
            "split": "train",
            "kind": "group",
            "languages": ["en", "zh"],
            "groups": {"pictures": 4, "ask": "order", "per_episode": 3, "target": "cot"},
        },
        "shards": {"split": "train", "kind": "group", "format": "parquet", "groups": {"target": "cot"}},
    },
}


def config(**changes):
    return from_mapping(DataConfig, CONFIG | changes, "test")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An unbroken build, not to be changed."""
    registry = tmp_path_factory.mktemp("registry")
    build(config(), registry)
    return registry


@pytest.fixture
def registry(built, tmp_path):
    """A build of one's own to damage."""
    return shutil.copytree(built, tmp_path / "registry")


def rows(registry, key):
    return list(dataset_rows(registry, f"toy_{key}"))


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frame_of(image):
    return int(image.rpartition("/")[2].partition(".")[0])


def test_manifest_counts_balanced_answers_and_rotations(built):
    counts = read_manifest(built, "toy").counts.datasets
    assert counts["toy_three"] == RowCounts(
        pairs=20,
        samples=60,
        answers={"img1": 20, "img2": 20, "img3": 20},
        orders={"rotation 1": 20, "rotation 2": 20, "rotation 3": 20},
        languages={"en": 60},
    )
    assert counts["toy_four"].answers == dict.fromkeys(NAMES, 15)
    assert counts["toy_four"].languages == {"en": 32, "zh": 28}
    assert "dataset toy_four: 60 samples of 15 groups\n" in build_text(read_manifest(built, "toy"))


@pytest.mark.parametrize(("key", "count"), [("three", 3), ("four", 4), ("shards", 3)])
def test_each_frame_of_a_group_is_once_in_each_position_and_rows_of_a_group_are_side_by_side(built, key, count):
    shown = defaultdict(set)
    listed = rows(built, key)
    for row in listed:
        shown[row["pair_id"]] |= set(enumerate(row["images"]))
        assert len(row["images"]) == len(set(row["images"])) == count
        assert row["messages"][0]["content"].startswith("<image>" * count)
    assert {len(pairs) for pairs in shown.values()} == {count**2}
    assert [row["pair_id"] for row in listed[::count]] == list(shown)


@pytest.mark.parametrize(("key", "language"), [("three", "en"), ("four", "zh"), ("four", "en")])
def test_target_names_the_order_of_time_and_the_question_is_one_of_training(built, key, language):
    for row in (row for row in rows(built, key) if row["language"] == language):
        names = NAMES[: len(row["images"])]
        by_time = sorted(names, key=lambda name, row=row: -frame_of(row["images"][int(name[3]) - 1]))
        target = row["messages"][1]["content"]
        if key == "three":
            assert target == f"closer to completion: {by_time[0]}"
            assert parse(target, names) == by_time[0]
        else:
            assert parse_order(target, names) == tuple(by_time)
        assert row["answer"] == by_time[0]
        variants = group_paraphrases(*(("closest", "direct") if key == "three" else ("order", "cot")), language)
        tasks = {pair.task for pair in read_pairs(built, "toy", "train") if pair.episode_id == row["episode_id"]}
        asked = {fill_group(text, task, len(names)) for text in variants for task in tasks}
        assert row["messages"][0]["content"].removeprefix("<image>" * len(names)) in asked


def test_every_claim_of_a_text_holds_for_the_recorded_state_of_its_picture(built):
    source = open_source(config().source, config().seed)
    states = {episode.episode_id: source.states(episode) for episode in source.episodes()}
    phrases = load_phrases("tabletop")
    checked = 0
    for key in ("four", "shards"):
        for row in rows(built, key):
            texts = details_of(row["messages"][1]["content"], len(row["images"]))
            for image, text in zip(row["images"], texts, strict=True):
                for claim in phrases[row["language"]].read(text):
                    assert source.holds(claim, states[row["episode_id"]][frame_of(image)])
                    checked += 1
    assert checked == read_manifest(built, "toy").claims_checked > 1000


def test_sharded_rows_are_the_groups_of_one_file(built, tmp_path):
    values = CONFIG["datasets"]["shards"] | {"format": "json"}
    build(config(datasets={"shards": values}), tmp_path)

    def shown(registry):
        return {(row["pair_id"], row["order"], row["messages"][1]["content"]) for row in rows(registry, "shards")}

    assert len(read_manifest(built, "toy").datasets["toy_shards"]) == 3
    assert shown(built) == shown(tmp_path)


def test_same_seed_gives_the_same_bytes_and_a_killed_build_goes_on_to_them(built, tmp_path, monkeypatch):
    write_json, done = artefacts.write_json, []

    def dies(path, value):
        write_json(path, value)
        if "-sample-" in path.name:
            done.append(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            build(config(), tmp_path)
    assert len(done) == 1
    build(config(), tmp_path)
    assert tree(tmp_path) == tree(built)


def test_other_datasets_of_a_build_do_not_change_with_groups_beside_them(built, tmp_path):
    build(config(datasets={"weak": CONFIG["datasets"]["weak"]}), tmp_path)
    alone, beside = tree(tmp_path), tree(built)
    same = {file for file in alone if "manifest" not in file and "dataset_info" not in file}
    assert len(same) > 50
    assert {file: beside[file] for file in same} == {file: alone[file] for file in same}


def test_question_texts_of_groups_decide_only_builds_that_have_some(monkeypatch, tmp_path):
    from stcr_plugin.registry import data_config

    plain = config(datasets={"weak": CONFIG["datasets"]["weak"]})
    before = config_digest(plain), config_digest(config())
    changed = tmp_path / "groups.yaml"
    changed.write_text("other texts")
    monkeypatch.setattr(data_config, "GROUPS_FILE", changed)
    assert config_digest(plain) == before[0]
    assert config_digest(config()) != before[1]


def test_progress_orders_groups_where_it_labels_pairs(tmp_path, monkeypatch):
    from stcr_plugin.episodes.tabletop import TabletopSource

    states = TabletopSource.states

    def backwards(source, episode):
        return [{**state, "progress": -float(at)} for at, state in enumerate(states(source, episode))]

    monkeypatch.setattr(TabletopSource, "states", backwards)
    datasets = {"three": CONFIG["datasets"]["three"]}
    build(config(pairs=CONFIG["pairs"] | {"label": "progress"}, datasets=datasets), tmp_path)
    for row in rows(tmp_path, "three"):
        frames = [frame_of(image) for image in row["images"]]
        assert row["answer"] == f"img{frames.index(min(frames)) + 1}"
    assert check("toy", tmp_path).ok


def test_frames_of_unknown_progress_are_in_no_group(tmp_path, monkeypatch):
    from stcr_plugin.episodes.tabletop import TabletopSource

    states = TabletopSource.states

    def half(source, episode):
        told = states(source, episode)
        return [{**state, "progress": float(at) if at % 2 else None} for at, state in enumerate(told)]

    monkeypatch.setattr(TabletopSource, "states", half)
    pairs = {"per_episode": 12, "min_seconds": 0.3, "label": "progress"}
    build(config(pairs=pairs, datasets={"three": CONFIG["datasets"]["three"]}), tmp_path)
    assert {frame_of(image) % 2 for row in rows(tmp_path, "three") for image in row["images"]} == {1}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"pairs": 5}, "set groups.per_episode"),
        ({"orders": "forward"}, "remove pairs, orders"),
        ({"curriculum": {"bins": 2}}, "remove pairs, orders, curriculum"),
        ({"groups": {"pictures": 9}}, "pictures must be 3 to 8"),
        ({"groups": {"rotations": 3}}, "training shows every rotation"),
        ({"kind": "weak", "groups": {"pictures": 3}}, "`groups` is for kind: group"),
    ],
)
def test_a_rule_that_groups_cannot_follow_is_refused_with_its_fix(rule, says):
    with pytest.raises(ConfigError, match=says):
        config(datasets={"three": {"split": "train", "kind": "group"} | rule})


def test_described_groups_of_published_pairs_are_refused(tmp_path):
    source = {"kind": "spatiallogic", "file": "rows.json", "root": str(tmp_path)}
    rule = {"split": "train", "kind": "group", "groups": {"target": "cot"}}
    with pytest.raises(ConfigError, match=r"set groups\.target: weak"):
        config(source=source, pairs={}, splits={"train": {"fraction": 1.0}}, datasets={"three": rule})


def test_a_dataset_without_a_group_says_what_to_change(tmp_path):
    rule = {"split": "train", "kind": "group", "groups": {"pictures": 8}}
    pairs = {"per_episode": 8, "min_seconds": 3.0}
    with pytest.raises(DataError, match="not one sample is left; ask for fewer pictures in groups"):
        build(config(pairs=pairs, datasets={"eight": rule}), tmp_path)


# ---- what reads them ----


def test_sound_groups_have_no_problem(built):
    report = check("toy", built)
    assert report.problems == ()
    assert report.rows == 80 + 60 + 60 + 60


def edit(registry, key, change):
    path = registry / "toy" / f"toy_{key}.json"
    listed = json.loads(path.read_text(encoding="utf-8"))
    change(listed)
    path.write_text(json.dumps(listed), encoding="utf-8")


def ask_heldout(row):
    question = row["messages"][0]["content"]
    task = question.partition("put the ")[2].partition(" pad")[0]
    asked = fill_group(group_paraphrases("order", "cot", row["language"], part="heldout")[0], f"put the {task} pad", 4)
    row["messages"][0]["content"] = "<image>" * 4 + asked


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.update(answer="img9"), "the answer is 'img9' where"),
        (lambda row: row["images"].reverse(), "a frame twice in one position"),
        (lambda row: row["images"].reverse(), "the target does not end with"),
        (lambda row: row["messages"][1].update(content="closer to completion: img1"), "does not describe each"),
        (lambda row: row.update(pair_id=row["pair_id"] + "-99999"), "has frames that no pair of the build shows"),
        (lambda row: row.update(pair_id="nothing"), "is not the id of a group"),
        (lambda row: row.update(kind="weak"), "kind 'weak' or language"),
        (lambda row: row["images"].pop(), "has 4 <image> for 3 pictures"),
        (ask_heldout, "held-out paraphrase"),
        (lambda row: row.pop("language"), "does not have the form of a row"),
    ],
)
def test_a_damaged_row_is_named(registry, change, says):
    edit(registry, "four", lambda listed: change(listed[5]))
    problems = [f"{one.where}: {one.what}" for one in check("toy", registry).problems]
    assert any("toy_four.json, row 6" in one and says in one for one in problems), problems


def test_a_group_in_the_wrong_order_contradicts_the_pairs(registry):
    def turn(listed):
        episode, _, frames = listed[0]["pair_id"].partition(":")
        for row in (row for row in listed if row["pair_id"] == f"{episode}:{frames}"):
            row["pair_id"] = f"{episode}:{'-'.join(frames.split('-')[::-1])}"

    edit(registry, "three", turn)
    problems = [one.what for one in check("toy", registry).problems]
    assert any("the target does not end with" in one for one in problems)


def test_a_missing_rotation_is_found(registry):
    edit(registry, "three", lambda listed: listed.pop(4))
    problems = [one.what for one in check("toy", registry).problems]
    assert any("does not show each of its frames once in each position" in one for one in problems)


def test_contact_sheet_shows_groups_and_their_faults(registry, tmp_path):
    edit(registry, "three", lambda listed: [row["images"].reverse() for row in listed])
    sheet = show("toy", registry, tmp_path / "sheet.html", rows=60)
    page = sheet.path.read_text(encoding="utf-8")
    assert sheet.rows == 80 + 60 + 60 + 60
    assert "rotation 4" in page
    assert "is closest" in page
    assert "img4 frame " in page
    assert "the target does not end with" in page
    assert "is not among the build" not in page
    assert "not a row of a dataset" not in page


def test_overlap_knows_the_tasks_pictures_and_questions_of_groups(built):
    shown = {image for row in rows(built, "three") for image in row["images"]}
    found = side("toy_three", built)
    assert len(found.frames) == len(shown)
    assert all("{task}" in question for question in found.questions)
    assert found.tasks <= {pair.task for pair in read_pairs(built, "toy", "train")}
    assert overlap("toy_three", "toy:heldout", built).episodes.shared == 0
    assert overlap("toy_three", "toy:train", built).pictures.shared == len(set(found.sums.tolist()))


def test_authors_json_has_all_pictures_and_their_csv_is_refused(built, tmp_path):
    export("toy_four", built, tmp_path / "rows.json", "json")
    written = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    for own, row in zip(written, rows(built, "four"), strict=True):
        *images, text = own["messages"][0]["content"]
        assert [one["image"] for one in images] == row["images"]
        assert [one["image_id"] for one in images] == list(NAMES)
        assert text["text"] == row["messages"][0]["content"].removeprefix("<image>" * 4)
        details, answer = own["target"]["spatial details"], own["target"]["closer to completion"]
        assert f"spatial details: {details}\ncloser to completion: {answer}" == row["messages"][1]["content"]
    with pytest.raises(ConfigError, match="export it with --format json"):
        export("toy_three", built, tmp_path / "rows.csv", "csv")


def test_commands_build_check_and_show_groups(tmp_path, capsys):
    registry, data = tmp_path / "registry", tmp_path / "data.yaml"
    data.write_text(json.dumps({**CONFIG, "datasets": {"weak": CONFIG["datasets"]["weak"]}}), encoding="utf-8")
    more = ["datasets.five={split: train, kind: group, groups: {pictures: 5, ask: order, per_episode: 2}}"]
    assert main(["data", "build", str(data), *more, "--registry", str(registry), "--workers", "1"]) == 0
    assert "dataset toy_five: 50 samples of 10 groups" in capsys.readouterr().out
    assert main(["data", "check", "toy_five", "--registry", str(registry)]) == 0
    out = tmp_path / "sheet.html"
    assert main(["data", "show", "toy_five", "--registry", str(registry), "--out", str(out)]) == 0
    assert Counter(row["answer"] for row in dataset_rows(registry, "toy_five")) == Counter(
        {f"img{place}": 10 for place in range(1, 6)}
    )
