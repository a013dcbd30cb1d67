import json
import os
import re

import pytest
import spatiallogic_files as made
from spatiallogic_files import OTHER, PLACE, RETRIEVE, cot, path, row, weak

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.spatiallogic import SpatialLogicConfig, SpatialLogicSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion, GivenPair, PairSource

TASK = "Place the held corn into the bag."
SOUND = row(path(OTHER, 0), path(OTHER, 1), weak("img2"))  # keeps a file usable whose other rows are broken


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures that no test changes."""
    return made.write_clips(tmp_path_factory.mktemp("clips") / "clips")


def open_file(file, root, **settings):
    return open_source(from_mapping(SpatialLogicConfig, {"file": str(file), "root": str(root), **settings}, "test"))


@pytest.fixture
def read(tmp_path, root):
    """Write these JSON rows, and read them back: pairs by the folder of their episode, and the exclusions."""

    def use(rows, root=root, **settings):
        source = open_file(made.write_json(tmp_path / "rows.json", rows), root, **settings)
        found = list(source.episodes())
        episodes = [item for item in found if isinstance(item, Episode)]
        pairs = {os.path.dirname(source.picture_path(e, 0)): list(source.given_pairs(e)) for e in episodes}
        return pairs, [item for item in found if isinstance(item, Exclusion)]

    return use


def reasons(excluded):
    return [item.reason for item in excluded]


# ---- rows to pairs ----


def test_a_row_and_its_swap_are_one_pair_in_both_orders(read):
    rows = [
        row(path(PLACE, 2), path(PLACE, 7), cot("corn in hand.", "corn in bag.", "img2")),
        row(path(PLACE, 7), path(PLACE, 2), cot("corn in bag.", "corn in hand.", "img1")),
    ]
    pairs, excluded = read(rows)
    descriptions = ("corn in hand.", "corn in bag.")
    assert pairs == {PLACE: [GivenPair(2, 7, TASK, "later", ("forward", "backward"), descriptions)]}
    assert excluded == []


@pytest.mark.parametrize(
    ("shown", "label", "closer", "orders"),
    [
        ((2, 7), "img2", "later", ("forward",)),
        ((2, 7), "img1", "earlier", ("forward",)),
        ((7, 2), "img1", "later", ("backward",)),
        ((7, 2), "img2", "earlier", ("backward",)),
    ],
)
def test_label_and_order_stay_as_published_even_against_frame_order(read, shown, label, closer, orders):
    one, two = (path(PLACE, frame) for frame in shown)
    pairs, _ = read([row(one, two, weak(label))])
    assert pairs == {PLACE: [GivenPair(2, 7, TASK, closer, orders)]}


def test_descriptions_of_a_backward_row_are_given_in_time_order(read):
    pairs, _ = read([row(path(PLACE, 7), path(PLACE, 2), cot("late", "early", "img1"))])
    assert pairs[PLACE][0].descriptions == ("early", "late")


def test_frames_are_counted_in_natural_order(read):
    # 9.png comes before 10.png, though not by the alphabet.
    pairs, _ = read([row(f"{RETRIEVE}/9.png", f"{RETRIEVE}/10.png", weak("img2"))])
    assert [(pair.earlier, pair.later, pair.closer) for pair in pairs[RETRIEVE]] == [(1, 2, "later")]


def test_pairs_keep_published_order_and_folders_are_in_natural_order(read):
    rows = [
        row(path(OTHER, 5), path(OTHER, 9), weak("img2")),
        row(path(PLACE, 5), path(PLACE, 9), weak("img2")),
        row(path(OTHER, 0), path(OTHER, 3), weak("img2")),
    ]
    pairs, _ = read(rows)
    assert list(pairs) == [PLACE, OTHER]
    assert [(pair.earlier, pair.later) for pair in pairs[OTHER]] == [(5, 9), (0, 3)]


def test_swapped_rows_with_other_labels_are_both_excluded(read):
    rows = [
        SOUND,
        row(path(PLACE, 2), path(PLACE, 7), weak("img2")),
        row(path(PLACE, 7), path(PLACE, 2), weak("img2")),
        row(path(PLACE, 2), path(PLACE, 9), weak("img2")),
    ]
    pairs, excluded = read(rows)
    assert [(pair.earlier, pair.later) for pair in pairs[PLACE]] == [(2, 9)]
    assert [item.where.partition(", ")[2] for item in excluded] == [f"row {n}, among rows 2 and 3" for n in (2, 3)]
    assert reasons(excluded) == ["rows of the same pair contradict each other"] * 2


def test_repeated_row_is_counted_once(read):
    one = row(path(PLACE, 2), path(PLACE, 7), weak("img2"))
    pairs, excluded = read([one, one])
    assert len(pairs[PLACE]) == 1
    assert reasons(excluded) == ["the same pair in the same order as row 1"]


def test_swapped_row_for_another_task_is_excluded(read):
    rows = [
        row(path(PLACE, 2), path(PLACE, 7), weak("img2")),
        row(path(PLACE, 7), path(PLACE, 2), weak("img1"), task="Wave"),
    ]
    pairs, excluded = read(rows)
    assert pairs[PLACE] == [GivenPair(2, 7, TASK, "later", ("forward",))]
    assert reasons(excluded) == ["the same pair as row 1, for another task"]


def test_second_description_of_a_pair_gives_way_and_is_counted(read):
    rows = [
        row(path(PLACE, 2), path(PLACE, 7), cot("early", "late", "img2")),
        row(path(PLACE, 7), path(PLACE, 2), cot("later still", "earlier still", "img1")),
    ]
    pairs, excluded = read(rows)
    assert pairs[PLACE] == [GivenPair(2, 7, TASK, descriptions=("early", "late"))]
    assert [(item.what, item.reason) for item in excluded] == [
        ("description", "not that of row 1, the swapped pair, which is used for both")
    ]


def test_tasks_of_one_folder_are_its_segments(tmp_path, root):
    rows = [
        row(path(PLACE, 0), path(PLACE, 1), weak("img2"), task="lift"),
        row(path(PLACE, 0), path(PLACE, 2), weak("img2"), task="place"),
        row(path(PLACE, 0), path(PLACE, 3), weak("img2"), task="lift"),
    ]
    source = open_file(made.write_json(tmp_path / "rows.json", rows), root, fps=2.0)
    (episode,) = source.episodes()
    assert [(s.task, s.start, s.end) for s in episode.segments] == [("lift", 0, 12), ("place", 0, 12)]
    assert (episode.n_frames, episode.fps, episode.group, episode.task) == (12, 2.0, "327", "lift; place")
    assert [pair.task for pair in source.given_pairs(episode)] == ["lift", "place", "lift"]


# ---- spellings ----


@pytest.mark.parametrize("spell", [str, made.underscored, made.backslashed, made.absolute])
def test_paths_are_found_in_every_spelling(read, spell):
    strip = ["testset/", "/apdcephfs/someone/data/clips"]
    rows = [row(spell(path(clip, 1)), spell(path(clip, 4)), weak("img2")) for clip in made.CLIPS]
    pairs, excluded = read(rows, strip=strip)
    assert excluded == []
    assert {clip: [(pair.earlier, pair.later) for pair in found] for clip, found in pairs.items()} == {
        clip: [(1, 4)] for clip in (PLACE, RETRIEVE, OTHER)
    }


def test_folder_stored_with_an_underscore_is_found_too(tmp_path, read):
    folder = made.write_clips(tmp_path / "clips")
    (folder / PLACE).rename(folder / (PLACE[:-1] + "_"))
    pairs, excluded = read([row(path(PLACE, 1), path(PLACE, 4), weak("img2"))], root=folder)
    assert (list(pairs), excluded) == ([PLACE[:-1] + "_"], [])


def test_two_spellings_of_a_folder_are_one_episode(read):
    rows = [
        row(path(PLACE, 1), path(PLACE, 4), weak("img2")),
        row(made.underscored(path(PLACE, 4)), f"327/../{path(PLACE, 1)}", weak("img1")),
    ]
    pairs, excluded = read(rows)
    assert (pairs, excluded) == ({PLACE: [GivenPair(1, 4, TASK)]}, [])


@pytest.mark.parametrize("question", sorted(made.QUESTIONS))
def test_task_is_found_in_every_published_question(read, question):
    pairs, _ = read([row(path(PLACE, 1), path(PLACE, 4), weak("img2"), question=question)])
    assert pairs[PLACE][0].task == TASK


def test_task_is_found_by_ones_own_pattern_and_else_given(read):
    rows = [
        row(path(PLACE, 1), path(PLACE, 4), weak("img2"), question="Goal <{task}>. Which?"),
        row(path(PLACE, 1), path(PLACE, 5), weak("img2"), question="Which?"),
    ]
    pairs, excluded = read(rows, task_pattern="<(.*)>", task="tidy up")
    assert [pair.task for pair in pairs[PLACE]] == [TASK, "tidy up"]
    pairs, excluded = read(rows, task_pattern="<(.*)>")
    assert [pair.task for pair in pairs[PLACE]] == [TASK]
    assert "no task text was found" in excluded[0].reason


@pytest.mark.parametrize(
    "target",
    [
        {"spatial details": "img1: one img2: two", "closer to completion": "img2"},
        {"spatial_details": " IMG1:one\n img2: two\n", "closer_to_completion": " IMG2 "},
        {"spatial details": {"img1": "one", "img2": "two"}, "closer to completion": "img2"},
        {"state_difference": {"img1": "one", "img2": "two"}, "analysis": "the second", "closer_to_completion": "img2"},
        {"analysis": "img1:one img2:two", "closer_to_completion": "img2", "closer to completion": "img2"},
    ],
)
def test_every_spelling_of_a_target_is_read(read, target):
    pairs, excluded = read([row(path(PLACE, 1), path(PLACE, 4), target)])
    assert excluded == []
    assert pairs[PLACE] == [GivenPair(1, 4, TASK, "later", ("forward",), ("one", "two"))]


@pytest.mark.parametrize(("target", "closer"), [("1", "earlier"), ("-1", "later"), (2, "later"), ("img1", "earlier")])
def test_a_bare_label_is_a_target_too(read, target, closer):
    pairs, _ = read([row(path(PLACE, 1), path(PLACE, 4), target)])
    assert [pair.closer for pair in pairs[PLACE]] == [closer]


def test_label_may_be_a_path(read):
    pairs, _ = read([row(path(PLACE, 1), path(PLACE, 4), weak(made.backslashed(path(PLACE, 1))))], strip="testset")
    assert [pair.closer for pair in pairs[PLACE]] == ["earlier"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_rows_are_pairs(tmp_path, root, encoding):
    rows = [
        {"video_path1": made.underscored(path(PLACE, 2)), "video_path2": path(PLACE, 7), "target": "img2"},
        {"video_path1": path(PLACE, 7), "video_path2": path(PLACE, 2), "target": "1"},
    ]
    texts = ("img1: corn, held\nimg2: corn in bag", "img1: corn in bag img2: corn, held")
    rows = [row | {"task_name": TASK, "spatial_details": text} for row, text in zip(rows, texts, strict=True)]
    source = open_file(made.write_csv(tmp_path / "gt.csv", rows, encoding), root)
    (episode,) = source.episodes()
    assert list(source.given_pairs(episode)) == [GivenPair(2, 7, TASK, descriptions=("corn, held", "corn in bag"))]


def test_csv_without_details_or_task_column_is_read(tmp_path, root):
    rows = [{"video_path1": path(PLACE, 2), "video_path2": path(PLACE, 7), "target": "img2"}]
    source = open_file(made.write_csv(tmp_path / "gt.csv", rows), root, task="place the corn")
    (episode,) = source.episodes()
    assert list(source.given_pairs(episode)) == [GivenPair(2, 7, "place the corn", orders=("forward",))]


# ---- broken rows ----

BROKEN = {
    "missing picture": (row(path(PLACE, 1), f"{PLACE}/99999.png", weak("img2")), "no such picture under source.root"),
    "missing folder": (row("nowhere/1.png", "nowhere/2.png", weak("img2")), "no such picture under source.root"),
    "not a picture": (row(f"{PLACE}/notes.txt", path(PLACE, 1), weak("img2")), "no such picture"),
    "path upwards": (row("../secret/1.png", path(PLACE, 1), weak("img2")), "a path that leaves source.root"),
    "absolute path": (row("/etc/1.png", path(PLACE, 1), weak("img2")), "a path that leaves source.root"),
    "path with a zero byte": (row("a\0b/1.png", path(PLACE, 1), weak("img2")), "a path that no system can follow"),
    "same picture twice": (row(path(PLACE, 1), path(PLACE, 1), weak("img2")), "the same picture"),
    "two folders": (row(path(PLACE, 1), path(OTHER, 1), weak("img2")), "are of two folders"),
    "wrong label": (row(path(PLACE, 1), path(PLACE, 2), weak("img3")), "its label names neither img1 nor img2 alone"),
    "both labels": (
        row(path(PLACE, 1), path(PLACE, 2), weak("img1 and img2")),
        "its label names neither img1 nor img2 alone",
    ),
    "no label": (row(path(PLACE, 1), path(PLACE, 2), {"spatial details": "img1: a img2: b"}), "it has no label"),
    "two labels": (
        row(path(PLACE, 1), path(PLACE, 2), {"closer to completion": "img1", "closer_to_completion": "img2"}),
        "it has two labels that disagree",
    ),
    "no target": ({"messages": SOUND["messages"]}, "it is not"),
    "no object": ("img1", "it is not"),
    "null": (None, "it is not"),
    "path is not text": (row(7, path(PLACE, 2), weak("img1")), "the path of an image is not text"),
    "description of one": (
        row(path(PLACE, 1), path(PLACE, 2), {"spatial details": "img1: a", "closer to completion": "img1"}),
        "cannot be split",
    ),
    "description of three": (row(path(PLACE, 1), path(PLACE, 2), cot("a", "b img1: c", "img1")), "cannot be split"),
    "empty description": (row(path(PLACE, 1), path(PLACE, 2), cot("", "b", "img1")), "cannot be split"),
    "analysis of both": (
        row(path(PLACE, 1), path(PLACE, 2), {"analysis": "img2 has more in the bag", "closer_to_completion": "img2"}),
        "cannot be split",
    ),
    "judgment inside": (
        row(path(PLACE, 1), path(PLACE, 2), cot("a", "b\ncloser to completion: img1", "img2")),
        "holds a judgment",
    ),
    "half a character": (row(path(PLACE, 1), path(PLACE, 2), cot("a\ud800", "b", "img2")), "is not UTF-8"),
}


def with_images(*images):
    changed = json.loads(json.dumps(SOUND))
    changed["messages"][0]["content"] = [
        *({"type": "image", "image": path(PLACE, frame), "image_id": image_id} for frame, image_id in images),
        {"type": "text", "text": "任务名称: x"},
    ]
    return changed


BROKEN |= {
    "one image": (with_images((1, "img1")), "shows 1 images"),
    "three images": (with_images((1, "img1"), (2, "img2"), (3, "img3")), "shows 3 images"),
    "images crossed": (with_images((1, "img2"), (2, "img1")), "not img1 and then img2"),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_row_is_excluded_by_number_and_the_rest_goes_on(tmp_path, root, case):
    broken, reason = BROKEN[case]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([SOUND, broken, row(path(PLACE, 3), path(PLACE, 9), weak("img2"))]))
    source = open_file(file, root)
    found = list(source.episodes())
    excluded = [item for item in found if isinstance(item, Exclusion)]
    (item,) = excluded
    assert item.what == "row"
    assert re.match(rf"{re.escape(str(file))}, row 2(, |$)", item.where)
    assert reason in item.reason
    pairs = [pair for item in found if isinstance(item, Episode) for pair in source.given_pairs(item)]
    assert [(pair.earlier, pair.later) for pair in pairs] == [(3, 9), (0, 1)]


def test_labels_alone_are_read_where_asked_for(read):
    pairs, excluded = read([BROKEN["analysis of both"][0]], descriptions=False)
    assert (pairs, excluded) == ({PLACE: [GivenPair(1, 2, TASK, "later", ("forward",))]}, [])


def test_link_that_leaves_the_root_is_refused_and_one_inside_is_followed(tmp_path, read):
    folder = made.write_clips(tmp_path / "clips")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "00001.png").write_bytes((folder / path(OTHER, 0)).read_bytes())
    (folder / "linked").symlink_to(secret)
    (folder / OTHER / "00050.png").symlink_to(secret / "00001.png")
    (folder / OTHER / "00051.png").symlink_to(folder / path(OTHER, 3))
    (folder / "alias").symlink_to(folder / PLACE)
    (folder / "loop").symlink_to(folder / "loop")
    rows = [
        row("linked/00001.png", path(OTHER, 1), weak("img2")),
        row(path(OTHER, 1), f"{OTHER}/00050.png", weak("img2")),
        row("loop/1.png", path(OTHER, 1), weak("img2")),
        row(path(OTHER, 1), f"{OTHER}/00051.png", weak("img2")),
        row(f"alias/{made.name(PLACE, 3)}", path(PLACE, 5), weak("img2")),
    ]
    pairs, excluded = read(rows, root=folder)
    assert [item.where.partition(", ")[2] for item in excluded] == [
        "row 1, linked/00001.png",
        f"row 2, {OTHER}/00050.png",
        "row 3, 'loop/1.png'",
    ]
    assert reasons(excluded) == ["a path that leaves source.root"] * 2 + ["a path that no system can follow"]
    assert {clip: [(pair.earlier, pair.later) for pair in found] for clip, found in pairs.items()} == {
        PLACE: [(3, 5)],
        OTHER: [(1, 12)],
    }


def test_csv_row_of_too_few_values_is_excluded(tmp_path, root):
    file = tmp_path / "gt.csv"
    good = f"{path(PLACE, 1)},{path(PLACE, 2)},x,img2"
    file.write_text(f"video_path1,video_path2,task_name,target\n{good}\n{path(PLACE, 1)},{path(PLACE, 3)}\n")
    source = open_file(file, root)
    excluded, episode = source.episodes()
    assert excluded == Exclusion(
        "row", f"{file}, row 3", "it has not one value per column; a text that holds a comma needs quotes"
    )
    assert len(source.given_pairs(episode)) == 1


def test_csv_row_that_is_not_utf8_spoils_itself_alone(tmp_path, root):
    file = tmp_path / "gt.csv"
    header = b"video_path1,video_path2,task_name,target\n"
    one, two = (f"{path(PLACE, 1)},{path(PLACE, later)},".encode() for later in (2, 3))
    file.write_bytes(header + one + "任务".encode("gbk") + b",img2\n" + two + b"x,img2\n")
    excluded, episode = open_file(file, root).episodes()
    assert ", row 2, " in excluded.where
    assert excluded.reason == "task_name is not UTF-8"
    assert episode.task == "x"


# ---- broken files ----


@pytest.mark.parametrize("share", [0.35, 0.55, 0.85, 0.99])
def test_json_cut_in_half_says_in_which_row(tmp_path, root, share):
    rows = [row(path(PLACE, 1), path(PLACE, later), weak("img2")) for later in range(2, 12)]
    text = json.dumps(rows, ensure_ascii=False)
    cut = text[: int(share * len(text))]
    number = cut.count('{"messages"')
    (tmp_path / "rows.json").write_text(cut)
    with pytest.raises(DataError, match=rf"rows.json, row {number}, line 1: not readable as JSON, the file ends there"):
        list(open_file(tmp_path / "rows.json", root).episodes())


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.json", "", "expected a list of rows"),
        ("a.json", "{}", "expected a list of rows"),
        ("a.json", "[] []", "the file is damaged"),
        ("a.json", "[" + "[" * 100000, "row 1"),
        ("a.json", "[]", "not one row can be used"),
        ("a.csv", "", "an empty file"),
        ("a.csv", "video_path1,target\n", "has no column video_path2; it has video_path1, target"),
        ("a.csv", "video_path1,video_path2,target\n", "not one row can be used"),
        ("a.csv", 'video_path1,video_path2,target\na,b,img1\n"a,b,img1\n', "row 3: not readable as CSV"),
    ],
)
def test_file_that_is_none_of_theirs_is_told_by_name(tmp_path, root, file, text, words):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        list(open_file(tmp_path / file, root).episodes())
    assert str(tmp_path / file) in str(caught.value)


def test_wrong_root_is_told_with_the_first_path(tmp_path, root):
    rows = [row(made.absolute(path(PLACE, 1)), made.absolute(path(PLACE, 2)), weak("img2"))]
    source = open_file(made.write_json(tmp_path / "rows.json", rows), root)
    with pytest.raises(DataError, match=r"not one row can be used; .*row 1, /apdcephfs.*source.root.*source.strip"):
        list(source.episodes())


def test_missing_file_and_root_are_reported(tmp_path, root):
    with pytest.raises(DataError, match=r"a.json: no such file"):
        open_file(tmp_path / "a.json", root)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"set source\.root"):
        open_file(tmp_path / "a.json", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "a.txt"}, "must end in .json or .csv"),
        ({"fps": 0}, "`fps` must be above 0"),
        ({"task_pattern": "("}, "is not a regular expression"),
        ({"task_pattern": "task"}, "must have one group"),
        ({"stripp": "/"}, "did you mean 'strip'"),
    ],
)
def test_wrong_setting_is_told(settings, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(SpatialLogicConfig, {"file": "a.json", "root": "."} | settings, "test")


# ---- pictures ----


@pytest.fixture
def source(tmp_path, root):
    rows = [row(path(clip, 1), path(clip, 9), weak("img2")) for clip in made.CLIPS]
    return open_file(made.write_json(tmp_path / "rows.json", rows), root)


def test_every_picture_is_the_one_asked_for(source):
    for clip, episode in zip((PLACE, RETRIEVE, OTHER), source.episodes(), strict=True):
        pictures = list(source.frames(episode, range(episode.n_frames)))
        assert [made.seen(picture) for picture in pictures] == [(clip, frame) for frame in range(made.FRAMES)]
        assert pictures[0].shape == (16, 24, 3)
        assert source.picture_path(episode, 4) == path(clip, 4)


def test_fresh_source_serves_an_episode_from_before(source, tmp_path, root):
    again = open_file(tmp_path / "rows.json", root)
    assert isinstance(again, PairSource)
    assert list(again.episodes()) == list(source.episodes())
    for episode in source.episodes():
        other = open_file(tmp_path / "rows.json", root)
        assert other.given_pairs(episode) == source.given_pairs(episode)
        assert made.seen(next(other.frames(episode, [5])))[1] == 5


def test_episode_ids_are_safe_and_distinct(tmp_path):
    names = ["a-b/c", "a/b-c", ".hidden", "Stück für Stück/那个", "x" * 200, "a b", "a'b"]
    rows = []
    folder = tmp_path / "clips"
    picture = (made.write_clips(tmp_path / "other") / path(PLACE, 0)).read_bytes()
    for clip in names:
        (folder / clip).mkdir(parents=True)
        for frame in "12":
            (folder / clip / f"{frame}.png").write_bytes(picture)
        rows.append(row(f"{clip}/1.png", f"{clip}/2.png", weak("img2")))
    rows.append(row("3.png", "4.png", weak("img2")))
    for frame in "34":
        (folder / f"{frame}.png").write_bytes(picture)
    ids = [episode.episode_id for episode in open_file(made.write_json(tmp_path / "a.json", rows), folder).episodes()]
    assert len(set(ids)) == len(names) + 1
    for episode_id in ids:
        assert not set(episode_id) & set(" /'\\")
        assert episode_id[0] not in "._"
        assert len(episode_id.encode()) < 255


def test_truncated_picture_is_named(tmp_path):
    folder = made.write_clips(tmp_path / "clips")
    rows = [row(path(OTHER, 1), path(OTHER, 9), weak("img2"))]
    source = open_file(made.write_json(tmp_path / "rows.json", rows), folder)
    (episode,) = source.episodes()
    broken = folder / path(OTHER, 9)
    broken.write_bytes(broken.read_bytes()[:-30])
    pictures = source.frames(episode, [1, 9])
    assert made.seen(next(pictures)) == (OTHER, 1)
    with pytest.raises(DataError, match=r"00009.png: cannot be decoded .*truncated"):
        next(pictures)


def test_picture_that_came_later_is_told(tmp_path):
    folder = made.write_clips(tmp_path / "clips")
    rows = [row(path(OTHER, 1), path(OTHER, 9), weak("img2"))]
    file = made.write_json(tmp_path / "rows.json", rows)
    (episode,) = open_file(file, folder).episodes()
    (folder / OTHER / "00030.png").write_bytes((folder / path(OTHER, 1)).read_bytes())
    with pytest.raises(DataError, match="13 pictures, 12 were listed"):
        next(open_file(file, folder).frames(episode, [1]))


def test_frames_out_of_order_and_episodes_of_others_are_refused(source):
    episode = next(source.episodes())
    for indices in ([3, 1], [1, 1], [-1], [12]):
        with pytest.raises(DataError, match="do not ascend"):
            list(source.frames(episode, indices))
    stranger = Episode("spatiallogic", "stranger", "x", 3.0, 12, episode.segments)
    with pytest.raises(DataError, match="has no episode 'stranger'"):
        source.given_pairs(stranger)


def test_nothing_is_claimed_of_a_frame(source):
    episode = next(source.episodes())
    assert isinstance(source, SpatialLogicSource)
    assert source.states(episode) is None
    assert source.claims({}) == ()
