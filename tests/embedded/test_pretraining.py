"""What the embedded base is taught before it gets its prior: to say what one picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.embedded.pretraining import Pretraining, teach_to_describe
from stcr_plugin.embedded.pretraining import _described_pictures as described_pictures
from stcr_plugin.episodes.tabletop import SEEN_COLOURS
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


def test_captions_state_what_the_simulator_knows_and_judge_nothing() -> None:
    pictures, tasks, captions, places = described_pictures(FEW, seed=3)
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
    pictures, tasks, captions, places = described_pictures(shared, seed=3)
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
