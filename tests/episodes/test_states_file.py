"""True progress that others recorded: in tables with a row per frame, or in JSON files with a list per state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lerobot_dataset as made
import pytest
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.episodes.states_file import ProgressColumn, read_states
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.types import Episode, Exclusion

FRAMES = 5
REWARDS = [1, 40, 25, 100, 0]
SHARES = [0.01, 0.4, 0.25, 1.0, 0.0]
KEY = "ground-truth rewards"
PERCENT = ProgressColumn(KEY, 100)


def stored(folder: Path, values: Any, name: str = "states.json") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def progress_of(path: Path, column: ProgressColumn | None = PERCENT) -> list[float | None]:
    return [state["progress"] for state in read_states(path, FRAMES, column)]


def test_list_under_a_key_is_the_progress_and_other_keys_are_not_read(tmp_path: Path) -> None:
    file = stored(tmp_path, {"task description": "Pick up the cube.", "cameras": ["front", "hand"], KEY: REWARDS})
    assert read_states(file, FRAMES, PERCENT) == [{"progress": share} for share in SHARES]


def test_list_alone_is_the_progress(tmp_path: Path) -> None:
    assert progress_of(stored(tmp_path, REWARDS)) == SHARES
    assert progress_of(stored(tmp_path, REWARDS), None) == REWARDS


def test_column_of_a_table_may_have_another_name_and_scale(tmp_path: Path) -> None:
    lines = [f"{KEY},phase,height", *(f"{value},reach,{value}.5" for value in REWARDS)]
    states = read_states(stored(tmp_path, "\n".join(lines), "states.csv"), FRAMES, PERCENT)
    assert states[1] == {"progress": 0.4, "phase": "reach", "height": 40.5}
    assert [state["progress"] for state in states] == SHARES


def test_phase_and_motion_beside_the_progress_are_read_too(tmp_path: Path) -> None:
    lists = {"progress": [0, 1, 2, None, -3.5], "phase": ["reach"] * 4 + [""], "motion": [0, 0.5, 1, 1, 0]}
    states = read_states(stored(tmp_path, lists), FRAMES)
    assert [state["progress"] for state in states] == [0, 1, 2, None, -3.5]
    assert (states[1]["phase"], states[4]["phase"], states[1]["motion"]) == ("reach", "", 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({KEY: REWARDS[:-1]}, "4 values of states for 5 frames; give one per frame"),
        ({KEY: []}, "0 values of states for 5 frames"),
        ({"ground truth reward": REWARDS}, f"no key '{KEY}', did you mean 'ground truth reward'.*progress.column"),
        ({"data": {KEY: REWARDS}}, f"no key '{KEY}', it holds no list"),
        ({}, "it holds no list"),
        ({KEY: {"0": 1}}, r"holds \(a dict\), not a list of one value per frame"),
        ("12", "holds 12, not lists"),
        ({KEY: [1, 2, 3, 4, [5]]}, r"value 5: its ground-truth rewards \(a list\) is not a number"),
        ({KEY: [1, 2, "far", 4, 5]}, "value 3: its ground-truth rewards 'far' is not a number"),
        ({KEY: [1, True, 3, 4, 5]}, "value 2: its ground-truth rewards True is not a number"),
        (f'{{"{KEY}": [1, NaN, 3, 4, 5]}}', "value 2: its ground-truth rewards nan is not a finite number; write null"),
        (f'{{"{KEY}": [1, 2, 3, 4, -Infinity]}}', "value 5: its ground-truth rewards -inf is not a finite number"),
        (f'{{"{KEY}": [1, 2, 3, 1{"0" * 400}, 5]}}', "value 4: .*very large number.* is not a number"),
        (f'{{"{KEY}": [1, 2, 3, 1e308, 5]}}', "value 4: .* is not between 0 and the scale 100; set `source.progress"),
        ({KEY: [1, 2, -3, 4, 5]}, "value 3: .* -3 is not between 0 and the scale 100"),
        ({KEY: REWARDS, "phase": ["reach"]}, f"5 values of '{KEY}' and 1 of 'phase'"),
        ("[" * 100_000, "not readable as JSON"),
        ("", "not readable as JSON"),
    ],
)
def test_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"states\.json.*{message}") as error:
        read_states(stored(tmp_path, values), FRAMES, PERCENT)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_key_among_very_many_is_one_short_error(tmp_path: Path) -> None:
    keys = {f"{number}{'x' * 500}": [] for number in range(3000)}
    with pytest.raises(DataError, match="no key 'ground-truth rewards'") as error:
        read_states(stored(tmp_path, keys), FRAMES, PERCENT)
    assert len(str(error.value)) < 5000


def test_table_without_the_column_names_the_nearest(tmp_path: Path) -> None:
    file = stored(tmp_path, "ground_truth_rewards\n" + "\n".join(map(str, REWARDS)), "states.csv")
    with pytest.raises(DataError, match=r"states\.csv: no column 'ground-truth rewards', did you mean 'ground_truth"):
        read_states(file, FRAMES, PERCENT)


@pytest.mark.parametrize(
    "values", [{"column": " "}, {"scale": 0}, {"scale": -1}, {"scale": float("inf")}, {"key": "x"}]
)
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(ProgressColumn, values, "progress")


# ---- in the source ----


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("cup", "mug")):
        (tmp_path / name).mkdir()
        for frame in range(FRAMES):
            Image.fromarray(made.picture(number, frame)).save(tmp_path / name / f"{frame}.png")
    stored(tmp_path, {KEY: REWARDS}, "cup.json")
    return tmp_path


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"episode": name, "task": "lift the cup", "path": name, "fps": 2} | more


def listed(root: Path, *rows: dict[str, Any], **settings: Any) -> tuple[FramesSource, list[Episode], list[Exclusion]]:
    values = {"root": str(root), "table": list(rows), "progress": {"column": KEY, "scale": 100}}
    source = FramesSource(from_mapping(FramesConfig, values | settings, "test"))
    found = list(source.episodes())
    return source, [one for one in found if isinstance(one, Episode)], [e for e in found if isinstance(e, Exclusion)]


def test_rows_in_the_configuration_need_no_table_on_disk(root: Path) -> None:
    source, episodes, excluded = listed(root, row("cup", states="cup.json", group="fold_1", end=4, fps="2"))
    assert excluded == []
    assert [(one.episode_id, one.fps, one.group, one.segments[0].end) for one in episodes] == [("cup", 2, "fold_1", 4)]
    assert [state["progress"] for state in source.states(episodes[0]) or ()] == SHARES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([row("cup", state="cup.json")], r"source\.table: unknown column 'state', did you mean 'states'"),
        ([{"episode": "cup", "path": "cup"}], r"source\.table: no column 'task'"),
        ([], "`table` has no row"),
        ([["cup"]], "table"),
        (7, "table"),
    ],
)
def test_rows_in_the_configuration_are_checked_like_a_table(root: Path, values: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        FramesSource(from_mapping(FramesConfig, {"root": str(root), "table": values}, "test"))


def test_row_of_the_configuration_that_cannot_be_used_is_numbered(root: Path) -> None:
    _, episodes, excluded = listed(root, row("cup", states="cup.json"), row("mug", episode=["mug"], states="cup.json"))
    assert [one.episode_id for one in episodes] == ["cup"]
    assert [(one.where, one.reason) for one in excluded] == [
        ("source.table, row 2", "its episode \"['mug']\" is not text")
    ]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "its row names no file of states"),
        ({"states": "none.json"}, "no such file of states"),
        ({"states": "../secret.json"}, "leaves its folder"),
        ({"states": "/etc/hostname"}, "leaves its folder"),
        ({"states": "cup"}, "no such file of states"),
    ],
)
def test_episode_without_its_progress_is_skipped_with_the_reason(root: Path, more: dict[str, str], reason: str) -> None:
    stored(root.parent, REWARDS, "secret.json")
    _, episodes, excluded = listed(root, row("cup", states="cup.json"), row("mug", **more))
    assert [one.episode_id for one in episodes] == ["cup"]
    assert [one.what for one in excluded] == ["episode mug"]
    assert reason in excluded[0].reason


def test_link_to_a_file_outside_is_not_read(root: Path) -> None:
    stored(root.parent, REWARDS, "secret.json")
    (root / "mug.json").symlink_to(root.parent / "secret.json")
    _, episodes, excluded = listed(root, row("mug", states="mug.json"))
    assert episodes == []
    assert "leaves its folder" in excluded[0].reason
