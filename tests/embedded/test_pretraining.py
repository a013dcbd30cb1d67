"""What the embedded base is taught before it gets its prior: to say what one picture shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.embedded.pretraining import Pretraining, teach_to_describe
from stcr_plugin.embedded.pretraining import _described_pictures as described_pictures
from stcr_plugin.embedded.pretraining import _drawn as drawn_prompts
from stcr_plugin.episodes.tabletop import SEEN_COLOURS
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import Episode

FEW = Pretraining(episodes=4, frames=4, steps=12, batch_size=4)


@pytest.mark.slow
def test_describing_is_learned_and_repeats_to_the_byte(tmp_path: Path) -> None:
    losses, weights = [], []
    for folder in ("first", "second"):
        checkpoint = write_checkpoint(tmp_path / folder)
        losses.append(teach_to_describe(checkpoint, FEW, seed=3))
        weights.append((checkpoint / "model.safetensors").read_bytes())
    assert losses[0] == losses[1] < 6.0  # a uniform guess over the vocabulary of 1100 costs 7.0
    assert weights[0] == weights[1] != (write_checkpoint(tmp_path / "third") / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_base_is_asked_about_one_of_several_pictures(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "base")
    assert teach_to_describe(checkpoint, replace(FEW, pictures=3), seed=3) < 6.0


def test_prompts_show_pictures_of_one_episode_and_ask_about_each_place_alike() -> None:
    import torch

    firsts, n_pictures = [0, 4, 9], 16  # where the episodes' pictures begin
    generator = torch.Generator().manual_seed(3)
    rules = Pretraining(frames=4, pictures=3, batch_size=8)
    asked: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for _ in range(300):
        rows, places = drawn_prompts(rules, firsts, n_pictures, generator)
        count, shown = rows.shape
        assert count == 8 // shown
        asked[shown] += places.tolist()
        for row in rows.tolist():
            assert len({sum(place >= first for first in firsts) for place in row}) == 1, "pictures of two episodes"
            assert len(set(row)) == shown
            assert max(row) < n_pictures
    for shown, places in asked.items():
        shares = [places.count(place) / len(places) for place in range(shown)]
        assert shares == pytest.approx([1 / shown] * shown, abs=0.1)


def test_more_pictures_than_an_episode_gives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pretraining\.pictures: is 5, and an episode gives 4 frames"):
        Pretraining(frames=4, pictures=5)


def test_captions_state_what_the_simulator_knows_and_judge_nothing() -> None:
    pictures, tasks, captions, places, _ = described_pictures(FEW, seed=3)
    assert len(pictures) == len(tasks) == len(captions) == len(places) == 16
    assert places.shape[1] == 8
    assert not any("closer" in caption or "img2" in caption for caption in captions)
    assert any("gripper open" in caption for caption in captions)


def test_scenes_of_pretraining_are_not_those_of_the_stages() -> None:
    from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource

    source = TabletopSource(TabletopConfig(seen=4, heldout=0), seed=3)
    first = next(episode for episode in source.episodes() if isinstance(episode, Episode))
    staged = {bytes(picture) for picture in source.frames(first, range(first.n_frames))}
    taught, *_ = described_pictures(FEW, seed=3)
    assert not staged & {bytes(picture) for picture in taught}


def test_scenes_of_several_tasks_are_described_for_the_task_that_is_named() -> None:
    shared = Pretraining(episodes=2, shared=6, frames=4)
    pictures, tasks, captions, places, _ = described_pictures(shared, seed=3)
    assert len(pictures) == (2 + 2 * 6) * 4
    assert places.shape[1] == 8 + 4 * 14
    for task, caption in list(zip(tasks, captions, strict=True))[8:]:
        words = task.split()
        assert f"{words[2]} {words[3]} to {words[-2]} pad: " in caption
    known = ~np.isnan(places)
    assert known[:, [0, 1, 6, 7]].all()
    assert known[:, 2:6].any(axis=0).all()
    assert not known[-24:, 2:6].any(), "a picture of two objects does not say which is meant"
    assert known[:, 8:].any(axis=1).all()
    for row, task in zip(places, tasks, strict=True):
        colour = list(SEEN_COLOURS).index(task.split()[2])
        assert not np.isnan(row[8 + 4 * colour])
