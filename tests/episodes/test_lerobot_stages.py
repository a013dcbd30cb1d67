from __future__ import annotations

import json

import lerobot_dataset as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_dataset import CAMERA, TASK, Layout

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.descriptions import true
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.types import Claim, Episode, Exclusion, Query, Segment

TEXTS = ["open the jar", "take, then turn the lid", "place the lid"]
LENGTHS = (30, 41, 24)
SPANS = [(0, 10), (10, 20), (20, 30)]  # of the first episode


def open_set(root, read, **settings):
    config = {"root": str(root), "camera": CAMERA, "stages": {"read": read}, **settings}
    return LeRobotSource(from_mapping(LeRobotConfig, config, "test"))


def split(source):
    found = list(source.episodes())
    return [e for e in found if isinstance(e, Episode)], [e for e in found if isinstance(e, Exclusion)]


def stages(source, episode):
    """The stage of every frame of an episode."""
    return [state["stage"] for state in source.states(episode)]


def painted(spans, length, texts=TEXTS):
    of = [None] * length
    for text, (start, end) in zip(texts, spans, strict=False):
        of[start:end] = [text] * (end - start)
    return of


def subtask(content, timestamp, style="subtask"):
    return {
        "role": "assistant",
        "content": content,
        "style": style,
        "timestamp": timestamp,
        "camera": None,
        "tool_calls": None,
    }


def annotate(root, entries, broken=()):
    """Give every row of episode e the list `entries[e]` as language_persistent."""
    for path in sorted(root.glob("data/**/*.parquet")):
        episodes = pq.read_table(path, columns=["episode_index"], partitioning=None)["episode_index"].to_pylist()
        values = [entries.get(episode, []) for episode in episodes]
        if broken and broken[0] in episodes:
            values[episodes.index(broken[0])] = broken[1]
        made.edit_parquet(path, {"language_persistent": values})
    return root


LANGUAGE = [
    subtask("take the lid off", 0.0, "plan"),
    *(subtask(text, start / 10) for text, (start, _) in zip(TEXTS, SPANS, strict=True)),
    subtask("the jar is open", 1.0, "memory"),
]


@pytest.mark.parametrize("write", [made.write_v21, made.write_v30])
def test_the_language_columns_give_each_stage_until_the_next_one_starts(tmp_path, write):
    source = open_set(annotate(write(tmp_path / "set", Layout(LENGTHS)), {0: LANGUAGE}), "language")
    episodes, excluded = split(source)
    assert excluded == []
    assert episodes[0].segments == (Segment(TASK, 0, 30),)
    assert stages(source, episodes[0]) == painted(SPANS, 30)
    assert stages(source, episodes[1]) == [None] * 41
    state = source.states(episodes[0])[12]
    assert source.claims(state) == (Claim("stage", TEXTS[1]),)
    assert source.holds(Claim("stage", TEXTS[1]), state)
    assert not source.holds(Claim("stage", TEXTS[0]), state)


def test_a_stage_that_starts_late_leaves_the_frames_before_it_without_one(tmp_path):
    listed = [subtask("open the jar", 0.4), subtask("take the lid", 1.0000001)]
    source = open_set(annotate(made.write_v21(tmp_path / "set", Layout((30,))), {0: listed}), "language")
    (episode,), _ = split(source)
    assert stages(source, episode) == [None] * 4 + ["open the jar"] * 6 + ["take the lid"] * 20


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (
            [subtask("a", 0.0), subtask("b", 0.0), subtask("c", 1.0)],
            r"'a' and 'b' overlap in frames \[0, 10",
        ),
        ([subtask("c", 1.0), subtask("late", 9.0)], r"a stage is frames \[90, 91\) of an episode of 30"),
        ([subtask("c", 1.0), subtask("early", -3.0)], r"a stage is frames \[-30, 10\) of an episode of 30"),
        ([subtask("c", 1.0), subtask(None, 2.0)], "a stage has no text"),
        ([subtask("c", 1.0), subtask("x", float("nan"))], "has no timestamp"),
    ],
)
def test_a_bad_entry_of_the_language_columns_is_counted_and_the_rest_is_used(tmp_path, listed, reason):
    source = open_set(annotate(made.write_v21(tmp_path / "set", Layout((30,))), {0: listed}), "language")
    (episode,), (excluded,) = split(source)
    assert excluded.what == "stage"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(excluded.reason)
    assert "c" in stages(source, episode)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["text"] * 30, "its language_persistent is 'text', not a list"),
        ([[3]] * 30, "an entry of its language_persistent is 3, not a mapping"),
        ([[b"\xff"]] * 30, "is .* not a mapping"),
        (pa.array([["\ud800".encode("utf-8", "surrogatepass")]] * 30).cast(pa.list_(pa.binary())), "not a mapping"),
        ([[subtask("a", 0.0)]] + [[subtask("b", 0.0)]] * 29, "is not the same in its first and last row"),
    ],
)
def test_a_language_column_of_another_kind_is_counted_and_its_episode_goes_on(tmp_path, values, reason):
    root = annotate(made.write_v21(tmp_path / "set", Layout(LENGTHS)), {0: LANGUAGE, 1: LANGUAGE, 2: LANGUAGE})
    made.edit_parquet(root / "data/chunk-000/episode_000000.parquet", {"language_persistent": values})
    source = open_set(root, "language")
    episodes, (excluded,) = split(source)
    assert [episode.episode_id for episode in episodes] == ["000000", "000001", "000002"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(excluded.reason)
    assert stages(source, episodes[0]) == [None] * 30
    assert stages(source, episodes[2])[-1] == TEXTS[2]


def test_subtask_indices_are_stages_instead_of_segments(tmp_path):
    root = made.write_v30(tmp_path / "set", Layout(LENGTHS, subtasks=TEXTS))
    source = open_set(root, "subtask_index")
    (first, *_), excluded = split(source)
    assert excluded == []
    assert first.segments == (Segment(TASK, 0, 30),)
    assert stages(source, first) == painted([(0, 8), (8, 16), (16, 26)], 30)
    plain = LeRobotSource(from_mapping(LeRobotConfig, {"root": str(root), "camera": CAMERA}, "test"))
    assert [segment.task for segment in split(plain)[0][0].segments] == TEXTS
    assert "stage" not in plain.states(split(plain)[0][0])[0]


def test_a_subtask_index_without_a_text_is_counted(tmp_path):
    root = made.write_v30(tmp_path / "set", Layout((30,), subtasks=TEXTS))
    made.edit_parquet(root / "meta/subtasks.parquet", {"subtask_index": [0, 1, 5], "subtask": TEXTS})
    source = open_set(root, "subtask_index")
    (episode,), (excluded,) = split(source)
    assert excluded.reason == "subtask_index 2 is not in meta/subtasks"
    assert stages(source, episode) == painted([(0, 8), (8, 16)], 30)


def sarm(kind="sparse", names=TEXTS, starts=(0, 10, 20), ends=(10, 20, 30)):
    columns = zip(("names", "start_frames", "end_frames"), (names, starts, ends), strict=True)
    return {f"{kind}_subtask_{name}": values if isinstance(values, str) else list(values) for name, values in columns}


@pytest.mark.parametrize(
    ("ends", "spans"),
    [
        ((10, 20, 30), [(0, 11), (11, 21), (21, 30)]),  # the next one's start, and the length
        ((9, 19, 29), [(0, 10), (10, 20), (20, 30)]),  # the last frame
        ((9, 19, 25), [(0, 10), (10, 20), (20, 26)]),
    ],
)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_frame_is_in_the_first_stage_of_sarm_that_includes_it(tmp_path, ends, spans, kind):
    root = made.write_v21(tmp_path / "set", Layout((30,)), {0: sarm(kind, ends=ends)})
    source = open_set(root, kind, stages={"read": kind, "say": ["stage", "stage_of"]})
    (episode,), excluded = split(source)
    assert excluded == []
    assert stages(source, episode) == painted(spans, 30)
    assert source.claims(source.states(episode)[12])[1] == Claim("stage_of", "2/3")


def test_sarm_columns_of_v30_are_read_per_episode(tmp_path):
    root = made.write_v30(tmp_path / "set", Layout(LENGTHS))
    columns = [sarm(), sarm(names=["x"], starts=[5], ends=[7]), None]
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    made.edit_parquet(path, {name: [row and row[name] for row in columns] for name in sarm()})
    source = open_set(root, "sparse")
    episodes, excluded = split(source)
    assert excluded == []
    assert stages(source, episodes[1]) == painted([(5, 8)], 41, ["x"])
    assert stages(source, episodes[2]) == [None] * 24


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (sarm(starts=(0, 10)), "have 3, 2, 3"),
        (sarm(names="open"), "its sparse_subtask_names is 'open', not a list"),
        ({"sparse_subtask_names": TEXTS}, "its sparse_subtask_start_frames is None, not a list"),
        (sarm(starts=(0, "soon", 20)), "its start frame 'soon' is not a number"),
        (sarm(ends=(10, 20, 31)), r"frames \[21, 32\) of an episode of 30"),
        (sarm(starts=(0, 10, 25), ends=(10, 20, 20)), "has no frame"),
        (sarm(starts=(0, 5, 20)), "'open the jar' and 'take, then turn the lid' overlap"),
        (sarm(names=["", *TEXTS[1:]]), "a stage has no text"),
    ],
)
def test_bad_columns_of_sarm_are_counted_and_the_episode_goes_on(tmp_path, columns, reason):
    root = made.write_v21(tmp_path / "set", Layout(LENGTHS), {0: columns, 1: sarm()})
    episodes, excluded = split(open_set(root, "sparse"))
    assert len(episodes) == 3
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(excluded[0].reason)


def test_actions_are_stages_instead_of_segments(tmp_path):
    actions = [{"action_text": t, "start_frame": s, "end_frame": e} for t, (s, e) in zip(TEXTS, SPANS, strict=True)]
    root = made.write_v21(tmp_path / "set", Layout((30,)), {0: {"action_config": actions}})
    source = open_set(root, "action_config")
    (episode,), _ = split(source)
    assert episode.segments == (Segment(TASK, 0, 30),)
    assert stages(source, episode) == painted(SPANS, 30)


@pytest.mark.parametrize("read", ["language", "subtask_index", "sparse", "dense", "action_config"])
def test_a_dataset_without_such_stages_says_so(tmp_path, read):
    with pytest.raises(DataError, match=rf"not one episode has a usable stage where `read: {read}` looks"):
        split(open_set(made.write_v21(tmp_path / "set", Layout((30,))), read))


def test_another_place_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"stages\.read"):
        open_set(made.write_v21(tmp_path / "set", Layout((30,))), "subtasks")


def config(root, **changes):
    values = {
        "name": "jar",
        "source": {
            "kind": "lerobot",
            "root": str(root),
            "camera": CAMERA,
            "stages": {"read": "language"},
            "proprioception": {
                "arms": {},
                "hands": {"right": {"dims": ["kRightGripper"], "open": 100.0, "closed": 0.0}},
            },
        },
        "splits": {"train": {"fraction": 1.0}},
        "pairs": {"per_episode": 40, "min_frames": 2},
        "datasets": {"cot": {"split": "train", "kind": "cot", "languages": ["en", "zh"]}},
    }
    values["source"] |= changes
    return from_mapping(DataConfig, values, "test")


def test_stages_and_readings_are_said_together_and_checked(tmp_path):
    root = annotate(made.write_v30(tmp_path / "set", Layout(LENGTHS)), {0: LANGUAGE, 1: LANGUAGE[:3]})
    registry = tmp_path / "registry"
    manifest = json.loads(build(config(root), registry).read_text())
    assert check("jar", registry).ok
    rows = json.loads((registry / "jar/jar_cot.json").read_text())
    texts = [row["messages"][1]["content"] for row in rows]
    assert any("doing “take, then turn the lid”, right hand closed" in text for text in texts)
    assert any("正在做“open the jar”，右手张开" in text for text in texts)
    assert any(text.startswith("spatial details: img1: right hand open. img2:") for text in texts)
    assert manifest["claims_checked"] > 2 * len(rows)
    assert manifest["counts"]["datasets"]["jar_cot"]["pairs"] == 120


def test_a_pair_without_a_stage_is_left_out_of_cot_alone_and_equal_texts_are_counted(tmp_path):
    root = annotate(made.write_v30(tmp_path / "set", Layout(LENGTHS)), {0: LANGUAGE, 1: [subtask(TEXTS[0], 2.0)]})
    registry = tmp_path / "registry"
    manifest = json.loads(build(config(root, proprioception=None), registry).read_text())
    assert check("jar", registry).ok
    pairs = pq.read_table(registry / "jar/pairs/00000.parquet").to_pylist()
    kept = [
        pair
        for pair in pairs
        if pair["episode_id"] == "000000" or (pair["episode_id"] == "000001" and pair["earlier"] >= 20)
    ]
    counts = manifest["counts"]["datasets"]["jar_cot"]
    assert counts["pairs"] == len(kept) < len(pairs) == 120
    assert counts["same_text"] == sum(">" not in pair["phase"] for pair in kept) > 0
    assert manifest["counts"]["excluded"] == {"no annotated stage covers the frame": 2}
    assert {item["where"].partition(",")[0] for item in manifest["excluded"]} == {"episode 000001", "episode 000002"}
    shown = {row["pair_id"] for row in json.loads((registry / "jar/jar_cot.json").read_text())}
    assert shown == {pair["pair_id"] for pair in kept}
    queries = [Query(pair, "backward") for pair in read_pairs(registry, "jar", "train")]
    assert {pair_id for pair_id, _ in true(registry, "jar", queries, "en").halves} == shown


def test_a_text_with_a_marker_is_counted_and_a_build_that_takes_no_bad_data_stops(tmp_path):
    listed = [*LANGUAGE[:3], subtask("look at <image>", 2.0)]
    root = annotate(made.write_v21(tmp_path / "set", Layout((30, 30))), {0: listed, 1: LANGUAGE})
    manifest = json.loads(build(config(root, proprioception=None), tmp_path / "registry").read_text())
    assert manifest["counts"]["excluded"] == {"the text 'look at <image>' holds a media or chat marker": 1}
    strict = from_mapping(
        DataConfig,
        {
            "name": "strict",
            "source": {"kind": "lerobot", "root": str(root), "stages": {"read": "language"}},
            "splits": {"train": {"fraction": 1.0}},
            "pairs": {"per_episode": 20},
            "datasets": {"cot": {"split": "train", "kind": "cot"}},
            "on_bad_data": "error",
        },
        "test",
    )
    with pytest.raises(DataError, match="holds a media or chat marker"):
        build(strict, tmp_path / "registry")


def test_states_need_no_readings(tmp_path):
    root = annotate(made.write_v21(tmp_path / "set", Layout((30,))), {0: LANGUAGE})
    source = open_set(root, "language", state="observation.none")
    (episode,), _ = split(source)
    assert "motion" not in source.states(episode)[0]
    assert np.array_equal(stages(source, episode), painted(SPANS, 30))
