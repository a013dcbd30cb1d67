"""What the embedded base is taught before it gets its prior: to say what one picture shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.embedded.pretraining import Pretraining, teach_to_describe
from stcr_plugin.embedded.pretraining import _described_pictures as described_pictures
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
