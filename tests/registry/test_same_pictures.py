"""Two pictures that are the same say nothing of which is closer: such pairs are neither taught nor evaluated."""

import json

import numpy as np
import pytest
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import DataError
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.report.check_words import build_text

SAME = "both pictures of the pair are the same"
FRAMES = 8


def moving(frame):
    """A bright square that wanders over a pattern."""
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[::8] = 90
    picture[16:32, 6 * frame : 6 * frame + 12] = 220
    return picture


def frozen(frame):
    return moving(min(frame, 4))


def noisy(frame):
    noise = np.random.default_rng(frame).normal(0, 2, (48, 64, 3))
    return np.clip(moving(3) + noise, 0, 255).round().astype(np.uint8)


def black(frame):
    return np.zeros((48, 64, 3), np.uint8)


def below(frame):
    """What moves is outside of the upper half."""
    picture = black(frame)
    picture[40:, 6 * frame :] = 255
    return picture


def built(folder, episodes, states="", **changes):
    """A build of recordings: name -> what frame i shows."""
    rows = []
    for name, show in episodes.items():
        (folder / name).mkdir(parents=True)
        for frame in range(FRAMES):
            Image.fromarray(show(frame)).save(folder / name / f"{frame}.png")
        rows.append(
            {"episode": name, "task": "stack cups", "path": name, "fps": 1, **({"states": states} if states else {})}
        )
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "mine",
        "source": {"kind": "frames", "root": str(folder), "table": "table.jsonl"},
        "splits": {"train": {"episodes": len(rows)}},
        "pairs": {"per_episode": 100},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    build(from_mapping(DataConfig, values | changes, "test"), folder / "registry")
    assert check("mine", folder / "registry").problems == ()
    return read_manifest(folder / "registry", "mine"), read_pairs(folder / "registry", "mine", "train")


@pytest.mark.parametrize(
    "frames", [{"format": "png"}, {"format": "jpeg"}, {"store": "tar"}, {"width": 28, "height": 28}]
)
def test_pairs_of_a_camera_that_froze_are_skipped_and_counted(tmp_path, frames):
    manifest, pairs = built(tmp_path, {"a": frozen, "b": moving}, frames=frames)
    assert manifest.counts.excluded == {SAME: 6}  # of the frames 4, 5, 6 and 7
    assert manifest.excluded[0].where == "episode a, frames 4-5"
    assert sorted((pair.earlier, pair.later) for pair in pairs if pair.episode_id == "a") == [
        (earlier, later) for earlier in range(4) for later in range(earlier + 1, FRAMES)
    ]
    assert sum(pair.episode_id == "b" for pair in pairs) == 28
    assert manifest.counts.datasets["mine_weak"].samples == 2 * (28 - 6 + 28)
    assert manifest.counts.splits["train"].almost_same is None


@pytest.mark.parametrize("show", [black, below])
def test_episode_of_one_picture_is_excluded_by_name(tmp_path, show):
    """`below` shows one picture after the crop alone."""
    manifest, pairs = built(tmp_path, {"a": show, "b": moving}, frames={"crop": [0, 0, 1, 0.5]})
    assert [(one.what, one.where, one.reason) for one in manifest.excluded] == [
        ("episode", "a", "nothing moves: all pictures that its pairs show are the same")
    ]
    assert manifest.splits["train"] == ["b"]
    assert {pair.episode_id for pair in pairs} == {"b"}
    assert not list((tmp_path / "registry").rglob("a/*.png"))


def test_pairs_that_differ_by_noise_alone_are_counted_and_warned_of(tmp_path):
    manifest, pairs = built(tmp_path, {"a": noisy, "b": moving})
    assert (manifest.counts.splits["train"].almost_same, len(pairs), manifest.counts.excluded) == (28, 56, {})
    warning = "warning: 28 of the 56 pairs of split train show two pictures that are almost the same; leave out"
    assert warning in build_text(manifest)


def test_tie_of_two_pictures_that_are_the_same_stays(tmp_path):
    (tmp_path / "states.csv").write_text("progress\n" + "".join(f"{min(frame, 4)}\n" for frame in range(FRAMES)))
    rules = {"per_episode": 100, "label": "progress", "ties": "teach"}
    manifest, _ = built(tmp_path, {"a": frozen}, states="states.csv", pairs=rules)
    assert (manifest.counts.splits["train"].closer, manifest.counts.excluded) == ({"later": 22, "neither": 6}, {})
    assert manifest.counts.splits["train"].almost_same is None


def test_a_picture_delivered_twice_stops_no_build_and_a_still_episode_does_where_asked_to(tmp_path):
    manifest, _ = built(tmp_path / "twice", {"a": frozen}, on_bad_data="error")
    assert manifest.counts.excluded == {SAME: 6}
    with pytest.raises(DataError, match="episode a: nothing moves"):
        built(tmp_path / "still", {"a": black, "b": moving}, on_bad_data="error")
