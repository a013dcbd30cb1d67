"""examples/behaviour_cloning runs whole in a small form, goes on after a kill, and weights as LeRobot does."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rabc_weights import rabc_weights
from script_modules import loaded
from simulator_probe import obstacle
from tiny_stage import REPOSITORY

FOLDER = REPOSITORY / "examples/behaviour_cloning"


@pytest.fixture(scope="module")
def drawable() -> None:
    if obstacle():
        pytest.skip(f"Meta-World cannot be drawn here: {obstacle()}")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return loaded(FOLDER / "behaviour_cloning.py")


def test_weights_are_those_of_lerobots_reader(example: ModuleType, tmp_path: Path) -> None:
    curve = np.array([0.0, 0.1, 0.4, 0.4, 0.3, np.nan, 0.9])
    columns = {"index": range(7), "episode_index": [0] * 7, "progress_sparse": curve}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "progress.parquet")
    ramp = rabc_weights(tmp_path / "progress.parquet", chunk=1, kappa=0.2)
    weights = example.rabc_weights([curve], chunk=1, kappa=0.2)
    assert weights == pytest.approx([ramp[0], 1, ramp[2], 0, 1, 1])
    assert 0 < ramp[2] < ramp[0] < 1


def test_a_chunk_ends_at_the_last_frame_of_its_episode(example: ModuleType) -> None:
    rising, falling = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])
    assert example.rabc_weights([rising, falling], chunk=5, kappa=0.1).tolist() == [1, 1, 0, 0]


@pytest.mark.usefixtures("drawable")
@pytest.mark.slow(seconds=20)
def test_small_form_runs_whole_and_goes_on_after_a_kill(
    example: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stcr_plugin.cli import main

    asked: list[str] = []

    def command(*words: object) -> None:
        asked.append(" ".join(map(str, words[:2])))
        assert main([str(word) for word in words[1:]]) in (0, None)

    monkeypatch.setattr(example, "command", command)
    monkeypatch.setattr(example, "RULES", ("tau<-1.0",))  # a judge of random weights would have all dropped
    example.main([str(tmp_path), "--judge", str(model), "--small"])
    assert asked == ["stcr label", "stcr audit"]
    made = (tmp_path / "results.jsonl").read_bytes()
    head, *lines = map(json.loads, made.splitlines())
    assert head["settings"]["layouts"] == 2
    episodes = [line for line in lines if "episode" in line]
    assert [line["success"] for line in episodes[:4]] == [True, True, True, False]
    assert len(episodes) == 5
    policies = [line for line in lines if "arm" in line]
    assert [line["arm"] for line in policies] == [arm for arm in example.ARMS for _ in range(2)]
    assert {len(line["steps"]) for line in policies} == {2}

    (tmp_path / "results.jsonl").unlink()  # as if killed in the third arm
    for arm in example.ARMS[2:]:
        (tmp_path / f"rollouts/{arm}/{example.LAYOUTS}.json").unlink()
        (tmp_path / f"policies/{arm}-1.npz").unlink()
    monkeypatch.setattr(example, "demonstrations", None)  # nothing is simulated again
    example.main([str(tmp_path), "--judge", str(model), "--small"])
    assert len(asked) == 2
    assert (tmp_path / "results.jsonl").read_bytes() == made


@pytest.mark.usefixtures("drawable")
@pytest.mark.slow
def test_every_policy_starts_from_the_same_state(example: ModuleType) -> None:
    """Otherwise one that acts after another would find the drawer as that one left it."""

    def pulls(state: object) -> np.ndarray:
        return np.array([0.0, -1.0, -0.5, 0.0])

    seen: list[np.ndarray] = []

    def looks(state: np.ndarray) -> np.ndarray:
        seen.append(state.copy())
        return np.array([0.5, 0.5, 0.5, 0.0])

    example.succeeds([looks, pulls, looks], example.LAYOUTS, 12)
    assert len(seen) == 24
    assert np.array_equal(seen[:12], seen[12:])


def test_an_arm_without_rows_ends_in_one_line(example: ModuleType, tmp_path: Path) -> None:
    nothing = (np.zeros(3, bool), np.ones(3))
    with pytest.raises(SystemExit, match="filtered-0: no row is left to train on"):
        example.policy(None, nothing, tmp_path / "policies/filtered-0.npz", 0, 5)


def test_a_folder_of_other_settings_is_left_alone(example: ModuleType, tmp_path: Path) -> None:
    """A full run in the folder of a small one would take its labels and policies as its own."""
    example.same_settings(tmp_path, None, example.SMALL)
    example.same_settings(tmp_path, None, example.SMALL)
    with pytest.raises(SystemExit, match="was begun with other settings"):
        example.same_settings(tmp_path, None, example.Sizes())
