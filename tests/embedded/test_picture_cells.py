"""What the cells of a simulated picture show, as the vision tower of the embedded base is taught."""

from __future__ import annotations

import numpy as np
import pytest

from stcr_plugin.embedded import picture_cells
from stcr_plugin.episodes.tabletop import SEEN_COLOURS, Spot, TabletopConfig, TabletopSource

RED, BLUE = (list(SEEN_COLOURS).index(name) for name in ("red", "blue"))
SPOTS = (
    Spot("object", "red", (0.5, 0.9), (1.0, 0.0)),
    Spot("pad", "blue", (0.55, 0.95)),
    Spot("hand", "", (0.1, -0.2), (0.25, 0.0)),
)


def test_each_thing_is_in_its_cell_and_nowhere_else() -> None:
    found = picture_cells.targets(SPOTS, 3)
    assert found.shape == (9, picture_cells.COUNT)
    assert found[:, RED].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert found[:, 14 + BLUE].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert found[:, 28].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0], "beyond the edge is in the cell at the edge"
    assert found[7, 29:33] == pytest.approx([0.0, 0.4, 1.0, -1.0])
    assert found[7, 33:35] == pytest.approx([0.3, 0.7])
    assert found[0, 37:39] == pytest.approx([-0.5, -1.0])
    assert np.isnan(found[:, BLUE]).all(), "another thing may be blue"
    assert np.isnan(found[1, 29:]).all()


def test_loss_reads_only_what_is_known() -> None:
    import torch

    wanted = torch.from_numpy(picture_cells.targets(SPOTS, 3))[None]
    right = wanted.nan_to_num(7.0).requires_grad_()
    assert picture_cells.loss(right, wanted).item() == 0
    wrong = right.detach().clone()
    wrong[0, 7, RED] = 0
    assert picture_cells.loss(wrong, wanted).item() == pytest.approx(3 / 27)
    picture_cells.loss(right, wanted).backward()
    assert torch.isfinite(right.grad).all()


def test_spots_are_where_the_states_have_them_and_tell_what_is_held_and_what_stands() -> None:
    source = TabletopSource(TabletopConfig(seen=2, heldout=0, tasks=4, naming=4, size=56), seed=1)
    stands, held = set(), set()
    for episode in source.episodes():
        states = source.states(episode)
        frames = range(0, episode.n_frames, 5)
        for frame, spots in zip(frames, source.spots(episode, frames), strict=True):
            roles = [spot.role for spot in spots]
            two = 2 if episode.group == "naming" else 1
            assert roles == ["object"] * two + ["pad"] * two + ["hand"]
            state, hand = states[frame], spots[-1]
            assert hand.at == pytest.approx(state["hand_at"])
            assert hand.shares[0] == pytest.approx(state["gripper"])
            assert any(spot.at == pytest.approx(state["object_at"]) for spot in spots[:two])
            stands |= {spot.shares[0] for spot in spots[:two]}
            held |= {hand.shares[1]}
            assert hand.shares[1] == max(spot.shares[1] for spot in spots[:two])
    assert stands == held == {False, True}
