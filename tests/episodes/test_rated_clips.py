"""Rated clips: the last frames of the clips of one task are compared where their ratings differ."""

import benchmark_files as made
import lerobot_dataset
import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.rated_clips import RatedClipsConfig
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion, Omission

TASK = "Put block 0 into the box."


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made.rated_clips(folder, tasks=2)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


def open_file(file, **settings):
    return open_source(from_mapping(RatedClipsConfig, {"file": str(file), **settings}, "test"))


@pytest.fixture
def read(tmp_path, root):
    """Write these rows and read them back: the source, its episodes and its exclusions."""

    def use(rows, **settings):
        source = open_file(made.write_lines(tmp_path / "metadata.jsonl", rows), root=str(root), **settings)
        found = list(source.episodes())
        return (
            source,
            [one for one in found if isinstance(one, Episode)],
            [one for one in found if isinstance(one, Exclusion)],
        )

    return use


def row(place, reward, task=TASK, **more):
    return {"file_name": f"droid/0-{place}.mp4", "task": task, "reward": reward} | more


SOUND = [row(0, 1), row(1, 5)]


def test_a_task_is_an_episode_of_last_frames_in_the_order_of_the_clips_lengths(root):
    source = open_file(root / "metadata.jsonl")
    episodes = list(source.episodes())
    assert [(one.task, one.n_frames) for one in episodes] == [(TASK, 4), ("Put block 1 into the box.", 4)]
    assert [state["progress"] for state in source.states(episodes[0])] == [0, 0.5, 1, 0.5]
    assert [lerobot_dataset.number(one)[1] for one in source.frames(episodes[0], [0, 3])] == [3, 11]


def test_clips_of_other_ratings_are_pairs_and_those_of_the_same_are_ties(root):
    source = open_file(root / "metadata.jsonl")
    episode = next(iter(source.episodes()))
    found = {(one.earlier, one.later): one.closer for one in source.given_pairs(episode)}
    assert found == {
        (0, 1): "later",
        (0, 2): "later",
        (0, 3): "later",
        (1, 2): "later",
        (1, 3): "neither",
        (2, 3): "earlier",
    }


def test_pairs_of_a_task_are_at_most_so_many_and_the_same_each_time(root):
    drawn = [
        [one for one in source.given_pairs(next(iter(source.episodes()))) if one.closer != "neither"]
        for source in (open_file(root / "metadata.jsonl", per_task=2) for _ in range(2))
    ]
    assert len(drawn[0]) == 2
    assert drawn[0] == drawn[1]


def test_one_clip_may_have_other_ratings_for_other_tasks(read):
    source, episodes, excluded = read([*SOUND, row(0, 5, task="Leave it."), row(1, 2, task="Leave it.")])
    assert [[state["progress"] for state in source.states(one)] for one in episodes] == [[0, 1], [1, 0.25]]
    assert excluded == []


def test_tasks_without_two_ratings_are_counted_and_stop_no_build(read):
    _, episodes, excluded = read([*SOUND, row(2, 4, task="Alone."), row(2, 3, task="Same."), row(3, 3, task="Same.")])
    assert len(episodes) == 1
    assert [type(one) for one in excluded] == [Omission] * 2
    assert excluded[0].where.endswith("metadata.jsonl, row 3")


def test_rows_that_rate_one_clip_differently_are_not_used(read):
    _, episodes, excluded = read([*SOUND, row(2, 1), row(2, 4)])
    assert episodes[0].n_frames == 2
    assert [one.reason for one in excluded] == ["its reward contradicts another row of the same clip"] * 2


@pytest.mark.parametrize(
    ("name", "values", "shares"),
    [
        ("partial_success", ("0.0", 0.75), [0, 0.75]),
        ("quality_label", ("failure", "successful"), [0, 1]),
        ("quality_label", ("suboptimal", "success"), [0.5, 1]),
    ],
)
def test_rows_of_rbm_are_read_by_the_field_that_they_have(read, name, values, shares):
    rows = [{"file_name": f"droid/0-{place}.mp4", "task": TASK, name: value} for place, value in enumerate(values)]
    source, (episode,), _ = read(rows)
    assert [state["progress"] for state in source.states(episode)] == shares


def test_parquet_is_read_too(tmp_path, root):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(SOUND), tmp_path / "metadata.parquet")
    assert len(list(open_file(tmp_path / "metadata.parquet", root=str(root)).episodes())) == 1


def test_which_of_two_ratings_counts_must_be_said(read):
    both = [row(place, reward, quality_label="failure") for place, reward in ((0, 1), (1, 5))]
    with pytest.raises(DataError, match=r"has reward and quality_label; set source.rating to the field"):
        read(both)
    assert len(read(both, rating="reward")[1]) == 1


def test_a_file_without_any_rating_is_refused(read):
    with pytest.raises(DataError, match=r"has no field reward, partial_success, quality_label"):
        read([{"file_name": "a.mp4", "task": TASK, "score": 3}])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"file_name": 3}, "its file_name is not a path"),
        ({"file_name": "../a.mp4"}, "its file_name is a path that leaves source.root"),
        ({"file_name": "none.mp4"}, "its file_name is not a file under source.root"),
        ({"file_name": "broken.mp4"}, "its file_name is a video that cannot be read"),
        ({"task": ["a", "b"]}, "its task is not text"),
        ({"reward": 6}, "its reward is not a whole number from 1 to 5"),
        ({"reward": 2.5}, "its reward is not a whole number from 1 to 5"),
        ({"reward": "good"}, "its reward is not a whole number from 1 to 5"),
        ({"reward": None}, "its reward is empty"),
    ],
)
def test_what_cannot_be_used_names_the_file_the_row_and_the_field(read, more, reason):
    _, episodes, excluded = read([*SOUND, row(2, 3) | more])
    assert len(episodes) == 1
    assert len(excluded) == 1
    assert excluded[0].reason.startswith(reason)
    assert "metadata.jsonl, row 3" in excluded[0].where


def test_an_unknown_label_is_named(read):
    rows = [
        {"file_name": f"droid/0-{place}.mp4", "task": TASK, "quality_label": label}
        for place, label in enumerate(("failure", "successful", "fine"))
    ]
    _, _, excluded = read(rows)
    assert excluded[0].where.endswith("row 3, 'fine'")
    assert excluded[0].reason == "its quality_label is not failure, suboptimal or successful"


def test_no_pairs_are_refused(root):
    with pytest.raises(ConfigError, match="`per_task` must be at least 1"):
        open_file(root / "metadata.jsonl", per_task=0)
