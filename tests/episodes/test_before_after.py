"""Pairs BEFORE and AFTER keep their label and the order in which they were published."""

import benchmark_files as made
import pytest
from benchmark_files import TASK, eight, hop

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.before_after import BeforeAfterConfig
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, Exclusion, GivenPair, PairSource

NAME = "images/episode_000"
SOUND = hop(eight(NAME, 0, 7), "+70%")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    made.before_after(folder, recordings=2)
    return folder


def open_file(file, root, **settings):
    return open_source(from_mapping(BeforeAfterConfig, {"file": str(file), "root": str(root), **settings}, "test"))


@pytest.fixture
def read(tmp_path, root):
    """Write these rows and read them back: the source, its episodes with their pairs, and its exclusions."""

    def use(rows, **settings):
        source = open_file(made.write_json(tmp_path / "rows.json", rows), root, **settings)
        found = list(source.episodes())
        episodes = [one for one in found if isinstance(one, Episode)]
        pairs = [list(source.given_pairs(one)) for one in episodes]
        return source, episodes, pairs, [one for one in found if isinstance(one, Exclusion)]

    return use


def test_a_recording_is_an_episode_and_its_rows_are_pairs_as_published(root):
    source = open_file(root / "pairs.json", root)
    assert isinstance(source, PairSource)
    episodes = list(source.episodes())
    assert [(one.task, one.n_frames) for one in episodes] == [(TASK, 5)] * 2
    assert list(source.given_pairs(episodes[1])) == [
        GivenPair(1, 3, TASK, "later", ("forward",)),
        GivenPair(2, 4, TASK, "later", ("backward",)),
        GivenPair(0, 1, TASK, "neither", ("forward",)),
    ]
    assert [made.seen(one) for one in source.frames(episodes[1], [1, 3])] == [(2, 1), (7, 1)]


@pytest.mark.parametrize(
    ("shown", "change", "closer", "orders"),
    [
        ((2, 7), "+1%", "later", ("forward",)),
        ((2, 7), "-1%", "earlier", ("forward",)),
        ((7, 2), "+33.5%", "earlier", ("backward",)),
        ((7, 2), "-100%", "later", ("backward",)),
    ],
)
def test_label_and_order_stay_as_published_even_against_time(read, shown, change, closer, orders):
    _, _, pairs, _ = read([hop(eight(NAME, *shown), change)])
    assert pairs == [[GivenPair(0, 1, TASK, closer, orders)]]


def test_a_row_and_its_swap_are_one_pair(read):
    _, _, pairs, excluded = read([hop(eight(NAME, 2, 7), "+50%"), hop(eight(NAME, 7, 2), "-40%")])
    assert pairs == [[GivenPair(0, 1, TASK, "later", ("forward", "backward"))]]
    assert excluded == []


def test_rows_that_contradict_each_other_are_not_used(read):
    _, _, pairs, excluded = read([SOUND, hop(eight(NAME, 2, 7), "+50%"), hop(eight(NAME, 7, 2), "+40%")])
    assert [len(one) for one in pairs] == [1]
    assert [one.reason for one in excluded] == ["rows of the same pair contradict each other"] * 2


def test_a_camera_of_three_is_shown(read):
    paths = [path if place in (0, 1, 4, 7) else "none.jpg" for place, path in enumerate(eight(NAME, 2, 7))]
    rows = [hop(paths, "+5%")]
    source, (episode,), _, _ = read(rows, camera="right_wrist")
    assert [made.seen(one) for one in source.frames(episode, [0, 1])] == [(2, 0), (7, 0)]
    with pytest.raises(DataError, match=r"rows.json, row 1, none.jpg: its image is not a file"):
        read(rows)


def test_two_paths_and_a_named_label_are_read_and_each_pair_is_an_episode(tmp_path, root):
    for number, name in enumerate(("x_after", "x_before", "y_before")):
        made.picture(tmp_path / f"{name}.png", number)
    rows = [
        {"task": TASK, "images": ["x_before.png", "x_after.png"], "hop": "+12%"},
        {"task": TASK, "images": ["y_before.png", "x_after.png"], "hop": "-3%"},
    ]
    file = made.write_lines(tmp_path / "rows.jsonl", rows)
    source = open_file(file, tmp_path, images="images", label="hop")
    episodes = list(source.episodes())
    # Their names have no number, so BEFORE is the first frame, and what was published is forward.
    assert [list(source.given_pairs(one)) for one in episodes] == [
        [GivenPair(0, 1, TASK, "later", ("forward",))],
        [GivenPair(0, 1, TASK, "earlier", ("forward",))],
    ]
    assert [made.seen(one)[0] for one in source.frames(episodes[0], [0, 1])] == [1, 0]


def test_a_file_that_does_not_say_where_the_change_is_stops_with_its_fields(tmp_path, root):
    row = {key: value for key, value in SOUND.items() if key != "conversations"} | {"hop": 12, "hop_bin": "small"}
    file = made.write_json(tmp_path / "rows.json", [row])
    fields = r"row 1: no field 'conversations'.*set source.label to one of id, task, image, hop"
    with pytest.raises(DataError, match=fields):
        list(open_file(file, root).episodes())


def without(name):
    return {key: value for key, value in SOUND.items() if key != name}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (without("task"), "it has no field 'task'"),
        (without("image"), "it has no field 'image'"),
        (without("conversations"), "it has no field 'conversations'"),
        ({**SOUND, "image": "a.png"}, "its image is not a list with entries"),
        ({**SOUND, "image": SOUND["image"][:5]}, "its image has neither two nor eight paths"),
        ({**SOUND, "image": [*SOUND["image"][:5], 3, *SOUND["image"][6:]]}, "its image is not a path"),
        ({**SOUND, "image": ["../x.jpg", *SOUND["image"][1:]]}, "its image is a path that leaves source.root"),
        (hop(eight(NAME, 2, 2), "+5%"), "its image has the same picture as BEFORE and as AFTER"),
        (hop(eight(NAME, 2, 7), "+150%"), "its conversations is not from -100 % to 100 %"),
        (hop(eight(NAME, 2, 7), "better"), 'its conversations is not a percentage such as "8%"'),
        ({**SOUND, "conversations": []}, 'its conversations is not a percentage such as "8%"'),
        (SOUND, "the same pair in the same order as row 1"),
        ("text", "not a JSON object, {...}"),
    ],
)
def test_what_cannot_be_used_names_the_file_the_row_and_the_field(read, row, reason):
    _, episodes, _, excluded = read([SOUND, row])
    assert len(episodes) == 1
    assert [one.reason for one in excluded] == [reason]
    assert "rows.json, row 2" in excluded[0].where
