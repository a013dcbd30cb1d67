"""What the embedded base is taught before it gets its prior: to say what one picture shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stcr_plugin.config import from_mapping
from stcr_plugin.embedded import picture_cells
from stcr_plugin.embedded.architecture import write_checkpoint
from stcr_plugin.embedded.pretraining import Pretraining, _Lessons, described_pictures, teach_to_describe
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


def test_captions_state_what_the_simulator_knows_and_judge_nothing() -> None:
    pictured = described_pictures(FEW, seed=3, side=3)
    assert len(pictured) == 16
    assert {len(one.places) for one in pictured} == {8}
    captions = [", ".join(text) for one in pictured for text in one.texts.values()]
    assert not any("closer" in caption or "img2" in caption for caption in captions)
    assert any("gripper open" in caption for caption in captions)


def test_scenes_of_pretraining_are_not_those_of_the_stages() -> None:
    from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource

    source = TabletopSource(TabletopConfig(seen=4, heldout=0), seed=3)
    first = next(episode for episode in source.episodes() if isinstance(episode, Episode))
    staged = {bytes(picture) for picture in source.frames(first, range(first.n_frames))}
    assert not staged & {bytes(one.picture) for one in described_pictures(FEW, seed=3, side=3)}


def test_scenes_of_several_tasks_are_described_for_each_of_their_tasks() -> None:
    shared = Pretraining(episodes=2, shared=6, frames=4)
    pictured = described_pictures(shared, seed=3, side=3)
    assert len(pictured) == (2 + 2 * 6) * 4
    assert [len(one.texts) > 1 for one in pictured] == [False] * 8 + [True] * 48
    assert sum(len(set(one.texts.values())) > 1 for one in pictured) > 36, "what is to be done depends on the task"
    assert {one.places.shape for one in pictured} == {(9, picture_cells.COUNT)}


def test_vision_tower_is_taught_alone_before(tmp_path: Path) -> None:
    few = replace(FEW, episodes=1, shared=1, paired=0.5, steps=2)
    weights = {}
    for seeing in (0, 6):
        checkpoint = write_checkpoint(tmp_path / str(seeing))
        teach_to_describe(checkpoint, replace(few, seeing=seeing), seed=3)
        weights[seeing] = (checkpoint / "model.safetensors").read_bytes()
    assert weights[0] != weights[6]
    with pytest.raises(ConfigError, match="seeing needs pictures of several tasks"):
        from_mapping(Pretraining, {"seeing": 3}, "base")


def test_two_pictures_of_an_episode_of_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="set frames to at least 2, got 1"):
        from_mapping(Pretraining, {"paired": 0.5, "frames": 1}, "base")


def test_two_pictures_are_described_by_what_is_different_in_their_order(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    rules = Pretraining(episodes=2, shared=6, frames=8, paired=0.5, batch_size=8)
    pictured = described_pictures(rules, seed=3, side=3)
    tokenizer = AutoTokenizer.from_pretrained(write_checkpoint(tmp_path / "base"))
    lessons = _Lessons(pictured, tokenizer, 9, generator=torch.Generator().manual_seed(0))
    steps = [lessons.draw(rules) for _ in range(40)]
    assert {len(rows) for rows in steps} == {4, 8}, "a step shows as many pictures in either form"
    for row in (row for rows in steps if len(rows) == 4 for row in rows):
        one, two = (pictured[number] for number in row.shown)
        prompt, answer = tokenizer.decode(row.ids).removesuffix("<|im_end|>").rsplit("assistant\n", 1)
        task = prompt.rpartition("Describe img1 and img2: ")[2].partition(".<|im_end|>")[0]
        assert one.episode == two.episode
        assert prompt.count("<|image_pad|>") == 18
        said = [", ".join(picture.texts[task][:2]) for picture in (one, two)]
        assert answer == f"img1: {said[0]}. img2: {said[1]}."
        assert said[0] != said[1]
